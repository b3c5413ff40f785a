"""The format of saved predictions, this project's and anybody's: one JSON object a query, a line each.

`{"id", "image", "text", "exists", "score", "answer", "rle", "box", "mode"}`, where `rle` is COCO's compressed
run-length code of all masks together at the image's own size (H W). Lines hold no times and only rounded numbers, so
that a run that was interrupted or split gives the same bytes as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mllmseg.errors import DataError

SCORE_DIGITS = 6
REQUIRED = ("id", "image", "text", "exists", "score", "rle")


@dataclass(frozen=True)
class PredictionLine:
    """The word on one query.

    Attributes:
        id: the query's.
        image: its image's name.
        text: the sentence.
        exists: the decision that something fits.
        score: P(something fits), 0..1; where others give null, 1 or 0 by `exists`.
        answer: in words.
        rle: all masks together, `{"size": [H, W], "counts": str}`; None where nothing was painted.
        box: (x, y, width, height) around it, in pixels.
        mode: `scored`, `free` or `teacher`; others may leave it out.
    """

    id: str
    image: str
    text: str
    exists: bool
    score: float
    answer: str = ""
    rle: dict[str, Any] | None = None
    box: tuple[int, int, int, int] | None = None
    mode: str = ""

    def to_bytes(self) -> bytes:
        """The line, newline included."""
        values = asdict(self) | {"score": round(self.score, SCORE_DIGITS)}
        return (json.dumps(values, ensure_ascii=False) + "\n").encode("utf-8")

    def mask(self, size: tuple[int, int], where: str) -> npt.NDArray[np.bool_]:
        """`[H, W]` bool, empty where nothing was painted. Raises DataError, naming `where`, for another size."""
        if self.rle is None:
            return np.zeros(size, dtype=bool)
        if tuple(self.rle["size"]) != size:
            raise DataError(
                f"{where}: query '{self.id}' has a mask of height x width {_times(self.rle['size'])}, its image's "
                f"labels are {_times(size)}; masks are given at the image's own size"
            )
        from mllmseg.models.postprocess import decode_rle

        try:
            return np.asarray(decode_rle(self.rle).numpy())
        except DataError as error:
            raise DataError(f"{where}: query '{self.id}': {error}") from error


def parse_line(line: bytes, where: str) -> PredictionLine:
    """Reads one line; keys it does not know are passed over.

    Args:
        line: JSON.
        where: file and line, for messages.

    Raises:
        DataError: no JSON object, a key is missing, or a value is not what it should be.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected an object, found {type(values).__name__}")
    missing = [key for key in REQUIRED if key not in values]
    if missing:
        raise DataError(f"{where}: no {', '.join(repr(key) for key in missing)}; a line needs {', '.join(REQUIRED)}")
    name = f"{where}: query '{values['id']}'"
    for key in ("id", "image", "text"):
        _expect(isinstance(values[key], str), name, key, values[key], "text")
    _expect(isinstance(values["exists"], bool), name, "exists", values["exists"], "true or false")
    exists, score, rle = values["exists"], values["score"], values["rle"]
    _expect(
        score is None or (_is_number(score) and 0 <= score <= 1), name, "score", score, "a number from 0 to 1, or null"
    )
    if rle is not None:
        _check_rle(name, rle)
    elif exists:
        raise DataError(f"{name}: exists is true but rle is null; give the mask, an empty one where nothing is painted")
    box = values.get("box")
    plain = isinstance(box, list) and len(box) == 4 and all(_is_number(side) for side in box)
    _expect(box is None or plain, name, "box", box, "[x, y, width, height] or null")
    return PredictionLine(
        id=values["id"],
        image=values["image"],
        text=values["text"],
        exists=exists,
        score=float(exists) if score is None else float(score),
        answer=str(values.get("answer") or ""),
        rle=rle,
        box=None if box is None else tuple(box),
        mode=str(values.get("mode") or ""),
    )


def _check_rle(name: str, rle: Any) -> None:
    size = rle.get("size") if isinstance(rle, dict) else None
    fits = isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    known = fits and isinstance(rle.get("counts"), str | list)
    _expect(known, name, "rle", rle, '{"size": [height, width], "counts": text} as pycocotools encodes it')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _expect(fits: bool, name: str, key: str, value: Any, wanted: str) -> None:
    if not fits:
        raise DataError(f"{name}: {key} is {str(value)[:60]!r}, expected {wanted}")


def _times(size: Any) -> str:
    return " x ".join(str(side) for side in size)


@dataclass(frozen=True)
class Place:
    """Where in which file a line lies: `offset` and `length` in bytes, `number` from 1."""

    path: pathlib.Path
    number: int
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.path}: line {self.number}"


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[Place, bytes]]:
    """The lines of a file that hold something, one at a time. Raises DataError where there is no such file."""
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Place(path, number, offset, len(line)), line
                offset += len(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file of predictions") from error


def read_at(place: Place) -> PredictionLine:
    """The line at its place."""
    with place.path.open("rb") as file:
        file.seek(place.offset)
        return parse_line(file.read(place.length), str(place))


def index_predictions(paths: list[pathlib.Path]) -> dict[str, Place]:
    """Checks every line of some files; returns where each query's lies, so that masks need not be held in memory.

    Raises:
        DataError: a line is broken, or two are about the same query.
    """
    places: dict[str, Place] = {}
    for path in paths:
        for place, line in read_lines(path):
            prediction = parse_line(line, str(place))
            if prediction.id in places:
                raise DataError(f"{place}: query '{prediction.id}' has a prediction already ({places[prediction.id]})")
            places[prediction.id] = place
    return places
