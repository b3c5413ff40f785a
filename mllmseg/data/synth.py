"""Sentences about labelled photos, with targets that follow from the labels: training's first teacher.

`programs` says what can be referred to, `phrases` how it is said; here the two are drawn in proportion, together with
sentences that have no target. Those are worded like the others, so that the words alone never give the decision away.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from mllmseg.data import phrases, programs, words
from mllmseg.data import scene as geometry
from mllmseg.data.datasets.coco_mini import Photo
from mllmseg.data.programs import PROGRAMS, Reference
from mllmseg.data.scene import Scene

# How often each program is drawn where it applies; "unique" applies nearly everywhere, so its share grows by itself.
PROGRAM_WEIGHTS: Mapping[str, float] = {
    "unique": 20,
    "all": 14,
    "side_of_two": 16,
    "extreme": 14,
    "size": 9,
    "middle": 4,
    "ordinal": 5,
    "half": 3,
    "relation": 6,
    "nearest": 4,
    "group": 3,
    "exclusion": 3,
}
IMPOSSIBLE_SHARE = 0.15  # of the negatives: the category is there, the place or relation is not
PLAUSIBLE_SHARE = 0.5  # of the absent categories drawn are often seen with a present one
FREQUENT_SHARE = 0.3  # are drawn as often as the category is a target elsewhere; the rest uniformly

# The same forms as the positives', so that "all the …" or "… on the left" does not mean that there is one.
_ABSENT_FORMS: tuple[tuple[tuple[str, ...], str, float], ...] = (
    (programs.UNIQUE, "{c}", 50),
    (programs.ALL, "{cs}", 12),
    (programs.SIDE["left"], "{c}", 6),
    (programs.SIDE["right"], "{c}", 6),
    (programs.EXTREME["left"], "{c}", 3),
    (programs.EXTREME["right"], "{c}", 3),
    (programs.EXTREME["top"], "{c}", 3),
    (programs.EXTREME["bottom"], "{c}", 3),
    (programs.LARGEST, "{c}", 3),
    (programs.LARGER, "{c}", 3),
    (programs.HALF["left"], "{c}", 1),
    (programs.HALF["right"], "{c}", 1),
)
_RELATION_SHARE = 0.08  # of the absent ones are asked for, or used as a landmark, beside something present


@dataclass(frozen=True)
class Query:
    """One training sentence.

    Attributes:
        text: the question.
        answer: starts with [SEG] or [REJ].
        instance_ids: the instances meant, whose union is the mask; empty where there is no target.
        program: which program made it; `no_target` (category absent) or `impossible` (place or relation absent).
    """

    text: str
    answer: str
    instance_ids: tuple[int, ...]
    program: str


def sentences(
    photo: Photo,
    categories: Mapping[str, bool],
    rng: random.Random,
    *,
    negatives: int,
    positives: int,
    allowed: Collection[int] | None = None,
    weights: Mapping[str, float] = PROGRAM_WEIGHTS,
    frequency: Mapping[str, float] | None = None,
) -> list[Query]:
    """Draws up to `positives` sentences with a target and up to `negatives` without, all of different wording.

    Args:
        photo: the labels.
        categories: name → whether it is a thing.
        rng: the only source of chance: the same state gives the same sentences.
        negatives: at most so many without a target; fewer where the photo's scope proves little.
        positives: at most so many with one; fewer where the labels allow less.
        allowed: instance ids that may be targets of their own (those with a mask, say); None allows all. "All the …"
            and the like then need every instance to be allowed.
        weights: program → how often; programs without an entry are not used.
        frequency: category → how often it is a target in the data (`target_frequency`), to draw absent ones alike.

    Returns:
        Positives first.
    """
    scene = Scene(photo, categories, allowed)
    seen: set[str] = set()
    found = _draw(_positives(scene, rng, weights, allowed), positives, rng, seen)
    missing = _draw(_negatives(scene, rng, frequency), negatives, rng, seen)
    return found + missing


def target_frequency(photos: Iterable[Photo]) -> dict[str, float]:
    """Category → the number of photos that show it, for `sentences(frequency=...)`."""
    counts: Counter[str] = Counter()
    for photo in photos:
        counts.update({item.category for item in photo.instances})
    return {category: float(count) for category, count in sorted(counts.items())}


def _draw(references: Iterator[Reference], count: int, rng: random.Random, seen: set[str]) -> list[Query]:
    queries: list[Query] = []
    if count <= 0:
        return queries
    for reference in references:
        wording = phrases.word(reference, rng)
        key = wording.text.lower()
        if key not in seen:
            seen.add(key)
            queries.append(Query(wording.text, wording.answer, reference.ids, reference.program))
        if len(queries) == count:
            break
    return queries


def _positives(
    scene: Scene, rng: random.Random, weights: Mapping[str, float], allowed: Collection[int] | None
) -> Iterator[Reference]:
    """Everything the programs can say, in random order: first the program by weight, then one of its references."""
    pools: dict[str, list[Reference]] = {}
    for name in weights:
        pool = [r for r in PROGRAMS.get(name)(scene) if allowed is None or all(i in allowed for i in r.ids)]
        if pool and weights[name] > 0:
            rng.shuffle(pool)
            pools[name] = pool
    while pools:
        names = list(pools)
        name = rng.choices(names, [weights[n] for n in names])[0]
        yield pools[name].pop()
        if not pools[name]:
            del pools[name]


def _negatives(scene: Scene, rng: random.Random, frequency: Mapping[str, float] | None) -> Iterator[Reference]:
    impossible = [pool for kind in (_other_half, _next_ordinal, _other_side) if (pool := list(kind(scene)))]
    absent = list(scene.absent)
    while absent or impossible:
        if impossible and (not absent or rng.random() < IMPOSSIBLE_SHARE):
            pool = rng.choice(impossible)
            yield pool.pop(rng.randrange(len(pool)))
            impossible = [pool for pool in impossible if pool]
        else:
            category = _pick_absent(scene, absent, rng, frequency)
            absent.remove(category)
            yield _absent_reference(scene, category, rng)


def _pick_absent(scene: Scene, absent: list[str], rng: random.Random, frequency: Mapping[str, float] | None) -> str:
    dice = rng.random()
    if dice < PLAUSIBLE_SHARE:
        plausible = [c for c in absent if any(words.share_scene(c, other) for other in scene.present)]
        return rng.choice(plausible or absent)
    if frequency and dice < PLAUSIBLE_SHARE + FREQUENT_SHARE:
        return rng.choices(absent, [frequency.get(c, 0.0) + 1.0 for c in absent])[0]
    return rng.choice(absent)


def _absent_reference(scene: Scene, category: str, rng: random.Random) -> Reference:
    marks = [c for c, things in scene.countable().items() if len(things) == 1 and not words.confusable(c, category)]
    if marks and rng.random() < _RELATION_SHARE:
        mark = rng.choice(marks)
        templates = rng.choice([*programs.BEYOND.values(), programs.BESIDE, programs.NEAREST])
        if rng.random() < 0.5:
            return Reference("no_target", (), (category, mark), templates, missing="{c}")
        return Reference("no_target", (), (mark, category), templates, missing="{d}")
    templates, missing, _ = rng.choices(_ABSENT_FORMS, [form[2] for form in _ABSENT_FORMS])[0]
    if words.is_mass(words.name(category)) or "-" in category:
        templates, missing = programs.UNIQUE, "{c}"  # stuff is not counted: no "leftmost sky"
    return Reference("no_target", (), (category,), templates, plural=missing == "{cs}", missing=missing)


def _other_half(scene: Scene) -> Iterator[Reference]:
    """Everything of a category lies in one half: asked for in the other."""
    for category, things in scene.countable().items():
        for side, other in (("left", "right"), ("right", "left")):
            if len(things) <= 4 and all(geometry.in_half(thing, other) for thing in things):
                yield Reference("impossible", (), (category,), programs.HALF[side], missing=f"{{c}} on the {side}")


def _next_ordinal(scene: Scene) -> Iterator[Reference]:
    """One more than there are: the third of two dogs."""
    for category, things in scene.countable().items():
        if len(things) <= 3 and all(thing.area >= geometry.MIN_AREA for thing in things):
            for side in ("left", "right"):
                phrase = f"{programs.ORDINALS[len(things)]} {{c}} from the {side}"
                yield Reference("impossible", (), (category,), (f"the {phrase}",), missing=phrase)


def _other_side(scene: Scene) -> Iterator[Reference]:
    """Everything of a category is on one side of a landmark: asked for on the opposite one."""
    opposites = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    for category, things, landmark, mark in programs.landmarks(scene):
        for direction, opposite in opposites.items():
            if all(geometry.is_beyond(thing, mark, opposite) for thing in things):
                templates = programs.BEYOND[direction]
                missing = templates[0].removeprefix("the ")
                yield Reference("impossible", (), (category, landmark), templates, missing=missing)
