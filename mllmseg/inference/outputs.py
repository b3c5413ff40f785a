"""Pictures on disk: refused before anything is computed where they cannot be written, whole or not there at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from PIL import Image

from mllmseg.errors import DataError

_LOSSY = (".jpg", ".jpeg")
_SUFFIXES = (".png", ".webp", ".tif", ".tiff", ".bmp", *_LOSSY)


def check_writable(path: Path, *, lossless: bool = False) -> None:
    """Makes sure that a picture can be written to `path`.

    Args:
        path: the file.
        lossless: whether JPEG is no choice, since it would blur a mask.

    Raises:
        DataError: unknown kind of picture, a folder, or a place that cannot be written to.
    """
    allowed = [suffix for suffix in _SUFFIXES if not (lossless and suffix in _LOSSY)]
    if path.suffix.lower() not in allowed:
        raise DataError(f"{path}: cannot write '{path.suffix}' pictures here; use one of {', '.join(allowed)}")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot write there ({error.strerror}); choose another place") from error


def save_image(image: Image.Image, path: Path) -> None:
    """Writes a picture under a temporary name, then renames it.

    Raises:
        DataError: it cannot be written.
    """
    kind = Image.registered_extensions()[path.suffix.lower()]
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            image.save(file, format=kind, **options)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are for the owner's eyes only
        os.replace(temporary, path)
        temporary = None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def numbered(path: Path, count: int) -> list[Path]:
    """`[out.png]` for one picture, `out-1.png`, `out-2.png`, … for several."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
