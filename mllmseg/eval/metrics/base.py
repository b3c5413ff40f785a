"""What every scorer sees and does.

P prediction, G ground truth: bool masks at the image's own size; I = |P∧G|, U = |P∨G|, in pixels, kept as integers.
Where a prediction's decision is that nothing fits, P is empty, whatever mask was handed in with it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from mllmseg.constants import IGNORE_LABEL
from mllmseg.errors import AlignmentError
from mllmseg.eval.metrics.bootstrap import REPEATS, Array, Interval, draw_images, image_numbers, percentile_interval
from mllmseg.eval.metrics.points import first_hit


@dataclass(frozen=True, slots=True)
class Sample:
    """One query, reduced to what scorers count.

    Attributes:
        image: which image: the unit of resampling.
        has_target: something in the image fits the sentence.
        exists: the model's decision that something does.
        score: its probability for that, 0..1.
        intersection: I, pixels; 0 where `exists` is false.
        union: U, pixels; |G| where `exists` is false.
        predicted: |P|, pixels; 0 where `exists` is false.
        ref: sentences of one referent share it; empty: all of an image's sentences do.
        index: the query's place in its dataset, for the scorer that depends on the order of sentences.
        forced: (I, U) of the mask before the decision, where known: what a false rejection hides.
        hit: the rank of the first pixel of P that lies in G, see `first_hit`; 0 for none, None where not known.

    Raises:
        AlignmentError: `exists` is false and there are predicted pixels.
    """

    image: int | str
    has_target: bool
    exists: bool
    score: float
    intersection: int
    union: int
    predicted: int
    ref: str = ""
    index: int = 0
    forced: tuple[int, int] | None = None
    hit: int | None = None

    def __post_init__(self) -> None:
        if not self.exists and (self.intersection or self.predicted):
            raise AlignmentError(
                f"image {self.image}: rejected, but {self.predicted} pixels predicted: a rejection's mask is empty"
            )

    @property
    def target(self) -> int:
        """|G|, pixels."""
        return self.union - self.predicted + self.intersection

    @property
    def iou(self) -> float:
        """I/U, and 0 where both masks are empty: scorers that reward an empty prediction say so themselves."""
        return self.intersection / self.union if self.union else 0.0

    def rejected(self) -> Self:
        """The same answer, had its decision been that nothing fits."""
        if not self.exists:
            return self
        hidden = (self.intersection, self.union)
        return replace(self, exists=False, intersection=0, union=self.target, predicted=0, forced=hidden, hit=0)

    @classmethod
    def from_masks(
        cls,
        prediction: npt.NDArray[np.bool_],
        target: npt.NDArray[np.bool_] | npt.NDArray[np.uint8],
        *,
        exists: bool,
        image: int | str = 0,
        score: float = 0.0,
        has_target: bool | None = None,
        ref: str = "",
        index: int = 0,
    ) -> Self:
        """Counts pixels.

        Args:
            prediction: `[H, W]` bool; the mask before the decision where the model gives one although it rejects.
            target: `[H, W]` bool, or uint8 with 255 where the label is void; void pixels count nowhere.
            exists: the decision.
            image: which image.
            score: P(the target exists).
            has_target: None: whether `target` has any pixel.
            ref: which referent.
            index: the query's place in its dataset.

        Raises:
            AlignmentError: the two masks differ in size.
        """
        if prediction.shape != target.shape:
            raise AlignmentError(f"image {image}: predicted mask {prediction.shape}, target mask {target.shape}")
        void = target == IGNORE_LABEL if target.dtype != np.bool_ else np.zeros(target.shape, dtype=bool)
        wanted, found = (target != 0) & ~void, prediction & ~void
        intersection, union, painted = (int(part.sum()) for part in (wanted & found, wanted | found, found))
        forced = (intersection, union) if exists or painted else None
        if not exists:
            intersection, union, painted = 0, int(wanted.sum()), 0
        return cls(
            image=image,
            has_target=bool(wanted.any()) if has_target is None else has_target,
            exists=exists,
            score=score,
            intersection=intersection,
            union=union,
            predicted=painted,
            ref=ref,
            index=index,
            forced=forced,
            hit=first_hit(found, wanted) if exists else 0,
        )


Term = tuple[float, float]  # what one unit adds to a figure's numerator and denominator
Unit = tuple[int | str, Mapping[str, Term]]  # an image, and what one of its samples (or refs) adds


class Scorer(ABC):
    """Fed sample by sample; shards can be added, and sharded equals unsharded bit for bit.

    A figure is Σ numerators / Σ denominators over units (samples, where a scorer does not say otherwise), so one
    definition gives the number, and per image the sums that its interval is resampled from. Sums of integers are exact;
    sums of fractions are rounded once (`math.fsum`), so that no order of shards changes a bit.

    Attributes:
        name: in `SCORERS` and on the command line.
        version: changes when the same predictions would get other numbers.
        figures: the names of its numbers, in their order.
        source: where its definition comes from.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    figures: ClassVar[tuple[str, ...]]
    source: ClassVar[str]

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    @abstractmethod
    def terms(self, sample: Sample) -> Mapping[str, Term]:
        """What one sample adds to each figure it counts for."""

    def units(self) -> Iterator[Unit]:
        """All terms, with the image each belongs to."""
        return ((sample.image, self.terms(sample)) for sample in self._samples)

    def update(self, sample: Sample) -> None:
        """Counts one sample."""
        self._samples.append(sample)

    def merge(self, other: Self) -> None:
        """Adds another shard's samples."""
        self._samples += other._samples

    def reset(self) -> None:
        """Forgets everything."""
        self._samples.clear()

    def compute(self) -> dict[str, float]:
        """The numbers so far, fractions in 0..1; NaN where there is nothing to divide by."""
        terms: dict[str, list[Term]] = {figure: [] for figure in self.figures}
        for _, unit in self.units():
            for figure, term in unit.items():
                terms[figure].append(term)
        return {figure: ratio(*_total(pairs)) for figure, pairs in terms.items()}

    def counts(self) -> dict[str, int]:
        """How many samples (or refs) each figure rests on: those that add to its denominator."""
        found = dict.fromkeys(self.figures, 0)
        for _, unit in self.units():
            for figure, (_, denominator) in unit.items():
                found[figure] += denominator != 0
        return found

    def replicates(self, *, repeats: int = REPEATS, seed: int = 0) -> Array:
        """The figures `[R, F]` of resampled images; two scorers over the same images draw the same ones."""
        units = list(self.units())
        if not units:
            return np.full((repeats, len(self.figures)), math.nan)
        num_images, owner = image_numbers([image for image, _ in units])
        sums = [_sums_by_image([unit.get(f, (0, 0)) for _, unit in units], owner, num_images) for f in self.figures]
        numerators, denominators = np.stack(sums, axis=2)  # each [M, F]
        batches = []
        with np.errstate(invalid="ignore", divide="ignore"):
            for drawn in draw_images(num_images, repeats=repeats, seed=seed):
                below = drawn @ denominators
                batches.append(np.where(below != 0, (drawn @ numerators) / below, math.nan))
        return np.concatenate(batches)

    def intervals(self, *, repeats: int = REPEATS, seed: int = 0) -> dict[str, Interval]:
        """The numbers so far with their 95 % intervals over images."""
        values, counts = self.compute(), self.counts()
        replicates = self.replicates(repeats=repeats, seed=seed)
        return {
            figure: percentile_interval(values[figure], replicates[:, column], counts[figure])
            for column, figure in enumerate(self.figures)
        }


