"""Which points of the grid are not worth decoding any more, from the masks that others have given.

A point on a small mask has its superpixel. A point on a large one may still lie on something smaller: so points are
decoded there until some have given nothing new, which is what most of a wall, a lawn or a cat's back amounts to.
`benchmarks/superpixel_oracle.md` has what that costs in overlap and saves in time.

The pixels of masks are looked at once, where they are (`Facts`); what follows is a few comparisons on the CPU, so that
a GPU, which has all points decoded at once, is waited for once.

Shapes: P points of the grid, M masks, K masks to compare with, h w SAM's low-res grid cropped to the valid window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mllmseg.constants import SAM_LOW_RES_STRIDE

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """What coverage asks of masks.

    Attributes:
        contains: `[M, P]` which points lie on each.
        fractions: `[M]` of the image.
        same: `[M, K]` which other masks are the same as each.
    """

    contains: BoolArray
    fractions: npt.NDArray[np.float32]
    same: BoolArray


def describe(masks: Tensor, others: Tensor, points: Tensor, same_iou: float) -> Facts:
    """Looks at the pixels of `[M, h, w]` and `[K, h, w]` bool masks, none of them empty.

    Args:
        masks: to describe.
        others: to compare them with.
        points: `[P, 2]` (x, y) in SAM input pixels.
        same_iou: masks that overlap this much are the same.
    """
    height, width = masks.shape[1:]
    x, y = (points / SAM_LOW_RES_STRIDE).long().unbind(1)
    rows, columns = masks.flatten(1).float(), others.flatten(1).float()
    areas, intersection = rows.sum(1), rows @ columns.t()
    same = intersection / (areas[:, None] + columns.sum(1) - intersection) >= same_iou
    contains = masks[:, y.clamp(max=height - 1), x.clamp(max=width - 1)]
    # One transfer, not three: a GPU is waited for each time. A float32 holds up to 2^24 pixels exactly.
    packed = torch.cat([contains.float(), (areas / (height * width))[:, None], same.float()], dim=1).cpu().numpy()
    count = len(points)
    return Facts(packed[:, :count] > 0, packed[:, count], packed[:, count + 1 :] > 0)


class Coverage:
    """What the points decoded so far have shown.

    Args:
        num_points: P.
        max_fraction: a mask of at most this share of the image covers the points on it.
        max_barren: a larger one does, too, once this many points on it gave no mask that was new; None: never.
        coarse_points: but not the first so many points of the grid. A few of them may miss everything that lies on a
            background, coins on a cloth for instance.
    """

    def __init__(self, num_points: int, *, max_fraction: float, max_barren: int | None, coarse_points: int) -> None:
        self._max_fraction = max_fraction
        self._max_barren = max_barren
        self._coarse_points = coarse_points
        self._contains = np.zeros((0, num_points), dtype=bool)
        self._fractions = np.zeros(0, dtype=np.float32)
        self._owners = np.zeros(0, dtype=np.int64)
        self._barren = np.zeros(0, dtype=np.int64)

    def add(self, points: IntArray, owners: IntArray, facts: Facts) -> None:
        """Takes note of decoded points, which come in the order of the grid.

        Args:
            points: their places in the grid.
            owners: `[M]` which of the places each mask comes from.
            facts: of the masks, compared with all earlier ones and then with themselves; if `max_barren` is None, with
                any.
        """
        before = len(self._owners)
        self._contains = np.concatenate([self._contains, facts.contains])
        self._fractions = np.concatenate([self._fractions, facts.fractions])
        self._owners = np.concatenate([self._owners, owners])
        self._barren = np.concatenate([self._barren, np.zeros(len(owners), dtype=np.int64)])
        if self._max_barren is None:
            return
        known = (facts.same & (self._owners[None] < self._owners[before:, None])).any(1)
        barren = ~np.isin(points, owners[~known])
        on_mask = self._contains[:, points] & (self._owners[:, None] < points)
        self._barren += (on_mask & barren).sum(1)

    def covers(self) -> BoolArray:
        """`[P]`: nothing new is to be expected of these points."""
        covered = np.any(self._contains[self._fractions <= self._max_fraction], axis=0)
        if self._max_barren is not None:
            barren = np.any(self._contains[self._barren >= self._max_barren], axis=0)
            covered[self._coarse_points :] |= barren[self._coarse_points :]
        return covered
