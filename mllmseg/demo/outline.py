"""A region's outline as an SVG path: sharp at any zoom, and the browser knows when the pointer is on it.

Shapes: H W the region's own grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mllmseg.agent.regions import Mask

# Outlines are traced on a grid of at most so many cells a side: about what a page shows.
MAX_SIDE = 720
# What is more ragged than this is traced more coarsely: a page of a megabyte of outlines helps nobody.
MAX_EDGES = 40_000
MIN_SIDE = 90

Corner = tuple[int, int]
Corners = npt.NDArray[np.int64]


def outline(mask: Mask, *, max_side: int = MAX_SIDE) -> str:
    """The outline of a region, holes included; meant for `fill-rule="evenodd"`.

    Args:
        mask: `[H, W]`.
        max_side: larger masks are traced on a coarser grid.

    Returns:
        The `d` of an SVG path in the mask's own pixels; "" for an empty mask.
    """
    whole = mask
    height, width = mask.shape
    scale = max(1.0, max(height, width) / max_side)
    if scale > 1:
        rows, columns = (np.arange(max(1, round(side / scale))) for side in (height, width))
        mask = mask[
            ((rows + 0.5) * height / len(rows)).astype(np.int64)[:, None],
            ((columns + 0.5) * width / len(columns)).astype(np.int64),
        ]
    across, down = width / mask.shape[1], height / mask.shape[0]
    starts, ends = _edges(np.pad(mask.astype(bool), 1))
    if len(starts) > MAX_EDGES and max_side > MIN_SIDE:
        return outline(whole, max_side=max_side // 2)
    parts = []
    for loop in _loops(starts, ends):
        points = _smooth(loop)
        if len(points) >= 3:
            parts.append("M" + "L".join(f"{x * across:.6g} {y * down:.6g}" for x, y in points) + "Z")
    return "".join(parts)


def _loops(starts: Corners, ends: Corners) -> list[list[Corner]]:
    """Closed walks along edges from start to end, each edge `[2]` (x, y) once."""
    edges: dict[Corner, list[Corner]] = {}
    for start, end in zip(map(tuple, starts.tolist()), map(tuple, ends.tolist()), strict=True):
        edges.setdefault(start, []).append(end)
    loops = []
    while edges:
        start = next(iter(edges))
        loop, corner = [start], _pop(edges, start)
        while corner != start:
            loop.append(corner)
            corner = _pop(edges, corner)
        loops.append(loop)
    return loops


def _edges(padded: Mask) -> tuple[Corners, Corners]:
    """Starts and ends `[E, 2]` (x, y) of the unit edges between inside and outside, the inside to the right."""
    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    starts, ends = [], []
    # Where the run goes: top edges to the right, bottom edges to the left, left edges up, right edges down.
    for edge, first, second in (
        (inside & ~above, (0, 0), (1, 0)),
        (above & ~inside, (1, 0), (0, 0)),
        (inside & ~left, (0, 1), (0, 0)),
        (left & ~inside, (0, 0), (0, 1)),
    ):
        y, x = edge.nonzero()
        corners = np.stack([x, y], axis=1)
        starts.append(corners + first)
        ends.append(corners + second)
    return np.concatenate(starts), np.concatenate(ends)


def _pop(edges: dict[Corner, list[Corner]], corner: Corner) -> Corner:
    nexts = edges[corner]
    chosen = nexts.pop()
    if not nexts:
        del edges[corner]
    return chosen


def _smooth(loop: list[Corner]) -> list[tuple[float, float]]:
    """The middles of the edges without those on a straight line: a staircase of pixels becomes a slope."""
    corners = np.array(loop, dtype=np.float64)
    middles = (corners + np.roll(corners, -1, axis=0)) / 2
    before, after = middles - np.roll(middles, 1, axis=0), np.roll(middles, -1, axis=0) - middles
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return [(float(x), float(y)) for x, y in middles[turns]]
