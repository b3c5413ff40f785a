import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mllmseg.config import SuperpixelConfig
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.models.superpixels import MaskSet, SuperpixelGenerator, grid_points, low_res_size, suppress

FEW = {"points_per_side": 4}


def check(superpixels, input_size, config):
    """The promises of a partition."""
    labels, count = superpixels.label_map, len(superpixels)
    assert labels.dtype == torch.int64
    assert tuple(labels.shape) == low_res_size(input_size)
    assert labels.unique().tolist() == list(range(count))
    assert min(config.min_tokens, labels.numel()) <= count <= config.max_tokens
    torch.testing.assert_close(superpixels.areas, labels.flatten().bincount(minlength=count))
    assert (superpixels.areas.diff() <= 0).all()
    assert superpixels.scores.shape == (count,)
    for index, (x0, y0, x1, y1) in enumerate(superpixels.boxes.tolist()):
        inside = labels[y0:y1, x0:x1] == index
        assert inside.sum() == superpixels.areas[index]
        assert inside.any(0).all() if x1 - x0 == 1 else inside.any(0)[[0, -1]].all()
        assert inside.any(1)[[0, -1]].all()


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.fixture(scope="module")
def astronaut_superpixels(mobile_sam, astronaut, astronaut_embeddings):
    return SuperpixelGenerator(mobile_sam, SuperpixelConfig())(astronaut_embeddings, astronaut.input_size)


def test_a_photo_becomes_the_things_in_it(astronaut_superpixels, astronaut):
    check(astronaut_superpixels, astronaut.input_size, SuperpixelConfig())
    assert 10 <= len(astronaut_superpixels) <= 64
    assert astronaut_superpixels.scores.max() > 0.9
    labels = astronaut_superpixels.label_map
    face, shuttle, suit, helmet = labels[55, 112], labels[70, 205], labels[170, 100], labels[200, 190]
    assert len({face.item(), shuttle.item(), suit.item(), helmet.item()}) == 4
    x0, y0, x1, y1 = astronaut_superpixels.boxes[face].tolist()
    assert 80 < x0 < x1 < 145
    assert 30 < y0 < y1 < 105


def test_the_same_image_gives_the_same_superpixels(mobile_sam, astronaut, astronaut_embeddings, astronaut_superpixels):
    again = SuperpixelGenerator(mobile_sam, SuperpixelConfig())(astronaut_embeddings, astronaut.input_size)
    for name in ("label_map", "boxes", "areas", "scores"):
        torch.testing.assert_close(getattr(again, name), getattr(astronaut_superpixels, name), atol=0, rtol=0)


@pytest.mark.parametrize(
    "values",
    [
        {"partition": "coarse_first"},
        {"max_tokens": 5},
        {"max_tokens": 1},
        {"min_tokens": 30},
        {"max_covering_fraction": None, "dtype": "float32"},
        {"pred_iou_threshold": 2.0, "min_tokens": 7},  # no mask passes
    ],
)
def test_settings_keep_the_promises(mobile_sam, astronaut, astronaut_embeddings, values):
    config = SuperpixelConfig(**{**FEW, **values})
    check(
        SuperpixelGenerator(mobile_sam, config)(astronaut_embeddings, astronaut.input_size),
        astronaut.input_size,
        config,
    )


@pytest.mark.parametrize("input_size", [(1024, 1), (1, 1024), (8, 1024), (1024, 130), (683, 1024), (17, 33)])
def test_any_window_is_partitioned(mobile_sam, astronaut_embeddings, input_size):
    config = SuperpixelConfig(**FEW)
    check(SuperpixelGenerator(mobile_sam, config)(astronaut_embeddings, input_size), input_size, config)


