"""Small real parts that several tests share: a tokenizer of bytes with a chat template, random Llamas, made features.

Heavy libraries are imported inside, so that the tests of the command line stay quick.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
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
CAUSAL_FAMILIES = ("llama", "qwen2", "qwen3")
_VIT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
_QWEN_VIT = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 32,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0}
# What VLMs differ in: their own settings, those of the text and those of the vision model.
VLM_FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "llava": ({}, {"model_type": "llama"}, _VIT | {"model_type": "clip_vision_model"}),
    "qwen2_5_vl": (
        {},
        {"model_type": "qwen2_5_vl_text", "rope_parameters": _MROPE | {"mrope_section": [1, 1, 2]}},
        _QWEN_VIT | {"patch_size": 14, "fullatt_block_indexes": [1], "window_size": 56},
    ),
    "qwen3_vl": (
        {},
        {"model_type": "qwen3_vl_text", "head_dim": 8, "rope_parameters": _MROPE | {"mrope_section": [2, 1, 1]}},
        _QWEN_VIT | {"patch_size": 14, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16},
    ),
    "idefics3": ({"scale_factor": 2}, {"model_type": "llama"}, _VIT),
    "smolvlm": ({"scale_factor": 2}, {"model_type": "llama"}, _VIT),
    "internvl": (
        {"downsample_ratio": 0.5, "tie_word_embeddings": True},
        {"model_type": "qwen2"},
        _VIT | {"image_size": [56, 56], "patch_size": [14, 14]},
    ),
}


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


def _save_vlm(folder: Path, family: str) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, CLIPImageProcessorPil, Qwen2VLImageProcessorPil

    own, text, vision = VLM_FAMILIES[family]
    sizes = {
        "vocab_size": _save_tokenizer(folder),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, text_config=sizes | text, vision_config=vision, **own)
        model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    kind = Qwen2VLImageProcessorPil if "spatial_merge_size" in vision else CLIPImageProcessorPil
    kind(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_vlm() -> Callable[[Path, str], Path]:
    """`(folder, family)` saves a random VLM of two layers with the tokenizer of bytes and an image processor."""
    return _save_vlm


@pytest.fixture(scope="session", params=[*CAUSAL_FAMILIES, *VLM_FAMILIES])
def family_config(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_config: ModelConfig
) -> ModelConfig:
    """The whole model on a random host of each family; VLMs with their own eyes."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in CAUSAL_FAMILIES:
        _save_language_model(folder, family=request.param)
        changes: dict[str, Any] = {}
    else:
        _save_vlm(folder, request.param)
        vision = VLM_FAMILIES[request.param][2]
        layers = 1 + len(vision.get("deepstack_visual_indexes", ()))
        patch = 14 if request.param == "llava" else 28
        changes = {
            "vision_tower": VisionTowerConfig(
                name="host", checkpoint=str(folder), image_size=56, patch_size=patch, hidden_size=32 * layers,
                dtype="float32",
            ),
            "projector": ProjectorConfig(name="pooled", hidden_size=16),
        }  # fmt: skip
    language_model = tiny_config.language_model.model_copy(update={"name": str(folder)})
    return tiny_config.model_copy(update={"language_model": language_model, **changes})


def _load(path: str) -> ModuleType:
    """A module of helpers beside the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parent / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def miniatures() -> ModuleType:
    """tests/data/miniatures.py: small datasets in their authors' formats."""
    return _load("data/miniatures.py")


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """tests/chat_server.py, running; what asks it does not pause between tries."""
    from mllmseg import chat_endpoint

    monkeypatch.setattr(chat_endpoint, "RETRY_PAUSE", 0.01)
    server = _load("chat_server.py").ChatServer()
    yield server
    server.close()


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


@pytest.fixture(scope="module")
def one_sam() -> Iterator[None]:
    """One random SAM for every model of the module: a loaded one must have that of the saved, which is not saved."""
    from mllmseg.models import build
    from mllmseg.models.sam import build_sam

    sam = build_sam(SamConfig(checkpoint=None, dtype="float32"), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_sam", lambda config, path: sam)
        yield


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
