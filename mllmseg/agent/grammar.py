"""The planner's small grammar: what a plan is, how clauses and targets are taken apart, and how steps are gathered.

A message is clauses ("find the dog and blur the rest"), a clause is a command with an object, an object is a target:
things joined by "and", less what is excepted. `commands.RULES` are tried in order; what no rule
takes is a target itself, so that a phrase in any language is looked for as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mllmseg.agent.phrases import COLOUR_WORDS, PRONOUNS, build, is_plural, parse_phrase, plural, singular
from mllmseg.agent.tools import Call

Match = re.Match[str]
# Takes a clause that its pattern matches from end to end; returns the intent, or "" to leave it to later rules.
Rule = Callable[["Builder", Match], str]


@dataclass(frozen=True)
class Context:
    """What earlier messages left behind.

    Attributes:
        focus: ids of the masks that "it" and "them" mean.
        topic: the phrase last asked for, found or not.
        offered: whether a "yes" has something to say yes to.
        before: what "it" meant before the last message: "both" are that and this.
        alike: whether the masks in focus are of one kind, so that "the left one" is one of that kind.
    """

    focus: tuple[str, ...] = ()
    topic: str = ""
    offered: bool = False
    before: tuple[str, ...] = ()
    alike: bool = True


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        intent: what kind of answer is wanted: show, others, exists, count, measure, colour, compare, distance, edit,
            where, verify, talk; or a command to the session: say, undo, reset, hide, accept.
        steps: calls of tools; `$1` is the mask of the first step, `m1` one of the session.
        show: masks to show, as in `steps`.
        text: what to say, where the plan itself knows; the colour that a `colour` is asked about.
        topic: the phrase last asked for, spelled out.
    """

    intent: str
    steps: tuple[Call, ...] = ()
    show: tuple[str, ...] = ()
    text: str = ""
    topic: str = ""

    def __str__(self) -> str:
        """One line: `show: segment(the dog); combine(complement, $1) -> $2`."""
        steps = "; ".join(f"{call.tool}({', '.join(_plain(value) for value in call.arguments.values())})"
                          for call in self.steps)  # fmt: skip
        shown = " -> " + " ".join(self.show) if self.show else ""
        return f"{self.intent}: {steps}{shown}".strip()


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


_LEAD = re.compile(
    r"(?:(?:please|now|then|so|well|hey|ok|okay|alright|great|thanks|no|yes|sorry|oops|hm+|wait|actually|oh)\b[,!.]*\s+(?!matter)"
    r"|(?:can|could|would|will) you (?:please )?(?:also )?(?=\w)|i(?:'d| would) like (?:you )?to (?:see )?"
    r"|i want (?:you )?to (?:find |see )?|i want |i need |i mean(?:t)? |i (?:only |just )?care about "
    r"|(?:swap|switch) to |let'?s |just |only |try to "
    r"|if (?:you can|possible),?\s+"
    r"|(?:that(?:'s| is)|this is) (?:wrong|incorrect|not (?:it|right|correct|what i meant))[,.!;]+\s*)",
    re.IGNORECASE,
)
_TRAIL = re.compile(
    r"(?:[\s,]+(?:please|thanks|thank you|for me|now|instead|again|once more|if (?:you can|possible)"
    r"|in (?:this|the) (?:picture|image|photo|scene)|here)|,\s*(?:right|correct|ok|okay|yes|no)"
    r"|[\s,]+(?:and|or|plus)|\s*[.?!,;:。？！…]+)$",
    re.IGNORECASE,
)
_ALSO = re.compile(r"(?:and|also|plus|add|too)\b[,:]?\s+(?:also\s+|add\s+)?|(?P<end>[,\s]+(?:too|as well|also))$", re.I)
_VERBS = (
    r"segment|find|show|mark|outline|select|locate|point|detect|highlight|blur|gr[ea]y|desaturate|cut|extract|isolate|"
    r"remove|erase|delete|inpaint|make|paint|colou?r|recolou?r|turn|dye|change|count|measure|tell|hide|undo|invert|keep"
)
# A sentence ends where another word begins, but not in "no. 7" or "Mr. X".
CLAUSE = re.compile(
    rf"\s*(?:;|,?\s+and then|,?\s+then|,?\s+and|,)\s+(?=(?:then\s+)?(?:{_VERBS})\s)"
    r"|(?<!\bno)(?<!\bnr)(?<!\bmr)(?<!\bdr)(?<!\bst)[.!?]+\s+(?=\w)",
    re.IGNORECASE,
)
PRONOUN = r"(?:it|that|this|them|these|those|that one|this one)"
THIS_ONE = rf"(?:{PRONOUN}|the thing|the object|the (?:whole )?selection)"
_EVERYTHING = r"(?:everything|all|anything|the (?:whole|entire|rest of the) (?:picture|image|photo|scene))"
EXCEPT = r"(?:except(?: for)?|excluding|apart from|aside from|besides|other than|but not|minus)"
EVERYTHING_EXCEPT = re.compile(
    rf"(?:{_EVERYTHING}(?: else)?,? (?:{EXCEPT}|but|without|(?:that|which) (?:is|are)(?: not|n't)(?: part of)?)"
    r"|what(?:ever)? (?:is|are)(?: not|n't)(?: part of)?) (?P<what>.+)",
    re.IGNORECASE,
)
# "without a hat" tells who is meant, "without the hat" what is left out.
_WITHOUT = r"without(?= (?:the|its|his|her|their|that|this|these|those)\b)"
A_EXCEPT_B = re.compile(
    rf"(?P<what>.+?)(?:,? {EXCEPT}|, not|,? {_WITHOUT}) (?P<less>.+)",
    re.IGNORECASE,
)
REST = re.compile(r"(?:everything|all) else|the (?:rest|others?)|the opposite", re.IGNORECASE)
BACKGROUND = re.compile(r"(?:the |its |their )?(?:back|sur)(?:ground|roundings?)", re.IGNORECASE)
_JOINT = re.compile(
    r",\s+and\s+|,\s+|\s+and\s+(?:also\s+)?|\s+as well as\s+|\s+plus\s+|\s*[&+]\s*|\s+or\s+", re.IGNORECASE
)


