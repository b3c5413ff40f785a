"""Patch features and shape of each superpixel, from the label map alone: features are never upsampled.

Shapes: S superpixels, C channels, h w the label map, h' w' the patch grid over the same valid image, P = h' * w'.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mllmseg.structures import Superpixels

_NUM_FREQUENCIES = 8
_OCCUPANCY_CELLS = 8
_OCCUPANCY_SAMPLES = 3  # a side, in each cell
POSITION_DIM = 4 * _NUM_FREQUENCIES
# centroid 2, box corners 4, box sides 2, fill 1, area 2, second moments 3, aspect 1
PLACE_DIM = 15 + POSITION_DIM  # of the geometry: where a region is, and how large
GEOMETRY_DIM = PLACE_DIM + _OCCUPANCY_CELLS**2


def patch_weights(superpixels: Superpixels, grid: tuple[int, int]) -> Tensor:
    """How much of each superpixel lies in each patch.

    Each label pixel counts for the patch its centre falls in, so any ratio of resolutions works.

    Args:
        superpixels: the partition, with label map `[h, w]`.
        grid: (h', w') of the patch features.

    Returns:
        `[S, P]` float32, patches in row order; rows sum to 1 (uniform for a region without pixels).
    """
    label_map = superpixels.label_map
    device, num_patches = label_map.device, grid[0] * grid[1]
    rows, columns = (
        (2 * torch.arange(side, device=device) + 1) * cells // (2 * side)
        for side, cells in zip(label_map.shape, grid, strict=True)
    )
    cells = rows[:, None] * grid[1] + columns
    counts = _count(label_map * num_patches + cells, len(superpixels), num_patches)
    totals = counts.sum(1, keepdim=True)
    return torch.where(totals > 0, counts / totals.clamp(min=1), 1.0 / num_patches)


def pool_superpixels(patch_features: Tensor, superpixels: Superpixels) -> Tensor:
    """Area-weighted average of the patch features of each region.

    Args:
        patch_features: `[C, h', w']` over the valid image.
        superpixels: the partition.

    Returns:
        `[S, C]` in the features' dtype.
    """
    height, width = patch_features.shape[-2:]
    weights = patch_weights(superpixels, (height, width)).to(patch_features)
    return weights @ patch_features.flatten(1).T


def _count(index: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """`[num_rows, num_columns]` float32: how often each flat index occurs."""
    counts = torch.bincount(index.flatten(), minlength=num_rows * num_columns)
    return counts.view(num_rows, num_columns).float()


def position_code(positions: Tensor) -> Tensor:
    """Sines and cosines of a coordinate in -1..1 at eight octave-spaced frequencies: `[n]` to `[n, 16]`."""
    # Half a period to 16 periods a side; the finest is two patches of a 37-patch side.
    exponents = torch.arange(_NUM_FREQUENCIES, device=positions.device) * (5 / (_NUM_FREQUENCIES - 1))
    angles = positions[:, None] * (math.pi / 2 * 2.0**exponents)
    return torch.cat([angles.sin(), angles.cos()], 1)


def _centres(count: int, device: torch.device) -> Tensor:
    """`[count]` centres of equal cells that fill -1..1."""
    return (2 * torch.arange(count, device=device) + 1) / count - 1


def grid_position_code(grid: tuple[int, int], device: torch.device) -> Tensor:
    """`[P, POSITION_DIM]`: the position code (of x, then of y) of every patch of a grid, in row order."""
    code_y, code_x = (position_code(_centres(side, device)) for side in grid)
    return torch.cat([code_x.repeat(grid[0], 1), code_y.repeat_interleave(grid[1], 0)], 1)


def superpixel_geometry(superpixels: Superpixels) -> Tensor:
    """Where each region is and what shape it has.

    Averages over a region come from its row and column histograms, which keeps the cost at a few passes over the
    label map whatever the number of regions.

    Args:
        superpixels: the partition, with label map `[h, w]`.

    Returns:
        `[S, GEOMETRY_DIM]` float32, all about -1..1: centroid (x, y), box (x0, y0, x1, y1), box sides, fill of the
        box, area (root, logarithm), second moments (deviation of x, of y, correlation), aspect of the image, Fourier
        code of x and of y averaged over the region, 8 x 8 occupancy of the box in row order.
    """
    label_map = superpixels.label_map
    height, width = label_map.shape
    num, device = len(superpixels), label_map.device
    x, y = _centres(width, device), _centres(height, device)
    columns = _count(label_map * width + torch.arange(width, device=device), num, width)
    rows = _count(label_map * height + torch.arange(height, device=device)[:, None], num, height)
    areas = columns.sum(1, keepdim=True).clamp(min=1)
    columns, rows = columns / areas, rows / areas

    mean_x, mean_y = columns @ x, rows @ y
    std_x = (columns @ x.square() - mean_x.square()).clamp(min=0).sqrt()
    std_y = (rows @ y.square() - mean_y.square()).clamp(min=0).sqrt()
    products = torch.zeros(num, device=device).index_add_(0, label_map.flatten(), (y[:, None] * x).flatten())
    covariance = products / areas[:, 0] - mean_x * mean_y
    # One pixel's own spread is added so that lines and dots have a correlation of about 0, not 0 / 0.
    correlation = covariance / ((std_x + 1 / width) * (std_y + 1 / height))

    boxes = superpixels.boxes.float() / torch.tensor([width, height, width, height], device=device)
    sides = boxes[:, 2:] - boxes[:, :2]
    fraction = areas[:, 0] / (height * width)
    fill = fraction / sides.prod(1).clamp(min=1 / (height * width))
    log_area = 1 + fraction.log() / math.log(max(2, height * width))
    aspect = max(-1.0, min(1.0, math.log2(width / height) / 4))
    scalars = [mean_x, mean_y, *(2 * boxes - 1).T, *(2 * sides - 1).T, 2 * fill - 1, 2 * fraction.sqrt() - 1]
    scalars += [2 * log_area - 1, std_x, std_y, correlation.clamp(-1, 1), torch.full_like(mean_x, aspect)]
    code = torch.cat([columns @ position_code(x), rows @ position_code(y)], 1)
    return torch.cat([torch.stack(scalars, 1), code, 2 * _occupancy(superpixels) - 1], 1)


def _occupancy(superpixels: Superpixels) -> Tensor:
    """`[S, 64]` 0..1: how much of each cell of its box a region fills, sampled at 3 x 3 points a cell."""
    label_map, boxes = superpixels.label_map, superpixels.boxes.float()
    count = _OCCUPANCY_CELLS * _OCCUPANCY_SAMPLES
    steps = (torch.arange(count, device=label_map.device) + 0.5) / count
    x, y = (
        (boxes[:, axis, None] + (boxes[:, axis + 2] - boxes[:, axis])[:, None] * steps)
        .long()
        .clamp(0, label_map.shape[1 - axis] - 1)
        for axis in (0, 1)
    )
    labels = torch.arange(len(superpixels), device=label_map.device)
    inside = label_map[y[:, :, None], x[:, None, :]] == labels[:, None, None]
    cells, samples = _OCCUPANCY_CELLS, _OCCUPANCY_SAMPLES
    return inside.float().view(-1, cells, samples, cells, samples).mean((2, 4)).flatten(1)
