"""Answers that take no understanding: what a number has to be held against before it says anything.

They are predicted and scored as a model's are; each accepts every sentence. H W the image's own size.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mllmseg.data.transforms import load_image, preprocess
from mllmseg.eval.answering import Answer, Answerer
from mllmseg.eval.superpixel_oracle import label_map_at
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.mllmseg import MLLMSeg

Baseline = Literal["whole-image", "largest-superpixel"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)


class WholeImage:
    """Paints every pixel."""

    def answer(self, image: pathlib.Path, texts: Sequence[str]) -> Iterator[Answer]:
        """The same for each sentence. Raises DataError for an image that cannot be read."""
        width, height = load_image(image).size
        return same_for_all(torch.ones(height, width, dtype=torch.bool), texts)


class LargestSuperpixel:
    """Paints the largest of the regions that the model would look at."""

    def __init__(self, model: MLLMSeg) -> None:
        """`model`: no more than SAM and its superpixels are asked."""
        self.vision = model.vision
        self.device = next(model.head.parameters()).device

    @torch.no_grad()
    def answer(self, image: pathlib.Path, texts: Sequence[str]) -> Iterator[Answer]:
        """The same for each sentence. Raises DataError for an image that cannot be read."""
        inputs = preprocess(load_image(image), tower_size=None).to(self.device)
        embeddings = self.vision.sam.encode_image(inputs.sam_pixels[None])
        labels = self.vision.superpixel_generator(embeddings, inputs.input_size).label_map.cpu().numpy()
        return same_for_all(largest_superpixel(labels, inputs.input_size, inputs.original_size), texts)


def build_baseline(name: Baseline, load: Callable[[], Segmenter]) -> Answerer:
    """By name; the model is loaded where the baseline needs its superpixels."""
    return WholeImage() if name == "whole-image" else LargestSuperpixel(load().model)


def largest_superpixel(
    label_map: npt.NDArray[Any], input_size: tuple[int, int], original_size: tuple[int, int]
) -> Tensor:
    """`[H, W]` bool: the region of `label_map [h, w]` with the most cells; sizes as `ImageInputs` has them."""
    largest = label_map_at(label_map, input_size, original_size) == np.bincount(label_map.ravel()).argmax()
    return torch.from_numpy(largest)


def same_for_all(mask: Tensor, texts: Sequence[str]) -> Iterator[Answer]:
    """Something exists for each sentence, and it is `mask [H, W]`."""
    for _ in texts:
        yield Answer(exists=True, score=1.0, answer="", mask=mask)
