"""Whether the model knows what is there: balanced accuracy of its decisions, and how good its probabilities are."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from mllmseg.eval.metrics.base import Sample, ratio

Labels = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]
NUM_BINS = 10


class ExistenceMetric:
    """`balanced_accuracy` of the decisions; `AUROC`, `ECE` and `best_threshold` of the probabilities."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._labels: list[bool] = []
        self._decisions: list[bool] = []
        self._scores: list[float] = []

    def update(self, sample: Sample) -> None:
        """Counts one sample."""
        self._labels.append(sample.has_target)
        self._decisions.append(sample.exists)
        self._scores.append(sample.score)

    def merge(self, other: Self) -> None:
        """Adds another shard's samples."""
        self._labels += other._labels
        self._decisions += other._decisions
        self._scores += other._scores

    def compute(self) -> dict[str, float]:
        """The numbers so far; NaN where there is no sample, or for AUROC only one class."""
        labels, decisions = np.array(self._labels, dtype=bool), np.array(self._decisions, dtype=bool)
        scores = np.array(self._scores, dtype=float)
        threshold, accuracy = best_threshold(labels, scores)
        return {
            "balanced_accuracy": balanced_accuracy(labels, decisions),
            "AUROC": auroc(labels, scores),
            "ECE": expected_calibration_error(labels, scores),
            "best_threshold": threshold,
            "best_balanced_accuracy": accuracy,
        }


def balanced_accuracy(labels: Labels, decisions: Labels) -> float:
    """The mean of the two classes' accuracies; of the one there is where the other has no sample."""
    halves = [ratio(float((decisions[labels == kind] == kind).sum()), int((labels == kind).sum())) for kind in (0, 1)]
    known = [half for half in halves if not np.isnan(half)]
    return ratio(sum(known), len(known))


def auroc(labels: Labels, scores: Scores) -> float:
    """The probability that a random positive scores above a random negative, ties counting half."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    rivals = np.sort(scores[~labels])
    below = np.searchsorted(rivals, scores[labels], side="left")
    not_above = np.searchsorted(rivals, scores[labels], side="right")
    return float((below + not_above).sum() / (2 * positives * negatives))


def expected_calibration_error(labels: Labels, scores: Scores) -> float:
    """The mean gap between probability and frequency over ten equal bins of the probability, by bin count."""
    bins = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = [abs(float(labels[bins == b].sum() - scores[bins == b].sum())) for b in range(NUM_BINS)]
    return ratio(sum(gaps), len(labels))


def best_threshold(labels: Labels, scores: Scores) -> tuple[float, float]:
    """The threshold t of `score >= t` with the highest balanced accuracy, and that accuracy.

    Thresholds lie halfway between neighbouring scores; among equally good ones the closest to one half wins.
    """
    if not len(labels):
        return float("nan"), float("nan")
    known = np.unique(scores)
    candidates = np.concatenate([known[:1], (known[:-1] + known[1:]) / 2, np.nextafter(known[-1:], np.inf)])
    accuracies = [balanced_accuracy(labels, scores >= candidate) for candidate in candidates]
    best = max(accuracies)
    threshold = min((c for c, a in zip(candidates, accuracies, strict=True) if a == best), key=lambda c: abs(c - 0.5))
    return float(threshold), best
