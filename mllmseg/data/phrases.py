"""From a reference to words: nouns, questions as people type them, and the answers the model should learn."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mllmseg.constants import REJ_TOKEN, SEG_TOKEN
from mllmseg.data import words
from mllmseg.data.clause_forms import Form, speak, terse
from mllmseg.data.programs import Reference

SYNONYM_SHARE = 0.15
RAW_SHARE = 0.65  # of the questions are the bare phrase
BARE_SHARE = 0.15  # of the bare phrases lose their article: "left dog"

_QUESTIONS = {
    False: (
        "Segment {x}.",
        "Where is {x}?",
        "Can you find {x}?",
        "Point at {x}.",
        "Show me {x}, please.",
        "Find {x}.",
        "Please mark {x}.",
        "Is {x} in this picture?",
        "Could you segment {x} in this image?",
        "segment {x}",
        "find {x}",
        "where is {x}",
        "I am looking for {x}.",
        "Highlight {x}",
    ),
    True: (
        "Segment {x}.",
        "Where are {x}?",
        "Can you find {x}?",
        "Point at {x}.",
        "Show me {x}, please.",
        "Find {x}.",
        "Please mark {x}.",
        "Are {x} in this picture?",
        "Could you segment {x} in this image?",
        "segment {x}",
        "find {x}",
        "where are {x}",
        "I am looking for {x}.",
        "Highlight {x}",
    ),
}
_FOUND = {
    False: ("Here is {x}.", "This is {x}.", "I found {x}.", "Yes, {x} is marked."),
    True: ("Here are {x}.", "These are {x}.", "I found {x}.", "Yes, {x} are marked."),
}
_MISSING = {
    False: (
        "There is no {x} in this picture.",
        "I see no {x} here.",
        "This picture shows no {x}.",
        "No {x} can be seen.",
    ),
    True: (
        "There are no {x} in this picture.",
        "I see no {x} here.",
        "This picture shows no {x}.",
        "No {x} can be seen.",
    ),
}


@dataclass(frozen=True)
class Wording:
    """A question and its answer; the answer starts with the decision token."""

    text: str
    answer: str


def word(reference: Reference, rng: random.Random, *, synonyms: bool = True) -> Wording:
    """Puts a reference into words: draws nouns, a template, a question around it and an answer."""
    nouns = [_noun(category, rng if synonyms else None) for category in reference.categories]
    if reference.said or reference.denied:
        form = speak(reference, nouns[0], rng, synonyms=SYNONYM_SHARE if synonyms else 0.0)
        plural = not form.phrase.startswith("every") and (reference.plural or words.is_plural(nouns[0]))
        missing = form.phrase.removeprefix("the ")
    else:
        template = _template(reference.templates, nouns[0], rng)
        form = Form(_fill(template, nouns, reference.categories[0]), terse=rng.random() < BARE_SHARE)
        plural = _takes_plural(template, nouns[0], several=reference.plural)
        missing = _fill(reference.missing, nouns, reference.categories[0])
    return Wording(_question(form, plural, rng), _answer(reference, form.phrase, missing, nouns, plural, rng))


def _question(form: Form, plural: bool, rng: random.Random) -> str:
    if form.sentence:
        return form.sentence
    if rng.random() < RAW_SHARE:
        return terse(form.phrase) if form.terse else form.phrase
    return rng.choice(_QUESTIONS[plural]).format(x=form.phrase)


def _answer(reference: Reference, phrase: str, missing: str, nouns: list[str], plural: bool, rng: random.Random) -> str:
    if reference.ids:
        return f"{SEG_TOKEN} " + rng.choice(_FOUND[plural]).format(x=phrase)
    if reference.denials:
        return f"{REJ_TOKEN} " + rng.choice(reference.denials)
    several = "{cs}" in reference.missing or words.is_plural(nouns["{d" in reference.missing[:2]])
    return f"{REJ_TOKEN} " + rng.choice(_MISSING[several]).format(x=missing)


def _noun(category: str, rng: random.Random | None) -> str:
    others = words.synonyms(category)
    if rng is not None and others and rng.random() < SYNONYM_SHARE:
        return rng.choice(others)
    return words.name(category)


def _template(templates: tuple[str, ...], noun: str, rng: random.Random) -> str:
    """The first, most usual template half of the time; none that says "every scissors"."""
    if words.is_plural(noun) or words.is_mass(noun):
        templates = tuple(t for t in templates if not t.startswith(("every {", "each {", "{ac}"))) or templates
    return templates[0] if rng.random() < 0.5 else rng.choice(templates)


def _fill(template: str, nouns: list[str], category: str) -> str:
    first, second = nouns[0], nouns[-1]
    return template.format(
        c=first,
        cs=words.plural(first),
        ac=words.with_article(first),
        d=second,
        ds=words.plural(second),
        ad=words.with_article(second),
        who="who" if category in words.PEOPLE else "that",
    )


def _takes_plural(template: str, noun: str, *, several: bool) -> bool:
    if template.startswith(("every", "each")):  # "every dog is", "everyone is"
        return False
    if several:
        return " and " in template or not words.is_mass(noun)
    return words.is_plural(noun)
