"""`mllmseg predict`, `score` and `eval`: predictions first, numbers second, from the predictions alone."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mllmseg.commands.group import DefaultCommand
from mllmseg.commands.options import DeviceOption, DtypeOption, ThresholdOption
from mllmseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mllmseg.data.referring import ReferringDataset
    from mllmseg.eval.metrics import Scorer
    from mllmseg.eval.metrics.bootstrap import Interval
    from mllmseg.eval.scoring import Answers

predict_app = typer.Typer(
    help="Answer every sentence of a dataset: one JSON line a query, in the dataset's order.",
    invoke_without_command=True,
    no_args_is_help=True,
)

DataOption = Annotated[str | None, typer.Option("--data", help="DATASET or DATASET:SPLIT.", show_default=False)]
JsonlOption = Annotated[
    Path | None, typer.Option("--jsonl", help='Own lines, {"image", "text"[, "id"]} and optional ground truth.')
]
ImageRootOption = Annotated[Path | None, typer.Option("--image-root", help="Where the images of --jsonl lie.")]
DataRootOption = Annotated[Path | None, typer.Option("--data-root", help="The folder in which the datasets lie.")]
ProgressOption = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", help="Show progress on stderr (default: yes)."),
]


@predict_app.callback()
def predict(
    context: typer.Context,
    data: DataOption = None,
    jsonl: JsonlOption = None,
    image_root: ImageRootOption = None,
    data_root: DataRootOption = None,
    out: Annotated[Path | None, typer.Option(help="The file of predictions.", show_default=False)] = None,
    mode: Annotated[
        Literal["scored", "free", "teacher"],
        typer.Option(
            help="scored: P(exists) decides; free: the words do; teacher: [SEG] is placed, something always exists."
        ),
    ] = "scored",
    shard: Annotated[str | None, typer.Option(help="Only part i of n of the images, as 0/4, 1/4, 2/4, 3/4.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out where it exists.")] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "--model", help="A checkpoint folder or hub id; none: our own."),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Of the CPU. The same number, the same bytes: shards should agree.", min=1)
    ] = None,
    threshold: ThresholdOption = 0.5,
    progress: ProgressOption = None,
) -> None:
    """Answer every sentence of a dataset: one JSON line a query, in the dataset's order.

    Under torchrun or accelerate launch each process takes its part of the images, and the first one joins the files.
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise ConfigError("predict: name the file of predictions by --out")
    _quieten()
    from mllmseg.distributed import this_process

    process = this_process()
    dataset = _open(data, jsonl, image_root, data_root)
    from mllmseg.eval.job import Model, PredictionJob, run_job
    from mllmseg.eval.manifest import Shard
    from mllmseg.inference.pretrained import find_checkpoint
    from mllmseg.models.allocator import keep_freed_memory

    keep_freed_memory()
    job = PredictionJob(dataset, mode, threshold, out, None if shard is None else Shard.parse(shard))
    model = Model.find(find_checkpoint(checkpoint), device, dtype, process, threads)
    run_job(job, model, process, model.load, resume=resume, progress=progress is not False)


@predict_app.command("merge")
def merge(
    out: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    shards: Annotated[list[Path], typer.Argument(help="Every shard of one run, in any order.", show_default=False)],
) -> None:
    """Join the shards of one run; the result is the file that one run would have written."""
    from mllmseg.eval.prediction_run import merge_predictions

    merge_predictions(out, shards)


def score(
    predictions: Annotated[
        list[str], typer.Argument(help="A file of predictions, or all shards of one.", show_default=False)
    ],
    data: DataOption = None,
    scorer: Annotated[
        list[str] | None, typer.Option(help="Names, one or several; all there are where none is given.")
    ] = None,
    jsonl: JsonlOption = None,
    image_root: ImageRootOption = None,
    data_root: DataRootOption = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out queries without a prediction.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object {scorer: {metric: value}}.")] = False,
) -> None:
    """Score anybody's predictions against a dataset."""
    from mllmseg.eval.metrics import SCORERS
    from mllmseg.eval.scoring import find_scorers, plain_scores, read_answers, score_answers

    # `--scorer lisa gres` reads as a list to people; to the parser the second name is another argument.
    names = [name for entry in scorer or [] for name in entry.split(",")]
    extra = [word for word in predictions if scorer and word in set(SCORERS) and not Path(word).exists()]
    find_scorers(names := [*names, *extra])
    paths = [Path(word) for word in predictions if word not in extra]
    if not paths:
        raise DataError("score: name a file of predictions")
    dataset = _open(data, jsonl, image_root, data_root)
    answers = read_answers(dataset, paths, partial=partial)
    scorers = score_answers(answers, names)
    if as_json:
        typer.echo(json.dumps(plain_scores(scorers), indent=2))
    else:
        _show(answers, scorers)


