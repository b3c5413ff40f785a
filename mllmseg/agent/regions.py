"""Arithmetic on the pixels of one picture: algebra of masks, parts, sizes, distances, places, colours, free space.

Shapes: H W the picture's own size; a mask is a bool array `[H, W]`. Points are (x, y), boxes (x, y, width, height).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from mllmseg.errors import AlignmentError, DataError
from mllmseg.models.partition import connected_components

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
CombineOp = Literal["union", "intersection", "difference", "complement"]
End = Literal["leftmost", "rightmost", "topmost", "lowest"]

# A part smaller than this share of its mask is a speck along an edge, not a thing of its own.
SPECK = 0.02
# Colours people name, with the hue (degrees) where each ends; red goes round the circle.
_HUES = (
    (15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (195, "cyan"), (258, "blue"), (292, "purple"),
    (342, "pink"), (360, "red"),
)  # fmt: skip
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (240, 130, 30),
    "yellow": (245, 210, 40),
    "green": (50, 160, 70),
    "cyan": (40, 190, 200),
    "blue": (45, 95, 215),
    "purple": (130, 60, 180),
    "pink": (240, 120, 170),
    "brown": (125, 80, 45),
    "black": (25, 25, 25),
    "grey": (128, 128, 128),
    "white": (245, 245, 245),
}


def combine(op: CombineOp, masks: Sequence[Mask]) -> Mask:
    """Set algebra; `difference` takes all the others from the first, `complement` is what is in none of them.

    Raises:
        DataError: no masks.
        AlignmentError: masks of different sizes.
    """
    if not masks:
        raise DataError(f"combine '{op}' needs at least one mask")
    sizes = {mask.shape for mask in masks}
    if len(sizes) > 1:
        raise AlignmentError(f"masks of different pictures cannot be combined: sizes {sorted(sizes)}")
    if op == "intersection":
        return np.logical_and.reduce(masks)
    if op == "difference":
        return masks[0] & ~np.logical_or.reduce([np.zeros_like(masks[0]), *masks[1:]])
    union: Mask = np.logical_or.reduce(masks)
    return ~union if op == "complement" else union


def iou(first: Mask, second: Mask) -> float:
    """Intersection over union, 0 where both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def bounding_box(mask: Mask) -> Box:
    """Tight (x, y, width, height) in pixels; zeros where the mask is empty."""
    if not mask.any():
        return 0, 0, 0, 0
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def parts(mask: Mask) -> list[Mask]:
    """Connected parts, largest first, without specks. Things that touch are one part."""
    if not mask.any():
        return []
    x, y, width, height = bounding_box(mask)
    window = mask[y : y + height, x : x + width]
    labels = connected_components(window.astype(np.int64))
    areas = np.bincount(labels[window])
    found = []
    for label in np.argsort(-areas, kind="stable"):
        if areas[label] == 0 or areas[label] < SPECK * areas.sum():
            break
        part = np.zeros_like(mask)
        part[y : y + height, x : x + width] = (labels == label) & window
        found.append(part)
    return found


def outermost(masks: Sequence[Mask], end: End) -> Mask:
    """Of several masks the one whose middle lies furthest at an end of the picture."""
    axis, sign = {"leftmost": (1, 1), "rightmost": (1, -1), "topmost": (0, 1), "lowest": (0, -1)}[end]
    return min(masks, key=lambda mask: sign * float(mask.nonzero()[axis].mean()))


