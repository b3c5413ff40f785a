"""What a phrase names: "the red car on the left" is a car that is red and on the left.

Only as much English as the planner needs to drop or swap a part of a phrase. A phrase it cannot take apart, in any
language, is one noun without attributes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mllmseg.agent.regions import COLOURS, End, Side, colour_key
from mllmseg.data import words


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words("the a an this that these those my your his her its our their all every each both any some no")
PRONOUNS = _words("it this that these those them they him her he she")
COLOUR_WORDS = frozenset({*COLOURS, "gray", "violet", "beige", "golden", "silver", "turquoise"})
# Pairs that exclude each other; asked for one, the other is what may be there instead.
OPPOSITES = dict(
    pair
    for one, other in (
        ("left", "right"), ("top", "bottom"), ("upper", "lower"), ("leftmost", "rightmost"),
        ("topmost", "bottommost"), ("first", "last"), ("large", "small"), ("big", "little"), ("larger", "smaller"),
        ("bigger", "littler"), ("largest", "smallest"), ("biggest", "littlest"), ("tall", "short"), ("open", "closed"),
        ("empty", "full"), ("young", "old"), ("bright", "dark"), ("sitting", "standing"), ("highest", "lowest"),
        ("above", "below"), ("front", "back"), ("foreground", "background"),
    )
    for pair in ((one, other), (other, one))
)  # fmt: skip
_ADJECTIVES = COLOUR_WORDS | OPPOSITES.keys() | _words(
    "middle central outer inner second third fourth fifth sixth far near nearest closest other same tiny huge long"
    " thick thin new wooden metal plastic glass striped spotted dotted furry fluffy wet dirty clean broken two three"
    " four five light"
)  # fmt: skip
# Compounds whose first word is an adjective elsewhere.
_COMPOUNDS = ("traffic light", "wine glass", "wine glasses", "orange juice", "light bulb", "glass door")

_SIDE_PLACE = (
    r"(?:on|to|at|in) the (?:far |very |upper |lower |top |bottom )?"
    r"(?:left|right|top|bottom|middle|centre|center|back|background|foreground|front)"
    r"(?:[- ](?:hand side|side|half|corner|edge))?(?! of\b)"
)
_RELATION = (
    r"(?:to|on|at) the (?:left|right|top|bottom|side) of|(?:left|right|top|bottom) of|in front of|on top of|next to"
    r"|close to|closest to|near to|nearest to|nearest|closest|near|behind|underneath|under|below|beneath|above|beside"
    r"|between|inside|around|against|over|by"
)
_ATTRIBUTE = r"without|with|who|that|which|whose|wearing|holding|carrying|riding|looking|facing|sitting|standing|lying"
_TAIL = re.compile(
    rf"(?<=\s)(?:(?P<place>{_SIDE_PLACE})|(?P<relation>{_RELATION})|(?P<attribute>{_ATTRIBUTE})|(?P<link>on|in|at|from))"
    r"(?=\s|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Tail:
    """What follows the noun: a place ("on the left"), a relation ("behind the tree") or an attribute ("with a hat").

    Attributes:
        text: all of it.
        kind: place, relation or attribute.
        anchor: the other thing of a relation, "" where there is none.
    """

    text: str
    kind: str
    anchor: str = ""


@dataclass(frozen=True)
class Phrase:
    """A noun phrase taken apart; `text` is always the whole of it as it was said."""

    text: str
    determiner: str
    adjectives: tuple[str, ...]
    noun: str
    tails: tuple[Tail, ...]

    @property
    def plural(self) -> bool:
        """Whether several things are meant."""
        return self.determiner.lower() in ("these", "those", "all", "both") or is_plural(self.noun)

    @property
    def bare(self) -> str:
        """The thing without any attribute: "the car"."""
        return build(self.determiner, (), self.noun, ())

    def without(self, part: str | Tail) -> str:
        """The phrase less one adjective or tail."""
        adjectives = tuple(word for word in self.adjectives if word is not part)
        return build(self.determiner, adjectives, self.noun, tuple(tail for tail in self.tails if tail is not part))


def build(determiner: str, adjectives: tuple[str, ...], noun: str, tails: tuple[Tail, ...]) -> str:
    """A phrase's parts as text; an indefinite phrase becomes definite, "the" fits before any adjective."""
    determiner = "the" if determiner.lower() in ("a", "an", "any", "some", "no") else determiner
    return " ".join(word for word in (determiner, *adjectives, noun, *(tail.text for tail in tails)) if word)


