"""The three training steps, each from a batch of photos to a loss and what to log.

N [SEG] tokens, M decisions, S superpixels, K categories, D LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mllmseg.config import LossConfig
from mllmseg.models.losses import (
    existence_loss,
    mask_losses,
    pointer_losses,
    superpixel_coverage,
    text_loss,
)
from mllmseg.models.mllm import Mllm
from mllmseg.models.mllmseg import ImageOutput, MLLMSeg
from mllmseg.structures import ImageFeatures, PackedText, VisualTokens
from mllmseg.train.batch import UNNAMED, Targets
from mllmseg.train.pointing import Recording, replay

# Cosine similarities are sharpened by this before the softmax over category names.
NAMING_SHARPNESS = 20.0


@dataclass(frozen=True)
class StepResult:
    """A loss to differentiate and detached figures to log."""

    loss: Tensor
    figures: dict[str, float]


def name_embeddings(mllm: Mllm, names: list[str]) -> Tensor:
    """`[K, D]` the mean word embedding of each category's name, as the language model would read it mid-sentence."""
    table = mllm.word_embeddings().float()
    ids = [mllm.tokenizer(" " + name, add_special_tokens=False)["input_ids"] for name in names]
    return torch.stack([table[item].mean(0) for item in ids])


def naming_loss(visual: list[VisualTokens], names: list[Tensor], table: Tensor) -> StepResult:
    """Draws each superpixel's visual token towards the word embedding of what it shows.

    It gives the frozen language model words it knows before any text is trained on them (LLaVA's alignment stage,
    without a pass of the language model).

    Args:
        visual: the visual tokens of B photos.
        names: per photo `[S]` category index or -1.
        table: `[K, D]` from `name_embeddings`.
    """
    rows, labels = [], []
    for tokens, index in zip(visual, names, strict=True):
        known = index != UNNAMED
        rows.append((tokens.assignment @ tokens.tokens)[known])
        labels.append(index[known])
    label = torch.cat(labels)
    if not len(label):
        return StepResult(table.new_zeros((), requires_grad=True), {})
    similarity = F.normalize(torch.cat(rows).float(), dim=1) @ F.normalize(table, dim=1).T
    loss = F.cross_entropy(similarity * NAMING_SHARPNESS, label)
    pull = 1 - similarity.gather(1, label[:, None]).mean()
    accuracy = (similarity.argmax(1) == label).float().mean()
    return StepResult(loss + pull, {"naming": loss.item(), "naming_accuracy": accuracy.item()})


def point_loss(
    model: MLLMSeg,
    features: list[ImageFeatures],
    recordings: list[Recording],
    names: list[Tensor],
    table: Tensor,
    weights: LossConfig,
    *,
    masks_per_step: int,
) -> StepResult:
    """Pointer, mask and existence losses of the head on recorded hidden states, and its lexicon's names.

    Only the first photo of a batch goes through SAM's mask decoder, which costs more than all the rest.
    """
    parts: dict[str, list[Tensor]] = {}
    lexicon, labels = [], []
    for number, (item, recording, index) in enumerate(zip(features, recordings, names, strict=True)):
        image, words = replay(model, item, recording)
        targets = Targets(recording.masks, recording.exists)
        count = masks_per_step if number == 0 else 0
        for name, value in _image_losses(model, item, targets, image, count).items():
            parts.setdefault(name, []).append(value)
        lexicon.append(words[index != UNNAMED])
        labels.append(index[index != UNNAMED])
    losses = {name: torch.stack(values).mean() for name, values in parts.items() if not name.startswith("_")}
    figures = {name[1:]: torch.stack(values).mean().item() for name, values in parts.items() if name[0] == "_"}
    label = torch.cat(labels)
    if len(label):
        similarity = NAMING_SHARPNESS * torch.cat(lexicon) @ model.head.name(table).T
        losses["naming"] = F.cross_entropy(similarity, label)
        figures["naming_accuracy"] = (similarity.argmax(1) == label).float().mean().item()
    loss = sum(getattr(weights, name) * value for name, value in losses.items())
    assert isinstance(loss, Tensor)
    return StepResult(loss, figures | {name: value.item() for name, value in losses.items()} | {"loss": loss.item()})


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
    losses = {"text": text_loss(output.text_logits, output.text_labels)}
    figures = {}
    if len(output.text_labels):
        figures["token_accuracy"] = (output.text_logits.argmax(-1) == output.text_labels).float().mean().item()
    parts: dict[str, list[Tensor]] = {}
    for item, target, image in zip(features, targets, output.images, strict=True):
        for name, value in _image_losses(model, item, target, image, masks_per_photo).items():
            parts.setdefault(name, []).append(value)
    losses |= {name: torch.stack(values).mean() for name, values in parts.items() if not name.startswith("_")}
    figures |= {name[1:]: torch.stack(values).mean().item() for name, values in parts.items() if name[0] == "_"}
    loss = sum(getattr(weights, name) * value for name, value in losses.items())
    assert isinstance(loss, Tensor)
    return StepResult(loss, figures | {name: value.item() for name, value in losses.items()} | {"loss": loss.item()})