def tip(mask: Mask, end: End) -> Mask:
    """The quarter of a mask's box at one end of it, as far as it is masked."""
    x, y, width, height = bounding_box(mask)
    wide, high = max(1, width // 4), max(1, height // 4)
    rows, columns = {
        "leftmost": (slice(None), slice(x, x + wide)),
        "rightmost": (slice(None), slice(x + width - wide, x + width)),
        "topmost": (slice(y, y + high), slice(None)),
        "lowest": (slice(y + height - high, y + height), slice(None)),
    }[end]
    found = np.zeros_like(mask)
    found[rows, columns] = mask[rows, columns]
    return found


def edge(mask: Mask) -> npt.NDArray[np.int64]:
    """`[K, 2]` (x, y) of the mask's pixels that have a neighbour outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner)[:, ::-1].astype(np.int64)


def distance(first: Mask, second: Mask) -> float:
    """The shortest distance between pixels of two masks, in pixels; 0 where they overlap.

    Raises:
        DataError: one of them is empty.
    """
    if not first.any() or not second.any():
        raise DataError("the distance to nothing cannot be measured: one of the masks is empty")
    if (first & second).any():
        return 0.0
    ours, theirs = edge(first), edge(second)
    if len(ours) > len(theirs):
        ours, theirs = theirs, ours
    rows = max(1, (1 << 22) // len(theirs))  # tables of about 32 MB at a time
    best = min(
        int(((ours[start : start + rows, None] - theirs[None]) ** 2).sum(-1).min())
        for start in range(0, len(ours), rows)
    )
    return float(np.sqrt(best))


def inner_point(mask: Mask) -> tuple[int, int]:
    """The centre of the largest square inside the mask: a point that is well within it.

    Raises:
        DataError: the mask is empty.
    """
    if not mask.any():
        raise DataError("an empty mask has no point inside")
    table = np.pad(mask.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    low, high = 1, min(mask.shape) + 1  # a square of side `low` fits, one of `high` does not
    while high - low > 1:
        side = (low + high) // 2
        low, high = (side, high) if _full_squares(table, side).any() else (low, side)
    y, x = np.argwhere(_full_squares(table, low))[0]
    return int(x) + low // 2, int(y) + low // 2


def _full_squares(table: npt.NDArray[np.int64], side: int) -> Mask:
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    full: Mask = sums == side * side
    return full


def place(mask: Mask) -> str:
    """Where in the picture the middle of a mask lies: "upper left", "right", "middle" …; "" for an empty mask."""
    if not mask.any():
        return ""
    y, x = (float(axis.mean()) + 0.5 for axis in mask.nonzero())
    column = ("left", "", "right")[min(2, int(3 * x / mask.shape[1]))]
    row = ("upper", "", "lower")[min(2, int(3 * y / mask.shape[0]))]
    if not column:
        return {"upper": "top", "lower": "bottom", "": "middle"}[row]
    return f"{row} {column}".strip()


def colour_key(word: str) -> str:
    """A colour's name as `COLOURS` spells it."""
    return word.lower().replace("gray", "grey")


def colour_name(pixels: Pixels, mask: Mask) -> str:
    """What most of a region's pixels would be called by a person, one of `COLOURS`; "" for an empty mask."""
    names = _names(pixels, mask)
    return max(COLOURS, key=names.count) if names else ""


def _names(pixels: Pixels, mask: Mask) -> list[str]:
    """The colours' names of a region's pixels: a sample of them, in an order that does not depend on chance."""
    inside = pixels[mask]
    return [_name(red, green, blue) for red, green, blue in inside[:: max(1, len(inside) // 2000)].tolist()]


# What a thing of a colour may look like in shade, glare or a tint; what is named together is no contradiction.
_LIKE: dict[str, str] = {
    "red": "red orange brown pink", "orange": "orange red brown yellow", "yellow": "yellow orange green brown",
    "green": "green yellow cyan", "cyan": "cyan blue green", "blue": "blue cyan purple", "purple": "purple pink blue",
    "pink": "pink purple red orange", "brown": "brown orange red yellow black grey", "black": "black grey blue brown",
    "grey": "grey white black blue cyan", "white": "white grey yellow cyan blue orange",
}  # fmt: skip


def colour_share(pixels: Pixels, mask: Mask, colour: str) -> float:
    """How much of a region could be called by a colour of `COLOURS`, generously, 0..1; 0 for an empty mask."""
    names = _names(pixels, mask)
    alike = _LIKE[colour].split()
    return sum(name in alike for name in names) / len(names) if names else 0.0


def _name(red: int, green: int, blue: int) -> str:
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.18:
        return "black"
    if saturation < 0.16:
        return "white" if value > 0.82 else "grey"
    name = next(name for end, name in _HUES if 360 * hue <= end)
    return "brown" if name in ("orange", "red") and value < 0.55 and saturation < 0.8 else name


Side = Literal["left", "right", "above", "below", "between", "around"]


def free_space(side: Side, anchors: Sequence[Mask], taken: Sequence[Mask] = ()) -> Mask:
    """The pixels beside some things that nothing known covers.

    Left and right are the strip as high as the anchors up to the picture's border, above and below the strip as wide;
    between is the gap of two anchors' boxes; around is the anchors' box grown by half its size.

    Args:
        side: which side of the anchors.
        anchors: what the place is beside, at least one mask that is not empty.
        taken: further masks that are not free.

    Raises:
        DataError: an anchor is empty, or between is asked of another number than two.
    """
    if not anchors or any(not mask.any() for mask in anchors):
        raise DataError(f"a place '{side}' needs something to be {side}, but the mask is empty")
    if side == "between" and len(anchors) != 2:
        raise DataError(f"'between' takes two things, not {len(anchors)}")
    if side == "between":
        free = _between(*anchors)
    else:
        free = np.zeros_like(anchors[0])
        free[_beside(side, combine("union", anchors))] = True
    return combine("difference", [free, *anchors, *taken])


def _beside(side: Side, anchor: Mask) -> tuple[slice, slice]:
    x, y, width, height = bounding_box(anchor)
    rows, columns = slice(y, y + height), slice(x, x + width)
    if side == "around":
        return (
            slice(max(0, y - height // 2), y + height + height // 2),
            slice(max(0, x - width // 2), x + width + width // 2),
        )
    return {
        "left": (rows, slice(0, x)),
        "right": (rows, slice(x + width, None)),
        "above": (slice(0, y), columns),
        "below": (slice(y + height, None), columns),
    }[side]


def _between(first: Mask, second: Mask) -> Mask:
    """The gap of two boxes; where they overlap, the gap between the things themselves, line by line."""
    (x0, y0, w0, h0), (x1, y1, w1, h1) = bounding_box(first), bounding_box(second)
    across = max(x0, x1) - min(x0 + w0, x1 + w1)
    down = max(y0, y1) - min(y0 + h0, y1 + h1)
    gap = np.zeros_like(first)
    if max(across, down) > 0:
        if across >= down:
            gap[min(y0, y1) : max(y0 + h0, y1 + h1), min(x0 + w0, x1 + w1) : max(x0, x1)] = True
        else:
            gap[min(y0 + h0, y1 + h1) : max(y0, y1), min(x0, x1) : max(x0 + w0, x1 + w1)] = True
        return gap
    (fy, fx), (sy, sx) = (np.argwhere(mask).mean(0) for mask in (first, second))
    upright = abs(fx - sx) >= abs(fy - sy)
    found = _between_in_rows(first, second, fx < sx) if upright else _between_in_rows(first.T, second.T, fy < sy).T
    return np.ascontiguousarray(found)


def _between_in_rows(first: Mask, second: Mask, first_is_left: bool) -> Mask:
    """In rows that both are in: what lies right of all of the left one and left of all of the right one."""
    left, right = (first, second) if first_is_left else (second, first)
    columns = np.arange(left.shape[1])
    end = left.shape[1] - 1 - left[:, ::-1].argmax(1, keepdims=True)
    start = right.argmax(1, keepdims=True)
    both = left.any(1, keepdims=True) & right.any(1, keepdims=True)
    found: Mask = both & (columns > end) & (columns < start)
    return found