def parse_phrase(text: str) -> Phrase:
    """Takes a phrase apart."""
    text = " ".join(text.split())
    starts = [match for match in _TAIL.finditer(text) if not _is_adjective_here(text, match)]
    head = text[: starts[0].start()] if starts else text
    tails = []
    for match, following in zip(starts, [*starts[1:], None], strict=False):
        end = following.start() if following else len(text)
        kind = (match.lastgroup or "attribute").replace("link", "relation")
        anchor = text[match.end() : end].strip() if kind == "relation" else ""
        tails.append(Tail(text[match.start() : end].strip(), kind, anchor))
    return Phrase(text, *_split_head(head.split()), tuple(_merge(tails)))


def _is_adjective_here(text: str, match: re.Match[str]) -> bool:
    """A marker at the very end relates to nothing ("the man standing" is an attribute, "the one nearest" is not)."""
    return match.lastgroup in ("relation", "link") and match.end() == len(text)


def _merge(tails: list[Tail]) -> list[Tail]:
    """Joins tails whose anchor is empty with the next: "sitting | on the chair", "in | front of"."""
    merged: list[Tail] = []
    for tail in tails:
        if merged and merged[-1].text.lower() in ("sitting", "standing", "lying", "looking", "facing", "who", "that"):
            previous = merged.pop()
            merged.append(Tail(f"{previous.text} {tail.text}", "attribute", tail.anchor))
        else:
            merged.append(tail)
    return merged


def _split_head(head: list[str]) -> tuple[str, tuple[str, ...], str]:
    determiner = head.pop(0) if len(head) > 1 and head[0].lower() in DETERMINERS else ""
    if determiner.lower() in ("all", "both") and len(head) > 1 and head[0].lower() in ("the", "these", "those", "of"):
        determiner = f"{determiner} {head.pop(0)}"
    adjectives: list[str] = []
    while (
        len(head) > 1
        and (head[0].lower().rstrip(",") in _ADJECTIVES or head[1].lower() == "and")
        and " ".join(head[:2]).lower() not in _COMPOUNDS
    ):
        if len(head) > 2 and head[1].lower() == "and" and head[2].lower() in _ADJECTIVES:  # black and white
            adjectives.append(" ".join(head[:3]))
            del head[:3]
        elif head[0].lower().rstrip(",") in _ADJECTIVES:
            adjectives.append(head.pop(0).rstrip(","))
        else:
            break
    return determiner, tuple(adjectives), " ".join(head)


