"""How well the model does in the middle of training: free of teacher forcing, on photos it never trains on."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from mllmseg.config import TrainConfig
from mllmseg.data.datasets.coco_mini import CocoMini, Photo
from mllmseg.data.datasets.coco_mini_queries import CocoMiniQueries, spread_photos
from mllmseg.data.transforms import load_image
from mllmseg.eval.answering import SegmenterAnswerer
from mllmseg.eval.manifest import Shard, describe, manifest_path
from mllmseg.eval.metrics import Sample
from mllmseg.eval.metrics.base import score_all
from mllmseg.eval.metrics.classic import ClassicScorer
from mllmseg.eval.metrics.existence import ExistenceScorer
from mllmseg.eval.prediction_run import claim, predict
from mllmseg.eval.scoring import read_answers
from mllmseg.inference.segmenter import Segmenter
from mllmseg.inference.visualize import overlay, side_by_side, superpixel_overlay
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.train.cache import FeatureCache
from mllmseg.train.logging import RunLog

log = logging.getLogger(__name__)
PICTURES = 6


def validation_photos(dataset: CocoMini, count: int) -> list[Photo]:
    """`count` photos with sentences, spread evenly over the split; always the same ones."""
    return [dataset.photos[image_id] for image_id in spread_photos(dataset, count)]


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
    photos = {photo.path: photo for photo in validation_photos(dataset, config.val_photos)}
    queries = CocoMiniQueries(dataset, {photo.id for photo in photos.values()})
    if not queries.queries:
        log.warning("%s holds no sentences about val photos: nothing to validate on", dataset.root)
        return {}
    folder = run_log.folder / "val"
    # Every sentence gets its mask, so that a rejection's cost can be told from a bad mask's.
    answerer = SegmenterAnswerer(segmenter, "teacher", 0.0, lambda path: cache.read(photos[path]).features)
    forced = _predict(queries, answerer, folder / f"step-{step:06d}.jsonl", f"step {step}")
    decided = {key: found if found.score >= segmenter.threshold else found.rejected() for key, found in forced.items()}
    figures = {
        "giou_positives": score_all(ClassicScorer(), decided.values())["mIoU"],
        "giou_forced": score_all(ClassicScorer(), forced.values())["mIoU"],
    }
    existence = score_all(ExistenceScorer(), decided.values())
    figures |= {"balanced_accuracy": existence["balanced_accuracy"], "auroc": existence["AUROC"]}
    log.info("val at step %d: %s", step, " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    run_log.scalars({f"val/{name}": value for name, value in figures.items()}, step)
    for photo in list(photos.values())[:PICTURES]:
        texts = [item.text for item in dataset.expressions_of(photo.id)][:3]
        picture = _picture(segmenter, photo, cache, texts)
        picture.save(folder / f"step-{step:06d}-{photo.id}.jpg")
        run_log.picture(f"val/{photo.id}", np.asarray(picture), step)
    return figures


def _predict(queries: CocoMiniQueries, answerer: SegmenterAnswerer, path: pathlib.Path, name: str) -> dict[str, Sample]:
    """Predicts into a file, in the place of one that an interrupted run left, and scores it.

    Returns:
        The samples of template sentences, of people's where there are none.
    """
    for old in (path, manifest_path(path)):
        old.unlink(missing_ok=True)
    device = answerer.segmenter.device.type
    manifest = describe(
        queries,
        Shard(),
        mode=answerer.mode,
        threshold=None,
        checkpoint=name,
        weights_sha256="",
        dtype=str(next(answerer.segmenter.model.mllm.parameters()).dtype).removeprefix("torch."),
        device=device,
        threads=torch.get_num_threads(),
    )
    claim(path, manifest, resume=False)
    predict(queries, answerer, path, manifest)
    samples = read_answers(queries, [path]).samples
    template = {query.id for query in queries.queries if query.kind.startswith("template")} & samples.keys()
    return {key: found for key, found in samples.items() if key in template} if template else samples


def _picture(segmenter: Segmenter, photo: Photo, cache: FeatureCache, texts: Sequence[str]) -> Image.Image:
    """The photo's superpixels and the answers to a few sentences, side by side."""
    image = load_image(photo.path)
    segmenter.set_features(cache.read(photo).features)
    panels = [superpixel_overlay(image, segmenter.features.superpixels, scores=None, numbered=False)]
    for found in segmenter.segment(list(texts)):
        label = f"{found.query} ({found.score:.2f})"
        panels.append(overlay(image, found.masks, labels=[label]) if found.exists else image)
    return side_by_side(panels)
