"""The training steps, each from a batch of photos to a loss and what to log.

N [SEG] tokens, M decisions, S superpixels, K names, d head width, D LLM width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mllmseg.config import LossConfig
from mllmseg.models.head import HeadOutput, SegHead, maximise_expected_iou
from mllmseg.models.losses import existence_loss, mask_losses, pointer_losses, text_loss
from mllmseg.models.mllmseg import ImageOutput, MLLMSeg
from mllmseg.structures import ImageFeatures, PackedText, VisualTokens
from mllmseg.train.batch import OUTSIDE, RegionTargets, SuperpixelLabels, Targets, region_targets
from mllmseg.train.pointing import Recording, prompts, recorded_regions, replay

# Cosine similarities are sharpened by this before the softmax over category names.
NAMING_SHARPNESS = 20.0


@dataclass(frozen=True)
class StepResult:
    """A loss to differentiate and detached figures to log."""

    loss: Tensor
    figures: dict[str, float]


def naming_loss(visual: Sequence[VisualTokens], labels: Sequence[SuperpixelLabels], table: Tensor) -> StepResult:
    """Draws each superpixel's visual token towards the word embedding of what it shows.

    It gives the frozen language model words it knows before any text is trained on them (LLaVA's alignment stage,
    without a pass of the language model).

    Args:
        visual: the visual tokens of B photos.
        labels: what their superpixels show.
        table: `[K, D]` word embeddings of the names.
    """
    rows = [(item.assignment @ item.tokens)[label.names >= 0] for item, label in zip(visual, labels, strict=True)]
    names = torch.cat([label.names[label.names >= 0] for label in labels])
    if not len(names):
        return StepResult(table.new_zeros((), requires_grad=True), {})
    similarity = F.normalize(torch.cat(rows).float(), dim=1) @ F.normalize(table, dim=1).T
    loss = F.cross_entropy(similarity * NAMING_SHARPNESS, names)
    pull = 1 - similarity.gather(1, names[:, None]).mean()
    accuracy = (similarity.argmax(1) == names).float().mean()
    return StepResult(loss + pull, {"naming": loss.item(), "naming_accuracy": accuracy.item()})


def lexicon_loss(head: SegHead, lexicon: Sequence[Tensor], labels: Sequence[SuperpixelLabels]) -> StepResult:
    """Teaches the head's lexicon which name of its vocabulary each superpixel bears, or that it bears none.

    Where the labels only say that a superpixel shows nothing that was looked for, every other name stays possible.

    Args:
        head: whose `name_logits` are trained.
        lexicon: `[S, d]` of each photo.
        labels: what their superpixels show.
    """
    names = torch.cat([label.names for label in labels])
    scope = torch.cat([label.scope.expand(len(label.names), -1) for label in labels])
    logits = head.name_logits(torch.cat(list(lexicon))).float()
    named, outside = names >= 0, names == OUTSIDE
    told = named | outside
    if not told.any():
        return StepResult(logits.sum() * 0, {})
    possible = F.one_hot(names.clamp(min=0), logits.shape[1]).bool()
    possible[outside] = F.pad(~scope[outside], (0, 1), value=True)
    losses = logits.logsumexp(1) - logits.masked_fill(~possible, -torch.inf).logsumexp(1)
    figures = {"lexicon": losses[told].mean().item()}
    if named.any():
        figures["lexicon_accuracy"] = (logits.argmax(1) == names)[named].float().mean().item()
    return StepResult(losses[told].mean(), figures)


def instruct_loss(
    model: MLLMSeg,
    features: list[ImageFeatures],
    visual: list[VisualTokens],
    texts: list[PackedText],
    targets: list[Targets],
    weights: LossConfig,
    *,
    masks_per_photo: int,
) -> StepResult:
    """Text, pointer, mask and existence losses of B photos with their packed conversations."""
    output = model(features, visual, texts)
    text = text_loss(output.text_logits, output.text_labels)
    terms, figures = [{"text": text}], []
    if len(output.text_labels):
        right = (output.text_logits.argmax(-1) == output.text_labels).float().mean()
        figures.append({"token_accuracy": right.item()})
    for item, target, image in zip(features, targets, output.images, strict=True):
        pointed = _pointer_terms(image, region_targets(target, item.superpixels))
        chosen = torch.randperm(len(target.masks))[:masks_per_photo]
        masked = _mask_terms(model, item, image.head.select(chosen), target.masks[chosen])
        terms += [pointed.losses, masked.losses]
        figures += [pointed.figures, masked.figures]
    return _total(terms, figures, weights)


def point_loss(model: MLLMSeg, recordings: list[Recording], weights: LossConfig) -> StepResult:
    """Pointer and existence losses of the head on recorded hidden states, and its lexicon's names."""
    terms, figures, lexicon = [], [], []
    for recording in recordings:
        image, words = replay(model, recording)
        pointed = _pointer_terms(image, recording.targets)
        terms.append(pointed.losses)
        figures.append(pointed.figures)
        lexicon.append(words)
    named = lexicon_loss(model.head, lexicon, [SuperpixelLabels(item.names, item.scope) for item in recordings])
    result = _total(terms, figures, weights)
    return StepResult(result.loss + weights.naming * named.loss, result.figures | named.figures)


