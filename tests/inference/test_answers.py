"""Whether an answer's words say what was decided."""

from __future__ import annotations

import pytest

from mllmseg.data.phrases import _FOUND, _MISSING
from mllmseg.inference.answers import agreeing_answer, denies

THINGS = ("cup", "the person who is not facing the camera", "dog without a collar", "nothing to eat")


@pytest.mark.parametrize("thing", THINGS)
def test_what_the_model_learned_to_say_is_kept(thing: str) -> None:
    for wordings, exists in ((_FOUND, True), (_MISSING, False)):
        for wording in (*wordings[False], *wordings[True]):
            answer = wording.format(x=thing)
            if exists and thing.startswith("nothing"):
                continue
            assert agreeing_answer(answer, thing, exists=exists) == answer
            assert agreeing_answer(answer, thing, exists=not exists) != answer


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("No.", "is there a cup?"),
        ("Yes, no dog is marked.", "no dog"),
        ("There isn't any cup.", "the cup"),
        ("I cannot find it.", "the cup"),
        ("There are no people here", "are there no people?"),
    ],
)
def test_denials(answer: str, question: str) -> None:
    assert denies(answer, question)


@pytest.mark.parametrize("answer", ["It is the one that is not red.", "Here is the cup that is not red.", "A red cup."])
def test_a_negation_of_the_question_is_no_denial(answer: str) -> None:
    assert not denies(answer, "the cup that is not red")


def test_silence_is_replaced() -> None:
    assert agreeing_answer(" .", "the cup", exists=True) == "This is what fits “the cup”."
