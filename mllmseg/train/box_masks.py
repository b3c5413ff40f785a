"""Masks for labels that are boxes: SAM is prompted with the box, and its mask kept where it agrees with the box.

h w the valid window of SAM's low-res grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mllmseg.constants import SAM_IMAGE_SIZE, SAM_LOW_RES_STRIDE
from mllmseg.data.datasets.coco_mini import Box
from mllmseg.structures import ImageFeatures

# A mask is kept where its own box agrees with the label's this well, and SAM thinks well of it.
MIN_BOX_IOU = 0.75
MIN_PREDICTED_IOU = 0.70
# Boxes below this share of the image give masks of a few low-res pixels: not worth a decoder pass.
MIN_BOX_SHARE = 0.004
MAX_ESTIMATES = 10


def estimate_masks(
    features: ImageFeatures, boxes: Mapping[int, Box], predict_boxes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> dict[int, Tensor]:
    """SAM's mask of each box, the largest `MAX_ESTIMATES` of them.

    Args:
        features: of the image, with image embeddings.
        boxes: id → (x, y, width, height) in pixels of the image.
        predict_boxes: `VisionStack.predict_boxes`.

    Returns:
        id → `[h, w]` bool, for the masks that are kept.
    """
    height, width = features.original_size
    large = [key for key, box in boxes.items() if box[2] * box[3] >= MIN_BOX_SHARE * height * width]
    chosen = sorted(large, key=lambda key: -boxes[key][2] * boxes[key][3])[:MAX_ESTIMATES]
    if not chosen:
        return {}
    assert features.image_embeddings is not None
    grid = features.superpixels.label_map.shape
    corners = torch.tensor([_corners(boxes[key]) for key in chosen], device=features.image_embeddings.device)
    corners = corners * (SAM_IMAGE_SIZE / max(height, width))
    low_res_masks, predicted_ious = predict_boxes(features.image_embeddings, corners)
    masks = {}
    for key, box, logits, predicted in zip(chosen, corners, low_res_masks, predicted_ious, strict=True):
        mask = (logits.reshape(logits.shape[-2:]) > 0)[: grid[0], : grid[1]]
        if (
            float(predicted.flatten()[0]) >= MIN_PREDICTED_IOU
            and _box_iou(mask, box / SAM_LOW_RES_STRIDE) >= MIN_BOX_IOU
        ):
            masks[key] = mask
    return masks


def _corners(box: Box) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _box_iou(mask: Tensor, box: Tensor) -> float:
    """IoU of a mask's own box with `box` (x0, y0, x1, y1), both in low-res pixels."""
    ys, xs = mask.nonzero(as_tuple=True)
    if not len(xs):
        return 0.0
    x0, y0, x1, y1 = float(xs.min()), float(ys.min()), float(xs.max()) + 1, float(ys.max()) + 1
    bx0, by0, bx1, by1 = box.tolist()
    overlap = max(0.0, min(x1, bx1) - max(x0, bx0)) * max(0.0, min(y1, by1) - max(y0, by0))
    return overlap / max(1e-6, (x1 - x0) * (y1 - y0) + (bx1 - bx0) * (by1 - by0) - overlap)
