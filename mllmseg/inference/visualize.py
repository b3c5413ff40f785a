"""Masks and superpixels drawn on the image.

N masks, S superpixels, H W the image's own size, h w the label map.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mllmseg.errors import AlignmentError
from mllmseg.structures import Segmentation, Superpixels

Color = tuple[int, int, int]
Array = np.ndarray[Any, Any]

# Well apart from each other and from most photos, also for the colour-blind; further colours walk the hue circle.
PALETTE: tuple[Color, ...] = (
    (255, 64, 64), (0, 158, 255), (255, 200, 0), (0, 200, 120), (200, 80, 255), (255, 130, 20), (0, 215, 220),
    (255, 90, 180),
)  # fmt: skip
# Fonts of Linux, macOS and Windows with more letters than Pillow's own, which knows ASCII only.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")
FILL = 0.45
DIMMED = 0.35
CHOSEN: Color = (255, 210, 0)
WHITE: Color = (255, 255, 255)


def color(index: int) -> Color:
    """The colour of the mask with this index."""
    if index < len(PALETTE):
        return PALETTE[index]
    hue = (index * 0.618033988749895) % 1  # the golden ratio: neighbours in number are far apart in hue
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 if index % 2 else 0.6, 1.0)
    return int(255 * red), int(255 * green), int(255 * blue)


def overlay(image: Image.Image, masks: Tensor | Array, *, labels: Sequence[str] | None = None) -> Image.Image:
    """Fills each mask with a translucent colour and draws its contour.

    Args:
        image: the image.
        masks: `[N, H, W]` bool.
        labels: N texts; equal ones share a colour and are written once.

    Raises:
        AlignmentError: masks of another size than the image, or another number of labels.
    """
    arrays = _as_masks(masks, image)
    if labels is not None and len(labels) != len(arrays):
        raise AlignmentError(f"{len(labels)} labels for {len(arrays)} masks")
    names = list(labels) if labels is not None else [str(index) for index in range(len(arrays))]
    colors = {name: color(index) for index, name in enumerate(dict.fromkeys(names))}
    pixels = np.array(image.convert("RGB"))
    for mask, name in zip(arrays, names, strict=True):
        pixels[mask] = _blend(pixels[mask], colors[name], FILL)
    width = _line_width(image.size)
    for mask, name in zip(arrays, names, strict=True):
        # White outside the coloured line: visible on any background.
        pixels[_dilate(mask, max(1, width // 2)) & ~mask] = WHITE
        pixels[mask & ~_erode(mask, width)] = colors[name]
    drawn = Image.fromarray(pixels)
    if labels is not None:
        _write_labels(drawn, arrays, names, colors)
    return drawn


def superpixel_overlay(
    image: Image.Image, superpixels: Superpixels, *, scores: Tensor | None = None, numbered: bool = False
) -> Image.Image:
    """Draws the borders of the superpixels.

    Args:
        image: the image.
        superpixels: its partition.
        scores: `[S]` probability that each region belongs to the target; regions of at least one half are lit, the
            others dimmed. None leaves all alike.
        numbered: write each region's number, as the tokens are numbered.

    Raises:
        AlignmentError: another number of scores than superpixels.
    """
    if scores is not None and len(scores) != len(superpixels):
        raise AlignmentError(f"{len(scores)} scores for {len(superpixels)} superpixels")
    labels = _resize_labels(superpixels.label_map.cpu().numpy(), (image.height, image.width))
    pixels = np.array(image.convert("RGB"))
    width = _line_width(image.size)
    if scores is None:
        pixels[_borders(labels, max(1, width // 2))] = WHITE
    else:
        lit = (scores.cpu().numpy() >= 0.5)[labels]
        pixels[~lit] = _blend(pixels[~lit], (0, 0, 0), 1 - DIMMED)
        thin = _borders(labels, 1)
        pixels[thin] = _blend(pixels[thin], WHITE, 0.5)
        pixels[lit & ~_erode(lit, width)] = CHOSEN
    drawn = Image.fromarray(pixels)
    if numbered:
        _write_numbers(drawn, labels, len(superpixels))
    return drawn


def overlay_all(image: Image.Image, found: Sequence[Segmentation]) -> Image.Image:
    """The masks of several queries about one image, a colour and a label for each query."""
    labels = [item.query for item in found for _ in item.masks]
    masks = np.concatenate([item.masks.numpy() for item in found])
    return overlay(image, masks, labels=labels)


def chosen_superpixels(image: Image.Image, found: Sequence[Segmentation]) -> Image.Image:
    """The superpixels of the image, numbered, those that any of the queries chose lit."""
    superpixels = found[0].superpixels
    rows = [row for item in found for row in item.superpixel_scores]
    scores = torch.stack(rows).amax(0) if rows else torch.zeros(len(superpixels))
    return superpixel_overlay(image, superpixels, scores=scores, numbered=True)


def mask_image(masks: Tensor | Array) -> Image.Image:
    """`[N, H, W]` or `[H, W]` bool masks as one greyscale image: 255 where any of them is, else 0."""
    array = masks.cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    union = np.asarray(array if array.ndim == 2 else array.any(0))
    return Image.fromarray(np.where(union, 255, 0).astype(np.uint8))


def side_by_side(images: Sequence[Image.Image], *, gap: int = 8) -> Image.Image:
    """Images in a row on white, scaled to the height of the smallest."""
    height = min(image.height for image in images)
    scaled = [
        image.convert("RGB").resize((max(1, round(image.width * height / image.height)), height)) for image in images
    ]
    row = Image.new("RGB", (sum(image.width for image in scaled) + gap * (len(scaled) - 1), height), WHITE)
    left = 0
    for image in scaled:
        row.paste(image, (left, 0))
        left += image.width + gap
    return row


def _as_masks(masks: Tensor | Array, image: Image.Image) -> Array:
    array = (masks.cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)).astype(bool)
    if array.ndim != 3 or array.shape[1:] != (image.height, image.width):
        raise AlignmentError(f"masks {array.shape} do not fit an image [H, W] of {image.height} x {image.width}")
    return array


def _blend(pixels: Array, tint: Color, weight: float) -> Array:
    return (pixels * (1 - weight) + np.array(tint) * weight).astype(np.uint8)


def _line_width(size: tuple[int, int]) -> int:
    return max(2, round(min(size) / 200))


def _dilate(mask: Array, radius: int) -> Array:
    """Grows a mask by `radius` pixels (a square: two passes of shifts are far cheaper than a disc)."""
    for axis in (0, 1):
        grown = mask.copy()
        for shift in range(1, min(radius, mask.shape[axis] - 1) + 1):
            ahead = [slice(None), slice(None)]
            behind = [slice(None), slice(None)]
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(ahead)] |= mask[tuple(behind)]
            grown[tuple(behind)] |= mask[tuple(ahead)]
        mask = grown
    return mask


def _erode(mask: Array, radius: int) -> Array:
    """Shrinks a mask by `radius` pixels; the image's edge is no border, so cut-off things stay open there."""
    return ~_dilate(~mask, radius)


