"""What the generated sentences say must be true of the boxes; checked here from the words alone."""

from __future__ import annotations

import pathlib
import random
import re

import pytest

from mllmseg.data import words
from mllmseg.data.datasets.coco_mini import CocoMini, Instance, Photo
from mllmseg.data.negatives import NEGATIVES
from mllmseg.data.programs import PROGRAMS
from mllmseg.data.same_meaning import problem
from mllmseg.data.synth import KIND_OF, NEGATIVE_WEIGHTS, PROGRAM_WEIGHTS, Query, sentences, target_frequency

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data" / "coco-mini"
W, H = 1000, 500
THINGS = ("dog", "cat", "person", "knife", "scissors", "bus", "zebra", "cup", "umbrella", "truck", "car")
CATEGORIES = dict.fromkeys(THINGS, True) | {"sky-other-merged": False, "wall-brick": False, "wall-other-merged": False}
PLAIN = {words.name(c): c for c in CATEGORIES} | {words.plural(words.name(c)): c for c in CATEGORIES}
PLAIN |= {synonym: c for c in CATEGORIES for synonym in words.synonyms(c)}
PLAIN |= {words.plural(synonym): c for c in CATEGORIES for synonym in words.synonyms(c)}
NOUN = "(" + "|".join(sorted(PLAIN, key=len, reverse=True)) + ")"


def thing(ident: int, category: str, x: float, y: float, w: float = 100, h: float = 100, **changes: object) -> Instance:
    values: dict = {"mask_source": "human", "segmentation": [[0] * 6], "is_crowd": False, "area": w * h} | changes
    return Instance(id=ident, category=category, box=(x, y, w, h), **values)


def photo(*instances: Instance, scope: tuple[str, ...] = THINGS) -> Photo:
    return Photo(1, pathlib.Path("made-up.jpg"), (H, W), frozenset(scope), "made up", instances)


def random_photo(seed: int) -> Photo:
    rng = random.Random(seed)
    instances = []
    for ident in range(rng.randint(1, 9)):
        w, h = rng.uniform(10, 400), rng.uniform(10, 300)
        category = rng.choice(("dog", "dog", "cat", "person", "person", "person", "cup", "scissors", "bus"))
        x, y = rng.uniform(0, W - w), rng.uniform(0, H - h)
        instances.append(thing(ident, category, x, y, w, h, is_crowd=rng.random() < 0.03))
    scope = tuple(rng.sample(THINGS, 8))
    return photo(*instances, scope=scope)


def generate(subject: Photo, seed: int = 0, **changes: object) -> list[Query]:
    arguments: dict = {"negatives": 30, "positives": 60} | changes
    return sentences(subject, CATEGORIES, random.Random(seed), **arguments)


def centre(item: Instance) -> tuple[float, float]:
    x, y, w, h = item.box
    return x + w / 2, y + h / 2


def of_category(subject: Photo, category: str) -> list[Instance]:
    return [item for item in subject.instances if item.category == category]


