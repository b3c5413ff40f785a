"""What each part of the design is worth: one small training after another, each with one thing changed.

    python benchmarks/ablation.py configs/train/ablation.yaml --work runs/ablation --out benchmarks/ablation.md

Rows that are done are not run again: an interrupted table goes on where it stands. `--only` runs some of them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import command_line

from mllmseg.config import ModelConfig, TrainConfig
from mllmseg.eval.evaluation import RESULTS_FILE
from mllmseg.models.checkpoint import TRAINING_FILE
from mllmseg.train.start import initial_model_config


@dataclass(frozen=True)
class Row:
    """One training: `key=value` changes to the model's settings and to the run's."""

    name: str
    model: tuple[str, ...] = ()
    run: tuple[str, ...] = ()


ROWS = (
    Row("as it is"),
    Row("without the pointer", ("head.pointer=false",)),
    Row("without the dense prior", ("head.dense_prior=false",)),
    Row("the question's words not in the head", ("head.sentence=false",)),
    Row("no norms for the parts of a region", ("head.balanced=false",)),
    Row("without SSPE", ("projector.sspe=false",)),
    Row("without SSA", ("projector.ssa=false",)),
    Row("36 tokens by averaging", ("projector.name=average",)),
    Row("36 tokens by a resampler", ("projector.name=resampler",)),
    Row("every patch a token, by an MLP", ("projector.name=mlp",)),
    Row("SAM as the vision tower", ("vision_tower.name=sam", "vision_tower.hidden_size=256")),
    Row("LoRA of rank 4", ("language_model.lora.r=4", "language_model.lora.alpha=8")),
    Row("without LoRA", ("language_model.lora.r=0",)),
    Row("SAM's mask decoder tuned, too", ("trainable=[projector,lora,head,mask_decoder]",)),
    Row("half of the photos", (), ("data.sources=[{name: coco-mini, photos: 240}]",)),
    Row("a quarter of the photos", (), ("data.sources=[{name: coco-mini, photos: 120}]",)),
    # Before it: mllmseg data augment ../shared/data/coco-mini runs/augmented --photos 480
    Row("a view of each photo beside it", (), ("data.sources=[{name: coco-mini, root: runs/augmented}]",)),
    Row("another seed", (), ("seed=1",)),
)
HEADER = "| what is changed | gIoU, target there | gIoU, all | AUROC | N-acc | T-acc | training, s | settings |"


def command(*arguments: str, processes: int) -> None:
    """Runs a command of ours, on several processes where asked for."""
    line = command_line(*arguments, processes=processes)
    print(shlex.join(line), file=sys.stderr, flush=True)
    subprocess.run(line, check=True)


def run(row: Row, options: argparse.Namespace) -> list[str]:
    """Trains and evaluates a row, as far as that is not done; the cells of its line."""
    folder = options.work / row.name.replace(" ", "-").replace(",", "").replace("'", "")
    folder.mkdir(parents=True, exist_ok=True)
    settings = [*options.settings, *row.run]
    model = initial_model_config(TrainConfig.from_yaml(options.config, settings))
    model.to_yaml(folder / "base.yaml")
    ModelConfig.from_yaml(folder / "base.yaml", list(row.model)).to_yaml(folder / "model.yaml")
    out = folder / "run"
    if not (out / "final").is_dir():
        resume = ["--resume"] if (out / "train.yaml").is_file() else []
        changes = [*settings, f"model={folder / 'model.yaml'}", f"out={out}"]
        command("train", options.config, *changes, *resume, processes=options.processes)
    if not (folder / "val" / RESULTS_FILE).is_file():
        changes = [f"checkpoint={out / 'final'}", f"out={folder / 'val'}", "modes=[scored]", "baselines=[]"]
        command("eval", options.evaluation, *changes, *options.eval_settings, processes=options.processes)
    facts = json.loads((out / "final" / TRAINING_FILE).read_text(encoding="utf-8"))
    results = json.loads((folder / "val" / RESULTS_FILE).read_text(encoding="utf-8"))
    changed = " ".join((*row.model, *row.run)) or "none"
    return [row.name, *cells(results), f"{facts['seconds']}", f"`{changed}`"]


def cells(results: dict[str, Any]) -> list[str]:
    """Figures of sentences with a target and of all, with their intervals."""
    scores, intervals = (results[name]["scored"] for name in ("scores", "intervals"))

    def cell(scorer: str, figure: str) -> str:
        low, high = (100 * value for value in intervals[scorer][figure])
        return f"{100 * scores[scorer][figure]:.1f} ({low:.1f} – {high:.1f})"

    return [cell("classic", "mIoU"), cell("gres", "gIoU"), cell("calibration", "AUROC"), cell("gres", "N-acc"),
            cell("gres", "T-acc")]  # fmt: skip


def main() -> None:
    """Runs the rows, prints each when it is done, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a training configuration")
    parser.add_argument("settings", nargs="*", help="key=value changes to it, for all rows")
    parser.add_argument("--evaluation", default="configs/eval/coco_mini.yaml")
    parser.add_argument("--eval-settings", nargs="*", default=[], help="key=value changes to that")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, help="Markdown to write")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of rows")
    options = parser.parse_args()
    names = [row.name for row in ROWS]
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"no row is called {sorted(unknown)}; there are {names}")
    lines = [HEADER, "|---" * (HEADER.count("|") - 1) + "|"]
    for row in ROWS:
        if options.only is None or row.name in options.only:
            lines.append(f"| {' | '.join(run(row, options))} |")
            print(lines[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
