"""Names of colours: which of eleven words fits a pixel, in CIELAB, and which word fits a whole region for certain.

Pixels between two names get none, so that a region has a name only where nearly everybody would use it. The bounds
were set by looking at instances with their names (docs/data.md says how to look again).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

NAMES = ("black", "white", "gray", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
NAMELESS = len(NAMES)
VIVID = frozenset({"red", "orange", "yellow", "green", "blue", "purple", "pink"})  # neither shade nor glare

CLEAR_SHARE = 0.5  # of a region's pixels have the name
CLEAR_LEAD = 2.5  # times as many as any other name
UNSEEN_SHARE = 0.02  # at most so many pixels of a colour in a region that is certainly not of it
ABSENT_SHARE = 0.1  # at most so many pixels of a colour, or of one like it, in a region that is certainly not of it

# A region of the first may be called by one of the others, so neither proves the other wrong.
_ALIKE: Mapping[str, frozenset[str]] = {
    "black": frozenset({"gray", "blue", "brown", "purple", "green"}),
    "white": frozenset({"gray", "pink", "yellow"}),
    "gray": frozenset({"black", "white", "blue", "brown", "green", "purple"}),
    "red": frozenset({"orange", "brown", "pink", "purple"}),
    "orange": frozenset({"red", "brown", "yellow", "pink"}),
    "brown": frozenset({"black", "gray", "red", "orange", "yellow"}),
    "yellow": frozenset({"orange", "green", "white", "brown"}),
    "green": frozenset({"yellow", "blue", "gray", "black"}),
    "blue": frozenset({"green", "purple", "gray", "black"}),
    "purple": frozenset({"blue", "pink", "red", "gray", "black"}),
    "pink": frozenset({"red", "purple", "white", "orange"}),
}

# name, lightness from–to, chroma from–to, hue from–to (degrees, the second above 360 where it goes round).
_BOUNDS: tuple[tuple[str, float, float, float, float, float, float], ...] = (
    ("black", 0, 16, 0, 25, 0, 360),
    ("black", 0, 24, 0, 10, 0, 360),
    ("gray", 34, 72, 0, 7, 0, 360),
    ("white", 80, 101, 0, 11, 0, 360),
    ("red", 18, 62, 38, 200, 12, 48),
    ("orange", 52, 90, 52, 200, 50, 75),
    ("brown", 18, 48, 14, 45, 38, 80),
    ("yellow", 62, 101, 48, 200, 80, 106),
    ("green", 20, 95, 20, 200, 110, 180),
    ("blue", 20, 62, 24, 200, 225, 308),
    ("blue", 62, 90, 18, 200, 225, 300),
    ("purple", 18, 70, 22, 200, 312, 340),
    ("pink", 60, 95, 18, 200, 342, 384),
    ("pink", 45, 95, 40, 200, 342, 368),
)


def to_lab(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """From sRGB `[..., 3]` uint8 to CIELAB (D65) `[..., 3]`: lightness 0..100, a, b."""
    channels = pixels.astype(np.float32) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def name_pixels(lab: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """`[..., 3]` CIELAB to the index of a name in `NAMES`, or `NAMELESS`, `[...]`."""
    lightness, chroma = lab[..., 0], np.hypot(lab[..., 1], lab[..., 2])
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    names = np.full(lightness.shape, NAMELESS, dtype=np.uint8)
    for name, dark, light, pale, vivid, start, end in _BOUNDS:
        inside = (lightness >= dark) & (lightness < light) & (chroma >= pale) & (chroma < vivid)
        inside &= ((hue >= start) & (hue < end)) | (hue + 360 < end)
        names[inside & (names == NAMELESS)] = NAMES.index(name)
    return names


def shares(names: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Name → its share of the pixels `names`, for names that some pixel has."""
    counts = np.bincount(names.ravel(), minlength=NAMELESS + 1) / max(1, names.size)
    return {name: round(float(count), 3) for name, count in zip(NAMES, counts[:NAMELESS], strict=True) if count}


def clear_name(parts: Mapping[str, float]) -> str | None:
    """The one name that fits a region of these shares, or None."""
    if not parts:
        return None
    first, *others = sorted(parts, key=lambda name: -parts[name])
    lead = max((parts[name] for name in others), default=0.0)
    return first if parts[first] >= max(CLEAR_SHARE, CLEAR_LEAD * lead) else None


def certainly_not(name: str, parts: Mapping[str, float]) -> bool:
    """Whether nobody would call a region of these shares by `name`.

    Either it has another clear name, unlike this one; or the name is a vivid colour, and neither it nor one like it is
    to be found.
    """
    if not parts:
        return False
    clear, alike = clear_name(parts), _ALIKE[name]
    if parts.get(name, 0.0) > UNSEEN_SHARE:
        return False
    if clear is not None and clear != name and clear not in alike:
        return sum(parts.get(other, 0.0) for other in {name} | alike - _ALIKE[clear]) <= ABSENT_SHARE
    found = sum(parts.get(other, 0.0) for other in alike & VIVID)
    return name in VIVID and clear is None and found <= ABSENT_SHARE
