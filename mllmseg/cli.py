"""The command line. Every command imports what it needs itself, so that `mllmseg --help` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mllmseg.errors import MLLMSegError

app = typer.Typer(
    name="mllmseg",
    help="Ask a question about an image, get a mask and an answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(help="Pre-trained weights: list, fetch, verify.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")

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


def main() -> None:
    """Run the command line; an error made for the user becomes one line on stderr and exit code 2."""
    try:
        app()
    except MLLMSegError as error:
        typer.echo(f"mllmseg: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
