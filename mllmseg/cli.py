"""The command line. Every command imports what it needs itself, so that `mllmseg --help` answers at once."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllmseg.commands import evaluate
from mllmseg.commands.bench import bench
from mllmseg.commands.cache import ConfigArgument, OverridesArgument, cache_app
from mllmseg.commands.chat import chat
from mllmseg.commands.data import data_app
from mllmseg.commands.demo import demo
from mllmseg.commands.export import export
from mllmseg.commands.options import DeviceOption, DtypeOption, ModelOption, ThresholdOption
from mllmseg.errors import MLLMSegError

if TYPE_CHECKING:
    from mllmseg.config import TrainConfig
    from mllmseg.structures import Segmentation

app = typer.Typer(
    name="mllmseg",
    help="Ask a question about an image, get a mask and an answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(help="Pre-trained weights: list, fetch, verify.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")
app.command("bench")(bench)
app.command("chat")(chat)
app.command("demo")(demo)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(evaluate.predict_app, name="predict")
app.command("score")(evaluate.score)
app.add_typer(evaluate.eval_app, name="eval")
app.command("export")(export)

ProgressOption = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", help="Show a progress bar on stderr (default: on a terminal)."),
]
NamesArgument = Annotated[list[str] | None, typer.Argument(help="Names as `mllmseg weights list` gives them.")]


def _show_version(value: bool) -> None:
    if value:
        from mllmseg import __version__

        typer.echo(f"mllmseg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


@weights_app.command("list")
def weights_list() -> None:
    """Show the known weights and whether the cache has them."""
    from mllmseg import weights

    for status in weights.list_weights():
        known = status.weights
        state = "present" if status.present else "missing"
        typer.echo(f"{known.name:<12}{state:<9}{known.num_bytes / 1e6:>7.1f} MB  {known.licence:<12}{known.title}")
        typer.echo(f"{'':<12}{status.path}")


@weights_app.command("fetch")
def weights_fetch(names: NamesArgument = None, progress: ProgressOption = None) -> None:
    """Fetch weights into the cache; all of them where no name is given."""
    from mllmseg import weights

    shown = sys.stderr.isatty() if progress is None else progress
    for name in names or sorted(weights.WEIGHTS):
        typer.echo(weights.fetch(name, progress=shown))


@weights_app.command("verify")
def weights_verify(names: NamesArgument = None) -> None:
    """Read cached weights through and compare every SHA-256; all of them where no name is given."""
    from mllmseg import weights

    for name in names or sorted(weights.WEIGHTS):
        typer.echo(f"{name}: {weights.verify(name)} is intact")


@app.command("doctor")
def doctor() -> None:
    """Check this machine: versions, devices, memory, disk, weights. Exit code 1 where something is wrong."""
    from mllmseg.doctor import Level, examine

    findings = examine()
    colours = {Level.OK: "green", Level.NOTE: "yellow", Level.PROBLEM: "red"}
    for finding in findings:
        mark = typer.style(f"{finding.level.value:<8}", fg=colours[finding.level])
        typer.echo(f"{mark} {finding.subject:<17} {finding.detail}")
        if finding.remedy:
            typer.echo(f"{'':<9}{'':<18}-> {finding.remedy}")
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    typer.echo(f"{problems} problem(s) found" if problems else "everything is in order")
    raise typer.Exit(1 if problems else 0)


@app.command("segment")
def segment(
    image: Annotated[str, typer.Argument(help="An image file.", show_default=False)],
    query: Annotated[
        list[str], typer.Argument(help="What to look for, one or several phrases or questions.", show_default=False)
    ],
    overlay: Annotated[Path | None, typer.Option(help="Draw the masks on the image, a colour a query.")] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Write the mask, white on black; for several queries NAME-1.png, NAME-2.png, …, in order."),
    ] = None,
    superpixels: Annotated[
        Path | None, typer.Option(help="Draw the regions the model sees, the chosen ones of all queries lit.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a query, one a line, and nothing else on stdout.")
    ] = False,
    threshold: ThresholdOption = 0.5,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    model: ModelOption = None,
) -> None:
    """Find what a sentence names in an image. Exit code 0 whether or not it is there, 2 for bad input."""
    warnings.simplefilter("ignore")  # the libraries' deprecations are no news to a user
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from mllmseg.data.transforms import load_image
    from mllmseg.inference import answers, outputs, pretrained, serialize, visualize

    # Everything that can be wrong with the input is found before the model is loaded.
    masks = outputs.numbered(mask, len(query)) if mask else []
    for path in [overlay, superpixels, *masks]:
        if path is not None:
            outputs.check_writable(path, lossless=path in masks)
    for text in query:
        answers.check_question(text)
    picture = load_image(image)
    folder = pretrained.find_checkpoint(model)

    from mllmseg.inference.segmenter import Segmenter
    from mllmseg.models.allocator import keep_freed_memory

    keep_freed_memory()
    segmenter = Segmenter.from_pretrained(folder, device=device, dtype=dtype, progress=sys.stderr.isatty())
    segmenter.set_image(picture)
    found = segmenter.segment(query, threshold=threshold)
    if overlay:
        outputs.save_image(visualize.overlay_all(picture, found), overlay)
    if superpixels:
        outputs.save_image(visualize.chosen_superpixels(picture, found), superpixels)
    for path, item in zip(masks, found, strict=False):
        outputs.save_image(visualize.mask_image(item.masks), path)
    if as_json:
        for item in found:
            typer.echo(json.dumps(serialize.to_json(item, image), ensure_ascii=False))
    else:
        _show(found, segmenter.timings, [path for path in [overlay, superpixels, *masks] if path])


@app.command("train")
def train(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the configuration's 'out'.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run needs: parameters, tokens, memory, time. Loads nothing.")
    ] = False,
    gpus: Annotated[int | None, typer.Option(min=1, help="For --dry-run: how many GPUs to plan for.")] = None,
    tflops: Annotated[
        float | None, typer.Option(min=0.1, help="For --dry-run: the speed of one of them; none: this machine's.")
    ] = None,
) -> None:
    """Train a model; prints the folder of the finished checkpoint."""
    from mllmseg.config import TrainConfig

    settings = TrainConfig.from_yaml(config, overrides)
    if dry_run:
        _estimate(settings, gpus, tflops)
        return
    _log_to_stderr()
    from mllmseg.models.allocator import keep_freed_memory
    from mllmseg.train.trainer import Trainer

    keep_freed_memory()
    final = Trainer(settings, resume=resume).run()
    if os.environ.get("RANK", "0") == "0":  # of several processes, one answers
        typer.echo(final)


def _estimate(settings: TrainConfig, gpus: int | None, tflops: float | None) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from mllmseg.train.estimate import describe, planned_gpus
    from mllmseg.train.start import initial_model_config

    model = initial_model_config(settings)
    for line in describe(settings, model, gpus=gpus or planned_gpus(), tflops=tflops):
        typer.echo(line)


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("mllmseg").setLevel(logging.INFO)


def _show(found: list[Segmentation], image_timings: dict[str, float], written: list[Path]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for item in found:
        spent = sum(time for stage, time in item.timings.items() if stage not in image_timings)
        share = f"{item.union.float().mean():.1%} of the image, " if item.exists else ""
        console.print(Text(item.answer, style="bold green" if item.exists else "bold yellow"))
        console.print(Text(f"  P(it exists) {item.score:.2f}, {share}{spent:.0f} ms", style="dim"))
    tokens, total = found[0].num_visual_tokens, sum(image_timings.values()) / 1e3
    console.print(Text(f"The image: {tokens} visual tokens, {total:.1f} s once.", style="dim"))
    for path in written:
        console.print(Text(f"Wrote {path}"))


def main() -> None:
    """Run the command line; an error made for the user becomes one line on stderr and exit code 2."""
    try:
        app()
    except MLLMSegError as error:
        typer.echo(f"mllmseg: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
