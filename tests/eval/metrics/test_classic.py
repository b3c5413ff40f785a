"""RefCOCO's figures by hand."""

from __future__ import annotations

import pytest

from mllmseg.eval.metrics import Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.classic import ClassicScorer


def test_by_hand(cases: dict[str, Sample]) -> None:
    numbers = score_all(ClassicScorer(), cases.values())
    # Six samples with a target: IoU 1/2, 1, 0, 0, 0, 0; I 4 + 8; U 8 + 8 + 16 + 8 + 8 + 8.
    assert numbers["mIoU"] == pytest.approx(1.5 / 6)
    assert numbers["oIoU"] == pytest.approx(12 / 56)
    assert numbers["Pr@0.5"] == pytest.approx(2 / 6)  # one half reaches 0.5
    assert numbers["Pr@0.6"] == numbers["Pr@0.9"] == pytest.approx(1 / 6)


def test_samples_without_a_target_change_nothing(cases: dict[str, Sample]) -> None:
    targets = [sample for sample in cases.values() if sample.has_target]
    assert score_all(ClassicScorer(), targets) == score_all(ClassicScorer(), cases.values())
