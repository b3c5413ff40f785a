"""Figures: averaged between log steps, one line to the console."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mllmseg.errors import ConfigError
from mllmseg.train.logging import RunLog


def test_figures_are_means_since_the_last_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_log = RunLog(tmp_path)
    with caplog.at_level(logging.INFO):
        run_log.add({"loss": 1.0, "rare": 4.0})
        run_log.add({"loss": 3.0})
        assert run_log.flush("align", 2, 10) == {"loss": 2.0, "rare": 4.0}
        run_log.add({"loss": 5.0})
        assert run_log.flush("align", 3, 10) == {"loss": 5.0}
    assert caplog.messages[0].startswith("align 2/10 loss 2 ")
    assert caplog.messages[0].endswith(" left")
    assert "rare" not in caplog.messages[0], "the console shows the main figures only"
    assert caplog.messages[1].startswith("align 3/10 loss 5 ")


def test_nothing_to_say_is_no_error(tmp_path: Path) -> None:
    assert RunLog(tmp_path).flush("align", 1, 1) == {}


def test_without_tensorboard_figures_go_to_the_console(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    run_log = RunLog(tmp_path)
    assert "tensorboard is not installed" in caplog.text
    run_log.add({"loss": 1.0})
    assert run_log.flush("align", 1, 1) == {"loss": 1.0}
    run_log.scalars({"loss": 1.0}, 1)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_speed_memory_and_time_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    run_log = RunLog(tmp_path, (), clock=clock)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            run_log.add({"loss": 1.0, "seg_recall": 0.5}, tokens=300, images=4)
            clock.now += 2
        run_log.flush("instruct", 2, 1802)
        clock.now += 100
        run_log.add({"loss": 1.0})
        run_log.flush("instruct", 3, 1802)
    line = caplog.messages[0]
    assert line.startswith("instruct 2/1802 loss 1 seg_recall 0.5 150 tokens/s 2 images/s 2.00 s/step ")
    assert line.endswith(" GB 1:00:00 left")
    assert 0.01 < float(line.split(" GB")[0].split()[-1]) < 100
    assert "tokens/s" not in caplog.messages[1], "where nothing was counted nothing is claimed"


def test_other_processes_than_the_first_are_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run_log = RunLog(tmp_path)
    with caplog.at_level(logging.INFO):
        run_log.add({"loss": 1.0})
        assert run_log.flush("align", 1, 1) == {"loss": 1.0}
    run_log.close()
    assert not caplog.messages
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_everything(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_log = RunLog(tmp_path)
    for step in (1, 2):
        run_log.add({"loss": float(step), "rare": 4.0}, images=2)
        run_log.flush("align", step, 2)
    run_log.picture("val/1", np.zeros((4, 6, 3), dtype=np.uint8), 2)
    run_log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(item.step, item.value) for item in events.Scalars("align/loss")] == [(1, 1.0), (2, 2.0)]
    assert {"align/rare", "align/images_per_second", "align/memory_gb"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["val/1"]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_logger_that_is_not_installed_is_an_error(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"{name} is not installed: pip install {name}"):
        RunLog(tmp_path, ["tensorboard", name])


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_trackers_get_figures_with_the_step_of_their_group(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is a dependency, so this stands in for both; wandb alone has `define_metric`."""
    calls: list[tuple[str, Any]] = []

    class Run:
        pass

    if name == "wandb":
        Run.define_metric = lambda self, glob, step_metric: calls.append((glob, step_metric))  # type: ignore[attr-defined]
    tracker = ModuleType(name)
    tracker.init = lambda **settings: calls.append(("init", settings)) or Run()  # type: ignore[attr-defined,func-returns-value]
    tracker.log = lambda values: calls.append(("log", values))  # type: ignore[attr-defined]
    tracker.finish = lambda: calls.append(("finish", None))  # type: ignore[attr-defined]
    tracker.Image = lambda pixels: ("image", pixels.shape)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, tracker)
    run_log = RunLog(tmp_path / "mine", [name], {"seed": 3})
    run_log.scalars({"val/giou": 0.5}, 7)
    run_log.picture("val/1", np.zeros((4, 6, 3), dtype=np.uint8), 7)
    run_log.close()
    defined = [("val/*", "val/step")] if name == "wandb" else []
    assert calls == [
        ("init", {"project": "mllmseg", "name": "mine", "config": {"seed": 3}}),
        *defined,
        ("log", {"val/giou": 0.5, "val/step": 7}),
        ("log", {"val/1": ("image", (4, 6, 3)), "val/step": 7}),
        ("finish", None),
    ]
