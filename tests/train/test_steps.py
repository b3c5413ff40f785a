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
from mllmseg.train.batch import SuperpixelLabels, Targets
from mllmseg.train.steps import (
    NAMING_SHARPNESS,
    Terms,
    instruct_loss,
    join,
    lexicon_loss,
    loss_weights,
    naming_loss,
    target_counts,
    text_counts,
)

TABLE = torch.tensor([[2.0, 0.0], [0.0, 5.0]])


@pytest.fixture(scope="module")
def model(tiny_config: ModelConfig) -> MLLMSeg:
    torch.manual_seed(0)
    return build_model(tiny_config).eval()


def means(terms: Terms) -> dict[str, float]:
    return {name: total / count for name, (total, count) in terms.detached().items()}


def tokens(*rows: list[float]) -> VisualTokens:
    return VisualTokens(torch.tensor(rows), torch.eye(len(rows)))


UNNAMED, OUTSIDE = -1, -2


def labels(*names: int, scope: tuple[bool, ...] = (True, True)) -> SuperpixelLabels:
    """Labels of one name each, of two names; `OUTSIDE`: nothing of `scope`; `UNNAMED`: they do not tell."""
    borne = torch.tensor([[name == index for index in range(2)] for name in names])
    left = {UNNAMED: torch.tensor([True, True]), OUTSIDE: ~torch.tensor(scope)}
    return SuperpixelLabels(borne, torch.stack([left.get(name, torch.zeros(2, dtype=torch.bool)) for name in names]))


def test_naming_loss_by_hand() -> None:
    terms = naming_loss([tokens([3.0, 0.0]), tokens([1.0, 1.0])], [labels(0), labels(1)], TABLE)
    # Cosines 1 and 0, then 1/sqrt(2) twice.
    sure, unsure = math.log(1 + math.exp(-NAMING_SHARPNESS)), math.log(2)
    pull = 1 - (1 + math.sqrt(0.5)) / 2
    assert terms.counts == {"naming": 2}
    assert means(terms)["naming"] == pytest.approx((sure + unsure) / 2 + pull, abs=1e-5)
    assert means(terms)["naming_accuracy"] >= 0.5


