"""What the user sees on stderr while something takes long."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(title: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar over `total` bytes; yields the function that advances it, or None where it is not shown."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def status(message: str, *, shown: bool) -> Iterator[None]:
    """A message with a spinner while something of unknown length runs."""
    if not shown:
        yield
        return
    from rich.console import Console

    console = Console(file=sys.stderr)  # the stream itself: stderr is redirected while transformers works
    if not console.is_terminal:
        console.print(message)
    with console.status(message):
        yield
