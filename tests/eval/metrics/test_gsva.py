"""GSVA's figures by hand, and where three scorers of the same predictions part."""

from __future__ import annotations

import pytest

from mllmseg.eval.metrics import SCORERS, Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.gsva import GsvaScorer


def test_a_hidden_mask_is_forgiven_a_rejection(cases: dict[str, Sample]) -> None:
    hidden = cases["target, rejected, hidden mask"]
    numbers = score_all(GsvaScorer(), [hidden])
    assert numbers["gIoU"] == numbers["cIoU"] == 0.5
    assert numbers["T-acc"] == 0, "the decision stays wrong"
    assert score_all(SCORERS.get("gres")(), [hidden])["gIoU"] == 0


def test_all_together(cases: dict[str, Sample]) -> None:
    numbers = score_all(GsvaScorer(), cases.values())
    assert numbers["gIoU"] == pytest.approx((0.5 + 1 + 0.5 + 2) / 10)
    assert numbers["cIoU"] == pytest.approx((4 + 8 + 4) / 60)
    assert numbers["N-acc"] == pytest.approx(2 / 4)
    assert numbers["T-acc"] == pytest.approx(4 / 6)


def test_a_rejection_without_a_mask_has_nothing_to_forgive(cases: dict[str, Sample]) -> None:
    assert score_all(GsvaScorer(), [cases["target, rejected"]])["cIoU"] == 0


def test_lisa_gres_and_gsva_differ_exactly_where_defined(cases: dict[str, Sample]) -> None:
    """The same predictions: gres departs from lisa on an accepted empty mask, gsva from gres on a hidden one."""

    def differing(first: str, second: str) -> set[str]:
        pairs = {
            name: [score_all(SCORERS.get(scorer)(), [sample]) for scorer in (first, second)]
            for name, sample in cases.items()
        }
        return {
            name
            for name, (one, other) in pairs.items()
            # LISA's 1e-5 in the denominator is the difference of every sample, and smaller than this.
            if any(one[figure] != pytest.approx(other[figure], abs=1e-5, nan_ok=True) for figure in ("gIoU", "cIoU"))
        }

    assert differing("lisa", "gres") == {"no target, nothing painted"}
    assert differing("gres", "gsva") == {"target, rejected, hidden mask"}
    assert differing("lisa", "gsva") == {"no target, nothing painted", "target, rejected, hidden mask"}
