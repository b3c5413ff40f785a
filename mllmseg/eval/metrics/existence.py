"""Whether the model knows what is there: balanced accuracy of its decisions, and how good its probabilities are.

None of the published evaluations has it. Every function takes weights, how often each sample was drawn, so that a
resampling needs no second sorting.
"""

# N samples

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mllmseg.eval.metrics.base import Sample, Scorer, Term
from mllmseg.eval.metrics.bootstrap import REPEATS, Array, Indices, draw_images, image_numbers

Labels = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]
NUM_BINS = 10


class ExistenceScorer(Scorer):
    """`balanced_accuracy` of the decisions; `AUROC`, `ECE`, `AURC` and `best_threshold` of the probabilities."""

    name = "calibration"
    figures = ("balanced_accuracy", "AUROC", "ECE", "AURC", "best_threshold", "best_balanced_accuracy")
    source = "ours"

    def terms(self, sample: Sample) -> Mapping[str, Term]:
        """Every figure rests on every sample; none is a mere ratio of sums."""
        return dict.fromkeys(self.figures, (0, 1))

    def compute(self) -> dict[str, float]:
        """The numbers so far; NaN where there is no sample, or for AUROC only one class."""
        labels, decisions, scores, _ = self._columns()
        return dict(zip(self.figures, self._figures(labels, decisions, scores), strict=True))

    def replicates(self, *, repeats: int = REPEATS, seed: int = 0) -> Array:
        """The figures `[R, F]` of resampled images."""
        if not self._samples:
            return np.full((repeats, len(self.figures)), math.nan)
        labels, decisions, scores, owner = self._columns()
        batches = draw_images(int(owner.max()) + 1, repeats=repeats, seed=seed)
        return np.array([self._figures(labels, decisions, scores, drawn[owner]) for b in batches for drawn in b])

    def _columns(self) -> tuple[Labels, Labels, Scores, Indices]:
        """Labels, decisions, scores and image numbers, sorted: sums of scores then do not depend on shards."""
        labels = np.array([sample.has_target for sample in self._samples], dtype=bool)
        decisions = np.array([sample.exists for sample in self._samples], dtype=bool)
        scores = np.array([sample.score for sample in self._samples], dtype=float)
        _, owner = image_numbers([sample.image for sample in self._samples])
        order = np.lexsort((owner, decisions, labels, scores))
        return labels[order], decisions[order], scores[order], owner[order]

    def _figures(
        self, labels: Labels, decisions: Labels, scores: Scores, weights: Scores | None = None
    ) -> tuple[float, ...]:
        wrong = (labels != decisions).astype(float)
        return (
            balanced_accuracy(labels, decisions, weights),
            auroc(labels, scores, weights),
            expected_calibration_error(labels, scores, weights),
            risk_coverage(decision_confidence(decisions, scores), wrong, weights).area,
            *best_threshold(labels, scores, weights),
        )


def balanced_accuracy(labels: Labels, decisions: Labels, weights: Scores | None = None) -> float:
    """The mean of the two classes' accuracies; of the one there is where the other has no sample."""
    weights = _weights(labels, weights)
    right = weights * (labels == decisions)
    totals = [float(weights[labels == kind].sum()) for kind in (False, True)]
    halves = [float(right[labels == kind].sum()) / n for kind, n in zip((False, True), totals, strict=True) if n]
    return sum(halves) / len(halves) if halves else math.nan


def auroc(labels: Labels, scores: Scores, weights: Scores | None = None) -> float:
    """The probability that a random positive scores above a random negative, ties counting half."""
    _, positives, negatives = _by_score(labels, scores, _weights(labels, weights))
    if not positives.sum() or not negatives.sum():
        return math.nan
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))


@dataclass(frozen=True)
class Bin:
    """The samples whose probability falls into one bin.

    Attributes:
        low: where it starts.
        high: where it ends.
        weight: how many samples.
        score: their mean probability; NaN for an empty bin.
        frequency: the share of them that has a target.
    """

    low: float
    high: float
    weight: float
    score: float
    frequency: float


