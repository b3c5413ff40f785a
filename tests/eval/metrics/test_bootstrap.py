"""Intervals: seeded, over images, the same on the fast way and on the general one."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from mllmseg.eval.metrics import SCORERS, Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.bootstrap import bootstrap, draw_images, image_numbers, percentile_interval


def test_bootstrap_is_seeded_and_resamples_images() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0, 0.5, 0.5] * 5)
    images = [i // 2 for i in range(30)]

    def mean(indices: np.ndarray) -> float:
        return float(values[indices].mean())

    interval = bootstrap(images, mean, seed=1)
    assert interval == bootstrap(images, mean, seed=1)
    assert interval.value == 0.5
    assert interval.low < 0.5 < interval.high
    # Two equal sentences an image tell no more than one: pretending they were 30 images is too narrow.
    alone = bootstrap(list(range(30)), mean, seed=1)
    assert interval.high - interval.low > 1.2 * (alone.high - alone.low)
    assert bootstrap([], mean).count == 0
    assert str(bootstrap([], mean)) == "none"


def test_draws_have_all_images_and_repeats() -> None:
    drawn = np.concatenate(list(draw_images(7, repeats=120, seed=3)))
    assert drawn.shape == (120, 7)
    assert (drawn.sum(1) == 7).all()
    np.testing.assert_array_equal(drawn, np.concatenate(list(draw_images(7, repeats=120, seed=3))))


def test_images_are_numbered_by_name_not_by_order() -> None:
    assert image_numbers(["b", "a", "b", "c"])[1].tolist() == [1, 0, 1, 2]
    assert image_numbers(["c", "b", "a"])[1].tolist() == [2, 1, 0]


def test_undefined_resamplings_are_left_out() -> None:
    interval = percentile_interval(0.5, np.array([0.4, math.nan, 0.6]), 3)
    assert (interval.low, interval.high) == pytest.approx((0.405, 0.595))
    assert math.isnan(percentile_interval(math.nan, np.array([0.4]), 3).low)
    assert math.isnan(percentile_interval(0.5, np.array([math.nan]), 3).low)


@pytest.mark.parametrize("name", list(SCORERS))
def test_the_fast_way_is_the_general_way(name: str) -> None:
    rng = np.random.default_rng(5)
    samples = []
    for index in range(40):
        prediction, target = rng.random((2, 4, 4)) < rng.choice([0, 0.3, 0.7], (2, 1, 1))
        samples.append(
            Sample.from_masks(
                prediction,
                target,
                exists=bool(rng.random() < 0.7),
                score=round(float(rng.random()), 1),
                image=f"{index // 4}.jpg",
                ref=f"{index // 2}",
                index=index,
            )
        )
    scorer = SCORERS.get(name)()
    score_all(scorer, samples)
    fast = scorer.intervals(repeats=30, seed=2)
    for figure in scorer.figures:

        def statistic(indices: np.ndarray, figure: str = figure) -> float:
            seen: Counter[int] = Counter()
            drawn = []
            for i in indices.tolist():  # an image drawn twice has two referents where it had one
                seen[i] += 1
                drawn.append(dataclasses.replace(samples[i], ref=f"{samples[i].ref}#{seen[i]}"))
            return score_all(SCORERS.get(name)(), drawn)[figure]

        slow = bootstrap([sample.image for sample in samples], statistic, repeats=30, seed=2)
        expected = (slow.value, slow.low, slow.high)
        assert (fast[figure].value, fast[figure].low, fast[figure].high) == pytest.approx(expected, nan_ok=True)


def test_intervals_count_what_a_figure_rests_on(cases: dict[str, Sample]) -> None:
    scorer = SCORERS.get("gres")()
    score_all(scorer, cases.values())
    intervals = scorer.intervals(repeats=20)
    assert intervals["gIoU"].count == 10
    assert intervals["N-acc"].count == 4
    assert intervals["T-acc"].count == 6
    assert intervals["gIoU"].low <= intervals["gIoU"].value <= intervals["gIoU"].high
