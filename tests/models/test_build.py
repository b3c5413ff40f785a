"""The presets: valid as they are, and each built from a twin that is small and random but of the same classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mllmseg.config import ModelConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.errors import ConfigError, WeightsError
from mllmseg.models import build
from mllmseg.models.checkpoint import load_trained_state, trained_state
from mllmseg.models.trainable import parameters_of
from mllmseg.structures import ImageFeatures, Turn

PRESETS = Path(__file__).parents[2] / "configs" / "model"
NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
# The family of each preset's language model, and what is special about its own twin.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("llama", {}),
    "base": ("qwen2", {}),
    "svp-7b": ("llama", {"tie_word_embeddings": False}),
    "vlm": ("qwen2_5_vl", {}),
}


@pytest.fixture(scope="session")
def twin(
    save_language_model: Callable[..., Path], save_vlm: Callable[[Path, str], Path]
) -> Callable[[str, Path], ModelConfig]:
    """`(name, folder)`: a preset with all that makes it large replaced, and nothing else."""

    def make(name: str, folder: Path) -> ModelConfig:
        preset = ModelConfig.from_yaml(PRESETS / f"{name}.yaml")
        family, special = FAMILIES[name]
        if preset.vision_tower.name == "host":
            source, tower = str(save_vlm(folder, family)), {"image_size": 56, "hidden_size": 32}
            tower |= {"checkpoint": source, "patch_size": 28}
        else:
            source = str(save_language_model(folder, family=family, **special))
            small = {"num_hidden_layers": 1, "num_attention_heads": 2}
            tower = {"checkpoint": None, "image_size": 56, "hidden_size": 16, "overrides": small}
        return preset.model_copy(
            update={
                "sam": preset.sam.model_copy(update={"encoder": "tiny_vit", "checkpoint": None}),
                "vision_tower": preset.vision_tower.model_copy(update=tower),
                "language_model": preset.language_model.model_copy(update={"name": source}),
            }
        )

    return make


def test_there_is_a_family_for_every_preset() -> None:
    assert FAMILIES.keys() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_presets_twin_reads_and_is_trained(
    name: str,
    twin: Callable[[str, Path], ModelConfig],
    tmp_path: Path,
    make_features: Callable[..., ImageFeatures],
) -> None:
    torch.manual_seed(0)
    config = ModelConfig.from_dict(twin(name, tmp_path).model_dump())  # checked as a file is
    model = build.build_model(config).train()
    features = make_features(4)
    channels = model.vision.vision_tower.hidden_size
    features = ImageFeatures(
        features.image_embeddings, features.superpixels, torch.randn(channels, 3, 4), (768, 1024), (96, 128)
    )
    encoder = ConversationEncoder(model.mllm.tokenizer, config.language_model.system_prompt)
    tokens = model.project(features)
    text = encoder.encode([[Turn("the cup", "[SEG] Here."), Turn("a dog", "[REJ] No.")]], len(tokens.tokens))
    output = model([features], [tokens], [text])
    masks, _ = model.decode(features, output.images[0].head)
    loss = output.text_logits.float().logsumexp(1).mean() + output.images[0].exist_logits.sum() + masks.square().mean()
    loss.backward()
    asked = {part: parameters_of(model, [part]) for part in ("projector", "lora", "head", "mask_decoder")}
    assert {part for part, found in asked.items() if found} == set(config.trainable)
    for part, found in asked.items():
        assert all(item.dtype == torch.float32 for item in found.values())
        assert not found or any(item.grad is not None and item.grad.any() for item in found.values()), part
    assert sum(map(len, asked.values())) == len(trained_state(model)) - 1, "and the calibration"


def test_a_trained_mask_decoder_leaves_superpixels_alone(
    tiny_config: ModelConfig, make_features: Callable[..., ImageFeatures]
) -> None:
    torch.manual_seed(0)
    config = tiny_config.model_copy(update={"trainable": ("head", "mask_decoder")})
    model = build.build_model(config).eval()
    assert {name.split(".")[0] for name in trained_state(model)} == {"head", "mask_decoder"}
    features = make_features(4)
    with torch.no_grad():
        hidden = torch.randn(1, model.mllm.hidden_size)
        words = model.words(torch.tensor([5, 6]), torch.zeros(2, dtype=torch.int64), torch.tensor([2]))
        regions = model.describe(features, model.project(features), torch.randn(4, model.mllm.hidden_size))
        head = model.head(hidden, words, regions)
        before, own = model.decode(features, head)[0], model.vision.sam.mask_decoder.state_dict()
        own = {name: item.clone() for name, item in own.items()}
        state = {name: item + 0.1 for name, item in trained_state(model).items() if "mask_decoder" in name}
        load_trained_state(model, trained_state(model) | state, source="a test")
        assert not model.decode(features, head)[0].equal(before)
    assert all(item.equal(own[name]) for name, item in model.vision.sam.mask_decoder.state_dict().items())


@pytest.mark.parametrize("name", ["base", "svp-7b", "vlm"])
def test_sams_missing_file_is_named_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is fetched."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"^\./weights/sam_vit_[bh]_\w+\.pth: no such file"):
        build.build_model(ModelConfig.from_yaml(PRESETS / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"vision_tower": {"name": "host", "checkpoint": "a/b"}}, "'a/b', but the 'host' tower is that of"),
        ({"projector": {"name": "pooled"}}, "vision_tower.name must be 'host', not 'dinov2'"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(changes)
    assert problem in str(caught.value)


def test_a_causal_lm_has_no_eyes(tiny_config: ModelConfig, language_model: Path) -> None:
    tower = {"name": "host", "checkpoint": str(language_model), "image_size": 56, "patch_size": 28, "hidden_size": 32}
    config = ModelConfig.from_dict(tiny_config.model_dump() | {"vision_tower": tower})
    with pytest.raises(ConfigError, match="is a language model that does not see"):
        build.build_model(config)
