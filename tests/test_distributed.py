"""Which process this one is."""

from __future__ import annotations

import pytest

from mllmseg.distributed import Process, this_process
from mllmseg.errors import ConfigError


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Process(0, 1, 0)),
        ({"RANK": "3"}, Process(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Process(3, 8, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Process(0, 1, 0)),
    ],
)
def test_from_the_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Process) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert this_process() == expected


@pytest.mark.parametrize(("rank", "count"), [("2", "2"), ("x", "2"), ("-1", "2")])
def test_nonsense_is_named(monkeypatch: pytest.MonkeyPatch, rank: str, count: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(ConfigError, match=f"RANK={rank} WORLD_SIZE={count}"):
        this_process()
