"""The tables of an evaluation, as cells: HTML and Markdown only dress them.

Fractions are shown in percent with one decimal, as papers do; calibration's numbers as they are, with three.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mllmseg.eval.compare import Comparison, Difference
from mllmseg.eval.evaluation_report import EvaluationReport, ModeResult, is_known
from mllmseg.eval.metrics import SCORERS
from mllmseg.eval.metrics.bootstrap import Interval
from mllmseg.eval.published import Published, published_on

NONE = "–"
AS_THEY_ARE = ("calibration",)
# What a reader looks for first, where it was scored; a sentence says what it is.
HEADLINES = {
    ("gres", "gIoU"): "mean IoU over all sentences, a right rejection counting 1",
    ("gres", "cIoU"): "intersection over union, summed over all pixels",
    ("gres", "N-acc"): "of the sentences without a target, rejected",
    ("gres", "T-acc"): "of the sentences with a target, accepted",
    ("classic", "mIoU"): "mean IoU over sentences with a target",
    ("classic", "oIoU"): "the same, summed over pixels",
    ("calibration", "AUROC"): "does P(exists) rank what is there above what is not",
}


@dataclass(frozen=True)
class Cell:
    """One value.

    Attributes:
        text: what it says.
        detail: smaller, after it: an interval.
        bar: (low, value, high) in 0..1, to draw the interval; None for none.
        strong: to be emphasised.
        number: to be aligned as one.
    """

    text: str
    detail: str = ""
    bar: tuple[float, float, float] | None = None
    strong: bool = False
    number: bool = True


@dataclass(frozen=True)
class Row:
    """Cells, perhaps in a group of rows, perhaps not our own."""

    cells: Sequence[Cell]
    group: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under column names, with a note below."""

    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""


def label(text: str, *, strong: bool = False) -> Cell:
    """A cell of words."""
    return Cell(text, strong=strong, number=False)


def number(value: float, scorer: str, *, sign: bool = False) -> str:
    """A fraction in percent, calibration's numbers as they are; – for NaN."""
    if not is_known(value):
        return NONE
    digits, shown = (3, value) if scorer in AS_THEY_ARE else (1, 100 * value)
    shown = round(shown, digits) or 0.0  # no −0.0
    return f"{shown:{'+' if sign and shown else ''}.{digits}f}".replace("-", "−")


def interval_cell(interval: Interval | None, scorer: str, *, bar: bool = False) -> Cell:
    """The value with its 95 % interval."""
    if interval is None or not is_known(interval.value):
        return Cell(NONE)
    known = is_known(interval.low)
    detail = f"{number(interval.low, scorer)} – {number(interval.high, scorer)}" if known else ""
    drawn = (interval.low, interval.value, interval.high) if bar and known else None
    return Cell(number(interval.value, scorer), detail, drawn)


def change_cell(difference: Difference | None, scorer: str) -> Cell:
    """A difference with its sign; emphasised where its interval excludes zero."""
    if difference is None or not is_known(difference.change.value):
        return Cell(NONE)
    change = difference.change
    detail = f"{number(change.low, scorer, sign=True)} … {number(change.high, scorer, sign=True)}"
    shown = number(change.value, scorer, sign=True)
    return Cell(shown, detail if is_known(change.low) else "", strong=difference.clear)


def result_table(report: EvaluationReport) -> Table:
    """Every figure of every scorer; modes side by side, and the gap between free-running and teacher-forced."""
    gap = report.gap()
    changes = {(d.scorer, d.figure): d for d in gap.differences} if gap else {}
    modes = [report.result, *(mode for mode in report.modes if mode is not report.result)]
    rows = [
        Row(
            (
                label(figure),
                *(
                    interval_cell(mode.scores.get(scorer, {}).get(figure), scorer, bar=mode is report.result)
                    for mode in modes
                ),
                *([change_cell(changes.get((scorer, figure)), scorer)] if gap else []),
                Cell(f"{interval.count:,}".replace(",", " ")),
            ),
            group=scorer,
        )
        for scorer, figures in report.result.scores.items()
        for figure, interval in figures.items()
    ]
    columns = ["figure", *(mode.label for mode in modes), *(["gap"] if gap else []), "n"]
    note = (
        "Percent, except calibration. Small: 95 % interval from resampling images. n: samples (for rris: referents) "
        "that the figure rests on. –: not defined, such as a mean over nothing."
    )
    if gap:
        note += " Gap: teacher-forced minus result, on the same queries; bold where its interval excludes zero."
    return Table(columns, rows, note)


