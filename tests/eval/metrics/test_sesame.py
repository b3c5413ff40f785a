"""SESAME's figures by hand."""

from __future__ import annotations

import pytest

from mllmseg.eval.metrics import Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.sesame import SesameScorer


def test_by_hand(cases: dict[str, Sample]) -> None:
    numbers = score_all(SesameScorer(), cases.values())
    assert numbers["See accuracy"] == pytest.approx((4 + 2) / 10)  # 4 targets accepted, 2 negatives rejected
    assert numbers["cIoU"] == pytest.approx(12 / 60)


def test_an_accepted_empty_mask_is_still_seen_wrongly(cases: dict[str, Sample]) -> None:
    assert score_all(SesameScorer(), [cases["no target, nothing painted"]])["See accuracy"] == 0
