"""The oracle chooses superpixels perfectly, and says what that costs."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from mllmseg.eval.superpixel_oracle import OracleReport, draw_curve, score_object, table_row

SVG = "{http://www.w3.org/2000/svg}"


def quarters() -> np.ndarray:
    labels = np.zeros((4, 4), dtype=np.int64)
    labels[:, 2:] += 1
    labels[2:] += 2
    return labels


def test_the_best_union_may_be_more_or_less_than_the_majority() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2] = True  # the two upper quarters
    mask[2, 0] = True  # and a quarter of a third
    score = score_object(quarters(), mask)
    assert score.majority_iou == score.best_iou == pytest.approx(8 / 9)
    assert score.single_iou == pytest.approx(4 / 9)


def test_a_report_means_over_photos() -> None:
    report = OracleReport()
    mask = np.ones((4, 4), dtype=bool)
    report.update(quarters(), [mask], cpu_seconds=0.5, points=10)
    report.update(np.zeros((4, 4), dtype=np.int64), [mask], cpu_seconds=1.5, points=30)
    values = report.compute()
    assert (values["tokens_mean"], values["points_mean"], values["cpu_ms"]) == (2.5, 20, 1000)
    assert values["objects"] == 2
    assert table_row("all", values).endswith("| 1.000 | 0.625 | 20 | 1,000 |")


def test_the_curve_has_a_labelled_dot_a_setting_inside_the_drawing() -> None:
    settings = {
        "whole grid": {"cpu_ms": 3300.0, "best_iou": 0.805},
        "default": {"cpu_ms": 700.0, "best_iou": 0.801},
        "much the same": {"cpu_ms": 710.0, "best_iou": 0.8005},
        "8 x 8 <all>": {"cpu_ms": 500.0, "best_iou": 0.741},
    }
    drawing = ElementTree.fromstring(draw_curve(settings))
    width, height = (float(side) for side in drawing.attrib["viewBox"].split()[2:])
    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in drawing.findall(f"{SVG}circle")]
    assert len(set(places)) == 4
    assert all(0 < x < width and 0 < y < height for x, y in places)
    labels = [text for text in drawing.findall(f"{SVG}text") if text.attrib["class"] == "label"]
    assert {text.text for text in labels} == set(settings)
    height_of = {text.text: float(text.attrib["y"]) for text in labels}
    assert height_of["much the same"] - height_of["default"] >= 7  # else one would hide the other
    # The costly and good one lies to the right of and above the others.
    best = max(places)
    assert all(best[1] <= y for _, y in places)
