"""The commands that the planner understands, in the order in which they are tried."""

from __future__ import annotations

import re
from collections.abc import Callable

from mllmseg.agent.grammar import (
    BACKGROUND,
    EVERYTHING_EXCEPT,
    EXCEPT,
    REST,
    THIS_ONE,
    Builder,
    Match,
    Rule,
    split_things,
)
from mllmseg.agent.phrases import COLOUR_WORDS, parse_phrase, parse_place, plural

HELP = (
    "Name what you look for (“the dog and the red ball”), leave things out (“everything except the people”), count "
    "(“how many cars are there?”), go on from there (“only the left one”, “not that one”), edit (“blur the "
    "background”, “make the car blue”, “remove the bottle”), measure (“how big is it?”), or ask for a place (“the free "
    "space left of the car”)."
)
NOTHING_MEANT = "I do not know yet what you mean by that: name a thing in the picture first."

RULES: list[tuple[re.Pattern[str], Rule]] = []

_IT = re.compile(THIS_ONE, re.IGNORECASE)
_COLOUR = rf"(?P<colour>#[0-9a-f]{{6}}|{'|'.join(sorted(COLOUR_WORDS))})"


def _rule(*patterns: str) -> Callable[[Rule], Rule]:
    """Files a function for clauses that one of the patterns matches from end to end; it may decline by a ""."""

    def add(function: Rule) -> Rule:
        RULES.extend((re.compile(pattern, re.IGNORECASE | re.DOTALL), function) for pattern in patterns)
        return function

    return add


@_rule(r"undo(?: (?:that|it|this|the last (?:one|step)))?|(?:take|go) (?:that |it )?back|revert(?: that| it)?")
def undo(_: Builder, __: Match) -> str:
    """Back to before the last message."""
    return "undo"


@_rule(r"reset|start over|start again|restore(?: the)?(?: original)?(?: picture| image)?|undo (?:all|everything)")
def reset(_: Builder, __: Match) -> str:
    """Without masks and edits."""
    return "reset"


@_rule(r"(?:hide|clear)(?: (?:it|them|that|everything|all|(?:all |the |all the )?masks?))?")
def hide(_: Builder, __: Match) -> str:
    """Nothing is shown."""
    return "hide"


@_rule(r"(?:yes|yeah|yep|sure|ok|okay|do it|go ahead|show (?:it|that|them|me)(?: anyway)?)(?: please)?")
def accept(builder: Builder, _: Match) -> str:
    """What was offered."""
    return "accept" if builder.context.offered else ""


@_rule(
    r"no|nope|no thanks?|no,? thank you|never ?mind|great|nice|ok|okay|yes|cool",
    r"thanks?(?: you)?(?: very much| a lot)?",
)
def agree(builder: Builder, _: Match) -> str:
    """Politeness."""
    return builder.say("All right. Ask for anything else in the picture.")


@_rule(r"(?:hi|hello|hey|good (?:morning|day|evening)|hallo|bonjour|hola)(?: there| you)?(?:,? how are you)?")
def greet(builder: Builder, _: Match) -> str:
    """A greeting."""
    return builder.say("Hello! " + HELP)


@_rule(r"help(?: me)?|what can (?:you|i) (?:do|say|ask).*|how does (?:this|it) work|who are you|what are you")
def explain_yourself(builder: Builder, _: Match) -> str:
    """What can be said."""
    return builder.say("I find things in a picture and show them as masks. " + HELP)


@_rule(r"(?:good)?bye.*|see you.*")
def part(builder: Builder, _: Match) -> str:
    """A farewell."""
    return builder.say("Goodbye!")


@_rule(
    r"are you (?:really |quite |absolutely )?sure(?: (?:about|that|of).*)?",
    r"really|check (?:it|that|this|again)|verify.*",
)
def doubt(builder: Builder, _: Match) -> str:
    """Whether what was found is what was asked for."""
    return _verify(builder, builder.topic)


@_rule(
    r"(?:is|are) (?:it|that|this|they|those|these) (?:really |actually )?(?!photo|picture|image|taken)(?P<what>.+)",
)
def question_identity(builder: Builder, match: Match) -> str:
    """Whether what was found is something else: "is that a cat"."""
    return _verify(builder, match["what"]) if builder.focus else ""


