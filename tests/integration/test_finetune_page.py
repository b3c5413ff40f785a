"""The commands of docs/finetune.md, as they stand there, on the real model; only with fewer steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mllmseg.models.checkpoint import MODEL_FILE

ROOT = Path(__file__).parents[2]
STEPS = 3


def commands() -> list[list[str]]:
    """The page's shell commands but the one whose names stand for the reader's own."""
    page = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    return [shlex.split(line) for line in lines if "PHOTOS" not in line]


@pytest.mark.slow
@pytest.mark.weights
def test_ten_labelled_images_become_an_adapter(tmp_path: Path) -> None:
    for name in ("examples", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    kinds = []
    for words in commands():
        kinds.append(" ".join(words[:2]))
        if words[:2] == ["mllmseg", "train"]:
            words += [f"instruct.steps={STEPS}", "instruct.warmup_steps=0", "log_every=1"]
        if words[:2] in (["mllmseg", "predict"], ["mllmseg", "score"]):
            continue  # every image through two models: tests of their own are enough
        line = shlex.join([sys.executable, "-m", "mllmseg.cli", *words[1:]] if words[0] == "mllmseg" else words)
        line = line.replace("'>>'", ">>")
        done = subprocess.run(["bash", "-ec", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert {"mllmseg data", "cat examples/labels/absent.jsonl", "mllmseg train", "mllmseg segment"} <= set(kinds)
    lines = [json.loads(line) for line in (tmp_path / "runs/own.jsonl").read_text().splitlines()]
    assert len({line["image"] for line in lines}) == 10
    assert {line["exists"] for line in lines} == {True, False}
    final = tmp_path / "runs/finetuned/final"
    assert (final / MODEL_FILE).read_bytes() != (ROOT / "mllmseg/assets/tiny" / MODEL_FILE).read_bytes()
    assert json.loads((final / "training.json").read_text())["step"] == STEPS
    with Image.open(tmp_path / "runs/rocket.png") as overlay, Image.open(ROOT / "examples/rocket.jpg") as photo:
        assert overlay.size == photo.size
