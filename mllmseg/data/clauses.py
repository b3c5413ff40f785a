"""Statements about the instances of one category, each with those it surely holds for and those it surely does not.

"red", "on the left", "next to the dog", "with an umbrella": whatever the labels and pixels leave open is in neither
set. `compound` joins statements to references; because of the third value a statement may be denied as safely as made.
A new kind of statement is one function here, registered under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mllmseg.data import affordances, colours, words
from mllmseg.data import scene as geometry
from mllmseg.data.looks import TOP_COLOURS, Look
from mllmseg.data.scene import Scene, Thing
from mllmseg.registry import Registry


@dataclass(frozen=True)
class Clause:
    """A statement about the instances of a category.

    Attributes:
        kind: the function that made it.
        argument: what it says in short: `red`, `left`, `left of dog`.
        yes: ids it surely holds for.
        no: ids it surely does not hold for.
        adjectives: before the noun: "red". May be empty.
        posts: after the noun: "on the left". `{m}` is the landmark's noun. May be empty where there are adjectives.
        landmark: the category of `{m}`.
        verb: joins the noun and a post: "is", "has", "wears"; adjectives take "is".
        relative: holds by comparison with the others of its category: such statements are not joined with another.
        vague: labels tell better where it holds than where it does not: it is said, but not denied.
    """

    kind: str
    argument: str
    yes: frozenset[int]
    no: frozenset[int]
    adjectives: tuple[str, ...] = ()
    posts: tuple[str, ...] = ()
    landmark: str = ""
    verb: str = "is"
    relative: bool = False
    vague: bool = False


Maker = Callable[[Scene, str, tuple[Thing, ...]], Iterator[Clause]]
CLAUSES: Registry[Maker] = Registry("kind of clause")

_VIVID = TOP_COLOURS - {"black", "white"}  # neither hair nor shade
WORN_SHARE, MOSTLY_SHARE = 0.3, 0.6  # of a person's pixels: somebody may be called "in red", "in black"
UNWORN_SHARE = 0.01  # at most: nothing of what somebody wears is red
ALWAYS_ASKED = frozenset({"red", "blue", "green", "yellow", "black", "white"})  # seen in the photo or not
BRIGHT, DARK, LIGHTNESS_GAP = 65.0, 30.0, 25.0

_NEAR = 0.04  # of the photo: closer, an object may be somebody's
_INSIDE_SHARE = 0.97  # of a box lies in the other


@CLAUSES.register("colour")
def colour(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """Of one clear colour."""
    if category in affordances.COLOURLESS or not scene.is_thing(category):
        return
    near = [*things, *(thing for others in scene.countable().values() for thing in others)]
    seen = {name for thing in near if (name := clear_colour(scene.look(thing)))}
    for name in sorted(seen | ALWAYS_ASKED):
        yes = {t.id for t in things if clear_colour(scene.look(t)) == name}
        no = {t.id for t in things if colours.certainly_not(name, _parts(scene.look(t)))}
        yield Clause("colour", name, frozenset(yes), frozenset(no), adjectives=(name,))


@CLAUSES.register("clothing")
def clothing(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """People by the colour of what they wear above the waist."""
    if category != "person":
        return
    for name in sorted(TOP_COLOURS):
        yes, no, tops = set(), set(), set()
        for thing in things:
            look = scene.look(thing)
            if look is None or not look.colours:
                continue
            top, share = clear_top(look.top), look.colours.get(name, 0.0)
            if top == name:
                tops.add(thing.id)
            if top == name or share >= (WORN_SHARE if name in _VIVID else MOSTLY_SHARE):
                yes.add(thing.id)
            elif (share <= UNWORN_SHARE and name in _VIVID) or (top and colours.certainly_not(name, look.top)):
                no.add(thing.id)
        posts: tuple[str, ...] = (f"in {name}", f"wearing {name}", f"dressed in {name}")
        if tops and tops == yes:
            posts = (f"in {name}", f"in a {name} shirt", f"wearing a {name} top", f"with a {name} shirt")
        yield Clause("clothing", name, frozenset(yes), frozenset(no), posts=posts)


@CLAUSES.register("brightness")
def brightness(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """Light or dark, where the others are clearly otherwise."""
    if category in affordances.COLOURLESS or not scene.is_thing(category) or len(things) < 2:
        return
    looks = {t.id: scene.look(t) for t in things}
    lightness = {key: look.lightness for key, look in looks.items() if look is not None and look.colours}
    if len(lightness) < len(things) or max(lightness.values()) - min(lightness.values()) < LIGHTNESS_GAP:
        return
    bright = frozenset(key for key, value in lightness.items() if value >= BRIGHT)
    dark = frozenset(key for key, value in lightness.items() if value <= DARK)
    yield Clause("brightness", "dark", dark, bright, adjectives=("dark",), vague=True)
    yield Clause("brightness", "light", bright, dark, adjectives=("light-coloured", "light"), vague=True)


@CLAUSES.register("place")
def place(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """Which side of the picture; what is near the middle is on neither."""
    if not scene.is_thing(category):
        return
    for side, other in (("left", "right"), ("right", "left")):
        yes = frozenset(t.id for t in things if geometry.in_half(t, side))
        no = frozenset(t.id for t in things if geometry.in_half(t, other))
        posts = (f"on the {side}", f"on the {side} side", f"to the {side}")
        yield Clause("place", side, yes, no, adjectives=(side,), posts=posts)
    upper = frozenset(t.id for t in things if t.y1 <= 0.45)
    lower = frozenset(t.id for t in things if t.y0 >= 0.5)
    yield Clause("place", "top", upper, lower, adjectives=("upper",), posts=("at the top", "in the upper half"))
    yield Clause("place", "bottom", lower, upper, adjectives=("lower",), posts=("at the bottom", "in the lower half"))


@CLAUSES.register("extreme")
def extreme(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """The outermost of several."""
    if len(things) < 2 or not scene.is_thing(category):
        return
    for direction, word in (("left", "leftmost"), ("right", "rightmost"), ("top", "topmost"), ("bottom", "lowest")):
        if first := geometry.extreme(things, direction):
            posts = (f"furthest to the {direction}",) if direction in ("left", "right") else ()
            yield _ranked("extreme", word, first, things, (word,), posts)


@CLAUSES.register("size")
def size(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """The largest or smallest of several."""
    if len(things) < 2 or not scene.is_thing(category):
        return
    two = len(things) == 2
    for largest, adjectives in (
        (True, ("bigger", "larger") if two else ("biggest", "largest")),
        (False, ("smaller",) if two else ("smallest",)),
    ):
        if first := geometry.by_size(things, largest=largest):
            yield _ranked("size", adjectives[0], first, things, adjectives, ())


@CLAUSES.register("beyond")
def beyond(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """On one side of the only one of another category."""
    words_for = {
        "left": ("to the left of the {m}", "left of the {m}"),
        "right": ("to the right of the {m}", "right of the {m}"),
        "top": ("above the {m}",),
        "bottom": ("below the {m}",),
    }
    opposites = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    for landmark, mark in _marks(scene, category, things):
        for direction, posts in words_for.items():
            if direction in ("top", "bottom") and landmark in affordances.SURFACES:
                continue
            yes = frozenset(t.id for t in things if geometry.is_beyond(t, mark, direction))
            no = frozenset(t.id for t in things if geometry.is_beyond(t, mark, opposites[direction]))
            yield Clause("beyond", f"{direction} of {landmark}", yes, no, posts=posts, landmark=landmark)


@CLAUSES.register("beside")
def beside(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """Next to the only one of another category, or far from it."""
    for landmark, mark in _marks(scene, category, things):
        yes = frozenset(t.id for t in things if geometry.is_beside(t, mark))
        no = frozenset(t.id for t in things if geometry.gap(t, mark) >= 0.2)
        posts = ("next to the {m}", "beside the {m}", "near the {m}")
        yield Clause("beside", f"beside {landmark}", yes, no, posts=posts, landmark=landmark)


@CLAUSES.register("on")
def on(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """Standing, sitting or lying on something, by what is beneath its lower edge."""
    for landmark, marks in scene.groups.items():
        ground = landmark in affordances.GROUND and scene.is_thing(category)
        if not ground and (category, landmark) not in affordances.ON:
            continue
        ids = {mark.id for mark in marks}
        looks = {t.id: scene.look(t) for t in things}
        yes = frozenset(key for key, look in looks.items() if look and ids & set(look.rests_on))
        # Tables reach further than their labels, and a cup nearly always stands on one.
        vague = ground or landmark == "dining table"
        no = frozenset(t.id for t in things if not vague and all(geometry.gap(t, mark) > 0.03 for mark in marks))
        # "On the chair" with three chairs is still clear where only one of them is sat on; "on a" says it best.
        posts = ("on the {m}",) if len(marks) == 1 else ("on {am}",)
        yield Clause("on", f"on {landmark}", yes, no, posts=posts, landmark=landmark)


@CLAUSES.register("bearing")
def bearing(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """Furniture, animals and vehicles by what is on them, or is not."""
    if category not in affordances.BEARERS:
        return
    for load, items in scene.groups.items():
        if (load, category) in affordances.ON:
            held = {key for item in items if (look := scene.look(item)) for key in look.rests_on}
            yes = frozenset(t.id for t in things if t.id in held)
            no = frozenset(t.id for t in things if all(geometry.gap(t, item) > 0.02 for item in items))
            noun = words.with_article(words.name(load))
            yield Clause("bearing", f"{load} on it", yes, no, posts=(f"with {noun} on it",), landmark=load, verb="has")


@CLAUSES.register("inside")
def inside(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """In a container."""
    for landmark, mark in _marks(scene, category, things, distance=False):
        if (category, landmark) in affordances.INSIDE:
            yes = frozenset(t.id for t in things if _within(t, mark) and t.area <= 0.5 * mark.area)
            no = frozenset(t.id for t in things if geometry.gap(t, mark) > 0.02)
            posts = ("in the {m}", "inside the {m}")
            yield Clause("inside", f"in {landmark}", yes, no, posts=posts, landmark=landmark)


@CLAUSES.register("between")
def between(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """Between the only two of another category."""
    for landmark, marks in scene.countable().items():
        if len(marks) != 2 or words.confusable(category, landmark) or any(m.area < geometry.MIN_AREA for m in marks):
            continue
        left, right = sorted(marks, key=lambda thing: thing.centre[0])
        low, high = min(left.y0, right.y0), max(left.y1, right.y1)
        yes, no = set(), set()
        for t in things:
            x, y = t.centre
            if left.x1 - 0.02 <= t.x0 and t.x1 <= right.x0 + 0.02 and low <= y <= high:
                yes.add(t.id)
            elif x < left.centre[0] - 0.02 or x > right.centre[0] + 0.02:
                no.add(t.id)
        posts = (
            f"between the {words.plural(words.name(landmark))}",
            f"between the two {words.plural(words.name(landmark))}",
        )
        yield Clause("between", f"between {landmark}s", frozenset(yes), frozenset(no), posts=posts)


@CLAUSES.register("with")
def with_(scene: Scene, category: str, things: tuple[Thing, ...]) -> Iterator[Clause]:
    """People by what they have with them, or have not; what lies between two people is nobody's."""
    if category != "person":
        return
    for landmark in affordances.CARRIED:
        if landmark not in scene.scope:
            continue
        maybe = [t for c, found in scene.labelled.items() if words.confusable(c, landmark) for t in found]
        near = {person.id for person in things if any(geometry.gap(item, person) <= _NEAR for item in maybe)}
        yes = set()
        for item in scene.groups.get(landmark, ()):
            owners = [person for person in things if geometry.gap(item, person) <= _NEAR]
            if len(owners) == 1 and geometry.in_box(item.centre, owners[0], margin=0.02):
                yes.add(owners[0].id)
        no = frozenset(t.id for t in things if t.id not in near and t.area >= 3 * geometry.MIN_AREA)
        noun = words.with_article(words.name(landmark))
        yield Clause(
            "with",
            landmark,
            frozenset(yes),
            no,
            posts=(f"with {noun}",),
            verb="has",
            vague=landmark in affordances.EASILY_MISSED,
        )


