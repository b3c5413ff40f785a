"""gres on 4×4 masks counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mllmseg.eval.metrics.base import Sample, score_all
from mllmseg.eval.metrics.gres import GresScorer, gres_iou


def mask(rows: str) -> np.ndarray:
    """`"1100 1100 0000 0000"` → `[4, 4]` bool."""
    return np.array([[char == "1" for char in row] for row in rows.split()])


EMPTY = mask("0000 0000 0000 0000")
TOP_LEFT = mask("1100 1100 0000 0000")  # 4 pixels
LEFT = mask("1100 1100 1100 1100")  # 8 pixels, holds TOP_LEFT
RIGHT = mask("0011 0011 0011 0011")

# prediction, target, exists → has_target, I, U, IoU
CASES = {
    "half of the target": (TOP_LEFT, LEFT, True, True, 4, 8, 0.5),
    "exactly the target": (LEFT, LEFT, True, True, 8, 8, 1.0),
    "beside the target": (RIGHT, LEFT, True, True, 0, 16, 0.0),
    "empty/empty, rejected": (EMPTY, EMPTY, False, False, 0, 0, 1.0),
    "empty/empty, accepted with an empty mask": (EMPTY, EMPTY, True, False, 0, 0, 0.0),
    "non-empty/empty: painted where there is nothing": (TOP_LEFT, EMPTY, True, False, 0, 4, 0.0),
    "empty/non-empty: a target rejected": (EMPTY, LEFT, False, True, 0, 8, 0.0),
    "empty/non-empty: a target accepted, nothing painted": (EMPTY, LEFT, True, True, 0, 8, 0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sample(name: str) -> None:
    prediction, target, exists, has_target, intersection, union, iou = CASES[name]
    sample = Sample.from_masks(prediction, target, exists=exists)
    assert (sample.has_target, sample.intersection, sample.union) == (has_target, intersection, union)
    assert gres_iou(sample) == iou
    assert score_all(GresScorer(), [sample])["gIoU"] == iou


def all_samples() -> list[Sample]:
    return [Sample.from_masks(p, t, exists=e, image=i) for i, (p, t, e, *_) in enumerate(CASES.values())]


def test_all_cases_together() -> None:
    numbers = score_all(GresScorer(), all_samples())
    assert numbers["gIoU"] == pytest.approx((0.5 + 1 + 0 + 1 + 0 + 0 + 0 + 0) / 8)
    # I: 4 + 8; U: 8 + 8 + 16 for targets, 4 painted on nothing, 8 + 8 for the two targets that were missed.
    assert numbers["cIoU"] == pytest.approx(12 / 52)
    assert numbers["N-acc"] == pytest.approx(1 / 3)
    assert numbers["T-acc"] == pytest.approx(4 / 5)
    assert numbers["Pr@0.7"] == numbers["Pr@0.9"] == pytest.approx(1 / 5)


def test_a_rejected_target_gets_nothing_for_the_mask_it_hides() -> None:
    numbers = score_all(GresScorer(), [Sample.from_masks(LEFT, LEFT, exists=False)])
    assert numbers["gIoU"] == numbers["cIoU"] == 0


def test_pr_counts_the_threshold_itself() -> None:
    sample = Sample(image=0, has_target=True, exists=True, score=1, intersection=7, union=10, predicted=8)
    assert score_all(GresScorer(), [sample])["Pr@0.7"] == 1


def test_nothing_to_divide_by_is_nan() -> None:
    assert all(math.isnan(value) for value in GresScorer().compute().values())
    assert math.isnan(score_all(GresScorer(), [Sample.from_masks(LEFT, LEFT, exists=True)])["N-acc"])


@pytest.mark.parametrize("cut", range(9))
def test_sharded_is_unsharded(cut: int) -> None:
    samples = all_samples()
    first, second = GresScorer(), GresScorer()
    score_all(first, samples[:cut])
    score_all(second, samples[cut:])
    second.merge(first)
    expected = score_all(GresScorer(), samples)
    assert second.compute() == pytest.approx(expected, rel=0, abs=0)
