"""The losses of the training steps: sums over a batch, with what they are to be divided by.

A mean over the global batch is not the mean of the means of its parts: one process may hold twice the words of another.
So every loss comes as a sum and a count, and whoever holds the parts divides by the count of them all.

N [SEG] tokens, M decisions, S superpixels, K names, d head width, D LLM width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mllmseg.config import LossConfig
from mllmseg.constants import IGNORE_INDEX
from mllmseg.models.head import HeadOutput, SegHead, maximise_expected_iou
from mllmseg.models.losses import existence_loss, mask_losses, pointer_losses, text_loss
from mllmseg.models.mllmseg import ImageOutput, MLLMSeg
from mllmseg.structures import ImageFeatures, PackedText, VisualTokens
from mllmseg.train.batch import RegionTargets, SuperpixelLabels, Targets, region_targets
from mllmseg.train.pointing import Recording, prompts, recorded_regions, replay

# Cosine similarities are sharpened by this before the softmax over category names.
NAMING_SHARPNESS = 20.0
LOSSES = (
    "text", "existence", "decision_pointer", "pointer_bce", "pointer_dice", "mask_bce", "mask_dice", "naming", "lexicon"
)  # fmt: skip
FIGURES = (
    "token_accuracy", "naming_accuracy", "lexicon_accuracy", "pointer_iou", "mask_iou", "seg_recall", "rej_recall"
)  # fmt: skip


@dataclass
class Terms:
    """Losses and figures of a part of a batch, by name: each a sum and the number of things summed over.

    `outputs` is what the model said, whether or not a loss is made of it: it depends on every trained parameter.
    """

    losses: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    figures: dict[str, tuple[float, int]] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)

    def add_loss(self, name: str, value: Tensor, count: int = 1) -> None:
        """Adds a sum over `count` things to a loss of `LOSSES`."""
        if name not in LOSSES:
            raise KeyError(f"{name} is none of {LOSSES}")
        total, number = self.losses.get(name, (value.new_zeros(()), 0))
        self.losses[name] = total + value, number + count

    def add_figure(self, name: str, value: Tensor | float, count: int = 1) -> None:
        """Adds a sum over `count` things to a figure of `FIGURES`."""
        if name not in FIGURES:
            raise KeyError(f"{name} is none of {FIGURES}")
        total, number = self.figures.get(name, (0.0, 0))
        self.figures[name] = total + float(value), number + count

    @property
    def counts(self) -> dict[str, int]:
        """What each loss is divided by where this is the whole batch."""
        return {name: count for name, (_, count) in self.losses.items()}

    def total(self, weights: Mapping[str, float], counts: Mapping[str, float]) -> Tensor:
        """The part's contribution to the loss of a batch in which each loss counts `counts` times.

        Every trained parameter gets a gradient, be it zero: which losses there are depends on the photos, and processes
        that reduce the gradients of different parameters wait for each other for ever.
        """
        parts = [weights[name] * value / max(1, counts[name]) for name, (value, _) in self.losses.items()]
        parts += [0 * output.float().sum() for output in self.outputs]
        return torch.stack(parts).sum()

    def detached(self) -> dict[str, tuple[float, int]]:
        """Losses and figures alike, as numbers."""
        return {name: (value.item(), count) for name, (value, count) in self.losses.items()} | self.figures


def loss_weights(weights: LossConfig) -> dict[str, float]:
    """The weight of each of `LOSSES`; the lexicon counts as much as naming does."""
    return {**weights.model_dump(), "lexicon": weights.naming}


def naming_loss(visual: Sequence[VisualTokens], labels: Sequence[SuperpixelLabels], table: Tensor) -> Terms:
    """Draws each superpixel's visual token towards the word embedding of what it shows.

    It gives the frozen language model words it knows before any text is trained on them (LLaVA's alignment stage,
    without a pass of the language model).

    Args:
        visual: the visual tokens of B photos.
        labels: what their superpixels show.
        table: `[K, D]` word embeddings of the names.
    """
    rows = [(item.assignment @ item.tokens)[label.named] for item, label in zip(visual, labels, strict=True)]
    known = SuperpixelLabels.join(labels)
    names, left = known.names[known.named], known.open[known.named]
    terms = Terms(outputs=[item.tokens for item in visual])
    if len(names):
        similarity = F.normalize(torch.cat(rows).float(), dim=1) @ F.normalize(table, dim=1).T
        own = (names / names.sum(1, keepdim=True) * similarity).sum(1)
        logits = similarity * NAMING_SHARPNESS
        losses = logits.masked_fill(left, -torch.inf).logsumexp(1) - own * NAMING_SHARPNESS
        terms.add_loss("naming", (losses + 1 - own).sum(), len(names))
        terms.add_figure("naming_accuracy", _share_right(similarity, names), len(names))
    return terms


def lexicon_loss(head: SegHead, lexicon: Sequence[Tensor], labels: Sequence[SuperpixelLabels]) -> Terms:
    """Teaches the head's lexicon which names of its vocabulary each superpixel bears, or that it bears none.

    Several names share it alike. Where the labels only say that a superpixel shows nothing that was looked for, every
    other name stays possible.

    Args:
        head: whose `name_logits` are trained.
        lexicon: `[S, d]` of each photo.
        labels: what their superpixels show.
    """
    known = SuperpixelLabels.join(labels)
    names, left, named, told = known.names, known.open, known.named, known.told
    logits = head.name_logits(torch.cat(list(lexicon))).float()
    terms = Terms(outputs=[logits])
    if told.any():
        own = (names / names.sum(1, keepdim=True).clamp(min=1) * logits[:, :-1]).sum(1)
        rivals = logits.masked_fill(F.pad(left, (0, 1), value=False), -torch.inf).logsumexp(1)
        possible = logits.masked_fill(F.pad(~left, (0, 1), value=False), -torch.inf).logsumexp(1)
        losses = torch.where(named, rivals - own, logits.logsumexp(1) - possible)
        terms.add_loss("lexicon", losses[told].sum(), int(told.sum()))
    if named.any():
        terms.add_figure("lexicon_accuracy", _share_right(logits[named], F.pad(names[named], (0, 1))), int(named.sum()))
    return terms


def instruct_loss(
    model: MLLMSeg,
    features: list[ImageFeatures],
    visual: list[VisualTokens],
    texts: list[PackedText],
    targets: list[Targets],
    drawn: list[Tensor],
) -> Terms:
    """Text, pointer, mask and existence losses of B photos with their packed conversations.

    `drawn` are the indices of the masks of each photo that go through SAM's decoder.
    """
    output = model(features, visual, texts)
    terms, tokens = Terms(), len(output.text_labels)
    if tokens:
        terms.add_loss("text", text_loss(output.text_logits, output.text_labels) * tokens, tokens)
        terms.add_figure("token_accuracy", (output.text_logits.argmax(-1) == output.text_labels).sum(), tokens)
    for item, target, image, chosen in zip(features, targets, output.images, drawn, strict=True):
        _add_pointer_terms(terms, image, region_targets(target, item.superpixels))
        _add_mask_terms(terms, model, item, image.head.select(chosen), target.masks[chosen])
    return terms


def point_loss(model: MLLMSeg, recordings: list[Recording]) -> Terms:
    """Pointer and existence losses of the head on recorded hidden states, and its lexicon's names."""
    terms, lexicon = Terms(), []
    for recording in recordings:
        image, words = replay(model, recording)
        _add_pointer_terms(terms, image, recording.targets)
        lexicon.append(words)
    named = lexicon_loss(model.head, lexicon, [recording.labels for recording in recordings])
    return join(terms, named)


