"""Semantic superpixels: SAM's own masks on a grid of points, made into a partition of the image.

points → masks with a predicted IoU and a stability that pass, at low resolution → non-maximum suppression by mask IoU →
partition → token budget. One region becomes one visual token.

Shapes: P points, M masks, S regions, h w SAM's low-res grid cropped to the valid window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mllmseg.config import SuperpixelConfig
from mllmseg.constants import SAM_EMBEDDING_STRIDE, SAM_LOW_RES_STRIDE
from mllmseg.models import partition
from mllmseg.models.folded_decoder import FoldedDecoder, FoldedImage
from mllmseg.models.sam import Sam
from mllmseg.structures import Superpixels

WHOLE = 2
# Wholes are what SAM is least sure of and what an object needs most: they pass a little below the threshold, and come
# first in the suppression.
WHOLE_BONUS = 0.05
# A mask's logits are compared at this distance from zero, as in SAM's own stability score.
STABILITY_OFFSET = 1.0
# Fewer low-res pixels than this are noise at a stride of 4.
MIN_MASK_PIXELS = 60


@dataclass(frozen=True)
class MaskSet:
    """Masks of one image.

    Attributes:
        masks: `[M, h, w]` bool.
        scores: `[M]` predicted IoU.
        levels: `[M]` int64, 0 subpart, 1 part, 2 whole.
    """

    masks: Tensor
    scores: Tensor
    levels: Tensor

    def select(self, index: Tensor) -> MaskSet:
        """The masks of `index`, in its order."""
        return MaskSet(self.masks[index], self.scores[index], self.levels[index])


def low_res_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the label map for a valid window of `input_size` SAM input pixels."""
    return math.ceil(input_size[0] / SAM_LOW_RES_STRIDE), math.ceil(input_size[1] / SAM_LOW_RES_STRIDE)


def grid_points(input_size: tuple[int, int], points_per_side: int) -> Tensor:
    """`[P, 2]` (x, y) SAM input pixels, row by row; a thin side gets no more points than embedding cells."""
    axes = []
    for side in input_size:
        count = min(points_per_side, math.ceil(side / SAM_EMBEDDING_STRIDE))
        axes.append((torch.arange(count) + 0.5) / count * side)
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


