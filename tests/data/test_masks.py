"""Every form of label draws the same pixels; damaged ones raise and name the record."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask

from mllmseg.data.masks import decode_rle, draw, image_size, read_png_mask, union
from mllmseg.errors import DataError

SIZE = (8, 10)
SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]
EXPECTED = np.zeros(SIZE, dtype=np.uint8)
EXPECTED[1:4, 2:6] = 1


def _compressed(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def test_all_forms_are_one(tmp_path: Path, miniatures: ModuleType) -> None:
    Image.fromarray(EXPECTED * 255).save(tmp_path / "mask.png")
    left, right = EXPECTED.copy(), EXPECTED.copy()
    left[:, 4:] = 0
    right[:, :3] = 0
    forms = [
        [SQUARE],
        SQUARE,
        [[1.0, 1.0, 9.0, 7.0], SQUARE, [3.0, 3.0], [0.0, 0.0, 9.0, 0.0, 9.0]],
        _compressed(EXPECTED),
        [_compressed(left), miniatures.uncompressed(right)],
        _compressed(EXPECTED) | {"counts": _compressed(EXPECTED)["counts"].encode()},
        miniatures.uncompressed(EXPECTED),
        "mask.png",
    ]
    for form in forms:
        drawn = draw(form, SIZE, "here", folder=tmp_path)
        assert drawn.dtype == np.uint8
        np.testing.assert_array_equal(drawn, EXPECTED)


@pytest.mark.parametrize("segmentation", [[], [[1.0, 1.0, 9.0, 7.0]], [[5.0, 5.0]], [1.0, 1.0, 9.0, 7.0]])
def test_polygons_of_fewer_than_three_points_draw_nothing(segmentation: list) -> None:
    assert not draw(segmentation, SIZE, "here").any()


def test_overlapping_polygons_are_united() -> None:
    shifted = [number + 1 for number in SQUARE]
    drawn = draw([SQUARE, shifted], SIZE, "here")
    assert drawn.max() == 1
    assert drawn.sum() == 12 + 12 - 6


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1)))
def test_run_lengths_round_trip(mask: np.ndarray) -> None:
    """Against pycocotools, whose encoder is an independent implementation."""
    np.testing.assert_array_equal(decode_rle(_compressed(mask), "here"), mask)


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ({"size": [10, 8], "counts": [80]}, r"mask of size \[10, 8\] .* image of \[8, 10\]"),
        ({"size": [8, 10], "counts": [79]}, "79 pixels in a mask of 8 x 10"),
        ({"size": [8, 10], "counts": [90, -10]}, "damaged run lengths"),
        ({"size": [8, 10], "counts": ""}, "0 pixels"),
        ({"size": [8, 10], "counts": "00"}, "0 pixels"),
        ({"size": [8, 10], "counts": "\xff"}, "damaged run lengths"),
        ({"size": [8, 10], "counts": "P"}, "middle of a number"),
        ({"size": [8, 10]}, "damaged run lengths: KeyError"),
        ({"size": 8, "counts": [80]}, "damaged run lengths"),
        ([[1, 2, "x", 4, 5, 6]], "polygons cannot be drawn"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no finite"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon has 7 numbers; x and y come in pairs"),
        ("mask.png", "not str"),
        (None, "not NoneType"),
    ],
)
def test_damaged_labels_are_named(segmentation: object, problem: str) -> None:
    with pytest.raises(DataError, match=f"instances.json: annotation 7: .*{problem}"):
        draw(segmentation, SIZE, "instances.json: annotation 7")


def test_png_masks(tmp_path: Path) -> None:
    colours = np.zeros((*SIZE, 3), dtype=np.uint8)
    colours[1:4, 2:6, 1] = 9
    opaque = np.concatenate([colours, np.full((*SIZE, 1), 255, dtype=np.uint8)], axis=2)
    palette = Image.fromarray(EXPECTED, mode="P")
    palette.putpalette([0, 0, 0, 1, 1, 1])
    pictures = [Image.fromarray(EXPECTED), Image.fromarray(colours), Image.fromarray(opaque), palette]
    for picture in [*pictures, Image.fromarray(EXPECTED.astype(bool))]:
        picture.save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_png_mask(tmp_path / "mask.png"), EXPECTED)
    with pytest.raises(DataError, match=r"here: mask of size \[8, 10\]"):
        draw("mask.png", (10, 8), "here", folder=tmp_path)
    (tmp_path / "mask.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"mask\.png: not a picture"):
        draw("mask.png", SIZE, "here", folder=tmp_path)


def test_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    image = Image.new("RGB", (10, 8))
    image.save(tmp_path / "a.jpg")
    assert image_size(tmp_path / "a.jpg") == (8, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (10, 8)
    with pytest.raises(DataError, match=r"b\.jpg: no such image"):
        image_size(tmp_path / "b.jpg")


def test_union_of_none_is_empty() -> None:
    assert not union([], SIZE).any()
