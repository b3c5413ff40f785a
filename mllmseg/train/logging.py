"""What a run says while it goes: one line to the console, the figures to TensorBoard."""

from __future__ import annotations

import logging
import pathlib
import time

import numpy as np
import numpy.typing as npt

log = logging.getLogger("mllmseg.train")

# What the console line shows, in this order; TensorBoard gets everything.
CONSOLE = (
    "loss", "naming_accuracy", "token_accuracy", "pointer_iou", "mask_iou", "seg_recall", "rej_recall", "learning_rate"
)  # fmt: skip


class RunLog:
    """Averages figures between log steps."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.warning("tensorboard is not installed: figures go to the console only (pip install 'mllmseg[train]')")
            self.writer = None
        else:
            self.writer = SummaryWriter(str(folder / "tensorboard"))
        self._sums: dict[str, list[float]] = {}
        self._since = time.perf_counter()

    def add(self, figures: dict[str, float]) -> None:
        """Takes the figures of one step."""
        for name, value in figures.items():
            self._sums.setdefault(name, []).append(value)

    def flush(self, stage: str, step: int, steps: int) -> dict[str, float]:
        """Writes the means since the last flush and starts anew."""
        means = {name: sum(values) / len(values) for name, values in self._sums.items()}
        count = max((len(values) for values in self._sums.values()), default=1)
        seconds = (time.perf_counter() - self._since) / max(1, count)
        shown = " ".join(f"{name} {means[name]:.3g}" for name in CONSOLE if name in means)
        log.info("%s %d/%d %s %.2f s/step", stage, step, steps, shown, seconds)
        self.scalars({f"{stage}/{name}": value for name, value in means.items()}, step)
        self._sums, self._since = {}, time.perf_counter()
        return means

    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Sends figures to TensorBoard."""
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()

    def picture(self, name: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """Sends an `[H, W, 3]` picture to TensorBoard."""
        if self.writer is not None:
            self.writer.add_image(name, pixels, step, dataformats="HWC")