def published_table(report: EvaluationReport) -> Table | None:
    """Ours beside what papers report for the same split; None where nothing is known."""
    entries = published_on(report.dataset, report.split)
    if not entries:
        return None
    figures = list(dict.fromkeys((entry.scorer, entry.figure) for entry in entries))
    rows = []
    for mode in [report.result, *(mode for mode in report.modes if mode is not report.result)]:
        cells = [interval_cell(mode.scores.get(scorer, {}).get(figure), scorer) for scorer, figure in figures]
        rows.append(Row((label(report.model, strong=True), label(mode.label), *cells), mark="ours"))
    for method, group in itertools.groupby(entries, key=lambda entry: entry.method):
        rows.append(_published_row(method, {(e.scorer, e.figure): e for e in group}, figures))
    columns = ["method", "mode", *(f"{figure} ({scorer})" for scorer, figure in figures)]
    note = (
        "Rows marked “published” are numbers printed in papers, not measured here; methods, training data and sizes "
        "differ. Compare a teacher-forced number with a teacher-forced one only."
    )
    return Table(columns, rows, note)


def _published_row(method: str, entries: dict[tuple[str, str], Published], figures: Sequence[tuple[str, str]]) -> Row:
    forced = all(entry.teacher_forced for entry in entries.values())
    cells = [Cell(f"{entries[key].percent:.1f}" if key in entries else NONE) for key in figures]
    return Row((label(method), label("teacher-forced" if forced else NONE), *cells), mark="published")


def comparison_table(comparison: Comparison) -> Table:
    """Both runs and what changed."""
    rows = [
        Row(
            (
                label(difference.figure),
                Cell(number(difference.first, difference.scorer)),
                Cell(number(difference.second, difference.scorer)),
                change_cell(difference, difference.scorer),
            ),
            group=difference.scorer,
        )
        for difference in comparison.differences
    ]
    alone = ", ".join(
        f"{count} only in {name}" for name, count in zip(comparison.names, comparison.unpaired, strict=True) if count
    )
    note = (
        f"{comparison.queries} queries on {comparison.images} images in both{f'; left out: {alone}' if alone else ''}. "
        "Small: 95 % interval of the paired difference over images; bold where it excludes zero."
    )
    return Table(["figure", *comparison.names, "change"], rows, note)


def headlines(report: EvaluationReport) -> list[tuple[str, str, Cell]]:
    """(figure, what it says, value) of the numbers to read first: four at most."""
    found = []
    for (scorer, figure), meaning in HEADLINES.items():
        interval = report.result.scores.get(scorer, {}).get(figure)
        if interval is not None and is_known(interval.value):
            found.append((figure, meaning, interval_cell(interval, scorer, bar=True)))
    return found[:4]


def count_sentences(mode: ModeResult) -> tuple[int, int, int]:
    """(images, sentences with a target, sentences without)."""
    samples = mode.samples.values()
    positives = sum(sample.has_target for sample in samples)
    return len({sample.image for sample in samples}), positives, len(mode.samples) - positives


def scorer_sources(report: EvaluationReport) -> dict[str, str]:
    """Scorer → version and where its definition comes from."""
    versions = report.result.versions
    return {
        name: f"v{versions.get(name, SCORERS.get(name).version)}, {SCORERS.get(name).source}"
        for name in report.result.scores
        if name in SCORERS
    }


def provenance_rows(report: EvaluationReport) -> list[tuple[str, str]]:
    """Name and value of everything the result rests on, the names that matter most first."""
    known = {"protocol": "protocol", "weights_sha256": "weights (SHA-256)", "data_sha256": "data (SHA-256)"}
    known |= {"revision": "git revision", "version": "mllmseg"}
    rows = [(text, str(report.provenance.get(key) or "unknown")) for key, text in known.items()]
    if report.source:
        rows.append(("annotations", report.source))
    for key, value in report.provenance.items():
        if key in known or value is None:
            continue
        if isinstance(value, dict):
            rows += [(f"{key}.{inner}", str(item)) for inner, item in value.items()]
        else:
            rows.append((key, str(value)))
    return rows


def share_text(value: float) -> str:
    """A share in percent without decimals; – for NaN."""
    return NONE if math.isnan(value) else f"{100 * value:.0f} %"