eval_app = typer.Typer(help="Predict, score and report in one go.", cls=DefaultCommand, no_args_is_help=True)


@eval_app.command("run")
def evaluate(
    config: Annotated[Path, typer.Argument(help="An evaluation's configuration (YAML).", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as key.sub=value.", metavar="[KEY=VALUE]…")
    ] = None,
    data_root: DataRootOption = None,
    progress: ProgressOption = None,
) -> None:
    """Predict what is missing, score it, and write the report; prints the report's folder. `run` may be left out."""
    from mllmseg.config import EvalConfig

    overrides = [*(overrides or []), *([] if data_root is None else [f"data_root={json.dumps(str(data_root))}"])]
    settings = EvalConfig.from_yaml(config, overrides)
    _quieten()
    from mllmseg.distributed import this_process
    from mllmseg.eval.evaluation import run_evaluation

    process = this_process()
    command = shlex.join(["mllmseg", "eval", str(config), *overrides])
    folder = run_evaluation(settings, process, command=command, progress=progress is not False)
    if process.rank == 0:
        typer.echo(folder)


@eval_app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="A folder of `mllmseg eval`, or a file of predictions.")],
    second: Annotated[Path, typer.Argument(help="Likewise, of another model on the same data.")],
    mode: Annotated[
        Literal["scored", "free", "teacher"], typer.Option(help="Which predictions of a folder.")
    ] = "scored",
    scorer: Annotated[list[str] | None, typer.Option(help="Names; all there are where none is given.")] = None,
    data: DataOption = None,
    jsonl: JsonlOption = None,
    image_root: ImageRootOption = None,
    data_root: DataRootOption = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object and nothing else.")] = False,
) -> None:
    """Show what changes from one run to another on the queries both answered, with 95 % intervals over images."""
    from mllmseg.eval.compare import compare as compare_samples
    from mllmseg.eval.evaluation import open_configured, predictions_path, read_config
    from mllmseg.eval.scoring import find_scorers, read_answers

    names = list(find_scorers([name for entry in scorer or [] for name in entry.split(",")]))
    if data is None and jsonl is None and first.is_dir():
        dataset = open_configured(read_config(first))
    else:
        dataset = _open(data, jsonl, image_root, data_root)
    paths = [predictions_path(path, mode) if path.is_dir() else path for path in (first, second)]
    before, after = (read_answers(dataset, [path], partial=True).samples for path in paths)
    found = compare_samples(before, after, scorers=names, names=(str(first), str(second)))
    if html is not None:
        from mllmseg.eval.html import render_comparison_html

        _write(html, render_comparison_html(found))
    if as_json:
        typer.echo(json.dumps(_plain(dataclasses.asdict(found)), indent=2))
    else:
        from mllmseg.eval.markdown import render_comparison_markdown

        typer.echo(render_comparison_markdown(found), nl=False)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def _quieten() -> None:
    """The libraries' deprecations and bars are no news to a user."""
    warnings.simplefilter("ignore")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _open(data: str | None, jsonl: Path | None, image_root: Path | None, data_root: Path | None) -> ReferringDataset:
    if (data is None) == (jsonl is None):
        raise ConfigError("say what is asked: either --data DATASET[:SPLIT] or --jsonl FILE")
    from mllmseg.data.referring import open_dataset

    return open_dataset(data or f"jsonl:{jsonl}", data_root=data_root, image_root=image_root)


def _show(answers: Answers, scorers: dict[str, Scorer]) -> None:
    rows = [
        (name, metric, _cell(interval.value), _span(interval), str(interval.count))
        for name, scorer in scorers.items()
        for metric, interval in scorer.intervals().items()
    ]
    left_out = {"without prediction": answers.num_missing, "without ground truth": answers.num_unknown}
    notes = [f"{count} left out {reason}" for reason, count in left_out.items() if count]
    note = ", ".join([f"{len(answers.samples)} queries", *notes, f"data {answers.data_sha256[:12]}"])
    _table(("scorer", "metric", "value", "95 % over images", "n"), rows, note)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(note)


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _span(interval: Interval) -> str:
    return "–" if math.isnan(interval.low) else f"{interval.low:.4f} to {interval.high:.4f}"


def _plain(value: Any) -> Any:
    """For JSON, which knows no NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
