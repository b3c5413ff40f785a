"""Scorers over saved predictions, one per file, by the name the command line knows."""

from mllmseg.eval.metrics.base import Sample, Scorer
from mllmseg.eval.metrics.classic import ClassicScorer
from mllmseg.eval.metrics.existence import ExistenceScorer
from mllmseg.eval.metrics.gres import GresScorer
from mllmseg.eval.metrics.gsva import GsvaScorer
from mllmseg.eval.metrics.lisa import LisaScorer
from mllmseg.eval.metrics.riscq import RisCqScorer
from mllmseg.eval.metrics.rnr import RnrScorer
from mllmseg.eval.metrics.rris import RrisScorer
from mllmseg.eval.metrics.rris_reference import RrisReferenceScorer
from mllmseg.eval.metrics.sesame import SesameScorer
from mllmseg.registry import Registry

SCORERS: Registry[type[Scorer]] = Registry("scorer")
for _scorer in (
    ClassicScorer,
    LisaScorer,
    GresScorer,
    GsvaScorer,
    RrisScorer,
    RrisReferenceScorer,
    SesameScorer,
    RisCqScorer,
    RnrScorer,
    ExistenceScorer,
):
    SCORERS.register(_scorer.name)(_scorer)

__all__ = ["SCORERS", "Sample", "Scorer"]
