"""Predictions by a real, small model in processes of their own: killed and resumed, or several at once.

SAM is the real one, so that masks are no noise; the language model is random, with the same weights in every process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from mllmseg.config import ModelConfig, SamConfig
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import save_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.weights]
IMAGES = 4
COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def checkpoint(
    tiny_config: ModelConfig, randomise_lora: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    config = tiny_config.model_copy(
        update={
            "sam": SamConfig(dtype="float32"),
            # SAM's own features: a random vision tower would be another one in each process.
            "vision_tower": tiny_config.vision_tower.model_copy(update={"name": "sam"}),
        }
    )
    torch.manual_seed(0)
    model = build_model(config)
    randomise_lora(model)
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(model, folder, training={})
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each picture is asked about three times, in three rounds."""
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for index, colour in enumerate(COLOURS[:IMAGES]):
        picture = Image.new("RGB", (96, 64), "gray")
        ImageDraw.Draw(picture).ellipse((8 + 12 * index, 8, 48 + 12 * index, 56), fill=colour)
        picture.save(folder / f"{index}.png")
    for text in ("the disc", "something red", "a cat on the left"):
        lines += [f'{{"image": "{index}.png", "text": "{text}"}}\n' for index in range(IMAGES)]
    (folder / "questions.jsonl").write_text("".join(lines))
    return folder / "questions.jsonl"


@pytest.fixture(scope="module")
def command(checkpoint: Path, questions: Path) -> list[str]:
    words = [sys.executable, "-m", "mllmseg.cli", "predict", "--jsonl", str(questions), "--threshold", "0.3"]
    return [*words, "--checkpoint", str(checkpoint), "--device", "cpu", "--no-progress", "--out"]


def call(command: list[str], *more: str, **environment: str) -> None:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([*command, *more], capture_output=True, text=True, env=settings, check=False, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "p.jsonl"
    call(command, str(path))
    content = path.read_bytes()
    assert content.count(b"\n") == 3 * IMAGES
    assert b'"rle": {"size"' in content, "something was painted"
    return content


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_killed_in_the_middle(command: list[str], whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    ahead = tmp_path / "p.jsonl.ahead"
    process = subprocess.Popen(
        [*command, str(out)], stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 600
    while not (ahead.exists() and ahead.stat().st_size):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    held = [*out.read_bytes().splitlines(), *ahead.read_bytes().splitlines()]
    assert 0 < len(held) < 3 * IMAGES, "killed in the middle"
    with out.open("ab") as file:
        file.write(b'{"id": "cut of')  # as if the last write had been cut
    call(command, str(out), "--resume")
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.jsonl", "p.jsonl.meta.json"]


def test_two_processes_of_torchrun(command: list[str], whole: bytes, tmp_path: Path) -> None:
    """Each does one shard, the first one merges them."""
    out = tmp_path / "p.jsonl"
    interpreter, *rest = command
    call([interpreter, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *rest], str(out))
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.jsonl", "p.jsonl.meta.json"]
