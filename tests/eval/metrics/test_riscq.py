"""RIS-CQ's figures by hand."""

from __future__ import annotations

import pytest

from mllmseg.eval.metrics import Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.riscq import RisCqScorer


def test_by_hand(cases: dict[str, Sample]) -> None:
    numbers = score_all(RisCqScorer(), cases.values())
    assert numbers["mIoU"] == pytest.approx(1.5 / 6)
    assert numbers["P@0.3"] == numbers["P@0.4"] == pytest.approx(2 / 6)
    assert numbers["P@0.5"] == pytest.approx(1 / 6), "one half does not exceed 0.5"
    assert numbers["P@0.7"] == pytest.approx(1 / 6)
    assert numbers["accuracy"] == pytest.approx(6 / 10)
