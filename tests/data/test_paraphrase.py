"""Rephrasing by a language model, against a real HTTP server on this machine: what changes the meaning is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllmseg.chat_endpoint import Endpoint
from mllmseg.data.paraphrase import STYLES, Paraphrases, paraphrase, tidy
from mllmseg.data.referring import open_dataset
from mllmseg.errors import DataError, EndpointError

LINES: list[dict[str, Any]] = [
    {"image": "a.jpg", "text": "the left dog", "id": "x/1", "exists": True, "kind": "position", "about": 7},
    {"image": "a.jpg", "text": "the dog that is not black", "id": "x/2", "exists": True},
    {"image": "b.jpg", "text": "a zebra", "exists": False},
]
REPLIES = {
    "the left dog": "“The dog to the left”",
    "the dog that is not black": "the black dog",
    "a zebra": "Where is the zebra?",
}


class Server:
    """Rephrases as in `REPLIES`; `answer` makes it fail with a status."""

    def __init__(self, chat_server: Any) -> None:
        self.requests: list[dict[str, Any]] = chat_server.requests
        self.answer: Callable[[str], int | None] = lambda text: None
        self.endpoint = Endpoint(chat_server.url, "some-model")
        chat_server.answer_to = self._rephrase

    def _rephrase(self, body: dict[str, Any]) -> dict[str, Any] | int:
        text = body["messages"][-1]["content"].split(": ", 1)[1]
        return self.answer(text) or {"choices": [{"message": {"content": REPLIES[text]}}]}


@pytest.fixture
def server(chat_server: Any) -> Server:
    return Server(chat_server)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_what_means_the_same_is_written(server: Server, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/out.jsonl"
    done = paraphrase(source, out, server.endpoint)
    assert done == Paraphrases(2, {"says more, less or something else": 1})
    first, second = map(json.loads, out.read_text().splitlines())
    assert first == LINES[0] | {"id": "x/1/0", "text": "The dog to the left", "rephrased": "the left dog"}
    assert (second["text"], second["exists"], second["id"]) == ("Where is the zebra?", False, "jsonl/2/0/0")
    assert [query.text for query in open_dataset(f"jsonl:{out}", data_root=tmp_path).queries] == [
        "The dog to the left",
        "Where is the zebra?",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"], "nothing temporary is left"
    assert {request["model"] for request in server.requests} == {"some-model"}
    assert all(request["messages"][-1]["content"].startswith(STYLES) for request in server.requests)


def test_an_interrupted_run_asks_for_no_sentence_twice(server: Server, source: Path, tmp_path: Path) -> None:
    server.answer = lambda text: 500 if text == "the left dog" else None
    with pytest.raises(EndpointError, match="answered 500"):
        paraphrase(source, tmp_path / "out.jsonl", server.endpoint, workers=3)
    assert not (tmp_path / "out.jsonl").exists()
    with (tmp_path / "out.jsonl.replies").open("a") as stream:
        stream.write('{"request": "killed while wri')
    server.answer = lambda text: 500 if text != "the left dog" else None
    assert paraphrase(source, tmp_path / "out.jsonl", server.endpoint).written == 2
    # Another seed asks in another style, another model is another model.
    server.answer = lambda text: None
    before = len(server.requests)
    paraphrase(source, tmp_path / "more.jsonl", server.endpoint, seed=1)
    assert len(server.requests) == before + 3
    server.answer = lambda text: 500 if text == "the left dog" else None
    with pytest.raises(EndpointError):
        paraphrase(source, tmp_path / "other.jsonl", server.endpoint, workers=3)
    before = len(server.requests)
    server.answer = lambda text: None
    paraphrase(source, tmp_path / "other.jsonl", replace(server.endpoint, model="other-model"))
    assert len(server.requests) == before + 3


def test_bad_lines_are_named_before_anything_is_asked(server: Server, source: Path, tmp_path: Path) -> None:
    with source.open("a") as stream:
        stream.write('{"image": "a.jpg"}\n')
    with pytest.raises(DataError, match=r"in\.jsonl: line 4: 'text' must be"):
        paraphrase(source, tmp_path / "out.jsonl", server.endpoint)
    assert not server.requests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "x/1"}, r"line 4: id 'x/1' is used twice"),
        ({"masks": ["a.png"]}, r"line 4: masks that are files .* write out\.jsonl there"),
    ],
)
def test_copies_that_could_not_be_read(
    server: Server, source: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with source.open("a") as stream:
        stream.write(json.dumps({"image": "a.jpg", "text": "the dog"} | change) + "\n")
    with pytest.raises(DataError, match=message):
        paraphrase(source, tmp_path / "new/out.jsonl", server.endpoint)
    with pytest.raises(DataError, match="would replace what is read"):
        paraphrase(source, source, server.endpoint)
    assert not server.requests


def test_a_request_that_is_refused_is_one_sentence_less(server: Server, source: Path, tmp_path: Path) -> None:
    server.answer = lambda text: 400 if text == "a zebra" else None
    done = paraphrase(source, tmp_path / "out.jsonl", server.endpoint)
    assert done == Paraphrases(1, {"says more, less or something else": 1, "empty or too long": 1})


def test_quotation_marks_go() -> None:
    assert tidy(' "the dog"\n') == "the dog"
