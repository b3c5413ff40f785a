"""Rephrasing by a language model, against a real HTTP server on this machine: what changes the meaning is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mllmseg import chat_endpoint
from mllmseg.chat_endpoint import Endpoint
from mllmseg.data.paraphrase import STYLES, Paraphrases, paraphrase, problem, tidy
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
    "a zebra": "some zebra",
}


class Server:
    """Answers by what is asked; `down` makes it fail."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.down: Callable[[str], bool] = lambda text: False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(body)
                text = body["messages"][-1]["content"].split(": ", 1)[1]
                if server.down(text):
                    self.send_error(500)
                    return
                answer = json.dumps({"choices": [{"message": {"content": REPLIES[text]}}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.endpoint = Endpoint(f"http://127.0.0.1:{self.http.server_port}/v1", "some-model")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(chat_endpoint, "RETRY_PAUSE", 0.01)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_what_means_the_same_is_written(server: Server, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/out.jsonl"
    done = paraphrase(source, out, server.endpoint)
    assert done == Paraphrases(2, {"other sides, numbers, colours, sizes or negations": 1})
    first, second = map(json.loads, out.read_text().splitlines())
    assert first == LINES[0] | {"id": "x/1/0", "text": "The dog to the left", "rephrased": "the left dog"}
    assert (second["text"], second["exists"], second["id"]) == ("some zebra", False, "jsonl/2/0/0")
    assert [query.text for query in open_dataset(f"jsonl:{out}", data_root=tmp_path).queries] == [
        "The dog to the left",
        "some zebra",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"], "nothing temporary is left"
    assert {request["model"] for request in server.requests} == {"some-model"}
    assert all(request["messages"][-1]["content"].startswith(STYLES) for request in server.requests)


def test_an_interrupted_run_asks_for_no_sentence_twice(server: Server, source: Path, tmp_path: Path) -> None:
    server.down = lambda text: text == "a zebra"
    with pytest.raises(EndpointError, match="answered 500"):
        paraphrase(source, tmp_path / "out.jsonl", server.endpoint, workers=1)
    assert not (tmp_path / "out.jsonl").exists()
    with (tmp_path / "out.jsonl.replies").open("a") as stream:
        stream.write('{"request": "killed while wri')
    server.down = lambda text: text != "a zebra"
    assert paraphrase(source, tmp_path / "out.jsonl", server.endpoint).written == 2
    # Another seed asks in another style.
    server.down = lambda text: False
    before = len(server.requests)
    paraphrase(source, tmp_path / "more.jsonl", server.endpoint, seed=1)
    assert len(server.requests) == before + 3


def test_bad_lines_are_named_before_anything_is_asked(server: Server, source: Path, tmp_path: Path) -> None:
    with source.open("a") as stream:
        stream.write('{"image": "a.jpg"}\n')
    with pytest.raises(DataError, match=r"in\.jsonl: line 4: 'text' must be"):
        paraphrase(source, tmp_path / "out.jsonl", server.endpoint)
    assert not server.requests


@pytest.mark.parametrize(
    ("text", "other", "refused"),
    [
        ("the left dog", "the dog to the left", None),
        ("the two people on the bench", "both persons sitting on the bench", None),
        ("the second car from the right", "2nd automobile... car from right", None),
        ("the bike next to the sofa", "The bicycle which is beside the couch.", None),
        ("every dog but the brown one", "each dog except the brown one", None),
        ("the dog without a frisbee", "the dog that doesn't have a frisbee", None),
        ("the largest cat", "the biggest cat there is", None),
        ("the upper knife", "the topmost knife", None),
        ("the gray car", "a car, greyish", None),
        ("the left dog", "The left dog!", "the same words"),
        ("the left dog", "the dog on the right", "other sides"),
        ("the left dog", "the dog", "other sides"),
        ("the left dog", "the left cat", "other things"),
        ("the cat on the couch", "the couch with the cat on it", "other things"),
        ("the dog", "the dog and its owner, a person", "other things"),
        ("three dogs", "four dogs", "other sides"),
        ("the white dog", "the pale dog", "other sides"),
        ("the dog that is not black", "the dog that is black", "other sides"),
        ("all the dogs", "the dogs", "other sides"),
        ("the biggest dog", "the smallest dog", "other sides"),
        ("the dog", "", "empty"),
        ("the dog", "dog " * 41, "empty or too long"),
        ("the dog", "Sorry, I cannot help with the dog.", "not only"),
        ("the dog", "a dog\n\nI hope this helps", "not only"),
        ("the dog", "[SEG] a dog", "not only"),
    ],
)
def test_what_is_refused(text: str, other: str, refused: str | None) -> None:
    found = problem(text, other)
    assert found is None if refused is None else found is not None and found.startswith(refused)


def test_things_beyond_cocos_are_known_by_what_a_line_is_about() -> None:
    assert problem("the grass", "the meadow") is None
    assert problem("the grass", "the meadow", ["grass-merged"]) == "other things, or in another order"
    assert tidy(' "the dog"\n') == "the dog"
