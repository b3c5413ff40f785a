import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mllmseg.models.pooling import (
    GEOMETRY_DIM,
    POSITION_DIM,
    grid_position_code,
    patch_weights,
    pool_superpixels,
    superpixel_geometry,
)
from mllmseg.structures import Superpixels


def partition(label_map: torch.Tensor) -> Superpixels:
    """Superpixels of a label map; labels are renumbered so that all are used."""
    label_map = label_map.unique(return_inverse=True)[1]
    boxes = []
    for label in range(int(label_map.max()) + 1):
        rows, columns = (label_map == label).nonzero(as_tuple=True)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    areas = label_map.flatten().bincount()
    return Superpixels(label_map, torch.tensor(boxes), areas, torch.zeros(len(areas)))


@st.composite
def partitions(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return partition(torch.randint(0, draw(st.integers(1, 9)), (height, width), generator=generator))


grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


def brute_force_weights(superpixels, grid):
    height, width = superpixels.label_map.shape
    counts = torch.zeros(len(superpixels), grid[0] * grid[1])
    for row in range(height):
        for column in range(width):
            cell = int((row + 0.5) * grid[0] / height) * grid[1] + int((column + 0.5) * grid[1] / width)
            counts[superpixels.label_map[row, column], cell] += 1
    return counts / counts.sum(1, keepdim=True)


@settings(max_examples=30, deadline=None)
@given(partitions(), grids)
def test_weights_count_label_pixels(superpixels, grid):
    weights = patch_weights(superpixels, grid)
    assert weights.shape == (len(superpixels), grid[0] * grid[1])
    torch.testing.assert_close(weights, brute_force_weights(superpixels, grid))
    torch.testing.assert_close(weights.sum(1), torch.ones(len(superpixels)))


@settings(max_examples=30, deadline=None)
@given(partitions(), grids)
def test_constant_features_pool_to_the_constant(superpixels, grid):
    pooled = pool_superpixels(torch.full((5, *grid), 2.5), superpixels)
    torch.testing.assert_close(pooled, torch.full((len(superpixels), 5), 2.5))


@settings(max_examples=30, deadline=None)
@given(partitions(), st.integers(1, 4))
def test_pooled_features_weighted_by_area_give_the_whole(superpixels, channels):
    features = torch.randn(channels, *superpixels.label_map.shape)
    pooled = pool_superpixels(features, superpixels)
    whole = (pooled * superpixels.areas[:, None]).sum(0)
    torch.testing.assert_close(whole, features.sum((1, 2)), atol=1e-3, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(partitions(), grids)
def test_relabelling_permutes_everything(superpixels, grid):
    order = torch.randperm(len(superpixels))
    inverse = order.argsort()
    permuted = Superpixels(
        inverse[superpixels.label_map], superpixels.boxes[order], superpixels.areas[order], superpixels.scores[order]
    )
    torch.testing.assert_close(patch_weights(permuted, grid), patch_weights(superpixels, grid)[order])
    torch.testing.assert_close(superpixel_geometry(permuted), superpixel_geometry(superpixels)[order])


@settings(max_examples=30, deadline=None)
@given(partitions())
def test_geometry_is_finite_and_bounded(superpixels):
    geometry = superpixel_geometry(superpixels)
    assert geometry.shape == (len(superpixels), GEOMETRY_DIM)
    assert geometry.isfinite().all()
    assert geometry.abs().max() <= 1 + 1e-5


def test_geometry_of_a_quarter():
    labels = torch.zeros(20, 40, dtype=torch.long)
    labels[:10, 20:] = 1  # upper right
    geometry = superpixel_geometry(partition(labels))[1]
    torch.testing.assert_close(geometry[:2], torch.tensor([0.5, -0.5]))  # centroid
    torch.testing.assert_close(geometry[2:6], torch.tensor([0.0, -1.0, 1.0, 0.0]))  # box
    torch.testing.assert_close(geometry[6:8], torch.tensor([0.0, 0.0]))  # half as wide and as high
    torch.testing.assert_close(geometry[8:10], torch.tensor([1.0, 0.0]))  # fills its box; half the image's root
    assert geometry[13].abs() < 1e-5  # x and y are independent
    assert geometry[14] == 0.25  # twice as wide as high: one of four octaves
    assert (geometry[-64:] == 1).all()


def test_occupancy_shows_the_shape():
    labels = torch.zeros(64, 64, dtype=torch.long)
    labels[:, 32:] = torch.eye(64, dtype=torch.long)[:, ::2]  # label 1: a slanted line in the right half
    occupancy = superpixel_geometry(partition(labels))[:, -64:].view(-1, 8, 8)
    assert (occupancy[0, :, :4] == 1).all()
    assert (occupancy[1].diagonal() > occupancy[1].fliplr().diagonal()).all()


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (37, 28)])
def test_regions_without_pixels_stay_finite(grid):
    superpixels = partition(torch.zeros(3, 4, dtype=torch.long))
    ghost = Superpixels(
        superpixels.label_map,
        torch.cat([superpixels.boxes, torch.zeros(1, 4, dtype=torch.long)]),
        torch.tensor([12, 0]),
        torch.zeros(2),
    )
    assert pool_superpixels(torch.randn(3, *grid), ghost).isfinite().all()
    assert superpixel_geometry(ghost).isfinite().all()


def test_pooling_keeps_dtype_and_gradient():
    superpixels = partition(torch.arange(12).view(3, 4) // 5)
    assert pool_superpixels(torch.randn(2, 2, 2, dtype=torch.bfloat16), superpixels).dtype == torch.bfloat16
    features = torch.randn(2, 2, 2, requires_grad=True)
    pool_superpixels(features, superpixels).sum().backward()
    assert (features.grad > 0).all()


def test_position_codes_tell_patches_apart():
    codes = grid_position_code((37, 28), torch.device("cpu"))
    assert codes.shape == (37 * 28, POSITION_DIM)
    distances = torch.cdist(codes, codes) + torch.eye(len(codes)) * 10
    assert distances.min() > 0.3
