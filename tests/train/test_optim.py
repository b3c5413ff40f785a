"""The learning rate as a function of the step."""

from __future__ import annotations

import pytest
import torch

from mllmseg.config import StageConfig
from mllmseg.train.optim import build_optimizer, learning_rate


def test_warm_up_then_linear_decay() -> None:
    stage = StageConfig(steps=100, learning_rate=1.0, warmup_steps=4)
    rates = [learning_rate(stage, step) for step in range(100)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[52] == pytest.approx(48 / 96)
    assert rates[99] == pytest.approx(1 / 96)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_short_stage_warms_up_for_a_tenth_of_it() -> None:
    stage = StageConfig(steps=20, learning_rate=1.0, warmup_steps=100)
    assert [learning_rate(stage, step) for step in range(3)] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_every_step_of_a_tiny_stage_learns(steps: int, warmup: int) -> None:
    stage = StageConfig(steps=steps, learning_rate=2.0, warmup_steps=warmup)
    assert all(0 < learning_rate(stage, step) <= 2 for step in range(steps))


def test_the_optimizer_has_the_stages_settings() -> None:
    optimizer = build_optimizer([torch.zeros(1, requires_grad=True)], StageConfig(steps=1, weight_decay=0.3))
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert optimizer.param_groups[0]["weight_decay"] == 0.3
