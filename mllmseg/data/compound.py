"""Programs made of clauses: attributes, relations, exclusions, counts, and several of these in one sentence.

Of every clause it is known for which things it holds, for which not, and for which that is open (`clauses`). A
reference is made only where each thing of the category either is meant for certain or is ruled out for certain.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import combinations

from mllmseg.data import captions, clause_forms, programs
from mllmseg.data import scene as geometry
from mllmseg.data.clauses import Clause, all_clauses
from mllmseg.data.programs import PROGRAMS, Reference
from mllmseg.data.scene import Scene, Thing

ATTRIBUTES = ("colour", "clothing", "brightness")
RELATIONS = ("on", "bearing", "inside", "between", "with")
_MAX_THINGS = 8
_MAX_COUNTED = 6
_MAX_CLAUSES = 12  # joined about one thing, so that crowded scenes cost no more than others
# Not said of one thing together: the second would be empty, or say the first again.
_OVERLAP = (
    {"place", "extreme"}, {"place", "beyond"}, {"beside", "beyond"}, {"colour", "brightness"}, {"on", "beside"},
    {"on", "inside"},
)  # fmt: skip


@functools.lru_cache(maxsize=4)
def statements(scene: Scene) -> tuple[tuple[str, tuple[Thing, ...], tuple[Clause, ...]], ...]:
    """(category, its things, what may be said of them) for every category of not too many things."""
    return tuple(
        (category, things, tuple(all_clauses(scene, category, things)))
        for category, things in scene.countable().items()
        if len(things) <= _MAX_THINGS
    )


def meant(
    things: tuple[Thing, ...], said: tuple[Clause, ...], denied: tuple[Clause, ...] = ()
) -> tuple[Thing, ...] | None:
    """Whom these clauses mean: each thing surely is, or surely is not; None where one is open, or too small."""
    members = []
    for thing in things:
        if all(thing.id in c.yes for c in said) and all(thing.id in c.no for c in denied):
            members.append(thing)
        elif not any(thing.id in c.no for c in said) and not any(thing.id in c.yes for c in denied):
            return None
    return tuple(members) if all(thing.can_be_target for thing in members) else None


def _single(kind: str) -> None:
    """Registers a program that says one clause of this kind."""

    @PROGRAMS.register(kind)
    def program(scene: Scene) -> Iterator[Reference]:
        for category, things, clauses in statements(scene):
            for clause in clauses:
                if clause.kind == kind and (found := meant(things, (clause,))):
                    yield _reference(kind, category, found, (clause,))


for _kind in (*ATTRIBUTES, *RELATIONS):
    _single(_kind)


@PROGRAMS.register("not")
def not_(scene: Scene) -> Iterator[Reference]:
    """One thing that is so is left out: "the car that is not red", "the person without an umbrella"."""
    for category, things, clauses in statements(scene):
        for clause in clauses:
            if clause.yes and _deniable(clause) and (found := meant(things, (), (clause,))):
                yield _reference("not", category, found, (), (clause,))


@PROGRAMS.register("neither")
def neither(scene: Scene) -> Iterator[Reference]:
    """Two that are otherwise are left out."""
    for category, things, clauses in statements(scene):
        usable = [c for c in clauses if c.yes and c.no and _deniable(c)][:_MAX_CLAUSES]
        for pair in combinations(usable, 2):
            if _joinable(pair) and (found := meant(things, (), pair)):
                yield _reference("neither", category, found, (), pair)


@PROGRAMS.register("except")
def except_(scene: Scene) -> Iterator[Reference]:
    """All but those that a clause holds for."""
    for category, things, clauses in statements(scene):
        for clause in clauses:
            if (
                len(things) > 2
                and clause.yes
                and not clause.vague
                and (found := meant(things, (), (clause,)))
                and len(found) > 1
            ):
                yield _reference("except", category, found, (), (clause,), excepted=True)


@PROGRAMS.register("compound")
def compound(scene: Scene) -> Iterator[Reference]:
    """Two clauses, of which neither says it alone where there are several."""
    yield from _joined(scene, "compound", 2)


@PROGRAMS.register("long")
def long(scene: Scene) -> Iterator[Reference]:
    """Three clauses or four."""
    yield from _joined(scene, "long", 3)
    yield from _joined(scene, "long", 4)


@PROGRAMS.register("nested")
def nested(scene: Scene) -> Iterator[Reference]:
    """The outermost of those that have an attribute: "the leftmost red car"."""
    for category, things, clauses in statements(scene):
        for clause in clauses:
            some = meant(things, (clause,)) if clause.kind in ATTRIBUTES else None
            if some is None or len(some) < 2:
                continue
            for direction in ("left", "right"):
                first = geometry.extreme(some, direction)
                if first is not None and first.can_be_target:
                    yield Reference(
                        "nested",
                        (first.id,),
                        (category,),
                        _outermost(clause, direction),
                        arguments=(clause.argument, direction),
                    )


@PROGRAMS.register("count")
def count(scene: Scene) -> Iterator[Reference]:
    """Several by their number: "both dogs", "the three red cars"."""
    for category, things, clauses in statements(scene):
        if 2 <= len(things) <= _MAX_COUNTED and all(thing.can_be_target for thing in things):
            number = clause_forms.number(len(things))
            whole = ("both {cs}", "both of the {cs}") if len(things) == 2 else (f"all {number} {{cs}}",)
            ids = tuple(thing.id for thing in things)
            templates = (f"the {number} {{cs}}", *whole)
            yield Reference("count", ids, (category,), templates, plural=True, arguments=(number,))
        for clause in clauses:
            found = meant(things, (clause,)) if not clause.relative and clause.kind != "brightness" else None
            if found and 2 <= len(found) <= _MAX_COUNTED:
                yield _reference("count", category, found, (clause,), count=len(found))


@PROGRAMS.register("action")
def action(scene: Scene) -> Iterator[Reference]:
    """Who does what, and what it is done with, as captions tell."""
    singles = {c: things[0] for c, things in scene.countable().items() if len(things) == 1}
    person = captions.described(scene) or "person"
    for subject, act, thing in captions.actions(scene):
        who = person if subject == "person" else subject
        templates = (f"the {{c}} {act} the {{d}}", f"the {{c}} {{who}} is {act} the {{d}}", f"the {{c}} {act} {{ad}}")
        yield Reference("action", (singles[subject].id,), (who, thing), templates, arguments=(act,))
        passive = (f"the {{c}} that the {{d}} is {act}", f"the {{c}} the {{d}} is {act}")
        yield Reference("action", (singles[thing].id,), (thing, who), passive, arguments=(act,))


@PROGRAMS.register("described")
def described(scene: Scene) -> Iterator[Reference]:
    """The only person, as captions call them."""
    name = captions.described(scene)
    if name and (thing := scene.groups["person"][0]).can_be_target:
        yield Reference("described", (thing.id,), (name,), programs.UNIQUE)


def _joined(scene: Scene, program: str, size: int) -> Iterator[Reference]:
    """`size` clauses about one thing, said where they hold and denied where they do not."""
    for category, things, clauses in statements(scene):
        usable = _spread([c for c in clauses if not c.relative])
        for thing in things:
            if not thing.can_be_target:
                continue
            known = [c for c in usable if thing.id in c.yes or (thing.id in c.no and c.yes and _deniable(c))][
                :_MAX_CLAUSES
            ]
            for chosen in combinations(known, size):
                said = tuple(c for c in chosen if thing.id in c.yes)
                denied = tuple(c for c in chosen if thing.id in c.no)
                if not said or len(denied) > 2 or not _joinable(chosen) or meant(things, said, denied) != (thing,):
                    continue
                if size == 2 and len(things) > 1 and any(_alone(things, c, thing) for c in chosen):
                    continue
                yield _reference(program, category, (thing,), said, denied)


def _deniable(clause: Clause) -> bool:
    return not clause.relative and not clause.vague


def _alone(things: tuple[Thing, ...], clause: Clause, thing: Thing) -> bool:
    said = thing.id in clause.yes
    return meant(things, (clause,) if said else (), () if said else (clause,)) == (thing,)


def _joinable(clauses: tuple[Clause, ...]) -> bool:
    kinds, marks = [c.kind for c in clauses], [c.landmark for c in clauses if c.landmark]
    beyond = [c for c in clauses if c.kind == "beyond"]
    several = [kind for kind in kinds if kind != "beyond" and kind != "with"]  # those may come twice
    return (
        len(set(several)) == len(several)
        and len(set(marks)) == len(marks)
        and not any(pair <= set(kinds) for pair in _OVERLAP)
        and sum(bool(c.adjectives) and not c.posts for c in clauses) < 2
        and len({c.argument for c in clauses}) == len(clauses)
        and len({c.argument.split()[0] for c in beyond}) == len(beyond) < 3  # not "left of … and left of …"
    )


def _spread(clauses: list[Clause]) -> list[Clause]:
    """One of each kind first, so that no kind crowds out the others."""
    seen: dict[str, int] = {}
    ranks = []
    for clause in clauses:
        seen[clause.kind] = seen.get(clause.kind, 0) + 1
        ranks.append(seen[clause.kind])
    return [clause for _, clause in sorted(zip(ranks, clauses, strict=True), key=lambda pair: pair[0])]


def _outermost(clause: Clause, direction: str) -> tuple[str, ...]:
    if clause.adjectives:
        word = clause.adjectives[0]
        return (f"the {direction}most {word} {{c}}", f"the {word} {{c}} furthest to the {direction}")
    post = clause.posts[0]
    return (f"the {direction}most {{c}} {post}", f"the {{c}} {post} furthest to the {direction}")


def _reference(
    program: str,
    category: str,
    things: tuple[Thing, ...],
    said: tuple[Clause, ...],
    denied: tuple[Clause, ...] = (),
    *,
    count: int = 0,
    excepted: bool = False,
) -> Reference:
    return Reference(
        program,
        tuple(thing.id for thing in things),
        (category,),
        (),
        plural=len(things) > 1,
        arguments=(*(c.argument for c in said), *(f"not {c.argument}" for c in denied)),
        said=said,
        denied=denied,
        count=count,
        excepted=excepted,
    )
