"""What the stages hand to each other: small frozen dataclasses of tensors.

Shapes: B batch, S superpixels of one image, N [SEG] tokens, H W the image's own size, h w SAM's low-res grid cropped
to the valid window (stride 4 of the 1024-pixel SAM input), C channels, D LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypedDict

import torch
from torch import Tensor


class Movable:
    """Gives a dataclass of tensors `.to(...)`, applied to every tensor (and nested structure) in it."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves floating tensors as `torch.Tensor.to` does; integer and bool tensors change their device only."""
        changes: dict[str, Any] = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Movable):
                changes[item.name] = value.to(*args, **kwargs)
            elif isinstance(value, Tensor):
                moved = value.to(*args, **kwargs)
                changes[item.name] = moved if value.is_floating_point() else moved.to(value.dtype)
        return replace(self, **changes)  # type: ignore[type-var]


class TowerInput(TypedDict):
    """What a vision tower wants to see, as keywords of `preprocess`, which says what they mean."""

    tower_size: int | None
    patch_size: int
    square: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ImageInputs(Movable):
    """One image, preprocessed for every stage that looks at pixels.

    Attributes:
        sam_pixels: `[3, 1024, 1024]`, normalised, long side 1024, padded with zeros below or to the right.
        tower_pixels: `[3, h', w']`, normalised, both sides multiples of the vision tower's patch size, no padding.
        input_size: (height, width) of the valid window of `sam_pixels`, in pixels.
        original_size: (height, width) of the image itself, after EXIF orientation, in pixels.
    """

    sam_pixels: Tensor
    tower_pixels: Tensor
    input_size: tuple[int, int]
    original_size: tuple[int, int]


@dataclass(frozen=True)
class Superpixels(Movable):
    """A partition of one image into S regions.

    Attributes:
        label_map: `[h, w]` int64, values 0..S-1, all used; SAM's low-res grid cropped to the valid window.
        boxes: `[S, 4]` (x0, y0, x1, y1) in low-res pixels, exclusive at the end.
        areas: `[S]` pixels of the label map.
        scores: `[S]` SAM's predicted IoU of the mask a region comes from; 0 for regions no mask covers.
    """

    label_map: Tensor
    boxes: Tensor
    areas: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return self.areas.shape[0]


@dataclass(frozen=True)
class ImageFeatures(Movable):
    """Everything that depends on the image alone and is computed once.

    Attributes:
        image_embeddings: `[1, 256, 64, 64]` from SAM's image encoder, or None where only cached features exist.
        superpixels: the partition.
        patch_features: `[C, h', w']` from the vision tower, over the valid image (no padding).
        input_size: (height, width) of the valid window of SAM's input, in pixels.
        original_size: (height, width) of the image, in pixels.
    """

    image_embeddings: Tensor | None
    superpixels: Superpixels
    patch_features: Tensor
    input_size: tuple[int, int]
    original_size: tuple[int, int]


@dataclass(frozen=True)
class Segmentation:
    """The answer to one query about one image.

    Attributes:
        query: the question.
        answer: the words.
        exists: whether the target is in the image, `score >= threshold`; false where an answer in words decides
            nothing. Where false, `masks` has no rows.
        score: P(the target exists), calibrated, 0..1.
        masks: `[N, H, W]` bool at the image's own size.
        boxes: `[N, 4]` int64 (x, y, width, height) in pixels of the image, tight around each mask.
        mask_scores: `[N]` SAM's own estimate of each mask's IoU.
        superpixels: the regions the model looked at.
        superpixel_scores: `[N, S]` probability that each region belongs to the target.
        num_visual_tokens: visual tokens the language model read.
        timings: milliseconds by stage.
    """

    query: str
    answer: str
    exists: bool
    score: float
    masks: Tensor
    boxes: Tensor
    mask_scores: Tensor
    superpixels: Superpixels
    superpixel_scores: Tensor
    num_visual_tokens: int
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def chosen_superpixels(self) -> Tensor:
        """`[N, S]` bool: the regions whose probability is at least one half."""
        return self.superpixel_scores >= 0.5

    @property
    def union(self) -> Tensor:
        """`[H, W]` bool: all masks together."""
        return self.masks.any(0) if len(self.masks) else torch.zeros(self.masks.shape[1:], dtype=torch.bool)


@dataclass(frozen=True)
class VisualTokens(Movable):
    """What a projector gives the language model for one image.

    Attributes:
        tokens: `[T, D]` one row per image placeholder.
        assignment: `[S, T]` rows sum to 1: how each superpixel is made of tokens (identity for `semantic`), so that
            what the language model makes of the tokens can be read back per superpixel.
        deepstack: `[T, k * D]` what some VLMs add to the hidden states of these tokens after each of their first k
            layers; None for all others.
    """

    tokens: Tensor
    assignment: Tensor
    deepstack: Tensor | None = None

    @property
    def embeddings(self) -> Tensor:
        """`[T, (1 + k) * D]`: all that the language model reads, which is `tokens` where there is no DeepStack."""
        return self.tokens if self.deepstack is None else torch.cat([self.tokens, self.deepstack], dim=1)


@dataclass(frozen=True)
class Turn:
    """One question and its answer; an answer about the picture starts with `[SEG]` or `[REJ]`."""

    question: str
    answer: str


@dataclass(frozen=True)
class PackedText(Movable):
    """One image's prefix (system prompt, visual placeholders) followed by branches that do not see each other.

    A branch is a conversation about the image. All branches share the prefix, so its visual tokens are computed
    once for all the questions of a training sample or a batch of queries.

    Attributes:
        input_ids: `[T]` int64.
        labels: `[T]` int64, the token itself where the text loss counts, else -100.
        position_ids: `[T]` int64; each branch continues from the end of the prefix.
        branch_ids: `[T]` int64; 0 for the prefix, 1.. for the branches.
        decision_positions: `[M]` int64, the token before each decision ([SEG] or [REJ]) that opens an answer.
        seg_positions: `[N]` int64, the [SEG] tokens.
        prefix_length: tokens of the prefix, whether or not they are part of `input_ids` (they may lie in a KV cache).
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    branch_ids: Tensor
    decision_positions: Tensor
    seg_positions: Tensor
    prefix_length: int
