"""ReasonSeg: questions that need reasoning; a photo `X.jpg` and its labels `X.json` side by side, one folder a split.

`X.json` has `text` (a list of sentences), `is_sentence` and `shapes` `[{label, points}]`, where label is `target`,
`ignore` (void) or `flag` (skipped). Shapes are painted from the largest to the smallest, outline included, as LISA
does; LISA paints with OpenCV and this with Pillow, so pixels on an outline may differ.

LISA evaluates each photo of val and test with its first sentence only, and so does this; train gives all of them.

Source: Lai et al., "LISA: Reasoning Segmentation via Large Language Model", CVPR 2024.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mllmseg.constants import IGNORE_LABEL
from mllmseg.data import layouts
from mllmseg.data.masks import Size, image_size
from mllmseg.data.referring import DATASETS, DatasetEntry, Mask, Query, choose_splits
from mllmseg.errors import DataError

NAME = "reasonseg"
SPLITS = ("train", "val", "test")
_FOLDERS = ("reason_seg/ReasonSeg", "ReasonSeg", "reasonseg", "reason_seg")


class ReasonSegDataset:
    """One split. See `referring.ReferringDataset`."""

    name = NAME

    def __init__(self, folder: pathlib.Path, split: str) -> None:
        """Reads every `X.json` of `folder`/`split`. Raises DataError where one is broken."""
        self.split, self.folder = split, folder / split
        self.source = str(self.folder)
        self._shapes: dict[str, tuple[pathlib.Path, list[dict[str, Any]]]] = {}
        queries: list[Query] = []
        for path in sorted(self.folder.glob("*.json")):
            content = _read_labels(path)
            ref = f"{NAME}/{path.stem}"
            self._shapes[ref] = (path, content["shapes"])
            texts = content["text"] if split == "train" else content["text"][:1]
            kind = "sentence" if content.get("is_sentence") else "phrase"
            queries += [
                Query(f"{ref}/{number}", f"{path.stem}.jpg", text, ref, has_target=True, kind=kind)
                for number, text in enumerate(texts)
            ]
        self.queries: tuple[Query, ...] = tuple(queries)

    def image_path(self, query: Query) -> pathlib.Path:
        """The query's image file. Raises DataError where it is missing."""
        path = self.folder / query.image
        if not path.is_file():
            raise DataError(f"{query.id}: no image {path}")
        return path

    def target(self, query: Query) -> Mask:
        """`[H, W]` of 0, 1 and, where shapes are labelled `ignore`, 255. Raises DataError where a shape is broken."""
        path, shapes = self._shapes[query.ref]
        return _paint(shapes, image_size(self.image_path(query)), path)


def _read_labels(path: pathlib.Path) -> dict[str, Any]:
    raw = path.read_bytes()
    try:
        try:
            content = json.loads(raw)
        except UnicodeDecodeError:
            content = json.loads(raw.decode("cp1252"))  # some were saved on Windows
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f"{path}: expected an object with a list 'shapes'")
    text = content.get("text")
    content["text"] = [text] if isinstance(text, str) else text
    if not isinstance(content["text"], list) or not content["text"]:
        raise DataError(f"{path}: expected a list 'text' with at least one sentence")
    return content


def _paint(shapes: list[dict[str, Any]], size: Size, path: pathlib.Path) -> Mask:
    areas = []
    for number, shape in enumerate(shapes):
        try:
            label, points = str(shape["label"]).lower(), [(int(x), int(y)) for x, y in shape["points"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: shape {number}: {type(error).__name__}: {error}") from error
        if label != "flag" and points:
            alone = _polygon(np.zeros(size, dtype=np.uint8), points, 1)
            areas.append((int(alone.sum()), IGNORE_LABEL if "ignore" in label else 1, points))
    mask: Mask = np.zeros(size, dtype=np.uint8)
    for _, value, points in sorted(areas, key=lambda item: item[0])[::-1]:
        mask = _polygon(mask, points, value)
    return mask


def _polygon(mask: Mask, points: list[tuple[int, int]], value: int) -> Mask:
    image = Image.fromarray(mask)
    canvas = ImageDraw.Draw(image)
    if len(points) < 3:
        canvas.line([*points, points[0]], fill=value)
    else:
        canvas.polygon(points, fill=value, outline=value)
    return np.asarray(image)


def _load(data_root: pathlib.Path, splits: Sequence[str] | None) -> list[ReasonSegDataset]:
    spellings = [folder for folder in _FOLDERS if any(_has_split(data_root, folder, split) for split in SPLITS)]
    folder = layouts.find(data_root, spellings or _FOLDERS[:1], "ReasonSeg folder with train/, val/ or test/")
    present = [split for split in SPLITS if (folder / split).is_dir()]
    return [ReasonSegDataset(folder, split) for split in choose_splits(splits, present, folder)]


def _has_split(data_root: pathlib.Path, folder: str, split: str) -> bool:
    return any((base / folder / split).is_dir() for base in layouts.bases(data_root))


DATASETS.register(NAME)(
    DatasetEntry(SPLITS, "val", _load, "X.jpg and X.json into reason_seg/ReasonSeg/train/, …/val/ and …/test/")
)
