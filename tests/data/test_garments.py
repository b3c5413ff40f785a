"""What is worn and who wears it, from labels of one dressed person."""

from __future__ import annotations

import pathlib
import random

import pytest

from mllmseg.data.datasets.coco_mini import Instance, Photo
from mllmseg.data.looks import Look
from mllmseg.data.synth import Query, sentences

W, H = 550, 830
CATEGORIES = dict.fromkeys(("person", "dress", "shoes", "hair", "hat", "bag", "purse", "tie", "car"), True)
CLOTHES = frozenset(CATEGORIES) - {"person", "car"}
LOOKS = {2: Look(colours={"red": 0.95}), 3: Look(colours={"black": 0.95}), 4: Look(colours={"brown": 0.9})}


def thing(ident: int, category: str, height: float = 300, source: str = "class") -> Instance:
    box = (100.0, 100.0, 200.0, height)
    return Instance(ident, category, box, source, [[0] * 6], is_crowd=False, area=200 * height)  # type: ignore[arg-type]


DRESSED = (thing(1, "person", 700), thing(2, "dress"), thing(3, "shoes", 60), thing(4, "hair"))


def queries(*instances: Instance, looks: dict[int, Look] | None = None, seed: int = 0) -> list[Query]:
    photo = Photo(1, pathlib.Path("made-up.jpg"), (H, W), CLOTHES, "clothing", instances)
    return sentences(photo, CATEGORIES, random.Random(seed), positives=60, negatives=60, looks=looks)


def texts(found: list[Query], program: str) -> set[str]:
    return {query.text.lower().rstrip(".?!") for query in found if query.program == program}


@pytest.mark.parametrize("seed", range(5))
def test_targets_are_what_the_words_say(seed: int) -> None:
    found = queries(*DRESSED, looks=LOOKS, seed=seed)
    targets = {"dress": 2, "shoes": 3, "hair": 4}
    for query in found:
        if query.program == "garment":
            (category,) = query.arguments[:1]
            assert query.instance_ids == (targets[category],)
            assert {"dress": "red", "shoes": "black", "hair": "brown"}[category] in query.text.lower()
        elif query.program == "wearer":
            assert query.instance_ids == (1,)
            assert any(word in query.text for word in ("person", "human"))
            assert any(category in query.text for category in targets)
            assert not any(word in query.text for word in ("in the brown", "wearing hair", "with hair"))
    assert {query.program for query in found} >= {"garment", "wearer", "wrong_garment"}


@pytest.mark.parametrize("seed", range(5))
def test_what_is_denied_is_certain(seed: int) -> None:
    denied = [query for query in queries(*DRESSED, looks=LOOKS, seed=seed) if query.program == "wrong_garment"]
    assert all(query.answer.startswith("[REJ] ") and not query.instance_ids for query in denied)
    said = " | ".join(query.text.lower() for query in denied)
    assert "red dress" not in said
    assert "black shoes" not in said
    assert "green dress" in said
    assert "hat" in said
    # A bag is there as little as a purse; nobody knows of a car.
    assert "car" not in said


def test_without_colours_there_are_plain_wearers_only() -> None:
    found = queries(*DRESSED)
    assert not texts(found, "garment")
    assert texts(found, "wearer")
    assert not any("red" in text for text in texts(found, "wearer"))


@pytest.mark.parametrize(
    "instances",
    [
        (*DRESSED, thing(9, "person")),
        DRESSED[1:],
        (DRESSED[0], thing(2, "dress", source="human")),
        (DRESSED[0],),
    ],
    ids=["two people", "nobody", "clothes of their own mask", "no clothes"],
)
def test_the_wearer_must_be_certain(instances: tuple[Instance, ...]) -> None:
    assert not texts(queries(*instances, looks=LOOKS), "wearer")
