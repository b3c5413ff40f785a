from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from mllmseg.agent.loop import Agent
from mllmseg.demo.loading import Loader
from mllmseg.errors import MLLMSegError, WeightsError


class Nothing:
    """A model that is never asked."""

    threshold = 0.5


def test_says_that_it_loads_until_it_is_done() -> None:
    go, agent = threading.Event(), Agent(Nothing())  # type: ignore[arg-type]

    def load() -> Agent:
        go.wait(10)
        return agent

    loader = Loader(load, own_model=False)
    loader.start()
    assert loader.status.words.startswith("Loading the model")
    assert not loader.status.ready
    go.set()
    assert loader.agent is agent
    assert loader.status.ready


def test_says_what_is_being_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLMSEG_CACHE", str(tmp_path))
    words = Loader(lambda: Agent(Nothing())).status.words  # type: ignore[arg-type]
    assert words.startswith("Fetching pre-trained weights, 0 of 3 here, 2")


@pytest.mark.parametrize("error", [WeightsError("no network"), RuntimeError("out of memory")])
def test_tells_of_a_failure_and_can_be_started_again(error: Exception) -> None:
    outcomes: list[Any] = [error, error, Agent(Nothing())]  # type: ignore[arg-type]

    def load() -> Agent:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    loader = Loader(load)
    for tries in (1, 2):
        loader.start()
        loader.wait(10)
        assert loader.status.failed
        assert loader.status.tries == tries
        assert str(error) in loader.status.words
    loader.start()
    loader.wait(10)
    assert loader.status.ready


def test_an_agent_that_cannot_be_had_is_an_error() -> None:
    def load() -> Agent:
        raise WeightsError("no network")

    with pytest.raises(MLLMSegError, match="no network"):
        _ = Loader(load).agent
