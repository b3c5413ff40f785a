"""`mllmseg cache`: what the frozen stages say about a run's images, computed ahead of it, and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mllmseg.commands.group import DefaultCommand
from mllmseg.errors import DataError

cache_app = typer.Typer(
    help="Compute what the frozen encoders say about a run's images, ahead of the run.",
    cls=DefaultCommand,
    no_args_is_help=True,
)

ConfigArgument = Annotated[Path, typer.Argument(help="A training configuration (YAML).", show_default=False)]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, as key.sub=value.", metavar="[KEY=VALUE]…")
]
ProgressOption = Annotated[bool, typer.Option("--progress/--no-progress", help="Show progress on stderr.")]


@cache_app.command("run")
def fill(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    embeddings: Annotated[
        bool | None,
        typer.Option(
            "--embeddings/--no-embeddings",
            help="Keep SAM's image embeddings, 2 MB an image, which masks need (default: as the configuration says).",
            show_default=False,
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Report images that cannot be read, and go on.")] = False,
    progress: ProgressOption = True,
) -> None:
    """Compute what is missing; prints the folder. `run` may be left out.

    Kill it whenever you like, run it on as many machines as you like: what is done stays done.
    """
    from mllmseg.config import TrainConfig

    settings = TrainConfig.from_yaml(config, overrides)
    if embeddings is not None:
        settings = settings.model_copy(update={"cache_embeddings": embeddings})
    from mllmseg.train.trainer import fill_cache

    cache, report = fill_cache(settings, skip_bad=skip_bad, progress=progress)
    for _, problem in report.bad:
        typer.echo(f"bad: {problem}", err=True)
    typer.echo(f"{report.computed} computed, {report.present} there, {len(report.bad)} bad", err=True)
    typer.echo(cache.folder)


@cache_app.command("verify")
def verify(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    keep: Annotated[bool, typer.Option("--keep", help="Only report; set nothing aside.")] = False,
    progress: ProgressOption = True,
) -> None:
    """Read the cache through and compare checksums. Damaged shards are named and set aside; exit code 2 then.

    `mllmseg cache CONFIG` computes the images of what was set aside anew, and nothing else.
    """
    from mllmseg.config import TrainConfig

    settings = TrainConfig.from_yaml(config, overrides)
    from mllmseg.train.cache import FeatureCache
    from mllmseg.train.start import initial_model_config

    cache = FeatureCache(settings.cache, initial_model_config(settings))
    problems = cache.verify(set_aside=not keep, progress=progress and sys.stderr.isatty())
    for problem in problems.values():
        typer.echo(problem)
    if problems:
        done = "left where they are" if keep else "set aside: `mllmseg cache CONFIG` computes their images anew"
        raise DataError(f"{cache.folder}: {len(problems)} damaged shards, {done}")
    typer.echo(f"{cache.folder}: {len(cache.index)} images in {len(cache.index.shards)} shards, all intact")
