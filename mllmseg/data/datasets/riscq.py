"""RIS-CQ: complex sentences about regions of COCO's panoptic segmentation.

The public file, `sub_ris.json`, is a list of 1,000 `{file_name, sentence, pan_seg_file, id}`: one sentence an image,
every image from COCO train2017, every sentence with a target, and no splits. The language model that wrote the
sentences left talk of its own in some of them (`residue`). In a panoptic PNG a pixel's segment is R + 256 G + 65536 B.

The split `all` is the file as published, `clean` the same without the sentences that hold residue; ids are the same.

Source: "RIS-CQ", TOMM 2024 (DuMoGa).
"""

from __future__ import annotations

import collections
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllmseg.data import layouts
from mllmseg.data.json_files import read_json
from mllmseg.data.masks import image_size, read_pixels
from mllmseg.data.referring import DATASETS, DatasetEntry, Mask, Query, choose_splits
from mllmseg.errors import DataError

NAME = "riscq"
SPLITS = ("all", "clean")
_FILES = tuple(f"{folder}sub_ris.json" for folder in ("", "riscq/", "RIS-CQ/", "ris-cq/", "ris_cq/", "benchmark/"))
# What a model that was asked to rewrite a sentence says besides the sentence.
_RESIDUE = {
    "more than one paragraph": re.compile(r"\n"),
    "a remark in parentheses": re.compile(r"\("),
    "talk about the task": re.compile(
        r"\b(suffix(es)?|rewritten|revised|relation descriptions?|the sentence|original sentence|answer:|sorry|"
        r"i understand|please provide|as an ai)\b",
        re.IGNORECASE,
    ),
}


@dataclass(frozen=True)
class RiscqRecord:
    """One line of the file.

    Attributes:
        file_name: such as `train2017/000000417720.jpg`.
        sentence: as it stands there.
        pan_seg_file: such as `panoptic_train2017/000000417720.png`.
        segment_id: the target's segment in it.
    """

    file_name: str
    sentence: str
    pan_seg_file: str
    segment_id: int


def residue(sentence: str) -> str | None:
    """Why a sentence is not (only) a description, or None where it is one."""
    return next((reason for reason, pattern in _RESIDUE.items() if pattern.search(sentence)), None)


def read_records(path: pathlib.Path) -> list[RiscqRecord]:
    """The records of a `sub_ris.json`. Raises DataError where it or a record is broken."""
    return [parse_record(path, number, item) for number, item in enumerate(read_raw(path))]


def read_raw(path: pathlib.Path) -> list[Any]:
    """The list in a `sub_ris.json`, as it stands there. Raises DataError where it is none."""
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of records, found {type(content).__name__}")
    return content


def parse_record(path: pathlib.Path, number: int, item: Any) -> RiscqRecord:
    """One record, number `number` of the file. Raises DataError where a key is missing."""
    try:
        return RiscqRecord(
            str(item["file_name"]).replace("\\", "/"),
            str(item["sentence"]),
            str(item["pan_seg_file"]).replace("\\", "/"),
            int(item["id"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: record {number}: {problem}") from error


def segment_ids(path: pathlib.Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`[H, W]` int64: each pixel's segment in a panoptic PNG. Raises DataError where it is missing or damaged."""
    red, green, blue = np.moveaxis(read_pixels(path, "RGB").astype(np.int64), 2, 0)
    return red + 256 * green + 65536 * blue


class RiscqDataset:
    """The file with all its sentences, or those without residue. See `referring.ReferringDataset`."""

    name = NAME

    def __init__(self, path: pathlib.Path, split: str, data_root: pathlib.Path) -> None:
        """Reads the file. Raises DataError where it or a record is broken."""
        self.split, self.source = split, str(path)
        self._images = layouts.ImageFolders(data_root, layouts.COCO_2017_ROOTS)
        self._panoptic = layouts.ImageFolders(data_root, layouts.PANOPTIC_2017_ROOTS)
        self._records: dict[str, RiscqRecord] = {}
        seen: collections.Counter[str] = collections.Counter()
        queries = []
        for record in read_records(path):
            ref = f"{NAME}/{pathlib.PurePosixPath(record.file_name).stem}-{record.segment_id}"
            number, seen[ref] = seen[ref], seen[ref] + 1
            self._records[ref] = record
            if split == "all" or residue(record.sentence) is None:
                queries.append(Query(f"{ref}/{number}", record.file_name, record.sentence, ref, has_target=True))
        self.queries: tuple[Query, ...] = tuple(queries)

    def image_path(self, query: Query) -> pathlib.Path:
        """The query's image file. Raises DataError where it is missing."""
        return self._images.path(query.image, query.id)

    def target(self, query: Query) -> Mask:
        """`[H, W]` of 0 and 1, from the panoptic PNG.

        Raises:
            DataError: the PNG is missing, has not the segment, or not the image's size.
        """
        record = self._records[query.ref]
        path = self._panoptic.path(record.pan_seg_file, query.id)
        mask = (segment_ids(path) == record.segment_id).astype(np.uint8)
        if not mask.any():
            raise DataError(f"{path}: {query.id}: no pixel of segment {record.segment_id}; is the PNG COCO's own?")
        size = image_size(self.image_path(query))
        if mask.shape != size:
            raise DataError(f"{path}: {query.id}: mask of size {list(mask.shape)} for an image of {list(size)}")
        return mask


def _load(data_root: pathlib.Path, splits: Sequence[str] | None) -> list[RiscqDataset]:
    path = layouts.find(data_root, _FILES, "RIS-CQ file")
    return [RiscqDataset(path, split, data_root) for split in choose_splits(splits, SPLITS, path)]


DATASETS.register(NAME)(
    DatasetEntry(
        SPLITS,
        "all",
        _load,
        "sub_ris.json into riscq/, COCO's train2017 images into coco/train2017/, its panoptic PNGs into "
        "coco/panoptic_train2017/",
    )
)
