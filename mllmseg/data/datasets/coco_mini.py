"""Photos with labels and sentences in coco-mini's format: COCO instances plus one JSON line per sentence.

Beyond COCO's own keys an image has `label_scope` (which categories were looked for, so whose absence is provable)
and an annotation has `mask` (who drew it; null where only the box is known and `segmentation` is empty).
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from mllmseg.errors import DataError

Box = tuple[float, float, float, float]
MaskSource = Literal["human", "class-in-box", "class"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


VOC20 = _names(
    "airplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,dining table,dog,horse,motorcycle,person,potted plant,"
    "sheep,couch,train,tv"
)
COCO80 = VOC20 | _names(
    "truck,traffic light,fire hydrant,stop sign,parking meter,bench,elephant,bear,zebra,giraffe,backpack,umbrella,"
    "handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
    "tennis racket,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,"
    "donut,cake,bed,toilet,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,"
    "clock,vase,scissors,teddy bear,hair drier,toothbrush"
)


@dataclass(frozen=True)
class Instance:
    """One labelled object or, for stuff, one segment.

    Attributes:
        id: the annotation's id.
        category: the category's name.
        box: (x, y, width, height) in pixels.
        mask_source: who made the mask: `human`; `class-in-box`, a class mask cut to this instance's box; `class`, the
            union of a class (both shoes); or None where only the box is known.
        segmentation: as in the file: polygons, an RLE dict, or an empty list.
        is_crowd: the box holds several objects that were not told apart.
        area: as in the file: pixels of the mask, or of the box for box-only labels and some masks too.
    """

    id: int
    category: str
    box: Box
    mask_source: MaskSource | None
    segmentation: Any
    is_crowd: bool
    area: float


@dataclass(frozen=True)
class Photo:
    """One image and its labels.

    Attributes:
        id: the image's id.
        path: the file.
        size: (height, width) in pixels.
        scope: categories that were looked for: only their absence is provable.
        scope_name: the file's name for it: `coco80`, `panoptic`, `voc20`, `clothing` or a comma-separated list.
        instances: every label, crowds too.
        captions: sentences that describe the whole image.
        view_of: the id of the photo that this one is cut out of.
    """

    id: int
    path: pathlib.Path
    size: tuple[int, int]
    scope: frozenset[str]
    scope_name: str
    instances: tuple[Instance, ...]
    captions: tuple[str, ...] = ()
    view_of: int | None = None

    def instance(self, instance_id: int) -> Instance:
        """The label with this id. Raises DataError where the photo has none."""
        for instance in self.instances:
            if instance.id == instance_id:
                return instance
        raise DataError(f"image {self.id}: no instance {instance_id}")


@dataclass(frozen=True)
class Expression:
    """A sentence about one image and what it means.

    Attributes:
        image_id: the photo.
        text: the sentence.
        source: `template`, or where people's sentences come from.
        rule: which template, or None.
        ann_ids: ids of the instances meant; empty where nothing fits; None where only `box` is known.
        box: (x, y, width, height) of the target where it was given.
        tags: the annotators' remarks on the sentence.
    """

    image_id: int
    text: str
    source: str
    rule: str | None
    ann_ids: tuple[int, ...] | None
    box: Box | None
    tags: tuple[str, ...] = ()


class CocoMini:
    """One split, read once. The image files are opened by whoever needs them.

    Attributes:
        photos: by image id, in the file's order.
        expressions: in the file's order; empty where the split has no sentences file.
        categories: name → whether it is a thing (else stuff).
    """

    def __init__(self, root: str | os.PathLike[str], split: str) -> None:
        """Reads `instances_SPLIT.json` and, where present, `expressions_SPLIT.jsonl` below `root`.

        Raises:
            DataError: a file is missing or a record does not hold what it should; names the file and the record.
        """
        self.root = pathlib.Path(root)
        self.split = split
        path = self.root / f"instances_{split}.json"
        content = _read_json(path)
        names = {}
        self.categories: dict[str, bool] = {}
        for entry in _records(path, content, "categories"):
            with _context(path, "category", entry):
                names[int(entry["id"])] = str(entry["name"])
                self.categories[str(entry["name"])] = bool(entry["isthing"])
        instances: dict[int, list[Instance]] = {}
        taken: set[int] = set()
        for entry in _records(path, content, "annotations"):
            with _context(path, "annotation", entry):
                if int(entry["id"]) in taken:
                    raise ValueError("this id is used twice")
                taken.add(int(entry["id"]))
                instances.setdefault(int(entry["image_id"]), []).append(_parse_instance(entry, names))
        self.photos: dict[int, Photo] = {}
        for entry in _records(path, content, "images"):
            with _context(path, "image", entry):
                if int(entry["id"]) in self.photos:
                    raise ValueError("this id is used twice")
                self.photos[int(entry["id"])] = self._parse_photo(entry, instances.pop(int(entry["id"]), []))
        if instances:
            raise DataError(f"{path}: annotations for images it does not list: {sorted(instances)[:5]}")
        self.expressions = self._read_expressions(self.root / f"expressions_{split}.jsonl")

    def expressions_of(self, image_id: int) -> tuple[Expression, ...]:
        """The sentences about one photo."""
        return tuple(expression for expression in self.expressions if expression.image_id == image_id)

    def _parse_photo(self, entry: dict[str, Any], instances: list[Instance]) -> Photo:
        if not isinstance(entry["file_name"], str):
            raise ValueError(f"file_name is {entry['file_name']!r}, not the name of a file in images/")
        scope_name = str(entry["label_scope"])
        return Photo(
            id=int(entry["id"]),
            path=self.root / "images" / str(entry["file_name"]),
            size=(int(entry["height"]), int(entry["width"])),
            scope=_scope(scope_name, self.categories),
            scope_name=scope_name,
            instances=tuple(instances),
            captions=tuple(str(caption) for caption in entry.get("captions") or ()),
            view_of=None if entry.get("view_of") is None else int(entry["view_of"]),
        )

    def _read_expressions(self, path: pathlib.Path) -> tuple[Expression, ...]:
        if not path.is_file():
            return ()
        known = {image_id: {item.id for item in photo.instances} for image_id, photo in self.photos.items()}
        expressions = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            with _context(path, f"line {number}", line):
                expression = _parse_expression(json.loads(line))
                missing = set(expression.ann_ids or ()) - known[expression.image_id]
                if missing:
                    raise ValueError(f"image {expression.image_id} has no annotations {sorted(missing)}")
                expressions.append(expression)
        return tuple(expressions)


def instance_mask(photo: Photo, instance: Instance) -> npt.NDArray[np.bool_]:
    """Draws one label.

    Returns:
        `[H, W]` bool at the photo's own size.

    Raises:
        DataError: only the box is known, or the segmentation cannot be drawn at the photo's size.
    """
    segmentation, (height, width) = instance.segmentation, photo.size
    where = f"{photo.path}: annotation {instance.id}"
    if not segmentation:
        raise DataError(f"{where} has a box only; estimate a mask from the box before asking for one")
    try:
        if isinstance(segmentation, dict):
            if tuple(segmentation["size"]) != photo.size:
                raise DataError(f"{where}: mask of size {segmentation['size']} in an image of size {list(photo.size)}")
            rle = segmentation
            if isinstance(segmentation["counts"], list):
                rle = coco_mask.frPyObjects(segmentation, height, width)
        else:
            # Four numbers would be taken for a box by pycocotools; fewer than three points enclose nothing.
            polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        mask = coco_mask.decode(rle)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{where}: segmentation cannot be drawn: {error}") from error
    if mask.shape != photo.size:
        raise DataError(f"{where}: mask of size {mask.shape} in an image of size {photo.size}")
    return cast(npt.NDArray[np.bool_], mask.astype(bool))


def union_mask(photo: Photo, instance_ids: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """`[H, W]` bool: all these instances together; empty for no ids. Raises DataError as `instance_mask` does."""
    union = np.zeros(photo.size, dtype=bool)
    for instance_id in instance_ids:
        union |= instance_mask(photo, photo.instance(instance_id))
    return union


def _scope(name: str, categories: dict[str, bool]) -> frozenset[str]:
    """The categories a label scope covers, among those the file declares."""
    if name == "coco80":
        return COCO80 & categories.keys()
    if name == "voc20":
        return VOC20 & categories.keys()
    if name == "panoptic":
        return frozenset(c for c, isthing in categories.items() if c in COCO80 or not isthing)
    if name == "clothing":
        # The wearer's clothes only: other people in the street have no labels, so `person` is not provable.
        return frozenset(c for c, isthing in categories.items() if isthing and (c not in COCO80 or c == "tie"))
    scope = frozenset(part.strip() for part in name.split(","))
    if unknown := scope - categories.keys():
        raise ValueError(f"label_scope '{name}' names unknown categories {sorted(unknown)}")
    return scope


def _parse_instance(entry: dict[str, Any], names: dict[int, str]) -> Instance:
    source = entry.get("mask")
    if source not in (None, "human", "class-in-box", "class"):
        raise ValueError(f"mask '{source}' is none of human, class-in-box, class, null")
    if (source is None) != (not entry["segmentation"]):
        raise ValueError(f"mask is {source!r} but segmentation is {'empty' if source else 'not empty'}")
    polygons = entry["segmentation"] if isinstance(entry["segmentation"], list) else []
    if odd := [len(polygon) for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2]:
        raise ValueError(f"a polygon has {odd[0]} numbers; x and y come in pairs")
    box = _parse_box(entry["bbox"])
    return Instance(
        id=int(entry["id"]),
        category=names[int(entry["category_id"])],
        box=box,
        mask_source=source,
        segmentation=entry["segmentation"],
        is_crowd=bool(entry["iscrowd"]),
        area=float(entry["area"] if source else box[2] * box[3]),
    )


def _parse_expression(entry: dict[str, Any]) -> Expression:
    ann_ids, box = entry["ann_ids"], entry.get("box")
    if not isinstance(entry["text"], str) or not entry["text"].strip():
        raise ValueError(f"text is {entry['text']!r}, no sentence")
    if ann_ids is None and box is None:
        raise ValueError("neither ann_ids nor box says what is meant")
    return Expression(
        image_id=int(entry["image_id"]),
        text=str(entry["text"]),
        source=str(entry["source"]),
        rule=entry.get("rule"),
        ann_ids=None if ann_ids is None else tuple(int(item) for item in ann_ids),
        box=None if box is None else _parse_box(box),
        tags=tuple(entry.get("tags") or ()),
    )


def _parse_box(values: list[float]) -> Box:
    if len(values) != 4 or not all(map(math.isfinite, values)) or values[2] < 0 or values[3] < 0:
        raise ValueError(f"box {values} is not (x, y, width, height)")
    return float(values[0]), float(values[1]), float(values[2]), float(values[3])


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object at the top, found {type(content).__name__}")
    return content


def _records(path: pathlib.Path, content: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    if not isinstance(content.get(key), list):
        raise DataError(f"{path}: no list '{key}'")
    yield from content[key]


class _context:
    """Turns whatever parsing a record raises into a DataError that names the file and the record."""

    def __init__(self, path: pathlib.Path, what: str, record: Any) -> None:
        self.path, self.what, self.record = path, what, record

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError)):
            name = self.record.get("id") if isinstance(self.record, dict) else str(self.record)[:80]
            problem = f"missing or unknown {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{self.path}: {self.what} {name}: {problem}") from error