_SINGULARS = {"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "ones": "one"}
_PLURALS = {one: several for several, one in _SINGULARS.items()}


def is_plural(noun: str) -> bool:
    """Whether a noun means several things, as far as its form tells."""
    last = noun.lower().rpartition(" ")[2]
    if last in _SINGULARS or last in ("feet", "teeth", "sheep"):
        return True
    return words.is_plural(last) or (last.endswith("s") and not last.endswith(("ss", "us", "is")) and len(last) > 3)


def singular(noun: str) -> str:
    """One of a noun: people → person, wine glasses → wine glass."""
    first, space, last = noun.rpartition(" ")
    lower = last.lower()
    if lower in _SINGULARS:
        last = _SINGULARS[lower]
    elif is_plural(last) and not words.is_plural(noun.lower()) and lower != "sheep":
        if lower.endswith("ves"):
            last = last[:-3] + ("fe" if lower.endswith("ives") else "f")
        elif lower.endswith("ies"):
            last = last[:-3] + "y"
        elif lower.endswith(("ches", "shes", "xes", "sses", "zes")):
            last = last[:-2]
        else:
            last = last[:-1]
    return f"{first}{space}{last}"


def plural(noun: str) -> str:
    """Several of a noun; one that is plural already stays as it is."""
    if is_plural(noun):
        return noun
    first, space, last = noun.rpartition(" ")
    return f"{first}{space}{_PLURALS.get(last.lower()) or words.plural(last)}"


_ENDS: dict[str, End] = {
    "left": "leftmost", "leftmost": "leftmost", "right": "rightmost", "rightmost": "rightmost", "top": "topmost",
    "upper": "topmost", "topmost": "topmost", "highest": "topmost", "bottom": "lowest", "lower": "lowest",
    "bottommost": "lowest", "lowest": "lowest",
}  # fmt: skip


def end_of(phrase: Phrase) -> tuple[End, str] | None:
    """For one thing told by its side, that side and its kind: "the left red dog" → leftmost, "the red dogs".

    None for other phrases, those with two sides ("the top left corner") among them.
    """
    if phrase.plural:
        return None
    tails = [tail for tail in phrase.tails if tail.kind == "place"]
    said = [word for word in phrase.adjectives if word.lower() in _ENDS]
    placed = [word for tail in tails for word in tail.text.lower().split() if word in _ENDS]
    if len(said) + len(placed) != 1:
        return None
    adjectives = tuple(word for word in phrase.adjectives if word not in said)
    rest = tuple(tail for tail in phrase.tails if tail not in tails)
    return _ENDS[(said or placed)[0].lower()], build("the", adjectives, plural(phrase.noun), rest)


# What may end a phrase and names nothing: "zoom in" is no kind of "in".
_NO_NOUNS = PRONOUNS | _words("in on out up off away me you there here one ones is are do not")


@dataclass(frozen=True)
class Relaxed:
    """A phrase that asks for less, and what it no longer asks for."""

    text: str
    dropped: tuple[str | Tail, ...]


def relaxations(phrase: Phrase, limit: int = 5) -> list[Relaxed]:
    """Phrases that ask for less, the closest first: without one part, then the thing alone, then its last word."""
    modifiers: list[str | Tail] = [*reversed(phrase.tails), *phrase.adjectives]
    found = [Relaxed(phrase.without(part), (part,)) for part in modifiers]
    if len(modifiers) > 1:
        found.append(Relaxed(phrase.bare, tuple(modifiers)))
    extra, _, last = phrase.noun.rpartition(" ")
    if extra and last.isalpha() and last.lower() not in _NO_NOUNS:
        found.append(Relaxed(build(phrase.determiner, (), last, ()), (extra, *modifiers)))
    different = {item.text.lower(): item for item in reversed(found) if item.text.lower() != phrase.text.lower()}
    kept = [item for item in found if different.get(item.text.lower()) is item]
    return [*kept[: limit - 1], *kept[-1:]] if len(kept) > limit else kept


def contrasts(phrase: Phrase, colours: Sequence[str] = tuple(COLOURS)) -> list[str]:
    """The same phrase with one word turned into what excludes it: the other side, another one of `colours`."""
    found: list[str] = []
    for word in re.findall(r"\w+", phrase.text):
        lower = word.lower()
        if lower in COLOUR_WORDS and lower in " ".join(phrase.adjectives).lower():
            others = [name for name in colours if name != colour_key(lower)]
        elif lower in OPPOSITES:
            others = [OPPOSITES[lower]]
        else:
            continue
        found.extend(re.sub(rf"\b{re.escape(word)}\b", other, phrase.text, count=1) for other in others)
    return list(dict.fromkeys(found))


_PLACE = re.compile(
    r"(?:the |some |any )?(?:(?:free|empty|open|clear|blank|unoccupied) )?"
    r"(?:space|spaces|room|spot|place|area|gap|region|ground|floor|somewhere|anywhere)?\s*"
    r"(?P<side>(?:to the |on the )?left(?: side)? of|(?:to the |on the )?right(?: side)? of|above|over|on top of|below|"
    r"under|underneath|beneath|between|around|near|next to|beside) (?P<anchor>.+)",
    re.IGNORECASE,
)
_SIDES: tuple[tuple[str, Side], ...] = (
    ("left", "left"), ("right", "right"), ("above", "above"), ("over", "above"), ("top", "above"), ("below", "below"),
    ("under", "below"), ("beneath", "below"), ("between", "between"),
)  # fmt: skip


def parse_place(text: str) -> tuple[Side, tuple[str, ...]] | None:
    """Side and anchors of "the free space left of the red car": ("left", ("the red car",)); None for other phrases."""
    match = _PLACE.fullmatch(" ".join(text.split()).rstrip(".?!"))
    if match is None:
        return None
    side: Side = next((name for word, name in _SIDES if word in match["side"].lower()), "around")
    if side == "between":
        anchors = tuple(re.split(r"\s+and\s+", match["anchor"], maxsplit=1))
        if len(anchors) == 2:
            return side, anchors
        return None
    return side, (match["anchor"],)
