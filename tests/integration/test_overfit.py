"""The whole can learn: a few sentences about two pictures, down to the mask. Real MobileSAM, small other parts.

It fails where a gradient is cut, a mask is compared with the wrong picture, a position is off by one: everything that
makes a model train "almost".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mllmseg.config import LossConfig, ModelConfig, SamConfig, StageConfig, SuperpixelConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.data.transforms import preprocess
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.build import build_model
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.structures import ImageFeatures, Turn
from mllmseg.train.batch import Targets
from mllmseg.train.optim import build_optimizer, learning_rate, set_learning_rate
from mllmseg.train.steps import Terms, instruct_loss, loss_weights

pytestmark = [pytest.mark.weights, pytest.mark.slow]

SIZE = (288, 384)
POINTER_STEPS, MASK_STEPS = 60, 6
Draw = Callable[[ImageDraw.ImageDraw, object], None]

SHAPES: dict[str, Draw] = {
    "red disc": lambda canvas, fill: canvas.ellipse((30, 40, 130, 140), fill=fill),
    "blue box": lambda canvas, fill: canvas.rectangle((200, 30, 340, 110), fill=fill),
    "green wedge": lambda canvas, fill: canvas.polygon([(60, 260), (170, 260), (115, 165)], fill=fill),
    "gold bar": lambda canvas, fill: canvas.rectangle((230, 200, 360, 230), fill=fill),
}
COLOURS = {"red disc": "#c03020", "blue box": "#2040b0", "green wedge": "#208040", "gold bar": "#e0b020"}
# Question → the shapes meant, for each of two pictures, which show three shapes each.
PICTURES: list[tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = [
    (
        ("red disc", "blue box", "green wedge"),
        {"the red disc": ("red disc",), "the box and the wedge": ("blue box", "green wedge"), "the gold bar": ()},
    ),
    (
        ("blue box", "green wedge", "gold bar"),
        {"the gold bar": ("gold bar",), "the green wedge": ("green wedge",), "the red disc": (), "a cat": ()},
    ),
]


@dataclass(frozen=True)
class Lesson:
    """One picture with its questions."""

    features: ImageFeatures
    branches: list[list[Turn]]
    targets: Targets
    masks: dict[str, Tensor]  # question → [H, W] bool; empty where there is no target


def draw(shown: tuple[str, ...]) -> Image.Image:
    noise = np.random.default_rng(0).integers(150, 190, (*SIZE, 3)).astype(np.uint8)
    picture = Image.fromarray(noise)
    for name in shown:
        SHAPES[name](ImageDraw.Draw(picture), COLOURS[name])
    return picture


def mask_of(names: tuple[str, ...]) -> Tensor:
    canvas = Image.new("1", SIZE[::-1])
    for name in names:
        SHAPES[name](ImageDraw.Draw(canvas), 1)
    return torch.from_numpy(np.array(canvas))


def learn(model: MLLMSeg, shown: tuple[str, ...], questions: dict[str, tuple[str, ...]]) -> Lesson:
    config = model.config.vision_tower
    inputs = preprocess(draw(shown), tower_size=config.image_size, patch_size=config.patch_size)
    features = model.encode_image(inputs)
    masks = {question: mask_of(names) for question, names in questions.items()}
    grid = features.superpixels.label_map.shape
    low = [mask[None, None].float() for question, mask in masks.items() if questions[question]]
    targets = Targets(
        torch.cat([torch.nn.functional.interpolate(mask, size=grid, mode="area")[0] >= 0.5 for mask in low]),
        torch.tensor([bool(names) for names in questions.values()]),
    )
    answers = {question: "[SEG] Here." if names else "[REJ] No." for question, names in questions.items()}
    return Lesson(features, [[Turn(question, answer)] for question, answer in answers.items()], targets, masks)


def loss_of(model: MLLMSeg, lessons: list[Lesson], *, masks_per_photo: int) -> Terms:
    encoder = ConversationEncoder(model.mllm.tokenizer, model.config.language_model.system_prompt)
    features = [lesson.features for lesson in lessons]
    visual = [model.project(item) for item in features]
    texts = [
        encoder.encode(lesson.branches, len(tokens.tokens)) for lesson, tokens in zip(lessons, visual, strict=True)
    ]
    targets = [lesson.targets for lesson in lessons]
    drawn = [torch.randperm(len(item.masks))[:masks_per_photo] for item in targets]
    return instruct_loss(model, features, visual, texts, targets, drawn)


def means(terms: Terms) -> dict[str, float]:
    return {name: total / count for name, (total, count) in terms.detached().items()}


@pytest.fixture(scope="module")
def model(
    tiny_config: ModelConfig, save_language_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> MLLMSeg:
    # Embeddings wide enough that a frozen random language model can be sure of a word.
    folder = save_language_model(tmp_path_factory.mktemp("llama"), initializer_range=0.2)
    torch.manual_seed(0)
    return build_model(
        tiny_config.model_copy(
            update={
                "sam": SamConfig(dtype="float32"),
                "superpixels": SuperpixelConfig(points_per_side=8, dtype="float32"),
                "language_model": tiny_config.language_model.model_copy(update={"name": str(folder)}),
                "head": tiny_config.head.model_copy(update={"hidden_size": 64}),
            }
        )
    )


@pytest.fixture(scope="module")
def lessons(model: MLLMSeg) -> list[Lesson]:
    return [learn(model, shown, questions) for shown, questions in PICTURES]


@pytest.fixture(scope="module")
def figures(model: MLLMSeg, lessons: list[Lesson]) -> list[dict[str, float]]:
    """Trains, most of the way without SAM's decoder, which costs most; returns what each step logged."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    stage = StageConfig(steps=POINTER_STEPS + MASK_STEPS, learning_rate=3e-3, warmup_steps=1)
    optimizer = build_optimizer(trained, stage)
    model.train()
    logged = []
    for step in range(stage.steps):
        set_learning_rate(optimizer, learning_rate(stage, step))
        result = loss_of(model, lessons, masks_per_photo=0 if step < POINTER_STEPS else 2)
        optimizer.zero_grad()
        result.total(loss_weights(LossConfig()), result.counts).backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        logged.append(means(result))
    model.eval()
    return logged


