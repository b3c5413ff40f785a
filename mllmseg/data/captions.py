"""What captions say about a thing that the labels know: who somebody is, and what they do with what.

A caption is about the whole photo, so it is only believed where it can mean one thing alone: one instance of the
category, named in the singular, and one instance of what it acts on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mllmseg.data import words
from mllmseg.data.scene import Scene

_PEOPLE = {
    "man": "man", "guy": "man", "gentleman": "man", "woman": "woman", "lady": "woman", "boy": "boy", "girl": "girl",
    "person": "person", "player": "person", "skier": "person", "surfer": "person", "child": "person", "kid": "person",
    "skateboarder": "person", "snowboarder": "person", "rider": "person", "batter": "person",
}  # fmt: skip
_GENDER = {"man": "m", "boy": "m", "woman": "f", "girl": "f"}
_HINTS = {
    "m": re.compile(r"\b(man|men|boys?|guys?|gentlem[ae]n|he|his|him|male|father|dad|son)\b"),
    "f": re.compile(r"\b(woman|women|girls?|lad(?:y|ies)|she|her|female|mother|mom|daughter)\b"),
}
_CROWD = re.compile(r"\b(people|persons|men|women|boys|girls|ladies|guys|kids|children|players|couple|group|crowd)\b")
_ACTIONS = (
    "riding on", "riding", "holding up", "holding", "sitting on", "sitting at", "sitting next to", "standing on",
    "standing next to", "standing behind", "looking at", "eating", "using", "flying", "carrying", "throwing",
    "hitting", "swinging", "catching", "laying on",
    "lying on", "sleeping on", "pulling", "pushing", "feeding", "petting", "kicking",
    "cutting", "watching", "reading", "playing with", "walking with",
    "talking on", "driving", "jumping over", "chasing",
)  # fmt: skip
_SPOKEN_AS = {"laying on": "lying on", "riding on": "riding", "holding up": "holding"}
_DETERMINER = r"(?:a|an|the|his|her|its)"
MIN_PERSON = 0.02  # of the photo: captions are about people who can be seen
MIN_AGREEING = 2  # captions that say man, and none that says otherwise


def described(scene: Scene) -> str | None:
    """`man`, `woman`, `boy` or `girl`, where there is one person and the captions agree on it; else None."""
    people = scene.groups.get("person", ())
    if len(people) != 1 or people[0].area < MIN_PERSON:
        return None
    texts = [caption.lower() for caption in scene.captions]
    if any(_CROWD.search(text) for text in texts):
        return None
    named = [word for text in texts for word in re.findall(r"\b(man|woman|boy|girl)\b", text)]
    genders = {gender for gender, hint in _HINTS.items() if any(hint.search(text) for text in texts)}
    if len(set(named)) != 1 or len(named) < MIN_AGREEING or genders != {_GENDER[named[0]]}:
        return None
    return named[0]


def actions(scene: Scene) -> Iterator[tuple[str, str, str]]:
    """(category, "riding", category of what is acted on): both with one instance, each at most once."""
    singles = {c: things[0] for c, things in scene.countable().items() if len(things) == 1 and things[0].can_be_target}
    nouns = {noun: c for c in singles for noun in (words.name(c), *words.synonyms(c)) if c != "person"}
    subjects = dict(nouns)
    if "person" in singles:
        subjects |= dict.fromkeys(_PEOPLE, "person")
    if not nouns or not subjects:
        return
    acts = "|".join(_ACTIONS)
    pattern = re.compile(
        rf"\b(?:an?|the)\s+(?:[\w-]+\s+){{0,3}}?({_any(subjects)})\s+(?:is\s+|who\s+is\s+|that\s+is\s+)?({acts})"
        rf"\s+(?:{_DETERMINER})\s+(?:[\w-]+\s+)?({_any(nouns)})\b(?!\s+(?:{_any(nouns)}))"
    )
    seen = set()
    for caption in scene.captions:
        text = caption.lower()
        if "person" in singles and _CROWD.search(text):
            continue
        for match in pattern.finditer(text):
            found = (subjects[match[1]], _SPOKEN_AS.get(match[2], match[2]), nouns[match[3]])
            if found[0] != found[2] and found not in seen:
                seen.add(found)
                yield found


def _any(nouns: dict[str, str]) -> str:
    return "|".join(sorted(map(re.escape, nouns), key=len, reverse=True))
