"""What somebody wears, and who wears it: "the red dress", "the person in the red dress", "the person wearing a hat".

From photos of one dressed person whose clothes are labelled kind by kind, both shoes in one mask: such masks are not
counted, so that the other programs pass them by.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from mllmseg.data import clauses, words
from mllmseg.data.affordances import WORN
from mllmseg.data.clauses import Clause
from mllmseg.data.negatives import NEGATIVES
from mllmseg.data.programs import PROGRAMS, Reference
from mllmseg.data.scene import Scene, Thing

KIND = ("garment", "wearer")
_BAGS = frozenset({"bag", "purse", "wallet"})
_CLOTHES = WORN | _BAGS
# One has these "with" one, and is not "in" them.
_ORNAMENTS = _BAGS | {"hair", "watch", "bracelet", "ring", "necklace", "glasses", "sunglasses"}
_WEARING = ("the {c} wearing {ad}", "the {c} with {ad}", "the {c} {who} wears {ad}")
_HAVING = ("the {c} with {ad}", "the {c} {who} has {ad}")


@PROGRAMS.register("garment")
def garment(scene: Scene) -> Iterator[Reference]:
    """What is worn, by its colour."""
    for category, thing, colours in _garments(scene):
        for clause in colours:
            if clause.yes and thing.can_be_target:
                yield Reference("garment", (thing.id,), (category,), (), said=(clause,), arguments=(clause.argument,))


@PROGRAMS.register("wearer")
def wearer(scene: Scene) -> Iterator[Reference]:
    """Somebody by what they wear, with its colour or without."""
    person = _wearer(scene)
    if person is None or not person.can_be_target:
        return
    for category, _, colours in _garments(scene):
        said = [_coloured(category, clause) for clause in colours if clause.yes]
        for templates, argument in (*said, *_plain(category)):
            yield Reference("wearer", (person.id,), ("person", category), templates, arguments=(argument,))


@NEGATIVES.register("wrong_garment")
def wrong_garment(scene: Scene) -> Iterator[Reference]:
    """What is worn in another colour, and who would wear that, or what nobody here wears."""
    person = _wearer(scene)
    for category, thing, colours in _garments(scene):
        for clause in colours:
            if thing.id not in clause.no:
                continue
            yield Reference("wrong_garment", (), (category,), (), said=(clause,), arguments=(clause.argument,))
            if person is not None:
                yield _nobody(category, *_coloured(category, clause))
    for category in scene.absent if person is not None else ():
        if category in _CLOTHES:
            for templates, argument in _plain(category):
                yield _nobody(category, templates, argument)


@functools.lru_cache(maxsize=4)
def _garments(scene: Scene) -> tuple[tuple[str, Thing, tuple[Clause, ...]], ...]:
    """(category, the thing, what may be said of its colour) of all that is worn."""
    return tuple(
        (category, things[0], tuple(clauses.colour(scene, category, things)))
        for category, things in scene.groups.items()
        if category in _CLOTHES and len(things) == 1 and things[0].instance.mask_source == "class"
    )


def _wearer(scene: Scene) -> Thing | None:
    people = scene.labelled.get("person", [])
    return people[0] if _garments(scene) and len(people) == 1 and not people[0].instance.is_crowd else None


def _coloured(category: str, clause: Clause) -> tuple[tuple[str, ...], str]:
    """Templates and the argument in short."""
    verbs = ("with",) if category in _ORNAMENTS else ("in", "wearing", "with")
    return tuple(f"the {{c}} {verb} the {clause.argument} {{d}}" for verb in verbs), f"{clause.argument} {category}"


def _plain(category: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The same without a colour; nobody is told by having hair."""
    if not words.is_mass(words.name(category)):
        yield _HAVING if category in _BAGS else _WEARING, category


def _nobody(category: str, templates: tuple[str, ...], argument: str) -> Reference:
    missing = templates[0].removeprefix("the ")
    return Reference("wrong_garment", (), ("person", category), templates, missing=missing, arguments=(argument,))