def test_the_losses_fall(figures: list[dict[str, float]]) -> None:
    first, last = figures[0], figures[-1]
    assert last["text"] < 0.6 * first["text"], "as far as a frozen random language model can"
    assert last["existence"] < 0.1
    assert last["decision_pointer"] < 0.1
    assert last["pointer_bce"] < 0.1
    assert last["mask_bce"] + last["mask_dice"] < 0.2


@torch.no_grad()
def test_masks_and_decisions_are_learned(
    model: MLLMSeg, lessons: list[Lesson], figures: list[dict[str, float]]
) -> None:
    """As training sees them: through decode, at low resolution."""
    assert figures
    last = means(loss_of(model, lessons, masks_per_photo=2))
    assert last["mask_iou"] > 0.9
    assert last["pointer_iou"] > 0.85
    assert (last["seg_recall"], last["rej_recall"]) == (1, 1)


def test_what_is_learned_is_what_the_segmenter_says(
    model: MLLMSeg, lessons: list[Lesson], figures: list[dict[str, float]]
) -> None:
    """As a user sees them: one question at a time over a cached prefix, at the picture's own size."""
    assert figures
    segmenter = Segmenter(model)
    for lesson in lessons:
        segmenter.set_features(lesson.features)
        for question, mask in lesson.masks.items():
            found = segmenter.segment(question)
            assert found.exists == bool(mask.any()), question
            if found.exists:
                iou = (found.union & mask).sum() / (found.union | mask).sum()
                assert iou > 0.9, question
