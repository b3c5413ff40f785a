"""Two processes, by DDP and by DeepSpeed, make the steps that one makes; a run goes on with any number of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mllmseg.config import EngineConfig, ModelConfig, PointConfig, StageConfig, TrainConfig
from mllmseg.errors import ConfigError
from mllmseg.train.engine import Engine
from mllmseg.train.journal import Journal
from mllmseg.train.trainer import Trainer

ROOT = Path(__file__).parents[2]
Settings = Callable[..., TrainConfig]
# Sums in another order: a few float32 roundings (6e-8) of a loss of about ten terms, then through a dozen steps.
LOSS_TOLERANCE = 1e-5
# Adam divides by the root of tiny squared gradients, which makes much of their roundings: a few percent of one update.
WEIGHT_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def settings(run_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """As `run_settings`, without dropout, whose chance is each process's own, and in float32."""
    plain = run_settings(tmp_path_factory.mktemp("plain"))
    model = ModelConfig.from_yaml(plain.model)
    lora = model.language_model.lora.model_copy(update={"dropout": 0.0})
    quiet = {
        "language_model": model.language_model.model_copy(update={"lora": lora}),
        "head": model.head.model_copy(update={"dropout": 0.0}),
    }
    path = tmp_path_factory.mktemp("quiet") / "model.yaml"
    model.model_copy(update=quiet).to_yaml(path)

    def make(out: Path, **changes: Any) -> TrainConfig:
        stages = {
            "align": StageConfig(steps=2, batch_size=4, warmup_steps=1),
            "instruct": StageConfig(steps=4, batch_size=4, warmup_steps=1, max_grad_norm=0.5, weight_decay=0.02),
            "point": PointConfig(steps=2, batch_size=4, warmup_steps=1, rounds=1),
        }
        fixed = {"model": str(path), "precision": "float32", "log_every": 1, "cache_workers": 1}
        return run_settings(out, **(stages | fixed | changes))

    return make


def launch(processes: int, runs: list[TrainConfig], folder: Path, *options: str) -> None:
    """Trains all of them in the same processes, which saves most of what starting them costs."""
    paths = []
    for number, config in enumerate(runs):
        paths.append(str(folder / f"{number}.yaml"))
        config.to_yaml(paths[-1])
    program = [str(Path(__file__).with_name("run_all.py")), *options, *paths]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*torchrun, *program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]


def steps_of(config: TrainConfig) -> list[tuple[Any, ...]]:
    entries = Journal(Path(config.out) / "journal.jsonl").entries()
    return [(entry["stage"], entry["step"], tuple(entry["samples"])) for entry in entries]


def same(run: TrainConfig, single: TrainConfig) -> None:
    assert steps_of(run) == steps_of(single)
    pairs = zip(*(Journal(Path(item.out) / "journal.jsonl").entries() for item in (run, single)), strict=True)
    for one, other in pairs:
        assert one["loss"] == pytest.approx(other["loss"], rel=LOSS_TOLERANCE)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=10 * LOSS_TOLERANCE)
    found, expected = (load_file(Path(item.out) / "final" / "model.safetensors") for item in (run, single))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape
        assert (found[name] - tensor).abs().max() < WEIGHT_TOLERANCE, name


@pytest.fixture(scope="module")
def single(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The run of one process."""
    config = settings(tmp_path_factory.mktemp("single"))
    Trainer(config).run()
    return config


def test_micro_batches_add_up_to_the_batch(single: TrainConfig, settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path, engine=EngineConfig(accumulate=4, gradient_checkpointing=True))
    Trainer(config).run()
    same(config, single)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_two_processes_make_the_steps_of_one(single: TrainConfig, settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    files = {name: str(ROOT / "configs" / "deepspeed" / f"{name}.json") for name in ("zero1", "zero2", "zero3")}
    engines = [EngineConfig(accumulate=2), *(EngineConfig(deepspeed=file) for file in files.values())]
    runs = [settings(tmp_path / str(number), engine=engine) for number, engine in enumerate(engines)]
    launch(2, runs, tmp_path)
    for run in runs:
        same(run, single)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_run_goes_on_with_another_number_of_processes(
    single: TrainConfig, settings: Settings, tmp_path: Path
) -> None:
    """Two processes under ZeRO-2, one, two under DDP: no sample lost or repeated, and the same losses."""
    pytest.importorskip("deepspeed")
    zero = EngineConfig(deepspeed=str(ROOT / "configs" / "deepspeed" / "zero2.json"))
    config = settings(tmp_path / "run", engine=zero, checkpoint_every=1)
    launch(2, [config], tmp_path, "--die", "instruct:1")
    plain = config.model_copy(update={"engine": EngineConfig()})
    launch(1, [plain], tmp_path, "--resume", "--die", "instruct:3")
    launch(2, [plain], tmp_path, "--resume")
    same(config, single)


@pytest.mark.parametrize(
    ("changes", "world", "problem"),
    [
        ({"strategy": "single"}, "2", "'single', but a launcher started 2 processes"),
        ({"strategy": "deepspeed"}, None, "DeepSpeed needs a file"),
        ({"strategy": "ddp", "deepspeed": "zero2.json"}, "2", "DeepSpeed needs a file"),
        ({"strategy": "ddp"}, None, "no launcher started this"),
        ({"deepspeed": "nowhere.json"}, None, "nowhere.json cannot be read"),
    ],
)
def test_what_does_not_fit_is_an_error(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], world: str | None, problem: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    if world is not None:
        for name, value in {"RANK": "0", "WORLD_SIZE": world, "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=problem):
        Engine(EngineConfig(device="cpu", **changes), "float32")
