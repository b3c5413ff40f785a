"""Images encoded together get what they would get alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mllmseg.config import ModelConfig
from mllmseg.data.transforms import preprocess
from mllmseg.models.build import build_vision_stack
from mllmseg.models.vision_stack import VisionStack


@pytest.fixture(scope="module")
def stack(tiny_config: ModelConfig) -> VisionStack:
    superpixels = tiny_config.superpixels.model_copy(update={"points_per_side": 2, "pred_iou_threshold": -9.0})
    torch.manual_seed(0)
    return build_vision_stack(tiny_config.model_copy(update={"superpixels": superpixels}))


def test_a_batch_of_all_sizes_gives_what_single_images_give(
    stack: VisionStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0)
    pictures = [
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for height, width in ((30, 40), (40, 30), (30, 40))
    ]
    inputs = [preprocess(picture, **stack.tower_input) for picture in pictures]
    alone = [stack.encode_image(item) for item in inputs]
    batches = []
    original = stack.vision_tower.encode

    def encode(**arguments: torch.Tensor) -> torch.Tensor:
        batches.append(len(arguments["tower_pixels"]))
        return original(**arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stack.vision_tower, "encode", encode)
    together = stack.encode_images(inputs)
    assert sorted(batches) == [1, 2]  # those of one size together
    for found, expected in zip(together, alone, strict=True):
        assert (found.input_size, found.original_size) == (expected.input_size, expected.original_size)
        torch.testing.assert_close(found.image_embeddings, expected.image_embeddings, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.patch_features, expected.patch_features, atol=1e-4, rtol=1e-4)
        assert (found.superpixels.label_map == expected.superpixels.label_map).float().mean() > 0.99
    assert not torch.equal(together[0].patch_features, together[2].patch_features)
