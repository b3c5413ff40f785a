"""The optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mllmseg.config import StageConfig


def build_optimizer(parameters: Iterable[Tensor], stage: StageConfig) -> torch.optim.AdamW:
    """AdamW with the hosts' published betas."""
    return torch.optim.AdamW(
        parameters, lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=stage.weight_decay, foreach=True
    )


def learning_rate(stage: StageConfig, step: int) -> float:
    """Linear warm-up, then linear decay to zero. A function of the step alone, so that resuming needs no state."""
    warmup = min(stage.warmup_steps, max(1, stage.steps // 10))
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    return stage.learning_rate * max(0.0, (stage.steps - step) / max(1, stage.steps - warmup))
