"""The order of samples: shares, epochs, and that nothing but a sample's number decides."""

from __future__ import annotations

from collections import Counter

import pytest

from mllmseg.data.mixture import Mixture, Place, interleave
from mllmseg.errors import ConfigError


@pytest.mark.parametrize(
    ("weights", "cycle"),
    [([1], [0]), ([1, 1], [0, 1]), ([3, 1], [0, 0, 1, 0]), ([0.5, 0.25, 0.25], [0, 1, 2, 0]), ([7, 7], [0, 1])],
)
def test_sources_take_turns(weights: list[float], cycle: list[int]) -> None:
    assert interleave(weights) == cycle


@pytest.mark.parametrize("weights", [[9, 3, 3, 1], [0.5, 0.3, 0.2], [1, 0.001], [2.5, 1, 1, 1]])
def test_weights_hold_at_any_moment_and_exactly_over_cycles(weights: list[float]) -> None:
    mixture = Mixture([5, 7, 11, 13][: len(weights)], weights, key="k")
    length = len(interleave(weights))
    seen = Counter(mixture.place(number).source for number in range(3 * length))
    assert [seen[source] / (3 * length) for source in range(len(weights))] == pytest.approx(
        [weight / sum(weights) for weight in weights], rel=1e-12
    )
    counts = [0] * len(weights)
    for number in range(min(length, 2000)):
        counts[mixture.place(number).source] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - (number + 1) * weight / sum(weights)) < len(weights)


def test_no_image_is_lost_or_repeated_within_an_epoch() -> None:
    mixture = Mixture([10, 4], [3, 1], key="0 instruct")
    places = [mixture.place(number) for number in range(400)]
    epochs: dict[tuple[int, int], list[int]] = {}
    for place in places:
        epochs.setdefault((place.source, place.epoch), []).append(place.index)
    assert len(epochs) == 30 + 25
    for (source, _), indices in epochs.items():
        assert sorted(indices) == list(range((10, 4)[source]))
    assert len({tuple(indices) for (source, _), indices in epochs.items() if source == 0}) == 30, "orders of their own"


def test_the_order_is_that_of_one_process_whatever_share_each_reads() -> None:
    """As after a resume at another world size: 2 processes, then 1, then 3, with batches of 6."""
    whole = [Mixture([10, 4, 7], [3, 1, 2.5], key="k").place(number) for number in range(60)]
    found: list[Place] = []
    first = 0
    for processes, steps in ((2, 4), (1, 3), (3, 3)):
        readers = [Mixture([10, 4, 7], [3, 1, 2.5], key="k") for _ in range(processes)]  # nothing is shared
        for step in range(first, first + steps):
            numbers = range(6 * step, 6 * step + 6)
            shares = [[reader.place(n) for n in numbers[rank::processes]] for rank, reader in enumerate(readers)]
            found += [shares[k % processes][k // processes] for k in range(6)]
        first += steps
    assert found == whole


def test_another_key_is_another_order() -> None:
    def order(key: str) -> list[int]:
        return [Mixture([50], [1], key=key).place(number).index for number in range(50)]

    assert order("0 align") == order("0 align")
    assert order("0 align") != order("1 align")
    assert order("0 align") != order("0 instruct")


def test_a_sample_far_away_is_found_at_once() -> None:
    mixture = Mixture([1_000, 3], [1, 2], key="k")
    assert mixture.place(10**12).epoch > 10**8
    assert mixture.place(10**12) == Mixture([1_000, 3], [1, 2], key="k").place(10**12)


def test_the_next_of_the_epoch_stands_in() -> None:
    mixture = Mixture([5], [1], key="k")
    order = [mixture.place(number).index for number in range(5)]
    assert [mixture.place(3, attempt).index for attempt in range(5)] == [*order[3:], *order[:3]]


@pytest.mark.parametrize(
    ("weights", "problem"),
    [([1, 0], "above zero"), ([1, float("nan")], "above zero"), ([1, 0.1234567], "too many digits")],
)
def test_weights_that_cannot_be_kept(weights: list[float], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        interleave(weights)
