from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from mllmseg.demo.outline import MAX_EDGES, outline


def rasterise(path: str, width: int, height: int, *, scale: int = 4) -> np.ndarray:
    """The even-odd inside of a path, sampled at pixel centres."""
    inside = Image.new("1", (width * scale, height * scale))
    for part in re.findall(r"M([^Z]*)Z", path):
        points = [tuple(scale * float(value) for value in point.split()) for point in part.split("L")]
        loop = Image.new("1", inside.size)
        ImageDraw.Draw(loop).polygon(points, fill=1)
        inside = ImageChops.logical_xor(inside, loop)
    return np.array(inside)[scale // 2 :: scale, scale // 2 :: scale]


def test_of_a_square_is_the_square_with_its_corners_cut() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[1:3, 1:3] = True
    assert outline(mask) == "M1.5 1L2.5 1L3 1.5L3 2.5L2.5 3L1.5 3L1 2.5L1 1.5Z"


def test_of_nothing_is_nothing() -> None:
    assert outline(np.zeros((5, 7), dtype=bool)) == ""


def test_one_pixel_and_the_whole_picture_have_an_outline() -> None:
    assert outline(np.ones((1, 1), dtype=bool)).startswith("M")
    assert rasterise(outline(np.ones((9, 12), dtype=bool)), 12, 9).mean() > 0.95


@pytest.mark.parametrize("size", [(120, 90), (300, 500), (1100, 1500)])
def test_encloses_what_the_mask_holds_and_leaves_holes_open(size: tuple[int, int]) -> None:
    height, width = size
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2) / min(size)
    mask = ((distance < 0.4) & (distance > 0.15)) | ((x < 20) & (y < 15))
    drawn = rasterise(outline(mask), width, height, scale=2)
    # The border may be off by the cell of the grid that it is traced on.
    assert (drawn ^ mask).mean() < 0.02
    assert not drawn[height // 2, width // 2]
    assert drawn[5, 5]


def test_of_noise_stays_small() -> None:
    mask = np.random.default_rng(0).random((400, 500)) > 0.5
    assert len(outline(mask)) < 40 * MAX_EDGES
