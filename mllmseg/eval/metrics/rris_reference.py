"""R-RIS as its published evaluation code computes it, bug for bug, to compare with the numbers in papers.

Where it differs from `rris`:

- P@k compares a *running sum* of IoU over a referent's positive sentences with the threshold, so a second sentence
  almost always passes. It depends on the order of sentences: `Sample.index`.
- 0/0 is NaN and averaged: one referent without negatives (or without positives) makes mRR (or mIoU) NaN.
- Negatives are not resized to the image: their |P| enters rIoU in pixels of the network's own grid. Saved predictions
  have the image's size, so this needs to be told how large that grid was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from mllmseg.eval.metrics.base import Sample, Term, precision_terms, ratio
from mllmseg.eval.metrics.rris import THRESHOLDS, RrisScorer


class RrisReferenceScorer(RrisScorer):
    """`rris` with the reference code's running sum and its NaN."""

    name = "rris-reference"
    source = "R-RIS, TIP 2024, the authors' utils/validation.py"

    def precision(self, positives: Sequence[Sample]) -> Iterator[Mapping[str, Term]]:
        """P@k of the running sums."""
        sums = accumulate(sample.iou for sample in positives)
        return (precision_terms(total, THRESHOLDS, name="P") for total in sums)

    def mean_term(self, numerator: float, denominator: float) -> Term:
        """NaN for 0/0."""
        return (ratio(numerator, denominator) if denominator else math.nan), 1