def _resize_labels(label_map: Array, size: tuple[int, int]) -> Array:
    """`[h, w]` → `[H, W]`, each pixel the label under its centre."""
    rows, columns = (
        ((np.arange(side) + 0.5) * cells / side).astype(np.int64)
        for side, cells in zip(size, label_map.shape, strict=True)
    )
    return label_map[rows[:, None], columns[None]]


def _borders(labels: Array, width: int) -> Array:
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    return _dilate(edges, width // 2) if width > 1 else edges


def _font(size: tuple[int, int], share: float) -> Any:
    points = max(11, round(min(size) * share))
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, points)
        except OSError:
            continue
    return ImageFont.load_default(points)


def _write_labels(image: Image.Image, masks: Array, names: list[str], colors: dict[str, Color]) -> None:
    """Each text once, at the top of the first mask of that name that has pixels; later ones move down off earlier."""
    draw, font = ImageDraw.Draw(image), _font(image.size, 0.035)
    taken: list[tuple[float, float, float, float]] = []
    written = set()
    for mask, name in zip(masks, names, strict=True):
        if name in written or not name.strip() or not mask.any():
            continue
        written.add(name)
        text = name if len(name) <= 40 else name[:39] + "…"
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 8, bottom - top + 8
        x = max(0, min(int(columns[0]), image.width - width))
        y = max(0, int(rows[0]) - height)
        while any(x < b[2] and b[0] < x + width and y < b[3] and b[1] < y + height for b in taken):
            y += height
        y = min(y, max(0, image.height - height))
        taken.append((x, y, x + width, y + height))
        draw.rectangle((x, y, x + width, y + height), fill=colors[name])
        luminance = np.dot(colors[name], (0.299, 0.587, 0.114))
        draw.text((x + 4 - left, y + 4 - top), text, font=font, fill=(0, 0, 0) if luminance > 140 else WHITE)


def _write_numbers(image: Image.Image, labels: Array, count: int) -> None:
    draw, font = ImageDraw.Draw(image), _font(image.size, 0.026)
    for number in range(count):
        inside = np.argwhere(_innermost(labels == number))
        if len(inside):
            # The pixel of the region nearest to its centre: the centre itself may lie in a hole.
            y, x = inside[((inside - inside.mean(0)) ** 2).sum(1).argmin()]
            draw.text(
                (int(x), int(y)), str(number), font=font, fill=WHITE, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0)
            )


def _innermost(region: Array) -> Array:
    """What is left of a region before one more erosion, from the image's edges too, would empty it."""
    region = np.pad(region, 1)
    step = 1
    while (smaller := _erode(region, step)).any():
        region, step = smaller, step * 2
    return region[1:-1, 1:-1]