def refine_loss(
    model: MLLMSeg, features: list[ImageFeatures], recordings: list[Recording], drawn: list[Tensor]
) -> Terms:
    """Mask losses through SAM's decoder, prompted as at inference: with the superpixels of the answer chosen."""
    terms = Terms()
    for item, recording, chosen in zip(features, recordings, drawn, strict=True):
        head = prompts(model, recording, recorded_regions(model, recording)).select(chosen)
        terms.outputs.append(head.prompt_embeddings)
        head = replace(head, superpixel_logits=maximise_expected_iou(head.superpixel_logits, recording.areas))
        _add_mask_terms(terms, model, item, head, recording.masks[chosen])
    return terms


def join(*parts: Terms) -> Terms:
    """All terms in one."""
    return Terms(
        {name: item for part in parts for name, item in part.losses.items()},
        {name: item for part in parts for name, item in part.figures.items()},
        [output for part in parts for output in part.outputs],
    )


def label_counts(labels: Iterable[SuperpixelLabels]) -> dict[str, int]:
    """How often the naming and lexicon losses of these photos count, known before any forward pass."""
    known = SuperpixelLabels.join(labels)
    return {"naming": int(known.named.sum()), "lexicon": int(known.told.sum())}


def text_counts(texts: Iterable[PackedText]) -> dict[str, int]:
    """The same for the text loss."""
    return {"text": sum(int((text.labels != IGNORE_INDEX).sum()) for text in texts)}


