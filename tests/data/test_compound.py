"""References made of clauses: worked out anew from boxes and looks, and mirrored with the photo."""

from __future__ import annotations

import pathlib
import random

import pytest

from mllmseg.data import colours, compound
from mllmseg.data.clauses import Clause
from mllmseg.data.datasets.coco_mini import Instance, Photo
from mllmseg.data.looks import Look
from mllmseg.data.negatives import NEGATIVES
from mllmseg.data.programs import PROGRAMS, Reference
from mllmseg.data.scene import Scene
from mllmseg.data.sources.coco_mini import mirrored

W, H = 1000, 500
NAMES = ("person", "car", "dog", "umbrella", "dining table", "cup", "chair", "bowl", "apple")
CATEGORIES = dict.fromkeys(NAMES, True)
SIDES = {"left": "right", "right": "left"}


def thing(ident: int, category: str, x: float, y: float, w: float = 100, h: float = 100) -> Instance:
    return Instance(ident, category, (x, y, w, h), "human", [[0] * 6], is_crowd=False, area=w * h)


def photo(*instances: Instance, captions: tuple[str, ...] = ()) -> Photo:
    return Photo(1, pathlib.Path("made-up.jpg"), (H, W), frozenset(NAMES), "made up", instances, captions)


def coloured(**names: str) -> dict[int, Look]:
    """`coloured(i1="red")`: instance 1 is red all over."""
    return {int(key[1:]): Look(colours={name: 0.9}, lightness=40.0) for key, name in names.items()}


def references(program: str, subject: Photo, looks: dict[int, Look] | None = None) -> list[Reference]:
    registry = PROGRAMS if program in PROGRAMS else NEGATIVES
    return list(registry.get(program)(Scene(subject, CATEGORIES, None, looks)))


def found(program: str, subject: Photo, looks: dict[int, Look] | None = None) -> set[tuple[object, ...]]:
    return {(item.ids, *item.arguments) for item in references(program, subject, looks)}


def random_scene(seed: int) -> tuple[Photo, dict[int, Look]]:
    rng = random.Random(seed)
    instances, looks = [], {}
    for ident in range(1, rng.randint(3, 10)):
        w, h = rng.uniform(30, 300), rng.uniform(30, 250)
        instances.append(thing(ident, rng.choice(NAMES), rng.uniform(0, W - w), rng.uniform(0, H - h), w, h))
        share = rng.choice((0.3, 0.55, 0.9))
        parts = {rng.choice(colours.NAMES): share, rng.choice(colours.NAMES): 1 - share}
        resting = tuple(rng.sample(range(1, 10), rng.choice((0, 0, 1))))
        looks[ident] = Look(parts, {}, rng.uniform(0, 100), tuple(key for key in resting if key != ident))
    return photo(*instances), looks


def test_colour_needs_all_others_to_be_otherwise() -> None:
    cars = photo(thing(1, "car", 0, 0), thing(2, "car", 400, 0), thing(3, "car", 800, 0))
    assert found("colour", cars, coloured(i1="red", i2="white", i3="white")) >= {((1,), "red"), ((2, 3), "white")}
    assert found("colour", cars, coloured(i1="red", i2="pink", i3="white")) == set(), "pink is near both"
    assert not found("colour", cars, coloured(i1="red", i2="white")), "the third car was not measured"
    assert not found("colour", cars)


def test_clothing_is_told_of_people_only() -> None:
    subject = photo(thing(1, "person", 0, 0), thing(2, "person", 500, 0), thing(3, "car", 800, 0))
    assert ((1,), "red") in found("clothing", subject, coloured(i1="red", i2="black", i3="red"))
    assert not any("colour" in str(item) for item in found("colour", subject, coloured(i1="red", i2="black")))


def test_what_rests_on_what() -> None:
    subject = photo(thing(1, "person", 0, 0), thing(2, "person", 700, 0), thing(3, "chair", 0, 100, 300, 100))
    looks = {1: Look(rests_on=(3,)), 2: Look(), 3: Look()}
    assert found("on", subject, looks) == {((1,), "on chair")}
    assert found("bearing", subject, looks) == {((3,), "person on it")}
    assert ((2,), "not on chair") in found("not", subject, looks)
    cups = photo(thing(1, "cup", 0, 0), thing(2, "cup", 700, 0), thing(3, "dining table", 0, 100, 300, 100))
    assert not found("not", cups, looks) & {((2,), "not on dining table")}, "tables reach further than their labels"


