"""Pictures that strangers send: read whatever they are, or refused in words that help."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mllmseg.data.transforms import load_image
from mllmseg.errors import DataError

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000
# What a conversation works on: every mask takes a byte a pixel, and no page shows more.
WORKING_SIDE = 1600
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Upload:
    """A picture as the conversation works on it, and what was done to it on the way in ("" for nothing)."""

    image: Image.Image
    name: str
    note: str = ""


def read_upload(path: str | Path, name: str | None = None, *, side: int | None = WORKING_SIDE) -> Upload:
    """Reads a picture that somebody sent.

    Args:
        path: the file.
        name: how the sender calls it.
        side: larger pictures are scaled down to so many pixels of their longer side; None for never.

    Raises:
        DataError: too large in bytes or pixels, or no picture; the message names the picture, never the path.
    """
    path = Path(path)
    name = name or path.name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{name}: the upload is gone; send it again") from error
    if size > MAX_BYTES:
        raise DataError(f"{name}: {size / 1e6:.1f} MB is more than {MAX_BYTES / 1e6:.0f} MB; send a smaller picture")
    _check_pixels(path, name)
    try:
        image = load_image(path)
    except DataError as error:
        raise DataError(str(error).replace(str(path), name)) from error
    width, height = image.size
    if side is None or max(width, height) <= side:
        return Upload(image, name)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return Upload(image, name, f"scaled down from {width} × {height} to {image.width} × {image.height} pixels")


def _check_pixels(path: Path, name: str) -> None:
    """Looks at the header alone: a small file can hold a picture that fills the memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as header:
                width, height = header.size
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: more than {MAX_PIXELS / 1e6:.0f} million pixels; send a smaller picture") from error
    except Exception:  # decoders raise nearly anything; load_image says it in words
        return
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name}: {width} × {height} is more than {MAX_PIXELS / 1e6:.0f} million pixels; send a smaller picture"
        )
