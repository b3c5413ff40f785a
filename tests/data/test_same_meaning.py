"""What may stand for what: rephrasings that keep the meaning pass, those that a model might get wrong do not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mllmseg.data.same_meaning import problem, said_of

SAME = (
    ("the left dog", "The dog on the left side."),
    ("the left dog", "Could you please show me the dog to the left?"),
    ("Point at the leftmost person.", "person farthest left"),
    ("the two people on the bench", "both persons on top of the bench"),
    ("the second car from the right", "2nd car from right"),
    ("dog number 3 from the left", "the third dog from the left"),
    ("the bike next to the sofa", "The bicycle which is beside the couch."),
    ("every dog but the brown one", "all the dogs except the brown one"),
    ("the dog without a frisbee", "the dog lacking a frisbee"),
    ("the dog that is not black", "the dog that isn't black"),
    ("the largest cat", "the biggest cat that can be seen in the picture"),
    ("the upper knife", "the knife at the top"),
    ("the gray car", "the car that is grey"),
    ("the person sitting on the couch", "a person who sits on the sofa"),
    ("the light car near the traffic light", "the light car close to the stoplight"),
)
DIFFERENT = (
    ("the left dog", "the dog on the right"),
    ("the left dog", "the dog"),
    ("the leftmost person", "the person on the left"),
    ("the left dogs", "the dog on the left"),
    ("the dog", "the dogs"),
    ("one of the dogs", "the dogs"),
    ("three dogs", "four dogs"),
    ("dog number 3 from the left", "the three dogs from the left"),
    ("dog number 11 from the left", "dog number 12 from the left"),
    ("dog number 14 from the left", "dog number 15 from the left"),
    ("all the dogs", "the dogs"),
    ("every dog but the brown one", "all the dogs, but mostly the brown one"),
    ("the biggest dog", "the smallest dog"),
    ("the biggest car", "the big car"),
    ("the littlest dog", "the dog"),
    ("the cup higher up than the plate", "the cup and the plate"),
    ("the tall person", "the short person"),
    ("the silver car", "the golden car"),
    ("the left dog", "the left cat"),
    ("the grass", "the meadow"),
    ("the forklift", "the pallet"),
    ("the dog", "the dog and its owner, a person"),
    ("the person", "the person who is asking for a favor"),
    ("the person holding a cup", "the person with a cup"),
    ("the cat on the couch", "the couch with the cat on it"),
    ("the cat on the couch", "the cat by the couch"),
    ("the dog in the car", "the dog on the car"),
    ("the dog that is not black", "the dog that is black"),
    ("the dog that is not black", "Why don't you show me the black dog?"),
    ("the person with a backpack", "the person who lacks a backpack"),
    ("the red car that is not on the left", "the left car which is not red"),
    ("the red car next to the blue truck", "the blue car next to the red truck"),
    ("the big dog next to the small cat", "the small dog next to the big cat"),
    ("the happy man next to the angry dog", "the angry man next to the happy dog"),
    ("the person with a tie and without an umbrella", "the person without a tie and with an umbrella"),
    ("the person wearing jeans not wearing a hat", "the person not wearing jeans wearing a hat"),
    ("the cup to the left of the plate", "The cup which has the plate to its left."),
    ("the cup to the left of the plate", "The cup, and to its left the plate."),
    ("the person behind the car", "the person with the car behind them"),
    ("the dog above the cat", "the dog that the cat is above"),
    ("the light car near the traffic light", "the car near the traffic light"),
    ("the dog next to the cat", "the cat next to the dog"),
    ("the dog's bowl", "the dog, bowl"),
)


@pytest.mark.parametrize(("text", "other"), SAME)
def test_the_same(text: str, other: str) -> None:
    assert (problem(text, other), problem(other, text)) == (None, None)


@pytest.mark.parametrize(("text", "other"), DIFFERENT)
def test_something_else(text: str, other: str) -> None:
    assert problem(text, other) is not None
    assert problem(other, text) is not None


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("", "empty or too long"),
        ("dog " * 41, "empty or too long"),
        ("The dog!", "the same words"),
        ("a dog\n\nI hope this helps", "not only a description"),
        ("[SEG] a dog", "not only a description"),
        ("Here is a rephrased version: the dog", "not only a description"),
        ("Sorry, I cannot help with the dog.", "says more, less or something else"),
        ("Sure! The dog.", "says more, less or something else"),
    ],
)
def test_replies_that_are_no_rephrasing(other: str, reason: str) -> None:
    assert problem("the dog", other) == reason


def test_hashing_decides_nothing() -> None:
    program = "from mllmseg.data.same_meaning import said_of; print(said_of('the kid, a guy, his glasses'))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in "12"
    }  # fmt: skip
    assert answers == {f"{said_of('the kid, a guy, his glasses')}\n"}
    assert problem("the boy", "the kid") is not None, "a kid may be a girl"
