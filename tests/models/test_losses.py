"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mllmseg.models.losses import (
    dice_loss,
    existence_loss,
    mask_losses,
    pointer_losses,
    superpixel_coverage,
    text_loss,
)

LOG_2 = math.log(2)
SURE = 50.0  # a logit whose sigmoid is 0 or 1 to float32


def test_text_loss_is_a_mean_over_counted_labels() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, math.log(3), 0.0, 0.0], [SURE, 0.0, 0.0, 0.0]])
    # Four alike: log 4. One three times the others': 3/6. The last is wrong but not counted.
    loss = text_loss(logits, torch.tensor([2, 1, -100]))
    assert loss.item() == pytest.approx((math.log(4) + LOG_2) / 2)
    assert text_loss(logits[None], torch.tensor([[2, 1, -100]])).item() == pytest.approx(loss.item())


def test_text_loss_in_half_precision_is_computed_in_float() -> None:
    assert text_loss(torch.zeros(2, 4, dtype=torch.bfloat16), torch.tensor([0, 1])).dtype == torch.float32


@pytest.mark.parametrize("labels", [torch.full((3,), -100), torch.zeros(0, dtype=torch.int64)])
def test_text_loss_of_nothing_is_zero_and_has_a_gradient(labels: Tensor) -> None:
    logits = torch.randn(len(labels), 4, requires_grad=True)
    loss = text_loss(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_dice_loss() -> None:
    targets = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 4)
    probabilities = torch.tensor([[1.0, 1.0, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    # 1 - 2 |A n B| / (|A| + |B|): same, disjoint, half of it, and 1 - 2 / 4 of uncertain pixels.
    torch.testing.assert_close(dice_loss(probabilities, targets), torch.tensor([0, 1, 1 / 3, 0.5]), atol=1e-4, rtol=0)


def test_dice_loss_of_nothing_found_where_nothing_is_wanted_is_zero() -> None:
    assert dice_loss(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_weighted_dice_counts_an_element_as_often_as_it_weighs() -> None:
    targets, probabilities = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    repeated = dice_loss(torch.ones(1, 4), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    for weights in (torch.tensor([3.0, 1.0]), torch.tensor([[3.0, 1.0]])):
        torch.testing.assert_close(dice_loss(probabilities, targets, weights), repeated)


def test_mask_losses() -> None:
    targets = torch.tensor([[[True, False]], [[True, True]]])
    bce, dice = mask_losses(torch.zeros(2, 1, 2), targets)
    assert bce.item() == pytest.approx(LOG_2)
    # Halves everywhere: 2 * 0.5 / (1 + 1) and 2 * 1 / (1 + 2).
    assert dice.item() == pytest.approx((1 / 2 + 1 / 3) / 2, abs=1e-4)
    perfect = mask_losses(torch.where(targets, SURE, -SURE), targets)
    assert [loss.item() for loss in perfect] == pytest.approx([0, 0], abs=1e-6)


def test_pointer_losses_count_superpixels_in_bce_and_pixels_in_dice() -> None:
    coverage, areas = torch.tensor([[1.0, 0.0]]), torch.tensor([30, 10])
    right, large_only, small_only = (torch.tensor([row]) for row in ([SURE, -SURE], [SURE, SURE], [-SURE, -SURE]))
    assert [loss.item() for loss in pointer_losses(right, coverage, areas)] == pytest.approx([0, 0], abs=1e-6)
    bce, dice = pointer_losses(large_only, coverage, areas)
    assert bce.item() == pytest.approx(SURE / 2)  # one of two superpixels is wrong by its logit
    assert dice.item() == pytest.approx(1 - 2 * 30 / (30 + 40), abs=1e-3)
    assert pointer_losses(small_only, coverage, areas)[1].item() == pytest.approx(1, abs=1e-3)


def test_pointer_bce_wants_the_part_that_is_covered() -> None:
    logits = torch.zeros(1, 1, requires_grad=True)
    for part, sign in ((0.5, 0), (0.75, -1), (0.25, 1)):
        (gradient,) = torch.autograd.grad(pointer_losses(logits, torch.tensor([[part]]), torch.tensor([7]))[0], logits)
        assert gradient.sign().item() == sign


def test_existence_loss() -> None:
    logits = torch.tensor([0.0, math.log(3), -math.log(3)])
    # P: 1/2 right, 3/4 right, 1/4 for what exists.
    loss = existence_loss(logits, torch.tensor([True, True, True]))
    assert loss.item() == pytest.approx((LOG_2 - math.log(3 / 4) - math.log(1 / 4)) / 3)
    assert existence_loss(-logits, torch.tensor([False] * 3)).item() == pytest.approx(loss.item())


def test_superpixel_coverage() -> None:
    label_map = torch.tensor([[0, 0, 1], [0, 2, 1]])
    masks = torch.tensor([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]], dtype=torch.bool)
    expected = torch.tensor([[1 / 3, 0, 1], [0, 1, 0], [0, 0, 0]])
    torch.testing.assert_close(superpixel_coverage(masks, label_map, 3), expected)
    soft = superpixel_coverage(0.5 * masks.float(), label_map, 3)
    torch.testing.assert_close(soft, expected / 2)
    assert superpixel_coverage(masks[:0], label_map, 3).shape == (0, 3)
