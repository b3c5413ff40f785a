"""Existence scores against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mllmseg.eval.metrics.base import Sample, score_all
from mllmseg.eval.metrics.existence import (
    ExistenceScorer,
    auroc,
    best_threshold,
    decision_confidence,
    reliability,
    risk_coverage,
)


def sample(has_target: bool, score: float, threshold: float = 0.5) -> Sample:
    return Sample(0, has_target, score >= threshold, score, 0, 0, 0)


def test_by_hand() -> None:
    # Positives .9 .8 .4 (one missed at .5), negatives .6 .1 (one accepted).
    samples = [sample(True, 0.9), sample(True, 0.8), sample(True, 0.4), sample(False, 0.6), sample(False, 0.1)]
    numbers = score_all(ExistenceScorer(), samples)
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
    assert score_all(ExistenceScorer(), samples)["ECE"] == pytest.approx(0)


def test_one_class_only() -> None:
    numbers = score_all(ExistenceScorer(), [sample(True, 0.9), sample(True, 0.2)])
    assert numbers["balanced_accuracy"] == 0.5
    assert math.isnan(numbers["AUROC"])
    assert all(math.isnan(value) for value in ExistenceScorer().compute().values())


def test_sharded_is_unsharded() -> None:
    rng = np.random.default_rng(0)
    samples = [sample(bool(rng.random() < 0.4), float(rng.random())) for _ in range(50)]
    first, second = ExistenceScorer(), ExistenceScorer()
    score_all(first, samples[:20])
    score_all(second, samples[20:])
    first.merge(second)
    assert first.compute() == score_all(ExistenceScorer(), samples)


def test_risk_and_coverage_by_hand() -> None:
    # Surest first: right, wrong and right together, wrong.
    curve = risk_coverage(np.array([0.6, 0.9, 0.7, 0.7]), np.array([1.0, 0.0, 1.0, 0.0]))
    assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 3, 1 / 2])
    assert curve.area == pytest.approx(0.25 * 0 + 0.5 / 3 + 0.25 / 2)
    assert math.isnan(risk_coverage(np.zeros(0), np.zeros(0)).area)


def test_a_rejection_is_as_sure_as_its_complement() -> None:
    assert decision_confidence(np.array([True, False]), np.array([0.9, 0.2])).tolist() == [0.9, 0.8]


def test_reliability_bins() -> None:
    bins = reliability(np.array([True, False, True]), np.array([0.31, 0.39, 1.0]))
    assert (bins[3].low, bins[3].high, bins[3].weight, bins[3].frequency) == (0.3, 0.4, 2, 0.5)
    assert bins[3].score == pytest.approx(0.35)
    assert bins[9].weight == 1, "a probability of 1 belongs to the last bin"
    assert math.isnan(bins[0].frequency)


def test_weights_are_repetitions() -> None:
    labels, scores = np.array([True, False, True, False]), np.array([0.9, 0.4, 0.4, 0.2])
    times = np.array([2, 0, 1, 3])
    often, again = np.repeat(labels, times), np.repeat(scores, times)
    assert auroc(labels, scores, times.astype(float)) == auroc(often, again)
    assert best_threshold(labels, scores, times.astype(float)) == best_threshold(often, again)


def test_no_order_of_samples_changes_a_bit() -> None:
    rng = np.random.default_rng(1)
    samples = [sample(bool(rng.random() < 0.5), float(rng.random())) for _ in range(400)]
    numbers = repr(score_all(ExistenceScorer(), samples))
    for _ in range(5):
        rng.shuffle(samples)
        assert repr(score_all(ExistenceScorer(), samples)) == numbers
