"""A VLM's own eyes: the same features as the VLM computes for itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from mllmseg.config import LanguageModelConfig, VisionTowerConfig
from mllmseg.data.transforms import preprocess
from mllmseg.errors import AlignmentError, ConfigError
from mllmseg.models.host import join, load_host
from mllmseg.models.host_tower import build_host_tower, flatten_patches

FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "internvl")


class Settings:
    patch_size, spatial_merge_size, temporal_patch_size = 14, 2, 2


def test_patches_are_flattened_as_the_processor_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4], do_resize=False)
    expected = processor(Image.fromarray(pixels), return_tensors="pt")
    options = {"mean": (127.5, 102.0, 76.5), "std": (51.0, 76.5, 102.0)}
    inputs = preprocess(Image.fromarray(pixels), tower_size=84, patch_size=28, **options)
    patches, grid = flatten_patches(inputs.tower_pixels[None], Settings)
    assert grid.tolist() == expected["image_grid_thw"].tolist() == [[1, 4, 6]]
    torch.testing.assert_close(patches, expected["pixel_values"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_whole_again_it_is_the_model_that_was_taken_apart(
    family: str, save_vlm: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    source = save_vlm(tmp_path, family)
    expected = AutoModelForImageTextToText.from_pretrained(source).state_dict()
    host = load_host(LanguageModelConfig(), source)
    shared = {id(item) for item in host.vision.parameters()} & {id(item) for item in host.language_model.parameters()}
    assert not shared
    found = join(host).state_dict()
    assert found.keys() == expected.keys()
    assert all(item.equal(expected[name]) for name, item in found.items())


@torch.no_grad()
def test_a_square_tower_sees_a_stretched_picture(save_vlm: Callable[[Path, str], Path], tmp_path: Path) -> None:
    source = save_vlm(tmp_path, "llava")
    config = VisionTowerConfig(name="host", checkpoint=str(source), image_size=56, patch_size=14, hidden_size=32)
    tower = build_host_tower(config, load_host(LanguageModelConfig(), source).vision, source, torch.float32)
    assert tower.square
    inputs = preprocess(Image.new("RGB", (90, 40), "red"), tower_size=56, square=True, mean=tower.mean, std=tower.std)
    assert inputs.tower_pixels.shape == (3, 56, 56)
    torch.testing.assert_close(inputs.tower_pixels[:, 0, 0], torch.tensor([0.5 / 0.2, -0.4 / 0.3, -0.3 / 0.4]))
    features = tower.encode(inputs.tower_pixels[None])
    assert features.shape == (1, 32, 4, 4)
    with pytest.raises(AlignmentError, match="whole 14-pixel tokens"):
        tower.encode(torch.zeros(1, 3, 50, 56))


def test_sizes_that_are_not_the_vlms_are_named(save_vlm: Callable[[Path, str], Path], tmp_path: Path) -> None:
    source = save_vlm(tmp_path, "qwen3_vl")
    config = VisionTowerConfig(name="host", checkpoint=str(source), patch_size=14, hidden_size=32)
    with pytest.raises(ConfigError, match=r"hidden_size 32 and patch_size 14 differ from .*: 96 and 28"):
        build_host_tower(config, load_host(LanguageModelConfig(), source).vision, source, torch.float32)
