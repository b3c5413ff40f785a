"""Own data: one JSON object a line (or a JSON list of them) with an image, a sentence and, where known, the target.

`{"image": "a.jpg", "text": "the dog", "id": "…", "ref": "…", "kind": "…", "exists": true, "masks": […]}`: all but the
first two may be missing. A mask is polygons, run lengths `{"size", "counts"}` or the path of a PNG relative to the
file. Without `exists` a list of masks says whether there is a target: an empty one says there is none.
"""

from __future__ import annotations

import difflib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mllmseg.data.masks import Size, draw, image_size, union
from mllmseg.data.referring import JSONL, Mask, Query, UnknownTargetError
from mllmseg.errors import DataError

KEYS = ("image", "text", "id", "ref", "kind", "exists", "masks")


class JsonlDataset:
    """A file of one's own. See `referring.ReferringDataset`."""

    name = JSONL

    def __init__(self, path: str | os.PathLike[str], *, image_root: str | os.PathLike[str] | None = None) -> None:
        """Reads the file.

        Args:
            path: JSONL, or JSON with a list.
            image_root: what `image` is relative to; None for the file's folder.

        Raises:
            DataError: the file or a record is broken, or two records have one id.
        """
        self.path = pathlib.Path(path)
        self.split, self.source = self.path.stem, str(self.path)
        self._image_root = self.path.parent if image_root is None else pathlib.Path(image_root)
        self._masks: dict[str, tuple[str, list[Any] | None]] = {}
        queries = []
        for where, entry, query in read_queries(self.path):
            self._masks[query.id] = (where, entry.get("masks"))
            queries.append(query)
        self.queries: tuple[Query, ...] = tuple(queries)

    def image_path(self, query: Query) -> pathlib.Path:
        """The query's image file. Raises DataError where it is missing."""
        path = self._image_root / query.image
        if not path.is_file():
            raise DataError(f"{self._masks[query.id][0]}: no image {path}; say with --image-root where images lie")
        return path

    def target(self, query: Query) -> Mask:
        """`[H, W]` of 0 and 1.

        Raises:
            UnknownTargetError: the record does not tell.
            DataError: a mask is broken, or the image, whose size it takes, is missing.
        """
        where, masks = self._masks[query.id]
        if query.has_target is None or (query.has_target and not masks):
            raise UnknownTargetError(f"{where}: the record has no 'masks', so its target is not known")
        size: Size = image_size(self.image_path(query))
        if not query.has_target or masks is None:
            return np.zeros(size, dtype=np.uint8)
        return union((draw(mask, size, where, folder=self.path.parent) for mask in masks), size)


def read_records(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """Each record of a JSONL file, or of a JSON file with a list, with its place for messages. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error}") from error
    if text.lstrip().startswith("["):
        try:
            yield from ((f"{path}: record {number}", entry) for number, entry in enumerate(json.loads(text)))
        except ValueError as error:
            raise DataError(f"{path}: not valid JSON: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path}: line {number}", json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}: line {number}: not valid JSON: {error}") from error


def read_queries(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any], Query]]:
    """Each record with its place and what it asks. Raises DataError where one is broken, or two have one id."""
    known = set()
    for number, (where, entry) in enumerate(read_records(path)):
        query = parse_line(entry, number, where)
        if query.id in known:
            raise DataError(f"{where}: id '{query.id}' is used twice")
        known.add(query.id)
        yield where, entry, query


def parse_line(entry: Any, number: int, where: str) -> Query:
    """One record, the `number`-th of its file. Raises DataError, with `where`, if a key is missing or wrong."""
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object, found {type(entry).__name__}")
    for key in entry.keys() - set(KEYS):
        # A key of one's own is welcome, a misspelt one would silently change what is measured.
        if close := difflib.get_close_matches(key, KEYS, n=1, cutoff=0.75):
            raise DataError(f"{where}: unknown key '{key}': did you mean '{close[0]}'?")
    for key in ("image", "text"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise DataError(f"{where}: '{key}' must be a string that is not empty")
    exists, masks = entry.get("exists"), entry.get("masks")
    if exists is not None and not isinstance(exists, bool):
        raise DataError(f"{where}: 'exists' must be true, false or null, not {exists!r}")
    if masks is not None and not isinstance(masks, list):
        raise DataError(f"{where}: 'masks' must be a list, not {type(masks).__name__}")
    if exists is False and masks:
        raise DataError(f"{where}: 'exists' is false, but there are masks")
    if exists is True and masks == []:
        raise DataError(f"{where}: 'exists' is true, but 'masks' is empty")
    ident = str(entry.get("id", f"{JSONL}/{number}/0"))
    return Query(
        id=ident,
        image=entry["image"].replace("\\", "/"),
        text=entry["text"],
        ref=str(entry.get("ref", ident)),
        has_target=exists if exists is not None or masks is None else bool(masks),
        kind=str(entry.get("kind", "")),
    )
