"""What the head needs from the language model, written down once, so that the head alone can be trained at length.

A step of the whole model costs seconds on a CPU, a step of the head on recorded hidden states a tenth of that. The last
stages therefore let the trained language model read every photo with fresh questions, store the hidden states at
[SEG], at decisions and at visual tokens with all else that the head reads, and train the head on them.

N [SEG] tokens, M decisions, S superpixels, T tokens, C patch-feature channels, G geometry values, K names, D LLM width.
"""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass, fields

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mllmseg.models.head import HeadOutput, Regions
from mllmseg.models.mllm import branch_attention_mask
from mllmseg.models.mllmseg import ImageOutput, MLLMSeg
from mllmseg.models.pooling import pool_superpixels, superpixel_geometry
from mllmseg.structures import ImageFeatures, Movable, PackedText, VisualTokens
from mllmseg.train.batch import RegionTargets, SuperpixelLabels, Targets, region_targets


@dataclass(frozen=True)
class Recording(Movable):
    """Hidden states of one reading of one photo.

    Attributes:
        input_ids, branch_ids, seg_positions, decision_positions: of the packed text.
        seg_hidden: `[N, D]`.
        decision_hidden: `[M, D]`.
        margin: `[M]` the language model's own logit of [SEG] minus [REJ].
        visual_hidden: `[S, D]` per superpixel.
        pooled, geometry: `[S, C]` and `[S, G]` features and shape of each superpixel.
        masks: `[N, h, w]` bool targets.
        coverage, areas: `[N, S]` and `[S]` the targets, counted in superpixels.
        exists: `[M]` bool.
        names, open: `[S, K]` bool, see `SuperpixelLabels`.
        flipped: scalar bool: whether the photo was mirrored.
    """

    input_ids: Tensor
    branch_ids: Tensor
    seg_positions: Tensor
    decision_positions: Tensor
    seg_hidden: Tensor
    decision_hidden: Tensor
    margin: Tensor
    visual_hidden: Tensor
    pooled: Tensor
    geometry: Tensor
    masks: Tensor
    coverage: Tensor
    areas: Tensor
    exists: Tensor
    names: Tensor
    open: Tensor
    flipped: Tensor

    @property
    def targets(self) -> RegionTargets:
        """What the pointer should say."""
        return RegionTargets(self.coverage.float(), self.areas, self.masks.flatten(1).sum(1), self.exists)

    @property
    def labels(self) -> SuperpixelLabels:
        """What its superpixels show."""
        return SuperpixelLabels(self.names, self.open)

    def save(self, path: pathlib.Path) -> None:
        """Writes it under a temporary name, then renames it; masks as bits."""
        tensors = {item.name: getattr(self, item.name) for item in fields(self)}
        tensors["mask_shape"] = torch.tensor(self.masks.shape)
        tensors["masks"] = torch.from_numpy(np.packbits(self.masks.numpy()))
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        temporary.rename(path)

    @classmethod
    def load(cls, path: pathlib.Path) -> Recording:
        """Reads what `save` wrote."""
        tensors = load_file(path)
        shape = tensors.pop("mask_shape").tolist()
        bits = np.unpackbits(tensors["masks"].numpy(), count=int(np.prod(shape)))
        tensors["masks"] = torch.from_numpy(bits.astype(bool)).view(*shape)
        return cls(**tensors)


@torch.no_grad()
def record(
    model: MLLMSeg,
    features: ImageFeatures,
    tokens: VisualTokens,
    text: PackedText,
    targets: Targets,
    labels: SuperpixelLabels,
    *,
    flipped: bool,
) -> Recording:
    """Reads a packed text about a photo's visual tokens and keeps the hidden states that matter (float16)."""
    hidden, _ = model.mllm(
        text.input_ids[None],
        visual_tokens=tokens.embeddings,
        attention_mask=branch_attention_mask([text]),
        position_ids=text.position_ids[None],
    )
    hidden = hidden[0].float()
    decisions = hidden[text.decision_positions]
    superpixels = features.superpixels
    counted = region_targets(targets, superpixels)
    return Recording(
        input_ids=text.input_ids,
        branch_ids=text.branch_ids,
        seg_positions=text.seg_positions,
        decision_positions=text.decision_positions,
        seg_hidden=hidden[text.seg_positions].half(),
        decision_hidden=decisions.half(),
        margin=model.mllm.decision_margin(decisions).float(),
        visual_hidden=(tokens.assignment @ hidden[text.input_ids == model.mllm.image_token_id]).half(),
        pooled=pool_superpixels(features.patch_features, superpixels).half(),
        geometry=superpixel_geometry(superpixels).half(),
        masks=targets.masks,
        coverage=counted.coverage.half(),
        areas=counted.areas,
        exists=targets.exists,
        names=labels.names,
        open=labels.open,
        flipped=torch.tensor(flipped),
    )


def replay(model: MLLMSeg, recording: Recording) -> tuple[ImageOutput, Tensor]:
    """The head's output on a recording, and the `[S, d]` lexicon of its superpixels."""
    regions = recorded_regions(model, recording)
    words = model.words(recording.input_ids, recording.branch_ids, recording.decision_positions + 1)
    exist_logits, superpixel_logits = model.head.existence(
        recording.decision_hidden.float(), words, regions, recording.margin
    )
    return ImageOutput(prompts(model, recording, regions), exist_logits, superpixel_logits), regions.lexicon


def recorded_regions(model: MLLMSeg, recording: Recording) -> Regions:
    """The head's view of the superpixels of a recording."""
    views = (recording.pooled, recording.geometry, recording.visual_hidden)
    return model.head.regions(*(view.float() for view in views))


def prompts(model: MLLMSeg, recording: Recording, regions: Regions) -> HeadOutput:
    """What SAM is prompted with at each [SEG] of a recording."""
    words = model.words(recording.input_ids, recording.branch_ids, recording.seg_positions)
    output: HeadOutput = model.head(recording.seg_hidden.float(), words, regions)
    return output
