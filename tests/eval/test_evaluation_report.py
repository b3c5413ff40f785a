"""A small evaluation, as data, as tables, as Markdown and as a page."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mllmseg.errors import AlignmentError
from mllmseg.eval.compare import compare
from mllmseg.eval.evaluation_report import (
    EvaluationReport,
    GalleryItem,
    KindResult,
    ModeResult,
    answer_loss,
    choose_gallery,
    score_mode,
)
from mllmseg.eval.figures import draw_plots, nice_maximum, ticks
from mllmseg.eval.gallery import HIT, MISSED, WRONG, draw_panels, tint
from mllmseg.eval.html import render_comparison_html, render_html
from mllmseg.eval.markdown import escape, render_comparison_markdown, render_markdown
from mllmseg.eval.metrics import Sample
from mllmseg.eval.report_tables import headlines, number, published_table, result_table
from mllmseg.models.postprocess import encode_rle

LEFT, TOP = np.zeros((6, 8), dtype=bool), np.zeros((6, 8), dtype=bool)
LEFT[:, :4] = True
TOP[:3] = True


def sample(target: np.ndarray, *, exists: bool, score: float, image: str = "1.jpg") -> Sample:
    return Sample.from_masks(TOP, target, exists=exists, score=score, image=image)


NOTHING = np.zeros_like(LEFT)
TARGETS = {"d/1": TOP, "d/2": LEFT, "d/3": LEFT, "d/4": NOTHING, "d/5": NOTHING}
ANSWERS = {  # decision, P(exists), image
    "d/1": (True, 0.9, "1.jpg"),
    "d/2": (True, 0.8, "2.jpg"),
    "d/3": (False, 0.3, "1.jpg"),
    "d/4": (False, 0.1, "2.jpg"),
    "d/5": (True, 0.7, "3.jpg"),
}


@pytest.fixture
def samples() -> dict[str, Sample]:
    return {key: sample(TARGETS[key], exists=e, score=score, image=image) for key, (e, score, image) in ANSWERS.items()}


@pytest.fixture
def report(samples: dict[str, Sample]) -> EvaluationReport:
    forced = {
        key: sample(TARGETS[key], exists=True, score=score, image=image) for key, (_, score, image) in ANSWERS.items()
    }
    scorers = ["lisa", "gres", "calibration"]
    modes = [score_mode(mode, s, scorers=scorers, repeats=20) for mode, s in (("teacher", forced), ("free", samples))]
    item = GalleryItem(
        id="d/2",
        text='the <script>alert("x")</script> | dog',
        image=Image.new("RGB", (8, 6), "gray"),
        target=encode_rle(LEFT),
        prediction=encode_rle(TOP),
        exists=True,
        score=0.8,
        iou=1 / 3,
        answer="This one & that.",
    )
    return EvaluationReport(
        dataset="refcoco",
        split="val",
        modes=modes,
        provenance={
            "protocol": "refcoco/1",
            "weights_sha256": "b61bbfc0d44d",
            "data_sha256": "137d3af9f23c",
            "revision": "c5c90d0",
            "settings": {"threshold": 0.5},
        },
        model="tiny <1>",
        command="mllmseg eval x.yaml",
        galleries={"best": [item], "worst": [], "false alarms": [dataclasses.replace(item, target=None, iou=None)]},
    )


def test_the_result_is_free_running_and_teacher_forcing_stands_beside_it(report: EvaluationReport) -> None:
    assert report.result.mode == "free"
    assert report.teacher is not None
    assert report.teacher.mode == "teacher"
    gap = report.gap(repeats=10)
    assert gap is not None
    assert gap.names == ("free-running", "teacher-forced")
    alone = dataclasses.replace(report, modes=[report.teacher])
    assert alone.result.mode == "teacher"
    assert alone.teacher is None
    assert alone.gap() is None


def test_the_gallery_is_chosen_by_what_happened(samples: dict[str, Sample]) -> None:
    assert choose_gallery(samples) == {"best": ["d/1", "d/2"], "worst": [], "false alarms": ["d/5"]}
    assert choose_gallery(samples, 1) == {"best": ["d/1"], "worst": ["d/2"], "false alarms": ["d/5"]}
    twice = samples | {"d/6": samples["d/1"]}
    assert choose_gallery(twice)["best"] == ["d/1", "d/2"], "one an image"


def test_losses(samples: dict[str, Sample]) -> None:
    assert [round(answer_loss(s), 3) for s in samples.values()] == [0, 0.667, 1, 0, 1]


def test_results_in_a_table(report: EvaluationReport) -> None:
    table = result_table(report)
    assert list(table.columns) == ["figure", "free-running", "teacher-forced", "gap", "n"]
    rows = {(row.group, row.cells[0].text): [cell.text for cell in row.cells[1:]] for row in table.rows}
    assert rows[("gres", "gIoU")][:3] == ["46.7", "33.3", "−13.3"]  # 1, 1/3, 0, 1, 0; forced: 1, 1/3, 1/3, 0, 0
    assert rows[("gres", "N-acc")] == ["50.0", "0.0", "−50.0", "2"]
    assert rows[("calibration", "AUROC")][0] == "0.833"


def test_numbers_as_text() -> None:
    assert number(0.12345, "gres") == "12.3"
    assert number(-0.00001, "gres", sign=True) == "0.0"
    assert number(-0.0512, "gres", sign=True) == "−5.1"
    assert number(0.12345, "calibration", sign=True) == "+0.123"
    assert number(math.nan, "gres") == "–"


def test_published_numbers_are_marked(report: EvaluationReport) -> None:
    table = published_table(report)
    assert table is not None
    marks = {row.cells[0].text: row.mark for row in table.rows}
    assert marks["tiny <1>"] == "ours"
    assert marks["LISA-7B"] == marks["X-SAM"] == "published"
    assert [row.cells[2].text for row in table.rows if row.cells[0].text == "GLaMM"] == ["79.5"]
    assert published_table(dataclasses.replace(report, dataset="riscq", split="all")) is None


def test_headlines_leave_out_what_is_undefined(report: EvaluationReport) -> None:
    assert [name for name, _, _ in headlines(report)] == ["gIoU", "cIoU", "N-acc", "T-acc"]
    targets = {key: s for key, s in report.result.samples.items() if s.has_target}
    only = dataclasses.replace(report, modes=[score_mode("free", targets, scorers=["gres"], repeats=5)])
    assert [name for name, _, _ in headlines(only)] == ["gIoU", "cIoU", "T-acc"]


def test_markdown(report: EvaluationReport) -> None:
    text = render_markdown(report)
    assert "3 images, 3 sentences with a target, 2 without." in text
    assert re.search(r"\| gres \| gIoU \| 46\.7 \(.*\) \| 33\.3 \(", text)
    assert "| LISA-7B | teacher-forced | 74.9 | published |" in text
    assert "## False alarms" in text
    assert "## Worst" not in text, "nothing to show"
    for fact in ("refcoco/1", "b61bbfc0d44d", "137d3af9f23c", "c5c90d0", "settings.threshold", "mllmseg eval x.yaml"):
        assert fact in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) >= 3 for line in tables)
    assert escape("a|b`c`\nd") == "a\\|b'c' d"


class Page(HTMLParser):
    """Checks that tags close in order and collects what a page would fetch."""

    VOID = ("meta", "img", "path", "rect", "circle", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(report: EvaluationReport) -> None:
    html = render_html(report)
    page = Page()
    page.feed(html)
    assert page.open == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert len(page.addresses) == 6, "three pictures an answer"
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "url(" not in html
    assert "@import" not in html
    assert page.tags.count("svg") >= 3
    assert "&lt;script&gt;" in html
    assert "published</span>" in html
    for fact in ("refcoco/1", "b61bbfc0d44d", "137d3af9f23c", "c5c90d0", "mllmseg eval x.yaml", "This one &amp; that."):
        assert fact in html
    assert "prefers-color-scheme: dark" in html


def test_a_report_with_little_in_it(samples: dict[str, Sample]) -> None:
    negatives = {key: s for key, s in samples.items() if not s.has_target}
    little = EvaluationReport("jsonl", "", [score_mode("scored", negatives, scorers=["gres"], repeats=5)], {})
    assert "unknown" in render_html(little)
    assert "# jsonl: mllmseg" in render_markdown(little)
    empty = EvaluationReport("jsonl", "", [score_mode("scored", {}, scorers=["gres"], repeats=5)], {})
    assert "0 images" in render_html(empty)


def test_comparisons_are_rendered(samples: dict[str, Sample]) -> None:
    second = samples | {"d/3": sample(LEFT, exists=True, score=0.6)}
    comparison = compare(samples, second, scorers=["gres"], names=("old", "new|er"), repeats=20)
    text = render_comparison_markdown(comparison)
    assert "# old against new\\|er" in text
    assert re.search(r"\| gres \| T-acc \| 66\.7 \| 100\.0 \| \+33\.3", text)
    assert "5 queries on 3 images in both." in text
    page = Page()
    page.feed(render_comparison_html(comparison))
    assert page.open == []


def test_plots(samples: dict[str, Sample]) -> None:
    histogram, calibration, risk = draw_plots(score_mode("free", samples, scorers=[]))
    assert histogram.svg.count("<rect") == 3  # IoU 1, IoU 1/3, and one rejected
    assert "3 sentences with a target; 33 %" in histogram.caption
    assert calibration.svg.count("<circle") == 5
    assert risk.svg.count("<polyline") == 2
    assert all("nan" not in plot.svg for plot in (histogram, calibration, risk))
    assert draw_plots(ModeResult("free", {}, {})) == []
    negatives = {key: s for key, s in samples.items() if not s.has_target}
    assert len(draw_plots(ModeResult("free", {}, negatives))) == 2


@pytest.mark.parametrize(("maximum", "expected"), [(1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (4, [0, 1, 2, 3, 4]), (250, 6)])
def test_ticks_are_round(maximum: float, expected: list[float] | int) -> None:
    assert (len(ticks(maximum)) if isinstance(expected, int) else ticks(maximum)) == expected


@pytest.mark.parametrize(("value", "expected"), [(1, 4), (7, 8), (247, 250), (1001, 1250)])
def test_the_tallest_bar_fits(value: float, expected: float) -> None:
    assert nice_maximum(value) == expected


def test_right_wrong_and_missed_have_their_colours() -> None:
    image = Image.new("RGB", (8, 6), "white")
    pixels = np.asarray(tint(image, {HIT: LEFT & TOP, WRONG: TOP & ~LEFT, MISSED: LEFT & ~TOP}))
    assert tuple(pixels[0, 0]) == HIT
    assert tuple(pixels[0, 7]) == WRONG
    assert tuple(pixels[5, 0]) == MISSED
    assert pixels[5, 7].tolist() == [209, 209, 209], "the rest is paler"
    np.testing.assert_array_equal(np.asarray(tint(image, {HIT: np.zeros_like(LEFT)})), np.asarray(image))


def test_panels_from_a_file_and_of_a_rejection(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (800, 600), "navy").save(path)
    big = np.zeros((600, 800), dtype=bool)
    big[:300] = True
    item = GalleryItem("d/1", "the sea", path, encode_rle(big), None, False, 0.2, 0.0)
    panels = draw_panels(item)
    assert list(panels) == ["photo", "ground truth", "prediction"]
    with pytest.raises(AlignmentError, match=r"query d/1: mask \(6, 8\), photo \(600, 800\)"):
        draw_panels(dataclasses.replace(item, target=encode_rle(LEFT)))


def test_kinds_stand_in_both_reports(report: EvaluationReport, samples: dict[str, Sample]) -> None:
    modes = {
        mode: score_mode(mode, samples, scorers=["classic", "gres", "calibration"], repeats=5)
        for mode in ("free", "teacher")
    }
    kinds = [KindResult("template/left", modes | {"whole-image": score_mode("whole-image", samples, repeats=5)})]
    whole = dataclasses.replace(report, kinds=kinds)
    text, html = render_markdown(whole), render_html(whole)
    assert "| kind | n | free-running | if none were rejected | whole image |" in text
    assert "## Decisions by kind of sentence" in text
    assert html.count("template/left") == 2
    assert 'class="dense"' in html, "five intervals side by side go below their numbers"
    page = Page()
    page.feed(html)
    assert page.open == []
    assert "by kind" not in render_html(report)
