"""Webdataset shards as training data: `KEY.jpg` and `KEY.json` side by side in uncompressed tar archives.

The JSON is a record or a list of records of any kind (`records.py`), without `image`; instead of it `KEY.txt` may hold
a caption. Labels are read with the image's visit, never all at once; masks are polygons or run lengths.
"""

from __future__ import annotations

import glob
import json
import pathlib
import random

from torch import Tensor

from mllmseg.config import DataConfig
from mllmseg.data.datasets.coco_mini import Box, Photo
from mllmseg.data.shards import members, read_bytes
from mllmseg.data.sources.records import STAGES, Record, kind_of, parse, sample_of
from mllmseg.data.training import SOURCES, Opening, Sample, TrainingImage, View
from mllmseg.errors import ConfigError, DataError

NAME = "webdataset"
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LABELS = (".json", ".txt")


class WebDatasetSource:
    """Some shards. See `training.TrainingSource`."""

    categories: tuple[str, ...] = ()

    def __init__(self, opening: Opening) -> None:
        """Scans the shards for what lies where; what kind of records they hold is seen from the first.

        Raises:
            ConfigError: no shards are named.
            DataError: there are none, one is damaged, or, unless such are skipped, an image has no label.
        """
        if not opening.what:
            raise ConfigError(f"data.sources: '{NAME}' needs files, as in {NAME}:shards/train-*.tar")
        self.name, self._bad = opening.name, opening.bad
        pattern = opening.what if opening.root is None else str(opening.root / opening.what)
        shards = sorted(pathlib.Path(path) for path in glob.glob(pattern))
        if not shards:
            raise DataError(f"{pattern}: no such shards")
        found, self._labels = [], []
        for shard in shards:
            for image, label in _pairs(shard, opening):
                found.append((f"{shard.name}/{image}", shard / image, None))
                self._labels.append(shard / label)
        self.images = opening.images(found)
        self.stages = self._stages()

    def _stages(self) -> frozenset[str]:
        for label in self._labels:
            try:
                return frozenset.union(*(STAGES[kind] for kind in _kinds(label)))
            except DataError:
                continue  # reported when its turn comes
        return frozenset()

    def boxes(self, image: TrainingImage) -> dict[int, Box]:
        """None: targets are drawn."""
        return {}

    def labelled(self, image: TrainingImage, view: View) -> tuple[Photo, dict[int, Tensor]] | None:
        """None: what is not spoken of has no label."""
        return None

    def draw(self, image: TrainingImage, view: View, rng: random.Random, data: DataConfig, *, stage: str) -> Sample:
        """Some of what is said about the image."""
        return sample_of(_records(self._labels[image.index]), view, rng, data, self._bad, stage=stage)


SOURCES.register(NAME)(WebDatasetSource)


def _pairs(shard: pathlib.Path, opening: Opening) -> list[tuple[str, str]]:
    """Names of each image and its label."""
    names = members(shard)
    pairs = []
    for name in names:
        folder, _, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")  # webdataset's rule: the key ends at the first dot
        if f".{suffix.lower()}" not in IMAGES:
            continue
        key = f"{folder}/{stem}" if folder else stem
        label = next((key + suffix for suffix in LABELS if key + suffix in names), None)
        if label is None:
            opening.bad.add(f"{opening.name}/{shard.name}/{name}", DataError(f"no {key}.json or {key}.txt beside it"))
        else:
            pairs.append((name, label))
    return pairs


def _entries(label: pathlib.Path) -> list[object]:
    content = read_bytes(label)
    try:
        if label.suffix == ".txt":
            return [{"caption": content.decode("utf-8")}]
        entries = json.loads(content)
    except ValueError as error:
        raise DataError(f"{label}: not valid JSON or UTF-8: {error}") from error
    return entries if isinstance(entries, list) else [entries]


def _kinds(label: pathlib.Path) -> set[str]:
    kinds = {kind_of(entry) for entry in _entries(label)}
    if not kinds:
        raise DataError(f"{label}: an empty list")
    return kinds


def _records(label: pathlib.Path) -> list[Record]:
    records: list[Record] = []
    for entry in _entries(label):
        if not isinstance(entry, dict):
            raise DataError(f"{label}: expected an object, found {type(entry).__name__}")
        records += parse({"image": label.stem} | entry, str(label), folder=None)
    return records
