"""Sentences about labelled photos, with targets that follow from the labels: training's first teacher.

`programs` and `compound` say what can be referred to, `negatives` what is asked for in vain, `phrases` how it is said;
here they are drawn in proportion. Sentences without a target are worded like the others, so that the words alone never
give the decision away.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from mllmseg.data import colours, compound, garments, phrases  # compound and garments register programs
from mllmseg.data.datasets.coco_mini import Photo
from mllmseg.data.looks import Look
from mllmseg.data.negatives import NEGATIVES, absent
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
    "colour": 10,
    "clothing": 7,
    "brightness": 2,
    "on": 5,
    "bearing": 3,
    "inside": 3,
    "between": 3,
    "with": 5,
    "not": 6,
    "neither": 3,
    "except": 3,
    "count": 5,
    "action": 5,
    "described": 4,
    "garment": 14,
    "wearer": 14,
    "compound": 9,
    "nested": 3,
    "long": 9,
}
# The same for sentences without a target; `no_target`: nothing of the category is there.
NEGATIVE_WEIGHTS: Mapping[str, float] = {
    "no_target": 62,
    "impossible": 10,
    "wrong_attribute": 9,
    "wrong_relation": 5,
    "swapped": 4,
    "wrong_count": 5,
    "wrong_pair": 5,
    "wrong_garment": 20,
}
ABSENT_ONLY: Mapping[str, float] = {"no_target": 1}
# Programs by what must be understood to follow them: how results are broken down.
KINDS: Mapping[str, tuple[str, ...]] = {
    "category": ("unique", "all", "described"),
    "position": ("side_of_two", "extreme", "middle", "ordinal", "half"),
    "attribute": ("size", "colour", "clothing", "brightness"),
    "relation": ("relation", "nearest", *compound.RELATIONS),
    "exclusion": ("exclusion", "not", "neither", "except"),
    "count": ("count", "group"),
    "action": ("action",),
    "compound": ("compound", "nested"),
    "long": ("long",),
    "garment": garments.KIND,
    "absent": ("no_target",),
    "wrong place": ("impossible",),
    "wrong attribute": ("wrong_attribute",),
    "wrong relation": ("wrong_relation", "swapped"),
    "wrong count": ("wrong_count",),
    "wrong pair": ("wrong_pair",),
    "wrong garment": ("wrong_garment",),
}
_COLOUR_WORDS = tuple(f" {word}" for word in (*colours.NAMES, "dark", "light", "bright"))
KIND_OF = {program: kind for kind, members in KINDS.items() for program in members}


@dataclass(frozen=True)
class Query:
    """One training sentence.

    Attributes:
        text: the question.
        answer: starts with [SEG] or [REJ].
        instance_ids: the instances meant, whose union is the mask; empty where there is no target.
        program: which program or, without a target, which kind of negative made it (`KINDS` has all of them).
        arguments: what it was made of: categories first, then `red`, `left of dog`, `not on chair`.
    """

    text: str
    answer: str
    instance_ids: tuple[int, ...]
    program: str
    arguments: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What must be understood to answer: `attribute`, `relation`, `wrong count`."""
        return KIND_OF[self.program]

    @property
    def names_colour(self) -> bool:
        """Whether its truth hangs on a colour, so that the photo's colours must stay as they are."""
        return any(word in f" {self.text.lower()} " for word in _COLOUR_WORDS)


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
    looks: Mapping[int, Look] | None = None,
    negative_weights: Mapping[str, float] = NEGATIVE_WEIGHTS,
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
        looks: what was measured of the photo's pixels (`looks.measure`); without it nothing is said about colours, nor
            about what lies on what.
        negative_weights: kind of negative → how often; kinds without an entry are not used.

    Returns:
        Positives first.
    """
    scene = Scene(photo, categories, allowed, looks)
    seen: set[str] = set()
    found = _draw(_positives(scene, rng, weights, allowed), positives, rng, seen)
    missing = _draw(_negatives(scene, rng, frequency, negative_weights), negatives, rng, seen)
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
            arguments = (*reference.categories, *reference.arguments)
            queries.append(Query(wording.text, wording.answer, reference.ids, reference.program, arguments))
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
    yield from _drawn(pools, weights, rng)


def _negatives(
    scene: Scene, rng: random.Random, frequency: Mapping[str, float] | None, weights: Mapping[str, float]
) -> Iterator[Reference]:
    """What is not there, in random order: first the kind by weight, then one of it."""
    pools: dict[str, list[Reference]] = {}
    for name in weights:
        pool = list(absent(scene, rng, frequency) if name == "no_target" else NEGATIVES.get(name)(scene))
        if pool and weights[name] > 0:
            if name != "no_target":
                rng.shuffle(pool)
            pools[name] = pool[::-1]
    yield from _drawn(pools, weights, rng)


def _drawn(pools: dict[str, list[Reference]], weights: Mapping[str, float], rng: random.Random) -> Iterator[Reference]:
    """Empties the pools from their ends, one chosen by weight each time."""
    while pools:
        names = list(pools)
        name = rng.choices(names, [weights[n] for n in names])[0]
        yield pools[name].pop()
        if not pools[name]:
            del pools[name]