def all_clauses(scene: Scene, category: str, things: tuple[Thing, ...]) -> list[Clause]:
    """Every statement about these that holds, or surely does not hold, for one of them.

    Where masks say yes and boxes no, the statement is open.
    """
    made = (clause for name in CLAUSES for clause in CLAUSES.get(name)(scene, category, things))
    sure = (replace(c, yes=c.yes - c.no, no=c.no - c.yes) if c.yes & c.no else c for c in made)
    return [clause for clause in sure if clause.yes or clause.no]


def clear_colour(look: Look | None) -> str | None:
    """The one name that fits an instance, or None."""
    return colours.clear_name(_parts(look))


def clear_top(top: Mapping[str, float]) -> str | None:
    """The one name that fits what somebody wears above the waist, or None. Black, which hair is too, needs more."""
    name = colours.clear_name(top)
    return name if name in TOP_COLOURS and (name != "black" or top["black"] >= 0.7) else None


def _parts(look: Look | None) -> dict[str, float]:
    return dict(look.colours) if look is not None else {}


def _ranked(
    kind: str, argument: str, first: Thing, things: Iterable[Thing], adjectives: tuple[str, ...], posts: tuple[str, ...]
) -> Clause:
    no = frozenset(thing.id for thing in things if thing is not first)
    return Clause(kind, argument, frozenset({first.id}), no, adjectives, posts, relative=True)


def _marks(
    scene: Scene, category: str, things: Collection[Thing], *, distance: bool = True
) -> Iterator[tuple[str, Thing]]:
    """Other categories with one instance only; `distance`: of some size, and not to be taken for this one."""
    for landmark, marks in scene.countable().items():
        large = marks[0].area >= geometry.MIN_AREA
        apart = not words.confusable(category, landmark) if distance else landmark != category
        if len(marks) == 1 and apart and large and len(things) <= 8:
            yield landmark, marks[0]


def _within(inner: Thing, outer: Thing) -> bool:
    width = min(inner.x1, outer.x1) - max(inner.x0, outer.x0)
    height = min(inner.y1, outer.y1) - max(inner.y0, outer.y0)
    return max(0.0, width) * max(0.0, height) >= _INSIDE_SHARE * inner.area
