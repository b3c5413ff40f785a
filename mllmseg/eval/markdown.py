"""An evaluation as Markdown: for a repository, a pull request, a terminal."""

from __future__ import annotations

from mllmseg.eval.compare import Comparison
from mllmseg.eval.evaluation_report import EvaluationReport
from mllmseg.eval.kind_tables import kind_tables
from mllmseg.eval.report_tables import (
    Cell,
    Table,
    comparison_table,
    count_sentences,
    provenance_rows,
    published_table,
    result_table,
    scorer_sources,
)


def render_markdown(report: EvaluationReport) -> str:
    """The tables, the galleries as lists, and what the result rests on."""
    images, positives, negatives = count_sentences(report.result)
    lines = [f"# {report.title or report.name}: {report.model}", ""]
    lines += [f"{images} images, {positives} sentences with a target, {negatives} without."]
    lines += [line for note in report.notes for line in ("", note)]
    if report.command:
        lines += ["", "```sh", report.command, "```"]
    lines += ["", "## Results", "", *table_lines(result_table(report))]
    for title, table in kind_tables(report):
        lines += ["", f"## {title}", "", *table_lines(table)]
    published = published_table(report)
    if published is not None:
        lines += ["", "## Beside published numbers", "", *table_lines(published)]
    for title, items in report.galleries.items():
        if items:
            lines += ["", f"## {title.capitalize()}", "", "| IoU | P(exists) | sentence | id |", "|---:|---:|---|---|"]
        for item in items:
            iou = "–" if item.iou is None else f"{100 * item.iou:.1f}"
            lines.append(f"| {iou} | {item.score:.2f} | {escape(item.text)} | {escape(item.id)} |")
    lines += ["", "## What this rests on", "", "| | |", "|---|---|"]
    lines += [f"| {escape(name)} | `{escape(value)}` |" for name, value in provenance_rows(report)]
    lines += [f"| scorer `{name}` | {escape(source)} |" for name, source in scorer_sources(report).items()]
    return "\n".join(lines) + "\n"


def render_comparison_markdown(comparison: Comparison) -> str:
    """The paired differences of two runs."""
    first, second = comparison.names
    return (
        "\n".join([f"# {escape(first)} against {escape(second)}", "", *table_lines(comparison_table(comparison))])
        + "\n"
    )


def table_lines(table: Table) -> list[str]:
    """A table, with the group in a column of its own where it has groups, and its note below."""
    grouped = any(row.group for row in table.rows)
    marked = any(row.mark for row in table.rows)
    columns = [*(["scorer"] if grouped else []), *table.columns, *([""] if marked else [])]
    numbers = [cell.number for cell in table.rows[0].cells] if table.rows else [False] * len(table.columns)
    rules = [
        *(["---"] if grouped else []),
        *("---:" if right else "---" for right in numbers),
        *(["---"] if marked else []),
    ]
    lines = [f"| {' | '.join(escape(column) for column in columns)} |", f"|{'|'.join(rules)}|"]
    for row in table.rows:
        cells = [
            *([row.group] if grouped else []),
            *(_cell(cell) for cell in row.cells),
            *([row.mark] if marked else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", table.note] if table.note else lines


def escape(text: str) -> str:
    """Text that cannot break a table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")


def _cell(cell: Cell) -> str:
    text = f"**{escape(cell.text)}**" if cell.strong else escape(cell.text)
    return f"{text} ({cell.detail})" if cell.detail else text
