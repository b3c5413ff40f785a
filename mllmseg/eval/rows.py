"""Saved predictions: one JSON line a query, with what every table needs."""

from __future__ import annotations

import json
import os
import pathlib
from dataclasses import asdict, dataclass, field
from typing import Any

from mllmseg.errors import DataError


@dataclass(frozen=True)
class Row:
    """One query's line.

    Attributes:
        id: the split and the sentence's place in its file.
        image: the image's id.
        text: the sentence.
        source: `template` or where people's sentences come from.
        rule: which template.
        has_target: something fits the sentence.
        exists: the model's decision.
        score: its P(the target exists).
        answer: its words.
        rle: COCO RLE of the mask at the image's own size, None where it rejected.
        I: pixels of the intersection, None where only the target's box is known.
        U: pixels of the union, likewise.
        P: pixels predicted.
        iou: gres's term: I/U, or 1 for a right rejection; None where I is.
        forced: (I, U) of the mask before the decision, where there is a target with a mask.
        box_iou: of the mask's box with the given one, where only that is known.
        whole: (I, U) of answering with the whole image.
        largest: (I, U) of answering with the largest superpixel.
        tokens: visual tokens read.
        ms: wall time, the image's share included.
        timings: milliseconds by stage as the model reports them.
        mask_scores: SAM's estimates.
    """

    id: str
    image: int
    text: str
    source: str
    rule: str | None
    has_target: bool
    exists: bool
    score: float
    answer: str
    rle: dict[str, Any] | None
    I: int | None  # noqa: E741  (the letter of the definition)
    U: int | None
    P: int
    iou: float | None
    forced: tuple[int, int] | None = None
    box_iou: float | None = None
    whole: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    tokens: int = 0
    ms: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    mask_scores: tuple[float, ...] = ()


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The lines of a predictions file, none where there is no file. A last line that was cut off is removed.

    Raises:
        DataError: another line is not a row.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    rows = []
    for number, line in enumerate(whole.decode("utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
            for key in ("forced", "whole", "largest", "mask_scores"):
                values[key] = None if values.get(key) is None else tuple(values[key])
            rows.append(Row(**values))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: line {number} is no prediction: {error}") from error
    return rows


def append_row(path: str | os.PathLike[str], row: Row) -> None:
    """Adds one line with a single write, so that an interruption leaves at most one cut line, at the end."""
    line = json.dumps(asdict(row), ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode("utf-8"))
    finally:
        os.close(descriptor)
