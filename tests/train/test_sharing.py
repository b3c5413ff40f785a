"""Every place of a batch has one process and one micro-batch, whatever their number."""

from __future__ import annotations

from typing import Any

import pytest

from mllmseg.config import EngineConfig
from mllmseg.errors import AlignmentError, ConfigError
from mllmseg.train.engine import Engine
from mllmseg.train.sharing import check_batch, means, share


def engine(rank: int = 0, processes: int = 1, accumulate: int = 1) -> Engine:
    """One of several, without the others."""
    made = Engine(EngineConfig(device="cpu", accumulate=accumulate), "float32")
    made.rank, made.processes = rank, processes
    return made


@pytest.mark.parametrize(("batch", "processes", "accumulate"), [(7, 2, 3), (12, 2, 3), (5, 1, 1), (8, 8, 1)])
def test_a_batch_is_divided_without_rest(batch: int, processes: int, accumulate: int) -> None:
    parts = [part for rank in range(processes) for part in share(engine(rank, processes, accumulate), batch)]
    assert len(parts) == processes * accumulate
    assert all(len(part) for part in parts)
    assert sorted(place for part in parts for place in part) == list(range(batch))


def test_a_process_without_photos_is_refused() -> None:
    check_batch(engine(0, 2, 3), "align", 6)
    with pytest.raises(ConfigError, match=r"align.batch_size is 5 photos in all, but 2 processes .* need at least 6"):
        check_batch(engine(0, 2, 3), "align", 5)


def test_under_zero_3_shares_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(0, 2)
    made.zero = {"zero_optimization": {"stage": 3}}
    check_batch(made, "instruct", 4)
    with pytest.raises(ConfigError, match="need a multiple of 2"):
        check_batch(made, "instruct", 5)


def test_means_are_those_of_the_whole() -> None:
    found: list[Any] = [{"text": (6.0, 3), "seg_recall": (1.0, 1)}, {"text": (2.0, 1)}]
    assert means(engine(), found, {"text": 4}) == {"text": 2.0, "seg_recall": 1.0}
    with pytest.raises(AlignmentError, match="'text' counts 4 times, but 5 were foreseen"):
        means(engine(), found, {"text": 5})
