"""Small real parts that several tests share: a tokenizer of bytes with a chat template, random Llamas, made features.

Heavy libraries are imported inside, so that the tests of the command line stay quick.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from mllmseg.config import (
    HeadConfig,
    LanguageModelConfig,
    LoraConfig,
    ModelConfig,
    ProjectorConfig,
    SamConfig,
    SuperpixelConfig,
    VisionTowerConfig,
)

if TYPE_CHECKING:
    from mllmseg.structures import ImageFeatures

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FEATURE_SIZE = 16


def _save_tokenizer(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", bos_token="<|im_start|>")
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _save_language_model(folder: Path, *, family: str = "llama", **changes: Any) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": _save_tokenizer(folder),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(settings | changes)))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def miniatures() -> ModuleType:
    """tests/data/miniatures.py: small datasets in their authors' formats."""
    spec = importlib.util.spec_from_file_location("miniatures", Path(__file__).parent / "data" / "miniatures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def write_miniature(miniatures: ModuleType) -> Callable[[str, Path], None]:
    """`(name, root)` writes a miniature of the dataset `name`; `root` is its data root."""
    return miniatures.write_miniature


@pytest.fixture(scope="session")
def save_tokenizer() -> Callable[..., int]:
    """`(folder, chat_template=…)` saves a tokenizer of bytes with ChatML's control tokens; returns its vocabulary."""
    return _save_tokenizer


@pytest.fixture(scope="session")
def save_language_model() -> Callable[..., Path]:
    """`(folder, family=…, **settings)` saves a random language model of two layers with the tokenizer of bytes."""
    return _save_language_model


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two layers, embeddings tied as SmolLM2's are."""
    return _save_language_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tiny_config(language_model: Path) -> ModelConfig:
    """The whole model, each part as small as its class allows; SAM's weights are random."""
    return ModelConfig(
        sam=SamConfig(checkpoint=None, dtype="float32"),
        superpixels=SuperpixelConfig(points_per_side=4, dtype="float32"),
        vision_tower=VisionTowerConfig(
            checkpoint=None,
            image_size=56,
            hidden_size=FEATURE_SIZE,
            dtype="float32",
            overrides={"num_hidden_layers": 1, "num_attention_heads": 2},
        ),
        projector=ProjectorConfig(hidden_size=32, num_heads=4),
        language_model=LanguageModelConfig(
            name=str(language_model), lora=LoraConfig(r=4, dropout=0.0), system_prompt="Be brief."
        ),
        head=HeadConfig(hidden_size=32, num_layers=1, num_heads=4),
    )


@pytest.fixture(scope="session")
def make_features() -> Callable[..., ImageFeatures]:
    """`(stripes, seed)` makes features of a picture of 96 x 128 pixels whose superpixels are upright stripes."""
    import torch

    from mllmseg.structures import ImageFeatures, Superpixels

    def make(stripes: int, seed: int = 0) -> ImageFeatures:
        generator = torch.Generator().manual_seed(seed)
        height, width = 192, 256
        labels = torch.arange(width) * stripes // width
        areas = labels.bincount()
        right = areas.cumsum(0)
        boxes = torch.stack([right - areas, torch.zeros_like(right), right, torch.full_like(right, height)], dim=1)
        return ImageFeatures(
            image_embeddings=torch.randn(1, 256, 64, 64, generator=generator),
            superpixels=Superpixels(
                label_map=labels.expand(height, width).contiguous(),
                boxes=boxes,
                areas=height * areas,
                scores=torch.ones(stripes),
            ),
            patch_features=torch.randn(FEATURE_SIZE, 3, 4, generator=generator),
            input_size=(768, 1024),
            original_size=(96, 128),
        )

    return make


@pytest.fixture(scope="session")
def randomise_lora() -> Callable[[Any], None]:
    """Draws LoRA's second factors, which start at zero, so that LoRA changes something."""
    import torch

    def randomise(model: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1, generator=generator)

    return randomise
