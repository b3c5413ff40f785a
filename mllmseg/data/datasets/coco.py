"""COCO's own files as labelled photos: instances (things) or panoptic (things and stuff), captions where given.

Every category that a file declares counts as looked for in all its images, which holds for COCO; for own labels it
must hold too, or sentences will deny what is there.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllmseg.data.datasets.coco_mini import CocoMini, Instance, Photo
from mllmseg.data.json_files import read_json_object
from mllmseg.data.masks import encode_rle, read_pixels
from mllmseg.errors import DataError


@dataclass(frozen=True)
class Labels:
    """Photos with labels.

    Attributes:
        photos: read one by one where masks lie in files of their own; to be gone through once.
        categories: name → whether it is a thing (else stuff).
        images: the folder that the photos' paths lie in.
    """

    photos: Iterable[Photo]
    categories: dict[str, bool]
    images: pathlib.Path


def find_labels(root: str | os.PathLike[str], split: str) -> Labels:
    """Reads a folder in coco-mini's format, or COCO's own (`annotations/`, and images in `SPLIT/`, as in `val2017/`).

    Of COCO's files the panoptic one is preferred where it and its PNGs are there.

    Raises:
        DataError: there is neither, or a record is broken.
    """
    folder = pathlib.Path(root)
    if (folder / f"instances_{split}.json").is_file():
        data = CocoMini(folder, split)
        return Labels(data.photos.values(), data.categories, folder / "images")
    notes = folder / "annotations"
    images = next((path for path in (folder / split, folder / "images" / split) if path.is_dir()), folder / split)
    captions = notes / f"captions_{split}.json"
    spoken = captions if captions.is_file() else None
    panoptic, pngs = notes / f"panoptic_{split}.json", notes / f"panoptic_{split}"
    if panoptic.is_file() and pngs.is_dir():
        return read_coco(panoptic, images, masks=pngs, captions=spoken)
    path = notes / f"instances_{split}.json"
    if not path.is_file():
        raise DataError(f"{folder}: neither instances_{split}.json nor annotations/instances_{split}.json is there")
    return read_coco(path, images, captions=spoken)


def read_coco(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    masks: str | os.PathLike[str] | None = None,
    captions: str | os.PathLike[str] | None = None,
) -> Labels:
    """Reads one file.

    Args:
        annotations: instances or panoptic JSON.
        images: the folder of its photos.
        masks: the folder of a panoptic file's PNGs; None for the one beside it that has its name.
        captions: captions JSON; None for none.

    Raises:
        DataError: a file is missing or a record does not hold what it should.
    """
    path, folder = pathlib.Path(annotations), pathlib.Path(images)
    content = read_json_object(path)
    try:
        names = {item["id"]: str(item["name"]) for item in content["categories"]}
        categories = {str(item["name"]): bool(item.get("isthing", True)) for item in content["categories"]}
        listed, labels = list(content["images"]), list(content["annotations"])
        said: dict[int, list[str]] = {}
        for item in read_json_object(pathlib.Path(captions))["annotations"] if captions is not None else ():
            said.setdefault(item["image_id"], []).append(str(item["caption"]).strip())
        by_image: dict[int, list[dict[str, Any]]] = {}
        for item in labels:
            by_image.setdefault(item["image_id"], []).append(item)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not COCO's format: {type(error).__name__}: {error}") from error
    panoptic = bool(labels) and "segments_info" in labels[0]
    pngs = pathlib.Path(masks) if masks is not None else path.with_suffix("")

    def photos() -> Iterator[Photo]:
        first_free = 1
        for image in listed:
            found = by_image.get(image.get("id"), [])
            try:
                if panoptic:
                    instances = [item for entry in found for item in _segments(entry, names, pngs, first_free)]
                    first_free += len(instances)
                else:
                    instances = [_instance(item, names) for item in found]
                yield Photo(
                    id=int(image["id"]),
                    path=folder / str(image["file_name"]),
                    size=(int(image["height"]), int(image["width"])),
                    scope=frozenset(categories),
                    scope_name="every category",
                    instances=tuple(instances),
                    captions=tuple(said.get(image["id"], ())),
                )
            except (KeyError, TypeError, ValueError) as error:
                what = f"image {image.get('id')}: {type(error).__name__}: {error}"
                raise DataError(f"{path}: {what}") from error

    return Labels(photos(), categories, folder)


def _instance(item: dict[str, Any], names: dict[int, str]) -> Instance:
    x, y, width, height = (float(side) for side in item["bbox"])
    drawn = bool(item.get("segmentation"))
    return Instance(
        id=int(item["id"]),
        category=names[item["category_id"]],
        box=(x, y, width, height),
        mask_source="human" if drawn else None,
        segmentation=item.get("segmentation") or [],
        is_crowd=bool(item.get("iscrowd", 0)),
        area=float(item.get("area", width * height)),
    )


def _segments(entry: dict[str, Any], names: dict[int, str], pngs: pathlib.Path, first: int) -> Iterator[Instance]:
    """A panoptic record's segments, numbered from `first`: their own ids are unique within one image only."""
    pixels = read_pixels(pngs / str(entry["file_name"]), "RGB").astype(np.int64)
    segments = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
    for number, item in enumerate(entry["segments_info"]):
        x, y, width, height = (float(side) for side in item["bbox"])
        yield Instance(
            id=first + number,
            category=names[item["category_id"]],
            box=(x, y, width, height),
            mask_source="human",
            segmentation=encode_rle(segments == item["id"]),
            is_crowd=bool(item.get("iscrowd", 0)),
            area=float(item["area"]),
        )
