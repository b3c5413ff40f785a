"""A segmentation as plain JSON values."""

from __future__ import annotations

from typing import Any

from mllmseg.models.postprocess import encode_rle
from mllmseg.structures import Segmentation


def to_json(segmentation: Segmentation, image_name: str) -> dict[str, Any]:
    """One answer as a dictionary that `json.dumps` takes.

    Args:
        segmentation: the answer.
        image_name: how to call the image.

    Returns:
        `image`, `query`, `answer`, `exists`, `score`, `masks` (each with COCO's compressed `rle`, `box` (x, y, width,
        height) and `area` in pixels, and SAM's `score`), `image_size` (height, width), `num_visual_tokens` and
        `timings_ms`.
    """
    masks = [
        {"rle": encode_rle(mask), "box": [int(side) for side in box], "area": int(mask.sum()), "score": float(score)}
        for mask, box, score in zip(segmentation.masks, segmentation.boxes, segmentation.mask_scores, strict=True)
    ]
    return {
        "image": image_name,
        "query": segmentation.query,
        "answer": segmentation.answer,
        "exists": segmentation.exists,
        "score": segmentation.score,
        "masks": masks,
        "image_size": [int(side) for side in segmentation.masks.shape[1:]],
        "num_visual_tokens": segmentation.num_visual_tokens,
        "timings_ms": {stage: round(time, 3) for stage, time in segmentation.timings.items()},
    }
