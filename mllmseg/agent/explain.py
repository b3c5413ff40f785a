"""Whether what was found is what was asked; where nothing fits, which part of a sentence fails, what comes closest."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

from mllmseg.agent.phrases import (
    COLOUR_WORDS,
    Phrase,
    Relaxed,
    Tail,
    contrasts,
    end_of,
    is_plural,
    parse_phrase,
    relaxations,
    singular,
)
from mllmseg.agent.regions import colour_key
from mllmseg.agent.schemas import Found, Measurement, Result, Verdict
from mllmseg.agent.tools import Call
from mllmseg.data.words import is_mass, with_article


@dataclass(frozen=True)
class Explanation:
    """What to say about a phrase that nothing fits.

    Attributes:
        text: a sentence that names the part that fails.
        candidate: the mask of the closest thing, None where there is not even that.
        phrase: what the candidate is.
    """

    text: str
    candidate: str | None = None
    phrase: str = ""


def explain(query: str) -> Generator[Call, Result, Explanation]:
    """Asks for less and less until something fits; at most seven calls of tools, which it yields.

    Args:
        query: a phrase that nothing was found for.
    """
    phrase = parse_phrase(query)
    for relaxed in relaxations(phrase):
        found = yield Call("segment", {"query": relaxed.text})
        if isinstance(found, Found) and found.exists:
            anchor = next((part.anchor for part in relaxed.dropped if isinstance(part, Tail) and part.anchor), "")
            if anchor:
                other = yield Call("segment", {"query": anchor})
                if isinstance(other, Found) and not other.exists:
                    text = f"There {_is(phrase, relaxed)}, but {nothing(anchor)}."
                    return Explanation(text, found.mask, relaxed.text)
            measured = yield Call("measure", {"mask": found.mask})
            assert isinstance(measured, Measurement)
            return Explanation(_sentence(phrase, relaxed, measured), found.mask, relaxed.text)
    return Explanation(f"I see {nothing(query)} here.")


def examine(
    query: str, found: Found, *, one_of_several: bool = False
) -> Generator[Call, Result, tuple[Found, Explanation | None]]:
    """Whether what was found is what was asked; at most four calls of tools, which it yields.

    Sides are looked up in the masks themselves: models tell left from right badly. Colours are looked up in the pixels.

    Args:
        query: the phrase that was asked for.
        found: the mask that the model made of it.
        one_of_several: there are several of the kind, whatever the mask of all looks like.

    Returns:
        The mask that is meant, and what speaks against it, None where nothing does.
    """
    phrase = parse_phrase(query)
    checked = query
    if told := end_of(phrase):
        end, kind = told
        every = yield Call("segment", {"query": kind})
        if isinstance(every, Found) and every.exists:
            alike = _alike(found, every)
            arguments = {"mask": every.mask, "end": end, "query": query, "apart": not one_of_several}
            one = yield Call("pick", arguments)
            if isinstance(one, Found) and one.exists:
                found, checked = one, kind
            elif one_of_several and found.share >= 0.8 * every.share:  # leaving it out would leave nothing
                return found, Explanation(f"I cannot tell {query} from the others.")
            elif alike and _in_the_way(phrase, every.place):
                there = f"There {_is(phrase, Relaxed(phrase.bare, ()))}"
                tail = next(tail.text for tail in phrase.tails if tail.kind == "place")
                text = f"{there}, but none {tail}: it is {_in_place(every.place)}."
                return found, Explanation(text, found.mask, phrase.bare)
    if not contrasts(parse_phrase(checked)):
        return found, None
    verdict = yield Call("verify", {"mask": found.mask, "query": checked, "closely": False})
    assert isinstance(verdict, Verdict)
    if verdict.colour:
        said = next(word for word in phrase.adjectives if word.lower() in COLOUR_WORDS)
        it = "they are" if is_plural(phrase.noun) else "it is"
        text = f"There {_is(phrase, Relaxed(phrase.without(said), ()))}, but {it} {verdict.colour}, not {said}."
        return found, Explanation(text, found.mask, phrase.without(said))
    if verdict.rival:
        return found, contradicted(query, verdict.rival, found.mask)
    return found, None


def _alike(first: Found, second: Found) -> bool:
    """Whether two masks are about the same, as far as size and place tell."""
    near = all(abs(one - other) <= 0.1 * max(first.box[2:]) for one, other in zip(first.box, second.box, strict=True))
    return near and abs(first.share - second.share) <= 0.2 * max(first.share, second.share)


def _in_the_way(phrase: Phrase, place: str) -> bool:
    """Whether "the man on the right" is at the left: "the rightmost man" may well be there."""
    words = [word for tail in phrase.tails if tail.kind == "place" for word in tail.text.lower().split()]
    return any(contrary in words for word in place.split() for contrary in _CONTRARY.get(word, ()))


_CONTRARY = {
    "left": ("right",), "right": ("left",), "top": ("bottom",), "upper": ("bottom",), "bottom": ("top",),
    "lower": ("top",),
}  # fmt: skip


def contradicted(query: str, rival: str, mask: str) -> Explanation:
    """For a thing that was found but is something else: "the red laptop" is rather "the purple laptop"."""
    phrase = parse_phrase(query)
    seen = [word for word in rival.lower().split() if word not in query.lower().split()]
    missed = [word for word in query.lower().split() if word not in rival.lower().split()]
    text = f"There {_is(phrase, Relaxed(phrase.bare, ()))}, but it looks {' '.join(seen)}, not {' '.join(missed)}."
    return Explanation(text, mask, rival)


# Articles that tell a phrase in another language: "no der Hund" would be no sentence.
_FOREIGN = frozenset(
    ["der", "die", "das", "den", "ein", "eine", "einen", "le", "la", "les", "un", "une", "el", "los", "las", "una"]
)


def nothing(phrase: str) -> str:
    """Words for a missing thing: for "the red car" they are "no red car"."""
    parsed = parse_phrase(phrase)
    words = [*parsed.adjectives, parsed.noun, *(tail.text for tail in parsed.tails)]
    plain = (
        re.fullmatch(r"[a-z0-9][a-z0-9' -]*", parsed.noun, re.IGNORECASE)
        and parsed.noun.split()[0].lower() not in _FOREIGN
    )
    return f"no {' '.join(words)}" if plain else f"nothing that is “{phrase}”"


def _is(phrase: Phrase, relaxed: Relaxed) -> str:
    """What there is instead: "is a car on the left", "are cars"."""
    kept = parse_phrase(relaxed.text)
    noun = " ".join((*kept.adjectives, kept.noun))
    tails = "".join(f" {tail.text}" for tail in kept.tails)
    if is_plural(kept.noun):
        return f"are {noun}{tails}"
    article = noun if is_mass(kept.noun) else with_article(noun)
    return f"is {article}{tails}"


def _sentence(phrase: Phrase, relaxed: Relaxed, measured: Measurement) -> str:
    several = is_plural(parse_phrase(relaxed.text).noun)
    it, verb = ("they", "are") if several else ("it", "is")
    there = f"There {_is(phrase, relaxed)}"
    part = relaxed.dropped[0]
    if isinstance(part, Tail):
        if part.kind == "place" and measured.place:
            place = _in_place(measured.place)
            return f"{there}, but none {part.text}: {it} {verb} {place}."
        return f"{there}, but none {part.text}."
    if part.lower() in COLOUR_WORDS:
        if measured.colour and measured.colour != colour_key(part):
            return f"{there}, but {it} {verb} {measured.colour}, not {part}."
        if measured.colour:  # the model would not find it so, the pixels say it is
            return f"I am not sure of “{phrase.text}”: {there[0].lower()}{there[1:]}, and most of it is {part}."
        return f"{there}, but none that is {part}."
    if len(relaxed.dropped) > 1 or part not in phrase.adjectives:
        missing = singular(phrase.noun) if part not in phrase.adjectives else part
        return f"{there}, but no {missing}." if part not in phrase.adjectives else f"{there}, but none that is {part}."
    return f"{there}, but none that is {part}."


def _in_place(place: str) -> str:
    if place == "middle":
        return "in the middle"
    return f"at the {place}" if place in ("top", "bottom") else f"on the {place}"
