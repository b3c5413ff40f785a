from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mllmseg.agent import edits
from mllmseg.agent.edits import EditOp, edit
from mllmseg.errors import AlignmentError, DataError

OPERATIONS = get_args(EditOp)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(deadline=None, max_examples=60)
@given(
    op=st.sampled_from(OPERATIONS),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 1000),
    density=st.sampled_from([0.02, 0.3, 0.9]),
)
def test_every_pixel_outside_is_bit_identical(op, height, width, seed, density):
    """Of any mask, be it specks all over the picture."""
    mask = np.random.default_rng(seed).random((height, width)) < density
    mask[0, 0] = True
    if op == "remove" and mask.all():
        mask = np.zeros((height, width), dtype=bool)
        mask[0, 0] = height * width > 1
        if not mask.any():
            return
    image = noise(height, width, seed)
    before = np.array(image)
    result = edit(image, mask, op, colour="blue")
    assert (np.array(image) == before).all()
    after = np.array(result)
    kept = mask if op.endswith("_rest") or op == "cut_out" else ~mask
    assert (after[..., :3][kept] == before[kept]).all()
    assert result.size == image.size


@pytest.mark.parametrize("op", [name for name in OPERATIONS if name != "cut_out"])
def test_the_region_does_change(op):
    image, mask = noise(40, 50), np.zeros((40, 50), dtype=bool)
    mask[10:30, 10:30] = True
    changed = (np.array(edit(image, mask, op, colour="red")) != np.array(image)).any(-1)
    region = ~mask if op.endswith("_rest") else mask
    assert changed[region].mean() > 0.9


def test_cut_out_is_transparent_and_empty_outside():
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:7] = True
    result = edit(noise(10, 12), mask, "cut_out")
    pixels = np.array(result)
    assert result.mode == "RGBA"
    assert ((pixels[..., 3] == 255) == mask).all()
    assert not pixels[~mask].any()


def test_grey_is_grey_and_recolouring_keeps_the_shading():
    image, mask = noise(20, 20), np.ones((20, 20), dtype=bool)
    grey = np.array(edit(image, mask, "grey"))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    shaded = np.repeat(np.linspace(60, 160, 20).astype(np.uint8)[:, None, None], 20, axis=1).repeat(3, axis=2)
    blue = np.array(edit(Image.fromarray(shaded), mask, "recolour", colour="blue")).astype(int)
    assert (np.diff(blue.sum(-1)[:, 0]) > 0).all()
    assert (blue[..., 2] > blue[..., 0]).all()


def test_blur_lets_nothing_of_the_sharp_part_bleed_in():
    pixels = np.full((60, 60, 3), 255, dtype=np.uint8)
    pixels[:, :30] = (255, 0, 0)
    mask = np.zeros((60, 60), dtype=bool)
    mask[:, :30] = True
    assert (np.array(edit(Image.fromarray(pixels), mask, "blur_rest")) == pixels).all()


def test_removing_continues_what_is_around():
    """A ramp is its own harmonic continuation: the filled hole must be the ramp again."""
    ramp = np.repeat(np.linspace(20, 220, 96)[None, :, None], 64, axis=0).repeat(3, axis=2).round().astype(np.uint8)
    damaged, mask = ramp.copy(), np.zeros((64, 96), dtype=bool)
    mask[20:40, 30:60] = True
    damaged[mask] = (0, 255, 0)
    damaged[19, 30:60] = (0, 255, 0)  # the edge of the thing that its mask missed
    result = np.array(edit(Image.fromarray(damaged), mask, "remove")).astype(int)
    assert np.abs(result - ramp)[mask].max() < 25
    assert np.abs(result - ramp)[mask].mean() < 6


def test_removing_nearly_everything_works():
    mask = np.ones((33, 17), dtype=bool)
    mask[5, 5] = False
    result = np.array(edit(noise(33, 17), mask, "remove"))
    assert (result == result[5, 5]).all()


@pytest.mark.parametrize(
    ("op", "colour", "mask", "error", "message"),
    [
        ("melt", None, "some", DataError, "unknown edit 'melt'"),
        ("recolour", None, "some", DataError, "which colour"),
        ("recolour", "bleu", "some", DataError, "did you mean 'blue'"),
        ("highlight", "#12345", "some", DataError, "unknown colour"),
        ("blur", None, "none", DataError, "cannot blur nothing"),
        ("remove", None, "all", DataError, "nothing is left"),
        ("grey", None, "other", AlignmentError, "does not fit"),
    ],
)
def test_what_cannot_be_done_is_said(op, colour, mask, error, message):
    masks = {"some": np.eye(8, dtype=bool), "none": np.zeros((8, 8), bool), "all": np.ones((8, 8), bool)}
    with pytest.raises(error, match=message):
        edit(noise(8, 8), masks.get(mask, np.ones((3, 3), bool)), op, colour=colour)


def test_colours():
    assert edits.parse_colour("#3060C0") == (0x30, 0x60, 0xC0)
    assert edits.parse_colour("Gray") == edits.parse_colour("grey")