class SuperpixelGenerator:
    """Makes superpixels from an image embedding.

    Args:
        sam: its prompt encoder and mask decoder are folded at the first call, and again on another device.
        config: thresholds, partition, budget.
    """

    def __init__(self, sam: Sam, config: SuperpixelConfig) -> None:
        self.sam = sam
        self.config = config
        self._folded: tuple[torch.device, FoldedDecoder] | None = None

    def decoder(self, device: torch.device) -> FoldedDecoder:
        """SAM's mask decoder, folded, on `device`, where `sam` must be too."""
        if self._folded is None or self._folded[0] != device:
            self._folded = device, FoldedDecoder(self.sam, getattr(torch, self.config.dtype))
        return self._folded[1]

    @torch.no_grad()
    def __call__(self, image_embeddings: Tensor, input_size: tuple[int, int]) -> Superpixels:
        """Superpixels of one image.

        Args:
            image_embeddings: `[1, 256, 64, 64]`.
            input_size: (height, width) of the valid window of SAM's input, in pixels.

        Returns:
            The partition, largest region first, on the CPU.
        """
        return self.partition(self.propose(image_embeddings, input_size))

    @torch.no_grad()
    def propose(self, image_embeddings: Tensor, input_size: tuple[int, int]) -> MaskSet:
        """The masks worth a region, best first, after suppression; on the device of the embeddings."""
        device = image_embeddings.device
        image = self.decoder(device).fold_image(image_embeddings)
        fine = grid_points(input_size, self.config.points_per_side).to(device)
        if self.config.coarse_points_per_side is None:
            return suppress(self._decode(image, fine, input_size), self.config.nms_threshold)
        coarse = grid_points(input_size, self.config.coarse_points_per_side).to(device)
        found = suppress(self._decode(image, coarse, input_size), self.config.nms_threshold)
        rest = fine[~self._covered(found, fine)]
        more = self._decode(image, rest, input_size)
        return suppress(_concatenate([found, more]), self.config.nms_threshold)

    def partition(self, found: MaskSet) -> Superpixels:
        """Masks to regions: the configured rule, then uncovered areas, tiny regions and the token budget."""
        config = self.config
        masks, levels = found.masks.cpu().numpy(), found.levels.cpu().numpy()
        pixels = masks.shape[1] * masks.shape[2]
        if config.partition == "carve":
            painted = partition.carve(masks, config.min_region_fraction * pixels)
        else:
            painted = partition.coarse_first(masks, levels, config.max_overlap)
        labels, sources = partition.separate_uncovered(painted)
        scores = np.append(found.scores.cpu().numpy(), 0.0)[sources]  # -1, uncovered, reads the appended zero
        labels = partition.absorb_tiny(labels, config.min_visible_fraction * pixels)
        labels = partition.limit_regions(labels, config.max_tokens)
        values, labels = np.unique(labels, return_inverse=True)
        labels, origins = partition.split_to(labels.reshape(painted.shape), config.min_tokens)
        return partition.to_superpixels(labels, scores[values][origins])

    def _decode(self, image: FoldedImage, points: Tensor, input_size: tuple[int, int]) -> MaskSet:
        """All masks of `points` that pass the filter, before suppression."""
        decoder = self.decoder(points.device)
        height, width = low_res_size(input_size)
        window = math.ceil(input_size[0] / SAM_EMBEDDING_STRIDE), math.ceil(input_size[1] / SAM_EMBEDDING_STRIDE)
        threshold = self.config.pred_iou_threshold - WHOLE_BONUS * torch.eye(3, device=points.device)[WHOLE]
        found = []
        for batch in points.split(self.config.points_per_batch):
            states = decoder.attend(image, batch)
            passing = states.iou_predictions > threshold
            prompts = passing.any(1)
            if prompts.any():
                states, passing = states.select(prompts), passing[prompts]
                logits = decoder.upscale(states, window)[:, :, :height, :width]
                found.append(self._filter(logits, states.iou_predictions, passing))
        if found:
            return _concatenate(found)
        return MaskSet(
            torch.zeros(0, height, width, dtype=torch.bool, device=points.device),
            torch.zeros(0, device=points.device),
            torch.zeros(0, dtype=torch.int64, device=points.device),
        )

    def _filter(self, logits: Tensor, iou_predictions: Tensor, passing: Tensor) -> MaskSet:
        """Logits `[P, 3, h, w]` → the stable, not tiny masks among `passing` `[P, 3]`."""
        prompts, levels = passing.nonzero(as_tuple=True)
        logits, scores = logits[prompts, levels], iou_predictions[prompts, levels]
        inner = (logits > STABILITY_OFFSET).flatten(1).sum(1)
        outer = (logits > -STABILITY_OFFSET).flatten(1).sum(1)
        masks = logits > 0
        stable = inner > self.config.stability_threshold * outer
        keep = stable & (masks.flatten(1).sum(1) > MIN_MASK_PIXELS)
        return MaskSet(masks[keep], scores[keep], levels[keep])

    def _covered(self, found: MaskSet, points: Tensor) -> Tensor:
        """`[P]` bool: points on a mask that is not so large that much could still hide in it."""
        areas = found.masks.flatten(1).float().mean(1)
        masks = found.masks[areas <= self.config.max_covering_fraction]
        height, width = found.masks.shape[1:]
        x, y = (points / SAM_LOW_RES_STRIDE).long().unbind(1)
        return masks[:, y.clamp(max=height - 1), x.clamp(max=width - 1)].any(0)


def suppress(found: MaskSet, threshold: float) -> MaskSet:
    """Greedy non-maximum suppression by mask IoU, wholes first, then by predicted IoU; best first."""
    found = found.select(torch.argsort(found.scores + (found.levels == WHOLE).float(), descending=True, stable=True))
    flat = found.masks.flatten(1).float()
    intersection = flat @ flat.t()
    areas = flat.sum(1)
    duplicates = (intersection / (areas[:, None] + areas - intersection) >= threshold).cpu().numpy()
    alive = np.ones(len(flat), dtype=bool)
    for index in range(len(flat)):
        if alive[index]:
            alive[index + 1 :] &= ~duplicates[index, index + 1 :]
    return found.select(torch.from_numpy(np.flatnonzero(alive)).to(flat.device))


def _concatenate(sets: list[MaskSet]) -> MaskSet:
    return MaskSet(
        torch.cat([item.masks for item in sets]),
        torch.cat([item.scores for item in sets]),
        torch.cat([item.levels for item in sets]),
    )
