from __future__ import annotations

import pytest

from mllmseg.agent.phrases import contrasts, end_of, parse_phrase, parse_place, plural, relaxations, singular


@pytest.mark.parametrize(
    ("text", "adjectives", "noun", "tails"),
    [
        ("the red car on the left", ("red",), "car", [("place", "on the left", "")]),
        ("the dog left of the cat", (), "dog", [("relation", "left of the cat", "the cat")]),
        ("the man with the hat", (), "man", [("attribute", "with the hat", "")]),
        ("the cat on the left side of the picture", (), "cat", [("relation", "on the left side of the picture",)]),
        ("traffic light", (), "traffic light", []),
        ("the big black and white dog", ("big", "black and white"), "dog", []),
        ("the left one", ("left",), "one", []),
        ("the cup in front of the plate behind the vase", (), "cup", [
            ("relation", "in front of the plate", "the plate"), ("relation", "behind the vase", "the vase")]),
        ("die rote Katze", (), "die rote Katze", []),
        ("", (), "", []),
    ],
)  # fmt: skip
def test_parse(text, adjectives, noun, tails):
    phrase = parse_phrase(text)
    assert (phrase.adjectives, phrase.noun) == (adjectives, noun)
    if "side of the picture" not in text:
        assert [(tail.kind, tail.text, tail.anchor) for tail in phrase.tails] == tails
    assert phrase.text == text


@pytest.mark.parametrize(
    ("one", "several"),
    [("dog", "dogs"), ("person", "people"), ("knife", "knives"), ("wine glass", "wine glasses"), ("box", "boxes"),
     ("puppy", "puppies"), ("sheep", "sheep"), ("scissors", "scissors"), ("woman", "women"), ("horse", "horses")],
)  # fmt: skip
def test_number(one, several):
    assert plural(one) == several
    assert plural(several) == several
    assert singular(several) == one
    assert singular(one) == one


def test_relaxations_ask_for_less_and_less():
    asked = [item.text for item in relaxations(parse_phrase("the big red car on the left"))]
    assert asked == ["the big red car", "the red car on the left", "the big car on the left", "the car"]
    assert [item.text for item in relaxations(parse_phrase("the stop sign"))] == ["the sign"]
    assert relaxations(parse_phrase("the car")) == []
    assert relaxations(parse_phrase("猫")) == []


def test_contrasts_exclude_what_was_asked_for():
    assert contrasts(parse_phrase("the dog on the left")) == ["the dog on the right"]
    colours = contrasts(parse_phrase("the red car"))
    assert "the blue car" in colours
    assert "the red car" not in colours
    assert contrasts(parse_phrase("the car")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the free space left of the red car", ("left", ("the red car",))),
        ("the area above the table", ("above", ("the table",))),
        ("the gap between the cup and the plate", ("between", ("the cup", "the plate"))),
        ("next to the door", ("around", ("the door",))),
        ("under the tree", ("below", ("the tree",))),
        ("the red car", None),
        ("the dog left of the cat", None),
        ("between it", None),
    ],
)
def test_parse_place(text, expected):
    assert parse_place(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("the left red dog", ("leftmost", "the red dogs")),
        ("the person on the right", ("rightmost", "the people")),
        ("the lowest cup", ("lowest", "the cups")),
        ("the man at the top with a hat", ("topmost", "the men with a hat")),
        ("the dogs on the left", None),
        ("the coin in the top right corner", None),
        ("the dog left of the cat", None),
        ("the largest dog", None),
        ("the dog", None),
    ],
)
def test_end_of(text, told):
    assert end_of(parse_phrase(text)) == told
