"""How well the model does in the middle of training: free of teacher forcing, on photos it never trains on."""

from __future__ import annotations

import logging
import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from mllmseg.data.referring import Mask, Query, ReferringDataset
from mllmseg.data.transforms import load_image
from mllmseg.eval.answering import SegmenterAnswerer
from mllmseg.eval.predictions import PredictionLine
from mllmseg.eval.scoring import read_answers, score_answers
from mllmseg.inference.segmenter import Segmenter
from mllmseg.inference.visualize import overlay, side_by_side, superpixel_overlay
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.structures import ImageFeatures
from mllmseg.train.logging import RunLog

log = logging.getLogger(__name__)
PICTURES = 6
SENTENCES = 3  # on each picture
SCORERS = ("gres", "calibration")
FIGURES = ("gIoU", "cIoU", "N-acc", "T-acc", "balanced_accuracy", "AUROC")


class ValidationSet:
    """A few images of a dataset, spread evenly and always the same ones, with all their sentences."""

    def __init__(self, dataset: ReferringDataset, count: int) -> None:
        self._data = dataset
        self.name, self.split, self.source = dataset.name, dataset.split, dataset.source
        images = list(dict.fromkeys(query.image for query in dataset.queries))
        count = min(count, len(images))
        chosen = {images[number * len(images) // count] for number in range(count)}
        self.queries = tuple(query for query in dataset.queries if query.image in chosen)

    def images(self) -> dict[pathlib.Path, list[Query]]:
        """Each image's file and sentences."""
        groups: dict[str, list[Query]] = {}
        for query in self.queries:
            groups.setdefault(query.image, []).append(query)
        return {self.image_path(queries[0]): queries for queries in groups.values()}

    def image_path(self, query: Query) -> pathlib.Path:
        """The query's image file. Raises DataError where it is missing."""
        return self._data.image_path(query)

    def target(self, query: Query) -> Mask:
        """`[H, W]`. Raises DataError as the dataset's does."""
        return self._data.target(query)


@torch.no_grad()
def validate(
    model: MLLMSeg,
    dataset: ValidationSet,
    features: Callable[[pathlib.Path], ImageFeatures],
    run_log: RunLog,
    step: int,
) -> dict[str, float]:
    """Asks every sentence, saves the predictions, scores them and pictures a few answers.

    Args:
        model: left in eval mode.
        dataset: what to ask.
        features: an image file's, from the cache.
        run_log: where predictions, pictures and figures go.
        step: for their names.

    Returns:
        The figures that are defined, as logged.
    """
    segmenter = Segmenter(model.eval())
    answerer = SegmenterAnswerer(segmenter, "scored", segmenter.threshold, features=features)
    folder = run_log.folder / "val"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.jsonl"
    path.write_bytes(b"".join(_lines(answerer, image, queries) for image, queries in dataset.images().items()))
    scores = score_answers(read_answers(dataset, [path]), SCORERS)
    values = {name: value for scorer in scores.values() for name, value in scorer.compute().items()}
    figures = {name: values[name] for name in FIGURES if not math.isnan(values[name])}
    log.info("val at step %d: %s", step, " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    run_log.scalars({f"val/{name}": value for name, value in figures.items()}, step)
    for image, queries in list(dataset.images().items())[:PICTURES]:
        picture = _picture(segmenter, image, features(image), [query.text for query in queries[:SENTENCES]])
        picture.save(folder / f"step-{step:06d}-{image.stem}.jpg")
        run_log.picture(f"val/{image.stem}", np.asarray(picture), step)
    return figures


def _lines(answerer: SegmenterAnswerer, image: pathlib.Path, queries: Sequence[Query]) -> bytes:
    lines = []
    for query, found in zip(queries, answerer.answer(image, [query.text for query in queries]), strict=True):
        rle, box = found.painted()
        line = PredictionLine(query.id, query.image, query.text, found.exists, found.score, found.answer, rle, box)
        lines.append(line.to_bytes())
    return b"".join(lines)


def _picture(segmenter: Segmenter, path: pathlib.Path, features: ImageFeatures, texts: Sequence[str]) -> Image.Image:
    """The photo's superpixels and the answers to a few sentences, side by side."""
    image = load_image(path)
    segmenter.set_features(features)
    panels = [superpixel_overlay(image, segmenter.features.superpixels, scores=None, numbered=False)]
    for found in segmenter.segment(list(texts)):
        label = f"{found.query} ({found.score:.2f})"
        panels.append(overlay(image, found.masks, labels=[label]) if found.exists else image)
    return side_by_side(panels)
