"""How well the model does in the middle of training: free of teacher forcing, on photos it never trains on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from mllmseg.config import TrainConfig
from mllmseg.data.datasets.coco_mini import CocoMini, Photo
from mllmseg.data.transforms import load_image
from mllmseg.eval.predict import SegmenterPredictor
from mllmseg.eval.referring import evaluate, select_queries
from mllmseg.inference.segmenter import Segmenter
from mllmseg.inference.visualize import overlay, side_by_side, superpixel_overlay
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.train.batch import cache_entry
from mllmseg.train.cache import FeatureCache
from mllmseg.train.logging import RunLog

log = logging.getLogger(__name__)
PICTURES = 6


def validation_photos(dataset: CocoMini, count: int) -> list[Photo]:
    """`count` photos with sentences, spread evenly over the split; always the same ones."""
    return [dataset.photos[image_id] for image_id in select_queries(dataset, count)]


@torch.no_grad()
def validate(
    model: MLLMSeg, config: TrainConfig, dataset: CocoMini, cache: FeatureCache, run_log: RunLog, step: int
) -> dict[str, float]:
    """Scores the model on `config.val_photos` photos of the val split and pictures a few answers.

    Returns:
        gIoU of the template sentences (people's where there are none) with a target and balanced accuracy of existence,
        as logged; nothing where the split has no sentences.
    """
    model.eval()
    segmenter = Segmenter(model)
    predictor = SegmenterPredictor(segmenter, features=lambda photo: cache.read(cache_entry(photo)).features)
    folder = run_log.folder / "val"
    report = evaluate(dataset, predictor, predictions_path=folder / f"step-{step:06d}.jsonl", limit=config.val_photos)
    group = report.groups.get("template") or report.groups.get("human")
    if group is None:
        log.warning("%s holds no sentences about val photos: nothing to validate on", dataset.root)
        return {}
    figures = {
        "giou_positives": group.positives.value,
        "giou_forced": group.forced.value,
        "balanced_accuracy": group.existence.value,
        "auroc": group.calibration["AUROC"],
    }
    log.info("val at step %d: %s", step, " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    run_log.scalars({f"val/{name}": value for name, value in figures.items()}, step)
    for photo in validation_photos(dataset, config.val_photos)[:PICTURES]:
        texts = [item.text for item in dataset.expressions_of(photo.id)][:3]
        picture = _picture(segmenter, photo, cache, texts)
        picture.save(folder / f"step-{step:06d}-{photo.id}.jpg")
        run_log.picture(f"val/{photo.id}", np.asarray(picture), step)
    return figures


def _picture(segmenter: Segmenter, photo: Photo, cache: FeatureCache, texts: Sequence[str]) -> Image.Image:
    """The photo's superpixels and the answers to a few sentences, side by side."""
    image = load_image(photo.path)
    segmenter.set_features(cache.read(cache_entry(photo)).features)
    panels = [superpixel_overlay(image, segmenter.features.superpixels, scores=None, numbered=False)]
    for found in segmenter.segment(list(texts)):
        label = f"{found.query} ({found.score:.2f})"
        panels.append(overlay(image, found.masks, labels=[label]) if found.exists else image)
    return side_by_side(panels)
