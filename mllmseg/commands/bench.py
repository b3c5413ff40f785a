"""`mllmseg bench`: how fast this machine answers, and how the cost grows."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllmseg.commands.options import DeviceOption, ModelOption
from mllmseg.errors import ConfigError

if TYPE_CHECKING:
    from mllmseg.bench.report import Curve, Table

SUITES = ("superpixels", "questions", "projectors", "prefill", "training", "growth")


def bench(
    photos: Annotated[list[Path] | None, typer.Argument(help="Photos; those in examples/ where none is given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for bench.md, bench.json and drawings.")] = Path("out/bench"),
    suite: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(SUITES)}.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each is measured.", min=1)] = 9,
    threads: Annotated[int | None, typer.Option(help="CPU threads; none for torch's own choice.", min=1)] = None,
    their_default: Annotated[
        bool, typer.Option(help="Measure segment_anything's 32×32 points too: minutes a photo on a CPU.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Measure superpixels by torch.compile, too.")] = False,
    megapixels: Annotated[str, typer.Option(help="Image sizes to grow through.")] = "0.3,1,4,12,50",
    peer: Annotated[str | None, typer.Option(help="MODULE:FUNCTION(image, question) of somebody else's.")] = None,
    device: DeviceOption = "auto",
    model: ModelOption = None,
) -> None:
    """Measure speed and memory on this machine, interleaved, and print a table."""
    chosen = tuple(suite or SUITES)
    for name in chosen:
        if name not in SUITES:
            raise ConfigError(f"--suite {name}: there is no such suite; use {', '.join(SUITES)}")
    sizes = _numbers(megapixels)
    pictures = photos or sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))
    if not pictures:
        raise ConfigError("no photos: give some, the package was installed without its examples/")
    import torch

    from mllmseg.bench import report

    if threads is not None:
        torch.set_num_threads(threads)
    tables, curves, facts = _measure(chosen, pictures, sizes, rounds, their_default, compiled, peer, device, model)
    command = shlex.join(["mllmseg", "bench", *sys.argv[2:]])
    typer.echo(report.write(out, facts, tables, curves, command))


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--megapixels {text}: numbers with commas between them are expected") from error


def _measure(
    chosen: tuple[str, ...],
    photos: list[Path],
    megapixels: list[float],
    rounds: int,
    their_default: bool,
    compiled: bool,
    peer: str | None,
    device: str,
    model: str | None,
) -> tuple[list[Table], list[Curve], dict[str, object]]:
    from mllmseg.bench import suites
    from mllmseg.bench.measure import environment, interleave
    from mllmseg.bench.report import Curve, Table
    from mllmseg.inference.pretrained import find_checkpoint, pick_device
    from mllmseg.inference.segmenter import Segmenter
    from mllmseg.models.allocator import keep_freed_memory
    from mllmseg.models.checkpoint import load_checkpoint

    place = pick_device(device)
    facts = environment(place)
    segmenter = Segmenter.from_pretrained(model, device=place, image_cache_bytes=1 << 30)
    wanted = []
    if "superpixels" in chosen:
        wanted.append(suites.superpixels(segmenter, photos[:3], their_default=their_default, compiled=compiled))
    if "questions" in chosen:
        wanted.append(suites.answering(segmenter, photos))
    if "projectors" in chosen:
        wanted.append(suites.projectors(segmenter, photos))
    if "prefill" in chosen:
        wanted.append(suites.language_model(segmenter))
    if peer is not None:
        wanted.append(suites.peer(segmenter, photos, peer))
    if "training" in chosen:
        wanted.append(suites.training(Segmenter(load_checkpoint(find_checkpoint(model)), device=place)))
    curves = []
    if "growth" in chosen:  # before memory is kept: its peaks are what is asked for
        for name, points in suites.growth(segmenter, photos, megapixels).items():
            found = interleave([case for _, case in points], max(1, rounds // 3), _say)
            curves.append(Curve(name, [amount for amount, _ in points], found))
    keep_freed_memory()
    tables = [Table(item.name, item.note, interleave(item.cases, rounds, _say)) for item in wanted]
    return tables, curves, facts


def _say(name: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{name}")
        sys.stderr.flush()