def refine_loss(
    model: MLLMSeg,
    features: list[ImageFeatures],
    recordings: list[Recording],
    weights: LossConfig,
    *,
    masks_per_photo: int,
) -> StepResult:
    """Mask losses through SAM's decoder, prompted as at inference: with the superpixels of the answer chosen."""
    terms, figures = [], []
    for item, recording in zip(features, recordings, strict=True):
        chosen = torch.randperm(len(recording.masks))[:masks_per_photo]
        head = prompts(model, recording, recorded_regions(model, recording)).select(chosen)
        head = replace(head, superpixel_logits=maximise_expected_iou(head.superpixel_logits, recording.areas))
        masked = _mask_terms(model, item, head, recording.masks[chosen])
        terms.append(masked.losses)
        figures.append(masked.figures)
    return _total(terms, figures, weights)


@dataclass(frozen=True)
class _Terms:
    losses: dict[str, Tensor]
    figures: dict[str, float]


def _total(terms: list[dict[str, Tensor]], figures: list[dict[str, float]], weights: LossConfig) -> StepResult:
    """The weighted sum of the mean of each loss; a photo without a loss does not count for it."""
    losses = {name: torch.stack([item[name] for item in terms if name in item]).mean() for name in _keys(terms)}
    logged = {
        name: sum(item[name] for item in figures if name in item) / sum(name in item for item in figures)
        for name in _keys(figures)
    }
    zero = torch.zeros((), requires_grad=True)
    loss = sum((getattr(weights, name) * value for name, value in losses.items()), start=zero)
    return StepResult(loss, logged | {name: value.item() for name, value in losses.items()} | {"loss": loss.item()})


def _keys(items: Sequence[dict[str, Tensor]] | Sequence[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(key for item in items for key in item))


def _pointer_terms(image: ImageOutput, targets: RegionTargets) -> _Terms:
    """Pointer and existence losses of one photo."""
    losses: dict[str, Tensor] = {}
    figures: dict[str, float] = {}
    exist_logits = image.exist_logits.float()
    if len(targets.exists):
        losses["existence"] = existence_loss(exist_logits, targets.exists)
        losses["decision_pointer"] = _decision_pointer_loss(image, targets)
        right = (exist_logits.detach() > 0) == targets.exists
        for name, chosen in (("seg_recall", targets.exists), ("rej_recall", ~targets.exists)):
            if chosen.any():
                figures[name] = right[chosen].float().mean().item()
    if len(targets.coverage):
        logits = image.head.superpixel_logits.float()
        losses["pointer_bce"], losses["pointer_dice"] = pointer_losses(logits, targets.coverage, targets.areas)
        figures["pointer_iou"] = _pointer_iou(logits.detach(), targets)
    return _Terms(losses, figures)


def _mask_terms(model: MLLMSeg, features: ImageFeatures, head: HeadOutput, masks: Tensor) -> _Terms:
    """Mask losses of one photo through SAM's decoder."""
    if not len(masks):
        return _Terms({}, {})
    low_res_masks, _ = model.decode(features, head)
    height, width = features.superpixels.label_map.shape
    valid = low_res_masks[:, :height, :width]
    bce, dice = mask_losses(valid, masks)
    overlap = ((valid > 0) & masks).flatten(1).sum(1)
    ious = overlap / ((valid > 0) | masks).flatten(1).sum(1).clamp(min=1)
    return _Terms({"mask_bce": bce, "mask_dice": dice}, {"mask_iou": ious.mean().item()})


def _decision_pointer_loss(image: ImageOutput, targets: RegionTargets) -> Tensor:
    """BCE of where the target would be, before deciding: nowhere if it does not exist.

    It gives the decision something to look at. Each accepted decision has one [SEG] in the training conversations.
    """
    logits = image.decision_superpixel_logits.float()
    if int(targets.exists.sum()) != len(targets.coverage):
        return logits.new_zeros(())
    expected = torch.zeros_like(logits)
    expected[targets.exists] = targets.coverage
    return F.binary_cross_entropy_with_logits(logits, expected)


def _pointer_iou(logits: Tensor, targets: RegionTargets) -> float:
    """Mean IoU of the union of chosen superpixels with the target."""
    chosen = (maximise_expected_iou(logits, targets.areas) > 0).float()
    overlap = (chosen * targets.coverage * targets.areas).sum(1)
    union = (chosen * targets.areas).sum(1) + targets.mask_areas - overlap
    return float((overlap / union.clamp(min=1)).mean())
