from __future__ import annotations

import numpy as np
import pytest

from mllmseg.agent import regions
from mllmseg.errors import AlignmentError, DataError


def box(x: int, y: int, width: int, height: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.mark.parametrize(
    ("op", "pixels"), [("union", 28), ("intersection", 4), ("difference", 12), ("complement", 600 - 28)]
)
def test_combine(op, pixels):
    assert regions.combine(op, [box(0, 0, 4, 4), box(2, 2, 4, 4)]).sum() == pixels


def test_difference_takes_all_the_others():
    left = regions.combine("difference", [box(0, 0, 10, 1), box(0, 0, 2, 1), box(8, 0, 2, 1)])
    assert regions.bounding_box(left) == (2, 0, 6, 1)


def test_masks_that_cannot_be_combined_are_refused():
    with pytest.raises(AlignmentError, match="sizes"):
        regions.combine("union", [box(0, 0, 1, 1), box(0, 0, 1, 1, (5, 5))])
    with pytest.raises(DataError, match="at least one"):
        regions.combine("union", [])


def test_parts_are_sorted_and_specks_left_out():
    mask = box(0, 0, 5, 5) | box(10, 0, 10, 10) | box(29, 19, 1, 1)
    assert [int(part.sum()) for part in regions.parts(mask)] == [100, 25]
    assert regions.parts(box(0, 0, 0, 0)) == []
    assert (regions.parts(mask)[0] == box(10, 0, 10, 10)).all()


@pytest.mark.parametrize(
    ("other", "expected"), [((8, 0, 2, 2), 5.0), ((2, 1, 2, 2), 0.0), ((4, 0, 1, 1), 1.0), ((6, 8, 2, 2), 5.0)]
)
def test_distance(other, expected):
    first = box(0, 0, 4, 5)
    assert regions.distance(first, box(*other)) == expected
    assert regions.distance(box(*other), first) == expected


def test_distance_to_nothing_is_refused():
    with pytest.raises(DataError, match="empty"):
        regions.distance(box(0, 0, 1, 1), box(0, 0, 0, 0))


def test_inner_point_is_well_inside_even_of_a_ring():
    assert regions.inner_point(box(10, 5, 9, 9)) == (14, 9)
    ring = box(0, 0, 20, 20) & ~box(3, 3, 12, 14)
    x, y = regions.inner_point(ring)
    assert ring[y - 2 : y + 2, x - 2 : x + 2].all()
    assert regions.inner_point(box(29, 19, 1, 1)) == (29, 19)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [((0, 0, 3, 3), "upper left"), ((0, 8, 3, 3), "left"), ((14, 0, 2, 2), "top"), ((27, 17, 3, 3), "lower right"),
     ((10, 5, 10, 10), "middle"), ((0, 0, 0, 0), "")],
)  # fmt: skip
def test_place(mask, expected):
    assert regions.place(box(*mask)) == expected


@pytest.mark.parametrize("name", regions.COLOURS)
def test_every_colour_is_called_by_its_name(name):
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[2:6, 2:6] = regions.COLOURS[name]
    assert regions.colour_name(pixels, box(2, 2, 4, 4)) == name


@pytest.mark.parametrize(
    ("end", "index", "tip"),
    [("leftmost", 0, (2, 3, 2, 8)), ("rightmost", 1, (8, 3, 2, 8)), ("topmost", 1, (2, 3, 8, 2)),
     ("lowest", 0, (2, 9, 8, 2))],
)  # fmt: skip
def test_ends(end, index, tip):
    masks = [box(2, 10, 4, 4), box(20, 0, 3, 3)]
    assert regions.outermost(masks, end) is masks[index]
    assert regions.bounding_box(regions.tip(box(2, 3, 8, 8), end)) == tip
    assert regions.tip(box(2, 3, 1, 1), end).sum() == 1


def test_colours_are_shared_by_what_may_look_alike():
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:, :15], pixels[:, 15:] = regions.COLOURS["orange"], regions.COLOURS["blue"]
    everything = box(0, 0, 30, 20)
    assert regions.colour_share(pixels, everything, "red") == pytest.approx(0.5, abs=0.01)
    assert regions.colour_share(pixels, box(15, 0, 15, 20), "red") == 0
    assert regions.colour_share(pixels, box(0, 0, 0, 0), "red") == 0


def test_between_things_whose_boxes_overlap():
    """A slanted pair: every box of the one overlaps the other's, yet there is room between them."""
    rows, columns = np.indices((20, 30))
    left, right = columns - rows < 2, columns - rows > 8
    gap = regions.free_space("between", [left, right])
    assert (gap == ~(left | right)).all()
    assert (regions.free_space("between", [right.T.copy(), left.T.copy()]) == gap.T).all()
    assert not regions.free_space("between", [left, left]).any()


def test_free_space():
    anchor, other = box(10, 5, 4, 6), box(20, 5, 4, 6)
    assert regions.bounding_box(regions.free_space("left", [anchor])) == (0, 5, 10, 6)
    assert regions.bounding_box(regions.free_space("right", [anchor], [other])) == (14, 5, 16, 6)
    assert not (regions.free_space("right", [anchor], [other]) & other).any()
    assert regions.bounding_box(regions.free_space("above", [anchor])) == (10, 0, 4, 5)
    assert regions.bounding_box(regions.free_space("below", [anchor])) == (10, 11, 4, 9)
    assert regions.bounding_box(regions.free_space("between", [anchor, other])) == (14, 5, 6, 6)
    around = regions.free_space("around", [anchor])
    assert regions.bounding_box(around) == (8, 2, 8, 12)
    assert not (around & anchor).any()
    with pytest.raises(DataError, match="two things"):
        regions.free_space("between", [anchor])
    with pytest.raises(DataError, match="empty"):
        regions.free_space("left", [box(0, 0, 0, 0)])