@pytest.mark.parametrize(
    ("size", "uniform"), [((64, 64), True), ((64, 64), False), ((8000, 40), False), ((1, 300), False)]
)
def test_any_image_is_partitioned(mobile_sam, size, uniform):
    width, height = size
    pixels = np.full((height, width, 3), 127, dtype=np.uint8)
    if not uniform:
        pixels[height // 3 : 1 + height // 2, width // 4 : 1 + width // 2] = (200, 30, 30)
    inputs = preprocess(Image.fromarray(pixels), tower_size=None)
    config = SuperpixelConfig(points_per_side=2)
    with torch.no_grad():
        embeddings = mobile_sam.encode_image(inputs.sam_pixels[None])
    check(SuperpixelGenerator(mobile_sam, config)(embeddings, inputs.input_size), inputs.input_size, config)


def test_skipping_covered_points_costs_less_and_finds_the_same_large_things(
    mobile_sam, astronaut, astronaut_embeddings
):
    decoded = {}
    found = {}
    for name, fraction in (("all", None), ("some", 0.1)):
        config = SuperpixelConfig(points_per_side=8, max_covering_fraction=fraction, coarse_points=16)
        generator = SuperpixelGenerator(mobile_sam, config)
        found[name] = generator.propose(astronaut_embeddings, astronaut.input_size)
        decoded[name] = generator.decoder(torch.device("cpu")).points_decoded
    assert decoded["all"] == 64
    assert decoded["some"] < 40
    sure = found["all"].select((found["all"].scores > 0.95) & (found["all"].masks.flatten(1).float().mean(1) > 0.02))
    matched = sum(any(iou(mask, other) > 0.8 for other in found["some"].masks) for mask in sure.masks)
    assert matched >= 0.7 * len(sure.masks)


@pytest.mark.parametrize(("fraction", "barren"), [(0.1, 2), (0.1, None), (1.0, None)])
def test_all_points_at_once_give_the_masks_of_points_in_turn(
    mobile_sam, astronaut, astronaut_embeddings, fraction, barren
):
    """As a GPU does it: everything decoded first, then left out what would not have been decoded."""
    config = SuperpixelConfig(
        points_per_side=6,
        max_covering_fraction=fraction,
        max_barren_points=barren,
        coarse_points=9,
        points_per_batch=3,
        dtype="float32",
    )
    generator = SuperpixelGenerator(mobile_sam, config)
    decoder = generator.decoder(torch.device("cpu"))
    in_turn = generator.propose(astronaut_embeddings, astronaut.input_size)
    assert 3 <= decoder.points_decoded < 30
    before = decoder.points_decoded
    at_once = generator.propose(astronaut_embeddings, astronaut.input_size, at_once=True)
    assert decoder.points_decoded - before == 36
    assert len(at_once.masks) == len(in_turn.masks) > 3
    assert at_once.levels.tolist() == in_turn.levels.tolist()
    torch.testing.assert_close(at_once.scores, in_turn.scores, atol=1e-5, rtol=0)
    assert (at_once.masks == in_turn.masks).float().mean() > 0.9999


def test_half_precision_finds_the_same_masks(mobile_sam, astronaut, astronaut_embeddings):
    full, half = (
        SuperpixelGenerator(
            mobile_sam, SuperpixelConfig(points_per_side=6, max_covering_fraction=None, dtype=dtype)
        ).propose(astronaut_embeddings, astronaut.input_size)
        for dtype in ("float32", "bfloat16")
    )
    matched = sum(any(iou(mask, other) > 0.9 for other in half.masks) for mask in full.masks)
    assert matched >= 0.85 * len(full.masks)


@given(st.integers(1, 1024), st.integers(1, 1024), st.integers(1, 20))
def test_grid_points_lie_inside_and_spread_early(height, width, points_per_side):
    points = grid_points((height, width), points_per_side)
    rows, columns = min(points_per_side, -(-height // 16)), min(points_per_side, -(-width // 16))
    assert len(points.unique(dim=0)) == len(points) == rows * columns
    assert (points >= 0).all()
    assert (points < torch.tensor([width, height])).all()


def test_the_first_quarter_of_the_grid_is_a_coarser_grid():
    points = grid_points((1024, 1024), 8)
    coarse = points[:16]
    assert len(coarse[:, 0].unique()) == len(coarse[:, 1].unique()) == 4
    assert len(coarse.unique(dim=0)) == 16


def squares(*corners):
    masks = torch.zeros(len(corners), 20, 20, dtype=torch.bool)
    for mask, (y, x, side) in zip(masks, corners, strict=True):
        mask[y : y + side, x : x + side] = True
    return masks


def test_suppression_prefers_wholes_then_scores():
    found = MaskSet(
        masks=squares((0, 0, 10), (0, 0, 10), (0, 0, 10), (10, 10, 5)),
        scores=torch.tensor([0.9, 0.99, 0.8, 0.85]),
        levels=torch.tensor([0, 1, 2, 0]),
    )
    kept = suppress(found, 0.7)
    torch.testing.assert_close(kept.scores, torch.tensor([0.8, 0.85]))
    assert kept.levels.tolist() == [2, 0]


def test_suppression_keeps_what_only_a_suppressed_mask_overlaps():
    first, second, third = (0, 0, 10), (0, 2, 10), (0, 4, 10)  # IoU of neighbours 2/3, of the ends 3/7
    found = MaskSet(squares(first, second, third), torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64))
    assert suppress(found, 0.6).scores.tolist() == pytest.approx([0.9, 0.7])


def test_suppression_of_nothing():
    empty = MaskSet(torch.zeros(0, 3, 4, dtype=torch.bool), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(suppress(empty, 0.7).masks) == 0


def test_small_things_on_a_large_cloth_are_found(mobile_sam):
    """The coarse points that come first all miss the coins; what they lie on must not be given up for that."""
    inputs = preprocess(load_image(pathlib.Path(__file__).parents[2] / "examples" / "coins.jpg"), tower_size=None)
    with torch.no_grad():
        embeddings = mobile_sam.encode_image(inputs.sam_pixels[None])
    assert len(SuperpixelGenerator(mobile_sam, SuperpixelConfig())(embeddings, inputs.input_size)) >= 20
