"""What the user sees on stderr while something takes long."""

from __future__ import annotations

import contextlib
import sys
import time
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


@contextlib.contextmanager
def image_bar(title: str, total: int, *, shown: bool, unit: str = "images") -> Iterator[Callable[[bool], None] | None]:
    """A bar over `total` images, or what `unit` says, with how many a second and time left; on no terminal a line now
    and then.

    Yields the function to call after each, with whether it had to be computed: what an earlier run did counts as
    done but not as speed. None where nothing is shown.
    """
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    pace = Pace(total, unit)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, pace=unit)

        def advance(computed: bool) -> None:
            pace.add(computed)
            bar.update(task, advance=1, pace=str(pace))
            if not console.is_terminal and pace.is_due():
                sys.stderr.write(f"{title} {pace.done}/{total} {pace}\n")

        yield advance


class Pace:
    """How fast images go by and how long the rest takes."""

    def __init__(
        self, total: int, unit: str = "images", *, every: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`every`: seconds between lines where there is no terminal."""
        self.total = total
        self.unit = unit
        self.done = 0
        self._computed = 0
        self._every = every
        self._clock = clock
        self._start = self._said = clock()

    def add(self, computed: bool) -> None:
        """Counts an image."""
        self.done += 1
        self._computed += computed

    def is_due(self) -> bool:
        """Whether it is time for another line; the last image always is."""
        now = self._clock()
        if self.done < self.total and now - self._said < self._every:
            return False
        self._said = now
        return True

    def __str__(self) -> str:
        spent = self._clock() - self._start
        if not self._computed or spent <= 0:
            return self.unit
        speed = self._computed / spent
        left = round((self.total - self.done) / speed)
        hours, minutes, seconds = left // 3600, left // 60 % 60, left % 60
        return f"{self.unit}, {speed:.2f}/s, {hours}:{minutes:02}:{seconds:02} left"
