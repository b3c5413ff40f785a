"""What the agent says about the results of its tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mllmseg.agent.judge import ELSEWHERE
from mllmseg.agent.phrases import is_plural, parse_phrase
from mllmseg.agent.regions import colour_key
from mllmseg.agent.schemas import EditResult, Found, Measurement, Place, Result, Spoken, Verdict

if TYPE_CHECKING:
    from mllmseg.agent.session import Exchange
    from mllmseg.agent.trace import Step

_DONE = {
    "cut_out": "Cut out {x}; everything else is transparent.",
    "blur": "Blurred {x}.",
    "blur_rest": "Blurred everything except {x}.",
    "grey": "Took the colour out of {x}.",
    "grey_rest": "Took the colour out of everything except {x}.",
    "recolour": "Made {x} {c}.",
    "highlight": "Highlighted {x}.",
    "remove": "Removed {x} and filled the gap from around it.",
}


def describe(intent: str, results: Sequence[Result]) -> str:
    """The answer to a message whose steps all went well.

    Args:
        intent: of the plan.
        results: of its steps, without those whose target was not there.
    """
    if intent == "count":
        return _counts([item for item in results if isinstance(item, Measurement)])
    if intent == "compare" and len(results) == 2:
        return _compared([item for item in results if isinstance(item, Measurement)])
    sayings = {
        Measurement: _measured,
        Verdict: _judged,
        EditResult: _edited,
        Place: _placed,
        Spoken: lambda item: item.text,
    }
    said = [sayings[type(item)](item) for item in results if type(item) in sayings]  # type: ignore[operator]
    if said:
        return " ".join(said)
    return _shown(intent, [item for item in results if isinstance(item, Found)])


def reasons(exchanges: Sequence[Exchange]) -> str:
    """How the last answer came about, from its trace."""
    steps = [reason for exchange in exchanges for step in exchange.trace.steps if (reason := _reason(step))]
    if not steps:
        return "There is nothing to explain yet: ask for something in the picture first."
    asked = exchanges[-1].trace
    threshold = "" if asked.threshold is None else f" (threshold {asked.threshold:.2f})"
    return f"{'; '.join(steps)}. Mode: {asked.mode}{threshold}. The trace has every step."


def _reason(step: Step) -> str:
    result = step.result
    if step.error:
        return f"{step.tool} failed: {step.error}"
    if result["kind"] == "mask" and step.tool in ("segment", "where"):
        odds = f"P {result['score']:.2f} that there is {_name(result['phrase'])}"
        return odds if result["exists"] else f"{odds}, too little"
    if result["kind"] == "verdict":
        rivals = [f"{_name(name)} {odds:.2f}" for name, odds in result["rivals"].items()]
        against = f" against {', '.join(rivals)}" if rivals else ""
        return f"checked {_name(result['query'])}: P {result['score']:.2f}{against}"
    if result["kind"] == "measurement":
        return (
            f"{_name(result['phrase'])} is {result['colour']}, {result['place']}, {result['share']:.1%} of the picture"
        )
    return {"edit": f"{step.tool} {result.get('op', '')}", "words": "asked the language model"}.get(result["kind"], "")


def _shown(intent: str, masks: Sequence[Found]) -> str:
    """Of computed masks only what is shown in the end counts; which that is, the planner has sorted out."""
    if not masks:
        return ""
    names = [_name(item.phrase) for item in masks]
    listed = _listed(names)
    several = len(masks) > 1 or is_plural(parse_phrase(masks[0].phrase).noun)
    empty = [_name(item.phrase) for item in masks if not item.share]
    if len(empty) == len(masks):
        return f"Nothing is left: {listed} {'have' if several else 'has'} no pixel."
    if intent == "exists":
        return f"Yes: {listed}, {_extent(masks)}."
    return f"{'Here are' if several else 'Here is'} {listed}, {_extent(masks)}."


def _listed(items: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(items[:-1]), items[-1]) if part)


def _name(phrase: str) -> str:
    return f"“{phrase}”"


def _extent(masks: Sequence[Found]) -> str:
    first = masks[0]
    # Of what fills most of the picture, its middle says nothing.
    where = f", {first.place}" if len(masks) == 1 and first.place and first.share < 0.5 else ""
    return f"{_listed([f'{item.share:.1%}' for item in masks])} of the picture{where}"


def _counts(measured: Sequence[Measurement]) -> str:
    counts = [f"{len(item.parts)} for {_name(item.phrase)}" for item in measured]
    touching = " (things that touch count as one)" if any(item.parts for item in measured) else ""
    return f"I count {' and '.join(counts)}{touching}." if counts else ""


def _compared(measured: Sequence[Measurement]) -> str:
    """Of what the picture shows; how large things are in the world it does not tell."""
    larger, smaller = sorted(measured, key=lambda item: -item.area)
    shares = f"{larger.share:.1%} of it against {smaller.share:.1%}"
    return f"{_name(larger.phrase)} is larger in the picture than {_name(smaller.phrase)}: {shares}."


def _measured(item: Measurement) -> str:
    if item.distance is not None:
        return "They touch or overlap." if item.distance <= 1 else f"They are {item.distance:.0f} pixels apart."
    x, y, width, height = item.box
    return (
        f"{_name(item.phrase)} covers {item.share:.1%} of the picture ({item.area:,} pixels) in a box of {width} × "
        f"{height} pixels at ({x}, {y}), {item.place}; most of it is {item.colour}."
    )


def _judged(item: Verdict) -> str:
    alone = "" if item.probability is None else f", {item.probability:.2f} seen alone"
    odds = f"P {item.score:.2f} in the whole picture{alone}"
    if item.fits:
        return f"Yes, as far as I can tell this is {_name(item.query)} ({odds})."
    elsewhere = "; but what it names is elsewhere in the picture" if item.overlap < ELSEWHERE else ""
    instead = f"; {_name(item.rival)} fits better, P {item.rivals[item.rival]:.2f}" if item.rival else ""
    return f"No, I doubt that this is {_name(item.query)} ({odds}{elsewhere}{instead})."


def coloured(asked: str, measured: Sequence[Measurement]) -> str:
    """Whether things have a colour, by the one that most of their pixels have."""
    asked = colour_key(asked)
    said = [
        f"Yes, most of {_name(item.phrase)} is {asked}."
        if item.colour == asked
        else f"No, most of {_name(item.phrase)} is {item.colour}, not {asked}."
        for item in measured
    ]
    return " ".join(said)


def _edited(item: EditResult) -> str:
    said = _DONE[item.op].format(x=_name(item.phrase), c=item.colour)
    elsewhere = item.op == "cut_out" or item.op.endswith("_rest")
    return said if elsewhere else f"{said} Every pixel outside is untouched."


def _placed(item: Place) -> str:
    if item.point is None:
        return f"There is no free space for {_name(item.phrase)}."
    return f"Here is {_name(item.phrase)}, {item.share:.1%} of the picture; a point well inside is {item.point}."
