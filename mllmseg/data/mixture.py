"""Which image the n-th sample of a stage is: a function of n alone.

Nothing is remembered from sample to sample, so a run goes on at any number, with any number of processes and workers,
and reads what the undisturbed run would have read. Sources take turns in a fixed cycle in which each has exactly its
share, spread as evenly as whole numbers allow; each source goes through its images in epochs, every one once an epoch
and in an order of its own.
"""

from __future__ import annotations

import array
import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from mllmseg.errors import ConfigError

MAX_CYCLE = 100_000


@dataclass(frozen=True)
class Place:
    """Where a sample lies.

    Attributes:
        source: which source.
        epoch: how often that source was gone through before.
        index: which of its images.
    """

    source: int
    epoch: int
    index: int


class Mixture:
    """Sources with weights, as one endless sequence."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], *, key: str) -> None:
        """Lays out a cycle.

        Args:
            sizes: how many images each source has, none zero.
            weights: how often each is drawn, relative to the others, as decimal fractions.
            key: what the order within epochs follows from, such as seed and stage.

        Raises:
            ConfigError: a weight is not above zero, or the weights have too many digits for a cycle.
        """
        self.sizes = tuple(sizes)
        self.key = key
        self._cycle = interleave(weights)
        self._share = [self._cycle.count(source) for source in range(len(self.sizes))]
        before = [0] * len(self.sizes)
        self._before = array.array("q")  # how often the source of each turn had its turn in this cycle already
        for source in self._cycle:
            self._before.append(before[source])
            before[source] += 1

    def place(self, number: int, attempt: int = 0) -> Place:
        """Where sample `number` lies; `attempt`: so many images were tried in vain and the next of the epoch is due."""
        cycle, turn = divmod(number, len(self._cycle))
        source = self._cycle[turn]
        drawn = cycle * self._share[source] + self._before[turn]
        epoch, position = divmod(drawn, self.sizes[source])
        order = _order(f"{self.key} {source} {epoch}", self.sizes[source])
        return Place(source, epoch, order[(position + attempt) % self.sizes[source]])


def interleave(weights: Sequence[float]) -> list[int]:
    """A cycle of sources in which each comes as often as its weight says, evenly spread (smooth round robin).

    Raises:
        ConfigError: a weight is not above zero, or the cycle would be longer than `MAX_CYCLE`.
    """
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ConfigError(f"data.sources: weights {list(weights)} must all be above zero; leave a source out instead")
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(item.denominator for item in exact))
    whole = [int(item * scale) for item in exact]
    divisor = math.gcd(*whole)
    turns = [item // divisor for item in whole]
    if sum(turns) > MAX_CYCLE:
        raise ConfigError(f"data.sources: weights {list(weights)} have too many digits; three are enough")
    cycle, credit = [], [0] * len(turns)
    for _ in range(sum(turns)):
        credit = [have + more for have, more in zip(credit, turns, strict=True)]
        source = max(range(len(turns)), key=credit.__getitem__)
        credit[source] -= sum(turns)
        cycle.append(source)
    return cycle


@functools.lru_cache(maxsize=64)
def _order(key: str, size: int) -> array.array[int]:
    """An epoch's order. Kept for as long as it is likely to be asked for: shuffling costs, drawing does not."""
    order = array.array("q", range(size))
    random.Random(key).shuffle(order)
    return order
