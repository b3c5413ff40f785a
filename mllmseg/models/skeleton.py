"""The model without its weights: what a configuration would build, counted on torch's meta device.

Nothing is fetched but the small config.json of what is named by a hub id. What cannot be known without weights that are
not here is said, not guessed.

D LLM width, K names of the head's vocabulary, C patch-feature channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from mllmseg.config import LanguageModelConfig, LoraConfig, ModelConfig, VisionTowerConfig
from mllmseg.constants import NEW_TOKENS
from mllmseg.models.head import SegHead
from mllmseg.models.pooling import GEOMETRY_DIM, PLACE_DIM
from mllmseg.models.projector import build_projector
from mllmseg.models.sam import build_sam
from mllmseg.models.vision_tower import build_vision_tower
from mllmseg.weights import list_weights


@dataclass(frozen=True)
class Part:
    """A module's parameters.

    Attributes:
        name: of the module.
        parameters: how many.
        trained: whether training may change them.
        linear: how many of them bitsandbytes would quantise.
    """

    name: str
    parameters: int
    trained: bool
    linear: int = 0


@dataclass(frozen=True)
class TransformerShape:
    """What the cost of a pass through the language model depends on.

    Attributes:
        layers: how many.
        hidden, intermediate, key_value: widths of the residual stream, the MLP, and keys or values of all heads.
        vocabulary: rows of the output head.
    """

    layers: int
    hidden: int
    intermediate: int
    key_value: int
    vocabulary: int


@dataclass(frozen=True)
class Skeleton:
    """What a configuration would build.

    Attributes:
        parts: modules in the order of the data flow.
        language_model: its shape; None where its config is not to be had.
        unknown: what could not be told, each with the reason.
    """

    parts: tuple[Part, ...]
    language_model: TransformerShape | None
    unknown: tuple[str, ...]


def build_skeleton(config: ModelConfig) -> Skeleton:
    """Counts the parameters of a configuration without its weights."""
    unknown: list[str] = []
    sees = config.vision_tower.name == "host"  # a VLM looks at the picture itself
    with torch.device("meta"):
        sam = build_sam(config.sam, None)
        parts = [Part("SAM", _count(sam), False)]
        host, settings = _host(config.language_model, unknown)
        if not sees:
            tower = _tower(config.vision_tower, unknown)
            if tower is not None:
                parts.append(Part("vision tower", _count(tower), False))
        if host is None:
            unknown.append("projector, head and LoRA: their sizes follow from the language model's")
            return Skeleton(tuple(parts), None, tuple(unknown))
        text = settings.get_text_config()
        decoder, output = host.get_decoder(), host.get_output_embeddings()
        language = _count(decoder) + (0 if _tied(host) else _count(output))
        if sees:
            parts.append(Part("vision tower (the host's own)", _count(host) - language, False))
        lora = config.language_model.lora
        rows = len(NEW_TOKENS) * text.hidden_size * (1 if _tied(host) else 2)
        parts += [
            Part("projector", _projector(config, text.hidden_size), True),
            Part("language model", language, False, linear=_linear(decoder)),
            Part(f"LoRA of rank {lora.r} on {', '.join(lora.target_modules)}", _lora(decoder, lora), True),
            Part("rows of the new tokens", rows if lora.r else 0, True),
            Part("head", _head(config, text.hidden_size), True),
        ]
    if "mask_decoder" in config.trainable:
        parts.append(Part("mask_decoder", _count(sam.mask_decoder), True))
    parts = [_frozen_unless_chosen(part, config.trainable) for part in parts if part.parameters]
    return Skeleton(tuple(parts), _shape(text), tuple(unknown))


def _frozen_unless_chosen(part: Part, trainable: tuple[str, ...]) -> Part:
    owner = "lora" if part.name.startswith(("LoRA", "rows")) else part.name
    return part if not part.trained or owner in trainable else Part(part.name, part.parameters, False)


def _host(config: LanguageModelConfig, unknown: list[str]) -> tuple[Any, Any]:
    source = config.name
    for status in list_weights():
        if source == f"mllmseg:{status.weights.name}":
            if not status.present:
                unknown.append(f"language model: {source} is not here yet: mllmseg weights fetch {status.weights.name}")
                return None, None
            source = str(status.path)
    try:
        settings = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        unknown.append(f"language model: the config of {source} cannot be read ({_first_line(error)})")
        return None, None
    for auto_class in (AutoModelForImageTextToText, AutoModelForCausalLM):
        if type(settings) in auto_class._model_mapping:
            return auto_class.from_config(settings), settings
    unknown.append(f"language model: {source} is a '{settings.model_type}', which is no causal language model")
    return None, None


def _tower(config: VisionTowerConfig, unknown: list[str]) -> nn.Module | None:
    source = config.checkpoint
    if source is None or source.startswith("mllmseg:") or source.endswith((".pt", ".pth")):
        return build_vision_tower(config.model_copy(update={"checkpoint": None}))
    try:
        return AutoModel.from_config(AutoConfig.from_pretrained(source))
    except (OSError, ValueError) as error:
        unknown.append(f"vision tower: the config of {source} cannot be read ({_first_line(error)})")
        return None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _tied(host: Any) -> bool:
    return host.get_output_embeddings().weight is host.get_input_embeddings().weight


def _linear(decoder: nn.Module) -> int:
    return sum(module.weight.numel() for module in decoder.modules() if isinstance(module, nn.Linear))


def _lora(decoder: nn.Module, lora: LoraConfig) -> int:
    layers = [
        module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in lora.target_modules
    ]
    return sum(lora.r * (layer.in_features + layer.out_features) for layer in layers)


def _projector(config: ModelConfig, width: int) -> int:
    return _count(build_projector(config.projector, in_channels=_channels(config), out_channels=width))


def _head(config: ModelConfig, width: int) -> int:
    vocabulary = torch.empty(len(config.head.vocabulary), width, device="meta")
    settings = {
        "llm_size": width,
        "feature_size": _channels(config),
        "geometry_size": GEOMETRY_DIM,
        "place_size": PLACE_DIM,
    }
    return _count(SegHead(config.head, vocabulary=vocabulary, **settings))


def _channels(config: ModelConfig) -> int:
    return 256 if config.vision_tower.name == "sam" else config.vision_tower.hidden_size


def _shape(text: Any) -> TransformerShape:
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return TransformerShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        key_value=size * (getattr(text, "num_key_value_heads", None) or heads),
        vocabulary=text.vocab_size,
    )
