"""The questions that tools can answer: is it, how many, how big, which is larger, how far, is there."""

from __future__ import annotations

import re

from mllmseg.agent.grammar import NOTHING_MEANT, PRONOUN, Builder, Match, Rules, split_things
from mllmseg.agent.phrases import COLOUR_WORDS, parse_phrase, plural
from mllmseg.data.words import NUMBERS

QUESTIONS = Rules()


@QUESTIONS.on(
    r"are you (?:really |quite |absolutely )?sure(?: (?:about|that|of).*)?",
    r"really|check (?:it|that|this|again)|verify.*",
)
def doubt(builder: Builder, _: Match) -> str:
    """Whether what was found is what was asked for, or what was not found is missing."""
    if not builder.focus and builder.topic:
        builder.show_target(builder.topic)
        return "exists"
    return _verify(builder, None)


_COLOUR = rf"(?P<colour>{'|'.join(sorted(COLOUR_WORDS))})"


@QUESTIONS.on(
    rf"(?:is|are) (?P<what>it|that|this|they|those|these|(?:the|his|her|its|their|my|this|that) .+?)"
    rf" (?:really |actually |not )?{_COLOUR}",
)
def question_colour(builder: Builder, match: Match) -> str:
    """Whether something has a colour: that the pixels know."""
    if re.search(r"(?:\b(?:and|or)|,)$", match["what"]):  # "white and orange": one colour does not answer that
        return ""
    if not builder.focus and re.fullmatch(PRONOUN, match["what"], re.IGNORECASE):
        return builder.say(NOTHING_MEANT)
    builder.text = match["colour"].lower()
    return _measure(builder, builder.target(re.sub(r"^they$", "them", match["what"])), "colour")


@QUESTIONS.on(
    r"(?:is|are) (?:it|that|this|they|those|these) (?:really |actually |not )?"
    r"(?!photo|picture|image|taken)(?P<what>.+)",
)
def question_identity(builder: Builder, match: Match) -> str:
    """Whether what was found is something else: "is that a cat"."""
    return _verify(builder, match["what"]) if builder.focus else ""


def _verify(builder: Builder, query: str | None) -> str:
    if not builder.focus:
        return builder.say(NOTHING_MEANT)
    for name in builder.focus:
        for item in split_things(query) if query else [None]:  # "is that a cup or a bowl?" asks twice
            builder.add("verify", mask=name, **({"query": item} if item else {}))
    builder.show += builder.focus
    return "verify"


_WEARS = r"(?:have|has|got|wear|wears|carry|carries|hold|holds)"


@QUESTIONS.on(rf"how many (?P<what>\w+(?: \w+)?) {_WEARS} (?P<part>(?:an?|the|some|no) .+)")
def count_with(builder: Builder, match: Match) -> str:
    """How many have something."""
    return _measure(builder, [_all_of(builder, f"{match['what']} with {match['part']}")], "count")


@QUESTIONS.on(
    rf"(?:does|do|has|have) (?P<who>(?:the|this|that|these|those) .+?) {_WEARS} (?P<part>(?:an?|any|the|some) .+)"
)
def exists_with(builder: Builder, match: Match) -> str:
    """Whether somebody has something."""
    if re.search(r"\b(?:picture|image|photo|scene)$", match["who"], re.IGNORECASE):
        return ""
    builder.show.append(builder.segment(f"{match['who']} with {match['part']}"))
    return "exists"


@QUESTIONS.on(r"how many (?P<what>.+?) (?:does|do|did) (?P<owner>.+?) (?:have|own|wear|hold|carry)")
def count_of(builder: Builder, match: Match) -> str:
    """How many parts something has."""
    return _measure(builder, [builder.segment(f"the {plural(match['what'])} of {match['owner']}")], "count")


@QUESTIONS.on(
    r"(?P<count>count|how many(?: (?:are|is) (?:there|here))?)|measure|how (?:big|large)",
)
def of_what_was_found(builder: Builder, match: Match) -> str:
    """A question that leaves out what was found."""
    if not builder.focus:
        return builder.say(NOTHING_MEANT)
    return _measure(builder, list(builder.focus), "count" if match["count"] else "measure")


@QUESTIONS.on(
    r"(?:how many|count|(?:what is |what's |tell me |give me )?(?:the )?(?:total )?number of)(?: of)? (?P<what>.+?)"
    r"(?: (?:are|is|do|can)(?: (?:there|you|we|i|here|visible|in).*)?)?"
)
def count(builder: Builder, match: Match) -> str:
    """How many things of a kind."""
    what = match["what"]
    if re.fullmatch(r"them|these|those|it", what, re.IGNORECASE):
        if not builder.focus:
            return builder.say(NOTHING_MEANT)
        names = list(builder.focus)
    else:
        names = [_all_of(builder, item) for item in split_things(what)]
    return _measure(builder, names, "count")


