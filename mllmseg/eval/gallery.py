"""One answer as three small pictures: the photo, what was meant, what was found."""

# H W the thumbnail's size

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mllmseg.data.transforms import load_image
from mllmseg.errors import AlignmentError
from mllmseg.eval.evaluation_report import GalleryItem
from mllmseg.models.postprocess import decode_rle

Mask = npt.NDArray[np.bool_]
Color = tuple[int, int, int]

LONGEST_SIDE = 360
# Told apart by every kind of colour vision (Okabe and Ito), also on photos.
HIT: Color = (0, 114, 178)
MISSED: Color = (240, 228, 66)
WRONG: Color = (213, 94, 0)
FILL = 0.6
QUALITY = 82


def draw_panels(item: GalleryItem) -> dict[str, str]:
    """`photo`, `ground truth` and `prediction` as data URLs of JPEGs.

    In the prediction, what was found and meant is blue, found but not meant orange, meant but not found yellow.

    Raises:
        AlignmentError: a mask is not of the photo's size.
        DataError: the photo or a mask cannot be read.
    """
    photo = load_image(item.image)
    target, prediction = (_mask(item, rle, photo.size) for rle in (item.target, item.prediction))
    size = _thumbnail_size(photo.size)
    small = photo.resize(size, Image.Resampling.LANCZOS)
    meant, found = (_shrink(mask, size) for mask in (target, prediction))
    return {
        "photo": data_url(small),
        "ground truth": data_url(tint(small, {HIT: meant})),
        "prediction": data_url(tint(small, {HIT: found & meant, WRONG: found & ~meant, MISSED: meant & ~found})),
    }


def tint(image: Image.Image, masks: Mapping[Color, Mask]) -> Image.Image:
    """Fills each mask `[H, W]` with its colour, the photo showing through, and a firmer edge; the rest turns paler."""
    pixels = np.asarray(image, dtype=np.float32)
    painted = np.zeros(pixels.shape[:2], dtype=bool)
    result = pixels * 0.72 + 255 * 0.1
    for color, mask in masks.items():
        edge = mask & ~_eroded(mask)
        result[mask] = pixels[mask] * (1 - FILL) + np.array(color) * FILL
        result[edge] = color
        painted |= mask
    return Image.fromarray((result if painted.any() else pixels).astype(np.uint8))


def data_url(image: Image.Image) -> str:
    """A JPEG inside its own address."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _mask(item: GalleryItem, rle: Mapping[str, Any] | None, size: tuple[int, int]) -> Mask:
    if rle is None:
        return np.zeros(size[::-1], dtype=bool)
    mask: Mask = decode_rle(dict(rle)).numpy()
    if mask.shape != size[::-1]:
        raise AlignmentError(f"query {item.id}: mask {mask.shape}, photo {size[::-1]} (height, width)")
    return mask


def _shrink(mask: Mask, size: tuple[int, int]) -> Mask:
    """Smaller, keeping a pixel where at least a third of it was painted, so that thin things stay."""
    share = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return np.asarray(np.asarray(share) >= 85)


def _thumbnail_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, LONGEST_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _eroded(mask: Mask) -> Mask:
    inner = np.pad(mask, 1)
    return inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:] & mask
