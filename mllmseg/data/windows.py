"""Windows cut out of a photo, and what of its labels lies in one.

H W the photo's own size, h w the window's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from mllmseg.data.datasets.coco_mini import Box, Instance, Photo
from mllmseg.data.masks import encode_rle

AREA = (0.25, 0.8)  # of the photo
STRETCH = (3 / 4, 4 / 3)  # of its aspect
MIN_KEPT = 0.4  # of a thing must be left, or nothing of it
MIN_KEPT_STUFF = 0.1
TRIES = 30

Bools = npt.NDArray[np.bool_]


class Window(NamedTuple):
    """A part of a photo, in pixels; the last row and column lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def draw(cls, size: tuple[int, int], rng: random.Random) -> Window:
        """One of random area, aspect and place; `size`: (height, width) of the photo."""
        height, width = size
        area, stretch = rng.uniform(*AREA), math.exp(rng.uniform(*map(math.log, STRETCH)))
        wide = min(width, max(1, round(width * math.sqrt(area * stretch))))
        high = min(height, max(1, round(height * math.sqrt(area / stretch))))
        left, top = rng.randint(0, width - wide), rng.randint(0, height - high)
        return cls(left, top, left + wide, top + high)

    def clip(self, box: Box) -> Box:
        """What of a box lies in the window, from the window's corner; of no size where nothing does."""
        x, y, width, height = box
        x0, y0 = max(x, self.left), max(y, self.top)
        wide, high = min(x + width, self.right) - x0, min(y + height, self.bottom) - y0
        return x0 - self.left, y0 - self.top, max(0.0, wide), max(0.0, high)

    def share(self, item: Instance, masks: Mapping[int, Bools]) -> float:
        """How much of a label lies in the window: of its mask `[H, W]`, where there is one, else of its box."""
        if item.id not in masks:
            return self.share_of_box(item.box)
        mask = masks[item.id]
        return float(self._crop(mask).sum() / max(1, mask.sum()))

    def share_of_box(self, box: Box) -> float:
        """The same of a box."""
        _, _, width, height = self.clip(box)
        return width * height / max(1e-6, box[2] * box[3])

    def cut_mask(self, mask: Bools) -> dict[str, Any] | None:
        """What of a drawn label `[H, W]` lies in the window, as COCO writes it; None for nothing."""
        cut = self._crop(mask)
        if not cut.any():
            return None
        rle = encode_rle(cut)
        return {"segmentation": rle, "area": int(cut.sum()), "bbox": coco_mask.toBbox(rle).tolist()}

    def cut_box(self, box: Box) -> dict[str, Any] | None:
        """The same for a label that is a box."""
        x, y, width, height = self.clip(box)
        return {"bbox": [x, y, width, height], "area": width * height} if width * height else None

    def _crop(self, mask: Bools) -> Bools:
        """`[h, w]`."""
        return mask[self.top : self.bottom, self.left : self.right]


def choose_window(
    photo: Photo, masks: Mapping[int, Bools], categories: Mapping[str, bool], rng: random.Random
) -> Window | None:
    """A random window that no label forbids, or None where none was found.

    Args:
        photo: its labels.
        masks: instance id → `[H, W]` bool, where one is drawn.
        categories: name → whether it is a thing.
        rng: the only source of chance.
    """
    for _ in range(TRIES):
        window = Window.draw(photo.size, rng)
        kept = 0
        for item in photo.instances:
            share = window.share(item, masks)
            if share and not item.is_crowd:
                if share < (MIN_KEPT if categories[item.category] else MIN_KEPT_STUFF):
                    break
                kept += 1
        else:
            if kept:
                return window
    return None
