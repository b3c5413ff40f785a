"""mIoU, P@k and accuracy for RIS-CQ's complex queries (TOMM 2024).

All of its public sentences have a target. Its paper's code for these figures is not public: IoU must *exceed* the
threshold, and accuracy is taken as the share of right decisions about existence.
"""

from __future__ import annotations

from collections.abc import Mapping

from mllmseg.eval.metrics.base import Sample, Scorer, Term, precision_names, precision_terms, share

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


class RisCqScorer(Scorer):
    """`mIoU`, `P@0.3` to `P@0.7` (strictly above) over samples with a target, `accuracy` over all."""

    name = "riscq"
    figures = ("mIoU", *precision_names(THRESHOLDS, name="P"), "accuracy")
    source = "RIS-CQ, TOMM 2024"

    def terms(self, sample: Sample) -> Mapping[str, Term]:
        """A sample without a target counts for accuracy alone."""
        accuracy = {"accuracy": share(sample.exists == sample.has_target)}
        if not sample.has_target:
            return accuracy
        return {"mIoU": (sample.iou, 1), **precision_terms(sample.iou, THRESHOLDS, name="P", strict=True), **accuracy}
