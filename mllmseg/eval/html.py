"""An evaluation as one HTML file: no script, nothing fetched, pictures and plots inside, light and dark."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from html import escape

from mllmseg.eval.compare import Comparison
from mllmseg.eval.evaluation_report import EvaluationReport, GalleryItem
from mllmseg.eval.figures import Plot, draw_plots, interval_bar
from mllmseg.eval.gallery import draw_panels
from mllmseg.eval.kind_tables import kind_tables
from mllmseg.eval.report_tables import (
    Cell,
    Row,
    Table,
    comparison_table,
    count_sentences,
    headlines,
    provenance_rows,
    published_table,
    result_table,
    scorer_sources,
    share_text,
)

SHA256_DIGITS = 64
GALLERY_NOTES = {
    "best": "Targets that were found most exactly, one a photo.",
    "worst": "Targets that were accepted and missed furthest, one a photo.",
    "false alarms": "Sentences that fit nothing in the photo and were answered with a mask, the surest first.",
}
PANEL_LEGEND = {"hit": "found and meant", "wrong": "found, not meant", "missed": "meant, not found"}


def render_html(report: EvaluationReport) -> str:
    """The page, ready to be written to one file."""
    title = report.title or report.name
    sections = [
        _section("results", "Results", _table(result_table(report))),
        *(_section(title.split()[0].lower(), title, _table(table)) for title, table in kind_tables(report)),
        *_published(report),
        _section("plots", "How it errs", f'<div class="plots">{"".join(map(_plot, draw_plots(report.result)))}</div>'),
        *(_gallery(name, items) for name, items in report.galleries.items() if items),
        _section("provenance", "What this rests on", _provenance(report)),
    ]
    body = [_header(report, title), "<main>", *sections, "</main>", _footer(report)]
    return _page(f"{title} · {report.model}", body)


def render_comparison_html(comparison: Comparison) -> str:
    """The paired differences of two runs as a page."""
    first, second = (escape(name) for name in comparison.names)
    header = f'<header><p class="eyebrow">mllmseg comparison</p><h1>{first} <span>against</span> {second}</h1></header>'
    section = _section("differences", "Paired differences", _table(comparison_table(comparison)))
    return _page(f"{comparison.names[0]} against {comparison.names[1]}", [header, "<main>", section, "</main>"])


def _page(title: str, body: Sequence[str]) -> str:
    style = importlib.resources.files("mllmseg.eval").joinpath("report.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _header(report: EvaluationReport, title: str) -> str:
    images, positives, negatives = count_sentences(report.result)
    facts = {"protocol": "protocol", "weights": "weights_sha256", "data": "data_sha256", "code": "revision"}
    known = {name: str(report.provenance.get(key) or "unknown") for name, key in facts.items()}
    chips = [f"{name} {value[:12] if len(value) == SHA256_DIGITS else value}" for name, value in known.items()]
    cards = "".join(
        f'<div class="card"><dt>{escape(figure)}</dt><dd><b>{escape(cell.text)}</b>{_bar(cell)}'
        f"<small>{escape(cell.detail)}</small></dd><p>{escape(meaning)}</p></div>"
        for figure, meaning, cell in headlines(report)
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    return (
        f'<header><p class="eyebrow">mllmseg evaluation · {escape(report.model)}</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(report.result.label.capitalize())}: {images} images, {positives} sentences with a '
        f"target, {negatives} without ({share_text(positives / max(positives + negatives, 1))} have one).</p>"
        f'<ul class="chips">{"".join(f"<li>{escape(chip)}</li>" for chip in chips)}</ul>{notes}'
        f'<dl class="cards">{cards}</dl></header>'
    )


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def _published(report: EvaluationReport) -> list[str]:
    table = published_table(report)
    return [] if table is None else [_section("published", "Beside published numbers", _table(table))]


def _table(table: Table) -> str:
    numbers = [cell.number for cell in table.rows[0].cells] if table.rows else []
    # A cell without an interval keeps its place where others in the column have one, so that numbers stay aligned.
    detailed = [any(row.cells[index].detail for row in table.rows) for index in range(len(table.columns))]
    heads = "".join(
        f'<th scope="col" class="{"number" if right else ""}{" detailed" if wide else ""}">{escape(column)}</th>'
        for column, right, wide in zip(table.columns, numbers, detailed, strict=True)
    )
    rows, group = [], ""
    for row in table.rows:
        if row.group and row.group != group:
            group = row.group
            rows.append(f'<tr class="group"><th colspan="{len(row.cells)}" scope="rowgroup">{escape(group)}</th></tr>')
        rows.append(_row(row, detailed))
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    # Many intervals side by side would run off the page: they go below their numbers.
    style = ' class="dense"' if sum(detailed) > 3 else ""
    body = f"<table{style}><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll">{body}</div>{note}'


def _row(row: Row, detailed: Sequence[bool]) -> str:
    cells = []
    for index, cell in enumerate(row.cells):
        text = f"<b>{escape(cell.text)}</b>" if cell.strong else escape(cell.text)
        mark = f' <span class="mark-{row.mark}">{escape(row.mark)}</span>' if row.mark and index == 0 else ""
        detail = f"<small>{escape(cell.detail)}{_bar(cell)}</small>" if detailed[index] else ""
        style = ' class="number"' if cell.number else ""
        tag = "td" if index else 'th scope="row"'
        cells.append(f"<{tag}{style}>{text}{mark}{detail}</{tag[:2]}>")
    return f'<tr class="{row.mark}">{"".join(cells)}</tr>' if row.mark else f"<tr>{''.join(cells)}</tr>"


def _bar(cell: Cell) -> str:
    return interval_bar(*cell.bar) if cell.bar else ""


def _plot(plot: Plot) -> str:
    legend = "".join(f'<li class="{style}">{escape(name)}</li>' for style, name in plot.legend.items())
    return (
        f'<figure class="plot"><h3>{escape(plot.title)}</h3><ul class="legend">{legend}</ul>{plot.svg}'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _gallery(name: str, items: Sequence[GalleryItem]) -> str:
    legend = "".join(f'<li class="{style}">{escape(text)}</li>' for style, text in PANEL_LEGEND.items())
    note = escape(GALLERY_NOTES.get(name, ""))
    answers = "".join(map(_answer, items))
    content = f'<p class="note">{note}</p><ul class="legend">{legend}</ul><div class="gallery">{answers}</div>'
    return _section(name.replace(" ", "-"), name.capitalize(), content)


def _answer(item: GalleryItem) -> str:
    panels = "".join(
        f'<figure><img src="{url}" alt="{escape(name)}: {escape(item.text)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, url in draw_panels(item).items()
    )
    iou = "no target" if item.iou is None else f"IoU {100 * item.iou:.1f}"
    decision = "accepted" if item.exists else "rejected"
    answer = f'<p class="reply">{escape(item.answer)}</p>' if item.answer else ""
    return (
        f'<article><h3>“{escape(item.text)}”</h3><p class="facts"><b>{iou}</b> · {decision}, '
        f"P(exists) {item.score:.2f} · <code>{escape(item.id)}</code></p>{answer}"
        f'<div class="panels">{panels}</div></article>'
    )


def _provenance(report: EvaluationReport) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(value)}</code></td></tr>'
        for name, value in provenance_rows(report)
    )
    sources = "".join(
        f'<tr><th scope="row">scorer {escape(name)}</th><td>{escape(source)}</td></tr>'
        for name, source in scorer_sources(report).items()
    )
    command = f"<pre><code>{escape(report.command)}</code></pre>" if report.command else ""
    return f'{command}<div class="scroll"><table class="facts-table"><tbody>{rows}{sources}</tbody></table></div>'


def _footer(report: EvaluationReport) -> str:
    version = report.provenance.get("version")
    return (
        f"<footer>Written by mllmseg{f' {escape(str(version))}' if version else ''} from saved predictions; every "
        "number can be recomputed from them.</footer>"
    )
