"""Dataclasses of tensors: moving them, and what a segmentation derives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mllmseg.structures import ImageFeatures, Segmentation, VisualTokens


def test_to_changes_the_type_of_floats_only_and_reaches_nested_parts(
    make_features: Callable[..., ImageFeatures],
) -> None:
    features = make_features(2)
    half = features.to(torch.float16)
    assert half.image_embeddings is not None
    assert half.image_embeddings.dtype == half.patch_features.dtype == half.superpixels.scores.dtype == torch.float16
    assert half.superpixels.label_map.dtype == half.superpixels.boxes.dtype == torch.int64
    assert half.input_size == features.input_size
    assert features.patch_features.dtype == torch.float32, "the original stays"
    assert replace(features, image_embeddings=None).to(torch.float16).image_embeddings is None


def test_to_moves_everything_to_a_device(make_features: Callable[..., ImageFeatures]) -> None:
    moved = make_features(2).to("meta")
    assert moved.superpixels.label_map.device.type == moved.patch_features.device.type == "meta"
    assert VisualTokens(torch.zeros(1, 2), torch.eye(1)).to("meta").assignment.device.type == "meta"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_a_segmentation_derives(make_features: Callable[..., ImageFeatures], count: int) -> None:
    masks = torch.zeros(count, 4, 6, dtype=torch.bool)
    for row in range(count):
        masks[row, row] = True
    found = Segmentation(
        query="q",
        answer="a",
        exists=count > 0,
        score=0.5,
        masks=masks,
        boxes=torch.zeros(count, 4, dtype=torch.int64),
        mask_scores=torch.ones(count),
        superpixels=make_features(3).superpixels,
        superpixel_scores=torch.tensor([[0.5, 0.49, 1.0]]).expand(count, 3),
        num_visual_tokens=3,
    )
    assert found.union.shape == (4, 6)
    assert found.union.any(1).tolist() == [row < count for row in range(4)]
    assert found.chosen_superpixels.tolist() == [[True, False, True]] * count
    assert len(found.superpixels) == 3
