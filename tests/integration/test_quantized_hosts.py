"""Language models held in four or eight bits: what is quantised, and that LoRA on them trains, answers and is saved."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mllmseg.config import LossConfig, ModelConfig, ProjectorConfig, VisionTowerConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.errors import ConfigError
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import load_checkpoint, save_checkpoint
from mllmseg.models.mllmseg import MLLMSeg, ModelOutput
from mllmseg.structures import ImageFeatures, Turn
from mllmseg.train.batch import Targets
from mllmseg.train.steps import instruct_loss

BRANCHES = [[Turn("the left half", "[SEG] Here.")], [Turn("a dog?", "[REJ] No.")]]


def quantized(config: ModelConfig, how: str, **changes: object) -> ModelConfig:
    language_model = config.language_model.model_copy(update={"quantization": how})
    return config.model_copy(update={"language_model": language_model, **changes})


def losses_of(model: MLLMSeg, features: ImageFeatures, steps: int) -> list[float]:
    grid = features.superpixels.label_map.shape
    masks = torch.zeros(1, *grid, dtype=torch.bool)
    masks[..., : grid[1] // 2] = True
    targets = Targets(masks, torch.tensor([True, False]))
    encoder, losses = ConversationEncoder(model.mllm.tokenizer, "Be brief."), []
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    model.train()
    for _ in range(steps):
        visual = model.project(features)
        text = encoder.encode(BRANCHES, len(visual.tokens))
        terms = instruct_loss(model, [features], [visual], [text], [targets], [torch.zeros(0, dtype=torch.int64)])
        loss = terms.total(LossConfig().model_dump(), terms.counts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def read(model: MLLMSeg, features: ImageFeatures) -> ModelOutput:
    visual = model.project(features)
    return model(
        [features], [visual], [ConversationEncoder(model.mllm.tokenizer, "").encode(BRANCHES, len(visual.tokens))]
    )


@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_lora_on_a_quantised_model_trains_answers_and_is_saved(
    tiny_config: ModelConfig,
    save_language_model: Callable[..., Path],
    make_features: Callable[..., ImageFeatures],
    tmp_path: Path,
    how: str,
) -> None:
    torch.manual_seed(0)
    features = make_features(4)
    # bitsandbytes' kernels for CPUs want whole blocks of 64 weights a row.
    folder = save_language_model(tmp_path / "base", hidden_size=64, intermediate_size=128)
    base = tiny_config.language_model.model_copy(update={"name": str(folder)})
    model = build_model(quantized(tiny_config.model_copy(update={"language_model": base}), how))
    kinds = {name: type(module).__name__ for name, module in model.mllm.causal_lm.named_modules()}
    assert kinds["model.layers.0.mlp.up_proj"] == kinds["model.layers.1.self_attn.q_proj.base_layer"]
    assert kinds["model.layers.0.mlp.up_proj"] == {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[how]
    small = {name for name, item in model.named_parameters() if not item.is_floating_point()}
    assert all(".layers." in name and name.startswith("mllm.") for name in small)
    assert len(small) == 2 * 7, "every linear layer of both decoder layers, and nothing else"
    before = {name: item.clone() for name, item in model.named_parameters() if name in small}
    losses = losses_of(model, features, 8)
    assert losses[-1] < 0.95 * losses[0]
    assert all(item.equal(before[name]) for name, item in model.named_parameters() if name in small)
    save_checkpoint(model, tmp_path / "saved", training={})
    expected, loaded = read(model, features), load_checkpoint(tmp_path / "saved")
    assert read(loaded, features).text_logits.equal(expected.text_logits)
    # Quantising moves the logits of the full model, but not far.
    full = read(load_checkpoint(tmp_path / "saved", quantized=False), features)
    assert 0 < (full.text_logits - expected.text_logits).abs().max() < 0.2 * expected.text_logits.abs().max()
    assert losses_of(model, features, 1)[0] < losses[0], "it trains on after it has answered"
    segmenter = Segmenter.from_pretrained(tmp_path / "saved", device="cpu", dtype="bfloat16")
    assert segmenter.model.mllm.is_quantized
    segmenter.set_features(features)
    found = segmenter.chat([{"role": "user", "content": "Describe it."}], max_new_tokens=3)
    assert found.num_visual_tokens == 4


def test_the_eyes_of_a_vlm_stay_as_they_are(
    tiny_config: ModelConfig, save_vlm: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    folder = str(save_vlm(tmp_path, "idefics3"))
    language_model = tiny_config.language_model.model_copy(update={"name": folder})
    tower = VisionTowerConfig(
        name="host", checkpoint=folder, image_size=56, patch_size=28, hidden_size=32, dtype="float32"
    )
    config = quantized(
        tiny_config.model_copy(update={"language_model": language_model}),
        "nf4",
        vision_tower=tower,
        projector=ProjectorConfig(name="pooled", hidden_size=16),
    )
    model = build_model(config)
    assert all(item.dtype == torch.float32 for item in model.vision.vision_tower.parameters())
    assert sum(not item.is_floating_point() for item in model.mllm.parameters()) == 2 * 7
    assert model.vision.vision_tower.encode(torch.randn(1, 3, 56, 56)).isfinite().all()


def test_missing_bitsandbytes_is_named(tiny_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'nf4', which needs bitsandbytes: pip install bitsandbytes"):
        build_model(quantized(tiny_config, "nf4"))
