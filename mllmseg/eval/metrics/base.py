"""What every scorer sees and does, and how sure its numbers are.

P prediction, G ground truth: bool masks at the image's own size; I = |P∧G|, U = |P∨G|, in pixels, kept as integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from mllmseg.constants import IGNORE_LABEL
from mllmseg.errors import AlignmentError

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Sample:
    """One query, reduced to what scorers count.

    Attributes:
        image: which image: the unit of resampling.
        has_target: something in the image fits the sentence.
        exists: the model's decision that something does.
        score: its probability for that, 0..1.
        intersection: I, pixels.
        union: U, pixels.
        predicted: |P|, pixels.
    """

    image: int
    has_target: bool
    exists: bool
    score: float
    intersection: int
    union: int
    predicted: int

    @classmethod
    def from_masks(
        cls,
        prediction: npt.NDArray[np.bool_],
        target: npt.NDArray[np.bool_] | npt.NDArray[np.uint8],
        *,
        image: int = 0,
        exists: bool,
        score: float = 0.0,
        has_target: bool | None = None,
    ) -> Self:
        """Counts pixels.

        Args:
            prediction: `[H, W]` bool.
            target: `[H, W]` bool, or uint8 with 255 where the label is void; void pixels count nowhere.
            image: which image.
            exists: the decision.
            score: P(the target exists).
            has_target: None: whether `target` has any pixel.

        Raises:
            AlignmentError: the two masks differ in size.
        """
        if prediction.shape != target.shape:
            raise AlignmentError(f"image {image}: predicted mask {prediction.shape}, target mask {target.shape}")
        void = target == IGNORE_LABEL if target.dtype != np.bool_ else np.zeros(target.shape, dtype=bool)
        wanted, found = (target != 0) & ~void, prediction & ~void
        return cls(
            image=image,
            has_target=bool(wanted.any()) if has_target is None else has_target,
            exists=exists,
            score=score,
            intersection=int((wanted & found).sum()),
            union=int((wanted | found).sum()),
            predicted=int(found.sum()),
        )


class Metric(Protocol):
    """A scorer that is fed sample by sample and whose shards can be added: sharded equals unsharded."""

    def update(self, sample: Sample) -> None:
        """Counts one sample."""

    def compute(self) -> dict[str, float]:
        """The numbers so far, fractions in 0..1; NaN where there is nothing to divide by."""

    def merge(self, other: Self) -> None:
        """Adds another shard's counts."""

    def reset(self) -> None:
        """Forgets everything."""


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % confidence interval over images."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.count == 0:
            return "none"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.count})"


def bootstrap(
    images: Sequence[int], statistic: Callable[[Indices], float], *, repeats: int = 1000, seed: int = 0
) -> Interval:
    """Resamples whole images with replacement, because sentences about one image are not independent.

    Args:
        images: the image of each sample.
        statistic: from sample indices (with repeats) to a number; NaN where it is undefined, which is left out.
        repeats: how many resamplings.
        seed: makes the interval reproducible.
    """
    count = len(images)
    if count == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    _, owner = np.unique(np.asarray(images), return_inverse=True)
    members = [np.flatnonzero(owner == index) for index in range(int(owner.max()) + 1)]
    rng = np.random.default_rng(seed)
    values = np.empty(repeats)
    for repeat in range(repeats):
        drawn = rng.integers(len(members), size=len(members))
        values[repeat] = statistic(np.concatenate([members[index] for index in drawn]))
    value = statistic(np.arange(count))
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (float("nan"), float("nan"))
    return Interval(float(value), float(low), float(high), count)


def score_all(metric: Metric, samples: Iterable[Sample]) -> dict[str, float]:
    """Feeds all samples to a fresh metric and returns its numbers."""
    metric.reset()
    for sample in samples:
        metric.update(sample)
    return metric.compute()


def ratio(numerator: float, denominator: float) -> float:
    """A fraction, or NaN where there is nothing to divide by."""
    return numerator / denominator if denominator else float("nan")
