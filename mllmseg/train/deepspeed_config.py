"""DeepSpeed's JSON, filled from the training configuration: a number has one home, and it is not the JSON."""

from __future__ import annotations

import json
import math
import os
import pathlib
from typing import Any

from mllmseg.config import StageConfig
from mllmseg.errors import ConfigError

AUTO = "auto"
# What DeepSpeed is told by us, and which setting it follows from.
OWNERS = {
    "train_batch_size": "the stage's batch_size",
    "train_micro_batch_size_per_gpu": "the stage's batch_size",
    "gradient_accumulation_steps": "engine.accumulate",
    "gradient_clipping": "the stage's max_grad_norm",
    "optimizer": "the stage's learning_rate, weight_decay and warmup_steps",
    "scheduler": "the stage's learning_rate and warmup_steps",
    "bf16": "precision",
    "fp16": "precision",
    "torch_autocast": "precision",
}
# Of ZeRO's third stage alone; the other two refuse some of them.
STAGE3 = ("offload_param", "sub_group_size")


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a DeepSpeed configuration.

    Raises:
        ConfigError: it is missing, no JSON object, has no ZeRO stage, or sets what the training configuration sets.
    """
    try:
        values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"engine.deepspeed: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"engine.deepspeed: {path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"engine.deepspeed: {path} holds a {type(values).__name__}, not an object")
    for key, owner in OWNERS.items():
        if values.get(key, AUTO) != AUTO:
            raise ConfigError(f"{path}: '{key}' follows from {owner}; remove it, or write \"{AUTO}\"")
    zero = values.get("zero_optimization", {})
    if zero.get("stage") not in (1, 2, 3):
        raise ConfigError(f"{path}: zero_optimization.stage is {zero.get('stage')!r}; it must be 1, 2 or 3")
    key = "stage3_param_persistence_threshold"
    if zero.get(key, AUTO) != AUTO:
        raise ConfigError(f"{path}: '{key}' follows from the model; remove it, or write \"{AUTO}\"")
    return values


def fill(
    values: dict[str, Any],
    stage: StageConfig,
    *,
    processes: int,
    accumulate: int,
    half: bool,
    largest_trained: int,
    shard: bool,
) -> dict[str, Any]:
    """The configuration of one stage of training.

    Args:
        values: as `load` gives them.
        stage: its settings.
        processes: how many there are.
        accumulate: micro-batches a step.
        half: whether to train in float16, which needs its losses scaled.
        largest_trained: elements of the largest trained parameter.
        shard: whether there is anything large and frozen for ZeRO's third stage to divide; else its second is used.
    """
    zero = dict(values["zero_optimization"])
    if zero["stage"] == 3 and not shard:
        zero = {key: item for key, item in zero.items() if not key.startswith("stage3") and key not in STAGE3}
        zero["stage"] = 2
    if zero["stage"] == 3:
        # What is trained is small: it stays whole on every process, and the frozen language model is divided.
        zero["stage3_param_persistence_threshold"] = largest_trained
    filled = {key: item for key, item in values.items() if key not in OWNERS}
    return filled | {
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": math.ceil(stage.batch_size / (processes * accumulate)),
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": stage.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Trained parameters are float32 whatever the precision, so only float16's loss scaling concerns DeepSpeed.
        "torch_autocast": {"enabled": half, "dtype": "float16"},
    }
