"""Clauses in words: short ("left red car"), as a phrase ("the person in red who has no hat"), and at length, in whole
sentences as RIS-CQ has them ("The car is red, behind it …").
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from mllmseg.data import words
from mllmseg.data.clauses import Clause
from mllmseg.data.programs import Reference

TERSE_SHARE = 0.25  # of phrases, as people type in a hurry
DECLARED_SHARE = 0.45  # of sentences with three clauses and more
_NUMBERS = ("no", *words.NUMBERS[:8])
# What stands nearer to the noun.
_ORDER = (
    "clothing",
    "with",
    "colour",
    "brightness",
    "size",
    "extreme",
    "on",
    "bearing",
    "inside",
    "between",
    "beside",
    "beyond",
    "place",
)


@dataclass(frozen=True)
class Form:
    """What is meant, in words.

    Attributes:
        phrase: with its article, for the answer: "the red car on the left".
        sentence: the whole question, where it is one already; else empty.
        terse: without articles, in a hurry.
    """

    phrase: str
    sentence: str = ""
    terse: bool = False


def speak(reference: Reference, noun: str, rng: random.Random, *, synonyms: float) -> Form:
    """Puts a reference made of clauses into words.

    Args:
        reference: with `said` or `denied`.
        noun: for one of its category.
        rng: draws among the ways to say it.
        synonyms: how often a landmark has another name than its usual one.
    """
    speaker = _Speaker(reference, noun, rng, synonyms)
    if reference.excepted:
        return Form(speaker.exception())
    phrase = speaker.phrase()
    if len(reference.said) + len(reference.denied) >= 3 and rng.random() < DECLARED_SHARE:
        return Form(phrase, speaker.declaration())
    return Form(phrase, terse=not reference.denied and rng.random() < TERSE_SHARE)


def terse(phrase: str) -> str:
    """Without articles: "left dog", "person on left"."""
    return re.sub(r"\b(the|a|an) ", "", phrase)


def number(count: int) -> str:
    """`two`; figures where words would be long."""
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


class _Speaker:
    """One reference, one drawing of words."""

    def __init__(self, reference: Reference, noun: str, rng: random.Random, synonyms: float) -> None:
        self.rng, self.reference = rng, reference
        self.plural = reference.plural
        self.noun = words.plural(noun) if self.plural else noun
        self.many = self.plural or words.is_plural(noun)  # "the scissors are"
        self.who = "who" if reference.categories[0] in words.PEOPLE else "that"
        self.said = sorted(reference.said, key=lambda clause: _ORDER.index(clause.kind))
        self.denied = list(reference.denied)
        self._marks = {
            c.landmark: _landmark(c.landmark, rng, synonyms) for c in (*self.said, *self.denied) if c.landmark
        }

    def phrase(self) -> str:
        """`the two red cars on the left that are not next to the bus`."""
        adjective, rest = "", list(self.said)
        for clause in rest:
            if clause.adjectives and (not clause.posts or self.rng.random() < 0.5):
                adjective = self.rng.choice(clause.adjectives) + " "
                rest.remove(clause)
                break
        bare = [clause for clause in rest if not clause.posts]  # a second adjective
        posts = [self.post(clause) for clause in rest if clause.posts]
        head = f"{self.determiner()} {adjective}{self.noun}"
        clauses = [f"{self.who} {self.be()} {self.rng.choice(clause.adjectives)}" for clause in bare]
        return " ".join([head, *_joined(posts), *clauses, *self.denials(after=bool(posts or clauses))])

    def exception(self) -> str:
        """`all the cars except the red one`."""
        (clause,) = self.denied
        ones = "ones" if len(clause.yes) > 1 else "one"
        people = self.who == "who"
        if clause.adjectives and (not clause.posts or self.rng.random() < 0.7):
            out = f"the {self.rng.choice(clause.adjectives)} {ones}"
        else:
            out = f"the {ones} {self.post(clause, plural=len(clause.yes) > 1)}"
        forms = [f"all the {self.noun} except {out}", f"every {words.name(self.reference.categories[0])} but {out}",
                 f"the {self.noun} other than {out}", f"all the {self.noun} apart from {out}"]  # fmt: skip
        if people:
            forms.append(f"everyone except {out}")
        return self.rng.choice(forms)

    def declaration(self) -> str:
        """`The car is red, to the left of the bus, and not on the right.`, or as a question."""
        said = [self.state(clause) for clause in self.said]
        stated = said + [self.deny(clause) for clause in self.denied]
        told = _listed(_without_repeats(stated))
        form = self.rng.choice(
            ("The {c} {t}.", "The {c} {t}.", "Which {c} {t}?", "The {c} {w} {t}.", "Find the {c} {w} {t}.")
        )
        return form.format(c=self.noun, t=told, w=self.who)

    def post(self, clause: Clause, *, plural: bool | None = None) -> str:
        """A clause after the noun, which is plural as the reference is unless told; the usual wording half the time."""
        chosen = clause.posts[0] if self.rng.random() < 0.5 else self.rng.choice(clause.posts)
        mark = self._marks.get(clause.landmark, "")
        post = chosen.format(m=mark, am=words.with_article(mark) if mark else "")
        return post.replace(" on it", " on them") if (self.plural if plural is None else plural) else post

    def be(self) -> str:
        return "are" if self.many else "is"

    def state(self, clause: Clause) -> str:
        """`is red`, `has an umbrella`."""
        if clause.verb == "has":
            return f"{'have' if self.many else 'has'} {self.post(clause).removeprefix('with ')}"
        usable = [*clause.adjectives] if clause.kind in ("colour", "brightness") else []
        return f"{self.be()} {self.rng.choice(usable) if usable else self.post(clause)}"

    def deny(self, clause: Clause) -> str:
        """`is not red`, `has no umbrella`."""
        if clause.verb == "has":
            thing = re.sub(r"^with (an? )?", "", self.post(clause))
            return f"{'have' if self.many else 'has'} no {thing}"
        return self.state(clause).replace(f"{self.be()} ", f"{self.be()} not ", 1)

    def denials(self, *, after: bool) -> list[str]:
        """What is not so, after the noun; `after`: something is said before it, which it must not seem to be about."""
        if not self.denied:
            return []
        if len(self.denied) == 2 and all(clause.verb == "is" for clause in self.denied):
            first, second = (self.state(clause).removeprefix(f"{self.be()} ") for clause in self.denied)
            return [
                f"but neither {first} nor {second}" if after else f"{self.who} {self.be()} neither {first} nor {second}"
            ]
        if after or (len(self.denied) == 1 and self.rng.random() < 0.5 and self.denied[0].posts):
            return [f"{'but ' if after else ''}{' and '.join(self.not_so(clause) for clause in self.denied)}"]
        return [f"{self.who} {_listed(_without_repeats([self.deny(clause) for clause in self.denied]))}"]

    def not_so(self, clause: Clause) -> str:
        """`not on the left`, `without an umbrella`."""
        if clause.verb == "has":
            return f"without {self.post(clause).removeprefix('with ')}"
        return f"not {self.state(clause).removeprefix(f'{self.be()} ')}"

    def determiner(self) -> str:
        """`the`, `both`, `the two`, `all three`."""
        if not self.reference.count:
            return "the"
        count = number(self.reference.count)
        forms = [f"the {count}"] * 2 + [f"all {count}" if self.reference.count > 2 else "both"]
        return self.rng.choice(forms) if not self.reference.said else f"the {count}"


def _landmark(category: str, rng: random.Random, synonyms: float) -> str:
    others = words.synonyms(category)
    return rng.choice(others) if others and rng.random() < synonyms else words.name(category)


def _joined(posts: list[str]) -> list[str]:
    """Two relations take an "and"; what is worn or held goes before them without."""
    if len(posts) < 2:
        return posts
    return [", ".join(posts[:-1]), "and", posts[-1]] if len(posts) > 2 else [posts[0], "and", posts[1]]


def _without_repeats(told: list[str]) -> list[str]:
    """`is red`, `is on the left` → `is red`, `on the left`."""
    kept = told[:1]
    verb = told[0].split(" ", 1)[0]
    for item in told[1:]:
        first, rest = item.split(" ", 1)
        kept.append(rest if first == verb else item)
        verb = first
    return kept


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])}{',' if len(items) > 2 else ''} and {items[-1]}"
