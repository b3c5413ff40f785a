"""References to what is not there, from the easiest to the hardest: nothing of the category, the wrong place,
attribute, relation or number, subject and object exchanged, two things that hold, but not of one thing.

Each is provable: the photo's scope says which categories were looked for, and a clause denies only what it surely
does not hold for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

from mllmseg.data import captions, clause_forms, programs, words
from mllmseg.data import scene as geometry
from mllmseg.data.compound import ATTRIBUTES, RELATIONS, statements
from mllmseg.data.programs import Reference
from mllmseg.data.scene import Scene
from mllmseg.registry import Registry

PLAUSIBLE_SHARE = 0.5  # of the absent categories drawn are often seen with a present one
FREQUENT_SHARE = 0.3  # are drawn as often as the category is a target elsewhere; the rest uniformly
_RELATION_SHARE = 0.08  # of the absent ones are asked for, or used as a landmark, beside something present
_MAX_COUNTED = 4  # more things are not counted for certain

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
    (programs.COLOURED, "{c}", 5),
    (programs.BOTH, "{cs}", 3),
)

NEGATIVES: Registry[Callable[[Scene], Iterator[Reference]]] = Registry("kind of negative")


def absent(scene: Scene, rng: random.Random, frequency: Mapping[str, float] | None) -> Iterator[Reference]:
    """Categories that are not there, each once, in random order."""
    left = list(scene.absent)
    while left:
        category = _pick_absent(scene, left, rng, frequency)
        left.remove(category)
        yield _absent_reference(scene, category, rng)


@NEGATIVES.register("impossible")
def impossible(scene: Scene) -> Iterator[Reference]:
    """The wrong place: the other half, one further than there are, the other side of a landmark."""
    yield from _other_half(scene)
    yield from _next_ordinal(scene)
    yield from _other_side(scene)


@NEGATIVES.register("wrong_attribute")
def wrong_attribute(scene: Scene) -> Iterator[Reference]:
    """Surely none of them is of that colour; nor is the only person somebody else."""
    for category, things, clauses in statements(scene):
        for clause in clauses:
            if clause.kind in ATTRIBUTES and not clause.vague and clause.no.issuperset(thing.id for thing in things):
                yield Reference("wrong_attribute", (), (category,), (), said=(clause,), arguments=(clause.argument,))
    name = captions.described(scene)
    for other in {"man": ("woman", "girl"), "woman": ("man", "boy")}.get(name or "", ()):
        yield Reference("wrong_attribute", (), (other,), programs.UNIQUE, missing="{c}", arguments=(f"not {name}",))


@NEGATIVES.register("wrong_relation")
def wrong_relation(scene: Scene) -> Iterator[Reference]:
    """Surely none of them stands in that relation."""
    for category, things, clauses in statements(scene):
        for clause in clauses:
            sure = clause.kind in (*RELATIONS, "beside") and not clause.vague
            if sure and clause.no.issuperset(thing.id for thing in things):
                yield Reference("wrong_relation", (), (category,), (), said=(clause,), arguments=(clause.argument,))


@NEGATIVES.register("swapped")
def swapped(scene: Scene) -> Iterator[Reference]:
    """Subject and object exchanged: the cup is left of the plate, so the plate is not left of the cup."""
    tables = {category: (things, clauses) for category, things, clauses in statements(scene)}
    for category, (things, clauses) in tables.items():
        for clause in clauses:
            known = tables.get(clause.landmark)
            if clause.kind not in ("beyond", "on") or len(things) != 1 or known is None or not clause.yes:
                continue
            relation = clause.argument.split(" ", 1)[0]
            if clause.kind == "on" and len(known[0]) == 1:
                templates = ("the {c} on the {d}", "the {c} {who} is on the {d}", "the {c} on top of the {d}")
                yield Reference(
                    "swapped", (), (clause.landmark, category), templates, missing="{c} on the {d}", arguments=("on",)
                )
            for back in known[1]:
                if back.argument == f"{relation} of {category}" and back.no.issuperset(t.id for t in known[0]):
                    yield Reference("swapped", (), (clause.landmark,), (), said=(back,), arguments=(back.argument,))


@NEGATIVES.register("wrong_count")
def wrong_count(scene: Scene) -> Iterator[Reference]:
    """More than there are."""
    for category, things in scene.countable().items():
        if len(things) > _MAX_COUNTED or any(thing.area < geometry.MIN_AREA for thing in things):
            continue
        if words.is_plural(words.name(category)) or words.is_mass(words.name(category)):
            continue
        for more in (1, 2):
            count = clause_forms.number(len(things) + more)
            noun = words.name(category) if len(things) == 1 else words.plural(words.name(category))
            there = f"There {'is' if len(things) == 1 else 'are'} only {clause_forms.number(len(things))} {noun}"
            both = ("both {cs}",) if len(things) + more == 2 else (f"all {count} {{cs}}",)
            yield Reference(
                "wrong_count", (), (category,), (f"the {count} {{cs}}", *both), plural=True, arguments=(count,),
                denials=(f"{there} in this picture.", f"{there} here, not {count}."),
            )  # fmt: skip


@NEGATIVES.register("wrong_pair")
def wrong_pair(scene: Scene) -> Iterator[Reference]:
    """Two clauses that hold, but never of the same thing: the red one is not the one on the left."""
    for category, things, clauses in statements(scene):
        usable = [c for c in clauses if c.yes and not c.relative and not c.vague]
        for pair in combinations(usable, 2):
            kinds = {c.kind for c in pair}
            never = all(any(thing.id in c.no for c in pair) for thing in things)
            if never and len(kinds) == 2 and kinds & {"colour", "clothing", "with"}:
                arguments = tuple(c.argument for c in pair)
                yield Reference("wrong_pair", (), (category,), (), said=pair, arguments=arguments)


def _pick_absent(scene: Scene, left: list[str], rng: random.Random, frequency: Mapping[str, float] | None) -> str:
    dice = rng.random()
    if dice < PLAUSIBLE_SHARE:
        plausible = [c for c in left if any(words.share_scene(c, other) for other in scene.present)]
        return rng.choice(plausible or left)
    if frequency and dice < PLAUSIBLE_SHARE + FREQUENT_SHARE:
        return rng.choices(left, [frequency.get(c, 0.0) + 1.0 for c in left])[0]
    return rng.choice(left)


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
