"""Labels as files give them, drawn as masks: polygons, run lengths, PNGs.

A polygon of fewer than three points encloses nothing and draws nothing, as in the published loaders (pycocotools alone
would take one of two points for a box). Overlapping polygons are united.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from mllmseg.data.referring import Mask
from mllmseg.errors import DataError

Size = tuple[int, int]
_EXIF_ORIENTATION = 0x0112


def draw(segmentation: Any, size: Size, where: str, *, folder: pathlib.Path | None = None) -> Mask:
    """Draws one label.

    Args:
        segmentation: polygons `[[x, y, x, y, …], …]` or one polygon, run lengths `{"size", "counts"}` with counts as
            a list or as COCO's compressed string, a list of those, or the path of a PNG.
        size: (height, width) of the image.
        where: file and record, for the message of an error.
        folder: what the path of a PNG is relative to; None where a file may not name one.

    Returns:
        `[H, W]` of 0 and 1; all 0 where polygons enclose nothing.

    Raises:
        DataError: it cannot be drawn, or its size is not the image's.
    """
    if isinstance(segmentation, str) and folder is not None:
        return _check_size(read_png_mask(folder / segmentation), size, where)
    if isinstance(segmentation, dict):
        return decode_rle(segmentation, where, size=size)
    if not isinstance(segmentation, list):
        raise DataError(f"{where}: a label is polygons, run lengths or a PNG, not {type(segmentation).__name__}")
    if segmentation and all(isinstance(item, int | float) for item in segmentation):
        segmentation = [segmentation]
    if any(isinstance(item, dict) for item in segmentation):
        return union((draw(item, size, where) for item in segmentation), size)
    return _draw_polygons(segmentation, size, where)


def decode_rle(rle: dict[str, Any], where: str, *, size: Size | None = None) -> Mask:
    """Decodes run lengths, compressed or not, checking every count: pycocotools leaves memory as it was where a
    mask's runs end early.

    Args:
        rle: `size` (height, width) and `counts`: how many 0, 1, 0, … there are, column by column.
        where: file and record, for the message of an error.
        size: the size it must have; None for any.

    Raises:
        DataError: keys are missing, counts are damaged, or the size is another.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        runs = _decompress(counts) if isinstance(counts, str | bytes) else [int(count) for count in counts]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: damaged run lengths: {type(error).__name__}: {error}") from error
    if size is not None and (height, width) != size:
        raise DataError(f"{where}: mask of size {[height, width]} (height, width) for an image of {list(size)}")
    if min(runs, default=0) < 0 or min(height, width) < 0 or sum(runs) != height * width:
        raise DataError(f"{where}: damaged run lengths: {sum(runs)} pixels in a mask of {height} x {width}")
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, runs).reshape((height, width), order="F"))


def encode_rle(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """A mask `[H, W]`, whatever is not 0, as COCO's compressed run lengths, ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def union(masks: Iterable[Mask], size: Size) -> Mask:
    """`[H, W]`: 1 where any mask is; all 0 for none."""
    result: Mask = np.zeros(size, dtype=np.uint8)
    for mask in masks:
        result |= mask
    return result


def read_png_mask(path: pathlib.Path) -> Mask:
    """`[H, W]`: 1 where a picture is not black. Raises DataError where it is missing or damaged."""
    pixels = read_pixels(path, None)
    return np.asarray(pixels.any(axis=2) if pixels.ndim == 3 else pixels != 0, dtype=np.uint8)


def read_pixels(path: pathlib.Path, mode: str | None) -> npt.NDArray[Any]:
    """A label picture's pixels `[H, W]` or `[H, W, C]` in Pillow's `mode`, None for its own (palettes as indices).

    Raises:
        DataError: the file is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            if mode is None and "A" in image.getbands():
                return np.asarray(image.convert("RGB"))  # an opaque alpha channel would make every pixel a target
            return np.asarray(image if mode is None else image.convert(mode))
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise DataError(f"{path}: not a picture Pillow can read ({error})") from error


def image_size(path: str | os.PathLike[str]) -> Size:
    """(height, width) of an upright image, from its header alone. Raises DataError where it cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file") from None
    except Exception as error:  # decoders raise nearly anything on damaged headers
        raise DataError(f"{path}: not an image Pillow can read ({error})") from error
    return (width, height) if sideways else (height, width)


def _check_size(mask: Mask, size: Size, where: str) -> Mask:
    if mask.shape != size:
        raise DataError(f"{where}: mask of size {list(mask.shape)} (height, width) for an image of {list(size)}")
    return mask


def _draw_polygons(polygons: Sequence[Any], size: Size, where: str) -> Mask:
    height, width = size
    try:
        closed = [[float(number) for number in polygon] for polygon in polygons]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: polygons cannot be drawn: {error}") from error
    closed = [polygon for polygon in closed if len(polygon) >= 6]
    if odd := [len(polygon) for polygon in closed if len(polygon) % 2]:
        raise DataError(f"{where}: a polygon has {odd[0]} numbers; x and y come in pairs")
    if not all(np.isfinite(polygon).all() for polygon in closed):
        raise DataError(f"{where}: a polygon has coordinates that are no finite numbers")
    if not closed:
        return np.zeros(size, dtype=np.uint8)
    return decode_rle(coco_mask.merge(coco_mask.frPyObjects(closed, height, width)), where)


def _decompress(counts: str | bytes) -> list[int]:
    """COCO's string to run lengths: base-32 digits, low first; from the fourth count on, less the one two before."""
    raw = counts.encode("ascii") if isinstance(counts, str) else counts
    runs: list[int] = []
    value, shift = 0, 0
    for byte in raw:
        digit = byte - 48
        if not 0 <= digit < 64:
            raise ValueError(f"byte {byte} is no digit")
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError("they end in the middle of a number")
    return runs
