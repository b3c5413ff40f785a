"""Referring data as every benchmark gives it: sentences about images and the pixels each one means.

A dataset is opened by name, `open_dataset("refcoco:testA", data_root="DATA")`; each family of datasets has a file in
`mllmseg/data/datasets/` that registers how its files are read. Masks are drawn when asked for, never all at once.
"""

from __future__ import annotations

import importlib
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mllmseg.errors import DataError
from mllmseg.registry import Registry, did_you_mean

# [H, W] of the image's own size: 0 elsewhere, 1 target, 255 void (IGNORE_LABEL): counted by no scorer that says so.
Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Query:
    """One sentence about one image.

    Attributes:
        id: `DATASET/ref_id/sent_id`, unique in the dataset (the annotation file's order where a set has no ids).
        image: the image's file name relative to its image root, POSIX slashes; the unit of encoding and of bootstrap.
        text: the sentence.
        ref: queries of one referent share it (R-RIS scores group by it); often `DATASET/ref_id`.
        has_target: something in the image fits the sentence; None where that is unknown (prediction only).
        kind: a name to break results down by, such as `human`, with parts of it behind slashes as in `template/left`;
            or nothing.
        box: (x, y, width, height) of the target in pixels, where that is known but not its mask.
    """

    id: str
    image: str
    text: str
    ref: str
    has_target: bool | None
    kind: str = ""
    box: tuple[float, float, float, float] | None = None


class ReferringDataset(Protocol):
    """One split of one dataset.

    Attributes:
        name: such as `refcoco+`, `coco-mini`, `jsonl`.
        split: such as `val`, `testA`.
        source: the annotation files read, joined by ', '.
    """

    name: str
    split: str
    source: str

    @property
    def queries(self) -> Sequence[Query]:
        """In the file's order."""

    def image_path(self, query: Query) -> pathlib.Path:
        """The query's image file. Raises DataError where it is missing."""

    def target(self, query: Query) -> Mask:
        """`[H, W]`, all zeros where `has_target` is False.

        Raises:
            UnknownTargetError: the data do not give it.
            DataError: it is broken.
        """


class UnknownTargetError(DataError):
    """The data do not say which pixels a sentence means: there is nothing to repair, and nothing to score."""


class NotThereError(DataError):
    """No file of a dataset was found."""


class Loader(Protocol):
    """Reads a dataset's annotations once and gives the splits asked for."""

    def __call__(self, data_root: pathlib.Path, splits: Sequence[str] | None) -> Sequence[ReferringDataset]:
        """One dataset per entry of `splits`, in its order; with None all splits that are there.

        Raises:
            NotThereError: there is no file of it.
            DataError: files are missing or broken, or a split is not in them.
        """


@dataclass(frozen=True)
class DatasetEntry:
    """What the registry knows of a dataset.

    Attributes:
        splits: the published ones, as `NAME:SPLIT` takes them.
        default_split: what `NAME` alone stands for.
        load: reads it.
        put: what to put where, for people who have not got it yet.
    """

    splits: tuple[str, ...]
    default_split: str
    load: Loader
    put: str


DATASETS: Registry[DatasetEntry] = Registry("dataset")
JSONL = "jsonl"
_FAMILIES = (
    "refer", "grefcoco", "rrefcoco", "fprefcoco", "refzom", "reason_seg", "riscq", "talk2car", "coco_mini_queries",
)  # fmt: skip


def known_datasets() -> Registry[DatasetEntry]:
    """The registry with every dataset's file imported, in the order in which the documentation lists them."""
    for family in _FAMILIES:
        importlib.import_module(f"mllmseg.data.datasets.{family}")
    return DATASETS


def open_dataset(
    spec: str, *, data_root: str | os.PathLike[str] | None, image_root: str | os.PathLike[str] | None = None
) -> ReferringDataset:
    """Opens one split by name.

    Args:
        spec: `NAME` or `NAME:SPLIT`, such as `refcoco:testA`; own data as `jsonl:FILE`.
        data_root: the folder in which the datasets lie, in any of the layouts of docs/data.md.
        image_root: for `jsonl:FILE`, where its images lie; else `data_root`, else the file's folder.

    Raises:
        ConfigError: no dataset has this name; names the closest one.
        DataError: no `data_root`, no such split, or files are missing or broken.
    """
    name, _, split = spec.partition(":")
    if name == JSONL:
        return _open_jsonl(split, image_root if image_root is not None else data_root)
    entry = known_datasets().get(name)
    if data_root is None:
        raise DataError(f"{spec}: say with --data-root in which folder the datasets lie")
    root = pathlib.Path(data_root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data-root is the folder in which the datasets lie")
    try:
        (dataset,) = entry.load(root, [split or entry.default_split])
    except NotThereError as error:
        raise DataError(f"{error}; put {entry.put}") from error
    return dataset


def choose_splits(splits: Sequence[str] | None, present: Sequence[str], source: object) -> list[str]:
    """The splits to give: those asked for, or all `present`. Raises DataError where one is not in `source`."""
    for split in splits or ():
        if split not in present:
            raise DataError(f"{source}: no split '{split}': {did_you_mean(split, list(present))}")
    return list(present if splits is None else splits)


def _open_jsonl(file: str, image_root: str | os.PathLike[str] | None) -> ReferringDataset:
    from mllmseg.data.datasets.jsonl import JsonlDataset

    if not file:
        raise DataError("jsonl: name the file, as in jsonl:FILE")
    return JsonlDataset(file, image_root=image_root)
