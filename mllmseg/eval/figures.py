"""Plots as inline SVG: no plotting library, no files, and colours that follow the page's light or dark theme.

Colours and fonts are the stylesheet's (`report.css`): here are only classes `series-1`, `series-2`, `grid`, `axis`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from mllmseg.eval.evaluation_report import ModeResult, answer_loss
from mllmseg.eval.metrics import Sample
from mllmseg.eval.metrics.existence import Bin, RiskCoverage, decision_confidence, reliability, risk_coverage

WIDTH, HEIGHT = 340, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 12, 44
HISTOGRAM_BINS = 20
MAX_POINTS = 400  # of a curve: more cannot be seen


@dataclass(frozen=True)
class Plot:
    """A drawing and what it shows.

    Attributes:
        title: short.
        svg: the drawing.
        caption: what to see in it; plain text.
        legend: class of the series → its name.
    """

    title: str
    svg: str
    caption: str
    legend: dict[str, str]


@dataclass(frozen=True)
class Axes:
    """Maps numbers to the drawing's units; x from 0 to `x_max`, y from `y_min` to `y_max`."""

    x_max: float
    y_max: float
    x_name: str
    y_name: str
    percent_x: bool = False
    percent_y: bool = False
    y_min: float = 0.0

    def x(self, value: float) -> float:
        """Horizontal place."""
        return round(LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_max, 2)

    def y(self, value: float) -> float:
        """Vertical place."""
        share = (value - self.y_min) / (self.y_max - self.y_min)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 2)

    def draw(self, inside: Sequence[str], title: str) -> str:
        """The whole drawing: grid, ticks, names, and what is inside."""
        parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
        for value in (round(self.y_min + step, 10) for step in ticks(self.y_max - self.y_min)):
            parts.append(f'<path class="grid" d="M{self.x(0)} {self.y(value)}H{WIDTH - RIGHT}"/>')
            parts.append(_text(LEFT - 8, self.y(value) + 4, _tick(value, self.percent_y), "end"))
        for value in ticks(self.x_max):
            parts.append(_text(self.x(value), HEIGHT - BOTTOM + 18, _tick(value, self.percent_x), "middle"))
        parts += inside
        parts.append(f'<path class="axis" d="M{self.x(0)} {self.y(self.y_min)}H{WIDTH - RIGHT}"/>')
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, self.x_name, "middle", "name"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text class="name" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
            f"{escape(self.y_name)}</text>"
        )
        return "".join([*parts, "</svg>"])

    def line(self, xs: Sequence[float], ys: Sequence[float], style: str) -> str:
        """A curve."""
        points = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in zip(xs, ys, strict=True))
        return f'<polyline class="line {style}" points="{points}"/>'

    def bar(self, x: float, width: float, low: float, high: float, style: str, says: str) -> str:
        """A bar between two heights, with words for the pointer that rests on it."""
        left, right = self.x(x) + 1, self.x(x + width) - 1
        return (
            f'<rect class="bar {style}" x="{left:.2f}" y="{self.y(high)}" width="{right - left:.2f}" '
            f'height="{max(self.y(low) - self.y(high), 0):.2f}"><title>{escape(says)}</title></rect>'
        )


_STAND_ALONE_STYLE = (
    "<style>text{font:11px system-ui,sans-serif;fill:#555}.label{font-size:7px;fill:#222}.grid{stroke:#ddd}"
    ".axis{stroke:#888}.line{fill:none;stroke-width:2}.series-1{stroke:#2563a8}.series-2{stroke:#b4541a}</style>"
    '<rect width="100%" height="100%" fill="#fff"/>'
)


def stand_alone(drawing: str) -> str:
    """A drawing as a file of its own: twice the size, with the colours that a report's stylesheet would give it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{2 * HEIGHT}" '
    opened, rest = drawing.replace("<svg ", head, 1).split(">", 1)
    return f"{opened}>{_STAND_ALONE_STYLE}{rest}\n"


def draw_plots(result: ModeResult) -> list[Plot]:
    """All plots that a mode's samples allow: each needs some."""
    samples = list(result.samples.values())
    targets = [sample for sample in samples if sample.has_target]
    plots = []
    if targets:
        plots.append(iou_histogram(targets))
    if samples:
        plots += [reliability_diagram(samples), risk_coverage_plot(samples)]
    return plots


