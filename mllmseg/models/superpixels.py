"""Semantic superpixels: SAM's own masks on a grid of points, made into a partition of the image.

points → masks with a predicted IoU and a stability that pass, at low resolution → non-maximum suppression by mask IoU →
partition → token budget. One region becomes one visual token.

Points are decoded from coarse to fine, and those that nothing new is to be expected of are skipped (`coverage.py`): on
real photos a quarter of the grid is enough (`scripts/superpixel_oracle.py` measures it).

Shapes: P points, M masks, S regions, h w SAM's low-res grid cropped to the valid window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mllmseg.config import SuperpixelConfig
from mllmseg.constants import SAM_EMBEDDING_STRIDE, SAM_LOW_RES_STRIDE
from mllmseg.models import partition
from mllmseg.models.coverage import Coverage, Facts, IntArray, describe
from mllmseg.models.folded_decoder import MULTIMASK, FoldedDecoder, FoldedImage
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
# Where points are decoded regardless of each other, on a GPU: about 20 MB of activations each.
POINTS_AT_ONCE = 128


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
    """A regular grid, coarse to fine: any first few points spread over the whole image.

    Args:
        input_size: (height, width) of the valid window, in pixels.
        points_per_side: a thin side gets no more points than it has embedding cells.

    Returns:
        `[P, 2]` (x, y) in SAM input pixels.
    """
    rows, columns = (min(points_per_side, math.ceil(side / SAM_EMBEDDING_STRIDE)) for side in input_size)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    # The order of a Bayer matrix: the lowest bits of the coordinates are the most significant of the rank.
    rank = torch.zeros(rows, columns, dtype=torch.int64)
    for bit in range(max(rows, columns).bit_length()):
        row_bit, column_bit = (y >> bit) & 1, (x >> bit) & 1
        rank = 4 * rank + 2 * (row_bit ^ column_bit) + row_bit
    order = rank.flatten().argsort(stable=True)
    scaled = torch.stack([(x + 0.5) / columns * input_size[1], (y + 0.5) / rows * input_size[0]], dim=-1)
    return scaled.reshape(-1, 2)[order]


class SuperpixelGenerator:
    """Makes superpixels from an image embedding.

    Args:
        sam: its prompt encoder and mask decoder are folded at the first call, and again on another device.
        config: thresholds, partition, budget.

    Attributes:
        compiled: whether to decode by `torch.compile`: the same masks but for rounding, so no part of `config`.
    """

    def __init__(self, sam: Sam, config: SuperpixelConfig) -> None:
        self.sam = sam
        self.config = config
        self.compiled = False
        self._folded: tuple[tuple[torch.device, bool], FoldedDecoder] | None = None

    def decoder(self, device: torch.device) -> FoldedDecoder:
        """SAM's mask decoder, folded, on `device`, where `sam` must be too."""
        key = device, self.compiled
        if self._folded is None or self._folded[0] != key:
            batch = POINTS_AT_ONCE if device.type == "cuda" else self.config.points_per_batch
            self._folded = (
                key,
                FoldedDecoder(
                    self.sam, getattr(torch, self.config.dtype), compiled_batch=batch if self.compiled else None
                ),
            )
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
    def propose(self, image_embeddings: Tensor, input_size: tuple[int, int], *, at_once: bool | None = None) -> MaskSet:
        """The masks worth a region, best first, after suppression; on the device of the embeddings.

        Args:
            image_embeddings: `[1, 256, 64, 64]`.
            input_size: (height, width) of the valid window of SAM's input, in pixels.
            at_once: decode all points and leave out afterwards what would not have been decoded. The same masks:
                a GPU is done with all points sooner than a CPU has heard which of them are covered. None: on a GPU.
        """
        device = image_embeddings.device
        points = grid_points(input_size, self.config.points_per_side).to(device)
        image = self.decoder(device).fold_image(image_embeddings)
        everything = self.config.max_covering_fraction is None
        if at_once is None:
            at_once = device.type == "cuda"
        if at_once or everything:
            size = POINTS_AT_ONCE if at_once else self.config.points_per_batch
            found, owners = self._decode_all(image, points, size, input_size)
            if not everything:
                found = self._as_if_in_turn(found, owners, points)
        else:
            found = self._decode_in_turn(image, points, input_size)
        return suppress(found, self.config.nms_threshold)

    def partition(self, found: MaskSet) -> Superpixels:
        """Masks to regions: the configured rule, then specks, uncovered areas, tiny regions, the budget."""
        config = self.config
        masks, levels = found.masks.cpu().numpy(), found.levels.cpu().numpy()
        pixels = masks.shape[1] * masks.shape[2]
        if config.partition == "carve":
            painted = partition.carve(masks, config.min_region_fraction * pixels)
        else:
            painted = partition.coarse_first(masks, levels, config.max_overlap)
        painted = partition.absorb_fragments(painted, config.min_fragment_fraction * pixels)
        labels, sources = partition.separate_uncovered(painted)
        scores = np.append(found.scores.cpu().numpy(), 0.0)[sources]  # -1, uncovered, reads the appended zero
        labels = partition.absorb_tiny(labels, config.min_visible_fraction * pixels)
        labels = partition.limit_regions(labels, config.max_tokens)
        values, labels = np.unique(labels, return_inverse=True)
        labels, origins = partition.split_to(labels.reshape(painted.shape), config.min_tokens)
        return partition.to_superpixels(labels, scores[values][origins])

    def _decode_all(
        self, image: FoldedImage, points: Tensor, size: int, input_size: tuple[int, int]
    ) -> tuple[MaskSet, Tensor]:
        """Masks of all points `[P, 2]`, `size` points at a time, and which point each comes from."""
        parts = [self._decode(image, part, input_size) for part in points.split(size)]
        owners = torch.cat([owners + number * size for number, (_, owners) in enumerate(parts)])
        return _concatenate([masks for masks, _ in parts]), owners

    def _decode_in_turn(self, image: FoldedImage, points: Tensor, input_size: tuple[int, int]) -> MaskSet:
        """Masks of those of the points `[P, 2]` that those before them do not cover."""
        found = _no_masks(low_res_size(input_size), points.device)

        def decode(batch: IntArray) -> tuple[IntArray, Facts]:
            nonlocal found
            masks, owners = self._decode(image, points[torch.from_numpy(batch)], input_size)
            found = _concatenate([found, masks])
            compared = found.masks if self.config.max_barren_points is not None else found.masks[:0]
            facts = describe(masks.masks, compared, points, self.config.nms_threshold)
            return batch[owners.cpu().numpy()], facts

        self._visit(len(points), decode)
        return found

    def _as_if_in_turn(self, found: MaskSet, owners: Tensor, points: Tensor) -> MaskSet:
        """Of the masks of all points those that `_decode_in_turn` would have found."""
        facts = describe(found.masks, found.masks, points, self.config.nms_threshold)
        owner = owners.cpu().numpy()
        used = np.zeros(0, dtype=np.int64)

        def look_up(batch: IntArray) -> tuple[IntArray, Facts]:
            nonlocal used
            rows = np.flatnonzero(np.isin(owner, batch))
            used = np.concatenate([used, rows])
            return owner[rows], Facts(facts.contains[rows], facts.fractions[rows], facts.same[np.ix_(rows, used)])

        self._visit(len(points), look_up)
        return found.select(torch.from_numpy(used).to(owners.device))

    def _visit(self, num_points: int, look: Callable[[IntArray], tuple[IntArray, Facts]]) -> None:
        """Has batches of points looked at, `look` giving the owners and facts of their masks, until all are covered."""
        config = self.config
        assert config.max_covering_fraction is not None
        coverage = Coverage(
            num_points,
            max_fraction=config.max_covering_fraction,
            max_barren=config.max_barren_points,
            coarse_points=config.coarse_points,
        )
        remaining = np.arange(num_points)
        while len(remaining):
            batch, remaining = np.split(remaining, [config.points_per_batch])
            coverage.add(batch, *look(batch))
            remaining = remaining[~coverage.covers()[remaining]]

    def _decode(self, image: FoldedImage, points: Tensor, input_size: tuple[int, int]) -> tuple[MaskSet, Tensor]:
        """All masks of `points` `[P, 2]` that pass the filter, before suppression, and which point each comes from."""
        height, width = low_res_size(input_size)
        decoder = self.decoder(points.device)
        states = decoder.attend(image, points)
        threshold = self.config.pred_iou_threshold - WHOLE_BONUS * torch.eye(3, device=points.device)[WHOLE]
        passing = states.iou_predictions[:, MULTIMASK] > threshold
        prompts = passing.any(1).nonzero()[:, 0]  # as numbers: a GPU is waited for where a bool selects
        if not len(prompts):
            return _no_masks((height, width), points.device), prompts
        states, passing = states.select(prompts), passing[prompts]
        window = math.ceil(input_size[0] / SAM_EMBEDDING_STRIDE), math.ceil(input_size[1] / SAM_EMBEDDING_STRIDE)
        logits = decoder.upscale(states, window)[:, :, :height, :width]
        masks, rows = self._filter(logits, states.iou_predictions[:, MULTIMASK], passing)
        return masks, prompts[rows]

    def _filter(self, logits: Tensor, iou_predictions: Tensor, passing: Tensor) -> tuple[MaskSet, Tensor]:
        """Logits `[P, 3, h, w]` → the stable, not tiny masks among `passing` `[P, 3]`, and the row each comes from."""
        prompts, levels = passing.nonzero(as_tuple=True)
        logits, scores = logits[prompts, levels], iou_predictions[prompts, levels]
        inner = (logits > STABILITY_OFFSET).flatten(1).sum(1)
        outer = (logits > -STABILITY_OFFSET).flatten(1).sum(1)
        masks = logits > 0
        stable = inner > self.config.stability_threshold * outer
        keep = (stable & (masks.flatten(1).sum(1) > MIN_MASK_PIXELS)).nonzero()[:, 0]
        return MaskSet(masks[keep], scores[keep], levels[keep]), prompts[keep]


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


def _no_masks(size: tuple[int, int], device: torch.device) -> MaskSet:
    return MaskSet(
        torch.zeros(0, *size, dtype=torch.bool, device=device),
        torch.zeros(0, device=device),
        torch.zeros(0, dtype=torch.int64, device=device),
    )
