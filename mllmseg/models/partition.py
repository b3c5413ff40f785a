"""From overlapping masks to a partition: every pixel in exactly one region.

All of it runs in numpy on the CPU, on label maps of at most 256 x 256 pixels: a few milliseconds, mostly in steps that
have no dense form (connected components, merging).

Shapes: M masks, S regions, h w the low-res grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from mllmseg.structures import Superpixels

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

UNCOVERED = -1


def carve(masks: BoolArray, min_area: float) -> IntArray:
    """Paints all masks of at least `min_area` pixels, large first, so that small ones lie on top.

    Args:
        masks: `[M, h, w]`.
        min_area: in pixels.

    Returns:
        `[h, w]`, the index of the mask on top, or -1.
    """
    areas = masks.sum((1, 2))
    label_map = np.full(masks.shape[1:], UNCOVERED, dtype=np.int64)
    for index in np.argsort(-areas, kind="stable"):
        if areas[index] >= min_area:
            label_map[masks[index]] = index
    return label_map


def coarse_first(masks: BoolArray, levels: IntArray, max_overlap: float) -> IntArray:
    """Whole objects, then parts, then subparts, each only where mostly uncovered; then painted as `carve` does.

    Args:
        masks: `[M, h, w]`, best first.
        levels: `[M]`, 0 subpart, 1 part, 2 whole: which of SAM's three outputs each mask was.
        max_overlap: share of a mask that a single accepted mask may already cover.

    Returns:
        `[h, w]`, the index of the mask on top, or -1.
    """
    flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2]).astype(np.float32)
    overlap = flat @ flat.T / np.maximum(flat.sum(1), 1)[:, None]
    accepted: list[int] = []
    for level in (2, 1, 0):
        for index in np.flatnonzero(levels == level):
            if (overlap[index, accepted] < max_overlap).all():
                accepted.append(int(index))
    label_map = carve(masks[np.array(accepted, dtype=np.int64)], min_area=0)
    return np.array([*accepted, UNCOVERED])[label_map]  # -1 reads the appended -1


def connected_components(label_map: IntArray) -> IntArray:
    """Numbers the 4-connected areas of equal value, 0.. in reading order of their first pixels.

    Nodes are horizontal runs, edges join runs of equal value that touch in neighbouring rows.
    """
    height, width = label_map.shape
    starts = np.ones((height, width), dtype=bool)
    starts[:, 1:] = label_map[:, 1:] != label_map[:, :-1]
    runs = (np.cumsum(starts) - 1).reshape(height, width)
    touching = label_map[1:] == label_map[:-1]
    edges = np.stack([runs[:-1][touching], runs[1:][touching]])
    # A pair of runs touches over many pixels in a row: keep one edge of each stretch.
    if edges.shape[1]:
        new = np.ones(edges.shape[1], dtype=bool)
        new[1:] = (edges[:, 1:] != edges[:, :-1]).any(0)
        edges = edges[:, new]
    return _join(int(runs[-1, -1]) + 1, edges)[runs]


def _join(count: int, edges: IntArray) -> IntArray:
    """Connected components of a graph: `[count]`, numbered 0.. by their first node. Edges are `[2, E]`."""
    parent = np.arange(count)
    while edges.shape[1]:
        low, high = edges.min(0), edges.max(0)
        np.minimum.at(parent, high, low)
        while (parent != parent[parent]).any():
            parent = parent[parent]
        edges = parent[edges]
        edges = edges[:, edges[0] != edges[1]]
    return np.unique(parent, return_inverse=True)[1].reshape(-1)


def absorb_fragments(label_map: IntArray, min_area: float) -> IntArray:
    """Gives connected bits below `min_area` pixels to the label around them: SAM's masks have specks and pinholes.

    Args:
        label_map: `[h, w]`, mask indices or -1.
        min_area: in pixels.

    Returns:
        `[h, w]` with a subset of the values.
    """
    components = connected_components(label_map)
    label_of = np.empty(int(components.max()) + 1, dtype=np.int64)
    label_of[components] = label_map
    return label_of[absorb_tiny(components, min_area)]


def separate_uncovered(label_map: IntArray) -> tuple[IntArray, IntArray]:
    """Gives each connected component of the uncovered pixels a region of its own.

    Args:
        label_map: `[h, w]`, mask indices or -1.

    Returns:
        `[h, w]` labels 0..S-1, all used, and `[S]` the mask each region comes from, or -1.
    """
    components = connected_components(label_map)
    keys = np.where(label_map == UNCOVERED, label_map.max() + 1 + components, label_map)
    values, labels = np.unique(keys, return_inverse=True)
    return labels.reshape(label_map.shape), np.where(values > label_map.max(), UNCOVERED, values)


def borders(labels: IntArray, count: int) -> IntArray:
    """`[S, S]` how many pairs of 4-neighbouring pixels lie in two regions; 0 on the diagonal."""
    pairs = np.concatenate(
        [labels[:, 1:].ravel() * count + labels[:, :-1].ravel(), labels[1:].ravel() * count + labels[:-1].ravel()]
    )
    table = np.bincount(pairs, minlength=count * count).reshape(count, count)
    table = table + table.T
    np.fill_diagonal(table, 0)
    return table


def absorb_tiny(labels: IntArray, min_area: float) -> IntArray:
    """Joins regions below `min_area` pixels to the neighbour with the longest shared border.

    Rounds of simultaneous merges, until none is tiny or one region is left. A merged region keeps the number of its
    largest member, so that the others' numbers fall out of use.

    Args:
        labels: `[h, w]`, values 0..S-1.
        min_area: in pixels.

    Returns:
        `[h, w]` with a subset of the values.
    """
    while True:
        values, dense = np.unique(labels, return_inverse=True)
        dense = dense.reshape(labels.shape)
        areas = np.bincount(dense.ravel())
        tiny = np.flatnonzero(areas < min_area)
        if not len(tiny) or len(values) == 1:
            return labels
        target = _longest_border(dense, tiny, areas)
        group = _join(len(values), np.stack([tiny, target]))
        order = np.lexsort((np.arange(len(values)), areas))  # the largest of each group is written last
        keeper = np.empty(group.max() + 1, dtype=np.int64)
        keeper[group[order]] = values[order]
        labels = keeper[group][dense]


def _longest_border(labels: IntArray, which: IntArray, areas: IntArray) -> IntArray:
    """For each region of `which`, the neighbour it shares most border with; ties go to the larger, then the first.

    Works on the list of pairs, not on an S x S table: a noisy image can have thousands of tiny regions.
    """
    count = len(areas)
    first = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
    second = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
    differ = first != second
    first, second = first[differ], second[differ]
    codes, lengths = np.unique(np.concatenate([first * count + second, second * count + first]), return_counts=True)
    source, neighbour = codes // count, codes % count
    order = np.lexsort((-neighbour, areas[neighbour], lengths))  # the best of each source is written last
    best = np.full(count, -1, dtype=np.int64)
    best[source[order]] = neighbour[order]
    return best[which]


def limit_regions(labels: IntArray, max_regions: int) -> IntArray:
    """Merges the smallest region into its longest-border neighbour until at most `max_regions` are left.

    Args:
        labels: `[h, w]`, values 0..S-1.
        max_regions: at least 1.

    Returns:
        `[h, w]` with a subset of the values.
    """
    values, dense = np.unique(labels, return_inverse=True)
    count = len(values)
    if count <= max_regions:
        return labels
    dense = dense.reshape(labels.shape)
    areas, table, into = np.bincount(dense.ravel()), borders(dense, count), np.arange(count)
    alive = np.ones(count, dtype=bool)
    for _ in range(count - max_regions):
        smallest = int(np.flatnonzero(alive)[np.argmin(areas[alive])])
        target = int(np.lexsort((-np.arange(count), areas, table[smallest]))[-1])
        into[into == smallest] = target
        areas[target] += areas[smallest]
        table[target] += table[smallest]
        table[:, target] += table[:, smallest]
        table[smallest], table[:, smallest], table[target, target] = 0, 0, 0
        alive[smallest] = False
        # The number of the larger part stays; areas decide ties above, so a dead region must never win.
        areas[smallest] = -1
    return values[into][dense]


def split_to(labels: IntArray, min_regions: int) -> tuple[IntArray, IntArray]:
    """Halves the largest region, across its longer side at the median pixel, until there are `min_regions`.

    Args:
        labels: `[h, w]`, values 0..S-1, all used.
        min_regions: reached unless the grid has fewer pixels.

    Returns:
        `[h, w]` labels 0..S'-1, and `[S']` the region each comes from.
    """
    labels, origin = labels.copy(), list(range(int(labels.max()) + 1))
    while len(origin) < min(min_regions, labels.size):
        largest = int(np.argmax(np.bincount(labels.ravel())))
        rows, columns = np.nonzero(labels == largest)
        tall = np.ptp(rows) >= np.ptp(columns)
        order = np.lexsort((columns, rows) if tall else (rows, columns))
        second = order[len(order) // 2 :]
        labels[rows[second], columns[second]] = len(origin)
        origin.append(origin[largest])
    return labels, np.array(origin)


def to_superpixels(labels: IntArray, scores: FloatArray) -> Superpixels:
    """Orders regions by area, large first (ties: by first pixel), and measures them.

    Args:
        labels: `[h, w]`, any non-negative values below len(scores).
        scores: by value of `labels`.
    """
    values, first, dense, areas = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -areas))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    label_map = rank[dense.reshape(labels.shape)]
    return Superpixels(
        label_map=torch.from_numpy(label_map),
        boxes=torch.from_numpy(_boxes(label_map, len(order))),
        areas=torch.from_numpy(areas[order]),
        scores=torch.from_numpy(scores[values[order]].astype(np.float32)),
    )


def _boxes(label_map: IntArray, count: int) -> IntArray:
    """`[S, 4]` (x0, y0, x1, y1), exclusive at the end."""
    rows, columns = np.indices(label_map.shape)
    boxes = np.empty((count, 4), dtype=np.int64)
    for side, positions in ((0, columns), (1, rows)):
        low, high = np.full(count, label_map.size), np.zeros(count, dtype=np.int64)
        np.minimum.at(low, label_map, positions)
        np.maximum.at(high, label_map, positions + 1)
        boxes[:, side], boxes[:, side + 2] = low, high
    return boxes
