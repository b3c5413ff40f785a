import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mllmseg.models import partition

maps = hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-1, 3))
mask_sets = st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: hnp.arrays(np.bool_, shape)
)


def flood_fill(label_map):
    """The obvious way: numbers components in reading order."""
    out = np.full(label_map.shape, -1)
    count = 0
    for start in np.ndindex(label_map.shape):
        if out[start] >= 0:
            continue
        out[start], stack = count, [start]
        while stack:
            y, x = stack.pop()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= near[0] < label_map.shape[0] and 0 <= near[1] < label_map.shape[1]
                if inside and out[near] < 0 and label_map[near] == label_map[start]:
                    out[near] = count
                    stack.append(near)
        count += 1
    return out


@given(maps)
def test_connected_components_are_what_a_flood_fill_finds(label_map):
    np.testing.assert_array_equal(partition.connected_components(label_map), flood_fill(label_map))


def test_connected_components_of_a_spiral_are_found():
    spiral = np.zeros((31, 31), dtype=np.int64)
    for ring in range(0, 15, 2):  # nested frames, joined by one bridge each
        spiral[ring : 31 - ring, ring : 31 - ring] = 1
        spiral[ring + 1 : 30 - ring, ring + 1 : 30 - ring] = 0
        spiral[ring + 1, 15] = 1
    np.testing.assert_array_equal(partition.connected_components(spiral), flood_fill(spiral))


def test_carve_paints_small_masks_on_top_and_drops_those_below_the_area():
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[0, :2, :2] = True
    masks[1] = True
    masks[2, 3, 3] = True
    np.testing.assert_array_equal(
        partition.carve(masks, min_area=2), [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    )


def test_coarse_first_takes_wholes_and_only_uncovered_parts():
    masks = np.zeros((3, 2, 6), dtype=bool)
    masks[0, :, :3] = True  # whole
    masks[1, :, 2:3] = True  # part inside it
    masks[2, :, 3:5] = True  # part beside it
    levels = np.array([2, 1, 1])
    np.testing.assert_array_equal(partition.coarse_first(masks, levels, 0.3), [[0, 0, 0, 2, 2, -1]] * 2)


def test_no_mask_leaves_everything_uncovered():
    none = np.zeros((0, 3, 4), dtype=bool)
    assert (partition.carve(none, 1) == -1).all()
    assert (partition.coarse_first(none, np.zeros(0, dtype=np.int64), 0.3) == -1).all()


@given(maps)
def test_separate_uncovered_keeps_masks_and_splits_the_rest(label_map):
    labels, sources = partition.separate_uncovered(label_map)
    assert sorted(np.unique(labels)) == list(range(len(sources)))
    np.testing.assert_array_equal(sources[labels], label_map)
    uncovered = np.flatnonzero(sources == -1)
    for region in uncovered:
        assert (
            flood_fill(np.where(labels == region, 1, -np.arange(labels.size).reshape(labels.shape) - 1)).max()
            == (labels != region).sum()
        )  # the region is one component; every other pixel is its own


@given(maps, st.floats(0, 30))
def test_absorb_tiny_leaves_no_tiny_region_beside_others(label_map, min_area):
    labels = partition.absorb_tiny(flood_fill(label_map), min_area)
    areas = np.unique(labels, return_counts=True)[1]
    assert len(areas) == 1 or areas.min() >= min_area


def test_a_tiny_region_joins_the_neighbour_with_the_longest_border():
    labels = np.array([[0, 0, 0, 1], [0, 2, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    labels[1, 1] = 2  # borders: two sides to 0, two to 1; the larger wins
    np.testing.assert_array_equal(partition.absorb_tiny(labels, 2)[1, 1], 1)
    labels[1, 2] = 0
    np.testing.assert_array_equal(partition.absorb_tiny(labels, 2)[1, 1], 0)


def test_absorb_fragments_cleans_specks_and_pinholes():
    label_map = np.zeros((8, 8), dtype=np.int64)
    label_map[:, 4:] = 1
    label_map[2, 2] = 1  # a speck of a mask far from its body
    label_map[5, 6] = -1  # a pinhole
    cleaned = partition.absorb_fragments(label_map, 3)
    np.testing.assert_array_equal(cleaned, np.repeat([[0, 1]], 4, axis=1).repeat(8, axis=0))


@given(maps, st.integers(1, 12))
def test_limit_regions_reaches_the_limit(label_map, limit):
    regions = flood_fill(label_map)
    count = regions.max() + 1
    limited = partition.limit_regions(regions, limit)
    assert len(np.unique(limited)) == min(count, limit)
    for region in range(count):  # regions are merged, never cut
        assert len(np.unique(limited[regions == region])) == 1


@given(maps, st.integers(1, 100))
def test_split_reaches_the_minimum_or_single_pixels(label_map, minimum):
    regions = flood_fill(label_map)
    count = regions.max() + 1
    labels, origins = partition.split_to(regions, minimum)
    assert len(origins) == max(count, min(minimum, labels.size))
    assert sorted(np.unique(labels)) == list(range(len(origins)))
    np.testing.assert_array_equal(origins[labels], regions)


def test_split_halves_across_the_longer_side():
    labels, _ = partition.split_to(np.zeros((2, 8), dtype=np.int64), 2)
    np.testing.assert_array_equal(labels, [[0, 0, 0, 0, 1, 1, 1, 1]] * 2)


@given(maps)
def test_superpixels_are_measured_and_ordered(label_map):
    regions = flood_fill(label_map)
    scores = np.linspace(0, 1, regions.max() + 1).astype(np.float32)
    superpixels = partition.to_superpixels(regions, scores)
    labels = superpixels.label_map.numpy()
    assert superpixels.label_map.dtype == superpixels.areas.dtype == superpixels.boxes.dtype
    assert (np.diff(superpixels.areas) <= 0).all()
    for index in range(len(superpixels)):
        rows, columns = np.nonzero(labels == index)
        assert superpixels.areas[index] == len(rows)
        assert superpixels.boxes[index].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        original = np.unique(regions[labels == index])
        assert len(original) == 1
        assert superpixels.scores[index] == scores[original[0]]


@settings(max_examples=50)
@given(mask_sets)
def test_noise_with_thousands_of_components_stays_quick_and_exact(masks):
    painted = partition.carve(masks, 1)
    labels, _ = partition.separate_uncovered(painted)
    merged = partition.limit_regions(partition.absorb_tiny(labels, 3), 4)
    assert len(np.unique(merged)) <= 4


@pytest.mark.parametrize("shape", [(256, 256), (1, 256), (256, 1)])
def test_noise_at_full_size(shape):
    noise = np.random.default_rng(0).integers(-1, 2, shape)
    labels, _ = partition.separate_uncovered(partition.absorb_fragments(noise, 0.001 * noise.size))
    labels = partition.limit_regions(partition.absorb_tiny(labels, 0.002 * noise.size), 64)
    assert 1 <= len(np.unique(labels)) <= 64
