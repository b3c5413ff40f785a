"""The optimizer, its parameter groups and its schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mllmseg.config import StageConfig


def build_optimizer(parameters: Mapping[str, nn.Parameter], stage: StageConfig) -> torch.optim.AdamW:
    """AdamW with the hosts' published betas, a group for each learning rate and kind of decay.

    Norms, biases and other vectors do not decay. Each group's `scale` is its factor on the learning rate.

    Args:
        parameters: by their name in the model, from which their part follows.
        stage: its settings.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = stage.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((_scale(name, stage), decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "scale": scale, "weight_decay": decay} for (scale, decay), group in groups.items()],
        lr=stage.learning_rate,
        betas=(0.9, 0.95),
        foreach=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def learning_rate(stage: StageConfig, step: int) -> float:
    """Linear warm-up, then linear decay to zero. A function of the step alone, so that resuming needs no state."""
    warmup = min(stage.warmup_steps, max(1, stage.steps // 10))
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    return stage.learning_rate * max(0.0, (stage.steps - step) / max(1, stage.steps - warmup))


def _scale(name: str, stage: StageConfig) -> float:
    scales = stage.learning_rate_scale
    return {"mllm": scales.language_model, "projector": scales.projector}.get(name.partition(".")[0], scales.head)
