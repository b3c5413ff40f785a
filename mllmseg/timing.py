"""Wall-clock time by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up milliseconds by the name of a stage.

    Attributes:
        milliseconds: name → time, in the order in which the stages first ran.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.milliseconds: dict[str, float] = {}
        # CUDA answers before it is done: without waiting, a stage would pay for the one before it.
        self._asynchronous = device is not None and device.type == "cuda"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block as (a part of) stage `name`."""
        start = self._now()
        try:
            yield
        finally:
            self.milliseconds[name] = self.milliseconds.get(name, 0.0) + 1e3 * (self._now() - start)

    def _now(self) -> float:
        if self._asynchronous:
            torch.cuda.synchronize()
        return time.perf_counter()