def iou_histogram(targets: Sequence[Sample]) -> Plot:
    """How good masks are: sentences with a target by IoU, rejected ones apart."""
    counts = [[0] * HISTOGRAM_BINS, [0] * HISTOGRAM_BINS]  # accepted, rejected
    for sample in targets:
        counts[not sample.exists][min(int(sample.iou * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)] += 1
    axes = Axes(1, nice_maximum(max(a + r for a, r in zip(*counts, strict=True))), "IoU", "sentences")
    bars = []
    for index, (accepted, rejected) in enumerate(zip(*counts, strict=True)):
        low, width = index / HISTOGRAM_BINS, 1 / HISTOGRAM_BINS
        where = f"IoU {low:.2f}–{low + width:.2f}"
        if accepted:
            bars.append(axes.bar(low, width, 0, accepted, "series-1", f"{where}: {accepted} accepted"))
        if rejected:
            bars.append(axes.bar(low, width, accepted, accepted + rejected, "series-2", f"{rejected} rejected: IoU 0"))
    half = sum(sample.iou >= 0.5 for sample in targets) / len(targets)
    caption = f"{len(targets)} sentences with a target; {100 * half:.0f} % of them reach an IoU of 0.5."
    legend = {"series-1": "accepted", "series-2": "rejected"}
    return Plot("IoU of targets", axes.draw(bars, "Histogram of IoU"), caption, legend)


def reliability_diagram(samples: Sequence[Sample]) -> Plot:
    """Do things said to be there with probability p exist in a share p of cases?"""
    labels, _, scores = _columns(samples)
    bins = [b for b in reliability(labels, scores) if b.weight]
    axes = Axes(1, 1, "P(exists)", "share that exists", percent_y=True)
    largest = max(b.weight for b in bins)
    parts = [f'<path class="ideal" d="M{axes.x(0)} {axes.y(0)}L{axes.x(1)} {axes.y(1)}"/>']
    parts += [
        axes.bar(b.low, b.high - b.low, 0, b.frequency, "series-1 soft", _bin_words(b)) for b in bins if b.frequency
    ]
    parts.append(axes.line([b.score for b in bins], [b.frequency for b in bins], "series-1"))
    parts += [
        f'<circle class="dot series-1" cx="{axes.x(b.score)}" cy="{axes.y(b.frequency)}" '
        f'r="{2.5 + 4 * math.sqrt(b.weight / largest):.2f}"><title>{escape(_bin_words(b))}</title></circle>'
        for b in bins
    ]
    caption = "On the diagonal, probabilities are what they say; below it, the model is too sure. Dots grow with count."
    legend = {"series-1": "observed", "ideal": "perfectly calibrated"}
    return Plot("Calibration of P(exists)", axes.draw(parts, "Reliability diagram"), caption, legend)


def risk_coverage_plot(samples: Sequence[Sample]) -> Plot:
    """What goes wrong if only the surest answers are given."""
    labels, decisions, scores = _columns(samples)
    confidence = decision_confidence(decisions, scores)
    curves = {
        "series-1": risk_coverage(confidence, np.array([answer_loss(sample) for sample in samples])),
        "series-2": risk_coverage(confidence, (labels != decisions).astype(float)),
    }
    highest = max(float(curve.risk.max()) for curve in curves.values())
    axes = Axes(1, min(1.0, max(0.1, math.ceil(highest * 10) / 10)), "coverage", "risk", percent_x=True)
    lines = [axes.line(*_thinned(curve), style) for style, curve in curves.items()]
    answer, decision = (curve.area for curve in curves.values())
    caption = (
        f"Mean loss over the share of sentences the model is surest of. Area: {answer:.3f} for answers, {decision:.3f} "
        "for decisions; a curve that falls to the left knows when it errs."
    )
    legend = {"series-1": "1 − IoU of the answer", "series-2": "wrong about existence"}
    return Plot("Risk and coverage", axes.draw(lines, "Risk over coverage"), caption, legend)


def interval_bar(low: float, value: float, high: float) -> str:
    """A number between 0 and 1 and its interval, as one small line."""
    places = [f"{100 * min(max(part, 0.0), 1.0):.1f}" for part in (low, value, high)]
    return (
        '<svg class="whisker" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="rail" d="M0 5H100"/><path class="range" d="M{places[0]} 5H{places[2]}"/>'
        f'<path class="mark" d="M{places[1]} 1V9"/></svg>'
    )


def ticks(maximum: float) -> list[float]:
    """About five round numbers from 0 up to `maximum`."""
    step = 10 ** math.floor(math.log10(maximum / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if maximum / (step * factor) <= 5.001)
    return [round(step * index, 10) for index in range(int(maximum / step + 1e-9) + 1)]


def nice_maximum(value: float) -> float:
    """The next round number that is a tick."""
    if value <= 4:
        return 4
    step = ticks(value)[1]
    return math.ceil(value / step) * step


def _thinned(curve: RiskCoverage) -> tuple[list[float], list[float]]:
    keep = np.unique(np.linspace(0, len(curve.coverage) - 1, MAX_POINTS).round().astype(int))
    return curve.coverage[keep].tolist(), curve.risk[keep].tolist()


def _columns(
    samples: Sequence[Sample],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    def column(value: Callable[[Sample], bool]) -> npt.NDArray[np.bool_]:
        return np.array([value(sample) for sample in samples], dtype=bool)

    scores = np.array([sample.score for sample in samples], dtype=float)
    return column(lambda sample: sample.has_target), column(lambda sample: sample.exists), scores


def _bin_words(b: Bin) -> str:
    return f"P {b.low:.1f}–{b.high:.1f}: {b.weight:.0f} sentences, mean P {b.score:.2f}, {b.frequency:.2f} exist"


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:.0f} %" if percent else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
