"""The chat command with a stand-in that finds cats, in the upper left corner, and nothing else."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mllmseg import cli
from mllmseg.agent.trace import Trace
from mllmseg.inference import pretrained
from mllmseg.inference.answers import compose_answer
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.postprocess import mask_boxes
from mllmseg.structures import Segmentation, Superpixels

PHOTO = Path(__file__).parents[2] / "examples" / "cat.jpg"


class StandIn:
    threshold = 0.5

    def fork(self):
        return StandIn()

    def set_image(self, image):
        self.image = image

    def segment(self, query, *, threshold=None):
        if isinstance(query, list):
            return [self.segment(text, threshold=threshold) for text in query]
        score = 0.8 if "cat" in query else 0.1
        exists = score >= threshold
        masks = torch.zeros(int(exists), self.image.height, self.image.width, dtype=torch.bool)
        masks[:, :10, :20] = True
        one = torch.ones(1)
        return Segmentation(
            query, compose_answer(query, exists=exists), exists, score, masks, mask_boxes(masks), one[: int(exists)],
            Superpixels(torch.zeros(4, 4).long(), torch.zeros(1, 4), one.long(), one), torch.ones(int(exists), 1), 1,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, tmp_path):
    monkeypatch.setattr(Segmenter, "from_pretrained", lambda *_, **__: StandIn())
    monkeypatch.setattr(pretrained, "find_checkpoint", lambda name: tmp_path)


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["mllmseg", "chat", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_messages_in_turn_and_what_they_leave(monkeypatch, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert run(monkeypatch, PHOTO, "the cat", "blur the background", "the dog", "--out", out) == 0
    said = capsys.readouterr().out
    assert "Here is “the cat”" in said
    assert "Blurred everything except “the cat”" in said
    assert "I see no dog here." in said
    assert sorted(path.name for path in out.iterdir()) == [
        "01-overlay.png", "01-trace.json", "02-edit.png", "02-overlay.png", "02-trace.json", "03-trace.json",
    ]  # fmt: skip
    photo, edited = (np.array(Image.open(path).convert("RGB")) for path in (PHOTO, out / "02-edit.png"))
    assert (photo[:10, :20] == edited[:10, :20]).all()
    assert (photo != edited).any()
    assert Trace.from_json((out / "02-trace.json").read_text(encoding="utf-8")).message == "blur the background"


def test_a_conversation_on_stdin(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("the purple cat on the left\n\n/lenient\n猫 7\n/quit\nthe cat\n"))
    assert run(monkeypatch, PHOTO) == 0
    said = capsys.readouterr().out
    assert "There is a cat on the left, but it is orange, not purple." in said
    assert "lenient from now on" in said
    assert "猫" in said
    assert "“the cat”" not in said


def test_several_pictures(monkeypatch, capsys):
    coffee = PHOTO.with_name("coffee.jpg")
    lines = [
        "the cat", f"/open '{coffee}'", "not that one", "/picture 1", "not that one", "/picture coffee", "/pictures",
        "/picture 7", "/open nothing.jpg", "/dance", "the cat",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert run(monkeypatch, PHOTO) == 0
    said = capsys.readouterr().out
    assert "* 2 coffee.jpg (600 × 400)" in said
    assert "  1 cat.jpg (451 × 300, shown: the cat)" in said, "what is shown stays with its picture"
    assert said.count("I do not know yet what you mean by that") == 1, "“that” means nothing in a new picture"
    assert "there is no picture '7'" in said
    assert "nothing.jpg: no such image file" in said
    assert "there is no /dance" in said
    assert said.rstrip().splitlines()[-2].startswith("Here is “the cat”"), "the conversation goes on after an error"


def test_several_pictures_at_once(monkeypatch, tmp_path, capsys):
    coffee = PHOTO.with_name("coffee.jpg")
    assert run(monkeypatch, PHOTO, "the cat", "/picture 2", "the cat", "--also", coffee, "--out", tmp_path) == 0
    assert [Image.open(tmp_path / f"0{number}-overlay.png").size for number in (1, 2)] == [(451, 300), (600, 400)]
    assert run(monkeypatch, PHOTO, "/picture 3", "--also", coffee) == 2
    assert "there is no picture '3'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jpg", "the cat"], "no such image file"),
        ([PHOTO, "the cat", "--llm-url", "http://localhost/v1"], "both --llm-url and --llm-model"),
        ([PHOTO, "the cat", "--llm-url", "localhost", "--llm-model", "m"], "no address of an endpoint"),
        ([PHOTO, "the cat", "--out", PHOTO], "cannot write there"),
        ([PHOTO, "the cat", "--threshold", "2"], "threshold"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
