"""What is counted without weights is what would be built with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mllmseg.config import LanguageModelConfig, LoraConfig, ModelConfig
from mllmseg.models.build import build_model
from mllmseg.models.skeleton import Part, TransformerShape, build_skeleton


def count(module: nn.Module, *, trained: bool | None = None) -> int:
    return sum(item.numel() for item in module.parameters() if trained in (None, item.requires_grad))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("projector", ["semantic", "mlp", "resampler"])
def test_every_part_has_as_many_parameters_as_the_model(
    tmp_path: Path, tiny_config: ModelConfig, save_language_model: Callable[..., Path], tied: bool, projector: str
) -> None:
    folder = save_language_model(tmp_path, tie_word_embeddings=tied)
    lora = LoraConfig(r=4, target_modules=("q_proj", "k_proj", "down_proj"))
    head = tiny_config.head.model_copy(update={"vocabulary": ("dog", "cat")})
    changes: dict[str, Any] = {
        "language_model": LanguageModelConfig(name=str(folder), lora=lora),
        "projector": tiny_config.projector.model_copy(update={"name": projector}),
        "head": head,
    }
    config = tiny_config.model_copy(update=changes)
    skeleton, model = build_skeleton(config), build_model(config)
    parts = {part.name: part.parameters for part in skeleton.parts}
    assert parts["SAM"] == count(model.vision.sam)
    assert parts["vision tower"] == count(model.vision.vision_tower)
    assert parts["projector"] == count(model.projector)
    assert parts["head"] == count(model.head)
    assert sum(part.parameters for part in skeleton.parts if part.trained) == count(model, trained=True)
    # The real one has rows for the new tokens in its frozen table, too.
    extra = 3 * 32 * (1 if tied else 2)
    frozen = count(model.mllm, trained=False)
    assert parts["language model"] == frozen - extra
    assert skeleton.unknown == ()
    assert skeleton.language_model == TransformerShape(
        layers=2, hidden=32, intermediate=64, key_value=16, vocabulary=parts_vocabulary(model) - 3
    )


def parts_vocabulary(model: Any) -> int:
    return len(model.mllm.word_embeddings())


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "qwen3_vl", "smolvlm", "internvl"])
def test_a_vlm_is_its_language_model_and_what_looks_at_pixels(
    tmp_path: Path, tiny_config: ModelConfig, kind: str
) -> None:
    """transformers' default configs, billions of parameters none of which is ever there."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    settings = AutoConfig.for_model(kind)
    settings.save_pretrained(tmp_path)
    changes = {
        "language_model": LanguageModelConfig(name=str(tmp_path)),
        "vision_tower": tiny_config.vision_tower.model_copy(update={"name": "host"}),
    }
    parts = {part.name: part.parameters for part in build_skeleton(tiny_config.model_copy(update=changes)).parts}
    with torch.device("meta"):
        whole = AutoModelForImageTextToText.from_config(settings)
    assert parts["vision tower (the host's own)"] > 1e8
    assert parts["language model"] + parts["vision tower (the host's own)"] == count(whole)


def test_what_bitsandbytes_would_quantise_are_the_layers_linear_weights(tiny_config: ModelConfig) -> None:
    (part,) = [part for part in build_skeleton(tiny_config).parts if part.name == "language model"]
    assert part.linear == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)


def test_what_cannot_be_known_is_said(
    tmp_path: Path, tiny_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MLLMSEG_CACHE", str(tmp_path))
    for name, problem in (
        (str(tmp_path / "nowhere"), "nowhere cannot be read"),
        ("mllmseg:smollm2", "mllmseg weights fetch smollm2"),
    ):
        model = tiny_config.language_model.model_copy(update={"name": name})
        skeleton = build_skeleton(tiny_config.model_copy(update={"language_model": model}))
        assert skeleton.language_model is None
        assert [part.name for part in skeleton.parts] == ["SAM", "vision tower"]
        assert problem in skeleton.unknown[0]
        assert skeleton.unknown[1].startswith("projector, head and LoRA")


def test_parts_that_training_may_not_change_count_as_frozen(tiny_config: ModelConfig) -> None:
    lora = tiny_config.language_model.model_copy(update={"lora": LoraConfig(r=0)})
    parts = build_skeleton(tiny_config.model_copy(update={"language_model": lora})).parts
    assert [part.name for part in parts if part.trained] == ["projector", "head"]
    assert Part("head", parts[-1].parameters, True) == parts[-1]
