"""Which points of the grid are not worth decoding any more, from the masks that others have given.

A point on a small mask has its superpixel. A point on a large one may still lie on something smaller: so points are
decoded there until some have given nothing new, which is what most of a wall, a lawn or a cat's back amounts to.
`benchmarks/superpixel_oracle.md` has what that costs in overlap and saves in time.

Shapes: P points, M masks, h w SAM's low-res grid cropped to the valid window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mllmseg.constants import SAM_LOW_RES_STRIDE


class Coverage:
    """What the points decoded so far have shown.

    Args:
        size: (h, w).
        max_fraction: a mask of at most this share of the image covers the points on it.
        max_barren: a larger one does, too, once this many points on it gave no mask that was new; None: never.
        same_iou: two masks that overlap this much are the same.
        device: where the masks are.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        max_fraction: float,
        max_barren: int | None,
        same_iou: float,
        device: torch.device,
    ) -> None:
        self._max_fraction = max_fraction
        self._max_barren = max_barren
        self._same_iou = same_iou
        self._masks = torch.zeros(0, *size, dtype=torch.bool, device=device)
        self._owners = torch.zeros(0, dtype=torch.int64, device=device)
        self._barren = torch.zeros(0, dtype=torch.int64, device=device)
        self._decoded = 0

    def add(self, points: Tensor, masks: Tensor, owners: Tensor) -> None:
        """Takes note of decoded points.

        Args:
            points: `[P, 2]` (x, y) in SAM input pixels.
            masks: `[M, h, w]` bool.
            owners: `[M]` which of the points each mask comes from.
        """
        before = len(self._masks)
        self._masks = torch.cat([self._masks, masks])
        self._owners = torch.cat([self._owners, owners + self._decoded])
        self._barren = torch.cat([self._barren, self._barren.new_zeros(len(masks))])
        numbers = self._decoded + torch.arange(len(points), device=points.device)
        self._decoded += len(points)
        if self._max_barren is None:
            return
        earlier = self._owners[None] < self._owners[before:, None]
        known = ((_iou(masks, self._masks) >= self._same_iou) & earlier).any(1)
        fresh = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        fresh[owners[~known]] = True
        on_mask = self._contains(points) & (self._owners[:, None] < numbers)
        self._barren += (on_mask & ~fresh).sum(1)

    def covers(self, points: Tensor) -> Tensor:
        """`[P]` bool: nothing new is to be expected of these points."""
        covering = self._masks.flatten(1).float().mean(1) <= self._max_fraction
        if self._max_barren is not None:
            covering |= self._barren >= self._max_barren
        return (self._contains(points) & covering[:, None]).any(0)

    def _contains(self, points: Tensor) -> Tensor:
        """`[M, P]` bool."""
        height, width = self._masks.shape[1:]
        x, y = (points / SAM_LOW_RES_STRIDE).long().unbind(1)
        return self._masks[:, y.clamp(max=height - 1), x.clamp(max=width - 1)]


def _iou(first: Tensor, second: Tensor) -> Tensor:
    """`[M, h, w]`, `[K, h, w]` bool, none empty → `[M, K]`."""
    rows, columns = first.flatten(1).float(), second.flatten(1).float()
    intersection = rows @ columns.t()
    return intersection / (rows.sum(1)[:, None] + columns.sum(1) - intersection)