def test_naming_reads_superpixels_through_their_assignment() -> None:
    shared = VisualTokens(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert means(naming_loss([shared], [labels(1, 0)], TABLE))["naming_accuracy"] == 1


@pytest.mark.parametrize("other", [UNNAMED, OUTSIDE])
def test_superpixels_without_a_name_do_not_count(other: int) -> None:
    named = naming_loss([tokens([3.0, 1.0])], [labels(0)], TABLE)
    both = naming_loss([tokens([3.0, 1.0], [-9.0, 2.0])], [labels(0, other)], TABLE)
    assert both.counts == named.counts == {"naming": 1}
    assert means(both) == pytest.approx(means(named))


def test_a_batch_without_names_costs_nothing() -> None:
    terms = naming_loss([tokens([3.0, 1.0])], [labels(UNNAMED)], TABLE)
    assert terms.detached() == {}
    assert terms.total(loss_weights(LossConfig()), terms.counts).item() == 0


class Lexicon:
    """Answers for a head with a vocabulary of two names: the logits are the lexicon itself, none comes last."""

    def name_logits(self, lexicon: torch.Tensor) -> torch.Tensor:
        return lexicon


def lexicon_loss_of(logits: list[list[float]], label: SuperpixelLabels) -> Terms:
    return lexicon_loss(Lexicon(), [torch.tensor(logits)], [label])  # type: ignore[arg-type]


def test_the_lexicon_loss_by_hand() -> None:
    weights = [[math.log(2), math.log(3), math.log(5)]]
    for label, expected in (
        (labels(1), 3 / 10),
        (labels(OUTSIDE), 5 / 10),  # both names were looked for
        (labels(OUTSIDE, scope=(True, False)), 8 / 10),  # it may still be the second
    ):
        assert means(lexicon_loss_of(weights, label))["lexicon"] == pytest.approx(-math.log(expected), abs=1e-5)
    terms = lexicon_loss_of(weights * 3, labels(1, OUTSIDE, UNNAMED))
    assert terms.counts == {"lexicon": 2}
    assert means(terms)["lexicon"] == pytest.approx(-math.log(3 / 10 * 5 / 10) / 2, abs=1e-5)
    assert means(terms)["lexicon_accuracy"] == 0, "of the named one alone: the logits say none"


def test_several_names_share_a_superpixel_alike() -> None:
    both = SuperpixelLabels(torch.tensor([[True, True]]), torch.tensor([[False, False]]))
    weights = [[math.log(2), math.log(3), math.log(5)]]
    terms = means(lexicon_loss_of(weights, both))
    assert terms["lexicon"] == pytest.approx(-(math.log(2 / 10) + math.log(3 / 10)) / 2, abs=1e-5)
    assert means(lexicon_loss_of([[3.0, 2.0, 1.0]], both))["lexicon_accuracy"] == 1
    found = naming_loss([tokens([3.0, 0.0])], [both], TABLE)  # cosines 1 and 0
    expected = math.log(1 + math.exp(NAMING_SHARPNESS)) - NAMING_SHARPNESS / 2 + 0.5
    assert means(found)["naming"] == pytest.approx(expected, abs=1e-4)


def test_a_name_left_open_is_no_rival() -> None:
    shirt = SuperpixelLabels(torch.tensor([[True, False]]), torch.tensor([[False, True]]))
    loss = means(lexicon_loss_of([[math.log(2), math.log(3), math.log(5)]], shirt))["lexicon"]
    assert loss == pytest.approx(-math.log(2 / 7), abs=1e-5)
    assert means(naming_loss([tokens([3.0, 0.0])], [shirt], TABLE))["naming"] == pytest.approx(0, abs=1e-5)


def test_superpixels_that_nothing_is_known_about_teach_the_lexicon_nothing() -> None:
    assert lexicon_loss_of([[1.0, 2.0, 3.0]], labels(UNNAMED)).detached() == {}


def loss_of(
    model: MLLMSeg, features: ImageFeatures, branches: list[list[Turn]], targets: Targets, *, masks: int = 1
) -> Terms:
    encoder = ConversationEncoder(model.mllm.tokenizer, "")
    visual = model.project(features)
    text = encoder.encode(branches, len(visual.tokens))
    drawn = torch.arange(min(masks, len(targets.masks)))
    terms = instruct_loss(model, [features], [visual], [text], [targets], [drawn])
    foreseen = {**text_counts([text]), **target_counts([targets])}
    counted = {name: count for name, count in terms.counts.items() if not name.startswith("mask")}
    assert counted == {name: count for name, count in foreseen.items() if count}
    return terms


def test_losses_of_every_kind(model: MLLMSeg, make_features: Callable[..., ImageFeatures]) -> None:
    masks = torch.zeros(1, 192, 256, dtype=torch.bool)
    masks[:, :, :64] = True
    branches = [[Turn("the cat", "[SEG] Here.")], [Turn("a dog", "[REJ] No.")]]
    terms = loss_of(model, make_features(4), branches, Targets(masks, torch.tensor([True, False])))
    figures, weights = means(terms), LossConfig()
    losses = ("text", "existence", "decision_pointer", "pointer_bce", "pointer_dice", "mask_bce", "mask_dice")
    expected = sum(getattr(weights, name) * figures[name] for name in losses)
    assert terms.total(loss_weights(weights), terms.counts).item() == pytest.approx(expected, rel=1e-5)
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
    figures = means(loss_of(model, make_features(3), branches, targets))
    assert all(math.isfinite(value) for value in figures.values())
    assert "mask_iou" not in figures
    assert ("rej_recall" in figures) == bool(exists)


def test_masks_can_be_left_to_the_pointer(model: MLLMSeg, make_features: Callable[..., ImageFeatures]) -> None:
    targets = Targets(torch.ones(1, 192, 256, dtype=torch.bool), torch.tensor([True]))
    figures = means(loss_of(model, make_features(2), [[Turn("all", "[SEG]")]], targets, masks=0))
    assert "pointer_bce" in figures
    assert "mask_bce" not in figures


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    """As they do over processes: each divides by what all have, and one has twice the words of the other."""
    parts = [([tokens([3.0, 1.0], [1.0, 2.0])], [labels(0, 1)]), ([tokens([1.0, 1.0])], [labels(1)])]
    whole = naming_loss([parts[0][0][0], parts[1][0][0]], [parts[0][1][0], parts[1][1][0]], TABLE)
    weights = loss_weights(LossConfig())
    split = [naming_loss(visual, label, TABLE).total(weights, whole.counts) for visual, label in parts]
    assert sum(item.item() for item in split) == pytest.approx(whole.total(weights, whole.counts).item(), rel=1e-6)
    alone = [naming_loss(visual, label, TABLE) for visual, label in parts]
    mean_of_means = sum(item.total(weights, item.counts).item() for item in alone) / 2
    assert mean_of_means != pytest.approx(whole.total(weights, whole.counts).item(), rel=1e-3), "it would show"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError, match="txet"):
        Terms().add_loss("txet", torch.tensor(1.0))
    with pytest.raises(KeyError, match="accuracy"):
        Terms().add_figure("accuracy", 1.0)


def test_terms_are_joined() -> None:
    first, second = Terms(), Terms()
    first.add_loss("text", torch.tensor(1.0))
    second.add_figure("mask_iou", 0.5)
    assert join(first, second).detached() == {"text": (1.0, 1), "mask_iou": (0.5, 1)}
