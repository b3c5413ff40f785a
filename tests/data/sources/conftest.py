"""Sources opened as a run opens them, and a view of the miniatures' pictures at half their size."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mllmseg.config import DataConfig, SourceConfig
from mllmseg.data.training import BadSamples, Sample, TrainingSource, View, open_source

Open = Callable[..., TrainingSource]
Draw = Callable[..., Sample]


@pytest.fixture
def view(miniatures: Any) -> View:
    return View((miniatures.HEIGHT // 2, miniatures.WIDTH // 2), (miniatures.HEIGHT, miniatures.WIDTH), {})


@pytest.fixture
def bad() -> BadSamples:
    return BadSamples(skip=True)


@pytest.fixture
def open_(tmp_path: Path, bad: BadSamples) -> Open:
    """`(name, bad=…, **settings)` opens a source below `tmp_path`."""

    def open_it(name: str, *, bad: BadSamples = bad, **settings: Any) -> TrainingSource:
        return open_source(SourceConfig(name=name, **settings), 0, DataConfig(root=str(tmp_path)), bad)

    return open_it


@pytest.fixture
def draw(view: View) -> Draw:
    """`(source, index, seed=…, stage=…, **settings)` draws a sample about an image."""

    def draw_it(
        source: TrainingSource, index: int = 0, seed: int = 0, stage: str = "instruct", **settings: Any
    ) -> Sample:
        data = DataConfig(**settings)
        return source.draw(source.images[index], view, random.Random(seed), data, stage=stage)

    return draw_it


@pytest.fixture
def half(miniatures: Any) -> Callable[[str], torch.Tensor]:
    """`(name)` gives `[h, w]` bool: a rectangle of the miniatures at half the size; their sides are even."""
    return lambda name: torch.from_numpy(miniatures.box_mask(name)[::2, ::2]).bool()
