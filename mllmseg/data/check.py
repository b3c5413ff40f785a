"""What lies below a data root: which datasets, where, how much of each, and what is missing."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mllmseg.data.published import PUBLISHED, Published
from mllmseg.data.referring import (
    DatasetEntry,
    NotThereError,
    Query,
    ReferringDataset,
    UnknownTargetError,
    known_datasets,
)
from mllmseg.errors import DataError


@dataclass(frozen=True)
class SplitReport:
    """One split as it was found.

    Attributes:
        split: its name in the file.
        source: the annotation files read.
        images: how many different ones its sentences are about.
        refs: groups of sentences about one referent.
        sentences: queries.
        positives: of these, with a target.
        negatives: of these, without one.
        missing_images: images whose file is not there.
        published: its size by its publication, None where that is not known.
        differences: where the counts are not the published ones.
        broken: targets that cannot be drawn, the first few; empty where masks were not looked at.
        num_broken: how many there are.
        num_empty: sentences with a target whose labels draw not one pixel.
        num_unknown: sentences with a target whose mask the data do not give.
    """

    split: str
    source: str
    images: int
    refs: int
    sentences: int
    positives: int
    negatives: int
    missing_images: int
    published: Published | None
    differences: tuple[str, ...]
    broken: tuple[str, ...] = ()
    num_broken: int = 0
    num_empty: int = 0
    num_unknown: int = 0


@dataclass(frozen=True)
class DatasetReport:
    """One dataset as it was found.

    Attributes:
        name: the dataset.
        splits: what was found of it; empty where nothing was, or where it is broken.
        problem: why nothing was, in the reader's words.
        absent: no file of it was found, rather than a broken one.
        put: what to put where.
    """

    name: str
    splits: tuple[SplitReport, ...]
    problem: str | None
    absent: bool
    put: str

    @property
    def wrong(self) -> bool:
        """It is there but broken, incomplete, or not of its published size."""
        if self.absent:
            return False
        return self.problem is not None or any(
            split.differences or split.missing_images or split.num_broken for split in self.splits
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json.dumps` takes."""
        return asdict(self) | {"wrong": self.wrong}


def check_root(
    data_root: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    masks: bool = False,
    on_dataset: Callable[[str], None] | None = None,
) -> list[DatasetReport]:
    """Looks for every dataset below a root.

    Args:
        data_root: the folder.
        names: only these datasets; None for all.
        masks: draw every target too (minutes for the large sets).
        on_dataset: called with each name before it is read.

    Raises:
        ConfigError: one of `names` is not known.
        DataError: there is no such folder.
    """
    root = pathlib.Path(data_root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    known = known_datasets()
    reports = []
    for name in names or list(known):
        if on_dataset is not None:
            on_dataset(name)
        reports.append(_check_dataset(name, known.get(name), root, masks=masks))
    return reports


def _check_dataset(name: str, entry: DatasetEntry, root: pathlib.Path, *, masks: bool) -> DatasetReport:
    try:
        found = entry.load(root, None)
        splits = tuple(_check_split(dataset, masks=masks) for dataset in found)
        return DatasetReport(name, splits, None, absent=False, put=entry.put)
    except DataError as error:
        return DatasetReport(name, (), str(error), absent=isinstance(error, NotThereError), put=entry.put)


def _check_split(dataset: ReferringDataset, *, masks: bool) -> SplitReport:
    queries = dataset.queries
    of_image = {query.image: query for query in queries}
    published = PUBLISHED.get((dataset.name, dataset.split))
    counts = {"images": len(of_image), "refs": len({query.ref for query in queries}), "sentences": len(queries)}
    expected = asdict(published) if published else {}
    broken, num_empty, num_unknown = _check_masks(dataset) if masks else ([], 0, 0)
    return SplitReport(
        split=dataset.split,
        source=dataset.source,
        **counts,
        positives=sum(query.has_target is True for query in queries),
        negatives=sum(query.has_target is False for query in queries),
        missing_images=sum(not _has_image(dataset, query) for query in of_image.values()),
        published=published,
        differences=tuple(
            f"{counts[what]:,} {what}, published {value:,}"
            for what, value in expected.items()
            if value is not None and value != counts[what]
        ),
        broken=tuple(broken[:5]),
        num_broken=len(broken),
        num_empty=num_empty,
        num_unknown=num_unknown,
    )


def _has_image(dataset: ReferringDataset, query: Query) -> bool:
    try:
        dataset.image_path(query)
    except DataError:
        return False
    return True


def _check_masks(dataset: ReferringDataset) -> tuple[list[str], int, int]:
    """What is wrong with targets; how many have no pixel, and how many no mask, though the sentence has a target."""
    broken: list[str] = []
    empty = unknown = 0
    for query in dataset.queries:
        if query.has_target:
            try:
                empty += not (dataset.target(query) == 1).any()
            except UnknownTargetError:
                unknown += 1
            except DataError as error:
                broken.append(str(error))
    return broken, empty, unknown
