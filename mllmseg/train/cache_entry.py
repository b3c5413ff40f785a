"""What the feature cache is asked for and what it gives back: one image each.

h w the valid window of SAM's low-res grid.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mllmseg.data.datasets.coco_mini import Box
from mllmseg.data.shards import read_bytes, stat
from mllmseg.structures import ImageFeatures


@dataclass(frozen=True)
class CacheEntry:
    """One image that the frozen stages should look at.

    Attributes:
        path: the image file, on the disk or in a shard; for streamed data a name that stays the same from run to run.
        boxes: id → (x, y, width, height) in pixels of the image: SAM estimates a mask for each.
        size: (height, width) as the labels have it, compared with the image's own; None: not known.
        data: the file's bytes, where it does not lie at `path`.
    """

    path: pathlib.Path
    boxes: Mapping[int, Box] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    data: bytes | None = None

    @property
    def name(self) -> str:
        """What the index calls the image: the whole path, so that equal names in two folders stay two images."""
        return str(self.path) if self.data is not None else os.path.abspath(self.path)

    @property
    def boxes_digest(self) -> str:
        """Stands for the boxes; empty without any."""
        if not self.boxes:
            return ""
        return hashlib.sha256(json.dumps(sorted(self.boxes.items())).encode()).hexdigest()[:16]

    def stamp(self) -> Stamp:
        """How the image looks from outside, without reading it. Raises OSError where there is no such file."""
        if self.data is not None:
            return Stamp(len(self.data), 0)
        return Stamp(*stat(self.path))

    def read(self) -> bytes:
        """The file's bytes. Raises DataError where it cannot be read."""
        if self.data is not None:
            return self.data
        return read_bytes(self.path)


@dataclass(frozen=True)
class Stamp:
    """Size in bytes and time of the last change of a file; 0 for streamed data, which is hashed at each read."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class CachedImage:
    """What the frozen stages say about an image.

    Attributes:
        features: as `VisionStack.encode_image` gives them; floats as stored (float16).
        estimated: id of a box → `[h, w]` bool, where SAM's mask agrees with the box.
    """

    features: ImageFeatures
    estimated: dict[int, Tensor]
