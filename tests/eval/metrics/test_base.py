"""Samples counted from masks, and what all scorers do alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from mllmseg.errors import AlignmentError, ConfigError
from mllmseg.eval.metrics import SCORERS, Sample, Scorer
from mllmseg.eval.metrics.base import Term, score_all

LEFT = np.repeat([[True, True, False, False]], 4, axis=0)


def test_counts_of_every_case(cases: dict[str, Sample]) -> None:
    counts = {name: (s.has_target, s.intersection, s.union, s.predicted, s.target) for name, s in cases.items()}
    assert counts == {
        "half": (True, 4, 8, 4, 8),
        "exact": (True, 8, 8, 8, 8),
        "beside": (True, 0, 16, 8, 8),
        "target, nothing painted": (True, 0, 8, 0, 8),
        "target, rejected": (True, 0, 8, 0, 8),
        "target, rejected, hidden mask": (True, 0, 8, 0, 8),
        "no target, painted": (False, 0, 4, 4, 0),
        "no target, nothing painted": (False, 0, 0, 0, 0),
        "no target, rejected": (False, 0, 0, 0, 0),
        "no target, rejected, hidden mask": (False, 0, 0, 0, 0),
    }
    assert cases["target, rejected, hidden mask"].forced == (4, 8)
    assert cases["target, rejected"].forced is None
    assert cases["half"].forced == (4, 8)


def test_a_rejection_hides_the_mask(cases: dict[str, Sample]) -> None:
    hidden = cases["half"].rejected()
    assert (hidden.exists, hidden.intersection, hidden.union, hidden.predicted) == (False, 0, 8, 0)
    assert (hidden.target, hidden.forced, hidden.hit) == (8, (4, 8), 0)
    assert hidden.rejected() is hidden


def test_void_pixels_count_nowhere() -> None:
    target = LEFT.astype(np.uint8)
    target[:2] = 255
    sample = Sample.from_masks(np.ones((4, 4), dtype=bool), target, exists=True)
    assert (sample.intersection, sample.union, sample.predicted, sample.target) == (4, 8, 8, 4)
    only_void = Sample.from_masks(np.ones((4, 4), dtype=bool), np.full((4, 4), 255, dtype=np.uint8), exists=True)
    assert (only_void.has_target, only_void.union) == (False, 0)


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(AlignmentError, match=r"image 7: .*\(4, 4\).*\(4, 3\)"):
        Sample.from_masks(LEFT, LEFT[:, :3], exists=True, image=7)


def test_a_rejection_with_pixels_is_refused() -> None:
    with pytest.raises(AlignmentError, match="image 3: rejected, but 5 pixels"):
        Sample(3, True, False, 0.1, 4, 9, 5)


def test_the_registry_has_every_scorer_under_its_name() -> None:
    assert list(SCORERS) == [
        "classic", "lisa", "gres", "gsva", "rris", "rris-reference", "sesame", "riscq", "rnr", "calibration",
    ]  # fmt: skip
    assert all(SCORERS.get(name).name == name for name in SCORERS)
    with pytest.raises(ConfigError, match="unknown scorer 'rris-ref': did you mean 'rris-reference'"):
        SCORERS.get("rris-ref")


@pytest.mark.parametrize("name", list(SCORERS))
def test_nothing_to_divide_by_is_nan(name: str) -> None:
    scorer = SCORERS.get(name)()
    assert set(scorer.compute()) == set(scorer.figures)
    assert all(math.isnan(value) for value in scorer.compute().values())
    assert all(interval.count == 0 for interval in scorer.intervals(repeats=3).values())


@pytest.mark.parametrize("name", list(SCORERS))
def test_reset_forgets(name: str, cases: dict[str, Sample]) -> None:
    scorer = SCORERS.get(name)()
    for _ in range(2):  # a second run over the same scorer starts anew
        numbers = score_all(scorer, cases.values())
    assert numbers == pytest.approx(score_all(SCORERS.get(name)(), cases.values()), nan_ok=True)
    scorer.reset()
    assert all(math.isnan(value) for value in scorer.compute().values())


class Pixels(Scorer):
    """A sum too large for 32 bits and for careless floats."""

    name = "pixels"
    figures = ("pixels",)
    source = "this test"

    def terms(self, sample: Sample) -> Mapping[str, Term]:
        return {"pixels": (sample.intersection, 1 if sample.index == 0 else 0)}


def test_integer_sums_are_exact() -> None:
    large = 2**44 + 1
    samples = [Sample(0, True, True, 1.0, large, large, large, index=index) for index in range(200)]
    assert score_all(Pixels(), samples)["pixels"] == 200 * large
