"""The estimates of a dry run: they follow from the settings as they should, and lie near what is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mllmseg import cli
from mllmseg.config import ModelConfig, TrainConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.errors import ConfigError
from mllmseg.models.build import build_model
from mllmseg.models.skeleton import build_skeleton
from mllmseg.structures import ImageFeatures, Turn
from mllmseg.train.estimate import (
    Layout,
    Tokens,
    describe,
    measure_flops,
    memory_of,
    step_flops,
    tokens_of,
    visual_tokens,
)

Settings = Callable[..., TrainConfig]


def test_visual_tokens_follow_from_the_projector(tiny_config: ModelConfig) -> None:
    def tokens(projector: dict[str, Any], tower: dict[str, Any]) -> int:
        changes = {
            "projector": tiny_config.projector.model_copy(update=projector),
            "vision_tower": tiny_config.vision_tower.model_copy(update=tower),
        }
        return visual_tokens(tiny_config.model_copy(update=changes))

    assert tokens({"name": "semantic"}, {}) == 36
    assert tokens({"name": "resampler", "num_tokens": 25}, {}) == 25
    assert tokens({"name": "mlp"}, {"image_size": 518}) == 37 * 28
    assert tokens({"name": "mlp"}, {"name": "sam"}) == 64 * 48


def test_zero_stages_share_what_they_say(tiny_config: ModelConfig) -> None:
    skeleton, tokens = build_skeleton(tiny_config), Tokens(36, 400, 10)
    trained = sum(part.parameters for part in skeleton.parts if part.trained)

    def memory(**layout: Any) -> Any:
        return memory_of(skeleton, tiny_config, tokens, 2, Layout(gpus=4, **layout), precision="bfloat16")

    alone = memory()
    assert (alone.gradients, alone.optimizer) == (4 * trained, 8 * trained)
    assert (memory(zero=1).gradients, memory(zero=1).optimizer) == (4 * trained, 2 * trained)
    assert (memory(zero=2).gradients, memory(zero=2).optimizer) == (trained, 2 * trained)
    assert memory(zero=2).weights == alone.weights
    assert memory(zero=3).weights < alone.weights / 2
    assert memory(zero=2, offload_optimizer=True).optimizer == 0
    assert memory(zero=3, offload_parameters=True).weights < memory(zero=3).weights
    assert memory(checkpointing=True).activations < alone.activations
    assert alone.total > alone.weights + alone.gradients + alone.optimizer + alone.activations


def test_recomputing_costs_half_as_much_again(tiny_config: ModelConfig) -> None:
    skeleton, tokens = build_skeleton(tiny_config), Tokens(36, 400, 10)
    plain = step_flops(skeleton, tokens, 2, Layout())
    assert step_flops(skeleton, tokens, 2, Layout(checkpointing=True)) == pytest.approx(1.5 * plain)
    assert step_flops(skeleton, tokens, 4, Layout()) == pytest.approx(2 * plain)
    assert measure_flops(torch.float32) > 1e8


def test_activations_lie_near_what_autograd_keeps(
    tiny_config: ModelConfig, make_features: Callable[..., ImageFeatures]
) -> None:
    """Within a factor of two, on a language model wide enough to outweigh the head."""
    model = build_model(tiny_config).train()
    encoder = ConversationEncoder(model.mllm.tokenizer, tiny_config.language_model.system_prompt)
    features = [make_features(6, seed) for seed in range(2)]
    visual = [model.project(item) for item in features]
    text = encoder.encode([[Turn(f"where is the {name}?", "[SEG]")] for name in ("cat", "dog", "house", "moon")], 6)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {item.untyped_storage().data_ptr() for item in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden, _ = model.mllm(
            torch.stack([text.input_ids] * 2),
            visual_tokens=torch.cat([item.tokens for item in visual]),
            attention_mask=torch.ones(2, 1, len(text.input_ids), len(text.input_ids), dtype=torch.bool),
            position_ids=torch.stack([text.position_ids] * 2),
        )
    measured = sum(size for place, size in kept.items() if place not in weights)
    hidden.sum().backward()
    tokens = Tokens(6, len(text.input_ids) - 6, 4)
    skeleton = build_skeleton(tiny_config)
    estimate = memory_of(skeleton, tiny_config, tokens, 2, Layout(), precision="float32").activations
    assert 0.5 < estimate / measured < 2


def test_a_dry_run_says_all_and_writes_nothing(run_settings: Settings, tmp_path: Path) -> None:
    settings = run_settings(tmp_path / "run")
    settings.to_yaml(tmp_path / "train.yaml")
    result = CliRunner().invoke(
        cli.app, ["train", str(tmp_path / "train.yaml"), "--dry-run", "--gpus", "2", "--tflops", "100"]
    )
    assert result.exit_code == 0, result.output
    tokens = tokens_of(settings, ModelConfig.from_yaml(settings.model))
    for text in (
        "trained parameters: ",
        "  LoRA of rank 4 on q_proj, v_proj",
        f"{tokens.visual} visual (semantic), about {tokens.text} of text in {tokens.branches} branches",
        "2 images a step: 1 a GPU in each of 1 micro-batches",
        "memory per GPU, 2 GPUs, no ZeRO: about 1.5 GB",
        "100 TFLOP/s a GPU (as given)",
    ):
        assert text in result.stdout, result.stdout
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_split_is_refused(run_settings: Settings, tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    with pytest.raises(ConfigError, match=r"batch_size 2 cannot be split over 3 processes .* multiple of 3"):
        describe(settings, ModelConfig.from_yaml(settings.model), gpus=3, tflops=1.0)


def test_a_model_that_is_not_here_is_no_error(
    run_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = run_settings(tmp_path)
    model = ModelConfig.from_yaml(settings.model)
    far = model.language_model.model_copy(update={"name": "someone/a-model-on-the-hub"})
    lines = describe(settings, model.model_copy(update={"language_model": far}), gpus=1)
    assert any(line.startswith("not known: language model: the config of someone/a-model-on-the-hub") for line in lines)
    assert not any(line.startswith("memory") for line in lines)
