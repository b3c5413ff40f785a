"""Whole checkpoints or none, the newest of them kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mllmseg.config import ModelConfig
from mllmseg.errors import CheckpointError
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import load_checkpoint, trained_state
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.train.checkpoints import Checkpoints, Progress

STATE = {"step": torch.tensor(3.0), "exp_avg.head.prior_weight": torch.tensor(0.25)}


@pytest.fixture(scope="module")
def model(tiny_config: ModelConfig) -> MLLMSeg:
    torch.manual_seed(0)
    return build_model(tiny_config)


def save(checkpoints: Checkpoints, model: MLLMSeg, stage: str, step: int) -> Path:
    return checkpoints.save(model, Progress(stage, step, 1.5, best=0.25), STATE, {"step": step})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_stay_in_the_order_of_stages(model: MLLMSeg, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for stage, step in (("align", 900), ("instruct", 5), ("instruct", 10)):
        path = save(checkpoints, model, stage, step)
        assert (tmp_path / "latest").resolve() == path
    assert names(tmp_path) == ["instruct-000005", "instruct-000010", "latest"]
    assert [path.name for path in checkpoints.all()] == ["instruct-000005", "instruct-000010"]


def test_a_checkpoint_is_one_like_any_other_and_says_where_it_stands(model: MLLMSeg, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = save(checkpoints, model, "instruct", 5)
    loaded = load_checkpoint(path)
    assert all(tensor.equal(trained_state(loaded)[name]) for name, tensor in trained_state(model).items())
    progress, optimizer = checkpoints.load(path, model)
    assert progress == Progress("instruct", 5, 1.5, best=0.25)
    assert {name: tensor.item() for name, tensor in optimizer.items()} == {
        name: tensor.item() for name, tensor in STATE.items()
    }


def test_what_a_killed_process_leaves_is_no_checkpoint_and_is_removed(model: MLLMSeg, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    whole = save(checkpoints, model, "align", 2)
    (tmp_path / ".align-000004-x1" / "align-000004").mkdir(parents=True)
    (tmp_path / ".align-000001-old").mkdir()
    (tmp_path / ".align-000001-old" / "progress.json").write_text("{}")
    (tmp_path / "align-000009").mkdir()  # somebody's
    assert checkpoints.all() == [whole]
    checkpoints.clean()
    assert names(tmp_path) == ["align-000002", "align-000009", "latest"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "progress.json"])
def test_damage_is_named(model: MLLMSeg, tmp_path: Path, name: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = save(checkpoints, model, "align", 2)
    (path / name).write_bytes((path / name).read_bytes()[:20])
    with pytest.raises(CheckpointError, match=f"{path} is damaged .*remove it to go on from the checkpoint before"):
        checkpoints.load(path, model)
