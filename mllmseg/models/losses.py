"""Losses: text cross-entropy, mask BCE and Dice (LISA, GLaMM: weights 1, 2, 0.5), pointer BCE and Dice, existence.

N masks, S superpixels, M decisions, h w the valid window of SAM's low-res grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mllmseg.constants import IGNORE_INDEX


def text_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of `[..., vocabulary]` logits against `[...]` labels; 0 where every label is -100."""
    total = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)


def dice_loss(probabilities: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """`[N]` 1 - soft Dice of `[N, K]` probabilities and targets in 0..1, elements weighted by `[K]` or `[N, K]`."""
    weights = torch.ones_like(targets) if weights is None else weights
    overlap = (weights * probabilities * targets).sum(-1)
    total = (weights * (probabilities + targets)).sum(-1)
    return 1 - (2 * overlap + 1e-4) / (total + 1e-4)


def mask_losses(mask_logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(BCE, Dice), each a mean over masks, of `[N, h, w]` logits against `[N, h, w]` targets in 0..1."""
    logits, targets = mask_logits.flatten(1).float(), targets.flatten(1).float()
    bce = F.binary_cross_entropy_with_logits(logits, targets)
    return bce, dice_loss(logits.sigmoid(), targets).mean()


def pointer_losses(superpixel_logits: Tensor, coverage: Tensor, areas: Tensor) -> tuple[Tensor, Tensor]:
    """(BCE, Dice) of the pointer, each a mean over [SEG] tokens.

    Args:
        superpixel_logits: `[N, S]`.
        coverage: `[N, S]` the part of each superpixel that lies in the target, 0..1.
        areas: `[S]` pixels; Dice counts pixels, so that it follows the IoU of the painted mask, while BCE counts
            superpixels, so that small ones are learned too.
    """
    logits = superpixel_logits.float()
    bce = F.binary_cross_entropy_with_logits(logits, coverage)
    weights = areas.float() / areas.sum()
    return bce, dice_loss(logits.sigmoid(), coverage, weights).mean()


def existence_loss(exist_logits: Tensor, exists: Tensor) -> Tensor:
    """Mean BCE of `[M]` logits against `[M]` bool."""
    return F.binary_cross_entropy_with_logits(exist_logits.float(), exists.float())


def superpixel_coverage(masks: Tensor, label_map: Tensor, num_superpixels: int) -> Tensor:
    """The part of each superpixel that lies in each mask: `[N, h, w]` in 0..1 and `[h, w]` labels → `[N, S]`."""
    labels = label_map.flatten()
    inside = masks.new_zeros(len(masks), num_superpixels, dtype=torch.float32)
    inside.index_add_(1, labels, masks.flatten(1).float())
    return inside / torch.bincount(labels, minlength=num_superpixels)
