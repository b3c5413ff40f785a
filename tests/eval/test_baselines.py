"""Baselines paint what they say, at the image's own size."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from mllmseg.config import EvalConfig
from mllmseg.eval.baselines import BASELINES, LargestSuperpixel, build_baseline, largest_superpixel


def test_the_whole_image_needs_no_model(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    answerer = build_baseline("whole-image", lambda: pytest.fail("no model is needed"))
    answers = list(answerer.answer(tmp_path / "a.png", ["the dog", "the cat"]))
    assert [(answer.exists, tuple(answer.mask.shape)) for answer in answers] == [(True, (6, 8))] * 2  # type: ignore[union-attr]
    assert all(answer.mask.all() for answer in answers)  # type: ignore[union-attr]


# Two by four cells, each four pixels wide in SAM's input; the image is half as large.
LABELS = torch.tensor([[0, 1, 1, 1], [2, 2, 1, 1]])
INPUT_SIZE = (8, 16)


def test_the_largest_superpixel_at_the_images_size() -> None:
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[:2, 2:] = True
    expected[2:, 4:] = True
    assert largest_superpixel(LABELS.numpy(), INPUT_SIZE, (4, 8)).equal(expected)


def test_only_sam_looks_at_the_image_and_once(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    seen: list[tuple[int, ...]] = []

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pixels.shape))
        return pixels

    vision = SimpleNamespace(
        sam=SimpleNamespace(encode_image=encode_image),
        superpixel_generator=lambda embeddings, size: SimpleNamespace(label_map=LABELS),
    )
    model = SimpleNamespace(vision=vision, head=torch.nn.Linear(1, 1))
    answers = list(LargestSuperpixel(model).answer(tmp_path / "a.png", ["the dog", "the cat"]))  # type: ignore[arg-type]
    assert (len(answers), seen) == (2, [(1, 3, 1024, 1024)])
    assert all(answer.exists and tuple(answer.mask.shape) == (32, 64) for answer in answers)  # type: ignore[union-attr]


def test_the_configuration_knows_them_all() -> None:
    assert EvalConfig(dataset="riscq", out="x", baselines=BASELINES).baselines == BASELINES
