"""Figures: averaged between log steps, one line to the console."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

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
    assert caplog.messages[0].endswith("s/step")
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
