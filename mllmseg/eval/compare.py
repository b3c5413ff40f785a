"""Two models on the same queries: is one really better, or is it the choice of images?"""

# R repeats, F figures

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mllmseg.errors import DataError
from mllmseg.eval.metrics import SCORERS, Sample
from mllmseg.eval.metrics.bootstrap import REPEATS, Interval, percentile_interval


@dataclass(frozen=True)
class Difference:
    """One figure of one scorer, before and after.

    Attributes:
        scorer: which.
        figure: of that scorer.
        first: over the paired queries.
        second: likewise.
        change: second − first, resampled over images with both models on the same draws.
    """

    scorer: str
    figure: str
    first: float
    second: float
    change: Interval

    @property
    def clear(self) -> bool:
        """The interval excludes zero."""
        return self.change.low > 0 or self.change.high < 0


@dataclass(frozen=True)
class Comparison:
    """All differences of two runs.

    Attributes:
        names: of the first and of the second.
        queries: how many both answered.
        images: how many those are about.
        unpaired: how many only the first, and only the second answered; they count nowhere.
        differences: in the scorers' and figures' order.
    """

    names: tuple[str, str]
    queries: int
    images: int
    unpaired: tuple[int, int]
    differences: tuple[Difference, ...]


def compare(
    first: Mapping[str, Sample],
    second: Mapping[str, Sample],
    *,
    scorers: Iterable[str] = SCORERS,
    names: tuple[str, str] = ("A", "B"),
    repeats: int = REPEATS,
    seed: int = 0,
) -> Comparison:
    """Pairs the samples of two runs by query id and compares them.

    Args:
        first: query id → sample.
        second: likewise, of another model on the same data.
        scorers: names in `SCORERS`.
        names: what to call the two.
        repeats: how many resamplings.
        seed: makes the intervals reproducible.

    Raises:
        DataError: no query in common, or one id with two different targets.
        ConfigError: an unknown scorer.
    """
    ids = [key for key in first if key in second]
    if not ids:
        examples = " and ".join(f"'{next(iter(samples), '')}'" for samples in (first, second))
        raise DataError(f"{names[0]} and {names[1]} have no query id in common (such as {examples}): other datasets?")
    for key in ids:
        _check_same_truth(key, first[key], second[key], names)
    differences: list[Difference] = []
    for name in scorers:
        differences += _differences(name, [first[key] for key in ids], [second[key] for key in ids], repeats, seed)
    return Comparison(
        names=names,
        queries=len(ids),
        images=len({first[key].image for key in ids}),
        unpaired=(len(first) - len(ids), len(second) - len(ids)),
        differences=tuple(differences),
    )


def _differences(
    name: str, first: Iterable[Sample], second: Iterable[Sample], repeats: int, seed: int
) -> list[Difference]:
    scorers = [SCORERS.get(name)() for _ in range(2)]
    for scorer, samples in zip(scorers, (first, second), strict=True):
        for sample in samples:
            scorer.update(sample)
    before, after = (scorer.compute() for scorer in scorers)
    # The same images and the same seed: row for row, both were drawn the same images.
    changes = scorers[1].replicates(repeats=repeats, seed=seed) - scorers[0].replicates(repeats=repeats, seed=seed)
    counts = scorers[0].counts()
    return [
        Difference(
            scorer=name,
            figure=figure,
            first=before[figure],
            second=after[figure],
            change=percentile_interval(after[figure] - before[figure], changes[:, column], counts[figure]),
        )
        for column, figure in enumerate(scorers[0].figures)
    ]


def _check_same_truth(key: str, first: Sample, second: Sample, names: tuple[str, str]) -> None:
    for what, one, other in (
        ("image", first.image, second.image),
        ("has_target", first.has_target, second.has_target),
        ("target area", first.target, second.target),
    ):
        if one != other:
            raise DataError(
                f"query {key}: {what} is {one} in {names[0]} and {other} in {names[1]}: scored against different data"
            )
