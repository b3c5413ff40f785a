"""The tables by kind of sentence: how good masks are, and how good decisions."""

from __future__ import annotations

from mllmseg.eval.evaluation_report import EvaluationReport, KindResult
from mllmseg.eval.metrics.bootstrap import Interval
from mllmseg.eval.report_tables import Cell, Row, Table, count_sentences, interval_cell, label

DECISIONS = (
    ("gres", "T-acc"), ("gres", "N-acc"), ("calibration", "balanced_accuracy"), ("calibration", "AUROC"),
    ("calibration", "ECE"),
)  # fmt: skip


def kind_tables(report: EvaluationReport) -> list[tuple[str, Table]]:
    """(title, table) of each; nothing where the report has no kinds."""
    if not report.kinds:
        return []
    return [
        ("Masks by kind of sentence", mask_table(report)),
        ("Decisions by kind of sentence", decision_table(report)),
    ]


def mask_table(report: EvaluationReport) -> Table:
    """Mean IoU over sentences with a target: the result, the same had none been rejected, and the baselines."""
    result, teacher = report.result.mode, report.teacher
    names = {result: report.result.label} | ({teacher.mode: "if none were rejected"} if teacher else {})
    own = {mode.mode for mode in report.modes}
    names |= {mode: mode.replace("-", " ") for kind in report.kinds for mode in kind.modes if mode not in own}
    rows = []
    for kind in report.kinds:
        found = {mode: _interval(kind, mode, "classic", "mIoU") for mode in names}
        counted = found[result]
        if counted is not None and counted.count:
            cells = [interval_cell(interval, "classic") for interval in found.values()]
            rows.append(Row((label(kind.name), Cell(str(counted.count)), *cells)))
    note = (
        "Mean IoU over the sentences with a target, in percent; a rejected target counts 0, but for “if none were "
        "rejected”, where [SEG] is placed in every answer."
    )
    if any(kind.boxed for kind in report.kinds):
        note += " Where targets are known by a box, it is the IoU of boxes."
    return Table(["kind", "n", *names.values()], rows, note)


def decision_table(report: EvaluationReport) -> Table:
    """What is said to be there, where there is something to say it of."""
    rows = []
    for kind in report.kinds:
        mode = kind.modes.get(report.result.mode)
        if mode is None or kind.boxed:
            continue
        _, positives, negatives = count_sentences(mode)
        cells = []
        for scorer, figure in DECISIONS:
            # Over one class, accuracy is T-acc or N-acc again, and a calibrated P is right only by accident.
            known = scorer != "calibration" or (positives and negatives)
            cells.append(interval_cell(mode.scores[scorer][figure] if known else None, scorer))
        rows.append(Row((label(kind.name), Cell(str(positives)), Cell(str(negatives)), *cells)))
    columns = ["kind", "with a target", "without", *(figure.replace("_", " ") for _, figure in DECISIONS)]
    note = (
        f"{report.result.label.capitalize()}. T-acc: of the sentences with a target, accepted, in percent; N-acc: of "
        "those without, rejected. –: not defined where sentences of only one sort are there. Whatever accepts, or "
        "rejects, every sentence has a balanced accuracy of 0.500."
    )
    return Table(columns, rows, note)


def _interval(kind: KindResult, mode: str, scorer: str, figure: str) -> Interval | None:
    found = kind.modes.get(mode)
    return None if found is None else found.scores.get(scorer, {}).get(figure)
