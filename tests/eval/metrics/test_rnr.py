"""Navigable regions by hand."""

from __future__ import annotations

import pytest

from mllmseg.eval.metrics import Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.rnr import RnrScorer


def test_by_hand(cases: dict[str, Sample]) -> None:
    numbers = score_all(RnrScorer(), cases.values())
    # "half" and "exact" point into the target with their first pixel; the other four targets are never hit.
    assert numbers["pointing-game accuracy"] == numbers["recall@10"] == pytest.approx(2 / 6)
    assert numbers["IoU"] == pytest.approx(12 / 56)


def test_later_hits_count_for_recall_alone() -> None:
    samples = [Sample(0, True, True, 1.0, 5, 10, 8, hit=hit) for hit in (1, 10, 11, 1000, 1001, 0)]
    numbers = score_all(RnrScorer(), samples)
    assert numbers["pointing-game accuracy"] == pytest.approx(1 / 6)
    assert numbers["recall@10"] == pytest.approx(2 / 6)
    assert numbers["recall@100"] == pytest.approx(3 / 6)
    assert numbers["recall@1000"] == pytest.approx(4 / 6)


def test_unknown_hits_are_left_out() -> None:
    samples = [Sample(0, True, True, 1.0, 5, 10, 8, hit=1), Sample(0, True, True, 1.0, 5, 10, 8)]
    numbers = score_all(RnrScorer(), samples)
    assert numbers["pointing-game accuracy"] == 1
    assert numbers["IoU"] == 0.5
