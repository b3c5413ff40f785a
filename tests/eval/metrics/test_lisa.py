"""LISA's figures by hand."""

from __future__ import annotations

import pytest

from mllmseg.eval.metrics import Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.lisa import LisaScorer, lisa_iou

IOUS = {
    "half": 4 / 8.00001,
    "exact": 8 / 8.00001,
    "beside": 0,
    "target, nothing painted": 0,
    "target, rejected": 0,
    "target, rejected, hidden mask": 0,
    "no target, painted": 0,
    "no target, nothing painted": 1,
    "no target, rejected": 1,
    "no target, rejected, hidden mask": 1,
}


@pytest.mark.parametrize("name", IOUS)
def test_one_sample(name: str, cases: dict[str, Sample]) -> None:
    assert lisa_iou(cases[name]) == pytest.approx(IOUS[name], rel=1e-12)


def test_all_together(cases: dict[str, Sample]) -> None:
    numbers = score_all(LisaScorer(), cases.values())
    assert numbers["gIoU"] == pytest.approx(sum(IOUS.values()) / 10)
    assert numbers["cIoU"] == pytest.approx(12 / 60)  # U: 56 for targets, 4 painted where there is none
