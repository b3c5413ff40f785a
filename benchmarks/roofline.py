"""What a machine can do at most, what something asks of it, and how much of the possible it gets.

The floor of a piece of work is the time for its matrix products at the measured rate, or for reading its weights (and
what else it must read) once at the measured bandwidth, whichever is longer. Its share of the roofline is floor / time.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# What makes the CPU wait for the GPU, by its name in a profile; `aten::` ones are there on a CPU, too.
WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",
)


@dataclass(frozen=True)
class Roof:
    """Measured limits: FLOP/s of bfloat16 matrix products, bytes/s of copying."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: what was done.
        seconds: median of the rounds, shared by what was done at once.
        flop: of its matrix products and convolutions, shared likewise.
        num_bytes: that it must read at least.
    """

    name: str
    seconds: float
    flop: float
    num_bytes: float

    def markdown(self, roof: Roof) -> str:
        """A line of the table."""
        floor = max(self.flop / roof.flops, self.num_bytes / roof.bandwidth)
        bound = "arithmetic" if self.flop / roof.flops >= self.num_bytes / roof.bandwidth else "memory"
        rates = f"{self.flop / self.seconds / 1e12:.3g} | {self.num_bytes / self.seconds / 1e9:,.3g}"
        cost = f"{1e3 * self.seconds:,.2f} | {self.flop / 1e9:,.1f}"
        return f"| {self.name} | {cost} | {rates} | {bound} | {floor / self.seconds:.1%} |"


HEADER = "| what | ms | GFLOP | TFLOP/s | GB/s | bound by | share of the roofline |\n|---|---|---|---|---|---|---|"


def measure_roof(device: torch.device, *, small: bool) -> Roof:
    """The best of ten runs of a large product and of a large copy."""
    side, count = (512, 1 << 22) if small else (8192, 1 << 29)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(count, device=device, dtype=torch.bfloat16).fill_(1)
    target = torch.empty_like(source)
    product = min(times(lambda: left @ right, device, 10))
    copy = min(times(lambda: target.copy_(source), device, 10))
    return Roof(2 * side**3 / product, 2 * source.numel() * source.element_size() / copy)


def measure(
    name: str, run: Callable[[], object], device: torch.device, rounds: int, *, share: int = 1, num_bytes: float = 0
) -> Row:
    """Times `run`, which does `share` pieces of work, and counts its FLOP."""
    median = statistics.median(times(run, device, rounds))
    return Row(name, median / share, count_flop(run) / share, num_bytes / share)


def times(run: Callable[[], object], device: torch.device, rounds: int) -> list[float]:
    """Seconds of each round, after two that do not count; of a single round all."""
    found, warm_up = [], 2 if rounds > 1 else 0
    for number in range(rounds + warm_up):
        synchronise(device)
        began = time.perf_counter()
        run()
        synchronise(device)
        if number >= warm_up:
            found.append(time.perf_counter() - began)
    return found


def synchronise(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_flop(run: Callable[[], object]) -> float:
    """FLOP of matrix products, convolutions and attention, two to a multiplication with its addition."""
    aten = torch.ops.aten
    extra = {
        aten.baddbmm_: _baddbmm_flop,  # not in torch's own table
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    }
    with FlopCounterMode(display=False, custom_mapping=extra) as counter:
        run()
    return float(counter.get_total_flops())


def _baddbmm_flop(own: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    return 2 * left[0] * left[1] * left[2] * right[2]


def _attention_flop(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    batch, heads, queries, channels = query
    return 2 * batch * heads * queries * key[2] * (channels + value[3])


def weight_bytes(modules: Iterable[nn.Module]) -> float:
    """Of the parameters of modules."""
    return float(sum(item.numel() * item.element_size() for module in modules for item in module.parameters()))


def count_waits(run: Callable[[], object], device: torch.device) -> Counter[str]:
    """How often `run` makes the CPU wait for the GPU, by the profiler; on a CPU, how often it would."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    run()
    synchronise(device)
    with torch.profiler.profile(activities=activities) as profile:
        run()
    counts = {event.key: event.count for event in profile.key_averages()}
    return Counter({name: counts[name] for name in WAITS if name in counts})
