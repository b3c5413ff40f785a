"""The learning rate as a function of the step."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from mllmseg.config import LearningRateScale, StageConfig
from mllmseg.train.optim import build_optimizer, learning_rate, set_learning_rate


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
    optimizer = build_optimizer({"head.x": Parameter(torch.zeros(1, 1))}, StageConfig(steps=1, weight_decay=0.3))
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert optimizer.param_groups[0]["weight_decay"] == 0.3


def test_parts_have_their_own_rates_and_vectors_do_not_decay() -> None:
    scale = LearningRateScale(language_model=0.5, projector=2.0)
    stage = StageConfig(steps=1, learning_rate=0.1, weight_decay=0.3, learning_rate_scale=scale)
    names = ("mllm.lora_A", "projector.weight", "head.weight", "mask_decoder.weight", "head.bias", "head.scalar")
    shapes = ((2, 2), (2, 2), (2, 2), (2, 2), (2,), ())
    parameters = {name: Parameter(torch.zeros(shape)) for name, shape in zip(names, shapes, strict=True)}
    optimizer = build_optimizer(parameters, stage)
    set_learning_rate(optimizer, 0.1)
    found = {
        id(item): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for item in group["params"]
    }
    assert {name: found[id(item)] for name, item in parameters.items()} == {
        "mllm.lora_A": (0.05, 0.3),
        "projector.weight": (0.2, 0.3),
        "head.weight": (0.1, 0.3),
        "mask_decoder.weight": (0.1, 0.3),
        "head.bias": (0.1, 0.0),
        "head.scalar": (0.1, 0.0),
    }
