"""R-RIS's figures by hand, as defined and as its reference code has them."""

from __future__ import annotations

import math

import pytest

from mllmseg.eval.metrics import Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.rris import RrisScorer
from mllmseg.eval.metrics.rris_reference import RrisReferenceScorer


def positive(ref: str, intersection: int, union: int, index: int = 0) -> Sample:
    return Sample("a.jpg", True, True, 0.9, intersection, union, intersection, ref=ref, index=index)


def negative(ref: str, painted: int, *, exists: bool = True) -> Sample:
    return Sample("a.jpg", False, exists, 0.1, 0, painted, painted, ref=ref)


# Referent 1: two positives (IoU 4/8, 8/8), three negatives (4 pixels painted, accepted but not painted, rejected).
# Referent 2: one positive (IoU 3/12), one negative, painted with 3 pixels.
ONE = [
    positive("1", 4, 8, 0),
    positive("1", 8, 8, 1),
    negative("1", 4),
    negative("1", 0),
    negative("1", 0, exists=False),
]
TWO = [positive("2", 3, 12, 2), negative("2", 3)]


def test_by_hand() -> None:
    numbers = score_all(RrisScorer(), ONE + TWO)
    assert numbers["mIoU"] == pytest.approx((0.75 + 0.25) / 2)
    assert numbers["oIoU"] == pytest.approx(15 / 28)
    assert numbers["mRR"] == pytest.approx((2 / 3 + 0) / 2)
    assert numbers["rIoU"] == pytest.approx((12 / (16 + 4) + 3 / (12 + 3)) / 2)
    assert numbers["P@0.5"] == pytest.approx(2 / 3)
    assert numbers["P@0.6"] == numbers["P@0.9"] == pytest.approx(1 / 3)


def test_the_reference_thresholds_a_running_sum() -> None:
    numbers = score_all(RrisReferenceScorer(), ONE + TWO)
    # Referent 1 is judged by 0.5, then by 0.5 + 1; referent 2 by 0.25.
    assert numbers["P@0.5"] == pytest.approx(2 / 3)
    assert numbers["P@0.9"] == pytest.approx(1 / 3)
    swapped = [positive("1", 8, 8, 0), positive("1", 4, 8, 1)]  # now by 1, then by 1.5
    assert score_all(RrisReferenceScorer(), swapped)["P@0.9"] == 1
    assert score_all(RrisScorer(), swapped)["P@0.9"] == 0.5
    same = ("mIoU", "oIoU", "mRR", "rIoU")
    defined = score_all(RrisScorer(), ONE + TWO)
    assert {figure: numbers[figure] for figure in same} == {figure: defined[figure] for figure in same}


def test_the_running_sum_follows_the_sentences_not_the_shards() -> None:
    samples = [positive("1", 8, 8, 0), positive("1", 4, 8, 1)]
    assert score_all(RrisReferenceScorer(), samples[::-1]) == pytest.approx(
        score_all(RrisReferenceScorer(), samples), nan_ok=True
    )


def test_a_referent_without_negatives_is_left_out_or_is_nan() -> None:
    samples = [*ONE, positive("3", 1, 1)]
    assert score_all(RrisScorer(), samples)["mRR"] == pytest.approx(2 / 3)
    assert math.isnan(score_all(RrisReferenceScorer(), samples)["mRR"])
    only_negative = [*ONE, negative("3", 0)]
    assert score_all(RrisScorer(), only_negative)["mIoU"] == 0.75
    assert math.isnan(score_all(RrisReferenceScorer(), only_negative)["mIoU"])


def test_the_same_name_in_another_image_is_another_referent() -> None:
    other = Sample("b.jpg", True, True, 0.9, 0, 4, 0, ref="1")
    assert score_all(RrisScorer(), [*ONE, other])["mIoU"] == pytest.approx(0.75 / 2)


def test_every_empty_case(cases: dict[str, Sample]) -> None:
    numbers = score_all(RrisScorer(), cases.values())  # each case is a referent of its own
    assert numbers["mIoU"] == pytest.approx(1.5 / 6)
    assert numbers["oIoU"] == pytest.approx(12 / 56)
    assert numbers["mRR"] == pytest.approx(3 / 4)  # an accepted negative with an empty mask is clean
    assert numbers["rIoU"] == pytest.approx((1.5 + 0) / 7)  # six targets, and the painted negative with 0/4
