"""What can be said about the picture: places, follow-ups, things, in the order of trying. Questions come before."""

from __future__ import annotations

import re

from mllmseg.agent.grammar import EVERYTHING_EXCEPT, EXCEPT, NOTHING_MEANT, Builder, Match, Rules
from mllmseg.agent.phrases import end_of, parse_phrase, parse_place

RULES = Rules()


@RULES.on(r"which (?:one )?of (?:them|these|those|the \w+) (?:is|are) (?P<what>.+)")
def which_of_these(builder: Builder, match: Match) -> str:
    """One of those that were found."""
    return builder.clause(f"the one {match['what']}") if builder.focus else ""


@RULES.on(r"neither (?P<one>.+?) nor (?P<other>.+)")
def neither(builder: Builder, match: Match) -> str:
    """All but two things."""
    builder.show.append(builder.combine("complement", [*builder.target(match["one"]), *builder.target(match["other"])]))
    return "show"


@RULES.on(r"(?P<what>.+?),? but only (?P<some>.+)")
def narrowed(builder: Builder, match: Match) -> str:
    """Some of a kind."""
    builder.topic = match["what"]
    builder.show_target(match["some"])
    return "show"


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
    one = f"the {match['side']} one"
    told = end_of(parse_phrase(one))
    if not builder.focus or not several or told is None:
        return ""
    # Of a laptop and a keyboard, which of them is the left one only the masks tell.
    query = builder.spelled_out(match[0]) if builder.context.alike else one
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
    return builder.show_others()


@RULES.on(r"(?:the |my |its )?other (?P<what>.+)")
def other(builder: Builder, match: Match) -> str:
    """Another of the kind that is named."""
    phrase = parse_phrase(match["what"])
    if not builder.focus or phrase.tails or phrase.adjectives:
        return ""
    builder.show.append(builder.others(phrase.noun))
    return "others"


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


@RULES.on(
    rf"(?:{EXCEPT}|without|not|leave out|exclude|drop|ignore) (?P<what>.+)",
    r"(?:do not|don't|dont|never) (?:show|find|mark|segment|select|include|highlight)(?: me)? (?P<what>.+)",
)
def leave_out(builder: Builder, match: Match) -> str:
    """What was found, less something; where nothing was asked for yet, everything but a thing that is named."""
    if not builder.focus:
        if builder.topic or not re.match(
            r"(?:the|this|that|these|those|my|your|any|an?)\b", match["what"], re.IGNORECASE
        ):
            return ""
        builder.show[:] = [builder.combine("complement", builder.target(match["what"]))]
        return "show"
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
    r"which (?:one )?(?:is|are) (?P<what>(?:the|my|your) .+)",
    r"there(?:'s| is| are) (?P<what>(?:an?|some) .+?)(?: somewhere)?",
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
