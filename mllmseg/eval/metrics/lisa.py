"""cIoU and gIoU as LISA's validation computes them (CVPR 2024), and most MLLMs after it.

The decision counts only through the mask: two empty masks agree, whatever was said.
"""

from __future__ import annotations

from collections.abc import Mapping

from mllmseg.eval.metrics.base import Sample, Scorer, Term

EPSILON = 1e-5


def lisa_iou(sample: Sample) -> float:
    """One sample's term of gIoU: I/(U + 1e-5), and 1 where U = 0."""
    return sample.intersection / (sample.union + EPSILON) if sample.union else 1.0


class LisaScorer(Scorer):
    """`gIoU` and `cIoU` over all samples."""

    name = "lisa"
    figures = ("gIoU", "cIoU")
    source = "LISA, CVPR 2024, validate()"

    def terms(self, sample: Sample) -> Mapping[str, Term]:
        """Samples without a target count like the others: any painted pixel gives 0 and adds to the union."""
        return {"gIoU": (lisa_iou(sample), 1), "cIoU": (sample.intersection, sample.union)}
