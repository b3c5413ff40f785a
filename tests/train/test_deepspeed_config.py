"""DeepSpeed's files hold what the training configuration does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mllmseg.config import StageConfig
from mllmseg.errors import ConfigError
from mllmseg.train.deepspeed_config import fill, load

FILES = sorted((Path(__file__).parents[2] / "configs" / "deepspeed").glob("*.json"))
STAGE = StageConfig(steps=1, batch_size=12, max_grad_norm=0.7)
RUN: dict[str, Any] = {"processes": 2, "accumulate": 3, "half": False, "largest_trained": 99}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_numbers_come_from_the_training_configuration(path: Path) -> None:
    filled = fill(load(path), STAGE, shard=True, **RUN)
    assert '"auto"' not in json.dumps(filled)
    assert filled["train_micro_batch_size_per_gpu"] == 2
    assert filled["gradient_accumulation_steps"] == 3
    assert filled["gradient_clipping"] == 0.7
    zero = filled["zero_optimization"]
    assert zero["stage"] == int(path.stem[4])
    assert ("offload_optimizer" in zero) == path.stem.endswith("offload")
    assert zero.get("stage3_param_persistence_threshold", 99) == 99


def test_without_a_language_model_there_is_nothing_to_divide() -> None:
    path = next(path for path in FILES if path.stem == "zero3_offload")
    zero = fill(load(path), STAGE, shard=False, **RUN)["zero_optimization"]
    assert zero["stage"] == 2
    assert "offload_optimizer" in zero
    assert not [key for key in zero if key.startswith("stage3") or key == "offload_param"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}', "follows from the stage's max_grad_norm"),
        ('{"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}}', "learning_rate, weight_decay"),
        ('{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 5}}', "follows from the model"),
        ('{"zero_optimization": {"stage": 4}}', "must be 1, 2 or 3"),
        ("{}", "must be 1, 2 or 3"),
        ("[]", "holds a list"),
        ("{", "is no JSON"),
    ],
)
def test_a_number_with_two_homes_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "ds.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=problem):
        load(path)
