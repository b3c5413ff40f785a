"""Paired differences: of the same queries, on the same drawn images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mllmseg.errors import ConfigError, DataError
from mllmseg.eval.compare import compare
from mllmseg.eval.metrics import Sample


def sample(image: str, intersection: int) -> Sample:
    return Sample(image, True, True, 0.9, intersection, 100, intersection)


@pytest.fixture
def first() -> dict[str, Sample]:
    values = np.random.default_rng(0).integers(0, 80, 60).tolist()
    return {f"q/{i}": sample(f"{i // 2}.jpg", value) for i, value in enumerate(values)}


def test_by_hand() -> None:
    before = {"a": sample("1", 50), "b": sample("2", 30), "only before": sample("3", 99)}
    after = {"a": sample("1", 60), "b": sample("2", 30)}
    comparison = compare(before, after, scorers=["classic"], names=("old", "new"), repeats=50)
    assert (comparison.queries, comparison.images, comparison.unpaired) == (2, 2, (1, 0))
    found = {difference.figure: difference for difference in comparison.differences}
    assert (found["mIoU"].first, found["mIoU"].second) == pytest.approx((0.4, 0.45))
    assert found["mIoU"].change.value == pytest.approx(0.05)
    assert (found["mIoU"].change.low, found["mIoU"].change.high) == pytest.approx((0, 0.1))
    assert not found["mIoU"].clear


def test_pairing_sees_what_two_intervals_do_not(first: dict[str, Sample]) -> None:
    """Every mask a little better: far less than the scatter between images, and still certain."""
    second = {key: sample(str(s.image), s.intersection + 2) for key, s in first.items()}
    (difference,) = [d for d in compare(first, second, scorers=["classic"]).differences if d.figure == "mIoU"]
    assert difference.change.value == pytest.approx(0.02)
    assert (difference.change.low, difference.change.high) == pytest.approx((0.02, 0.02))
    assert difference.clear


def test_a_run_does_not_differ_from_itself_in_any_order(first: dict[str, Sample]) -> None:
    shuffled = dict(reversed(first.items()))
    for difference in compare(first, shuffled, scorers=["classic", "gres", "calibration"], repeats=20).differences:
        if not np.isnan(difference.first):
            assert (difference.change.value, difference.change.low, difference.change.high) == (0, 0, 0)


def test_what_cannot_be_paired_is_refused(first: dict[str, Sample]) -> None:
    with pytest.raises(DataError, match=r"old and new have no query id in common.*'q/0' and 'x'"):
        compare(first, {"x": sample("0.jpg", 1)}, names=("old", "new"))
    other = first | {"q/3": dataclasses.replace(first["q/3"], union=120)}
    with pytest.raises(DataError, match="query q/3: target area is 100 in A and 120 in B"):
        compare(first, other)
    with pytest.raises(ConfigError, match="did you mean 'gres'"):
        compare(first, first, scorers=["gress"])
