"""Two of the three losses of training on parts made by hand."""

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
from mllmseg.train.batch import UNNAMED, Targets
from mllmseg.train.steps import NAMING_SHARPNESS, StepResult, instruct_loss, name_embeddings, naming_loss

TABLE = torch.tensor([[2.0, 0.0], [0.0, 5.0]])


@pytest.fixture(scope="module")
def model(tiny_config: ModelConfig) -> MLLMSeg:
    torch.manual_seed(0)
    return build_model(tiny_config).eval()


def tokens(*rows: list[float]) -> VisualTokens:
    return VisualTokens(torch.tensor(rows), torch.eye(len(rows)))


def test_naming_loss_by_hand() -> None:
    result = naming_loss([tokens([3.0, 0.0]), tokens([1.0, 1.0])], [torch.tensor([0]), torch.tensor([1])], TABLE)
    # Cosines 1 and 0, then 1/sqrt(2) twice.
    sure, unsure = math.log(1 + math.exp(-NAMING_SHARPNESS)), math.log(2)
    assert result.figures["naming"] == pytest.approx((sure + unsure) / 2, abs=1e-5)
    pull = 1 - (1 + math.sqrt(0.5)) / 2
    assert result.loss.item() == pytest.approx((sure + unsure) / 2 + pull, abs=1e-5)
    assert result.figures["naming_accuracy"] >= 0.5


def test_naming_reads_superpixels_through_their_assignment() -> None:
    shared = VisualTokens(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    result = naming_loss([shared], [torch.tensor([1, 0])], TABLE)
    assert result.figures["naming_accuracy"] == 1


def test_superpixels_without_a_name_do_not_count() -> None:
    named = naming_loss([tokens([3.0, 1.0])], [torch.tensor([0])], TABLE)
    both = naming_loss([tokens([3.0, 1.0], [-9.0, 2.0])], [torch.tensor([0, UNNAMED])], TABLE)
    assert both.loss.item() == pytest.approx(named.loss.item())


def test_a_batch_without_names_costs_nothing() -> None:
    result = naming_loss([tokens([3.0, 1.0])], [torch.tensor([UNNAMED])], TABLE)
    result.loss.backward()
    assert (result.loss.item(), result.figures) == (0, {})


def test_name_embeddings_are_mean_word_embeddings(model: MLLMSeg) -> None:
    table = name_embeddings(model.mllm, ["cat", "dog"])
    ids = model.mllm.tokenizer(" cat", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(table[0], model.mllm.word_embeddings()[ids].mean(0))
    assert table.shape == (2, 32)


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
