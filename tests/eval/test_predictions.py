"""The format of predictions: what is written is read back, and what others get wrong is named with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllmseg.errors import DataError
from mllmseg.eval.predictions import PredictionLine, index_predictions, parse_line, read_lines
from mllmseg.models.postprocess import encode_rle

MASK = np.zeros((4, 6), dtype=bool)
MASK[1:3, 2:5] = True
GOOD: dict[str, Any] = {
    "id": "set/1/0",
    "image": "a.jpg",
    "text": "the “left” dog",
    "exists": True,
    "score": 0.75,
    "answer": "Here.",
    "rle": encode_rle(MASK),
    "box": [2, 1, 3, 2],
    "mode": "scored",
}


def test_a_line_is_read_back_as_it_was() -> None:
    line = PredictionLine(**GOOD | {"box": (2, 1, 3, 2)})
    assert parse_line(line.to_bytes(), "x") == line
    assert list(json.loads(line.to_bytes())) == [*GOOD], "in the order of the documentation"
    assert line.to_bytes().endswith(b"\n")
    assert "“left”".encode() in line.to_bytes(), "people can read it"
    assert np.array_equal(line.mask((4, 6), "x"), MASK)


def test_scores_are_rounded() -> None:
    line = PredictionLine("a", "b", "c", False, 0.123456789)
    assert json.loads(line.to_bytes())["score"] == 0.123457
    assert not line.mask((3, 2), "x").any()


def test_what_others_may_leave_out_or_add() -> None:
    bare = {key: value for key, value in GOOD.items() if key not in ("answer", "box", "mode")}
    line = parse_line(json.dumps(bare | {"latency": 3, "score": None}).encode(), "x")
    assert (line.answer, line.box, line.mode, line.score) == ("", None, "", 1.0)
    rejected = parse_line(json.dumps(GOOD | {"exists": False, "rle": None, "score": None}).encode(), "x")
    assert rejected.score == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 3}, "id is '3', expected text"),
        ({"text": None}, "text is 'None'"),
        ({"exists": 1}, "exists is '1', expected true or false"),
        ({"score": 1.5}, "score is '1.5', expected a number from 0 to 1"),
        ({"score": float("nan")}, "score is 'nan'"),
        ({"score": "0.5"}, "score is '0.5'"),
        ({"rle": None}, "exists is true but rle is null"),
        ({"rle": "92207"}, "rle is '92207'"),
        ({"rle": {"size": [4, 6]}}, "rle is"),
        ({"rle": {"size": [4, -6], "counts": "92207"}}, "rle is"),
        ({"rle": {"size": [4.0, 6.0], "counts": "92207"}}, "rle is"),
        ({"rle": {"size": [4, 6, 1], "counts": "92207"}}, "rle is"),
        ({"box": [1, 2, 3]}, "box is"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        parse_line(json.dumps(GOOD | change).encode(), "p.jsonl: line 7")
    assert message in str(error.value)
    assert str(error.value).startswith("p.jsonl: line 7")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "expected an object, found list"),
        (json.dumps({"id": "a", "text": "b", "score": 1}).encode(), "no 'image', 'exists', 'rle'"),
    ],
    ids=["cut", "binary", "deep", "list", "keys"],
)
def test_lines_that_are_none(line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=r"p\.jsonl: line 7") as error:
        parse_line(line, "p.jsonl: line 7")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [6, 4], "counts": GOOD["rle"]["counts"]}, "height x width 6 x 4, its image's labels are 4 x 6"),
        ({"size": [4, 6], "counts": "9220"}, "run-length"),
    ],
)
def test_masks_that_do_not_fit_are_named(rle: dict[str, Any], message: str) -> None:
    line = parse_line(json.dumps(GOOD | {"rle": rle}).encode(), "x")
    with pytest.raises(DataError, match=r"p\.jsonl: line 7: query 'set/1/0'") as error:
        line.mask((4, 6), "p.jsonl: line 7")
    assert message in str(error.value)


def test_places_lead_to_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    lines = [json.dumps(GOOD | {"id": name}) for name in "äbc"]
    path.write_text(f"{lines[0]}\n\n{lines[1]}\r\n{lines[2]}", encoding="utf-8")  # others' line ends
    places = index_predictions([path])
    assert list(places) == ["ä", "b", "c"]
    assert str(places["c"]) == f"{path}: line 4"
    content = path.read_bytes()
    for name, place in places.items():
        assert parse_line(content[place.offset : place.offset + place.length], "x").id == name


def test_two_predictions_for_one_query(tmp_path: Path) -> None:
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    for path in (first, second):
        path.write_text(json.dumps(GOOD) + "\n")
    with pytest.raises(
        DataError, match=r"2.jsonl: line 1: query 'set/1/0' has a prediction already \(.*1.jsonl: line 1"
    ):
        index_predictions([first, second])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.jsonl: cannot be read \(No such file"):
        next(read_lines(tmp_path / "no.jsonl"))
