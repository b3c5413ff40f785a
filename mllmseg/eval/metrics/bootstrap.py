"""How sure a number is: 95 % intervals from resampling whole images.

Sentences about one image are not independent, so images are drawn, with replacement, and bring all their samples.
"""

# R repeats, M images, N samples

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Array = npt.NDArray[np.float64]

REPEATS = 1000
CHUNK = 50  # repeats counted at once: 50,000 images take 20 MB


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % confidence interval over images.

    Attributes:
        value: the number; NaN where nothing defines it.
        low: 2.5th percentile of the resamplings.
        high: 97.5th.
        count: how many samples the number rests on.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.count == 0:
            return "none"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.count})"


NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def image_numbers(images: Sequence[Hashable]) -> tuple[int, Indices]:
    """How many images there are, and for each sample the number of its own `[N]`.

    Numbers follow the images' names, not the order of samples, so that shards in any order resample alike.
    """
    numbers = {image: number for number, image in enumerate(sorted(set(images), key=str))}
    return len(numbers), np.array([numbers[image] for image in images], dtype=np.intp)


def draw_images(num_images: int, *, repeats: int = REPEATS, seed: int = 0) -> Iterator[Array]:
    """Batches `[r, M]` of how often each image was drawn, R rows in all; the same for the same number of images."""
    rng = np.random.default_rng(seed)
    for start in range(0, repeats, CHUNK):
        rows = min(CHUNK, repeats - start)
        counts = np.empty((rows, num_images))
        for row in range(rows):
            counts[row] = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        yield counts


def percentile_interval(value: float, replicates: Array, count: int) -> Interval:
    """The interval that the replicates `[R]` of a number span; undefined ones (NaN) are left out."""
    known = replicates[~np.isnan(replicates)]
    if math.isnan(value) or not len(known):
        return Interval(float(value), math.nan, math.nan, count)
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(float(value), float(low), float(high), count)


def bootstrap(
    images: Sequence[Hashable], statistic: Callable[[Indices], float], *, repeats: int = REPEATS, seed: int = 0
) -> Interval:
    """The interval of any statistic at all; `Scorer.intervals` is much faster where a number is a ratio of sums.

    Args:
        images: the image of each sample.
        statistic: from sample indices (with repeats) to a number; NaN where it is undefined, which is left out.
        repeats: how many resamplings.
        seed: makes the interval reproducible.
    """
    count = len(images)
    if count == 0:
        return NOTHING
    num_images, owner = image_numbers(images)
    values = [
        statistic(np.repeat(np.arange(count), drawn[owner].astype(np.intp)))
        for counts in draw_images(num_images, repeats=repeats, seed=seed)
        for drawn in counts
    ]
    return percentile_interval(statistic(np.arange(count)), np.array(values), count)
