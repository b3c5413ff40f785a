"""Referring datasets as training data: all sentences about an image are branches of one sample."""

from __future__ import annotations

import random

from torch import Tensor

from mllmseg.config import DataConfig
from mllmseg.data.datasets.coco_mini import Box, Photo
from mllmseg.data.referring import Query, open_dataset
from mllmseg.data.training import (
    REFERRING,
    SOURCES,
    Opening,
    Sample,
    TrainingImage,
    View,
    answer,
    ask,
    check_text,
    names_a_side,
    shrink,
    stacked,
)
from mllmseg.errors import DataError
from mllmseg.structures import Turn


class ReferringSource:
    """One split of one dataset, grouped by image. See `training.TrainingSource`."""

    stages = frozenset({"instruct", "point", "refine"})
    categories: tuple[str, ...] = ()

    def __init__(self, opening: Opening) -> None:
        """Reads the annotations. Raises DataError where they are missing or, unless such are skipped, one is bad."""
        self.name, self._bad = opening.name, opening.bad
        self._data = open_dataset(opening.config.name, data_root=opening.root)
        groups: dict[str, list[Query]] = {}
        for query in self._data.queries:
            try:
                check_text(query.text, "the sentence")
                if query.has_target is None:
                    raise DataError("nothing says whether the sentence has a target")
            except DataError as error:
                opening.bad.add(query.id, error)
                continue
            groups.setdefault(query.image, []).append(query)
        self._queries: list[list[Query]] = []
        found = []
        for name, queries in groups.items():
            try:
                found.append((name, self._data.image_path(queries[0]), None))
            except DataError as error:
                opening.bad.add(f"{self.name}/{name}", error)
                continue
            self._queries.append(queries)
        self.images = opening.images(found)

    def boxes(self, image: TrainingImage) -> dict[int, Box]:
        """None: targets are drawn."""
        return {}

    def labelled(self, image: TrainingImage, view: View) -> tuple[Photo, dict[int, Tensor]] | None:
        """None: what is not referred to has no label."""
        return None

    def draw(self, image: TrainingImage, view: View, rng: random.Random, data: DataConfig, *, stage: str) -> Sample:
        """Some of the sentences about the image."""
        queries = self._queries[image.index]
        masks, exists, branches = [], [], []
        for query in rng.sample(queries, min(data.queries, len(queries))):
            try:
                mask = self._target(query, view)
            except DataError as error:
                self._bad.add(query.id, error)
                continue
            if mask is not None:
                masks.append(mask)
            exists.append(mask is not None)
            branches.append((Turn(ask(query.text, rng), answer(query.text, exists=mask is not None)),))
        if not branches:
            raise DataError("none of its sentences can be used")
        flipped = rng.random() < data.flip and not any(names_a_side(turn.question) for (turn,) in branches)
        return Sample(tuple(branches), stacked(masks, view, flipped=flipped), tuple(exists), flipped)

    def _target(self, query: Query, view: View) -> Tensor | None:
        """`[h, w]` bool; None for no target. Void counts as background."""
        if not query.has_target:
            return None
        mask = self._data.target(query)
        if mask.shape != view.size:
            raise DataError(f"mask of size {list(mask.shape)} (height, width) for an image of {list(view.size)}")
        if not (mask == 1).any():
            raise DataError("the target has no pixel")
        return shrink(mask == 1, view.grid)


SOURCES.register(REFERRING)(ReferringSource)
