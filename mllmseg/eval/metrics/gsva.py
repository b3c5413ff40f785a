"""GSVA's variant of the generalised scores (CVPR 2024): false rejections cost nothing. Report it only beside `gres`.

Its evaluation takes the mask decoder's output for every target, also where the answer was [REJ].
"""

from __future__ import annotations

from mllmseg.eval.metrics.base import Sample
from mllmseg.eval.metrics.gres import GresScorer


class GsvaScorer(GresScorer):
    """`gres`, except that a rejected target keeps the mask it hides, where that is known (`Sample.forced`)."""

    name = "gsva"
    source = "GSVA, CVPR 2024, eval_gres()"

    def counted(self, sample: Sample) -> tuple[int, int]:
        """I and U of the mask before the decision."""
        if sample.exists or sample.forced is None:
            return super().counted(sample)
        return sample.forced