def reliability(labels: Labels, scores: Scores, weights: Scores | None = None) -> list[Bin]:
    """Probability against frequency over ten equal bins; a score of 1 falls into the last."""
    weights = _weights(labels, weights)
    bins = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    totals, expected, found = (
        np.bincount(bins, weights=values, minlength=NUM_BINS).astype(float)
        for values in (weights, weights * scores, weights * labels)
    )
    with np.errstate(invalid="ignore"):
        means, frequencies = expected / totals, found / totals
    edges = [index / NUM_BINS for index in range(NUM_BINS + 1)]
    columns = (edges[:-1], edges[1:], totals.tolist(), means.tolist(), frequencies.tolist())
    return [Bin(*values) for values in zip(*columns, strict=True)]


def expected_calibration_error(labels: Labels, scores: Scores, weights: Scores | None = None) -> float:
    """The mean gap between probability and frequency over the bins of `reliability`, by bin count."""
    bins = [b for b in reliability(labels, scores, weights) if b.weight]
    total = sum(b.weight for b in bins)
    return sum(b.weight * abs(b.frequency - b.score) for b in bins) / total if total else math.nan


def best_threshold(labels: Labels, scores: Scores, weights: Scores | None = None) -> tuple[float, float]:
    """The threshold t of `score >= t` with the highest balanced accuracy, and that accuracy.

    Thresholds lie halfway between neighbouring scores; among equally good ones the closest to one half wins.
    """
    known, positives, negatives = _by_score(labels, scores, _weights(labels, weights))
    drawn = (positives + negatives) > 0
    known, positives, negatives = known[drawn], positives[drawn], negatives[drawn]
    if not len(known):
        return math.nan, math.nan
    candidates = np.concatenate([known[:1], (known[:-1] + known[1:]) / 2, np.nextafter(known[-1:], np.inf)])
    rejected = [np.concatenate([[0.0], np.cumsum(side)]) for side in (positives, negatives)]  # below each candidate
    halves = []
    if positives.sum():
        halves.append((positives.sum() - rejected[0]) / positives.sum())
    if negatives.sum():
        halves.append(rejected[1] / negatives.sum())
    accuracies = sum(halves) / len(halves)
    best = float(np.max(accuracies))
    equal = candidates[np.isclose(accuracies, best, rtol=0, atol=1e-12)]  # equal but for the order of a sum
    return float(equal[np.argmin(np.abs(equal - 0.5))]), best


def decision_confidence(decisions: Labels, scores: Scores) -> Scores:
    """The probability the model gives to its own decision: P(exists) where it accepts, 1 − P where it rejects."""
    return np.where(decisions, scores, 1 - scores)


@dataclass(frozen=True)
class RiskCoverage:
    """What goes wrong if only the surest answers are given.

    Attributes:
        coverage: share of samples answered, ascending, one point for each different confidence.
        risk: mean loss of those answered.
        area: mean risk over coverage (AURC): lower is better; NaN for no samples.
    """

    coverage: Scores
    risk: Scores
    area: float


def risk_coverage(confidence: Scores, losses: Scores, weights: Scores | None = None) -> RiskCoverage:
    """The curve over all thresholds of confidence; samples that tie are answered together."""
    weights = _weights(confidence, weights)
    steps, group = np.unique(-confidence, return_inverse=True)
    counts = np.bincount(group, weights=weights, minlength=len(steps))
    lost = np.cumsum(np.bincount(group, weights=weights * losses, minlength=len(steps)))
    answered = np.cumsum(counts)
    if not len(steps) or not answered[-1]:
        return RiskCoverage(np.zeros(0), np.zeros(0), math.nan)
    drawn = counts > 0
    coverage, risk = answered[drawn] / answered[-1], lost[drawn] / answered[drawn]
    return RiskCoverage(coverage, risk, float((counts[drawn] * risk).sum() / answered[-1]))


def _weights(values: npt.NDArray[Any], weights: Scores | None) -> Scores:
    return np.ones(len(values)) if weights is None else weights


def _by_score(labels: Labels, scores: Scores, weights: Scores) -> tuple[Scores, Scores, Scores]:
    """Each different score, ascending, with the weights of its positives and negatives."""
    known, group = np.unique(scores, return_inverse=True)
    positives, negatives = (
        np.bincount(group, weights=weights * side, minlength=len(known)).astype(float) for side in (labels, ~labels)
    )
    return known, positives, negatives
