"""How fast and how long, and who gets to see it."""

from __future__ import annotations

import pytest

from mllmseg.progress import Pace, image_bar


def test_speed_counts_what_was_computed() -> None:
    now = [100.0]
    pace = Pace(10, every=30, clock=lambda: now[0])
    assert str(pace) == "images"
    for _ in range(4):
        pace.add(False)  # an earlier run's
    assert str(pace) == "images"
    now[0] += 20
    pace.add(True)
    assert str(pace) == "images, 0.05/s, 0:01:40 left"
    assert not pace.is_due()
    now[0] += 20
    pace.add(True)
    assert pace.is_due()
    assert not pace.is_due(), "said just now"
    for _ in range(4):
        pace.add(True)
    assert pace.is_due(), "the last one"
    assert str(pace).endswith("0:00:00 left")


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with image_bar("set scored", 2, shown=True) as advance:
        assert advance is not None
        advance(False)
        advance(True)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("set scored 2/2 images, ")
    assert output.err.count("\n") == 1


def test_nothing_where_it_is_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with image_bar("set scored", 2, shown=False) as advance:
        assert advance is None
    assert capsys.readouterr().err == ""
