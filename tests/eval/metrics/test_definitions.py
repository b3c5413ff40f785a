"""Every scorer against a second implementation, written from the definitions over plain sets of pixels."""

# P, G: sets of pixel numbers of a 4×4 image.

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllmseg.eval.metrics import SCORERS, Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.existence import risk_coverage


@dataclass(frozen=True)
class Case:
    """One query as a tester sees it: the mask as handed in, whether or not the model accepted."""

    handed_in: frozenset[int]
    G: frozenset[int]
    exists: bool
    score: float
    image: str
    ref: str

    @property
    def P(self) -> frozenset[int]:
        return self.handed_in if self.exists else frozenset()

    @property
    def I(self) -> int:  # noqa: E743
        return len(self.P & self.G)

    @property
    def U(self) -> int:
        return len(self.P | self.G)


pixels = st.one_of(st.just(frozenset()), st.frozensets(st.integers(0, 15)))
cases = st.builds(
    Case,
    handed_in=pixels,
    G=pixels,
    exists=st.booleans(),
    score=st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.55, 0.95, 1.0]),
    image=st.sampled_from(["a", "b", "c"]),
    ref=st.sampled_from(["1", "2"]),
)


def sample(case: Case, index: int) -> Sample:
    P, G = (np.isin(np.arange(16), list(side)).reshape(4, 4) for side in (case.handed_in, case.G))
    return Sample.from_masks(P, G, exists=case.exists, score=case.score, image=case.image, ref=case.ref, index=index)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def divide(above: float, below: float) -> float:
    return above / below if below else math.nan


def classic(cases: list[Case]) -> dict[str, float]:
    cases = [c for c in cases if c.G]
    ious = [c.I / c.U for c in cases]
    return {
        "mIoU": mean(ious),
        "oIoU": divide(sum(c.I for c in cases), sum(c.U for c in cases)),
        **{f"Pr@{t}": mean([iou >= t for iou in ious]) for t in (0.5, 0.6, 0.7, 0.8, 0.9)},
    }


def lisa(cases: list[Case]) -> dict[str, float]:
    return {
        "gIoU": mean([c.I / (c.U + 1e-5) + (1 if c.U == 0 else 0) for c in cases]),
        "cIoU": divide(sum(c.I for c in cases), sum(c.U for c in cases)),
    }


def generalised(cases: list[Case], *, keep_hidden: bool) -> dict[str, float]:
    ious, target_ious = [], []
    intersections = unions = tp = fn = tn = fp = 0  # positive: no target
    for c in cases:
        if not c.G:
            if c.exists:
                fn, unions = fn + 1, unions + len(c.P)
            else:
                tp += 1
            ious.append(0.0 if c.exists else 1.0)
            continue
        tn, fp = tn + c.exists, fp + (not c.exists)
        P = c.handed_in if keep_hidden else c.P
        intersections, unions = intersections + len(P & c.G), unions + len(P | c.G)
        target_ious.append(len(P & c.G) / len(P | c.G))
        ious.append(target_ious[-1])
    return {
        "gIoU": mean(ious),
        "cIoU": divide(intersections, unions),
        "N-acc": divide(tp, tp + fn),
        "T-acc": divide(tn, tn + fp),
        **{f"Pr@{t}": mean([iou >= t for iou in target_ious]) for t in (0.7, 0.8, 0.9)},
    }


def rris(cases: list[Case], *, reference: bool) -> dict[str, float]:
    mious, rs, rious, passed = [], [], [], []
    intersection = union = 0
    for key in dict.fromkeys((c.image, c.ref) for c in cases):
        group = [c for c in cases if (c.image, c.ref) == key]
        positives, negatives = [c for c in group if c.G], [c for c in group if not c.G]
        running = 0.0
        for c in positives:
            running = running + c.I / c.U if reference else c.I / c.U
            passed.append(running)
        own_intersection, own_union = sum(c.I for c in positives), sum(c.U for c in positives)
        intersection, union = intersection + own_intersection, union + own_union
        mious.append(mean([c.I / c.U for c in positives]))
        rs.append(mean([not c.P for c in negatives]))
        rious.append(divide(own_intersection, own_union + sum(len(c.P) for c in negatives)))
    if not reference:
        mious, rs, rious = ([value for value in values if not math.isnan(value)] for values in (mious, rs, rious))
    return {
        "mIoU": mean(mious),
        "oIoU": divide(intersection, union),
        "mRR": mean(rs),
        "rIoU": mean(rious),
        **{f"P@{t}": mean([iou >= t for iou in passed]) for t in (0.5, 0.6, 0.7, 0.8, 0.9)},
    }


def sesame(cases: list[Case]) -> dict[str, float]:
    return {"See accuracy": mean([bool(c.G) == c.exists for c in cases]), "cIoU": lisa(cases)["cIoU"]}


def riscq(cases: list[Case]) -> dict[str, float]:
    ious = [c.I / c.U for c in cases if c.G]
    return {
        "mIoU": mean(ious),
        **{f"P@{t}": mean([iou > t for iou in ious]) for t in (0.3, 0.4, 0.5, 0.6, 0.7)},
        "accuracy": mean([bool(c.G) == c.exists for c in cases]),
    }


