"""The tables of a referring evaluation, from its saved lines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllmseg.eval.metrics.base import Sample, score_all
from mllmseg.eval.metrics.bootstrap import Interval, bootstrap
from mllmseg.eval.metrics.existence import ExistenceScorer, balanced_accuracy
from mllmseg.eval.metrics.gres import GresScorer
from mllmseg.eval.rows import Row

TEMPLATE = "template"


@dataclass(frozen=True)
class Group:
    """The numbers of one kind of sentences.

    Attributes:
        positives: gIoU over sentences whose target has a mask; a rejected one counts 0.
        forced: the same had every sentence been accepted.
        accepted: share of those sentences that were accepted.
        existence: balanced accuracy of the decisions over all sentences.
        box_iou: of the predicted mask's box with the given one, where only that is known.
        gres: gIoU, cIoU, N-acc, T-acc and Pr@k over all sentences with a mask or without a target.
        calibration: AUROC, ECE and the best threshold.
        num_negatives: sentences without a target.
    """

    positives: Interval
    forced: Interval
    accepted: float
    existence: Interval
    box_iou: Interval
    gres: dict[str, float]
    calibration: dict[str, float]
    num_negatives: int


@dataclass(frozen=True)
class Report:
    """All numbers of one run.

    Attributes:
        groups: `template` and `human` sentences, never mixed.
        rules: template rule → (sentences, gIoU (share rejected for `no_target`), share accepted).
        baselines: name → gIoU of template positives, gres gIoU, and balanced accuracy, without a model.
        num_images: photos with at least one query.
        num_visual_tokens: mean over images.
        milliseconds: mean wall time a query, the image's share included.
        timings: mean milliseconds by stage as the model reports them.
    """

    groups: dict[str, Group]
    rules: dict[str, tuple[int, float, float]]
    baselines: dict[str, tuple[float, float, float]]
    num_images: int
    num_visual_tokens: float
    milliseconds: float
    timings: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self))
        return values

    def markdown(self) -> str:
        """The tables, best read as text."""
        lines = [f"{self.num_images} images, {self.num_visual_tokens:.1f} visual tokens an image (mean), "]
        lines[0] += f"{self.milliseconds:.0f} ms a query (mean, the image's share included)."
        for name, group in self.groups.items():
            lines += ["", f"## {name.capitalize()} sentences", "", "| number | value |", "|---|---|", *_rows(group)]
        lines += ["", "## Template rules", "", "| rule | n | gIoU | accepted |", "|---|---|---|---|"]
        lines += [f"| {rule} | {n} | {giou:.3f} | {share:.3f} |" for rule, (n, giou, share) in self.rules.items()]
        lines += ["", "## Without a model, on the template sentences", ""]
        lines += ["| baseline | gIoU, positives | gIoU, all | balanced accuracy |", "|---|---|---|---|"]
        for name, numbers in self.baselines.items():
            lines.append(f"| {name} | " + " | ".join(_cell(number) for number in numbers) + " |")
        if self.timings:
            lines += [
                "",
                "## Time by stage (ms; image stages are shared by its queries)",
                "",
                "| stage | ms |",
                "|---|---|",
            ]
            lines += [f"| {stage} | {value:.1f} |" for stage, value in self.timings.items()]
        return "\n".join(lines) + "\n"


def build_report(rows: Sequence[Row]) -> Report:
    """Scores saved lines; the order of lines does not matter."""
    template = [row for row in rows if row.source == TEMPLATE]
    people = [row for row in rows if row.source != TEMPLATE]
    tokens = {row.image: row.tokens for row in rows}
    stages = sorted({stage for row in rows for stage in row.timings})
    return Report(
        groups={name: _group(part) for name, part in (("template", template), ("human", people)) if part},
        rules={rule: _rule([row for row in template if row.rule == rule]) for rule in _rules(template)},
        baselines=_baselines(template),
        num_images=len(tokens),
        num_visual_tokens=_mean(tokens.values()),
        milliseconds=_mean(row.ms for row in rows),
        timings={stage: _mean(row.timings[stage] for row in rows if stage in row.timings) for stage in stages},
    )


def _group(rows: Sequence[Row]) -> Group:
    masked = [row for row in rows if row.has_target and row.I is not None]
    boxed = [row for row in rows if row.box_iou is not None]
    samples = [_sample(row) for row in rows]
    labels = np.array([row.has_target for row in rows], dtype=bool)
    decisions = np.array([row.exists for row in rows], dtype=bool)
    return Group(
        positives=_interval(masked, lambda row: row.iou or 0.0),
        forced=_interval(masked, lambda row: _fraction(row.forced)),
        accepted=_mean(float(row.exists) for row in masked),
        existence=bootstrap([row.image for row in rows], lambda i: balanced_accuracy(labels[i], decisions[i])),
        box_iou=_interval(boxed, lambda row: row.box_iou or 0.0),
        gres=score_all(GresScorer(), [s for s, row in zip(samples, rows, strict=True) if row.I is not None]),
        calibration=score_all(ExistenceScorer(), samples),
        num_negatives=int((~labels).sum()),
    )


def _sample(row: Row) -> Sample:
    return Sample(row.image, row.has_target, row.exists, row.score, row.I or 0, row.U or 0, row.P)


def _interval(rows: Sequence[Row], value: Callable[[Row], float]) -> Interval:
    values = np.array([value(row) for row in rows], dtype=float)
    return bootstrap([row.image for row in rows], lambda indices: float(values[indices].mean()))


def _rules(rows: Iterable[Row]) -> list[str]:
    return sorted({row.rule or "" for row in rows}, key=lambda rule: (rule == "no_target", rule))


def _rule(rows: Sequence[Row]) -> tuple[int, float, float]:
    return len(rows), _mean(row.iou or 0.0 for row in rows), _mean(float(row.exists) for row in rows)


def _baselines(rows: Sequence[Row]) -> dict[str, tuple[float, float, float]]:
    """For answers that need no model: gIoU over positives, gIoU over all, balanced accuracy."""
    positives = [row for row in rows if row.has_target]
    if not positives:
        return {}
    share = len(positives) / len(rows)
    whole, largest = (_mean(_fraction(pair) for pair in pairs) for pairs in _pairs(positives))
    majority = "accepts" if share >= 0.5 else "rejects"
    return {
        "accepts all, whole image": (whole, whole * share, 0.5),
        "accepts all, largest superpixel": (largest, largest * share, 0.5),
        "rejects all": (0.0, 1 - share, 0.5),
        f"majority ({majority}; plain accuracy {max(share, 1 - share):.3f})": (math.nan, math.nan, 0.5),
    }


def _pairs(rows: Sequence[Row]) -> tuple[list[tuple[int, int] | None], list[tuple[int, int] | None]]:
    return [row.whole for row in rows], [row.largest for row in rows]


def _rows(group: Group) -> list[str]:
    calibration, gres = group.calibration, group.gres
    values = {
        "gIoU, targets with a mask (rejected = 0)": str(group.positives),
        "gIoU, the same if none were rejected": str(group.forced),
        "share of them accepted": f"{group.accepted:.3f}",
        f"balanced accuracy of existence ({group.num_negatives} without target)": str(group.existence),
        "AUROC / ECE of P(exists)": f"{calibration['AUROC']:.3f} / {calibration['ECE']:.3f}",
        "best threshold → balanced accuracy (in hindsight)": (
            f"{calibration['best_threshold']:.3f} → {calibration['best_balanced_accuracy']:.3f}"
        ),
        "gres over all: " + ", ".join(gres): ", ".join(f"{value:.3f}" for value in gres.values()),
    }
    if group.box_iou.count:
        values["IoU of boxes, targets known by box only"] = str(group.box_iou)
    return [f"| {name} | {value} |" for name, value in values.items()]


def _cell(number: float) -> str:
    return "–" if math.isnan(number) else f"{number:.3f}"


def _fraction(pair: tuple[int, int] | None) -> float:
    return math.nan if pair is None else pair[0] / pair[1] if pair[1] else 0.0


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