def _verify(builder: Builder, query: str) -> str:
    if not builder.focus:
        return builder.say(NOTHING_MEANT)
    for name in builder.focus:
        builder.add("verify", mask=name, query=query or "the thing", closely=True)
    builder.show += builder.focus
    return "verify"


@_rule(
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


@_rule(r"(?:are there |is there )?more (?P<one>.+?) (?:than|or) (?P<other>.+)")
def count_both(builder: Builder, match: Match) -> str:
    """Which are more."""
    return _measure(builder, [_all_of(builder, match["one"]), _all_of(builder, match["other"])], "count")


def _all_of(builder: Builder, text: str) -> str:
    """A mask of all things of a kind: "dogs" is "the dogs", "red car" "the red cars"."""
    text = re.sub(r"^(?:all|every|each)\s+(?:of\s+)?(?:the\s+)?", "", text.strip(), flags=re.IGNORECASE)
    phrase = parse_phrase(text)
    text = text.replace(phrase.noun, plural(phrase.noun), 1) if phrase.noun.isascii() else text
    return builder.union(text if phrase.determiner or not phrase.noun.isascii() else f"the {text}")


@_rule(
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


@_rule(
    r"(?:how far(?: apart| away)? (?:is|are) |(?:what is |what's )?the distance (?:between |from ))"
    r"(?P<one>.+?) (?:from|to|and) (?P<other>.+?)(?: apart)?"
)
def distance(builder: Builder, match: Match) -> str:
    """How far two things are apart."""
    one, other = builder.union(match["one"]), builder.union(match["other"])
    builder.add("measure", mask=one, to=other)
    builder.show += [one, other]
    return "distance"


@_rule(
    r"(?:is|are) there (?:also )?(?P<what>.+?)(?: anywhere| visible| to be seen)?",
    r"(?:do|can) you (?:also )?(?:see|find|spot) (?P<what>.+?)(?: anywhere)?",
    r"does (?:it|this|the (?:picture|image|photo)) (?:show|contain|have) (?P<what>.+)",
)
def exists(builder: Builder, match: Match) -> str:
    """Whether there is something."""
    builder.show_target(match["what"])
    return "exists"


@_rule(
    r"where (?:can|could|should|may|might|do) (?:i|we|you|one|it|she|he|they) \w+(?: \w+){0,4}?,? ?(?P<place>"
    r"(?:(?:to |on )the )?(?:left|right) of .+|(?:above|below|between|around|near|next to|beside|under) .+)",
    r"(?:go|move|drive|walk|navigate|fly|put it|place it|park)(?: to)? (?P<place>.+)",
)
def go(builder: Builder, match: Match) -> str:
    """A place to go to."""
    return _where(builder, match["place"])


@_rule(
    r"(?:(?:find|show|mark|segment|select|where is|point (?:at|to))(?: me)? )?(?P<place>(?:the |some |any )?"
    r"(?:(?:free|empty|open|clear|unoccupied) \w+|space|spaces|room|spot|gap|area|region) .+)",
)
def free_space(builder: Builder, match: Match) -> str:
    """Free space beside something."""
    return _where(builder, match["place"]) if parse_place(match["place"]) else ""


def _where(builder: Builder, query: str) -> str:
    builder.show.append(builder.add("where", query=builder.spelled_out(query)))
    return "where"


@_rule(
    r"(?:remove|erase|delete|get rid of) the background",
    r"(?:make|turn) the background transparent",
)
def isolate(builder: Builder, _: Match) -> str:
    """Without the background: what is talked about, cut out."""
    if builder.focus:
        return _edit_mask(builder, builder.one(builder.focus), "cut_out")
    return _edit_mask(builder, builder.combine("complement", [builder.segment("the background")]), "cut_out")


@_rule(
    r"(?:blur|smudge|pixelate)(?: out)? (?P<what>.+)",
    r"(?:make|turn) (?P<what>.+?) (?:blurry|blurred|out of focus)",
)
def blur(builder: Builder, match: Match) -> str:
    """Blur something, or all but something."""
    return _edit(builder, match["what"], "blur")


@_rule(
    r"(?:gr[ea]y|desaturate)(?: out)? (?P<what>.+)",
    r"(?:make|turn|show) (?P<what>.+?) (?:in(?:to)? |to )?(?:gr[ea]y|gr[ea]yscale|black[- ]and[- ]white|colou?rless)",
)
def grey(builder: Builder, match: Match) -> str:
    """Take the colours of something, or of all but something."""
    return _edit(builder, match["what"], "grey")


@_rule(
    r"(?:cut ?out|extract|crop out|isolate|keep only|keep) (?P<what>.+)",
    r"cut (?P<what>.+) out",
)
def cut_out(builder: Builder, match: Match) -> str:
    """Everything else transparent."""
    return _edit(builder, match["what"], "cut_out")


@_rule(r"(?:remove|erase|delete|inpaint|get rid of|take away|take out) (?P<what>.+)")
def remove(builder: Builder, match: Match) -> str:
    """Filled from around it."""
    return _edit(builder, match["what"], "remove")


@_rule(
    rf"(?:make|paint|colou?r|recolou?r|turn|dye) (?P<what>.+?) (?:in(?:to)? |to )?{_COLOUR}",
    rf"(?:change|set) the colou?r of (?P<what>.+?) (?:in)?to {_COLOUR}",
)
def recolour(builder: Builder, match: Match) -> str:
    """Another colour."""
    return _edit(builder, match["what"], "recolour", match["colour"])


@_rule(rf"highlight (?P<what>.+?)(?: (?:in|with) {_COLOUR})?")
def highlight(builder: Builder, match: Match) -> str:
    """Marked in the picture itself."""
    return _edit(builder, match["what"], "highlight", match["colour"])


# What an operation becomes when it is asked for of "the background", "the rest" or "everything except".
_OF_THE_REST = {"blur": "blur_rest", "grey": "grey_rest", "remove": "cut_out"}


def _edit(builder: Builder, what: str, op: str, colour: str | None = None) -> str:
    if match := EVERYTHING_EXCEPT.fullmatch(what):
        return _edit_rest(builder, builder.union(match["what"]), op, colour)
    if BACKGROUND.fullmatch(what) or REST.fullmatch(what):
        if builder.focus:
            return _edit_rest(builder, builder.one(builder.focus), op, colour)
        if REST.fullmatch(what):
            return builder.say(NOTHING_MEANT)
    if _IT.fullmatch(what) and not builder.focus:
        return builder.say(NOTHING_MEANT)
    return _edit_mask(builder, builder.union(what), op, colour)


def _edit_rest(builder: Builder, name: str, op: str, colour: str | None) -> str:
    if op in _OF_THE_REST:
        return _edit_mask(builder, name, _OF_THE_REST[op], colour)
    return _edit_mask(builder, builder.combine("complement", [name]), op, colour)


def _edit_mask(builder: Builder, name: str, op: str, colour: str | None = None) -> str:
    builder.add("edit", mask=name, op=op, **({"colour": colour} if colour else {}))
    builder.show[:] = [name]
    return "edit"


@_rule(
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


@_rule(rf"(?:{EXCEPT}|without|not|leave out|exclude|drop|ignore) (?P<what>.+)")
def leave_out(builder: Builder, match: Match) -> str:
    """What was found, less something."""
    if not builder.focus:
        return ""
    whole = builder.one(builder.focus)
    builder.show[:] = [builder.combine("difference", [whole, *builder.target(match["what"])])]
    return "show"


@_rule(
    r"invert(?: (?:it|that|the mask|the selection))?",
    r"everything else|all else|the opposite|the rest",
)
def invert(builder: Builder, _: Match) -> str:
    """All but what was found."""
    if not builder.focus:
        return builder.say(NOTHING_MEANT)
    builder.show[:] = [builder.combine("complement", list(builder.focus))]
    return "show"


@_rule(
    r"(?:show |find )?the (?:overlap|intersection) of (?P<one>.+?) and (?P<other>.+)",
    r"where (?P<one>.+?) and (?P<other>.+?) (?:overlap|meet|touch)",
)
def overlap(builder: Builder, match: Match) -> str:
    """What two things share."""
    names = [builder.union(match["one"]), builder.union(match["other"])]
    builder.show.append(builder.combine("intersection", names))
    return "show"


@_rule(
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


@_rule(_QUESTION)
def converse(builder: Builder, match: Match) -> str:
    """A question that wants words."""
    spoken = builder.add("talk", message=match[0])
    builder.show.append(spoken)
    return "talk"
