"""What an evaluated model gives for one query, and the segmenter seen that way.

H W the image's own size, h w SAM's low-res grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mllmseg.data.datasets.coco_mini import Expression, Photo
from mllmseg.structures import ImageFeatures

if TYPE_CHECKING:
    from mllmseg.inference.segmenter import Segmenter


@dataclass(frozen=True)
class Prediction:
    """The model's word on one query.

    Attributes:
        exists: its decision.
        score: P(the target exists).
        mask: `[H, W]` bool; where `exists` is false, what it would have painted (it counts only as "forced").
        answer: in words.
        mask_scores: SAM's own estimate of each mask's IoU.
        num_visual_tokens: visual tokens read.
        timings: milliseconds by stage, where known.
        label_map: `[h, w]` superpixels, for the baseline that always answers with the largest.
    """

    exists: bool
    score: float
    mask: npt.NDArray[np.bool_]
    answer: str
    mask_scores: tuple[float, ...] = ()
    num_visual_tokens: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    label_map: npt.NDArray[Any] | None = None


Predictor = Callable[[Photo, Sequence[Expression]], Sequence[Prediction]]


class SegmenterPredictor:
    """A `Segmenter` as a predictor: encodes each image once, asks for all masks, decides by `threshold`."""

    def __init__(
        self,
        segmenter: Segmenter,
        threshold: float | None = None,
        features: Callable[[Photo], ImageFeatures] | None = None,
    ) -> None:
        """`threshold`: of P(the target exists), None for the segmenter's own; `features`: where they are cached."""
        self.segmenter = segmenter
        self.features = features
        self.threshold = segmenter.threshold if threshold is None else threshold

    def __call__(self, photo: Photo, expressions: Sequence[Expression]) -> list[Prediction]:
        """One prediction for each sentence, in order."""
        from mllmseg.inference.answers import compose_answer

        if self.features is None:
            self.segmenter.set_image(photo.path)
        else:
            self.segmenter.set_features(self.features(photo))
        predictions = []
        # At threshold 0 every query gets its mask, so that a rejection's cost can be told from a bad mask's.
        for found in self.segmenter.segment([item.text for item in expressions], threshold=0.0):
            exists = found.score >= self.threshold
            predictions.append(
                Prediction(
                    exists=exists,
                    score=found.score,
                    mask=found.union.cpu().numpy(),
                    answer=compose_answer(found.query, exists=exists),
                    mask_scores=tuple(float(score) for score in found.mask_scores),
                    num_visual_tokens=found.num_visual_tokens,
                    timings=found.timings,
                    label_map=found.superpixels.label_map.cpu().numpy(),
                )
            )
        return predictions
