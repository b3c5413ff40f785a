"""Existence scores against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mllmseg.eval.metrics.base import Sample, score_all
from mllmseg.eval.metrics.existence import ExistenceMetric, auroc, best_threshold


def sample(has_target: bool, score: float, threshold: float = 0.5) -> Sample:
    return Sample(0, has_target, score >= threshold, score, 0, 0, 0)


def test_by_hand() -> None:
    # Positives .9 .8 .4 (one missed at .5), negatives .6 .1 (one accepted).
    samples = [sample(True, 0.9), sample(True, 0.8), sample(True, 0.4), sample(False, 0.6), sample(False, 0.1)]
    numbers = score_all(ExistenceMetric(), samples)
    assert numbers["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert numbers["AUROC"] == pytest.approx(5 / 6)  # of the 6 pairs only .4 < .6 is the wrong way round
    assert numbers["ECE"] == pytest.approx((0.1 + 0.2 + 0.6 + 0.6 + 0.1) / 5)
    assert numbers["best_threshold"] == pytest.approx(0.7)  # accuracies 2/3 and 1; at .25 only 1 and 1/2
    assert numbers["best_balanced_accuracy"] == pytest.approx(5 / 6)


def test_ties_count_half() -> None:
    assert auroc(np.array([True, False]), np.array([0.5, 0.5])) == 0.5


def test_perfect_and_reversed_scores() -> None:
    labels = np.array([True, True, False])
    assert auroc(labels, np.array([0.9, 0.8, 0.1])) == 1
    assert auroc(labels, np.array([0.1, 0.2, 0.9])) == 0
    threshold, accuracy = best_threshold(labels, np.array([0.1, 0.2, 0.9]))
    assert accuracy == 0.5
    assert 0 <= threshold <= 1


def test_perfect_calibration_and_bins() -> None:
    samples = [sample(True, 1.0), sample(False, 0.0)] + [sample(index < 3, 0.75) for index in range(4)]
    assert score_all(ExistenceMetric(), samples)["ECE"] == pytest.approx(0)


def test_one_class_only() -> None:
    numbers = score_all(ExistenceMetric(), [sample(True, 0.9), sample(True, 0.2)])
    assert numbers["balanced_accuracy"] == 0.5
    assert math.isnan(numbers["AUROC"])
    assert all(math.isnan(value) for value in ExistenceMetric().compute().values())


def test_sharded_is_unsharded() -> None:
    rng = np.random.default_rng(0)
    samples = [sample(bool(rng.random() < 0.4), float(rng.random())) for _ in range(50)]
    first, second = ExistenceMetric(), ExistenceMetric()
    score_all(first, samples[:20])
    score_all(second, samples[20:])
    first.merge(second)
    assert first.compute() == score_all(ExistenceMetric(), samples)