def _image_losses(
    model: MLLMSeg, features: ImageFeatures, targets: Targets, image: ImageOutput, masks_per_photo: int
) -> dict[str, Tensor]:
    """Losses of one photo; names that start with `_` are figures."""
    result: dict[str, Tensor] = {}
    exist_logits = image.exist_logits.float()
    if len(targets.exists):
        result["existence"] = existence_loss(exist_logits, targets.exists)
        right = (exist_logits.detach() > 0) == targets.exists
        for name, chosen in (("_seg_recall", targets.exists), ("_rej_recall", ~targets.exists)):
            if chosen.any():
                result[name] = right[chosen].float().mean()
    superpixels = features.superpixels
    coverage = superpixel_coverage(targets.masks, superpixels.label_map, len(superpixels))
    result["decision_pointer"] = _decision_pointer_loss(image, targets, coverage)
    if not len(targets.masks):
        return result
    logits = image.head.superpixel_logits.float()
    result["pointer_bce"], result["pointer_dice"] = pointer_losses(logits, coverage, superpixels.areas)
    result["_pointer_iou"] = _pointer_iou(logits.detach(), coverage, superpixels.areas, targets.masks)
    chosen = torch.randperm(len(targets.masks))[:masks_per_photo]
    if len(chosen):
        low_res_masks, _ = model.decode(features, image.head.select(chosen))
        height, width = superpixels.label_map.shape
        valid, wanted = low_res_masks[:, :height, :width], targets.masks[chosen]
        result["mask_bce"], result["mask_dice"] = mask_losses(valid, wanted)
        overlap = ((valid > 0) & wanted).flatten(1).sum(1)
        result["_mask_iou"] = (overlap / ((valid > 0) | wanted).flatten(1).sum(1).clamp(min=1)).mean()
    return result


def _decision_pointer_loss(image: ImageOutput, targets: Targets, coverage: Tensor) -> Tensor:
    """BCE of where the target would be, before deciding: nowhere if it does not exist.

    It gives the decision something to look at. Each accepted decision has one [SEG] in the training conversations.
    """
    logits = image.decision_superpixel_logits.float()
    if not len(logits) or int(targets.exists.sum()) != len(coverage):
        return logits.new_zeros(())
    expected = torch.zeros_like(logits)
    expected[targets.exists] = coverage
    return F.binary_cross_entropy_with_logits(logits, expected)


def _pointer_iou(logits: Tensor, coverage: Tensor, areas: Tensor, masks: Tensor) -> Tensor:
    """Mean IoU of the union of chosen superpixels with the target."""
    chosen = (logits > 0).float()
    overlap = (chosen * coverage * areas).sum(1)
    union = (chosen * areas).sum(1) + masks.flatten(1).sum(1) - overlap
    return (overlap / union.clamp(min=1)).mean()
