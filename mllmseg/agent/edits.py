"""Pictures changed in one region only: every pixel outside it keeps its bits.

Shapes: H W the picture's own size; a mask is a bool array `[H, W]`, pixels `[H, W, 3]` uint8 RGB.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from mllmseg.agent.regions import COLOURS, Mask, Pixels, colour_key
from mllmseg.errors import AlignmentError, DataError
from mllmseg.registry import did_you_mean

EditOp = Literal["cut_out", "blur", "blur_rest", "grey", "grey_rest", "recolour", "highlight", "remove"]
Floats = npt.NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
HIGHLIGHT = "yellow"


def edit(image: Image.Image, mask: Mask, op: EditOp, *, colour: str | None = None) -> Image.Image:
    """Changes a region of a picture.

    Args:
        image: the picture; RGB.
        mask: the region `[H, W]`.
        op: `cut_out` makes everything else transparent; `blur`, `grey`, `recolour`, `highlight` and `remove` (filled
            from around it) change the region, `blur_rest` and `grey_rest` everything else.
        colour: a name of `regions.COLOURS` or `#rrggbb`; for `recolour`, and for `highlight` if not yellow.

    Returns:
        A new picture, RGBA for `cut_out` and RGB for the others.

    Raises:
        DataError: unknown operation or colour, or a mask that leaves nothing to work on.
        AlignmentError: the mask has another size than the picture.
    """
    if op not in get_args(EditOp):
        raise DataError(f"unknown edit '{op}': {did_you_mean(op, list(get_args(EditOp)))}")
    if mask.shape != (image.height, image.width):
        raise AlignmentError(f"a mask {mask.shape} does not fit a picture [H, W] of {(image.height, image.width)}")
    if not mask.any():
        raise DataError(f"cannot {op.replace('_', ' ')} nothing: the mask is empty")
    image = image.convert("RGB")
    if op == "cut_out":
        return _cut_out(image, mask)
    region = ~mask if op.endswith("_rest") else mask
    if op == "remove" and region.all():
        raise DataError("cannot remove the whole picture: nothing is left to fill it from")
    pixels = np.array(image)
    if op in ("blur", "blur_rest"):
        changed = np.array(_blurred(image, region))
    elif op in ("grey", "grey_rest"):
        changed = np.repeat(_to_uint8(pixels @ LUMA)[..., None], 3, axis=2)
    elif op == "recolour":
        changed = _recoloured(pixels, region, parse_colour(colour))
    elif op == "highlight":
        changed = _highlighted(pixels, region, parse_colour(colour or HIGHLIGHT))
    else:
        changed = fill(pixels, region)
    # The one place where pixels are written: whatever an effect does, the rest of the picture is the original.
    result = pixels.copy()
    result[region] = changed[region]
    return Image.fromarray(result)


def parse_colour(colour: str | None) -> tuple[int, int, int]:
    """RGB of a colour's name or `#rrggbb`.

    Raises:
        DataError: it is neither.
    """
    if colour is None:
        raise DataError("which colour? name one, such as 'blue' or '#3060c0'")
    name = colour_key(colour.strip())
    if name in COLOURS:
        return COLOURS[name]
    digits = name.removeprefix("#")
    if len(digits) == 6 and set(digits) <= set("0123456789abcdef"):
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    raise DataError(f"unknown colour '{colour}': {did_you_mean(name, list(COLOURS))}, or write it as #rrggbb")


def _to_uint8(values: npt.NDArray[Any]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _cut_out(image: Image.Image, mask: Mask) -> Image.Image:
    """RGBA of the picture's size; transparent pixels hold no trace of what was there."""
    pixels = np.zeros((*mask.shape, 4), dtype=np.uint8)
    pixels[mask, :3] = np.array(image)[mask]
    pixels[mask, 3] = 255
    return Image.fromarray(pixels)


def _blurred(image: Image.Image, region: Mask) -> Image.Image:
    """The region blurred by its own pixels alone, so that no halo of the sharp part spreads into it."""
    blur = ImageFilter.GaussianBlur(max(2.0, 0.015 * max(image.size)))
    weight = np.array(Image.fromarray(region.astype(np.uint8) * np.uint8(255)).filter(blur), dtype=np.float32)
    inside = np.where(region[..., None], np.array(image), 0).astype(np.uint8)
    spread = np.array(Image.fromarray(inside).filter(blur), dtype=np.float32)
    return Image.fromarray(_to_uint8(spread * 255 / np.maximum(weight, 1)[..., None]))


def _recoloured(pixels: Pixels, region: Mask, colour: tuple[int, int, int]) -> Pixels:
    """The colour, with the light and shade that the region had."""
    luma: Floats = pixels.astype(np.float32) @ LUMA
    shade = luma - luma[region].mean()
    return _to_uint8(np.array(colour, dtype=np.float32) + 0.8 * shade[..., None])


def _highlighted(pixels: Pixels, region: Mask, colour: tuple[int, int, int]) -> Pixels:
    return _to_uint8(0.55 * pixels.astype(np.float32) + 0.45 * np.array(colour, dtype=np.float32))


def fill(pixels: Pixels, hole: Mask) -> Pixels:
    """Fills a hole smoothly from around it: the solution of Laplace's equation, from coarse to fine.

    A rim around the hole is not used as a source, since masks miss the last pixels of a thing's edge: its colour
    would bleed into the hole. The rim itself is left alone.

    Args:
        pixels: `[H, W, 3]` uint8.
        hole: `[H, W]`, not all of it.
    """
    rim = _grow(hole, max(1, round(min(hole.shape) / 150)))
    known = ~rim if not rim.all() else ~hole
    return _to_uint8(_solve(np.where(known[..., None], pixels, 0).astype(np.float32), known))


def _grow(mask: Mask, steps: int) -> Mask:
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | mask
    return mask


def _solve(values: Floats, known: Mask, sweeps: int = 12) -> Floats:
    """`values [H, W, 3]` with the unknown ones filled in: the half-size picture's solution, then a few averagings."""
    if known.all():
        return values
    height, width = known.shape
    if min(height, width) == 1 or max(height, width) <= 2:
        values[~known] = values[known].mean(0) if known.any() else 0
        return values
    coarse_values, coarse_known = _halve(values, known)
    coarse = _solve(coarse_values, coarse_known)
    guess = np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)[:height, :width]
    values = np.where(known[..., None], values, guess)
    unknown = np.argwhere(~known)
    y, x = unknown[:, 0], unknown[:, 1]
    up, down = np.maximum(y - 1, 0), np.minimum(y + 1, height - 1)
    left, right = np.maximum(x - 1, 0), np.minimum(x + 1, width - 1)
    for _ in range(sweeps):
        values[y, x] = 0.25 * (values[up, x] + values[down, x] + values[y, left] + values[y, right])
    return values


def _halve(values: Floats, known: Mask) -> tuple[Floats, Mask]:
    """Half the size, rounded up; each cell the mean of its known pixels, unknown where it has none."""
    height, width = known.shape
    pad = ((0, height % 2), (0, width % 2))
    weights = np.pad(known, pad).astype(np.float32)
    padded = np.pad(values, (*pad, (0, 0))) * weights[..., None]
    rows, columns = (height + 1) // 2, (width + 1) // 2
    sums = padded.reshape(rows, 2, columns, 2, 3).sum((1, 3))
    counts = weights.reshape(rows, 2, columns, 2).sum((1, 3))
    return (sums / np.maximum(counts, 1)[..., None]).astype(np.float32), counts > 0
