"""What is measured: superpixels, queries, tokens, training, a peer, and how cost grows.

Every suite gives cases that are measured interleaved; the first of them is what the others are compared with.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mllmseg.bench.measure import Case
from mllmseg.bench.reference import ReferenceGenerator
from mllmseg.constants import SEG_TOKEN
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.errors import ConfigError
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.mllm import branch_attention_mask
from mllmseg.models.projector import build_projector
from mllmseg.models.superpixels import SuperpixelGenerator
from mllmseg.structures import PackedText, Turn

QUERIES = (
    "the person", "the cup on the left", "the cat", "the largest thing in the picture", "a red laptop",
    "the dog that is next to the chair", "everything made of wood", "the sky",
)  # fmt: skip
MANY = 32
# Tokens of a 336-pixel image in patches of 14, as LLaVA and LISA read it.
PATCH_TOKENS = 576
SUPERPIXEL_TOKENS = 36


@dataclass(frozen=True)
class Suite:
    """Cases to measure together.

    Attributes:
        name: title of the table.
        cases: the first is the base of the ratios.
        note: how to read it.
    """

    name: str
    cases: list[Case]
    note: str


def queries(numbers: int = MANY) -> list[str]:
    """So many different questions."""
    return [
        f"{QUERIES[number % len(QUERIES)]}{' ' + str(number) if number >= len(QUERIES) else ''}"
        for number in range(numbers)
    ]


def superpixels(segmenter: Segmenter, photos: Sequence[Path], *, their_default: bool, compiled: bool = False) -> Suite:
    """Our generator against segment_anything's, on the same image embeddings; the encoder's time is left out."""
    vision, config = segmenter.model.vision, segmenter.model.config.superpixels
    device = segmenter.device
    prepared = []
    for photo in photos:
        image = load_image(photo)
        inputs = preprocess(image).to(device)
        with torch.no_grad():
            prepared.append((np.asarray(image), vision.sam.encode_image(inputs.sam_pixels[None]), inputs))

    def theirs(side: int) -> Callable[[int], object]:
        generator = ReferenceGenerator(vision.sam, config, side)
        return lambda number: generator(*prepared[number % len(prepared)])

    def ours(compiled: bool = False, **changes: object) -> Callable[[int], object]:
        generator = SuperpixelGenerator(vision.sam, config.model_copy(update=changes))
        generator.compiled = compiled
        return lambda number: generator(
            prepared[number % len(prepared)][1], prepared[number % len(prepared)][2].input_size
        )

    side = config.points_per_side
    cases = [
        Case(f"segment_anything, {side}×{side} points", theirs(side), every=3),
        Case(
            f"ours, {side}×{side} points, float32",
            ours(max_covering_fraction=None, dtype="float32", points_per_batch=4),
        ),
        Case(f"ours, {side}×{side} points, {config.dtype}", ours(max_covering_fraction=None)),
        Case("ours, default (covered points skipped)", ours()),
    ]
    if compiled:
        cases.append(Case("ours, default, torch.compile", ours(compiled=True)))
    if their_default:
        cases.insert(1, Case("segment_anything, its default of 32×32 points", theirs(32), every=1000))
    return Suite("Superpixels", cases, "Per photo, without the image encoder; same embeddings, same thresholds.")


def answering(segmenter: Segmenter, photos: Sequence[Path]) -> Suite:
    """The first question about a photo, which pays for the photo, and those that follow."""
    fresh = Segmenter(segmenter.model, device=segmenter.device)
    asked = queries()

    def first(number: int) -> object:
        fresh.set_image(photos[number % len(photos)])
        return fresh.segment(asked[number % len(asked)], threshold=0.0)

    def following(number: int) -> object:
        return fresh.segment(asked[(number + 1) % len(asked)], threshold=0.0)

    def together(number: int) -> object:
        return fresh.segment(asked, threshold=0.0)

    def repeated(number: int) -> object:
        segmenter.set_image(photos[number % len(photos)])
        return segmenter.segment(asked[number % len(asked)], threshold=0.0)

    def all_of_photo(number: int) -> object:
        first(number)
        return together(number)

    for photo in photos:
        segmenter.set_image(photo)
    cases = [
        Case("first question about a photo (as a separate call)", first),
        Case("next question about it", following),
        Case("a question about a photo seen before", repeated),
        Case(f"each of {MANY} questions at once", together, share=MANY),
        Case(f"each of {MANY} questions at once, the photo's share included", all_of_photo, share=MANY),
    ]
    return Suite("Questions", cases, "End to end: file to mask at the photo's own size; every question gets its mask.")


def language_model(segmenter: Segmenter, *, tokens: Sequence[int] = (PATCH_TOKENS, 144, SUPERPIXEL_TOKENS)) -> Suite:
    """Reading an image of so many visual tokens with a question: what fewer tokens save."""
    cases = [Case(f"prefill, {count} visual tokens", _prefill(segmenter, count)) for count in tokens]
    return Suite("Prefill of the language model", cases, "Visual tokens and one question.")


def projectors(segmenter: Segmenter, photos: Sequence[Path]) -> Suite:
    """From patch features to a language model that has read the image, by projector; the new ones are untrained."""
    model, config = segmenter.model, segmenter.model.config.projector
    features = []
    for photo in photos:
        segmenter.set_image(photo)
        features.append(segmenter.features)

    def case(name: Literal["mlp", "average", "semantic"]) -> Case:
        torch.manual_seed(0)
        projector = build_projector(
            config.model_copy(update={"name": name}),
            in_channels=model.vision.vision_tower.hidden_size,
            out_channels=model.mllm.hidden_size,
            token_norm=1.0,
        )
        projector = model.projector if name == config.name else projector.eval().to(segmenter.device)

        def run(number: int) -> object:
            item = features[number % len(features)]
            with torch.no_grad():
                tokens = projector(item.patch_features, item.superpixels).tokens
                text = segmenter.encoder.encode([[Turn(QUERIES[0], SEG_TOKEN)]], len(tokens)).to(segmenter.device)
                return _read(segmenter, text, tokens)

        with torch.no_grad():
            counts = [len(projector(item.patch_features, item.superpixels).tokens) for item in features]
        return Case(f"{name}, {sum(counts) / len(counts):.0f} visual tokens", run)

    return Suite(
        "Projectors", [case("mlp"), case("average"), case("semantic")], "Projector and prefill; `mlp`: a token a patch."
    )


def training(segmenter: Segmenter, *, tokens: Sequence[int] = (PATCH_TOKENS, 144, SUPERPIXEL_TOKENS)) -> Suite:
    """A LoRA step of the language model: forward and backward over an image of so many visual tokens."""
    trainable = [item for item in segmenter.model.mllm.parameters() if item.requires_grad]
    if not trainable:
        raise ConfigError(
            "this model's LoRA is merged: load it with models.checkpoint.load_checkpoint to time training"
        )

    def step(count: int) -> Callable[[int], object]:
        text, visual = _conversation(segmenter, count)

        def run(number: int) -> object:
            hidden = _read(segmenter, text, visual)
            loss = segmenter.model.mllm.logits(hidden[0, -4:]).float().logsumexp(-1).sum()
            return torch.autograd.grad(loss, trainable, allow_unused=True)

        return run

    cases = [Case(f"LoRA step, {count} visual tokens", step(count)) for count in tokens]
    return Suite("Training step of the language model", cases, "Forward and backward of one photo with one question.")


def peer(segmenter: Segmenter, photos: Sequence[Path], name: str) -> Suite:
    """Somebody else's `module:function`, called with a PIL image and a question, on the same photos.

    Raises:
        ConfigError: it cannot be imported.
    """
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name or "segment")
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--peer {name}: cannot be imported ({error}); give MODULE:FUNCTION") from error
    fresh = Segmenter(segmenter.model, device=segmenter.device)
    images = [load_image(photo) for photo in photos]

    def ours(number: int) -> object:
        fresh.set_image(images[number % len(images)])
        return fresh.segment(QUERIES[number % len(QUERIES)], threshold=0.0)

    def theirs(number: int) -> object:
        return function(images[number % len(images)], QUERIES[number % len(QUERIES)])

    return Suite("A peer", [Case(name, theirs), Case("mllmseg", ours)], "One photo, one question, nothing remembered.")


def growth(
    segmenter: Segmenter, photos: Sequence[Path], megapixels: Sequence[float]
) -> dict[str, list[tuple[float, Case]]]:
    """What to vary → (its amount, the case): image pixels, photos encoded at once, questions at once, visual tokens."""
    fresh = Segmenter(segmenter.model, device=segmenter.device)
    photo = load_image(photos[0])

    def large(amount: float) -> Callable[[int], object]:
        scale = (amount * 1e6 / (photo.width * photo.height)) ** 0.5
        image = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BILINEAR)

        def run(number: int) -> object:
            fresh.set_image(image)
            return fresh.segment("the person", threshold=0.0)

        return run

    def many(count: int) -> Callable[[int], object]:
        asked = queries(count)
        return lambda number: segmenter.segment(asked, threshold=0.0)

    vision = segmenter.model.vision
    inputs = [preprocess(load_image(photos[number % len(photos)]), **vision.tower_input) for number in range(8)]
    inputs = [item.to(segmenter.device) for item in inputs]

    segmenter.set_image(photos[0])
    return {
        "megapixels": [(amount, Case(f"{amount:g} MP", large(amount))) for amount in megapixels],
        "photos encoded at once": [
            (count, Case(f"{count} photos", lambda number, count=count: vision.encode_images(inputs[:count])))  # type: ignore[misc]
            for count in (1, 2, 4, 8)
        ],
        "questions at once": [(count, Case(f"{count} questions", many(count))) for count in (1, 4, 16, 64)],
        "visual tokens": [
            (count, Case(f"{count} tokens", _prefill(segmenter, count))) for count in (36, 144, 576, 1369)
        ],
    }


def _conversation(segmenter: Segmenter, count: int) -> tuple[PackedText, Tensor]:
    """A question about an image of `count` visual tokens that mean nothing."""
    text = segmenter.encoder.encode([[Turn("the cup on the left", SEG_TOKEN)]], count).to(segmenter.device)
    rows = segmenter.model.mllm.word_embeddings()[torch.arange(count) % 1000 + 1000]
    return text, rows.to(segmenter.device).float()


def _prefill(segmenter: Segmenter, count: int) -> Callable[[int], object]:
    text, visual = _conversation(segmenter, count)

    def run(number: int) -> object:
        with torch.no_grad():
            return _read(segmenter, text, visual)

    return run


def _read(segmenter: Segmenter, text: PackedText, visual: Tensor) -> Tensor:
    hidden, _ = segmenter.model.mllm(
        text.input_ids[None],
        visual_tokens=visual,
        attention_mask=branch_attention_mask([text]),
        position_ids=text.position_ids[None],
    )
    return hidden
