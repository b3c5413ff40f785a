"""From a sample and a cached photo to the tensors of a training step.

N [SEG] tokens, S superpixels, h w the valid window of SAM's low-res grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mllmseg.constants import SAM_EMBEDDING_STRIDE
from mllmseg.data.mixture import Sample
from mllmseg.structures import ImageFeatures, Superpixels
from mllmseg.train.cache import CachedPhoto

# A superpixel bears the name of a category that covers it this much.
MIN_NAMED_COVERAGE = 0.6
UNNAMED = -1


@dataclass(frozen=True)
class Targets:
    """What the model should say about one photo.

    Attributes:
        masks: `[N, h, w]` bool, one per [SEG].
        exists: `[M]` bool, one per decision.
    """

    masks: Tensor
    exists: Tensor


def sample_targets(sample: Sample, cached: CachedPhoto) -> Targets:
    """The union of each [SEG]'s instances, mirrored with the sample."""
    grid = cached.features.superpixels.label_map.shape
    unions = [torch.stack([cached.masks[key] for key in ids]).any(0) for ids in sample.targets]
    masks = torch.stack(unions) if unions else torch.zeros(0, *grid, dtype=torch.bool)
    if sample.flipped:
        masks = masks.flip(-1)
    return Targets(masks, torch.tensor(sample.exists, dtype=torch.bool))


def mirror(features: ImageFeatures) -> ImageFeatures:
    """The features of the mirrored photo, as far as the frozen encoders are equivariant to a flip."""
    superpixels = features.superpixels
    width = superpixels.label_map.shape[1]
    x0, y0, x1, y1 = superpixels.boxes.unbind(1)
    flipped = Superpixels(
        superpixels.label_map.flip(-1),
        torch.stack([width - x1, y0, width - x0, y1], dim=1),
        superpixels.areas,
        superpixels.scores,
    )
    embeddings = features.image_embeddings
    if embeddings is not None:
        columns = -(-features.input_size[1] // SAM_EMBEDDING_STRIDE)
        embeddings = torch.cat([embeddings[..., :columns].flip(-1), embeddings[..., columns:]], dim=-1)
    return replace(
        features, superpixels=flipped, image_embeddings=embeddings, patch_features=features.patch_features.flip(-1)
    )


def superpixel_names(cached: CachedPhoto, categories: dict[int, int], coverage: Tensor) -> Tensor:
    """Which category each superpixel shows.

    Args:
        cached: the photo.
        categories: instance id → index of its category.
        coverage: `[I, S]` the part of each superpixel in each cached mask, in the order of `cached.masks`.

    Returns:
        `[S]` int64 index, -1 where no instance covers a superpixel well enough.
    """
    if not len(coverage):
        return torch.full((len(cached.features.superpixels),), UNNAMED, dtype=torch.int64)
    best, owner = coverage.max(dim=0)
    index = torch.tensor([categories[key] for key in cached.masks], dtype=torch.int64)[owner]
    return torch.where(best >= MIN_NAMED_COVERAGE, index, UNNAMED)
