"""Ways to refer to things in a scene: each program lists every reference it can make with certainty.

A new kind of sentence is one function here, registered under its name. Templates are filled by `phrases`: `{c}`, `{cs}`
and `{ac}` are the first category's noun, plural and noun with article; `{d}`, `{ds}` and `{ad}` the second's; `{who}`
is "who" for people and "that" for things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, permutations

from mllmseg.data import scene as geometry
from mllmseg.data import words
from mllmseg.data.affordances import SURFACES
from mllmseg.data.clauses import Clause
from mllmseg.data.scene import Scene, Thing
from mllmseg.registry import Registry


@dataclass(frozen=True)
class Reference:
    """Some instances (or none) and the ways to mean them.

    Attributes:
        program: which program made it.
        ids: the instances meant; empty where the scene has no such thing.
        categories: what `{c}` and `{d}` stand for.
        templates: phrases with their article, the most usual one first.
        plural: several things are meant.
        missing: what to say is not there, without an article; only where `ids` is empty.
        arguments: what the program was given besides the categories: `red`, `left of dog`.
        said: clauses that hold for what is meant; with these or `denied`, there are no templates (`clause_forms`).
        denied: clauses that do not.
        count: the number to say, or 0 to say none.
        excepted: say "all but those that `denied` holds for".
        denials: whole answers where nothing fits, in place of the usual ones.
    """

    program: str
    ids: tuple[int, ...]
    categories: tuple[str, ...]
    templates: tuple[str, ...]
    plural: bool = False
    missing: str = ""
    arguments: tuple[str, ...] = ()
    said: tuple[Clause, ...] = ()
    denied: tuple[Clause, ...] = ()
    count: int = 0
    excepted: bool = False
    denials: tuple[str, ...] = ()


Program = Callable[[Scene], Iterator[Reference]]
PROGRAMS: Registry[Program] = Registry("sentence program")

SIDE = {
    "left": ("the {c} on the left", "the left {c}", "the {c} to the left", "the left-hand {c}"),
    "right": ("the {c} on the right", "the right {c}", "the {c} to the right", "the right-hand {c}"),
    "top": ("the upper {c}", "the {c} at the top", "the top {c}"),
    "bottom": ("the lower {c}", "the {c} at the bottom", "the bottom {c}"),
}
EXTREME = {
    "left": ("the leftmost {c}", "the {c} furthest to the left", "the {c} on the far left"),
    "right": ("the rightmost {c}", "the {c} furthest to the right", "the {c} on the far right"),
    "top": ("the topmost {c}", "the uppermost {c}", "the highest {c}", "the top {c}"),
    "bottom": ("the lowest {c}", "the bottom {c}", "the bottommost {c}", "the {c} lowest in the picture"),
}
BEYOND = {
    "left": ("the {c} to the left of the {d}", "the {c} left of the {d}", "the {c} on the left of the {d}"),
    "right": ("the {c} to the right of the {d}", "the {c} right of the {d}", "the {c} on the right of the {d}"),
    "top": ("the {c} above the {d}", "the {c} higher up than the {d}"),
    "bottom": ("the {c} below the {d}", "the {c} lower down than the {d}"),
}
BESIDE = ("the {c} next to the {d}", "the {c} beside the {d}", "the {c} by the {d}", "the {c} near the {d}")
NEAREST = ("the {c} closest to the {d}", "the {c} nearest to the {d}", "the {c} nearest the {d}")
HALF = {
    "left": ("the {c} on the left side of the picture", "the {c} in the left half of the image"),
    "right": ("the {c} on the right side of the picture", "the {c} in the right half of the image"),
}
LARGER = ("the bigger {c}", "the larger {c}", "the big {c}")
LARGEST = ("the largest {c}", "the biggest {c}", "the biggest of the {cs}")
SMALLER = ("the smaller {c}", "the little {c}", "the small {c}")
SMALLEST = ("the smallest {c}", "the littlest {c}", "the smallest of the {cs}")
ORDINALS = words.ORDINALS[:6]
ALL = ("all the {cs}", "the {cs}", "every {c}", "all {cs}", "each {c}")
UNIQUE = ("the {c}", "{ac}")
COLOURED = tuple(f"the {colour} {{c}}" for colour in ("red", "black", "white", "blue", "green", "yellow", "brown"))
BOTH = ("both {cs}", "the two {cs}")


@PROGRAMS.register("unique")
def unique(scene: Scene) -> Iterator[Reference]:
    """The only one of its category."""
    for category, thing in scene.unique().items():
        if thing.can_be_target:
            yield Reference("unique", (thing.id,), (category,), UNIQUE)


@PROGRAMS.register("all")
def all_of(scene: Scene) -> Iterator[Reference]:
    """Every instance of a category, small ones too."""
    for category, things in _groups(scene, 2, 12):
        if any(thing.can_be_target for thing in things):
            yield Reference("all", tuple(thing.id for thing in things), (category,), ALL, plural=True)


@PROGRAMS.register("side_of_two")
def side_of_two(scene: Scene) -> Iterator[Reference]:
    """One of two, by which side it is on."""
    for category, things in _groups(scene, 2, 2):
        for direction, templates in SIDE.items():
            yield from _one("side_of_two", geometry.extreme(things, direction), (category,), templates)


@PROGRAMS.register("extreme")
def extreme(scene: Scene) -> Iterator[Reference]:
    """The outermost one in a direction."""
    for category, things in _groups(scene, 2, 8):
        for direction, templates in EXTREME.items():
            yield from _one("extreme", geometry.extreme(things, direction), (category,), templates)


@PROGRAMS.register("middle")
def middle(scene: Scene) -> Iterator[Reference]:
    """The middle one of an odd number in a row."""
    for category, things in _groups(scene, 3, 5):
        row = geometry.ranked(things)
        if row and len(row) % 2:
            templates: tuple[str, ...] = ("the {c} in the middle", "the middle {c}", "the {c} in the centre")
            if len(row) == 3:
                templates += ("the {c} between the other two",)
            yield from _one("middle", row[len(row) // 2], (category,), templates)


@PROGRAMS.register("ordinal")
def ordinal(scene: Scene) -> Iterator[Reference]:
    """The n-th from one side."""
    for category, things in _groups(scene, 2, 6):
        row = geometry.ranked(things) or []
        for index in range(len(row)):
            for side, place in (("left", index), ("right", len(row) - 1 - index)):
                number = ORDINALS[place]
                templates = (f"the {number} {{c}} from the {side}", f"{{c}} number {place + 1} from the {side}")
                yield from _one("ordinal", row[index], (category,), templates)


@PROGRAMS.register("size")
def size(scene: Scene) -> Iterator[Reference]:
    """The largest or smallest one."""
    for category, things in _groups(scene, 2, 8):
        two = len(things) == 2
        for largest, templates in ((True, LARGER if two else LARGEST), (False, SMALLER if two else SMALLEST)):
            yield from _one("size", geometry.by_size(things, largest=largest), (category,), templates)


@PROGRAMS.register("half")
def half(scene: Scene) -> Iterator[Reference]:
    """The only one in one half of the picture, where no other reaches into that half."""
    for category, things in _groups(scene, 1, 4):
        for side, other in (("left", "right"), ("right", "left")):
            inside = [thing for thing in things if geometry.in_half(thing, side)]
            if len(inside) == 1 and all(geometry.in_half(thing, other) for thing in things if thing not in inside):
                yield from _one("half", inside[0], (category,), HALF[side])


@PROGRAMS.register("relation")
def relation(scene: Scene) -> Iterator[Reference]:
    """The one that stands in a relation to the only one of another category, where no other could."""
    for category, things, landmark, mark in landmarks(scene):
        for direction, templates in BEYOND.items():
            if direction in ("top", "bottom") and landmark in SURFACES:
                continue
            hits = [thing for thing in things if geometry.is_beyond(thing, mark, direction)]
            if len(hits) == 1 and not any(
                geometry.may_be_beyond(thing, mark, direction) for thing in things if thing is not hits[0]
            ):
                yield from _one("relation", hits[0], (category, landmark), templates)
        hits = [thing for thing in things if geometry.is_beside(thing, mark)]
        if len(hits) == 1 and all(geometry.gap(thing, mark) >= 0.2 for thing in things if thing is not hits[0]):
            yield from _one("relation", hits[0], (category, landmark), BESIDE)


@PROGRAMS.register("nearest")
def nearest(scene: Scene) -> Iterator[Reference]:
    """The one of several that is closest to the only one of another category."""
    for category, things, landmark, mark in landmarks(scene):
        if len(things) > 1:
            first, second, *_ = sorted(things, key=lambda thing: geometry.gap(thing, mark))
            if geometry.gap(first, mark) + 0.1 <= geometry.gap(second, mark):
                yield from _one("nearest", first, (category, landmark), NEAREST)


@PROGRAMS.register("group")
def group(scene: Scene) -> Iterator[Reference]:
    """Two things of different categories together, or all of two categories."""
    named = scene.unique().items()
    singles = [(c, thing) for c, thing in named if thing.can_be_target and c in scene.groups and scene.is_thing(c)]
    for (c, first), (d, second) in combinations(singles, 2):
        if not words.confusable(c, d):
            templates = ("the {c} and the {d}", "both the {c} and the {d}", "the {c} together with the {d}")
            yield Reference("group", (first.id, second.id), (c, d), templates, plural=True)
    for (c, some), (d, others) in combinations(_groups(scene, 2, 6), 2):
        if not words.confusable(c, d) and all(thing.can_be_target for thing in (*some, *others)):
            ids = tuple(thing.id for thing in (*some, *others))
            yield Reference("group", ids, (c, d), ("the {cs} and the {ds}", "all the {cs} and {ds}"), plural=True)


@PROGRAMS.register("exclusion")
def exclusion(scene: Scene) -> Iterator[Reference]:
    """What is left when one is taken away: "the dog that is not on the left"."""
    for category, things in _groups(scene, 2, 6):
        for side in ("left", "right"):
            out = geometry.extreme(things, side)
            rest = [thing for thing in things if thing is not out]
            if out is None or not all(thing.can_be_target for thing in rest):
                continue
            if len(things) == 2:
                templates: tuple[str, ...] = (f"the {{c}} {{who}} is not on the {side}", f"the {{c}} not on the {side}")
            else:
                templates = (f"all the {{cs}} except the {side}most one", f"the {{cs}} other than the {side}most one")
                if category == "person":
                    templates += (f"everyone except the {side}most person", f"everybody but the {side}most person")
            ids = tuple(thing.id for thing in rest)
            yield Reference("exclusion", ids, (category,), templates, plural=len(rest) > 1)


def _groups(scene: Scene, at_least: int, at_most: int) -> Iterator[tuple[str, tuple[Thing, ...]]]:
    for category, things in scene.countable().items():
        if at_least <= len(things) <= at_most:
            yield category, things


def landmarks(scene: Scene) -> Iterator[tuple[str, tuple[Thing, ...], str, Thing]]:
    """(category, its instances, another category, its only and visible instance)."""
    groups = scene.countable()
    for category, landmark in permutations(groups, 2):
        (mark, *others), things = groups[landmark], groups[category]
        large = mark.area >= geometry.MIN_AREA
        if not others and large and len(things) <= 5 and not words.confusable(category, landmark):
            yield category, things, landmark, mark


def _one(
    program: str, thing: Thing | None, categories: tuple[str, ...], templates: tuple[str, ...]
) -> Iterator[Reference]:
    if thing is not None and thing.can_be_target:
        yield Reference(program, (thing.id,), categories, templates)
