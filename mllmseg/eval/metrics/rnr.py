"""Pointing game, recall@k and IoU for referring navigable regions (Talk2Car-RegSeg, IROS 2021).

The published models give a heat map and look at its k highest pixels; a saved mask ranks its pixels as `first_hit`
says.
"""

from __future__ import annotations

from collections.abc import Mapping

from mllmseg.eval.metrics.base import Sample, Scorer, Term, share

RANKS = (10, 100, 1000)
POINTING = "pointing-game accuracy"


class RnrScorer(Scorer):
    """`pointing-game accuracy`: the best pixel lies in the target; `recall@k`: one of the k best; `IoU`: ΣI/ΣU.

    All over samples with a target; the first ones over those whose `hit` is known.
    """

    name = "rnr"
    figures = (POINTING, *(f"recall@{rank}" for rank in RANKS), "IoU")
    source = "Grounding Linguistic Commands to Navigable Regions, IROS 2021; ranking of pixels ours"

    def terms(self, sample: Sample) -> Mapping[str, Term]:
        """Nothing for a sample without a target."""
        if not sample.has_target:
            return {}
        iou = {"IoU": (sample.intersection, sample.union)}
        if sample.hit is None:
            return iou
        hits = {rank: share(0 < sample.hit <= rank) for rank in (1, *RANKS)}
        return {POINTING: hits[1], **{f"recall@{rank}": hits[rank] for rank in RANKS}, **iou}
