"""Platt scaling."""

from __future__ import annotations

import pytest
import torch

from mllmseg.train.calibration import fit_platt


def test_a_known_scale_and_bias_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, generator=generator) * 3
    # Symmetric around its threshold, so that weighting the classes alike moves nothing.
    exists = torch.rand(20_000, generator=generator) < (2 * logits).sigmoid()
    scale, bias = fit_platt(logits + 1, exists)
    # The pull towards a scale of one takes a little off.
    assert scale == pytest.approx(2, rel=0.1)
    assert bias == pytest.approx(-scale, rel=0.05)


def test_one_half_balances_the_classes_however_many_there_are() -> None:
    logits = torch.cat([torch.linspace(0, 2, 900), torch.linspace(1, 3, 100)])
    exists = torch.arange(1000) >= 900
    scale, bias = fit_platt(logits, exists)
    probability = (scale * logits + bias).sigmoid()
    assert scale > 0
    accepted, rejected = (probability[~exists] >= 0.5).float().mean(), (probability[exists] < 0.5).float().mean()
    assert accepted.item() == pytest.approx(rejected.item(), abs=0.02)


@pytest.mark.parametrize("exists", [[], [True, True], [False]])
def test_one_class_alone_leaves_the_score_as_it_is(exists: list[bool]) -> None:
    assert fit_platt(torch.zeros(len(exists)), torch.tensor(exists, dtype=torch.bool)) == (1.0, 0.0)


def test_separable_data_gives_finite_numbers() -> None:
    scale, bias = fit_platt(torch.tensor([-3.0, -2.0, 2.0, 3.0]), torch.tensor([False, False, True, True]))
    assert 1 < scale < 100
    assert abs(bias) < 1


def test_it_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert fit_platt(torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([False, True, False, True]))[0] > 1
