"""segment_anything's `SamAutomaticMaskGenerator` around the modules of our own SAM, to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mllmseg.config import SuperpixelConfig
from mllmseg.models._segment_anything import import_segment_anything
from mllmseg.models.sam import Sam
from mllmseg.models.superpixels import low_res_size
from mllmseg.structures import ImageInputs


def box_area(boxes: Tensor) -> Tensor:
    """torchvision's, for where it is not installed."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, categories: Tensor, iou_threshold: float) -> Tensor:
    """torchvision's, for a single category, for where it is not installed."""
    order = torch.argsort(scores, descending=True, stable=True)
    boxes = boxes[order].float()
    corners = torch.cat(
        [torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])], dim=-1
    )
    intersection = (corners[..., 2:] - corners[..., :2]).clamp(min=0).prod(-1)
    areas = box_area(boxes)
    overlaps = (intersection / (areas[:, None] + areas - intersection) > iou_threshold).numpy()
    alive = np.ones(len(boxes), dtype=bool)
    for index in range(len(boxes)):
        if alive[index]:
            alive[index + 1 :] &= ~overlaps[index, index + 1 :]
    return order[torch.from_numpy(np.flatnonzero(alive))]


class ReferenceGenerator:
    """Their generator with our thresholds, fed with image embeddings.

    Args:
        sam: whose modules to use.
        config: thresholds.
        points_per_side: of the grid.
    """

    def __init__(self, sam: Sam, config: SuperpixelConfig, points_per_side: int) -> None:
        package = import_segment_anything()
        module: Any = package.automatic_mask_generator
        module.batched_nms, module.box_area = batched_nms, box_area  # names it bound at import, of torchvision's
        reference = package.modeling.Sam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder).eval()
        reference.image_encoder.img_size = 1024
        self._generator: Any = package.SamAutomaticMaskGenerator(
            reference,
            points_per_side=points_per_side,
            pred_iou_thresh=config.pred_iou_threshold,
            stability_score_thresh=config.stability_threshold,
            box_nms_thresh=config.nms_threshold,
        )

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray, embeddings: Tensor, inputs: ImageInputs) -> Tensor:
        """`[M, h, w]` bool masks at SAM's low resolution, from an RGB image `[H, W, 3]` and its embedding."""

        def set_image(*_: Any) -> None:
            predictor = self._generator.predictor
            predictor.reset_image()
            predictor.features, predictor.is_image_set = embeddings, True
            predictor.original_size, predictor.input_size = inputs.original_size, inputs.input_size

        self._generator.predictor.set_image = set_image
        found = [item["segmentation"] for item in self._generator.generate(pixels)]
        size = low_res_size(inputs.input_size)
        if not found:
            return torch.zeros(0, *size, dtype=torch.bool)
        masks = torch.from_numpy(np.stack(found))
        return F.interpolate(masks[:, None].float(), size, mode="area")[:, 0] > 0.5
