"""Referring segmentation on coco-mini: predictions first, one JSON line a query, numbers second, from the lines alone.

The lines hold what every table needs (I, U, score, RLE), so a report can be made again without the model, and an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mllmseg.data.datasets.coco_mini import Box, CocoMini, Expression, Photo, union_mask
from mllmseg.errors import AlignmentError, DataError
from mllmseg.eval.metrics.base import Sample
from mllmseg.eval.metrics.gres import gres_iou
from mllmseg.eval.predict import Prediction, Predictor
from mllmseg.eval.report import Report, build_report
from mllmseg.eval.rows import Row, append_row, read_rows
from mllmseg.models.postprocess import encode_rle

Mask = npt.NDArray[np.bool_]


def evaluate(
    dataset: CocoMini,
    predict: Predictor,
    *,
    predictions_path: str | os.PathLike[str],
    limit: int | None = None,
    on_photo: Callable[[int, int], None] | None = None,
) -> Report:
    """Predicts what is not yet in the file, then scores all of it.

    Args:
        dataset: the split.
        predict: gets a photo and all its open sentences, so that the image is encoded once.
        predictions_path: JSONL, appended to; queries it already holds are not predicted again.
        limit: only so many photos, spread evenly over the split; None for all.
        on_photo: called with (photos done, photos in all) after each.

    Raises:
        DataError: the file holds other queries than this dataset's, or labels cannot be drawn.
        AlignmentError: the predictor gave more or fewer predictions than sentences.
    """
    path = pathlib.Path(predictions_path)
    queries = select_queries(dataset, limit)
    done = {row.id: row for row in read_rows(path)}
    _check_same_data(path, done, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, (image_id, items) in enumerate(queries.items(), start=1):
        photo = dataset.photos[image_id]
        todo = [(key, expression) for key, expression in items if key not in done]
        if todo:
            for row in _predict_photo(photo, todo, predict):
                append_row(path, row)
                done[row.id] = row
        if on_photo is not None:
            on_photo(number, len(queries))
    return build_report([done[key] for items in queries.values() for key, _ in items])


def select_queries(dataset: CocoMini, limit: int | None = None) -> dict[int, list[tuple[str, Expression]]]:
    """Image id → its (query id, sentence) pairs, for all photos with sentences or `limit` of them spread evenly."""
    queries: dict[int, list[tuple[str, Expression]]] = {}
    for index, expression in enumerate(dataset.expressions):
        queries.setdefault(expression.image_id, []).append((f"{dataset.split}/{index}", expression))
    if limit is None or limit >= len(queries):
        return queries
    images = list(queries)
    return {images[k * len(images) // limit]: queries[images[k * len(images) // limit]] for k in range(limit)}


def _predict_photo(photo: Photo, items: Sequence[tuple[str, Expression]], predict: Predictor) -> list[Row]:
    start = time.perf_counter()
    predictions = predict(photo, [expression for _, expression in items])
    milliseconds = (time.perf_counter() - start) * 1000 / len(items)
    if len(predictions) != len(items):
        raise AlignmentError(f"image {photo.id}: {len(items)} sentences, {len(predictions)} predictions")
    return [
        _score(key, photo, expression, prediction, milliseconds)
        for (key, expression), prediction in zip(items, predictions, strict=True)
    ]


def _score(key: str, photo: Photo, expression: Expression, prediction: Prediction, milliseconds: float) -> Row:
    mask = prediction.mask if prediction.exists else np.zeros(photo.size, dtype=bool)
    counts: dict[str, Any] = {"I": None, "U": None, "iou": None}
    if expression.ann_ids is None:
        if expression.box is not None and prediction.exists:
            counts["box_iou"] = box_iou(tight_box(mask), expression.box)
        elif expression.box is not None:
            counts["box_iou"] = 0.0
    else:
        target = union_mask(photo, expression.ann_ids)
        has_target = bool(expression.ann_ids)
        sample = Sample.from_masks(mask, target, exists=prediction.exists, has_target=has_target)
        counts = {"I": sample.intersection, "U": sample.union, "iou": gres_iou(sample)}
        if has_target:
            forced = Sample.from_masks(prediction.mask, target, exists=True)
            counts["forced"] = (forced.intersection, forced.union)
            counts["whole"] = (int(target.sum()), target.size)
            if prediction.label_map is not None:
                largest = Sample.from_masks(largest_superpixel(prediction.label_map, photo.size), target, exists=True)
                counts["largest"] = (largest.intersection, largest.union)
    return Row(
        id=key,
        image=photo.id,
        text=expression.text,
        source=expression.source,
        rule=expression.rule,
        has_target=expression.ann_ids is None or bool(expression.ann_ids),
        exists=prediction.exists,
        score=float(prediction.score),
        answer=prediction.answer,
        rle=encode_rle(mask) if prediction.exists else None,
        P=int(mask.sum()),
        tokens=prediction.num_visual_tokens,
        ms=round(milliseconds, 3),
        timings={stage: round(value, 3) for stage, value in prediction.timings.items()},
        mask_scores=tuple(round(score, 4) for score in prediction.mask_scores),
        **counts,
    )


def largest_superpixel(label_map: npt.NDArray[Any], size: tuple[int, int]) -> Mask:
    """`[H, W]` bool: the region with the most cells of `label_map [h, w]`, at the image's `size` (nearest cell)."""
    largest = label_map == np.bincount(label_map.ravel()).argmax()
    (h, w), (height, width) = label_map.shape, size
    return np.asarray(largest[np.arange(height)[:, None] * h // height, np.arange(width)[None] * w // width])


def tight_box(mask: Mask) -> Box:
    """(x, y, width, height) around a mask; zeros where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    x, y = float(columns[0]), float(rows[0])
    return x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y


def box_iou(first: Box, second: Box) -> float:
    """IoU of two (x, y, width, height) boxes."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    width = max(min(ax + aw, bx + bw) - max(ax, bx), 0.0)
    height = max(min(ay + ah, by + bh) - max(ay, by), 0.0)
    union = aw * ah + bw * bh - width * height
    return width * height / union if union else 0.0


def _check_same_data(path: pathlib.Path, done: dict[str, Row], dataset: CocoMini) -> None:
    known: Iterable[tuple[str, Expression]] = (pair for items in select_queries(dataset).values() for pair in items)
    texts = {key: (expression.image_id, expression.text) for key, expression in known}
    for key, row in done.items():
        if texts.get(key) != (row.image, row.text):
            raise DataError(f"{path}: query {key} is '{row.text}', not this dataset's; write to another folder")
