"""The edits that can be asked for: blur, grey, cut out, remove, recolour, highlight, of a thing or of all the rest."""

from __future__ import annotations

import re

from mllmseg.agent.grammar import BACKGROUND, EVERYTHING_EXCEPT, NOTHING_MEANT, REST, THIS_ONE, Builder, Match, Rules
from mllmseg.agent.phrases import COLOUR_WORDS

EDIT_RULES = Rules()

_IT = re.compile(THIS_ONE, re.IGNORECASE)
_COLOUR = rf"(?P<colour>#[0-9a-f]{{6}}|{'|'.join(sorted(COLOUR_WORDS))})"


@EDIT_RULES.on(
    r"(?:remove|erase|delete|get rid of) the background",
    r"(?:make|turn) the background transparent",
)
def isolate(builder: Builder, _: Match) -> str:
    """Without the background: what is talked about, cut out."""
    if builder.focus:
        return _edit_mask(builder, builder.one(builder.focus), "cut_out")
    return _edit_mask(builder, builder.combine("complement", [builder.segment("the background")]), "cut_out")


@EDIT_RULES.on(
    r"(?:blur|smudge|pixelate)(?: out)? (?P<what>.+)",
    r"(?:make|turn) (?P<what>.+?) (?:blurry|blurred|out of focus)",
)
def blur(builder: Builder, match: Match) -> str:
    """Blur something, or all but something."""
    return _edit(builder, match["what"], "blur")


@EDIT_RULES.on(
    r"(?:gr[ea]y|desaturate)(?: out)? (?P<what>.+)",
    r"(?:make|turn|show) (?P<what>.+?) (?:in(?:to)? |to )?(?:gr[ea]y|gr[ea]yscale|black[- ]and[- ]white|colou?rless)",
)
def grey(builder: Builder, match: Match) -> str:
    """Take the colours of something, or of all but something."""
    return _edit(builder, match["what"], "grey")


@EDIT_RULES.on(
    r"(?:cut ?out|extract|crop out|isolate|keep only|keep) (?P<what>.+)",
    r"cut (?P<what>.+) out(?: of (?:it|(?:the|this) (?:picture|image|photo)))?",
)
def cut_out(builder: Builder, match: Match) -> str:
    """Everything else transparent."""
    return _edit(builder, match["what"], "cut_out")


@EDIT_RULES.on(r"(?:remove|erase|delete|inpaint|get rid of|take away|take out) (?P<what>.+)")
def remove(builder: Builder, match: Match) -> str:
    """Filled from around it."""
    return _edit(builder, match["what"], "remove")


@EDIT_RULES.on(
    rf"(?:make|paint|colou?r|recolou?r|turn|dye) (?P<what>.+?) (?:look )?(?:in(?:to)? |to )?{_COLOUR}",
    rf"(?:change|set) the colou?r of (?P<what>.+?) (?:in)?to {_COLOUR}",
)
def recolour(builder: Builder, match: Match) -> str:
    """Another colour."""
    return _edit(builder, match["what"], "recolour", match["colour"])


@EDIT_RULES.on(
    rf"highlight (?P<what>.+?)(?: (?:in|with) {_COLOUR})?",
    rf"(?:mark|outline|shade) (?P<what>.+?) (?:in|with) {_COLOUR}",
)
def highlight(builder: Builder, match: Match) -> str:
    """Marked in the picture itself."""
    return _edit(builder, match["what"], "highlight", match["colour"])


_BARE: dict[str, str] = {
    "blur": "blur", "gray": "grey", "grey": "grey", "cut": "cut_out", "cutout": "cut_out", "extract": "cut_out",
    "isolate": "cut_out", "remove": "remove", "erase": "remove", "delete": "remove", "highlight": "highlight",
}  # fmt: skip


@EDIT_RULES.on(rf"(?P<verb>{'|'.join(_BARE)})(?: out)?")
def bare(builder: Builder, match: Match) -> str:
    """An edit of what is talked about."""
    return _edit(builder, "it", _BARE[match["verb"].lower()])


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