def rnr(cases: list[Case]) -> dict[str, float]:
    cases = [c for c in cases if c.G]
    ranks = []
    for c in cases:
        where = [divmod(pixel, 4) for pixel in c.P]
        y, x = mean([p[0] for p in where]), mean([p[1] for p in where])
        away = {pixel: round((pixel // 4 - y) ** 2 + (pixel % 4 - x) ** 2, 6) for pixel in c.P}
        hits = [away[pixel] for pixel in c.P & c.G]
        ranks.append(1 + sum(distance < min(hits) for distance in away.values()) if hits else math.inf)
    return {
        "pointing-game accuracy": mean([rank == 1 for rank in ranks]),
        **{f"recall@{k}": mean([rank <= k for rank in ranks]) for k in (10, 100, 1000)},
        "IoU": divide(sum(c.I for c in cases), sum(c.U for c in cases)),
    }


def balanced(cases: list[Case], decide: Callable[[Case], bool]) -> float:
    sides = [[c for c in cases if bool(c.G) == kind] for kind in (True, False)]
    return mean([mean([decide(c) == bool(c.G) for c in side]) for side in sides if side])


def calibration(cases: list[Case]) -> dict[str, float]:
    positives, negatives = [c.score for c in cases if c.G], [c.score for c in cases if not c.G]
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives]
    gaps = []
    for b in range(10):
        inside = [c for c in cases if min(int(c.score * 10), 9) == b]
        gaps.append(abs(sum(bool(c.G) - c.score for c in inside)))
    confidence = [c.score if c.exists else 1 - c.score for c in cases]
    # Risk when all that are as sure as this one are answered: averaged over samples, that is the area.
    risks = []
    for own in confidence:
        answered = [c for c, other in zip(cases, confidence, strict=True) if other >= own]
        risks.append(mean([c.exists != bool(c.G) for c in answered]))
    scores = sorted({c.score for c in cases})
    thresholds = [
        scores[0],
        *[(a + b) / 2 for a, b in itertools.pairwise(scores)],
        math.nextafter(scores[-1], 2),
    ]
    accuracies = [balanced(cases, lambda c, t=t: c.score >= t) for t in thresholds]  # type: ignore[misc]
    best = max(accuracies)
    near = [t for t, a in zip(thresholds, accuracies, strict=True) if a == pytest.approx(best)]
    return {
        "balanced_accuracy": balanced(cases, lambda c: c.exists),
        "AUROC": mean(wins),
        "ECE": sum(gaps) / len(cases),
        "AURC": mean(risks),
        "best_threshold": min(near, key=lambda t: abs(t - 0.5)),
        "best_balanced_accuracy": best,
    }


DEFINITIONS: dict[str, Callable[[list[Case]], dict[str, float]]] = {
    "classic": classic,
    "lisa": lisa,
    "gres": lambda cases: generalised(cases, keep_hidden=False),
    "gsva": lambda cases: generalised(cases, keep_hidden=True),
    "rris": lambda cases: rris(cases, reference=False),
    "rris-reference": lambda cases: rris(cases, reference=True),
    "sesame": sesame,
    "riscq": riscq,
    "rnr": rnr,
    "calibration": calibration,
}


def test_every_scorer_has_a_second_implementation() -> None:
    assert list(DEFINITIONS) == list(SCORERS)


@pytest.mark.parametrize("name", list(SCORERS))
@settings(max_examples=60, deadline=None)
@given(cases=st.lists(cases, min_size=1, max_size=12))
def test_definition(name: str, cases: list[Case]) -> None:
    numbers = score_all(SCORERS.get(name)(), [sample(case, index) for index, case in enumerate(cases)])
    assert numbers == pytest.approx(DEFINITIONS[name](cases), nan_ok=True, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", list(SCORERS))
@settings(max_examples=25, deadline=None)
@given(cases=st.lists(cases, min_size=1, max_size=12), shards=st.integers(1, 4), seed=st.integers(0, 99))
def test_shards_in_any_order_give_the_same_bits(name: str, cases: list[Case], shards: int, seed: int) -> None:
    samples = [sample(case, index) for index, case in enumerate(cases)]
    whole = SCORERS.get(name)()
    score_all(whole, samples)
    shuffled = [samples[i] for i in np.random.default_rng(seed).permutation(len(samples))]
    merged = SCORERS.get(name)()
    for shard in range(shards):
        part = SCORERS.get(name)()
        score_all(part, shuffled[shard::shards])
        merged.merge(part)
    # As text: NaN equals itself there, and every bit of a float is shown.
    assert repr(merged.compute()) == repr(whole.compute())
    assert repr(merged.intervals(repeats=4)) == repr(whole.intervals(repeats=4))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=9))
def test_risk_falls_or_rises_to_the_mean_loss(answers: list[tuple[float, float]]) -> None:
    confidence, losses = np.array(answers).T
    curve = risk_coverage(confidence, losses)
    assert curve.coverage[-1] == 1
    assert curve.risk[-1] == pytest.approx(losses.mean())
    assert (np.diff(curve.coverage) > 0).all()
    assert len(curve.coverage) == len(set(confidence.tolist()))
    assert losses.min() - 1e-12 <= curve.area <= losses.max() + 1e-12
