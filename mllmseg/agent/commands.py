"""What can be said but for edits: commands, questions, places, follow-ups, in the order in which they are tried."""

from __future__ import annotations

import re

from mllmseg.agent.grammar import EXCEPT, NOTHING_MEANT, Builder, Match, Rules, split_things
from mllmseg.agent.phrases import parse_phrase, parse_place, plural

HELP = (
    "Name what you look for (“the dog and the red ball”), leave things out (“everything except the people”), count "
    "(“how many cars are there?”), go on from there (“only the left one”, “not that one”), edit (“blur the "
    "background”, “make the car blue”, “remove the bottle”), measure (“how big is it?”), or ask for a place (“the free "
    "space left of the car”)."
)

RULES = Rules()


@RULES.on(r"undo(?: (?:that|it|this|the last (?:one|step)))?|(?:take|go) (?:that |it )?back|revert(?: that| it)?")
def undo(_: Builder, __: Match) -> str:
    """Back to before the last message."""
    return "undo"


@RULES.on(r"reset|start over|start again|restore(?: the)?(?: original)?(?: picture| image)?|undo (?:all|everything)")
def reset(_: Builder, __: Match) -> str:
    """Without masks and edits."""
    return "reset"


@RULES.on(r"(?:hide|clear)(?: (?:it|them|that|everything|all|(?:all |the |all the )?masks?))?")
def hide(_: Builder, __: Match) -> str:
    """Nothing is shown."""
    return "hide"


@RULES.on(r"(?:yes|yeah|yep|sure|ok|okay|do it|go ahead|show (?:it|that|them|me)(?: anyway)?)(?: please)?")
def accept(builder: Builder, _: Match) -> str:
    """What was offered."""
    return "accept" if builder.context.offered else ""


@RULES.on(
    r"no|nope|no thanks?|no,? thank you|never ?mind|great|nice|ok|okay|yes|cool",
    r"thanks?(?: you)?(?: very much| a lot)?",
)
def agree(builder: Builder, _: Match) -> str:
    """Politeness."""
    return builder.say("All right. Ask for anything else in the picture.")


@RULES.on(r"(?:hi|hello|hey|good (?:morning|day|evening)|hallo|bonjour|hola)(?: there| you)?(?:,? how are you)?")
def greet(builder: Builder, _: Match) -> str:
    """A greeting."""
    return builder.say("Hello! " + HELP)


@RULES.on(r"help(?: me)?|what can (?:you|i) (?:do|say|ask).*|how does (?:this|it) work|who are you|what are you")
def explain_yourself(builder: Builder, _: Match) -> str:
    """What can be said."""
    return builder.say("I find things in a picture and show them as masks. " + HELP)


@RULES.on(r"(?:good)?bye.*|see you.*")
def part(builder: Builder, _: Match) -> str:
    """A farewell."""
    return builder.say("Goodbye!")


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
        builder.add("verify", mask=name, **({"query": query} if query else {}))
    builder.show += builder.focus
    return "verify"


@RULES.on(
    r"(?:how many|count|(?:what is |what's |tell me )?the number of)(?: of)? (?P<what>.+?)"
    r"(?: (?:are|is|do|can) (?:there|you|we|i|here|visible|in).*)?"
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
)
def exists(builder: Builder, match: Match) -> str:
    """Whether there is something."""
    builder.show_target(match["what"])
    return "exists"


@RULES.on(
    r"where (?:can|could|should|may|might|do) (?:i|we|you|one|it|she|he|they) \w+(?: \w+){0,4}?,? ?(?P<place>"
    r"(?:(?:to |on )the )?(?:left|right) of .+|(?:above|below|between|around|near|next to|beside|under) .+)",
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


def _where(builder: Builder, query: str) -> str:
    builder.show.append(builder.add("where", query=builder.spelled_out(query)))
    return "where"


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
    every = builder.add("segment", query=f"the {plural(noun)}")
    builder.show.append(builder.combine("difference", [every, *builder.context.focus]))
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
)
def show(builder: Builder, match: Match) -> str:
    """Show something."""
    builder.show_target(match["what"])
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
