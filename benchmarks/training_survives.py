"""Proof on a whole run: killed at random moments it ends as if undisturbed; many processes learn what one learns.

    python benchmarks/training_survives.py kill CONFIG [key=value …] --kills 20
    python benchmarks/training_survives.py curves CONFIG [key=value …] --processes 2

Both print Markdown. CONFIG is a training configuration whose feature cache is filled (`mllmseg cache`), or `drawn`: the
drawn photos and the random model of the tests, which take no weights and little time.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import multiprocessing.process
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from launch import command_line
from safetensors.torch import load_file

from mllmseg.config import (
    DataConfig,
    HeadConfig,
    LanguageModelConfig,
    LoraConfig,
    ModelConfig,
    PointConfig,
    ProjectorConfig,
    SamConfig,
    StageConfig,
    TrainConfig,
    VisionTowerConfig,
)
from mllmseg.data.datasets.coco_mini import CocoMini
from mllmseg.inference.export import export
from mllmseg.train.cache import CacheEntry, FeatureCache
from mllmseg.train.journal import Journal
from mllmseg.train.start import initial_model_config
from mllmseg.train.trainer import Trainer

ROOT = Path(__file__).parents[1]
STRATEGIES = {"DDP": None, "ZeRO-1": "zero1", "ZeRO-2": "zero2", "ZeRO-3": "zero3"}
Command = list[str]


def command(config: str, settings: Command, out: Path, *, processes: int = 1, resume: bool = False) -> Command:
    """The command line a user would type."""
    return command_line("train", config, *settings, f"out={out}", *["--resume"][: int(resume)], processes=processes)


def train(line: Command, log: Path) -> None:
    """Runs to the end."""
    with log.open("w") as file:
        done = subprocess.run(line, stdout=file, stderr=file, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(line)} failed ({done.returncode}):\n{log.read_text()[-3000:]}")


def saving(out: Path) -> bool:
    """Whether a checkpoint is just being written: its folder has a temporary name."""
    return any(path.is_dir() for path in (out / "checkpoints").glob(".*-*"))


def fork(config: str, settings: Command, out: Path) -> multiprocessing.process.BaseProcess:
    """The same in a process of its own, which has nothing to import any more."""
    process = multiprocessing.get_context("fork").Process(target=in_child, args=(config, settings, out))
    process.start()
    return process


def in_child(config: str, settings: Command, out: Path) -> None:
    """Trains, or goes on where a run stands; what it says goes to a file beside the run."""
    sys.stdout = sys.stderr = out.with_suffix(".log").open("a")
    resume = (out / "train.yaml").exists()
    Trainer(TrainConfig.from_yaml(config, [*settings, f"out={out}"]), resume=resume).run()


def killed(
    process: multiprocessing.process.BaseProcess, out: Path, seconds: float, *, in_save: bool, on_a_step: bool = False
) -> str | None:
    """Kills a run with SIGKILL after so long, or in the first save after that; None where it ended before.

    `on_a_step`: the time counts from its first new step on, so that it gets on however long it takes to start.
    """
    began, before = time.monotonic(), steps_of(out)
    while process.is_alive():
        if on_a_step and steps_of(out) == before:
            began = time.monotonic()
        if time.monotonic() - began > seconds and (not in_save or saving(out)):
            moment = "while saving" if saving(out) else "between saves"
            process.kill()
            process.join()
            return moment
        time.sleep(0.0005)
    if process.exitcode:
        sys.exit(f"the run failed ({process.exitcode}):\n{out.with_suffix('.log').read_text()[-3000:]}")
    return None


def steps_of(out: Path) -> int:
    """Lines in a run's journal."""
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def difference(one: Path, other: Path) -> float:
    """The largest difference between two checkpoints' weights."""
    found, expected = (load_file(folder / "final" / "model.safetensors") for folder in (one, other))
    assert found.keys() == expected.keys()
    return max(float((found[name] - tensor).abs().max()) for name, tensor in expected.items())


def kill(options: argparse.Namespace, folder: Path) -> None:
    """One undisturbed run, and one that is killed `--kills` times, every other time in the middle of a save."""
    undisturbed, out, rng = folder / "undisturbed", folder / "killed", random.Random(0)
    began = time.monotonic()
    process = fork(options.config, options.settings, undisturbed)
    while process.is_alive() and not (undisturbed / "journal.jsonl").exists():
        time.sleep(0.001)
    startup = time.monotonic() - began
    assert killed(process, undisturbed, 1e9, in_save=False) is None
    whole = time.monotonic() - began
    step_seconds = (whole - startup) / steps_of(undisturbed)
    moments: list[str] = []
    while len(moments) < options.kills:
        process = fork(options.config, options.settings, out)
        # Every fifth comes while it is starting, the others somewhere in the next two steps.
        starting = len(moments) % 5 == 4
        seconds = rng.random() * (startup if starting else 2 * step_seconds)
        moment = killed(process, out, seconds, in_save=len(moments) % 2 == 1, on_a_step=not starting)
        if moment is None:
            break
        steps = Journal(out / "journal.jsonl").entries()
        moments.append(
            f"{moment}, after {steps[-1]['stage']} {steps[-1]['step']}" if steps else f"{moment}, before a step"
        )
    assert killed(fork(options.config, options.settings, out), out, 1e9, in_save=False) is None
    runs = [Journal(path / "journal.jsonl").entries() for path in (undisturbed, out)]
    print("| kills | while saving | undisturbed run | same samples | same losses | largest difference of weights |")
    print("|---|---|---|---|---|---|")
    in_save = sum(moment.startswith("while saving") for moment in moments)
    samples = [[entry["samples"] for entry in run] for run in runs]
    losses = [[entry["loss"] for entry in run] for run in runs]
    same = f"{samples[0] == samples[1]} | {losses[0] == losses[1]}"
    print(f"| {len(moments)} | {in_save} | {whole:.0f} s | {same} | {difference(undisturbed, out)} |")
    print("\n" + "\n".join(f"{number}. {moment}" for number, moment in enumerate(moments, start=1)))


