"""The feature cache: what the frozen stages say about an image, computed once.

An image costs seconds on a CPU, a training step needs it in milliseconds. A cache is a folder of shards
(`cache_shards.py`), filled by any number of processes and machines at once (`cache_fill.py`). Its name carries a hash
of the settings that the features depend on, and each image is found by the SHA-256 of its file (`cache_index.py`):
nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from mllmseg.config import ModelConfig
from mllmseg.errors import DataError
from mllmseg.models.vision_stack import VisionStack
from mllmseg.progress import image_bar
from mllmseg.structures import ImageFeatures, Superpixels
from mllmseg.train.cache_entry import CachedImage, CacheEntry
from mllmseg.train.cache_fill import Filling, FillReport, unpack_masks
from mllmseg.train.cache_index import Index, set_shard_aside
from mllmseg.train.cache_shards import FORMAT, Shard
from mllmseg.weights_table import WEIGHTS

__all__ = ["CacheEntry", "CachedImage", "FeatureCache", "FillReport"]


class FeatureCache:
    """A folder of cached images for one configuration of the frozen stages.

    Attributes:
        folder: where the shards lie.
        embeddings: whether images are stored with SAM's image embeddings, which masks need; two thirds of the size.
    """

    def __init__(self, root: str | os.PathLike[str], config: ModelConfig, *, embeddings: bool = True) -> None:
        self.config = config
        self.embeddings = embeddings
        self.folder = pathlib.Path(root) / config_digest(config)[:12]
        self._index: Index | None = None
        self._shards: dict[str, Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Other processes open the files themselves."""
        return {**self.__dict__, "_index": None, "_shards": {}}

    @property
    def index(self) -> Index:
        """Which image lies where."""
        if self._index is None:
            index = Index(self.folder)
            index.refresh()
            self._index = index  # only now: threads that read ahead may ask meanwhile
        return self._index

    def __contains__(self, entry: CacheEntry) -> bool:
        return self.index.find(entry, embeddings=self.embeddings) is not None

    def fill(
        self,
        entries: Sequence[CacheEntry],
        *,
        workers: int = 1,
        skip_bad: bool = False,
        stack: VisionStack | None = None,
        progress: bool = False,
    ) -> FillReport:
        """Computes what is missing. Safe to kill at any moment and to run many times at once, on many machines.

        Args:
            entries: the images.
            workers: how many processes compute.
            skip_bad: report bad images instead of failing for them, after all others are done.
            stack: frozen stages that are built already: everything is then computed in this process.
            progress: show a bar.

        Raises:
            DataError: an image is bad and `skip_bad` is false, all processes died, or the disk is full.
        """
        report = Filling(self, entries).run(workers, stack, shown=progress)
        if report.bad and not skip_bad:
            problem = report.bad[0][1]
            raise DataError(
                f"{self.folder}: {len(report.bad)} of {len(entries)} images could not be cached, the first: {problem}"
            )
        return report

    def verify(self, *, set_aside: bool = True, progress: bool = False) -> dict[str, str]:
        """Reads every shard through and compares its checksum.

        Args:
            set_aside: rename what belongs to a damaged shard to `*.damaged`, so that the next filling replaces it.
            progress: show a bar.

        Returns:
            Name of each damaged shard → what is wrong with it.
        """
        index = self._index = Index(self.folder)
        index.refresh()
        problems = dict(index.damaged)
        with image_bar("Verifying", sum(head.images for head in index.shards.values()), shown=progress) as advance:
            for name, head in index.shards.items():
                if (problem := head.compare(self.folder / name)) is not None:
                    problems[name] = problem
                for _ in range(head.images if advance else 0):
                    advance(True)  # type: ignore[misc]
        if set_aside and problems:
            for name in problems:
                set_shard_aside(self.folder / name)
            self._index, self._shards = None, {}
        return problems

    def read(self, entry: CacheEntry, embeddings: bool = True) -> CachedImage:
        """Reads one image; `embeddings=False` leaves SAM's image embeddings on disk.

        Raises:
            DataError: the image is not cached, has changed since, or its shard is damaged.
        """
        place = self.index.find(entry, embeddings=embeddings)
        if place is None:
            problem = self.index.why_missing(entry, embeddings=embeddings)
            raise DataError(f"{entry.path} {problem}; fill the cache first ({self.folder})")
        record = place.record
        if entry.size is not None and record.original_size != entry.size:
            raise DataError(f"{entry.path} is {record.original_size}, its label says {entry.size}")
        if place.shard not in self._shards:
            self._shards[place.shard] = Shard(self.folder / place.shard)
        tensors = self._shards[place.shard].read(record, place.starts)
        superpixels = Superpixels(
            tensors["label_map"].to(torch.int64),
            tensors["boxes"].to(torch.int64),
            tensors["areas"].to(torch.int64),
            tensors["scores"],
        )
        features = ImageFeatures(
            tensors["image_embeddings"] if embeddings else None,
            superpixels,
            tensors["patch_features"],
            record.input_size,
            record.original_size,
        )
        estimated = dict(zip(record.masks, unpack_masks(tensors["mask_bits"], record.grid), strict=True))
        return CachedImage(features, {key: mask for key, mask in estimated.items() if key in entry.boxes})


def config_digest(config: ModelConfig) -> str:
    """Stands for everything that cached features depend on, besides the images."""
    parts = {
        "format": FORMAT,
        "sam": config.sam.model_dump(mode="json"),
        "superpixels": config.superpixels.model_dump(mode="json"),
        "vision_tower": config.vision_tower.model_dump(mode="json"),
        "weights": [_weights_digest(config.sam.checkpoint), _weights_digest(config.vision_tower.checkpoint)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _weights_digest(checkpoint: str | None) -> str:
    """Tells weights apart that lie at the same place: from the end of the file, where torch keeps all checksums."""
    if checkpoint is None:
        return ""
    known = checkpoint.removeprefix("mllmseg:")
    if known != checkpoint:
        return WEIGHTS[known].sha256 if known in WEIGHTS else ""
    path = pathlib.Path(checkpoint)
    if path.is_dir():
        return str(sorted((item.name, item.stat().st_size) for item in path.iterdir() if item.is_file()))
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 20)))
        return f"{size} {hashlib.sha256(file.read()).hexdigest()}"
