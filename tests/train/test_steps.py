"""The losses of training on parts made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from mllmseg.config import LossConfig, ModelConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.models.build import build_model
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.structures import ImageFeatures, Turn, VisualTokens
from mllmseg.train.batch import OUTSIDE, UNNAMED, SuperpixelLabels, Targets
from mllmseg.train.steps import NAMING_SHARPNESS, StepResult, instruct_loss, lexicon_loss, naming_loss

TABLE = torch.tensor([[2.0, 0.0], [0.0, 5.0]])


@pytest.fixture(scope="module")
def model(tiny_config: ModelConfig) -> MLLMSeg:
    torch.manual_seed(0)
    return build_model(tiny_config).eval()


def tokens(*rows: list[float]) -> VisualTokens:
    return VisualTokens(torch.tensor(rows), torch.eye(len(rows)))


def labels(*names: int, scope: tuple[bool, ...] = (True, True)) -> SuperpixelLabels:
    return SuperpixelLabels(torch.tensor(names), torch.tensor(scope))


def test_naming_loss_by_hand() -> None:
    result = naming_loss([tokens([3.0, 0.0]), tokens([1.0, 1.0])], [labels(0), labels(1)], TABLE)
    # Cosines 1 and 0, then 1/sqrt(2) twice.
    sure, unsure = math.log(1 + math.exp(-NAMING_SHARPNESS)), math.log(2)
    assert result.figures["naming"] == pytest.approx((sure + unsure) / 2, abs=1e-5)
    pull = 1 - (1 + math.sqrt(0.5)) / 2
    assert result.loss.item() == pytest.approx((sure + unsure) / 2 + pull, abs=1e-5)
    assert result.figures["naming_accuracy"] >= 0.5


def test_naming_reads_superpixels_through_their_assignment() -> None:
    shared = VisualTokens(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    result = naming_loss([shared], [labels(1, 0)], TABLE)
    assert result.figures["naming_accuracy"] == 1


@pytest.mark.parametrize("other", [UNNAMED, OUTSIDE])
def test_superpixels_without_a_name_do_not_count(other: int) -> None:
    named = naming_loss([tokens([3.0, 1.0])], [labels(0)], TABLE)
    both = naming_loss([tokens([3.0, 1.0], [-9.0, 2.0])], [labels(0, other)], TABLE)
    assert both.loss.item() == pytest.approx(named.loss.item())


def test_a_batch_without_names_costs_nothing() -> None:
    result = naming_loss([tokens([3.0, 1.0])], [labels(UNNAMED)], TABLE)
    result.loss.backward()
    assert (result.loss.item(), result.figures) == (0, {})


class Lexicon:
    """Answers for a head with a vocabulary of two names: the logits are the lexicon itself, none comes last."""

    def name_logits(self, lexicon: torch.Tensor) -> torch.Tensor:
        return lexicon


def lexicon_loss_of(logits: list[list[float]], label: SuperpixelLabels) -> StepResult:
    return lexicon_loss(Lexicon(), [torch.tensor(logits)], [label])  # type: ignore[arg-type]


def test_the_lexicon_loss_by_hand() -> None:
    weights = [[math.log(2), math.log(3), math.log(5)]]
    for label, expected in (
        (labels(1), 3 / 10),
        (labels(OUTSIDE), 5 / 10),  # both names were looked for
        (labels(OUTSIDE, scope=(True, False)), 8 / 10),  # it may still be the second
    ):
        assert lexicon_loss_of(weights, label).loss.item() == pytest.approx(-math.log(expected), abs=1e-5)
    result = lexicon_loss_of(weights * 3, labels(1, OUTSIDE, UNNAMED))
    assert result.figures["lexicon"] == pytest.approx(-math.log(3 / 10 * 5 / 10) / 2, abs=1e-5)
    assert result.figures["lexicon_accuracy"] == 0, "of the named one alone: the logits say none"


def test_superpixels_that_nothing_is_known_about_teach_the_lexicon_nothing() -> None:
    result = lexicon_loss_of([[1.0, 2.0, 3.0]], labels(UNNAMED))
    assert (result.loss.item(), result.figures) == (0, {})


def loss_of(
    model: MLLMSeg, features: ImageFeatures, branches: list[list[Turn]], targets: Targets, *, masks_per_photo: int = 1
) -> StepResult:
    encoder = ConversationEncoder(model.mllm.tokenizer, "")
    visual = model.project(features)
    text = encoder.encode(branches, len(visual.tokens))
    torch.manual_seed(0)
    return instruct_loss(model, [features], [visual], [text], [targets], LossConfig(), masks_per_photo=masks_per_photo)


def test_losses_of_every_kind(model: MLLMSeg, make_features: Callable[..., ImageFeatures]) -> None:
    masks = torch.zeros(1, 192, 256, dtype=torch.bool)
    masks[:, :, :64] = True
    branches = [[Turn("the cat", "[SEG] Here.")], [Turn("a dog", "[REJ] No.")]]
    result = loss_of(model, make_features(4), branches, Targets(masks, torch.tensor([True, False])))
    figures, weights = result.figures, LossConfig()
    losses = ("text", "existence", "decision_pointer", "pointer_bce", "pointer_dice", "mask_bce", "mask_dice")
    assert result.loss.item() == pytest.approx(sum(getattr(weights, name) * figures[name] for name in losses), rel=1e-5)
    assert all(0 <= figures[name] <= 1 for name in ("token_accuracy", "pointer_iou", "mask_iou", "seg_recall"))
    assert all(math.isfinite(value) for value in figures.values())


@pytest.mark.parametrize(
    ("branches", "exists"),
    [([], []), ([[Turn("Describe it.", "A cat.")]], []), ([[Turn("a dog", "[REJ] No.")]], [False])],
    ids=["nothing", "a caption", "a rejection"],
)
def test_samples_without_targets(
    model: MLLMSeg, make_features: Callable[..., ImageFeatures], branches: list[list[Turn]], exists: list[bool]
) -> None:
    targets = Targets(torch.zeros(0, 192, 256, dtype=torch.bool), torch.tensor(exists, dtype=torch.bool))
    result = loss_of(model, make_features(3), branches, targets)
    result.loss.backward()
    assert all(math.isfinite(value) for value in result.figures.values())
    assert "mask_iou" not in result.figures
    assert ("rej_recall" in result.figures) == bool(exists)


def test_masks_can_be_left_to_the_pointer(model: MLLMSeg, make_features: Callable[..., ImageFeatures]) -> None:
    targets = Targets(torch.ones(1, 192, 256, dtype=torch.bool), torch.tensor([True]))
    figures = loss_of(model, make_features(2), [[Turn("all", "[SEG]")]], targets, masks_per_photo=0).figures
    assert "pointer_bce" in figures
    assert "mask_bce" not in figures
