"""Exports a checkpoint and makes sure that what was written answers as what it was made from.

N masks, S superpixels, K text tokens.
"""

from __future__ import annotations

import pathlib
import tempfile
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mllmseg.data.conversation import ConversationEncoder
from mllmseg.errors import CheckpointError, ConfigError
from mllmseg.inference.model_card import CARD_FILE, model_card
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.checkpoint import CONFIG_FILE, MODEL_FILE, load_checkpoint
from mllmseg.models.export import write_adapter, write_merged
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.structures import Turn

# Sums in another order where LoRA is merged, in float32 and in a language model of eight bits of precision.
TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}
# The share of a mask's pixels that may fall to the other side of zero for it.
MASK_TOLERANCE = 1e-3
QUERIES = ("the red square", "the blue circle on the right")


@dataclass(frozen=True)
class Differences:
    """How far apart two models' answers about the drawn picture are.

    Attributes:
        logits: the largest difference between text logits, relative to the largest logit.
        scores: between probabilities that a target exists, and that a superpixel belongs to it.
        masks: the largest share of pixels in which two masks differ.
        tolerance: what `logits` and `scores` may be.
    """

    logits: float
    scores: float
    masks: float
    tolerance: float

    @property
    def fine(self) -> bool:
        """Whether all are within tolerance."""
        return max(self.logits, self.scores) <= self.tolerance and self.masks <= MASK_TOLERANCE


def export(source: pathlib.Path, out: pathlib.Path, *, merge: bool, card: bool) -> Differences:
    """Writes `out`, whole and checked or not at all.

    Args:
        source: a checkpoint, or a run's folder (`find_trained` says which of its checkpoints).
        out: a folder that does not exist yet.
        merge: write the language model in full, LoRA merged, instead of the adapter.
        card: write a model card for the Hugging Face hub.

    Raises:
        ConfigError: `out` exists, or there is nothing to merge.
        CheckpointError: the source is damaged, or what was written answers differently.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already: name another folder, or remove it")
    source = find_trained(source)
    model = load_checkpoint(source, quantized=not merge)
    if merge and not model.config.language_model.lora.r:
        raise ConfigError(f"{source}: there is no LoRA to merge (language_model.lora.r is 0)")
    before = _answers(model)
    tolerance = TOLERANCES[model.config.language_model.dtype]
    original = model.config
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name:
        folder = pathlib.Path(name) / out.name
        (write_merged if merge else write_adapter)(model, folder, source)
        del model  # one at a time: they are large
        after = _answers(load_checkpoint(folder))
        found = _compare(before, after, tolerance)
        if not found.fine:
            raise CheckpointError(f"{source}: the exported model answers differently ({found}); nothing was written")
        if card:
            (folder / CARD_FILE).write_text(model_card(out.name, original, merged=merge), encoding="utf-8")
        folder.rename(out)
    return found


def find_trained(folder: pathlib.Path) -> pathlib.Path:
    """The checkpoint meant by a folder: itself, of a run its `final` one, else the last that was saved.

    Raises:
        CheckpointError: there is none.
    """
    candidates = [folder, folder / "final", folder / "checkpoints" / "latest"]
    saved = [path.parent for path in folder.glob(f"checkpoints/*/{MODEL_FILE}")]
    candidates += sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in candidates:
        if (path / MODEL_FILE).is_file() and (path / CONFIG_FILE).is_file():
            return path
    raise CheckpointError(
        f"{folder}: neither a checkpoint ({MODEL_FILE} and {CONFIG_FILE}) nor a run's folder with one in it"
    )


@dataclass(frozen=True)
class _Answers:
    text_logits: Tensor  # [K, vocabulary]
    probabilities: Tensor  # [N * (1 + S)]
    masks: Tensor  # [N, H, W]


@torch.no_grad()
def _answers(model: MLLMSeg) -> _Answers:
    """What a model says about a drawn picture, LoRA unmerged where it has any."""
    segmenter = Segmenter(model, device="cpu")
    segmenter.set_image(_picture())
    found = segmenter.segment(list(QUERIES), threshold=0.0)
    encoder = ConversationEncoder(model.mllm.tokenizer, model.config.language_model.system_prompt)
    visual = model.project(segmenter.features)
    text = encoder.encode([[Turn(query, "[SEG] Here it is.")] for query in QUERIES], len(visual.tokens))
    probabilities = [torch.cat([torch.tensor([item.score]), item.superpixel_scores.flatten()]) for item in found]
    return _Answers(
        model([segmenter.features], [visual], [text]).text_logits.float(),
        torch.cat(probabilities),
        torch.cat([item.masks for item in found]),
    )


def _picture() -> Image.Image:
    canvas = Image.new("RGB", (320, 240), (120, 125, 110))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((30, 70, 130, 170), fill=(190, 40, 35))
    draw.ellipse((190, 60, 290, 160), fill=(40, 60, 190))
    return canvas


def _compare(before: _Answers, after: _Answers, tolerance: float) -> Differences:
    if before.masks.shape != after.masks.shape or before.probabilities.shape != after.probabilities.shape:
        return Differences(1.0, 1.0, 1.0, tolerance)
    apart = (before.text_logits - after.text_logits).abs().max() / before.text_logits.abs().max()
    return Differences(
        logits=float(apart),
        scores=float((before.probabilities - after.probabilities).abs().max()),
        masks=float((before.masks != after.masks).float().mean((1, 2)).max()),
        tolerance=tolerance,
    )
