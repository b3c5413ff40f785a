"""Other tools' labels as own data: one line per image and category (docs/data.md has the format).

The sentence is made from the category's name by a template; whoever wants better ones edits the text.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllmseg.data.json_files import read_json_object
from mllmseg.data.masks import Size, encode_rle
from mllmseg.errors import DataError

CIRCLE_CORNERS = 64


@dataclass(frozen=True)
class Conversion:
    """What was written and what was not.

    Attributes:
        lines: sentences written.
        images: different images.
        skipped: labels left out, by reason.
    """

    lines: int
    images: int
    skipped: dict[str, int]


def convert(kind: str, source: str | os.PathLike[str], out: str | os.PathLike[str], *, text: str) -> Conversion:
    """Converts labels.

    Args:
        kind: `coco` for an instances file, `labelme` for one JSON or a folder of them.
        source: what to read; labelme's image names in the result are relative to this folder.
        out: JSONL to write, whole or not at all.
        text: the sentence, with `{category}` for the name.

    Raises:
        DataError: unknown kind, bad template, or a record is broken.
    """
    if "{category}" not in text:
        raise DataError(f"--text '{text}': needs {{category}}, which becomes the category's name")
    readers = {"coco": _coco_groups, "labelme": _labelme_groups}
    if kind not in readers:
        raise DataError(f"cannot convert '{kind}': known: {', '.join(readers)}")
    skipped: dict[str, int] = {}
    groups = readers[kind](pathlib.Path(source), skipped)
    lines = [
        {"image": image, "text": text.replace("{category}", category), "exists": True, "masks": masks}
        for (image, category), masks in groups.items()
    ]
    write_whole(pathlib.Path(out), (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return Conversion(len(lines), len({line["image"] for line in lines}), skipped)


def write_whole(path: pathlib.Path, parts: Iterable[str]) -> None:
    """Writes a text file under another name first, so that nobody ever sees half of it. Raises DataError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as stream:
            temporary = pathlib.Path(stream.name)
            try:
                stream.writelines(parts)
                stream.flush()
                temporary.chmod(0o666 & ~_umask())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


Groups = dict[tuple[str, str], list[Any]]


def _coco_groups(path: pathlib.Path, skipped: dict[str, int]) -> Groups:
    content = read_json_object(path)
    groups: Groups = {}
    try:
        names = {item["id"]: str(item["name"]) for item in content["categories"]}
        images = {item["id"]: str(item["file_name"]) for item in content["images"]}
        for number, item in enumerate(content["annotations"]):
            where = f"{path}: annotation {item.get('id', f'number {number}')}"
            if item["image_id"] not in images or item["category_id"] not in names:
                raise DataError(f"{where}: image {item['image_id']} or category {item['category_id']} is not listed")
            if not item.get("segmentation"):
                skipped["boxes without a mask"] = skipped.get("boxes without a mask", 0) + 1
                continue
            groups.setdefault((images[item["image_id"]], names[item["category_id"]]), []).append(item["segmentation"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not COCO's instances: {type(error).__name__}: {error}") from error
    return groups


def _labelme_groups(source: pathlib.Path, skipped: dict[str, int]) -> Groups:
    folder = source if source.is_dir() else source.parent
    paths = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    if not paths:
        raise DataError(f"{source}: no labelme files (*.json)")
    groups: Groups = {}
    for path in paths:
        content = read_json_object(path)
        try:
            image = (path.parent / str(content["imagePath"]).replace("\\", "/")).resolve()
            name = os.path.relpath(image, folder.resolve()).replace(os.sep, "/")
            for label, mask in _labelme_shapes(content, path, skipped):
                groups.setdefault((name, label), []).append(mask)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not labelme's: {type(error).__name__}: {error}") from error
    return groups


def _labelme_shapes(content: dict[str, Any], path: pathlib.Path, skipped: dict[str, int]) -> Iterator[tuple[str, Any]]:
    for number, shape in enumerate(content["shapes"]):
        kind = shape.get("shape_type", "polygon")
        points = np.asarray(shape["points"], dtype=float).reshape(-1, 2)
        if kind == "polygon" and len(points) >= 3:
            yield str(shape["label"]), [points.ravel().tolist()]
        elif kind == "rectangle" and len(points) == 2:
            (left, top), (right, bottom) = points
            yield str(shape["label"]), [[float(n) for n in (left, top, right, top, right, bottom, left, bottom)]]
        elif kind == "circle" and len(points) == 2:
            angles = np.arange(CIRCLE_CORNERS) * 2 * np.pi / CIRCLE_CORNERS
            ring = points[0] + np.linalg.norm(points[1] - points[0]) * np.stack(
                [np.cos(angles), np.sin(angles)], axis=1
            )
            yield str(shape["label"]), [ring.ravel().tolist()]
        elif kind == "mask":
            yield str(shape["label"]), _labelme_mask(shape, content, f"{path}: shape {number}")
        else:
            skipped[f"shapes of kind '{kind}'"] = skipped.get(f"shapes of kind '{kind}'", 0) + 1


def _labelme_mask(shape: dict[str, Any], content: dict[str, Any], where: str) -> dict[str, Any]:
    """A mask that labelme keeps as a PNG in base64, cut to its box, as run lengths of the whole image."""
    import base64
    import io

    from PIL import Image

    size: Size = (int(content["imageHeight"]), int(content["imageWidth"]))
    left, top = (round(number) for number in shape["points"][0])
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            patch = np.asarray(image.convert("L")) != 0
        whole = np.zeros(size, dtype=np.uint8)
        whole[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: damaged mask: {error}") from error
    return encode_rle(whole)
