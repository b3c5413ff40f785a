"""From a sample and cached features to the tensors of a training step.

N [SEG] tokens, M decisions, I instances, S superpixels, K names, h w the valid window of SAM's low-res grid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mllmseg.constants import SAM_EMBEDDING_STRIDE
from mllmseg.data.affordances import WORN
from mllmseg.data.datasets.coco_mini import Photo
from mllmseg.data.training import Sample
from mllmseg.models.losses import superpixel_coverage
from mllmseg.structures import ImageFeatures, Movable, Superpixels

# A superpixel bears the name of a category that covers it this much, and shows nothing that was labelled below that.
MIN_NAMED_COVERAGE = 0.6
MAX_OUTSIDE_COVERAGE = 0.15


@dataclass(frozen=True)
class Targets(Movable):
    """What the model should say about one photo.

    Attributes:
        masks: `[N, h, w]` bool, one per [SEG].
        exists: `[M]` bool, one per decision.
    """

    masks: Tensor
    exists: Tensor


@dataclass(frozen=True)
class RegionTargets(Movable):
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
class SuperpixelLabels(Movable):
    """What the labels say each superpixel shows.

    Attributes:
        names: `[S, K]` bool: the names it bears, several where instances lie on one another: a person and a shirt.
        open: `[S, K]` bool: names of which the labels do not tell whether it bears them.
    """

    names: Tensor
    open: Tensor

    @classmethod
    def join(cls, labels: Iterable[SuperpixelLabels]) -> SuperpixelLabels:
        """The labels of several photos' superpixels, one photo after the other."""
        names, left = zip(*((item.names, item.open) for item in labels), strict=True)
        return cls(torch.cat(names), torch.cat(left))

    @property
    def named(self) -> Tensor:
        """`[S]` bool: the superpixels that bear a name."""
        return self.names.any(1)

    @property
    def told(self) -> Tensor:
        """`[S]` bool: the superpixels that the labels tell anything about, be it only what they do not show."""
        return self.named | ~self.open.all(1)


def region_targets(targets: Targets, superpixels: Superpixels) -> RegionTargets:
    """Counts targets in superpixels."""
    return RegionTargets(
        coverage=superpixel_coverage(targets.masks, superpixels.label_map, len(superpixels)),
        areas=superpixels.areas,
        mask_areas=targets.masks.flatten(1).sum(1),
        exists=targets.exists,
    )


def sample_targets(sample: Sample) -> Targets:
    """What the model should say about a sample."""
    return Targets(sample.masks, torch.tensor(sample.exists, dtype=torch.bool))


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


def unnamed(superpixels: Superpixels, count: int) -> SuperpixelLabels:
    """The labels of an image that has none; `count`: K."""
    nothing = torch.zeros(len(superpixels), count, dtype=torch.bool)
    return SuperpixelLabels(nothing, ~nothing)


def superpixel_labels(
    photo: Photo, masks: Mapping[int, Tensor], superpixels: Superpixels, index: Mapping[str, int], count: int
) -> SuperpixelLabels:
    """Which names each superpixel bears.

    A superpixel that nothing labelled covers shows nothing that was looked for, unless it meets the box of an instance
    without a mask. What people wear is left open where only people were labelled.

    Args:
        photo: its labels, as they are upright: names stay with their superpixels in a mirrored photo.
        masks: instance id → `[h, w]` bool.
        superpixels: of the photo.
        index: category → index of its name; categories without one are not used.
        count: K.
    """
    seen, unseen = torch.zeros(2, *superpixels.label_map.shape, dtype=torch.bool)
    scale = max(superpixels.label_map.shape) / max(photo.size)
    for item in photo.instances:
        if item.id not in masks:
            x, y, width, height = (side * scale for side in item.box)
            unseen[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1] = True
    stacked = torch.stack([seen, unseen, *masks.values()])
    coverage = superpixel_coverage(stacked, superpixels.label_map, len(superpixels))
    best = coverage[[0, *range(2, len(stacked))]].amax(dim=0)
    labels = unnamed(superpixels, count)
    outside = (best < MAX_OUTSIDE_COVERAGE) & (coverage[1] < MAX_OUTSIDE_COVERAGE)
    labels.open[outside] = ~_marked(photo.scope, index, count)
    categories = {item.id: item.category for item in photo.instances}
    for category, covered in zip(map(categories.__getitem__, masks), coverage[2:] >= MIN_NAMED_COVERAGE, strict=True):
        if category in index:
            labels.names[:, index[category]] |= covered
    labels.open[labels.named] = False
    if "person" in index:
        labels.open[labels.names[:, index["person"]]] = _marked(WORN - photo.scope, index, count)
    return labels


def _marked(categories: Collection[str], index: Mapping[str, int], count: int) -> Tensor:
    """`[K]` bool: the names of these categories."""
    marked = torch.zeros(count, dtype=torch.bool)
    marked[[index[category] for category in categories if category in index]] = True
    return marked