NOTHING_MEANT = "I do not know yet what you mean by that: name a thing in the picture first."


class Rules:
    """Patterns of clauses and what to do about them, in order."""

    def __init__(self) -> None:
        self._entries: list[tuple[re.Pattern[str], Rule]] = []

    def on(self, *patterns: str) -> Callable[[Rule], Rule]:
        """Files a function for clauses that one of the patterns matches from end to end; it may decline by a ""."""

        def add(function: Rule) -> Rule:
            self._entries.extend((re.compile(pattern, re.IGNORECASE | re.DOTALL), function) for pattern in patterns)
            return function

        return add

    def __iter__(self) -> Iterator[tuple[re.Pattern[str], Rule]]:
        return iter(self._entries)


@dataclass
class Builder:
    """Gathers the steps of a plan, clause by clause."""

    context: Context
    rules: Sequence[tuple[re.Pattern[str], Rule]]
    steps: list[Call] = field(default_factory=list)
    show: list[str] = field(default_factory=list)
    text: str = ""
    topic: str = ""

    def __post_init__(self) -> None:
        self.topic = self.context.topic

    @property
    def focus(self) -> tuple[str, ...]:
        """What "it" means: the masks of an earlier clause, else those of an earlier message."""
        return tuple(self.show) or self.context.focus

    def clause(self, text: str) -> str:
        """Adds one clause; returns its intent."""
        also = False
        before = None
        while before != text:  # politeness comes in any order and number
            before = text
            text = _TRAIL.sub("", text.strip())
            if (also_here := _ALSO.match(text) or _ALSO.search(text)) and (
                also_here.start() == 0 or also_here["end"] is not None
            ):
                also, text = True, (text[: also_here.start()] + text[also_here.end() :])
            text = self._without_lead(text)
        if also:
            self.show = list(dict.fromkeys([*self.focus, *self.show]))
        for pattern, function in self.rules:
            if (match := pattern.fullmatch(text)) and (intent := function(self, match)):
                return intent
        self.show_target(text)
        return "show"

    def _without_lead(self, text: str) -> str:
        stripped = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
        return stripped if stripped.strip() else text

    def say(self, text: str) -> str:
        """The answer is known without any tool."""
        self.text = text
        return "say"

    def others(self, noun: str) -> str:
        """A mask of all of a kind but those that are meant already."""
        return self.combine("difference", [self.add("segment", query=f"the {plural(noun)}"), *self.context.focus])

    def show_others(self) -> str:
        """Shows all of the kind last asked for but those that are meant already; returns the intent."""
        noun = parse_phrase(self.topic).noun
        if not self.focus or not noun:
            return self.say(NOTHING_MEANT)
        self.show.append(self.others(noun))
        return "others"

    def show_target(self, text: str) -> list[str]:
        """Masks of a target, which are to be shown."""
        found = self.target(text)
        self.show += [name for name in found if name not in self.show]
        return found

    def target(self, text: str) -> list[str]:
        """Masks of a target: things joined by "and", less what is excepted."""
        text = re.sub(r"^(?:only|just)\s+", "", text.strip(" ,"), flags=re.IGNORECASE)
        if match := EVERYTHING_EXCEPT.fullmatch(text):
            return [self.combine("complement", self.target(match["what"]))]
        if match := A_EXCEPT_B.fullmatch(text):
            return [self.combine("difference", [self.union(match["what"]), *self.target(match["less"])])]
        if REST.fullmatch(text) and self.focus:
            return [self.combine("complement", list(self.focus))]
        if re.fullmatch(THIS_ONE, text, re.IGNORECASE) and self.focus:
            return list(self.focus)
        return [self.segment(item) for item in split_things(text)]

    def union(self, text: str) -> str:
        """A target as one mask."""
        return self.one(self.target(text))

    def one(self, names: Sequence[str]) -> str:
        """Several masks as one."""
        return names[0] if len(names) == 1 else self.combine("union", names)

    def segment(self, text: str) -> str:
        """A mask of what a phrase names, after "it" and "the one" have been put into words."""
        whole = re.sub(r"^(?:all|the whole|most|each|every one) of (?=\w)", "", text.strip(), flags=re.IGNORECASE)
        phrase = self.spelled_out(whole)
        self.topic = phrase
        return self.add("segment", query=phrase)

    def combine(self, op: str, names: Sequence[str]) -> str:
        """A mask made of others."""
        return self.add("combine", op=op, masks=list(names))

    def add(self, tool: str, **arguments: Any) -> str:
        """Adds a call, or finds the same one made before; returns the name of its mask."""
        call = Call(tool, arguments)
        if call not in self.steps:
            self.steps.append(call)
        return f"${self.steps.index(call) + 1}"

    def spelled_out(self, text: str) -> str:
        """The phrase in full: after "the red dog", "the one behind it" is "the dog behind the red dog"."""
        text = text.strip()
        topic = parse_phrase(self.topic) if self.topic else None
        if topic is None or not topic.noun:
            return text
        if re.fullmatch(THIS_ONE, text, re.IGNORECASE):  # asked for, but not found
            return _known(self.topic)
        phrase = parse_phrase(text)
        head = text[: text.find(phrase.tails[0].text)] if phrase.tails else text
        rest = text[len(head) :]
        if phrase.determiner.lower() in _POSSESSIVES and phrase.noun.lower() != topic.noun.lower():
            return f"{build('the', phrase.adjectives, phrase.noun, phrase.tails)} of {_known(self.topic)}"
        spelled = re.sub(r"\bones\b(?=\s*$)", plural(topic.noun), head)
        spelled = re.sub(r"\bone\b(?=\s*$)", singular(topic.noun), spelled)
        if _is_attribute_alone(spelled):
            spelled = f"{spelled.strip()} {topic.noun} "
        anchor = self.topic if not topic.tails or is_plural(topic.noun) else _known(self.topic)
        rest = re.sub(rf"\b(?:{'|'.join(sorted(PRONOUNS))})\b(?=\s*$)", lambda _: anchor, rest)
        return " ".join(f"{spelled}{rest}".split())


