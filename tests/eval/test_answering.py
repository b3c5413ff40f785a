"""The three modes, over a segmenter that notes what it is asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mllmseg.eval import answering
from mllmseg.eval.answering import Answer, SegmenterAnswerer


class Asked:
    """Scores "the cat" 0.3 and all else 0.9; paints one pixel."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def set_image(self, image: Path) -> None:
        self.calls.append(image)

    def segment(self, texts: list[str], *, threshold: float) -> list[SimpleNamespace]:
        self.calls.append((texts, threshold))
        return [self._found(text, threshold) for text in texts]

    def chat(self, messages: list[dict[str, str]], *, threshold: float) -> SimpleNamespace:
        self.calls.append((messages, threshold))
        return self._found(messages[0]["content"], threshold)

    def _found(self, text: str, threshold: float) -> SimpleNamespace:
        score = 0.3 if text == "the cat" else 0.9
        union = torch.zeros(4, 6, dtype=torch.bool)
        union[1, 2] = True
        return SimpleNamespace(exists=score >= threshold, score=score, answer=text, union=union)


def ask(mode: Any, texts: list[str]) -> tuple[list[Answer], list[Any]]:
    segmenter = Asked()
    return list(SegmenterAnswerer(segmenter, mode, 0.5).answer(Path("a.png"), texts)), segmenter.calls  # type: ignore[arg-type]


def test_scored_asks_all_at_once_and_decides_by_probability() -> None:
    answers, calls = ask("scored", ["the dog", "the cat"])
    assert calls == [Path("a.png"), (["the dog", "the cat"], 0.5)]
    assert [(answer.exists, answer.score, answer.mask is None) for answer in answers] == [
        (True, 0.9, False),
        (False, 0.3, True),
    ]
    rle, box = answers[0].painted()
    assert rle is not None
    assert (rle["size"], box) == ([4, 6], (2, 1, 1, 1))
    assert answers[1].painted() == (None, None)


def test_teacher_rejects_nothing() -> None:
    answers, calls = ask("teacher", ["the dog", "the cat"])
    assert calls[1] == (["the dog", "the cat"], 0.0)
    assert [(answer.exists, answer.score) for answer in answers] == [(True, 0.9), (True, 0.3)]


def test_free_lets_the_model_speak() -> None:
    answers, calls = ask("free", ["the dog", "the cat"])
    assert calls[1:] == [([{"role": "user", "content": text}], 0.5) for text in ("the dog", "the cat")]
    assert [answer.exists for answer in answers] == [True, False]


def test_many_sentences_share_a_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "QUERIES_PER_CALL", 2)
    answers, calls = ask("scored", ["a", "b", "c", "d", "e"])
    assert [texts for texts, _ in calls[1:]] == [["a", "b"], ["c", "d"], ["e"]]
    assert [answer.answer for answer in answers] == list("abcde")
    assert calls.count(Path("a.png")) == 1, "the image is read once"
