"""Timing what shares a machine with others: interleaved rounds, medians, and ratios taken within a round."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mllmseg import __version__

_CLEAR_PEAK = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes:
        name: what the table calls it.
        run: called with the number of the round; one call is one measurement.
        share: a call's time is divided by this, where one call does the work of several.
        every: measured in every so many rounds only, the first among them: for what takes minutes.
    """

    name: str
    run: Callable[[int], object]
    share: int = 1
    every: int = 1


@dataclass(frozen=True)
class Measurement:
    """What the rounds gave for one case.

    Attributes:
        name: the case's.
        seconds: wall-clock time of each of its rounds, shared.
        cpu_seconds: time of all threads of the process in the same rounds.
        rounds: their numbers.
        peak_bytes: the most memory while it ran, beyond what was taken before; None where the system does not say.
    """

    name: str
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    rounds: tuple[int, ...]
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """Of the wall-clock seconds."""
        return statistics.median(self.seconds)

    @property
    def cpu_median(self) -> float:
        """Of the CPU-seconds."""
        return statistics.median(self.cpu_seconds)

    def ratio_to(self, base: Measurement, *, cpu: bool = False) -> float:
        """How many times this is faster than `base`: the median over the rounds that both ran in."""
        mine, theirs = (
            dict(zip(item.rounds, item.cpu_seconds if cpu else item.seconds, strict=True)) for item in (self, base)
        )
        return statistics.median(theirs[number] / mine[number] for number in mine if number in theirs)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "name": self.name,
            "median_seconds": self.median,
            "median_cpu_seconds": self.cpu_median,
            "seconds": list(self.seconds),
            "cpu_seconds": list(self.cpu_seconds),
            "peak_bytes": self.peak_bytes,
        }


def interleave(cases: Sequence[Case], rounds: int, on_run: Callable[[str], None] | None = None) -> list[Measurement]:
    """Runs every case once a round, after a first round that does not count (compilation, first allocations).

    Args:
        cases: in the order of the table.
        rounds: how many count.
        on_run: called with a case's name before each call.
    """
    times: dict[str, list[tuple[int, float, float]]] = {case.name: [] for case in cases}
    peaks: dict[str, int | None] = {}
    for number in range(-1, rounds):
        for case in cases:
            if (number == -1 and case.every > 1) or (number > 0 and number % case.every):
                continue
            if on_run is not None:
                on_run(case.name)
            seconds, cpu_seconds, peak = timed(lambda case=case, number=number: case.run(max(number, 0)))  # type: ignore[misc]
            if number >= 0:
                times[case.name].append((number, seconds / case.share, cpu_seconds / case.share))
                peaks[case.name] = max(peak, peaks.get(case.name) or 0) if peak is not None else None
    return [
        Measurement(
            name=name,
            seconds=tuple(item[1] for item in found),
            cpu_seconds=tuple(item[2] for item in found),
            rounds=tuple(item[0] for item in found),
            peak_bytes=peaks.get(name),
        )
        for name, found in times.items()
    ]


def timed(run: Callable[[], object]) -> tuple[float, float, int | None]:
    """Wall-clock seconds, CPU-seconds and additional peak memory of a call."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else _resident_after_reset()
    cpu, start = time.process_time(), time.perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    after = torch.cuda.max_memory_allocated() if cuda else _status("VmHWM")
    return seconds, cpu_seconds, None if before is None or after is None else max(0, after - before)


def _resident_after_reset() -> int | None:
    """Resident bytes now, the kernel's peak set back to them; None outside Linux."""
    try:
        _CLEAR_PEAK.write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "kind": device.type,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "bfloat16": bool(torch.cpu._is_avx512_bf16_supported()) if device.type == "cpu" else True,
        "mllmseg": __version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