@QUESTIONS.on(
    r"(?:is|are) there (?:(?:more|fewer|less) than |at (?:least|most) |exactly |only |just )?"
    rf"(?:\d+|{'|'.join(NUMBERS[1:])}) (?P<what>(?!or\b|of\b|things?\b).+)"
)
def count_to(builder: Builder, match: Match) -> str:
    """Whether there are so many: the count says it."""
    return _measure(builder, [_all_of(builder, match["what"])], "count")


@QUESTIONS.on(r"(?:are there |is there )?(?:more|fewer|less) (?P<one>.+?) (?:than|or) (?P<other>.+)")
def count_both(builder: Builder, match: Match) -> str:
    """Which are more."""
    return _measure(builder, [_all_of(builder, match["one"]), _all_of(builder, match["other"])], "count")


def _all_of(builder: Builder, text: str) -> str:
    """A mask of all things of a kind: "dogs" is "the dogs", "red car" "the red cars"."""
    text = re.sub(r"^(?:all|every|each)\s+(?:of\s+)?(?:the\s+)?", "", text.strip(), flags=re.IGNORECASE)
    phrase = parse_phrase(text)
    text = text.replace(phrase.noun, plural(phrase.noun), 1) if phrase.noun.isascii() else text
    return builder.union(text if phrase.determiner or not phrase.noun.isascii() else f"the {text}")


@QUESTIONS.on(
    r"how (?:big|large|tall|wide|high|long) (?:is|are) (?P<what>.+)",
    r"(?:what(?: is|'s) )?the (?:size|area|box|colou?r) of (?P<what>.+)",
    r"measure (?P<what>.+)",
    r"(?:what|which|how much) ?(?:share|part|fraction|percentage|percent|area)?(?: of the (?:picture|image|photo))?"
    r" (?:is|are|does|do) (?P<what>.+?) (?:cover|covered|take up|fill|occupy)",
    r"what colou?r (?:is|are|does) (?P<what>.+?)(?: have)?",
)
def measure(builder: Builder, match: Match) -> str:
    """Size, place and colour."""
    names = builder.target(match["what"])
    return _measure(builder, names, "measure")


def _measure(builder: Builder, names: list[str], intent: str) -> str:
    for name in names:
        builder.add("measure", mask=name)
    builder.show += names
    return intent


@QUESTIONS.on(
    r"(?:is|are) (?P<one>(?:the|this|that|it|these|those)\b.*?) (?:bigger|larger|smaller|littler) than (?P<other>.+)",
    r"which (?:one )?is (?:bigger|larger|smaller),? (?P<one>.+?) or (?P<other>.+)",
)
def compare(builder: Builder, match: Match) -> str:
    """Which of two is larger."""
    return _measure(builder, [builder.union(match["one"]), builder.union(match["other"])], "compare")


@QUESTIONS.on(
    r"(?:how far(?: apart| away)? (?:is|are) |(?:what is |what's )?the distance (?:between |from ))"
    r"(?P<one>.+?) (?:from|to|and) (?P<other>.+?)(?: apart)?"
)
def distance(builder: Builder, match: Match) -> str:
    """How far two things are apart."""
    one, other = builder.union(match["one"]), builder.union(match["other"])
    builder.add("measure", mask=one, to=other)
    builder.show += [one, other]
    return "distance"


@QUESTIONS.on(
    r"(?:(?:is|are) there (?:no|not an?|not any)|(?:isn't|aren't) there (?:an?|any|some))"
    r"(?: more| other)? (?P<what>.+)",
)
def exists_not(builder: Builder, match: Match) -> str:
    """Whether there is nothing of a kind: neither "yes" nor "no" would be clear, so it is shown."""
    builder.show_target(match["what"] if parse_phrase(match["what"]).determiner else f"the {match['what']}")
    return "show"


@QUESTIONS.on(
    r"(?:is|are) there (?:another(?: one)?|(?:any |some )?(?:others?|more)(?: ones?| of (?:them|these|those))?)"
)
def exists_other(builder: Builder, _: Match) -> str:
    """Whether there is another of the kind."""
    return builder.show_others()


@QUESTIONS.on(
    r"(?:is|are) there (?:also )?(?P<what>.+?)(?: anywhere| visible| to be seen)?",
    r"(?:do|can) you (?:also )?(?:see|find|spot) (?P<what>.+?)(?: anywhere)?",
    r"does (?:it|this|the (?:picture|image|photo)) (?:show|contain|have) (?P<what>.+)",
    r"i (?:do not|don't|can not|cannot|can't) (?:see|find|spot) (?:any )?(?P<what>.+?)(?: anywhere)?",
    r"there(?: is|'s| are)(?:n't|n't any| no| not an?| not any) (?P<what>.+)",
)
def exists(builder: Builder, match: Match) -> str:
    """Whether there is something."""
    builder.show_target(match["what"])
    return "exists"
