"""gIoU, cIoU, N-acc, T-acc and Pr@k as generalised referring segmentation defines them (ReLA, CVPR 2023).

A sentence without a target scores 1 where it is rejected and 0 where not, whatever was painted; painting adds to cIoU's
union. A rejected target scores 0 and its union, which is |G|, still counts: a false rejection is never free.
"""

from __future__ import annotations

from collections.abc import Mapping

from mllmseg.eval.metrics.base import Sample, Scorer, Term, precision_names, precision_terms, share

THRESHOLDS = (0.7, 0.8, 0.9)


def gres_iou(sample: Sample) -> float:
    """One sample's term of gIoU."""
    if not sample.has_target:
        return 0.0 if sample.exists else 1.0
    return sample.iou


class GresScorer(Scorer):
    """`gIoU`, `cIoU`, `N-acc`, `T-acc` and `Pr@0.7` to `Pr@0.9` (IoU ≥ threshold, over samples with a target)."""

    name = "gres"
    figures = ("gIoU", "cIoU", "N-acc", "T-acc", *precision_names(THRESHOLDS))
    source = "ReLA, CVPR 2023, ReferEvaluator"

    def terms(self, sample: Sample) -> Mapping[str, Term]:
        """A rejection without a target adds to neither sum of cIoU."""
        if not sample.has_target:
            return {
                "gIoU": (gres_iou(sample), 1),
                "cIoU": (0, sample.predicted),
                "N-acc": share(not sample.exists),
            }
        intersection, union = self.counted(sample)
        iou = intersection / union if union else 0.0
        return {
            "gIoU": (iou, 1),
            "cIoU": (intersection, union),
            "T-acc": share(sample.exists),
            **precision_terms(iou, THRESHOLDS),
        }

    def counted(self, sample: Sample) -> tuple[int, int]:
        """I and U of a sample with a target: nothing found where it was rejected."""
        return sample.intersection, sample.union
