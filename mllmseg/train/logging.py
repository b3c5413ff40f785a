"""What a run says while it goes: a bar or a line on stderr, the figures to TensorBoard, trackio or wandb."""

from __future__ import annotations

import importlib
import logging
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import psutil
import torch

from mllmseg.distributed import this_process
from mllmseg.errors import ConfigError

log = logging.getLogger("mllmseg.train")

# What the console shows, in this order; the loggers get everything.
CONSOLE = (
    "loss", "text", "pointer_bce", "existence", "naming_accuracy", "token_accuracy", "pointer_iou", "mask_iou",
    "seg_recall", "rej_recall", "learning_rate",
)  # fmt: skip
PROJECT = "mllmseg"


class Logger(Protocol):
    """Where figures go. Their names are `group/name`; steps count within a group."""

    def scalars(self, figures: Mapping[str, float], step: int) -> None:
        """Takes figures."""

    def picture(self, name: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """Takes an `[H, W, 3]` picture."""

    def close(self) -> None:
        """Nothing comes any more."""


class TensorBoardLogger:
    """Files below the run's folder, for `tensorboard --logdir`."""

    def __init__(self, folder: pathlib.Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, figures: Mapping[str, float], step: int) -> None:
        """Takes figures."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, name: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """Takes an `[H, W, 3]` picture."""
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Nothing comes any more."""
        self.writer.close()


class TrackerLogger:
    """wandb, or trackio, which has the same functions. A group's own step goes along as `group/step`."""

    def __init__(self, module: str, folder: pathlib.Path, config: Mapping[str, Any]) -> None:
        self.module = importlib.import_module(module)
        run = self.module.init(project=PROJECT, name=folder.name, config=dict(config))
        self._define: Callable[..., Any] | None = getattr(run, "define_metric", None)
        self._groups: set[str] = set()

    def scalars(self, figures: Mapping[str, float], step: int) -> None:
        """Takes figures."""
        self._log(dict(figures), {name.partition("/")[0] for name in figures}, step)

    def picture(self, name: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """Takes an `[H, W, 3]` picture."""
        self._log({name: self.module.Image(pixels)}, {name.partition("/")[0]}, step)

    def close(self) -> None:
        """Nothing comes any more."""
        self.module.finish()

    def _log(self, values: dict[str, Any], groups: set[str], step: int) -> None:
        for group in groups - self._groups:
            if self._define is not None:
                self._define(f"{group}/*", step_metric=f"{group}/step")
        self._groups |= groups
        self.module.log(values | {f"{group}/step": step for group in groups})


def open_loggers(names: Sequence[str], folder: pathlib.Path, config: Mapping[str, Any]) -> list[Logger]:
    """Opens loggers by name.

    Raises:
        ConfigError: one is not installed. TensorBoard, the default, is only missed aloud.
    """
    loggers: list[Logger] = []
    for name in names:
        try:
            if name == "tensorboard":
                loggers.append(TensorBoardLogger(folder, config))
            else:
                loggers.append(TrackerLogger(name, folder, config))
        except ImportError as error:
            if name != "tensorboard":
                raise ConfigError(
                    f"loggers: {name} is not installed: pip install {name}, or take it out of 'loggers'"
                ) from error
            log.warning("tensorboard is not installed: figures go to the console only (pip install 'mllmseg[train]')")
    return loggers


class RunLog:
    """Averages figures between log steps. Of many processes only the first says anything."""

    def __init__(
        self,
        folder: pathlib.Path,
        loggers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Opens what the figures go to.

        Args:
            folder: the run's.
            loggers: names of `open_loggers`.
            config: the run's settings, which trackers show beside it.
            clock: seconds.

        Raises:
            ConfigError: a logger is not installed.
        """
        self.folder = folder
        self._speaks = this_process().rank == 0
        self.loggers = open_loggers(loggers, folder, config or {}) if self._speaks else []
        self._sums: dict[str, list[float]] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0
        self._clock = clock
        self._since = clock()
        self._bar = _StageBar() if self._speaks and sys.stderr.isatty() else None

    def add(self, figures: Mapping[str, float], *, tokens: int = 0, images: int = 0) -> None:
        """Takes the figures of one step.

        Args:
            figures: of any names; their means are logged.
            tokens: how many tokens all processes read in this step, visual ones too; 0: not known.
            images: how many images.
        """
        self._steps += 1
        for name, value in figures.items():
            self._sums.setdefault(name, []).append(value)
        for name, count in (("tokens", tokens), ("images", images)):
            if count:
                self._counts[name] = self._counts.get(name, 0) + count
        if self._bar is not None:
            self._bar.advance()

    def flush(self, stage: str, step: int, steps: int) -> dict[str, float]:
        """Writes the means since the last flush, how fast it went, and starts anew.

        Returns:
            The means.
        """
        means = {name: sum(values) / len(values) for name, values in self._sums.items()}
        spent = max(1e-9, self._clock() - self._since)
        per_step = spent / max(1, self._steps)
        speed = {f"{name}_per_second": count / spent for name, count in self._counts.items()}
        speed |= {"seconds_per_step": per_step, "memory_gb": memory_gb()}
        if self._speaks:
            line = self._describe(means, speed, per_step * (steps - step))
            if self._bar is not None:
                self._bar.show(stage, step, steps, line)
            else:
                log.info("%s %d/%d %s", stage, step, steps, line)
            self.scalars({f"{stage}/{name}": value for name, value in (means | speed).items()}, step)
        self._sums, self._counts, self._steps, self._since = {}, {}, 0, self._clock()
        return means

    def scalars(self, figures: Mapping[str, float], step: int) -> None:
        """Sends figures, named `group/name`."""
        for logger in self.loggers:
            logger.scalars(figures, step)

    def picture(self, name: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """Sends an `[H, W, 3]` picture."""
        for logger in self.loggers:
            logger.picture(name, pixels, step)

    def close(self) -> None:
        """Ends the bar and the loggers."""
        if self._bar is not None:
            self._bar.close()
        for logger in self.loggers:
            logger.close()
        self.loggers = []

    @staticmethod
    def _describe(means: Mapping[str, float], speed: Mapping[str, float], left: float) -> str:
        words = [f"{name} {means[name]:.3g}" for name in CONSOLE if name in means]
        words += [
            f"{speed[f'{name}_per_second']:.3g} {name}/s"
            for name in ("tokens", "images")
            if f"{name}_per_second" in speed
        ]
        seconds = round(left)
        words += [f"{speed['seconds_per_step']:.2f} s/step", f"{speed['memory_gb']:.1f} GB"]
        words.append(f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left")
        return " ".join(words)


class _StageBar:
    """rich's bar over the steps of a stage; log lines go above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[line]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._tasks: dict[str, Any] = {}
        self._current: Any = None
        self._progress.start()

    def advance(self) -> None:
        """Counts a step of the stage last shown."""
        if self._current is not None:
            self._progress.advance(self._current)

    def show(self, stage: str, step: int, steps: int, line: str) -> None:
        """Shows where the stage stands."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=steps, line="")
        self._progress.update(self._tasks[stage], completed=step, line=line)
        self._current = self._tasks[stage] if step < steps else None

    def close(self) -> None:
        """Leaves the last state on the screen."""
        self._progress.stop()


def memory_gb() -> float:
    """What the process holds: the peak of the GPU since the last call, or of main memory what is resident."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return peak
    return psutil.Process().memory_info().rss / 1e9
