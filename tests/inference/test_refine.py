"""Clicks and boxes on a real photo with MobileSAM; what is refused needs no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mllmseg import weights
from mllmseg.config import SamConfig
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.errors import AlignmentError, DataError
from mllmseg.inference.refine import refine_mask
from mllmseg.models.sam import Sam, build_sam
from mllmseg.structures import ImageFeatures, Superpixels

PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_sam(SamConfig(), weights.fetch("mobile_sam"))


@pytest.fixture(scope="module")
def features(sam) -> ImageFeatures:
    inputs = preprocess(load_image(PHOTO))
    with torch.no_grad():
        embeddings = sam.encode_image(inputs.sam_pixels[None])
    nothing = Superpixels(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 4), torch.ones(1).long(), torch.ones(1))
    return ImageFeatures(embeddings, nothing, torch.zeros(1, 1, 1), inputs.input_size, inputs.original_size)


def iou(first, second) -> float:
    first, second = np.asarray(first), np.asarray(second)
    return (first & second).sum() / (first | second).sum()


@pytest.mark.weights
def test_box_and_clicks_agree_on_a_thing(sam, features):
    height, width = features.original_size
    by_box, score = refine_mask(sam, features, box=(0.15 * width, 0.1 * height, 0.7 * width, 0.8 * height))
    assert by_box.shape == (height, width)
    assert score > 0.7
    y, x = np.argwhere(np.asarray(by_box)).mean(0)
    by_click, _ = refine_mask(sam, features, points=[(float(x), float(y), True)], prior=np.asarray(by_box))
    assert iou(by_box, by_click) > 0.9


@pytest.mark.weights
def test_a_click_outside_takes_a_part_away(sam, features):
    height, width = features.original_size
    both = (0.5 * width, 0.5 * height, True)
    whole, _ = refine_mask(sam, features, points=[both])
    assert whole[height // 2, width // 2]
    away = np.argwhere(np.asarray(whole))[0]
    less, _ = refine_mask(
        sam, features, points=[both, (float(away[1]), float(away[0]), False)], prior=np.asarray(whole)
    )
    assert not less[away[0], away[1]]


def plain(size=(60, 80)) -> ImageFeatures:
    nothing = Superpixels(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 4), torch.ones(1).long(), torch.ones(1))
    return ImageFeatures(torch.zeros(1, 256, 64, 64), nothing, torch.zeros(1, 1, 1), (768, 1024), size)


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ({}, DataError, "points or a box"),
        ({"points": [(80.0, 3.0, True)]}, DataError, r"\(80, 3\) lies outside of the picture of 80 x 60"),
        ({"points": [(float("nan"), 3.0, True)]}, DataError, "outside"),
        ({"box": (90.0, 0.0, 5.0, 5.0)}, DataError, "no pixel"),
        ({"box": (0.0, 0.0, 0.0, 5.0)}, DataError, "no pixel"),
        ({"box": (0.0, 0.0, 5.0, 5.0), "prior": np.ones((3, 3), bool)}, AlignmentError, "does not fit"),
    ],
)
def test_prompts_outside_of_the_picture_are_refused(prompts, error, message):
    with pytest.raises(error, match=message):
        refine_mask(None, plain(), **prompts)