def _known(phrase: str) -> str:
    """A phrase as an anchor: "a car" asked for before is "the car" now."""
    return re.sub(r"^(?:an?|any|some)\s", "the ", phrase, flags=re.IGNORECASE)


def _is_attribute_alone(head: str) -> bool:
    """Whether a noun is understood, as in "the left" or "red"."""
    last = head.lower().split()[1:] if head.lower().startswith(("the ", "a ")) else head.lower().split()
    return len(last) == 1 and (last[0] in COLOUR_WORDS - {"orange"} or last[0] in _BARE)


_POSSESSIVES = frozenset({"its", "his", "her", "their"})
_BARE = frozenset(
    {"left", "right", "leftmost", "rightmost", "largest", "biggest", "smallest", "larger", "bigger", "smaller", "upper"}
    | {"lower", "topmost", "lowest", "middle"}
)


_FILLER = re.compile(r"^(?:(?:then|also|maybe|perhaps|if (?:you can|possible)|please)(?:\s+|$))+", re.IGNORECASE)


def split_things(text: str) -> list[str]:
    """The things of "the dog, the cat and the ball"; "black and white", "between A and B" stay together."""
    pieces: list[str] = []
    start = 0
    for joint in _JOINT.finditer(text):
        piece, rest = text[start : joint.start()], text[joint.end() :]
        if _splits(piece, rest):
            pieces.append(piece)
            start = joint.end()
    pieces = [_FILLER.sub("", piece.strip()) for piece in (*pieces, text[start:])]
    return [re.sub(r"^(?:both|and)\s+", "", piece, flags=re.IGNORECASE) for piece in pieces if piece] or [text]


def _splits(piece: str, rest: str) -> bool:
    if not piece.strip() or not rest.strip():
        return False
    if re.search(r"\bbetween\s+(?:(?!\band\b).)*$", piece, re.IGNORECASE):
        return False
    before, after = piece.lower().split()[-1], rest.lower().split()[0]
    attributes = COLOUR_WORDS | _BARE
    if before in attributes and (after in attributes or after == "white"):
        return False
    if before in attributes and before not in ("orange",) and len(piece.split()) > 1 and parse_phrase(piece).tails:
        return True
    # A clause goes on after "and": "the man who sits and reads", "the dog and that is it".
    return not re.match(r"(?:is|are|was|has|have|holds|wears|not)\b", rest, re.IGNORECASE)
