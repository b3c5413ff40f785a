"""Wall-clock time by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up milliseconds by the name of a stage.

    A GPU answers before it is done. It takes its own time, between marks in its queue: nobody waits for it before
    somebody asks for `milliseconds`.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._milliseconds: dict[str, float] = {}
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._device = device if device is not None and device.type == "cuda" else None

    @property
    def milliseconds(self) -> dict[str, float]:
        """Name → time, in the order in which the stages first ran."""
        for name, start, stop in self._marks:
            stop.synchronize()
            self._milliseconds[name] += start.elapsed_time(stop)
        self._marks.clear()
        return dict(self._milliseconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block as (a part of) stage `name`."""
        self._milliseconds.setdefault(name, 0.0)
        if self._device is not None:
            start = self._mark(self._device)
            try:
                yield
            finally:
                self._marks.append((name, start, self._mark(self._device)))
            return
        began = time.perf_counter()
        try:
            yield
        finally:
            self._milliseconds[name] += 1e3 * (time.perf_counter() - began)

    @staticmethod
    def _mark(device: torch.device) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event