def score_all(scorer: Scorer, samples: Iterable[Sample]) -> dict[str, float]:
    """Feeds all samples to a fresh scorer and returns its numbers."""
    scorer.reset()
    for sample in samples:
        scorer.update(sample)
    return scorer.compute()


def ratio(numerator: float, denominator: float) -> float:
    """A fraction, or NaN where there is nothing to divide by."""
    return numerator / denominator if denominator else float("nan")


def share(counts: bool) -> Term:
    """The term of a figure that says how often something is the case."""
    return int(counts), 1


def precision_terms(
    iou: float, thresholds: Sequence[float], *, name: str = "Pr", strict: bool = False
) -> dict[str, Term]:
    """`Pr@0.5` and the like: whether one IoU reaches (or with `strict` exceeds) each threshold."""
    return {f"{name}@{t}": share(iou > t if strict else iou >= t) for t in thresholds}


def precision_names(thresholds: Sequence[float], *, name: str = "Pr") -> tuple[str, ...]:
    """The names `precision_terms` uses."""
    return tuple(f"{name}@{threshold}" for threshold in thresholds)


def _total(terms: Sequence[Term]) -> Term:
    numerators, denominators = [pair[0] for pair in terms], [pair[1] for pair in terms]
    return math.fsum(numerators), math.fsum(denominators)  # of integers below 2^53: exact


def _sums_by_image(terms: Sequence[Term], owner: npt.NDArray[np.intp], num_images: int) -> Array:
    """`[2, M]`: numerators and denominators per image, rounded once each."""
    groups: list[tuple[list[float], list[float]]] = [([], []) for _ in range(num_images)]
    for number, (numerator, denominator) in zip(owner, terms, strict=True):
        groups[number][0].append(numerator)
        groups[number][1].append(denominator)
    return np.array([[math.fsum(parts) for parts in group] for group in groups]).T
