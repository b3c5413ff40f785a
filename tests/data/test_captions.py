"""Captions are believed only where they can mean one thing."""

from __future__ import annotations

import pathlib

import pytest

from mllmseg.data import captions
from mllmseg.data.datasets.coco_mini import Instance, Photo
from mllmseg.data.scene import Scene

CATEGORIES = dict.fromkeys(("person", "horse", "dog", "dining table", "tennis racket"), True)


def scene(said: tuple[str, ...], *categories: str) -> Scene:
    instances = tuple(
        Instance(n, name, (100.0 * n, 50, 90, 300), "human", [[0] * 6], is_crowd=False, area=27000)
        for n, name in enumerate(categories)
    )
    photo = Photo(1, pathlib.Path("a.jpg"), (400, 600), frozenset(CATEGORIES), "made up", instances, said)
    return Scene(photo, CATEGORIES)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man riding a horse.", ("person", "riding", "horse")),
        ("A young man is riding on a brown horse", ("person", "riding", "horse")),
        ("a tennis player holding a racket up", ("person", "holding", "tennis racket")),
        ("The dog laying on the table.", ("dog", "lying on", "dining table")),
    ],
)
def test_actions(caption: str, expected: tuple[str, str, str]) -> None:
    assert list(captions.actions(scene((caption,), "person", "horse", "dog", "dining table", "tennis racket"))) == [
        expected
    ]


@pytest.mark.parametrize("caption", ["Two people riding a horse.", "A man near a horse.", "A woman holding a cat."])
def test_nothing_is_made_up(caption: str) -> None:
    assert not list(captions.actions(scene((caption,), "person", "horse", "dog")))


def test_two_of_a_category_are_not_told_apart() -> None:
    assert not list(captions.actions(scene(("A man riding a horse.",), "person", "person", "horse")))
    assert captions.described(scene(("A man.", "A man."), "person", "person")) is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("A man on a horse.", "The man rides."), "man"),
        (("A woman on a horse.", "A lady.", "the woman rides"), "woman"),
        (("A man on a horse.",), None),
        (("A man on a horse.", "A woman rides.", "a man"), None),
        (("A man.", "A man and her horse."), None),
        (("A man.", "A man before people."), None),
    ],
)
def test_who_it_is(said: tuple[str, ...], expected: str | None) -> None:
    assert captions.described(scene(said, "person", "horse")) == expected