def check_truth(subject: Photo, query: Query) -> None:
    """Works out the target from the words and compares."""
    text = query.text.lower()
    nouns = [PLAIN[m] for m in re.findall(rf"\b{NOUN}\b", text)]
    category = nouns[0] if nouns else "person"
    group = of_category(subject, category)
    meant = [item for item in group if item.id in query.instance_ids]
    assert not any(item.is_crowd for item in group)
    side = next((s for s in ("left", "right") if s in text), "")
    by_x = sorted(group, key=lambda item: centre(item)[0], reverse=side == "right")
    by_y = sorted(group, key=lambda item: centre(item)[1])
    if query.program == "unique":
        assert group == meant
        assert len(group) == 1
    elif query.program == "all":
        assert meant == group
        assert len(group) > 1
    elif query.program in ("side_of_two", "extreme"):
        if side:
            assert meant == by_x[:1]
            assert abs(centre(by_x[0])[0] - centre(by_x[1])[0]) >= 0.1 * W - 1e-6
        else:
            top = re.search(r"top|upper|highest|uppermost", text) and "bottom" not in text
            assert meant == ([by_y[0]] if top else [by_y[-1]])
    elif query.program == "middle":
        assert meant == [by_x[len(group) // 2]]
        assert len(group) % 2
    elif query.program == "ordinal":
        names = ("first", "second", "third", "fourth", "fifth", "sixth")
        number = re.search(r"number (\d)", text)
        place = int(number[1]) - 1 if number else next(i for i, name in enumerate(names) if name in text)
        assert meant == [by_x[place]]
    elif query.program == "size":
        large = re.search(r"big|larg", text)
        ranked = sorted(group, key=lambda item: item.box[2] * item.box[3], reverse=bool(large))
        assert meant == ranked[:1]
    elif query.program == "half":
        assert all((centre(item)[0] < W / 2) == (side == "left") for item in meant)
        assert all((centre(item)[0] < W / 2) != (side == "left") for item in group if item not in meant)
    elif query.program == "relation":
        check_relation(text, meant, group, of_category(subject, nouns[1]))
    elif query.program == "nearest":
        (mark,) = of_category(subject, nouns[1])
        assert len(group) > 1
        assert meant == [min(group, key=lambda item: distance(item, mark))]
    elif query.program == "group":
        expected = {item.id for c in nouns for item in of_category(subject, c)}
        assert set(query.instance_ids) == expected
        assert len(set(nouns)) == 2
    elif query.program == "exclusion":
        assert meant == [item for item in group if item is not by_x[0]]
    else:  # made of clauses: test_compound.py
        assert PROGRAM_WEIGHTS[query.program] > 0


def distance(first: Instance, second: Instance) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = first.box, second.box
    dx, dy = max(ax - bx - bw, bx - ax - aw, 0) / W, max(ay - by - bh, by - ay - ah, 0) / H
    return (dx * dx + dy * dy) ** 0.5


def check_relation(text: str, meant: list[Instance], group: list[Instance], landmarks: list[Instance]) -> None:
    (mark,), (target,) = landmarks, meant
    mx, my = centre(mark)
    for item in group:
        x, y = centre(item)
        if " left of" in text or "left of" in text:
            holds = x < mx
        elif "right of" in text:
            holds = x > mx
        elif "above" in text or "higher" in text:
            holds = y < my
        elif "below" in text or "lower" in text:
            holds = y > my
        else:
            holds = distance(item, mark) < 0.2
        assert holds == (item is target), text


@pytest.mark.parametrize("seed", range(300))
def test_every_positive_is_true_of_the_boxes(seed: int) -> None:
    subject = random_photo(seed)
    for query in generate(subject, seed):
        if query.instance_ids:
            check_truth(subject, query)
            assert query.answer.startswith("[SEG] ")
            targets = [subject.instance(i) for i in query.instance_ids]
            assert all(item.category in subject.scope or query.program == "unique" for item in targets)
            if query.program != "all":
                assert all(item.box[2] * item.box[3] >= 0.003 * W * H for item in targets)


@pytest.mark.parametrize("seed", range(300))
def test_negatives_stay_inside_the_scope_and_are_absent(seed: int) -> None:
    subject = random_photo(seed)
    present = {item.category for item in subject.instances}
    for query in generate(subject, seed):
        if query.instance_ids:
            continue
        assert query.answer.startswith("[REJ] ")
        nouns = [PLAIN[m] for m in re.findall(rf"\b{NOUN}\b", query.text.lower())]
        if query.program == "no_target":
            (gone,) = set(nouns) - present
            assert gone in subject.scope
            assert PLAIN[re.search(rf"\b{NOUN}\b", query.answer)[1]] == gone, "the answer names what is missing"
        elif query.program != "wrong_relation":  # which may ask for something that is not there: "with an umbrella"
            assert set(nouns) <= present & subject.scope


def test_every_program_speaks() -> None:
    found = {query.program for seed in range(300) for query in generate(random_photo(seed), seed)}
    need_pixels = {"colour", "clothing", "brightness", "on", "bearing", "nested"}
    need_more = {"inside", "with", "action", "described", "garment", "wearer"}  # captions, or other categories
    assert found >= (set(PROGRAM_WEIGHTS) - need_pixels - need_more)
    assert found >= set(NEGATIVE_WEIGHTS) - {"wrong_attribute", "wrong_pair", "wrong_garment"}
    assert set(KIND_OF) == set(PROGRAM_WEIGHTS) | set(NEGATIVE_WEIGHTS) == set(PROGRAMS) | {*NEGATIVES, "no_target"}


def test_no_sentence_may_stand_for_one_that_means_something_else() -> None:
    photos = [generate(random_photo(seed)) for seed in range(12)]
    pairs = [(a, b) for queries in photos for a in queries for b in queries if a.instance_ids != b.instance_ids]
    assert [(a.text, b.text) for a, b in pairs if problem(a.text, b.text) is None] == []
    assert len(pairs) > 2000


def test_the_same_seed_gives_the_same_sentences() -> None:
    subject = random_photo(3)
    assert generate(subject, 5) == generate(subject, 5)
    assert generate(subject, 5) != generate(subject, 6)


def test_counts_are_upper_bounds_and_texts_differ() -> None:
    subject = photo(thing(1, "dog", 0, 0), thing(2, "cat", 500, 0))
    queries = generate(subject, positives=3, negatives=2)
    assert [bool(query.instance_ids) for query in queries] == [True] * 3 + [False] * 2
    assert len({query.text for query in queries}) == 5
    assert generate(subject, positives=0, negatives=0) == []


def test_crowds_are_never_mentioned_nor_denied() -> None:
    subject = photo(thing(1, "dog", 0, 0), thing(2, "dog", 500, 0, is_crowd=True))
    for seed in range(20):
        assert not any("dog" in query.text for query in generate(subject, seed))


def test_outside_the_scope_nothing_is_counted_or_denied() -> None:
    subject = photo(thing(1, "dog", 0, 0, 300, 300), thing(2, "cat", 0, 0), thing(3, "cat", 500, 0), scope=("bus",))
    queries = [query for seed in range(20) for query in generate(subject, seed)]
    assert {query.program for query in queries if query.instance_ids} == {"unique"}, "one large dog may be named"
    assert all("dog" in query.text for query in queries if query.instance_ids)
    assert all(re.search(r"\bbus", query.text) for query in queries if not query.instance_ids)


def test_what_may_be_taken_for_it_is_not_denied() -> None:
    subject = photo(thing(1, "truck", 0, 0), scope=("car", "truck", "dog"))
    for seed in range(20):
        assert not any("car" in query.text for query in generate(subject, seed))


def test_tiny_things_are_only_meant_together() -> None:
    subject = photo(thing(1, "dog", 0, 0, 20, 20), thing(2, "dog", 800, 200, 200, 200))
    for seed in range(20):
        for query in generate(subject, seed):
            assert query.program == "all" or 1 not in query.instance_ids


def test_stuff_is_named_plainly_and_only_where_its_name_is_clear() -> None:
    scope = tuple(CATEGORIES)
    sky = photo(thing(1, "sky-other-merged", 0, 0, W, 200), scope=scope)
    assert any(query.text.lower() == "the sky" for seed in range(9) for query in generate(sky, seed))
    walls = photo(thing(1, "wall-brick", 0, 0, 300, H), thing(2, "wall-other-merged", 300, 0, 300, H), scope=scope)
    assert not any("wall" in query.text for query in generate(walls))


def test_only_allowed_instances_are_targets() -> None:
    subject = photo(thing(1, "dog", 0, 0), thing(2, "dog", 700, 0), thing(3, "cat", 500, 300))
    for query in generate(subject, allowed={2, 3}):
        assert 1 not in query.instance_ids


def test_class_masks_are_not_counted() -> None:
    subject = photo(thing(1, "scissors", 0, 0, 200, 200, mask_source="class"), thing(2, "dog", 700, 0))
    for query in generate(subject):
        assert query.program in ("unique", "group", "half", *NEGATIVE_WEIGHTS)
        assert query.program in ("unique", "group") or "scissors" not in query.text


def test_frequent_categories_are_denied_more_often() -> None:
    subject = photo(thing(1, "dog", 0, 0), scope=("dog", "bus", "knife", "umbrella"))
    counts = {"bus": 0, "umbrella": 0}
    for seed in range(300):
        (query,) = generate(subject, seed, positives=0, negatives=1, frequency={"bus": 1000.0})
        for noun in counts:
            counts[noun] += f"{noun}" in query.text
    assert counts["bus"] > 1.3 * counts["umbrella"]
    assert target_frequency([subject]) == {"dog": 1.0}


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("dog", "dogs"),
        ("person", "people"),
        ("knife", "knives"),
        ("bus", "buses"),
        ("wine glass", "wine glasses"),
        ("sandwich", "sandwiches"),
        ("teddy", "teddies"),
        ("toothbrush", "toothbrushes"),
        ("scissors", "scissors"),
        ("skis", "skis"),
        ("sheep", "sheep"),
        ("mouse", "mice"),
        ("kite", "kites"),
        ("tray", "trays"),
        ("broccoli", "broccoli"),
    ],
)
def test_plurals(noun: str, expected: str) -> None:
    assert words.plural(noun) == expected


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("sky-other-merged", "sky"),
        ("tree-merged", "trees"),
        ("wall-tile", "tiled wall"),
        ("door-stuff", "door"),
        ("t-shirt", "t-shirt"),
        ("grass-merged", "grass"),
    ],
)
def test_names(category: str, expected: str) -> None:
    assert words.name(category) == expected


def test_answers_agree_in_number() -> None:
    subject = photo(thing(1, "scissors", 0, 0), thing(2, "dog", 300, 0), thing(3, "dog", 800, 0))
    answers = [query.answer for seed in range(40) for query in generate(subject, seed)]
    assert not any(
        re.search(r"is (the|all the) (scissors|dogs)\b|Yes, (the|all the) (scissors|dogs) is\b", text)
        for text in answers
    )
    assert not any(
        re.search(r"are (the|a|an) (?!.* and )(dog|umbrella)\b|are every|are each", text) for text in answers
    )
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", text) for text in answers)


@pytest.mark.skipif(not REAL.is_dir(), reason="coco-mini is not at hand")
def test_the_real_labels_give_sentences_for_nearly_every_photo() -> None:
    dataset = CocoMini(REAL, "val")
    rng = random.Random(0)
    counts = []
    for subject in dataset.photos.values():
        queries = sentences(subject, dataset.categories, rng, negatives=2, positives=2)
        counts.append(sum(bool(query.instance_ids) for query in queries))
        assert sum(not query.instance_ids for query in queries) == 2
    assert sum(count > 0 for count in counts) > 0.9 * len(counts)
