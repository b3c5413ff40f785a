"""mIoU, oIoU and Pr@k as the RefCOCO papers report them (their test code asks for IoU ≥ threshold).

RefCOCO has no sentence without a target; where other data has, these figures leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping

from mllmseg.eval.metrics.base import Sample, Scorer, Term, precision_names, precision_terms

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class ClassicScorer(Scorer):
    """`mIoU`, `oIoU` and `Pr@0.5` to `Pr@0.9`, over samples with a target."""

    name = "classic"
    figures = ("mIoU", "oIoU", *precision_names(THRESHOLDS))
    source = "RefCOCO papers (LAVT's test code)"

    def terms(self, sample: Sample) -> Mapping[str, Term]:
        """Nothing for a sample without a target."""
        if not sample.has_target:
            return {}
        return {
            "mIoU": (sample.iou, 1),
            "oIoU": (sample.intersection, sample.union),
            **precision_terms(sample.iou, THRESHOLDS),
        }
