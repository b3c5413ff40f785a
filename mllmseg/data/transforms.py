"""Image files to model inputs: the only resize, pad and normalise in the project.

Shapes: H W the image's own size, h' w' the vision tower's input, both multiples of its patch size.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mllmseg.constants import PIXEL_MEAN, PIXEL_STD, SAM_IMAGE_SIZE
from mllmseg.errors import DataError
from mllmseg.structures import ImageInputs

# Pillow's own limit for decompression bombs: about 9459 x 9459 pixels.
MAX_IMAGE_PIXELS = 89_478_485

ImageSource = str | Path | bytes | Image.Image | np.ndarray


def load_image(source: ImageSource) -> Image.Image:
    """Reads any picture as 8-bit RGB, upright.

    EXIF orientation is applied; transparency is composited on white; 16-bit and float samples are scaled to 8 bit; of
    an animation the first frame counts.

    Args:
        source: a path, the bytes of a file, a PIL image, or an array `[H, W]` or `[H, W, 1..4]` of uint8, uint16,
            bool or float in 0..1.

    Returns:
        An RGB image that shares no memory or file with `source`.

    Raises:
        DataError: the file is missing, damaged, too large or of an unknown kind.
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source, "image array"), "image array")
    if isinstance(source, Image.Image):
        return _decode(source, "image")
    name = "image bytes" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise DataError(f"{name}: no such image file")
    try:
        opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(_too_large(name)) from error
    except Exception as error:  # decoders raise nearly anything on damaged headers
        raise DataError(f"{name}: not an image Pillow can read ({error}); convert it to PNG or JPEG") from error
    with opened:
        return _decode(opened, name)


def _too_large(name: str) -> str:
    return f"{name}: larger than {MAX_IMAGE_PIXELS:,} pixels; scale it down first"


def _decode(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise DataError(_too_large(name))
    if not image.width or not image.height:
        raise DataError(f"{name}: has no pixels ({image.width}x{image.height})")
    try:
        image.load()
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise DataError(f"{name}: damaged or truncated ({error}); save or download it again") from error
    return _to_rgb(_upright(image), name)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, TypeError, KeyError, struct.error, SyntaxError):
        return image  # a broken EXIF block says nothing about the pixels, which are fine


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        samples = np.array(image)
        if image.mode != "F":
            samples = np.clip(samples, 0, 65535).astype(np.uint16)
        return _from_array(samples, name).convert("RGB")
    try:
        if image.mode == "La":  # Pillow converts premultiplied grey to LA only
            image = image.convert("LA")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    except ValueError as error:
        raise DataError(f"{name}: cannot convert colour mode {image.mode} to RGB; convert it to PNG first") from error


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """An 8-bit PIL image of an array `[H, W]` or `[H, W, 1..4]`."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (2, 3, 4)) or not array.size:
        raise DataError(f"{name}: shape {array.shape} is not [H, W] or [H, W, 1..4] with the channels last")
    if array.shape[0] * array.shape[1] > MAX_IMAGE_PIXELS:
        raise DataError(_too_large(name))
    return Image.fromarray(np.ascontiguousarray(_to_uint8(array, name)))


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        scaled: np.ndarray = (array.astype(np.uint32) + 128) // 257
        return scaled.astype(np.uint8)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{name}: cannot read {array.dtype} as pixels; give uint8, uint16, bool or float in 0..1")
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f":
        # The negated comparison also catches NaN; the slack forgives rounding after a resize.
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise DataError(f"{name}: float values {low:g}..{high:g}, expected 0..1; divide by the largest value")
        return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    if low >= 0 and high <= 255:
        return array.astype(np.uint8)
    raise DataError(f"{name}: {array.dtype} values {low:g}..{high:g}; give uint8, uint16, bool or float in 0..1")


def sam_input_size(original_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the valid window of SAM's input: long side 1024, rounded as `ResizeLongestSide` rounds."""
    height, width = original_size
    scale = SAM_IMAGE_SIZE * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def tower_input_size(original_size: tuple[int, int], *, tower_size: int, patch_size: int) -> tuple[int, int]:
    """(height, width) of the vision tower's input: whole patches, as many on the long side as fit `tower_size`."""
    patches = max(1, tower_size // patch_size)
    longest = max(original_size)
    height, width = (max(1, int(side * patches / longest + 0.5)) * patch_size for side in original_size)
    return height, width


def preprocess(
    image: Image.Image,
    *,
    tower_size: int | None = 518,
    patch_size: int = 14,
    square: bool = False,
    mean: Sequence[float] = PIXEL_MEAN,
    std: Sequence[float] = PIXEL_STD,
) -> ImageInputs:
    """Resizes and normalises one image for SAM and for the vision tower.

    SAM's input follows `segment_anything` exactly (PIL bilinear, long side 1024, zero padding after normalisation).
    The tower's input keeps the aspect up to half a patch, or is square, and has no padding (PIL bicubic, which
    antialiases).

    Args:
        image: RGB, from `load_image`.
        tower_size: longest side of the tower's input in pixels; None where the tower reads SAM's features, which
            fills `tower_pixels` with one patch of zeros.
        patch_size: the tower's patch side in pixels.
        square: stretch the tower's input to a square, for towers that read nothing else.
        mean: of each channel of the tower's input, in 0..255.
        std: their deviations.

    Raises:
        DataError: the image is not RGB.
    """
    if image.mode != "RGB":
        raise DataError(f"preprocess needs an RGB image, got mode {image.mode}; open it with load_image")
    original_size = (image.height, image.width)
    input_size = sam_input_size(original_size)
    sam_pixels = torch.zeros(3, SAM_IMAGE_SIZE, SAM_IMAGE_SIZE)
    sam_pixels[:, : input_size[0], : input_size[1]] = _normalise(_resize(image, input_size, Image.Resampling.BILINEAR))
    if tower_size is None:
        tower_pixels = torch.zeros(3, patch_size, patch_size)
    else:
        shape = (1, 1) if square else original_size
        size = tower_input_size(shape, tower_size=tower_size, patch_size=patch_size)
        tower_pixels = _normalise(_resize(image, size, Image.Resampling.BICUBIC), mean, std)
    return ImageInputs(
        sam_pixels=sam_pixels, tower_pixels=tower_pixels, input_size=input_size, original_size=original_size
    )


def _resize(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray[Any, Any]:
    return np.array(image.resize((size[1], size[0]), resample))


def _normalise(
    pixels: np.ndarray[Any, Any], mean: Sequence[float] = PIXEL_MEAN, std: Sequence[float] = PIXEL_STD
) -> Tensor:
    """`[H, W, 3]` uint8 to `[3, H, W]` float with mean and deviation taken out."""
    centre, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (torch.from_numpy(pixels).permute(2, 0, 1).float() - centre) / scale
