"""coco-mini's sentences as queries, for evaluation; training reads the labels themselves (`coco_mini.py`).

An image's sentences form one group (`ref`), because a sentence without a target has no referent to belong to.
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Sequence

import numpy as np

from mllmseg.data import layouts
from mllmseg.data.datasets.coco_mini import CocoMini, Expression, union_mask
from mllmseg.data.referring import DATASETS, DatasetEntry, Mask, Query, UnknownTargetError, choose_splits
from mllmseg.errors import DataError

NAME = "coco-mini"
SPLITS = ("train", "val")


class CocoMiniQueries:
    """One split. See `referring.ReferringDataset`."""

    name = NAME

    def __init__(self, data: CocoMini) -> None:
        """The sentences of a split."""
        self.split, root = data.split, data.root
        self.source = f"{root / f'instances_{self.split}.json'}, {root / f'expressions_{self.split}.jsonl'}"
        self.data = data
        self._expressions: dict[str, Expression] = {}
        seen: collections.Counter[int] = collections.Counter()
        queries = []
        for expression in data.expressions:
            ref = f"{NAME}/{expression.image_id}"
            number, seen[expression.image_id] = seen[expression.image_id], seen[expression.image_id] + 1
            query = Query(
                id=f"{ref}/{number}",
                image=data.photos[expression.image_id].path.relative_to(root / "images").as_posix(),
                text=expression.text,
                ref=ref,
                has_target=expression.ann_ids is None or bool(expression.ann_ids),
                kind=f"template/{expression.rule}" if expression.source == "template" else "human",
                box=expression.box if expression.ann_ids is None else None,
            )
            self._expressions[query.id] = expression
            queries.append(query)
        self.queries: tuple[Query, ...] = tuple(queries)

    def image_path(self, query: Query) -> pathlib.Path:
        """The query's image file. Raises DataError where it is missing."""
        path = self.data.photos[self._expressions[query.id].image_id].path
        if not path.is_file():
            raise DataError(f"{query.id}: no image {path}")
        return path

    def target(self, query: Query) -> Mask:
        """`[H, W]` of 0 and 1. Raises UnknownTargetError where only the target's box is known."""
        expression = self._expressions[query.id]
        photo = self.data.photos[expression.image_id]
        if expression.ann_ids is None:
            raise UnknownTargetError(f"{self.source}: {query.id}: only the target's box is known, not its mask")
        return union_mask(photo, expression.ann_ids).astype(np.uint8)


def _load(data_root: pathlib.Path, splits: Sequence[str] | None) -> list[CocoMiniQueries]:
    spellings = [f"{folder}/instances_{split}.json" for folder in (".", "coco-mini", "coco_mini") for split in SPLITS]
    folder = layouts.find(data_root, spellings, "labels of coco-mini").parent
    present = [split for split in SPLITS if (folder / f"instances_{split}.json").is_file()]
    return [CocoMiniQueries(CocoMini(folder, split)) for split in choose_splits(splits, present, folder)]


DATASETS.register(NAME)(
    DatasetEntry(
        SPLITS,
        "val",
        _load,
        "instances_SPLIT.json, expressions_SPLIT.jsonl and images/ into coco-mini/ (docs/training.md)",
    )
)
