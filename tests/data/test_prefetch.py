"""Reading ahead: order, errors, and what is left undone."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from mllmseg.data.prefetch import READ_AHEAD, ordered


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return 10 * item

    assert list(ordered(slow_first, range(20), workers=workers)) == list(range(0, 200, 10))


def test_several_are_read_at_once() -> None:
    meeting = threading.Barrier(3, timeout=20)
    assert list(ordered(lambda item: meeting.wait() >= 0 and item, range(1, 4), workers=3)) == [1, 2, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_where_its_item_stands(workers: int) -> None:
    def read(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = ordered(read, range(10), workers=workers)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_whoever_stops_leaves_the_rest_undone() -> None:
    begun: list[int] = []
    results = ordered(lambda item: begun.append(item) or item, itertools.count(), workers=2)
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    results.close()
    assert max(begun) < 5 + READ_AHEAD * 2
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count
