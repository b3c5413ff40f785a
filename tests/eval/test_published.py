"""Published numbers name figures that exist, and are found for the split they belong to."""

from __future__ import annotations

from mllmseg.eval.metrics import SCORERS
from mllmseg.eval.published import PUBLISHED, published_on


def test_every_number_belongs_to_a_figure_of_a_scorer() -> None:
    assert all(entry.figure in SCORERS.get(entry.scorer).figures for entry in PUBLISHED)
    assert all(0 < entry.percent < 100 for entry in PUBLISHED)
    keys = [(entry.method, entry.dataset, entry.split, entry.figure) for entry in PUBLISHED]
    assert len(set(keys)) == len(keys)


def test_numbers_of_one_split() -> None:
    lisa = {(e.dataset, e.split): e.percent for e in PUBLISHED if e.method == "LISA-7B"}
    assert lisa[("refcoco", "testB")] == 72.3
    assert lisa[("refcocog-umd", "test")] == 70.6
    methods = [entry.method for entry in published_on("refcoco+", "testA")]
    assert methods == ["LISA-7B", "GSVA-7B", "GLaMM", "UniPixel-7B", "X-SAM"], "Sa2VA has val alone"
    assert [e.percent for e in published_on("grefcoco", "val") if e.method == "GSVA"] == [66.5, 63.3, 62.4]
    assert published_on("riscq", "all") == ()
    assert all(entry.teacher_forced for entry in published_on("refcoco", "val") if entry.method == "GLaMM")
