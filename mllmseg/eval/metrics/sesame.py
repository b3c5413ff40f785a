"""How SESAME evaluates false premises (CVPR 2024): does the model see what is not there, and what does it segment?"""

from __future__ import annotations

from collections.abc import Mapping

from mllmseg.eval.metrics.base import Sample, Scorer, Term, share


class SesameScorer(Scorer):
    """`See accuracy`: the decision is right; `cIoU`. Both over all samples, those without a target included."""

    name = "sesame"
    figures = ("See accuracy", "cIoU")
    source = "SESAME, CVPR 2024, run_eval()"

    def terms(self, sample: Sample) -> Mapping[str, Term]:
        """A painted sample without a target adds to the union."""
        return {
            "See accuracy": share(sample.exists == sample.has_target),
            "cIoU": (sample.intersection, sample.union),
        }
