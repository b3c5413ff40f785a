"""What can be said about the picture but for edits: questions, places, follow-ups, in the order of trying."""

from __future__ import annotations

import re

from mllmseg.agent.grammar import EVERYTHING_EXCEPT, EXCEPT, NOTHING_MEANT, Builder, Match, Rules, split_things
from mllmseg.agent.phrases import end_of, parse_phrase, parse_place, plural

RULES = Rules()


@RULES.on(
    r"are you (?:really |quite |absolutely )?sure(?: (?:about|that|of).*)?",
    r"really|check (?:it|that|this|again)|verify.*",
)
def doubt(builder: Builder, _: Match) -> str:
    """Whether what was found is what was asked for."""
    return _verify(builder, None)


@RULES.on(
    r"(?:is|are) (?:it|that|this|they|those|these) (?:really |actually )?(?!photo|picture|image|taken)(?P<what>.+)",
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


@RULES.on(r"how many (?P<what>.+?) (?:does|do|did) (?P<owner>.+?) (?:have|own|wear|hold|carry)")
def count_of(builder: Builder, match: Match) -> str:
    """How many parts something has."""
    return _measure(builder, [builder.segment(f"the {plural(match['what'])} of {match['owner']}")], "count")


@RULES.on(
    r"(?:how many|count|(?:what is |what's |tell me )?(?:the )?number of)(?: of)? (?P<what>.+?)"
    r"(?: (?:are|is|do|can)(?: (?:there|you|we|i|here|visible|in).*)?)?"
)
def count(builder: Builder, match: Match) -> str:
    """How many things of a kind."""
    what = match["what"]
    if re.fullmatch(r"(?:are|is) (?:there|here)|them|these|those|it", what, re.IGNORECASE) and builder.focus:
        names = list(builder.focus)
    else:
        names = [_all_of(builder, item) for item in split_things(what)]
    return _measure(builder, names, "count")


@RULES.on(r"(?:are there |is there )?more (?P<one>.+?) (?:than|or) (?P<other>.+)")
def count_both(builder: Builder, match: Match) -> str:
    """Which are more."""
    return _measure(builder, [_all_of(builder, match["one"]), _all_of(builder, match["other"])], "count")


def _all_of(builder: Builder, text: str) -> str:
    """A mask of all things of a kind: "dogs" is "the dogs", "red car" "the red cars"."""
    text = re.sub(r"^(?:all|every|each)\s+(?:of\s+)?(?:the\s+)?", "", text.strip(), flags=re.IGNORECASE)
    phrase = parse_phrase(text)
    text = text.replace(phrase.noun, plural(phrase.noun), 1) if phrase.noun.isascii() else text
    return builder.union(text if phrase.determiner or not phrase.noun.isascii() else f"the {text}")


@RULES.on(
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


@RULES.on(
    r"(?:how far(?: apart| away)? (?:is|are) |(?:what is |what's )?the distance (?:between |from ))"
    r"(?P<one>.+?) (?:from|to|and) (?P<other>.+?)(?: apart)?"
)
def distance(builder: Builder, match: Match) -> str:
    """How far two things are apart."""
    one, other = builder.union(match["one"]), builder.union(match["other"])
    builder.add("measure", mask=one, to=other)
    builder.show += [one, other]
    return "distance"


@RULES.on(
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


@RULES.on(
    r"where (?:can|could|should|may|might|do) (?:i|we|you|one|it|she|he|they) \w+(?: \w+){0,4}?,? ?(?P<place>"
    r"(?:(?:to |on )the )?(?:left|right) of .+|(?:above|below|between|around|near|next to|beside|under) .+)",
    r"(?:put|place|hang|set|lay|draw|add|write) (?:an? |the |some )?\w+(?: \w+)?? (?P<place>(?:(?:to |on )?the )?"
    r"(?:left|right) of .+|(?:above|below|between|around|near|next to|beside|under) .+)",
    r"(?:go|move|drive|walk|navigate|fly|put it|place it|park)(?: to)? (?P<place>.+)",
)
def go(builder: Builder, match: Match) -> str:
    """A place to go to."""
    return _where(builder, match["place"])


@RULES.on(
    r"(?:(?:find|show|mark|segment|select|where is|point (?:at|to))(?: me)? )?(?P<place>(?:the |some |any )?"
    r"(?:(?:free|empty|open|clear|unoccupied) \w+|space|spaces|room|spot|gap|area|region) .+)",
)
def free_space(builder: Builder, match: Match) -> str:
    """Free space beside something."""
    return _where(builder, match["place"]) if parse_place(match["place"]) else ""


_NAMED_PLACE = re.compile(
    r"(?:the|some|any|free|empty|open|clear|unoccupied|space|room|spot|gap|area)\b", re.IGNORECASE
)


def _where(builder: Builder, query: str) -> str:
    # "left of it" is a place without a noun: with one, "it" can be spelled out.
    named = query if _NAMED_PLACE.match(query) else f"the place {query}"
    builder.show.append(builder.add("where", query=builder.spelled_out(named if parse_place(named) else query)))
    return "where"


@RULES.on(
    r"the (?P<side>left|right|leftmost|rightmost|top|topmost|upper|bottom|lower|lowest)(?:most)?(?: one)?",
    r"the one (?:on|at|to) the (?:far |very )?(?P<side>left|right|top|bottom)",
)
def one_of_these(builder: Builder, match: Match) -> str:
    """One of several that were found before."""
    several = len(builder.focus) > 1 or parse_phrase(builder.topic).plural
    told = end_of(parse_phrase(f"the {match['side']} one"))
    if not builder.focus or not several or told is None:
        return ""
    query = builder.spelled_out(match[0])
    builder.show[:] = [builder.add("pick", mask=builder.one(builder.focus), end=told[0], query=query)]
    builder.topic = query
    return "show"


@RULES.on(
    r"not (?:that|this|it)(?: one)?",
    r"(?:that|this|it)(?: is|'s| was) (?:wrong|not (?:it|right|the right one))",
    r"(?:the )?wrong one|another(?: one)?|the others?(?: ones?)?|the next(?: one)?",
)
def others(builder: Builder, _: Match) -> str:
    """Of the same kind, but not those found."""
    noun = parse_phrase(builder.topic).noun
    if not builder.focus or not noun:
        return builder.say(NOTHING_MEANT)
    builder.show.append(builder.others(noun))
    return "show"


@RULES.on(r"(?:the |my |its )?other (?P<what>.+)")
def other(builder: Builder, match: Match) -> str:
    """Another of the kind that is named."""
    phrase = parse_phrase(match["what"])
    if not builder.focus or phrase.tails or phrase.adjectives:
        return ""
    builder.show.append(builder.others(phrase.noun))
    return "show"


@RULES.on(r"not (?:that|this|it|these|those|him|her|them)(?: ones?)?,? (?:but|rather|instead)?,? ?(?P<what>.+)")
def rather(builder: Builder, match: Match) -> str:
    """Something else than what was found."""
    builder.show[:] = []
    builder.show_target(match["what"])
    return "show"


@RULES.on(r"(?:(?:show |give )?(?:me )?)?(?:both|all)(?: of (?:it|them|these|those))?(?: together)?")
def both(builder: Builder, _: Match) -> str:
    """What was found now and before."""
    names = [*builder.context.before, *builder.context.focus]
    if not names:
        return ""
    builder.show += [name for name in dict.fromkeys(names) if name not in builder.show]
    return "show"


@RULES.on(rf"(?:{EXCEPT}|without|not|leave out|exclude|drop|ignore) (?P<what>.+)")
def leave_out(builder: Builder, match: Match) -> str:
    """What was found, less something."""
    if not builder.focus:
        return ""
    whole = builder.one(builder.focus)
    builder.show[:] = [builder.combine("difference", [whole, *builder.target(match["what"])])]
    return "show"


@RULES.on(
    r"invert(?: (?:it|that|the mask|the selection))?",
    r"everything else|all else|the opposite|the rest",
)
def invert(builder: Builder, _: Match) -> str:
    """All but what was found."""
    if not builder.focus:
        return builder.say(NOTHING_MEANT)
    builder.show[:] = [builder.combine("complement", list(builder.focus))]
    return "show"


@RULES.on(
    r"(?:show |find )?the (?:overlap|intersection) of (?P<one>.+?) and (?P<other>.+)",
    r"where (?P<one>.+?) and (?P<other>.+?) (?:overlap|meet|touch)",
)
def overlap(builder: Builder, match: Match) -> str:
    """What two things share."""
    names = [builder.union(match["one"]), builder.union(match["other"])]
    builder.show.append(builder.combine("intersection", names))
    return "show"


@RULES.on(
    r"(?:what|how) about (?P<what>.+)",
    r"(?:segment|find|show(?: me)?|mark|outline|select|locate|point (?:at|to|out)|where(?: is| are|'s)|look for|"
    r"i(?: a|')m looking for|detect|give me|mask|see)(?: (?:a |the )?masks? (?:of|for))? (?P<what>.+)",
    # The same in four other languages; what is asked for is looked for as it stands.
    r"[¿¡]?(?:wo (?:ist|sind)|zeig(?:e)?(?: mir)?|finde|suche|où (?:est|sont)|montre(?:z)?(?:[- ]moi)?|trouve(?:z)?|"
    r"d[oó]nde est[áa]n?|mu[ée]stra(?:me)?|encuentra|busca|dov'è|dove (?:è|sono)|mostra(?:mi)?|trova) (?P<what>.+)",
)
def show(builder: Builder, match: Match) -> str:
    """Show something."""
    builder.show_target(match["what"])
    return "show"


@RULES.on(r"what(?:ever)? (?:is|are)(?: not|n't) .+")
def what_is_not(builder: Builder, match: Match) -> str:
    """No question: "what is not the car" is everything except it."""
    if not EVERYTHING_EXCEPT.fullmatch(match[0]):
        return ""
    builder.show_target(match[0])
    return "show"


_QUESTION = (
    r"(?:what|why|when|who|whose|whom|how|which|is|are|was|were|does|do|did|has|have|can|could|should|would|will|describe|"
    r"explain|tell me|name|list)\b.+"
)


@RULES.on(_QUESTION)
def converse(builder: Builder, match: Match) -> str:
    """A question that wants words."""
    spoken = builder.add("talk", message=match[0])
    builder.show.append(spoken)
    return "talk"
