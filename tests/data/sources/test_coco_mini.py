"""Samples for a training step: what may be a target, what a mirrored photo may be asked."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mllmseg.config import DataConfig, SourceConfig
from mllmseg.constants import REJ_TOKEN, SEG_TOKEN
from mllmseg.data.datasets.coco_mini import CocoMini, Expression, Instance, Photo
from mllmseg.data.sources.coco_mini import Questions, make_sample, mirrored, training_photos
from mllmseg.data.training import CAPTION_QUESTIONS, BadSamples, View, open_source

CATEGORIES = {"dog": True, "cat": True, "person": True, "car": True, "horse": True, "sheep": True, "bicycle": True}
EVERYTHING = {1, 2, 3}
MANY = 200


def instance(ident: int, category: str, box: tuple[float, float, float, float], **changes: Any) -> Instance:
    settings: dict[str, Any] = {"mask_source": "human", "segmentation": [[0, 0, 1, 0, 1, 1]], "is_crowd": False}
    return Instance(id=ident, category=category, box=box, area=box[2] * box[3], **(settings | changes))


def photo(ident: int = 7, **changes: Any) -> Photo:
    settings: dict[str, Any] = {
        "path": Path(f"{ident}.jpg"),
        "size": (100, 200),
        "scope": frozenset(CATEGORIES),
        "scope_name": "coco80",
        "instances": (
            instance(1, "dog", (10, 20, 40, 60)),
            instance(2, "dog", (120, 20, 40, 60)),
            instance(3, "cat", (60, 10, 30, 30)),
        ),
        "captions": ("two dogs and a cat",),
    }
    return Photo(id=ident, **(settings | changes))


def spoken(text: str, **changes: Any) -> Expression:
    settings: dict[str, Any] = {"source": "people", "rule": None, "ann_ids": (1,), "box": None}
    return Expression(image_id=7, text=text, **(settings | changes))


def config(**changes: Any) -> DataConfig:
    return DataConfig(**({"root": "."} | changes))


def only_spoken(**changes: Any) -> DataConfig:
    return config(positives=0, negatives=0, captions=0, human_queries=99, **changes)


def sample(
    seed: int = 0, *, expressions: tuple[Expression, ...] = (), drawable: set[int] = EVERYTHING, **settings: Any
) -> Questions:
    data = settings.pop("data", config())
    return make_sample(settings.pop("photo", photo()), expressions, CATEGORIES, drawable, data, random.Random(seed))


def questions(item: Questions) -> list[str]:
    return [branch[0].question for branch in item.branches]


def test_targets_and_decisions_are_those_of_the_answers() -> None:
    for seed in range(30):
        item = sample(seed, expressions=(spoken("the dog with a stick"), spoken("a unicorn", ann_ids=())))
        answers = [turn.answer for branch in item.branches for turn in branch]
        opening = [answer.split()[0] for answer in answers if answer.startswith("[")]
        assert [word == SEG_TOKEN for word in opening] == list(item.exists)
        assert sum(answer.count(SEG_TOKEN) for answer in answers) == len(item.targets)
        assert all(ids and EVERYTHING.issuperset(ids) for ids in item.targets)
        assert sum(answer.count(REJ_TOKEN) for answer in answers) == item.exists.count(False) > 0
        assert sum(question in CAPTION_QUESTIONS for question in questions(item)) == 1


def test_the_counts_are_kept() -> None:
    data = config(positives=3, negatives=2, human_queries=1, captions=0)
    item = sample(expressions=(spoken("one"), spoken("another")), data=data)
    assert len(item.branches) == 3 + 2 + 1
    assert item.exists.count(False) == 2


def test_hard_negatives_are_about_what_is_there() -> None:
    def there(hard: bool) -> float:
        data = config(positives=0, negatives=4, human_queries=0, captions=0, hard_negatives=hard)
        asked = [question for seed in range(MANY) for question in questions(sample(seed, data=data))]
        return sum("dog" in question or "cat" in question for question in asked) / len(asked)

    assert there(hard=False) < 0.1  # as a landmark of something absent
    assert there(hard=True) > 0.2


def test_the_same_chance_gives_the_same_sample() -> None:
    data, expressions = config(flip=0.5), (spoken("a dog"), spoken("the other", ann_ids=(2,)))
    assert sample(3, data=data, expressions=expressions) == sample(3, data=data, expressions=expressions)
    drawn = [tuple(questions(sample(seed, data=data, expressions=expressions))) for seed in range(10)]
    assert len(set(drawn)) == 10


def test_only_what_has_a_mask_is_a_target() -> None:
    expressions = (spoken("it", ann_ids=(1,)), spoken("both", ann_ids=(1, 2)), spoken("the cat", ann_ids=(3,)))
    meant = set()
    for seed in range(MANY):
        item = sample(seed, drawable={2, 3}, expressions=expressions)
        assert all({2, 3}.issuperset(ids) for ids in item.targets)
        assert not {"it", "both"} & {*questions(item)}
        meant.update(item.targets)
    assert meant == {(2,), (3,)}, "and all dogs cannot be drawn while one has no mask"
    nothing = sample(drawable=set(), expressions=expressions)
    assert not nothing.targets
    assert not any(nothing.exists)


def test_mirrored_boxes() -> None:
    flipped = mirrored(photo())
    assert [item.box for item in flipped.instances] == [(150, 20, 40, 60), (40, 20, 40, 60), (110, 10, 30, 30)]
    assert [item.id for item in flipped.instances] == [1, 2, 3]
    assert mirrored(flipped) == photo()


def test_left_is_left_in_the_mirrored_photo() -> None:
    """Dog 1 stands on the left; mirrored, dog 2 does."""
    for flip, expected in ((0.0, (1,)), (1.0, (2,))):
        meant = set()
        for seed in range(MANY):
            item = sample(seed, data=config(flip=flip, negatives=0, captions=0))
            assert item.flipped == bool(flip)
            targets = dict(zip(questions(item), item.targets, strict=True))
            meant |= {ids for text, ids in targets.items() if re.search("(left|leftmost|left-hand) dog", text)}
        assert meant == {expected}


SIDES = [
    "the dog on the left",
    "RIGHT dog",
    "leftmost dog",
    "right-hand dog",
    "the far-left one",
    "lefthand",
    "topleft",
]


@pytest.mark.parametrize("text", SIDES)
def test_what_people_say_of_sides_is_not_said_of_a_mirrored_photo(text: str) -> None:
    data = only_spoken(flip=1.0)
    assert not sample(expressions=(spoken(text), spoken(text, ann_ids=())), data=data).branches
    assert questions(sample(expressions=(spoken(text),), data=only_spoken())) == [text]
    caption = photo(captions=(text,))
    data = config(positives=0, negatives=0, flip=1.0)
    assert not sample(photo=caption, data=data).branches
    assert sample(photo=caption, data=data.model_copy(update={"flip": 0.0})).branches


@pytest.mark.parametrize("text", ["the brightest dog", "an upright dog", "copyrighted dog", "a cleft chin", "top dog"])
def test_words_that_only_contain_a_side_are_said(text: str) -> None:
    assert questions(sample(expressions=(spoken(text),), data=only_spoken(flip=1.0))) == [text]


def test_a_sentence_about_a_box_means_the_label_with_that_box() -> None:
    near = spoken("near", ann_ids=None, box=(12, 20, 40, 60))
    nowhere = spoken("nowhere", ann_ids=None, box=(0, 0, 200, 100))
    item = sample(expressions=(near, nowhere), data=only_spoken())
    assert (questions(item), item.targets) == (["near"], ((1,),))
    twice = photo(instances=(instance(1, "dog", (10, 20, 40, 60)), instance(2, "cat", (10, 20, 40, 61))))
    assert not sample(photo=twice, expressions=(near,), data=only_spoken()).branches, "two labels fit"
    assert not sample(expressions=(near,), data=only_spoken(flip=1.0)).branches


def test_answers_name_what_was_asked() -> None:
    expressions = (spoken("a dog"), spoken("dogs", ann_ids=(1, 2)), spoken("a cow", ann_ids=()))
    item = sample(expressions=expressions, data=only_spoken())
    answers = {branch[0].question: branch[0].answer for branch in item.branches}
    assert answers == {
        "a dog": "[SEG] Here is a dog.",
        "dogs": "[SEG] Here are dogs.",
        "a cow": "[REJ] I see nothing here that fits “a cow”.",
    }


def test_a_photo_without_anything_to_say() -> None:
    silent = photo(scope=frozenset(), instances=(instance(1, "dog", (0, 0, 1, 1)),), captions=())
    item = sample(photo=silent)
    assert (item.branches, item.targets, item.exists) == ((), (), ())


def test_the_photos_worth_most_come_first() -> None:
    boxed = instance(4, "cat", (1, 1, 9, 9), mask_source=None, segmentation=[])
    photos = [
        photo(1, scope_name="clothing"),
        photo(2, instances=(boxed,)),
        photo(3, instances=(*photo().instances, boxed)),
        photo(4),
        photo(5, instances=()),
        photo(6, instances=(boxed,)),
    ]
    dataset = CocoMini.__new__(CocoMini)  # reading files has its own test
    dataset.photos = {item.id: item for item in photos}
    dataset.expressions = (Expression(6, "a cat", "people", None, (4,), None),)
    assert [item.id for item in training_photos(dataset, None)] == [6, 4, 1, 3, 2]
    assert [item.id for item in training_photos(dataset, 2)] == [6, 4]


@pytest.fixture
def two_cars(tmp_path: Path) -> Path:
    """A folder of one photo: a red car to the left of a blue one, on grey."""
    (tmp_path / "images").mkdir()
    picture = Image.new("RGB", (400, 200), "gray")
    boxes = {1: (40, 40, 120, 120), 2: (240, 40, 120, 120)}
    for colour, (x, y, w, h) in zip(("#c01010", "#1020c0"), boxes.values(), strict=True):
        picture.paste(colour, (x, y, x + w, y + h))
    picture.save(tmp_path / "images" / "7.png")
    labels = {
        "categories": [{"id": 1, "name": "car", "isthing": 1}],
        "images": [{"id": 7, "file_name": "7.png", "height": 200, "width": 400, "label_scope": "coco80"}],
        "annotations": [
            {
                "id": ident,
                "image_id": 7,
                "category_id": 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "mask": "human",
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            for ident, (x, y, w, h) in boxes.items()
        ],
    }
    (tmp_path / "instances_train.json").write_text(json.dumps(labels))
    (tmp_path / "expressions_train.jsonl").write_text("")
    return tmp_path


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_colours_are_measured_and_spoken_of(two_cars: Path, bad: BadSamples, flip: float) -> None:
    source = open_source(SourceConfig(name="coco-mini", root=str(two_cars)), 0, config(flip=flip), bad)
    view, data = View((100, 200), (200, 400), {}), config(flip=flip)
    red = torch.zeros(100, 200, dtype=torch.bool)
    red[20:80, 20:80] = True
    seen = 0
    for seed in range(MANY):
        drawn = source.draw(source.images[0], view, random.Random(seed), data, stage="instruct")
        masks = iter(drawn.masks.flip(-1) if drawn.flipped else drawn.masks)
        for branch, exists in zip(drawn.branches, drawn.exists, strict=False):
            mask = next(masks) if exists else None
            if branch[0].question.lower() in ("the red car", "red car"):
                assert mask is not None
                assert torch.equal(mask, red)
                seen += 1
    assert seen
