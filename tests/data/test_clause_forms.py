"""Clauses in words."""

from __future__ import annotations

import random

from mllmseg.data.clause_forms import number, speak, terse
from mllmseg.data.clauses import Clause
from mllmseg.data.programs import Reference

RED = Clause("colour", "red", frozenset({1}), frozenset({2}), adjectives=("red",))
LEFT = Clause("place", "left", frozenset({1}), frozenset({2}), adjectives=("left",), posts=("on the left",))
NEAR = Clause("beside", "beside bus", frozenset({1}), frozenset({2}), posts=("next to the {m}",), landmark="bus")
HAS = Clause("with", "umbrella", frozenset({1}), frozenset({2}), posts=("with an umbrella",), verb="has")


def said(noun: str = "car", **fields: object) -> set[str]:
    values: dict = {"program": "made up", "ids": (1,), "categories": (noun,), "templates": ()} | fields
    reference = Reference(**values)
    forms = [speak(reference, noun, random.Random(seed), synonyms=0.0) for seed in range(60)]
    return {form.phrase for form in forms} | {form.sentence for form in forms if form.sentence}


def test_phrases() -> None:
    assert said(said=(RED,)) == {"the red car"}
    assert said(said=(LEFT, RED)) == {"the red car on the left"}
    assert said(said=(NEAR,)) == {"the car next to the bus"}
    rides = Clause("on", "on elephant", frozenset({1}), frozenset(), posts=("on {am}",), landmark="elephant")
    assert said("person", said=(rides,)) == {"the person on an elephant"}


def test_denials() -> None:
    assert said(denied=(RED,)) == {"the car that is not red"}
    assert said(denied=(LEFT,)) == {"the car that is not on the left", "the car not on the left"}
    assert said("person", denied=(HAS,)) == {"the person who has no umbrella", "the person without an umbrella"}
    assert said("person", denied=(LEFT, NEAR)) == {"the person who is neither on the left nor next to the bus"}
    assert said("person", said=(NEAR,), denied=(HAS,)) == {"the person next to the bus but without an umbrella"}


def test_numbers_and_exceptions() -> None:
    assert said(said=(RED,), plural=True, count=2) == {"the two red cars"}
    assert said(denied=(RED,), plural=True) == {"the cars that are not red"}
    assert said(denied=(RED,), plural=True, excepted=True) == {
        "all the cars except the red one", "every car but the red one", "the cars other than the red one",
        "all the cars apart from the red one",
    }  # fmt: skip
    load = Clause("bearing", "cup on it", frozenset({1}), frozenset({2}), posts=("with a cup on it",), verb="has")
    assert "all the cars except the one with a cup on it" in said(denied=(load,), plural=True, excepted=True)
    assert said(said=(load,), plural=True) == {"the cars with a cup on them"}
    assert number(3) == "three"
    assert number(11) == "11"


def test_whole_sentences() -> None:
    sentences = said("person", said=(RED, HAS), denied=(LEFT,))
    assert "The person has an umbrella, is red, and not on the left." in sentences
    assert "Which person has an umbrella, is red, and not on the left?" in sentences


def test_in_a_hurry() -> None:
    assert terse("the person in a red top on the left") == "person in red top on left"