def target_counts(targets: Iterable[Targets | Recording]) -> dict[str, int]:
    """The same for pointer and existence losses, which are means over photos."""
    pairs = [(len(item.exists) > 0, len(item.masks) > 0) for item in targets]
    decided, pointed = (sum(flags) for flags in zip(*pairs, strict=True))
    return {"existence": decided, "decision_pointer": decided, "pointer_bce": pointed, "pointer_dice": pointed}


def mask_counts(drawn: Iterable[Tensor]) -> dict[str, int]:
    """The same for mask losses."""
    photos = sum(len(chosen) > 0 for chosen in drawn)
    return {"mask_bce": photos, "mask_dice": photos}


def _share_right(logits: Tensor, names: Tensor) -> Tensor:
    """How many rows have their highest logit at one of their names."""
    return names.gather(1, logits.argmax(1, keepdim=True)).sum()


def _add_pointer_terms(terms: Terms, image: ImageOutput, targets: RegionTargets) -> None:
    """Pointer and existence losses of one photo."""
    head = image.head
    terms.outputs += [head.superpixel_logits, head.prompt_embeddings, image.exist_logits]
    terms.outputs.append(image.decision_superpixel_logits)
    exist_logits = image.exist_logits.float()
    if len(targets.exists):
        terms.add_loss("existence", existence_loss(exist_logits, targets.exists))
        terms.add_loss("decision_pointer", _decision_pointer_loss(image, targets))
        right = (exist_logits.detach() > 0) == targets.exists
        for name, chosen in (("seg_recall", targets.exists), ("rej_recall", ~targets.exists)):
            if chosen.any():
                terms.add_figure(name, right[chosen].float().mean())
    if len(targets.coverage):
        logits = image.head.superpixel_logits.float()
        bce, dice = pointer_losses(logits, targets.coverage, targets.areas)
        terms.add_loss("pointer_bce", bce)
        terms.add_loss("pointer_dice", dice)
        terms.add_figure("pointer_iou", _pointer_iou(logits.detach(), targets))


def _add_mask_terms(terms: Terms, model: MLLMSeg, features: ImageFeatures, head: HeadOutput, masks: Tensor) -> None:
    """Mask losses of one photo through SAM's decoder."""
    if not len(masks):
        return
    low_res_masks, _ = model.decode(features, head)
    height, width = features.superpixels.label_map.shape
    valid = low_res_masks[:, :height, :width]
    bce, dice = mask_losses(valid, masks)
    terms.add_loss("mask_bce", bce)
    terms.add_loss("mask_dice", dice)
    overlap = ((valid > 0) & masks).flatten(1).sum(1)
    ious = overlap / ((valid > 0) | masks).flatten(1).sum(1).clamp(min=1)
    terms.add_figure("mask_iou", ious.mean())


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