def curves(options: argparse.Namespace, folder: Path) -> None:
    """The same run by one process and by several under each strategy."""
    train(command(options.config, options.settings, folder / "one"), folder / "one.log")
    expected = Journal(folder / "one" / "journal.jsonl").entries()
    print(
        "| strategy | steps | same samples | largest relative difference of a loss | of a gradient norm | of weights |"
    )
    print("|---|---|---|---|---|---|")
    print(f"| one process | {len(expected)} | | | | |")
    columns = [[entry["loss"] for entry in expected]]
    for name, file in STRATEGIES.items():
        engine = [] if file is None else [f"engine.deepspeed=configs/deepspeed/{file}.json"]
        out = folder / name
        line = command(options.config, [*options.settings, *engine], out, processes=options.processes)
        train(line, folder / f"{name}.log")
        found = Journal(out / "journal.jsonl").entries()
        columns.append([entry["loss"] for entry in found])
        worst = [
            max(abs(a[key] - b[key]) / max(abs(b[key]), 1e-12) for a, b in zip(found, expected, strict=True))
            for key in ("loss", "grad_norm")
        ]
        same = [entry["samples"] for entry in found] == [entry["samples"] for entry in expected]
        weights = difference(out, folder / "one")
        print(
            f"| {name} | {len(found)} | {same} | {worst[0]:.1e} | {worst[1]:.1e} | {weights:.1e} absolute |", flush=True
        )
    print("\n| exported from | adapter: share of the mask pixels that differ | merged |\n|---|---|---|")
    for name in STRATEGIES:
        adapter, merged = (
            export(folder / name, folder / f"{name}-{merge}", merge=merge, card=False) for merge in (False, True)
        )
        print(f"| {name} | {adapter.masks:.1e} | {merged.masks:.1e} |", flush=True)
    print(f"\n| stage, step | one process | {' | '.join(STRATEGIES)} |\n|---|{'---|' * len(columns)}")
    for number, entry in enumerate(expected):
        print(f"| {entry['stage']} {entry['step']} | {' | '.join(f'{column[number]:.6f}' for column in columns)} |")


def drawn(folder: Path) -> str:
    """Writes what the tests of training use, without dropout, whose chance is each process's own; its configuration."""
    conftests = []
    for name in ("tests/conftest.py", "tests/train/conftest.py"):
        spec = importlib.util.spec_from_file_location(Path(name).parent.name, ROOT / name)
        assert spec is not None
        assert spec.loader is not None
        conftests.append(importlib.util.module_from_spec(spec))
        spec.loader.exec_module(conftests[-1])
    whole, training = conftests
    tower = VisionTowerConfig(checkpoint=None, image_size=56, hidden_size=16, dtype="float32")
    language_model = whole._save_language_model(folder / "llama")
    model = ModelConfig(
        sam=SamConfig(checkpoint=None, dtype="float32"),
        vision_tower=tower.model_copy(update={"overrides": {"num_hidden_layers": 1, "num_attention_heads": 2}}),
        projector=ProjectorConfig(hidden_size=32, num_heads=4),
        language_model=LanguageModelConfig(name=str(language_model), lora=LoraConfig(r=4, dropout=0.0)),
        head=HeadConfig(hidden_size=32, num_layers=1, num_heads=4, dropout=0.0),
    )
    training.save_dataset(folder / "data")
    model.to_yaml(folder / "model.yaml")
    cache = FeatureCache(folder / "cache", model)
    cache.fill(
        [CacheEntry(photo.path, size=photo.size) for photo in CocoMini(folder / "data", "train").photos.values()],
        stack=training.DrawnStack(),
    )
    config = TrainConfig(
        model=str(folder / "model.yaml"),
        data=DataConfig(root=str(folder / "data"), holdout_every=3, positives=2, negatives=1, flip=0.5),
        cache=str(folder / "cache"),
        out="",
        align=StageConfig(steps=6, batch_size=2, warmup_steps=2),
        instruct=StageConfig(steps=8, batch_size=2, warmup_steps=2),
        point=PointConfig(steps=6, batch_size=2, warmup_steps=2),
        refine=StageConfig(steps=4, batch_size=2, warmup_steps=2),
        masks_per_photo=1,
        precision="float32",
        log_every=1,
        val_photos=0,
        checkpoint_every=1,
        cache_workers=1,
    )
    config.to_yaml(folder / "train.yaml")
    return str(folder / "train.yaml")


def without_dropout(config: str, settings: Command, folder: Path) -> Path:
    """Writes the model's settings without dropout, whose chance is each process's own."""
    model = initial_model_config(TrainConfig.from_yaml(config, settings))
    lora = model.language_model.lora.model_copy(update={"dropout": 0.0})
    language_model = model.language_model.model_copy(update={"lora": lora})
    head = model.head.model_copy(update={"dropout": 0.0})
    path = folder / "model.yaml"
    model.model_copy(update={"language_model": language_model, "head": head}).to_yaml(path)
    return path


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kill", "curves"])
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.config == "drawn":
            (Path(folder) / "drawn").mkdir()
            options.config = drawn(Path(folder) / "drawn")
        else:
            options.settings.append(f"model={without_dropout(options.config, options.settings, Path(folder))}")
        {"kill": kill, "curves": curves}[options.what](options, Path(folder))


if __name__ == "__main__":
    main()
