"""Images that a training set and a test set share.

RefCOCO's val and test images lie in COCO train2014, RIS-CQ's in train2017; COCO's numbers are the same in both years,
so `COCO_train2014_000000000009.jpg` and `train2017/000000000009.webp` are one photo.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mllmseg.data.datasets.coco_mini_queries import CocoMiniQueries
from mllmseg.data.referring import open_dataset
from mllmseg.errors import DataError

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Leak:
    """One photo that is in both.

    Attributes:
        photo: `coco 9` for COCO's photo of this number, else the file name without folder and suffix.
        train: its name in the training set.
        test: its name in the test set.
    """

    photo: str
    train: str
    test: str


def photo_key(name: str) -> str:
    """What makes two image files one photo: COCO's number where the name holds one, else the name without suffix."""
    stem = pathlib.PurePosixPath(name.replace("\\", "/")).stem
    match = _COCO_NAME.fullmatch(stem)
    return f"coco {int(match[1])}" if match else stem


def find_leaks(train: Iterable[str], test: Iterable[str]) -> list[Leak]:
    """Every photo in both, once, in the test set's order."""
    trained = {photo_key(name): name for name in train}
    leaks: dict[str, Leak] = {}
    for name in test:
        key = photo_key(name)
        if key in trained:
            leaks.setdefault(key, Leak(key, trained[key], name))
    return list(leaks.values())


def image_names(source: str, data_root: str | os.PathLike[str] | None) -> list[str]:
    """The image names of a set, each once.

    Args:
        source: a dataset as `NAME[:SPLIT]`, a folder of images, a JSON or JSONL file whose records name their image
            as `image` or `file_name` (COCO's instances and predictions too), or a text file with a name a line.
        data_root: where datasets lie.

    Raises:
        ConfigError: neither a path nor a known dataset.
        DataError: it is broken or names no image.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        names = [
            item.relative_to(path).as_posix()
            for item in sorted(path.rglob("*"))
            if item.suffix.lower() in IMAGE_SUFFIXES
        ]
    elif path.is_file():
        names = _names_in_file(path)
    else:
        dataset = open_dataset(source, data_root=data_root)
        names = [query.image for query in dataset.queries]
        if isinstance(dataset, CocoMiniQueries):  # whose photos without sentences are trained on too
            names += [photo.path.name for photo in dataset.data.photos.values()]
    if not names:
        raise DataError(f"{source}: names no images")
    return list(dict.fromkeys(names))


def _names_in_file(path: pathlib.Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix not in (".json", ".jsonl"):
            return [line.strip() for line in text.splitlines() if line.strip()]
        if path.suffix == ".jsonl":
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            content = json.loads(text)
            records = content.get("images", [content]) if isinstance(content, dict) else content
        return [str(record["image"] if "image" in record else record["file_name"]) for record in records]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a record without 'image' or 'file_name'") from error
    except ValueError as error:
        raise DataError(f"{path}: not UTF-8 text or not valid JSON: {error}") from error
