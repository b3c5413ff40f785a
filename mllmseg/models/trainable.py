"""Which parameters a part of the model has: what training may change, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from mllmseg.config import Part

# Where the parameters of each part are. Of the language model, only LoRA and the rows of new tokens are ever trained.
_PREFIXES: dict[Part, tuple[str, ...]] = {
    "projector": ("projector.",),
    "lora": ("mllm.",),
    "head": ("head.",),
    "mask_decoder": ("mask_decoder.",),
}


def parameters_of(model: nn.Module, parts: Iterable[Part]) -> dict[str, nn.Parameter]:
    """The trainable parameters of these parts, by name; one stage of training may take fewer than the model has.

    Args:
        model: an `MLLMSeg`.
        parts: of those that `ModelConfig.trainable` names.
    """
    prefixes = tuple(prefix for part in parts for prefix in _PREFIXES[part])
    named = model.named_parameters()
    return {name: item for name, item in named if item.requires_grad and name.startswith(prefixes)}


def freeze_all_but(model: nn.Module, parts: Iterable[Part]) -> None:
    """Takes every part out of training that `parts` does not name. Parts that are frozen as they are stay so."""
    kept = parameters_of(model, parts)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in kept)
