"""How sentences about one image are asked and what comes back, in three modes.

- `scored`: the calibrated P(the target exists) decides, no words are generated.
- `free`: the language model writes its answer and with it says [SEG], [REJ], or neither, which rejects.
- `teacher`: [SEG] is placed in the answer whatever the model would decide, so that something always exists.

H W the image's own size.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.postprocess import encode_rle, mask_boxes
from mllmseg.structures import ImageFeatures, Segmentation

Mode = Literal["scored", "free", "teacher"]
# So many sentences share a call: what is held in memory does not grow with the sentences about one image. A fixed
# number, because which sentences share a call shows in the last bits of the sums.
QUERIES_PER_CALL = 16


@dataclass(frozen=True)
class Answer:
    """The word on one sentence; `mask` is `[H, W]` bool, None where nothing exists."""

    exists: bool
    score: float
    answer: str
    mask: Tensor | None

    def painted(self) -> tuple[dict[str, Any] | None, tuple[int, int, int, int] | None]:
        """`rle` and `box` (x, y, width, height) of a prediction line."""
        if self.mask is None:
            return None, None
        x, y, width, height = (int(side) for side in mask_boxes(self.mask[None])[0])
        return encode_rle(self.mask), (x, y, width, height)


class Answerer(Protocol):
    """Whoever answers, one image at a time."""

    def answer(self, image: pathlib.Path, texts: Sequence[str]) -> Iterator[Answer]:
        """One answer for each sentence, in order."""


class SegmenterAnswerer:
    """A `Segmenter`; the image is encoded once for all of its sentences."""

    def __init__(
        self,
        segmenter: Segmenter,
        mode: Mode,
        threshold: float,
        *,
        features: Callable[[pathlib.Path], ImageFeatures] | None = None,
    ) -> None:
        """`threshold`: of P(the target exists), for `scored` and `free`; `features`: an image's, where it has them."""
        self.segmenter = segmenter
        self._features = features
        self.mode = mode
        self.threshold = 0.0 if mode == "teacher" else threshold

    def answer(self, image: pathlib.Path, texts: Sequence[str]) -> Iterator[Answer]:
        """One answer for each sentence, in order. Raises DataError for an image or a sentence that cannot be read."""
        if self._features is None:
            self.segmenter.set_image(image)
        else:
            self.segmenter.set_features(self._features(image))
        for start in range(0, len(texts), QUERIES_PER_CALL):
            for found in self._ask(texts[start : start + QUERIES_PER_CALL]):
                mask = found.union.cpu() if found.exists else None
                yield Answer(found.exists, found.score, found.answer, mask)

    def _ask(self, texts: Sequence[str]) -> list[Segmentation]:
        if self.mode != "free":
            return self.segmenter.segment(list(texts), threshold=self.threshold)
        return [self.segmenter.chat([{"role": "user", "content": text}], threshold=self.threshold) for text in texts]
