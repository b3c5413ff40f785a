"""How well could superpixels describe an object, if they were chosen perfectly?

The upper bound that any change to a threshold is judged by: tokens an image against the IoU of the best union of
superpixels with each labelled object. See "Superpixels" in the design document.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from mllmseg.constants import SAM_LOW_RES_STRIDE
from mllmseg.eval.figures import WIDTH, Axes, nice_maximum, stand_alone

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OracleScore:
    """One object.

    Attributes:
        majority_iou: IoU of the union of all superpixels with more than half of their area in the object.
        best_iou: IoU of the best union there is.
        single_iou: IoU of the best single superpixel.
    """

    majority_iou: float
    best_iou: float
    single_iou: float


def label_map_at(label_map: IntArray, input_size: tuple[int, int], size: tuple[int, int]) -> IntArray:
    """A low-res label map at the image's own size, each pixel taking the cell its centre falls into.

    Args:
        label_map: `[h, w]`.
        input_size: (height, width) of the valid window of SAM's input.
        size: (H, W) of the image.

    Returns:
        `[H, W]`.
    """
    rows, columns = (
        np.minimum(((np.arange(own) + 0.5) * scaled / own / SAM_LOW_RES_STRIDE).astype(np.int64), cells - 1)
        for own, scaled, cells in zip(size, input_size, label_map.shape, strict=True)
    )
    return label_map[rows[:, None], columns]


def best_cut(labels: IntArray, mask: BoolArray, scores: npt.NDArray[np.floating[Any]]) -> float:
    """IoU of the best union of the first so many superpixels by score: `[H, W]` labels and mask, `[S]` scores."""
    sizes = np.bincount(labels.ravel(), minlength=len(scores))
    inside = np.bincount(labels[mask], minlength=len(scores))
    order = np.argsort(-scores, kind="stable")
    intersections, unions = np.cumsum(inside[order]), inside.sum() + np.cumsum((sizes - inside)[order])
    return float((intersections / unions).max())


def score_object(labels: IntArray, mask: BoolArray) -> OracleScore:
    """Scores one object `[H, W]` against superpixels `[H, W]` at the same size. The mask must not be empty."""
    sizes = np.bincount(labels.ravel())
    inside = np.bincount(labels[mask], minlength=len(sizes))
    total = int(inside.sum())
    majority = inside > 0.5 * sizes
    return OracleScore(
        majority_iou=float(inside[majority].sum() / (total + (sizes - inside)[majority].sum())),
        # I / (total + outside) is linear-fractional, so the best union is a prefix of the regions by share inside.
        best_iou=best_cut(labels, mask, inside / np.maximum(sizes, 1)),
        single_iou=float((inside / (total + sizes - inside)).max()),
    )


@dataclass
class OracleReport:
    """Collects the scores of many images under one setting."""

    tokens: list[int] = field(default_factory=list)
    scores: list[OracleScore] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    points: list[int] = field(default_factory=list)

    def update(self, labels: IntArray, masks: Iterable[BoolArray], cpu_seconds: float, points: int) -> None:
        """Adds one image: its superpixels `[H, W]`, its objects, what the superpixels cost, and points decoded."""
        self.tokens.append(len(np.unique(labels)))
        self.scores.extend(score_object(labels, mask) for mask in masks)
        self.cpu_seconds.append(cpu_seconds)
        self.points.append(points)

    def compute(self) -> dict[str, float]:
        """Means and percentiles; `objects` is how many were scored."""
        low, middle, high = np.percentile(self.tokens, [5, 50, 95])
        return {
            "tokens_mean": float(np.mean(self.tokens)),
            "tokens_p5": float(low),
            "tokens_p50": float(middle),
            "tokens_p95": float(high),
            "majority_iou": float(np.mean([score.majority_iou for score in self.scores])),
            "best_iou": float(np.mean([score.best_iou for score in self.scores])),
            "single_iou": float(np.mean([score.single_iou for score in self.scores])),
            "cpu_ms": 1e3 * float(np.mean(self.cpu_seconds)),
            "points_mean": float(np.mean(self.points)),
            "objects": float(len(self.scores)),
        }


TABLE_HEADER = (
    "| setting | tokens mean (5/50/95 %) | union of superpixels > half inside, mean IoU | best union | best single | "
    "points decoded | CPU-ms an image |\n|---|---|---|---|---|---|---|"
)


def table_row(name: str, values: dict[str, float]) -> str:
    """One line of the report's markdown table."""
    percentiles = "/".join(f"{values[key]:.0f}" for key in ("tokens_p5", "tokens_p50", "tokens_p95"))
    return (
        f"| {name} | {values['tokens_mean']:.1f} ({percentiles}) | {values['majority_iou']:.3f} | "
        f"{values['best_iou']:.3f} | {values['single_iou']:.3f} | {values['points_mean']:.0f} | "
        f"{values['cpu_ms']:,.0f} |"
    )


def draw_curve(settings: Mapping[str, Mapping[str, float]]) -> str:
    """An SVG file: what each setting costs against the overlap it allows; the knee is where to be.

    Args:
        settings: name → what `OracleReport.compute` gave.
    """
    costs = {name: values["cpu_ms"] for name, values in settings.items()}
    overlaps = {name: values["best_iou"] for name, values in settings.items()}
    low, high = (rounded(20 * iou) / 20 for rounded, iou in zip((math.floor, math.ceil), _range(overlaps), strict=True))
    axes = Axes(nice_maximum(max(costs.values())), high, "CPU-ms a photo", "mean IoU of the best union", y_min=low)
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []  # left, right, height of the labels so far
    for name in sorted(settings, key=overlaps.__getitem__, reverse=True):
        x, y = axes.x(costs[name]), axes.y(overlaps[name])
        width, fits = 3.8 * len(name), x + 5 + 3.8 * len(name) < WIDTH
        left = x + 5 if fits else x - 5 - width
        height = y + 2.5
        while any(left < other[1] and other[0] < left + width and abs(height - other[2]) < 8 for other in taken):
            height += 1
        taken.append((left, left + width, height))
        parts.append(f'<circle class="series-1" r="2.5" fill="#2563a8" cx="{x}" cy="{y}"/>')
        place = f'x="{x + 5:.1f}"' if fits else f'x="{x - 5:.1f}" text-anchor="end"'
        parts.append(f'<text class="label" {place} y="{height:.1f}">{escape(name)}</text>')
    return stand_alone(axes.draw(parts, "Overlap against time by setting"))


def _range(values: Mapping[str, float]) -> tuple[float, float]:
    return min(values.values()) - 1e-6, max(values.values()) + 1e-6
