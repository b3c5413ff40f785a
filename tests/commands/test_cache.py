"""`mllmseg cache verify`: what is damaged is named and set aside. Filling is in tests/test_cli_train.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

from mllmseg import cli
from mllmseg.config import ModelConfig, StageConfig, TrainConfig
from mllmseg.structures import ImageFeatures, ImageInputs, Superpixels
from mllmseg.train.cache import CacheEntry, FeatureCache


class OneRegion:
    """Answers at once."""

    tower_input: ClassVar[dict[str, Any]] = {"tower_size": 56, "patch_size": 14}

    def encode_image(self, inputs: ImageInputs) -> ImageFeatures:
        whole = Superpixels(
            torch.zeros(256, 256, dtype=torch.int64),
            torch.tensor([[0, 0, 256, 256]]),
            torch.tensor([256 * 256]),
            torch.ones(1),
        )
        embeddings = torch.zeros(1, 256, 64, 64)
        return ImageFeatures(embeddings, whole, torch.ones(16, 4, 4), inputs.input_size, inputs.original_size)


@pytest.fixture
def run(
    tmp_path: Path, tiny_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[FeatureCache, int | str | None]]:
    """`(*arguments)` runs `mllmseg cache verify` on a cache of one image."""
    tiny_config.to_yaml(tmp_path / "model.yaml")
    values = {"model": str(tmp_path / "model.yaml"), "cache": str(tmp_path / "cache"), "out": "out"}
    stages = {"align": StageConfig(steps=1), "instruct": StageConfig(steps=1)}
    TrainConfig.model_validate(values | stages | {"data": {"root": "nowhere"}}).to_yaml(tmp_path / "train.yaml")
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "a.png")
    cache.fill([CacheEntry(tmp_path / "a.png")], stack=OneRegion())  # type: ignore[arg-type]

    def verify(*arguments: str) -> tuple[FeatureCache, int | str | None]:
        monkeypatch.setattr(sys, "argv", ["mllmseg", "cache", "verify", str(tmp_path / "train.yaml"), *arguments])
        try:
            cli.main()
        except SystemExit as stop:
            return cache, stop.code
        return cache, 0

    return verify


def test_an_intact_cache(run: Callable[..., tuple[FeatureCache, int]], capsys: pytest.CaptureFixture[str]) -> None:
    cache, code = run()
    assert not code
    assert capsys.readouterr().out == f"{cache.folder}: 1 images in 1 shards, all intact\n"


@pytest.mark.parametrize("keep", [False, True])
def test_a_damaged_shard_is_named(
    run: Callable[..., tuple[FeatureCache, int]], capsys: pytest.CaptureFixture[str], tmp_path: Path, keep: bool
) -> None:
    (shard,) = (tmp_path / "cache").glob("*/shard-*.safetensors")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    cache, code = run(*["--keep"][: int(keep)])
    output = capsys.readouterr()
    assert code == 2
    assert output.out == f"{shard}: its checksum differs, 1 images are lost\n"
    assert f"{cache.folder}: 1 damaged shards, {'left where they are' if keep else 'set aside'}" in output.err
    assert shard.exists() is keep