def test_inside_between_and_with() -> None:
    bowl = photo(thing(1, "apple", 20, 20, 50, 50), thing(2, "bowl", 0, 0, 200, 200), thing(3, "apple", 700, 300))
    assert found("inside", bowl) == {((1,), "in bowl")}
    row = photo(
        thing(1, "dog", 400, 200), thing(2, "car", 100, 200), thing(3, "car", 700, 200), thing(4, "dog", 900, 200)
    )
    assert ((1,), "between cars") in found("between", row)
    people = photo(
        thing(1, "person", 0, 0, 200, 400), thing(2, "person", 600, 0, 200, 400), thing(3, "umbrella", 50, 50)
    )
    assert found("with", people) == {((1,), "umbrella")}
    assert ((2,), "not umbrella") in found("not", people)


def test_counts_and_exceptions() -> None:
    cars = photo(thing(1, "car", 0, 0), thing(2, "car", 400, 0), thing(3, "car", 800, 0))
    looks = coloured(i1="red", i2="white", i3="white")
    assert found("count", cars, looks) >= {((1, 2, 3), "three"), ((2, 3), "white")}
    assert found("except", cars, looks) >= {((2, 3), "not red"), ((2, 3), "not leftmost")}
    assert ((2,), "white", "left") in found("nested", cars, looks)


def test_captions_tell_who_does_what() -> None:
    subject = photo(
        thing(1, "person", 0, 0, 300, 300), thing(2, "umbrella", 100, 0),
        captions=("A man holding an umbrella.", "The man is in the rain."),
    )  # fmt: skip
    assert found("action", subject) == {((1,), "holding"), ((2,), "holding")}
    assert [item.categories for item in references("described", subject)] == [("man",)]
    assert {item.categories[0] for item in references("wrong_attribute", subject)} >= {"woman", "girl"}


def truth(clause: Clause, ident: int) -> bool | None:
    assert not clause.yes & clause.no
    return True if ident in clause.yes else False if ident in clause.no else None


@pytest.mark.parametrize("seed", range(20))
def test_every_thing_is_meant_or_ruled_out(seed: int) -> None:
    subject, looks = random_scene(seed)
    for program in PROGRAMS:
        for item in references(program, subject, looks):
            for other in subject.instances:
                if other.category != item.categories[0] or not (item.said or item.denied):
                    continue
                holds = [truth(c, other.id) for c in item.said]
                fails = [truth(c, other.id) for c in item.denied]
                if other.id in item.ids:
                    assert all(value is True for value in holds)
                    assert all(value is False for value in fails)
                else:
                    assert False in holds or True in fails
                    assert len(subject.instances) > len(item.ids)


@pytest.mark.parametrize("seed", range(20))
def test_negatives_hold_for_nothing(seed: int) -> None:
    subject, looks = random_scene(seed)
    for kind in NEGATIVES:
        for item in references(kind, subject, looks):
            assert not item.ids
            group = [other for other in subject.instances if other.category == item.categories[0]]
            assert group or kind == "wrong_attribute"
            if item.said:
                assert all(any(truth(c, other.id) is False for c in item.said) for other in group)
            for clause in item.said:
                if clause.kind == "colour" and len(item.said) == 1:
                    assert all(colours.certainly_not(clause.argument, looks[other.id].colours) for other in group)


@pytest.mark.parametrize("seed", range(15))
def test_a_mirrored_photo_says_the_same_with_sides_exchanged(seed: int) -> None:
    """What mixture relies on: sentences about a flipped photo's labels and looks are true of its flipped pixels."""
    subject, looks = random_scene(seed)

    def exchange(argument: str) -> str:
        return " ".join(SIDES.get(word, word.replace("left", "?").replace("right", "left").replace("?", "right"))
                        for word in argument.split())  # fmt: skip

    for program in (*compound.ATTRIBUTES, *compound.RELATIONS, "not", "except", "count", "nested", "swapped"):
        as_is = {(item.ids, frozenset(item.arguments)) for item in references(program, subject, looks)}
        flipped = references(program, mirrored(subject), looks)
        assert as_is == {(item.ids, frozenset(map(exchange, item.arguments))) for item in flipped}, program


def test_long_sentences_are_made() -> None:
    subject = photo(
        thing(1, "car", 50, 200), thing(2, "car", 700, 200), thing(3, "dog", 500, 200), thing(4, "cup", 300, 20)
    )
    made = references("long", subject, coloured(i1="red", i2="white"))
    for item in made:
        assert len(item.said) + len(item.denied) >= 3
        assert item.ids in ((1,), (2,), (3,), (4,))
    assert any(
        item.ids == (1,) and "red" in item.arguments
        for item in references("long", subject, coloured(i1="red", i2="white"))
    )
