"""mRR and rIoU, the robustness of R-RIS (TIP 2024), as its paper defines them.

Sentences are grouped by referent: a referent's positives name it, its negatives name what is not in the image. A
referent without negatives has no robustness (0/0) and is left out of mRR; one without positives is left out of mIoU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from mllmseg.eval.metrics.base import Sample, Scorer, Term, Unit, precision_names, precision_terms, ratio

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class RrisScorer(Scorer):
    """`mIoU`, `oIoU`, `mRR`, `rIoU` over referents, `P@0.5` to `P@0.9` over positive sentences."""

    name = "rris"
    figures = ("mIoU", "oIoU", "mRR", "rIoU", *precision_names(THRESHOLDS, name="P"))
    source = "R-RIS, TIP 2024, as defined"

    def units(self) -> Iterator[Unit]:
        """One unit a referent, and one a positive sentence for P@k."""
        refs: dict[tuple[int | str, str], list[Sample]] = {}
        for sample in self._samples:
            refs.setdefault((sample.image, sample.ref), []).append(sample)
        for (image, _), samples in refs.items():
            positives = sorted((s for s in samples if s.has_target), key=lambda s: s.index)
            yield image, self.ref_terms(positives, [s for s in samples if not s.has_target])
            yield from ((image, terms) for terms in self.precision(positives))

    def terms(self, sample: Sample) -> Mapping[str, Term]:
        """P@k of one positive sentence."""
        return precision_terms(sample.iou, THRESHOLDS, name="P")

    def precision(self, positives: Sequence[Sample]) -> Iterator[Mapping[str, Term]]:
        """P@k of a referent's positive sentences."""
        return (self.terms(sample) for sample in positives)

    def ref_terms(self, positives: Sequence[Sample], negatives: Sequence[Sample]) -> Mapping[str, Term]:
        """What one referent adds: r counts a negative as right only where not one pixel was painted."""
        intersection = sum(sample.intersection for sample in positives)
        union = sum(sample.union for sample in positives)
        painted = sum(sample.predicted for sample in negatives)
        clean = sum(sample.predicted == 0 for sample in negatives)
        return {
            "mIoU": self.mean_term(math.fsum(sample.iou for sample in positives), len(positives)),
            "oIoU": (intersection, union),
            "mRR": self.mean_term(clean, len(negatives)),
            "rIoU": self.mean_term(intersection, union + painted),
        }

    def mean_term(self, numerator: float, denominator: float) -> Term:
        """One referent's fraction, to be averaged over referents that have one."""
        return (ratio(numerator, denominator), 1) if denominator else (0, 0)
