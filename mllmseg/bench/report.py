"""Measurements as a table, as JSON and as curves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllmseg.bench.measure import Measurement
from mllmseg.eval.figures import Axes, nice_maximum, stand_alone


@dataclass(frozen=True)
class Table:
    """The measurements of one suite, the first of them the base."""

    name: str
    note: str
    measurements: list[Measurement]

    def markdown(self, *, cpu: bool) -> str:
        """Rows of median, ratio to the first row, and additional memory; `cpu`: CPU-seconds instead of wall-clock."""
        base = self.measurements[0]
        unit = "CPU-ms" if cpu else "ms"
        lines = [f"## {self.name}", "", self.note, "", f"| what | {unit} | ratio | memory beside the model | n |"]
        lines.append("|---|---|---|---|---|")
        for item in self.measurements:
            time = 1e3 * (item.cpu_median if cpu else item.median)
            memory = "" if item.peak_bytes is None else f"{item.peak_bytes / 2**20:.0f} MiB"
            ratio = f"{item.ratio_to(base, cpu=cpu):.1f}×"
            lines.append(f"| {item.name} | {time:,.0f} | {ratio} | {memory} | {len(item.seconds)} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Curve:
    """How cost grows with one quantity."""

    name: str
    amounts: list[float]
    measurements: list[Measurement]

    def markdown(self, *, cpu: bool) -> str:
        """Amount, time, time per unit, memory."""
        unit = "CPU-ms" if cpu else "ms"
        lines = [f"## Growth: {self.name}", "", f"| {self.name} | {unit} | memory beside the model |", "|---|---|---|"]
        for amount, item in zip(self.amounts, self.measurements, strict=True):
            time = 1e3 * (item.cpu_median if cpu else item.median)
            memory = "" if item.peak_bytes is None else f"{item.peak_bytes / 2**20:.0f} MiB"
            lines.append(f"| {amount:g} | {time:,.0f} | {memory} |")
        return "\n".join(lines)

    def svg(self, *, cpu: bool) -> str:
        """A drawing of its own: time against amount, from zero."""
        seconds = [item.cpu_median if cpu else item.median for item in self.measurements]
        unit = "CPU-seconds" if cpu else "seconds"
        axes = Axes(nice_maximum(max(self.amounts)), nice_maximum(max(seconds)), self.name, unit)
        marks = [
            f'<circle class="series-1" r="3" fill="#2563a8" cx="{axes.x(x)}" cy="{axes.y(y)}"/>'
            for x, y in zip(self.amounts, seconds, strict=True)
        ]
        return stand_alone(axes.draw([axes.line(self.amounts, seconds, "series-1"), *marks], f"{unit} by {self.name}"))


def write(
    folder: Path, facts: Mapping[str, Any], tables: Sequence[Table], curves: Sequence[Curve], command: str
) -> str:
    """Writes `bench.md`, `bench.json` and a drawing for each curve; returns the Markdown."""
    cpu = facts["kind"] == "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    parts = ["# How fast", "", "```sh", command, "```", "", _describe(facts), ""]
    for table in tables:
        parts += [table.markdown(cpu=cpu), ""]
    for curve in curves:
        name = f"growth_{curve.name.replace(' ', '_')}.svg"
        _write(folder / name, curve.svg(cpu=cpu))
        parts += [curve.markdown(cpu=cpu), "", f"![{curve.name}]({name})", ""]
    text = "\n".join(parts)
    plain = {
        "environment": dict(facts),
        "tables": {table.name: [item.to_dict() for item in table.measurements] for table in tables},
        "growth": {
            curve.name: [
                {"amount": amount} | item.to_dict()
                for amount, item in zip(curve.amounts, curve.measurements, strict=True)
            ]
            for curve in curves
        },
    }
    _write(folder / "bench.json", json.dumps(plain, indent=1) + "\n")
    _write(folder / "bench.md", text)
    return text


def _describe(facts: Mapping[str, Any]) -> str:
    clock = "CPU-time of all threads (other work shares the cores)" if facts["kind"] == "cpu" else "wall-clock time"
    kind = f", {facts['threads']} of {facts['cores']} cores" if facts["kind"] == "cpu" else ""
    return (
        f"{facts['device']}{kind}; torch {facts['torch']}, transformers {facts['transformers']}, Python "
        f"{facts['python']}, mllmseg {facts['mllmseg']}. Medians of interleaved rounds, in {clock}; ratios to the "
        f"first row, taken within a round. Load of the machine at the start: {facts['load']}."
    )


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
