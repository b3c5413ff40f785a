"""From a sample and a cached photo to the tensors of a training step.

N [SEG] tokens, M decisions, I instances, S superpixels, K names, h w the valid window of SAM's low-res grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mllmseg.constants import SAM_EMBEDDING_STRIDE
from mllmseg.data.datasets.coco_mini import Photo, instance_mask
from mllmseg.data.mixture import Sample
from mllmseg.models.losses import superpixel_coverage
from mllmseg.structures import ImageFeatures, Superpixels
from mllmseg.train.cache import CachedImage, CacheEntry

# A superpixel bears the name of a category that covers it this much, and shows nothing that was labelled below that.
MIN_NAMED_COVERAGE = 0.6
MAX_OUTSIDE_COVERAGE = 0.15
UNNAMED, OUTSIDE = -1, -2


@dataclass(frozen=True)
class CachedPhoto:
    """Features of a photo and the masks of its instances.

    Attributes:
        features: as `CachedImage` has them.
        masks: instance id → `[h, w]` bool.
        estimated: ids whose mask SAM estimated from a box; the others are human.
    """

    features: ImageFeatures
    masks: dict[int, Tensor]
    estimated: frozenset[int]


@dataclass(frozen=True)
class Targets:
    """What the model should say about one photo.

    Attributes:
        masks: `[N, h, w]` bool, one per [SEG].
        exists: `[M]` bool, one per decision.
    """

    masks: Tensor
    exists: Tensor


@dataclass(frozen=True)
class RegionTargets:
    """The same, counted in superpixels.

    Attributes:
        coverage: `[N, S]` the part of each superpixel that lies in the target, 0..1.
        areas: `[S]` pixels.
        mask_areas: `[N]` pixels of each target.
        exists: `[M]` bool.
    """

    coverage: Tensor
    areas: Tensor
    mask_areas: Tensor
    exists: Tensor


@dataclass(frozen=True)
class SuperpixelLabels:
    """What the labels say each superpixel shows.

    Attributes:
        names: `[S]` index of a name; `OUTSIDE`: nothing of `scope`; `UNNAMED`: the labels do not tell.
        scope: `[K]` bool: names that were looked for in this photo.
    """

    names: Tensor
    scope: Tensor


def cache_entry(photo: Photo) -> CacheEntry:
    """What the cache should hold about a photo: its features, and masks for the things that have a box only."""
    boxed = {item.id: item.box for item in photo.instances if not item.segmentation and not item.is_crowd}
    return CacheEntry(photo.path, boxed, photo.size)


def cached_photo(photo: Photo, image: CachedImage) -> CachedPhoto:
    """Joins what is cached about a photo with what people drew, at the resolution of the label map."""
    grid = image.features.superpixels.label_map.shape
    masks = {}
    for item in photo.instances:
        if item.segmentation:
            drawn = torch.from_numpy(instance_mask(photo, item)).float()
            masks[item.id] = F.interpolate(drawn[None, None], size=grid, mode="area")[0, 0] >= 0.5
    return CachedPhoto(image.features, masks | image.estimated, frozenset(image.estimated))


def region_targets(targets: Targets, superpixels: Superpixels) -> RegionTargets:
    """Counts targets in superpixels."""
    return RegionTargets(
        coverage=superpixel_coverage(targets.masks, superpixels.label_map, len(superpixels)),
        areas=superpixels.areas,
        mask_areas=targets.masks.flatten(1).sum(1),
        exists=targets.exists,
    )


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


def superpixel_labels(photo: Photo, cached: CachedPhoto, index: Mapping[str, int], count: int) -> SuperpixelLabels:
    """Which name each superpixel bears.

    A superpixel that nothing labelled covers is `OUTSIDE`, unless it meets the box of an instance without a mask.

    Args:
        photo: its labels, as they are upright: names stay with their superpixels in a mirrored photo.
        cached: its superpixels and masks.
        index: category → index of its name; categories without one are not used.
        count: K.
    """
    superpixels = cached.features.superpixels
    names = {item.id: index.get(item.category, UNNAMED) for item in photo.instances}
    seen, unseen = torch.zeros(2, *superpixels.label_map.shape, dtype=torch.bool)
    scale = max(superpixels.label_map.shape) / max(photo.size)
    for item in photo.instances:
        if item.id not in cached.masks:
            x, y, width, height = (side * scale for side in item.box)
            unseen[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1] = True
    masks = torch.stack([seen, unseen, *cached.masks.values()])
    coverage = superpixel_coverage(masks, superpixels.label_map, len(superpixels))
    unseen_part, best, owner = coverage[1], *coverage[[0, *range(2, len(masks))]].max(dim=0)
    owners = torch.tensor([UNNAMED, *(names[key] for key in cached.masks)])
    found = torch.where(best >= MIN_NAMED_COVERAGE, owners[owner], UNNAMED)
    found[(best < MAX_OUTSIDE_COVERAGE) & (unseen_part < MAX_OUTSIDE_COVERAGE)] = OUTSIDE
    scope = torch.zeros(count, dtype=torch.bool)
    scope[[index[category] for category in photo.scope if category in index]] = True
    return SuperpixelLabels(found, scope)
