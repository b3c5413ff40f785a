"""The agent's tools: each takes a session and checked arguments and gives a new session and a result.

Shapes: H W the picture's own size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic

from mllmseg.agent import edits, regions
from mllmseg.agent.judge import judge
from mllmseg.agent.phrases import parse_place
from mllmseg.agent.regions import Mask
from mllmseg.agent.schemas import (
    CombineArguments,
    EditArguments,
    EditResult,
    Found,
    MeasureArguments,
    Measurement,
    PickArguments,
    Place,
    RefineArguments,
    Result,
    SegmentArguments,
    Spoken,
    Strict,
    TalkArguments,
    Verdict,
    VerifyArguments,
    WhereArguments,
    json_schema,
)
from mllmseg.agent.session import Exchange, MaskRecord, Session
from mllmseg.errors import ConfigError, DataError
from mllmseg.registry import Registry

# Less than this share of a mask of several is none of them, more is not one of them but all that was found.
SLIVER, WHOLE = 0.05, 0.8
# Messages of the conversation that the language model reads before a question.
TALK_TURNS = 4

Function = Callable[[Session, Any], tuple[Session, Result]]


@dataclass(frozen=True)
class Tool:
    """A tool: its name, what it is for, its arguments and the function."""

    name: str
    description: str
    arguments: type[Strict]
    function: Function

    @property
    def schema(self) -> dict[str, Any]:
        """As function calling describes a tool."""
        described = {"name": self.name, "description": self.description, "parameters": json_schema(self.arguments)}
        return {"type": "function", "function": described}


TOOLS: Registry[Tool] = Registry("tool")


@dataclass(frozen=True)
class Call:
    """A tool's name and arguments, not checked yet."""

    tool: str
    arguments: dict[str, Any]


def call_tool(session: Session, call: Call) -> tuple[Session, Result]:
    """Checks the arguments and runs the tool.

    Raises:
        ConfigError: no such tool, or arguments that do not fit its schema.
        MLLMSegError: what the tool itself raises.
    """
    tool = TOOLS.get(call.tool)
    try:
        arguments = tool.arguments.model_validate(call.arguments)
    except pydantic.ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'all'}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"tool '{call.tool}' cannot take {str(call.arguments)[:200]} ({found})") from error
    return tool.function(session, arguments)


def _tool(arguments: type[Strict]) -> Callable[[Function], Function]:
    """Files a function as the tool of its name; its docstring's first line is what planners read."""

    def add(function: Function) -> Function:
        name = function.__name__
        TOOLS.register(name)(Tool(name, (function.__doc__ or "").split("\n")[0], arguments, function))
        return function

    return add


@_tool(SegmentArguments)
def segment(session: Session, asked: SegmentArguments) -> tuple[Session, Found]:
    """Finds what a phrase names and makes a mask of it; says where there is no such thing."""
    segmenter = session.picture.segmenter
    # At threshold 0 there is always a mask: whether it counts can be decided anew without asking again.
    answer = segmenter.segment(asked.query, threshold=0.0)
    session = session.add_answer(answer, segmenter.threshold if session.threshold is None else session.threshold)
    return session, found(session.masks[-1])


@_tool(VerifyArguments)
def verify(session: Session, asked: VerifyArguments) -> tuple[Session, Verdict]:
    """Checks whether a mask shows what a phrase says, against phrases that say the contrary."""
    record = _own_mask(session, asked.mask)
    if not record.mask.any():
        raise DataError(f"mask '{record.id}' is empty: there is nothing to verify")
    return session, judge(session, record, asked.query or record.phrase, closely=asked.closely)


@_tool(RefineArguments)
def refine(session: Session, asked: RefineArguments) -> tuple[Session, Found]:
    """Corrects a mask, or makes a new one, from clicked points or a box by SAM's own prompts."""
    from mllmseg.inference.refine import refine_mask

    record = _own_mask(session, asked.mask) if asked.mask is not None else None
    segmenter: Any = session.picture.segmenter
    mask, score = refine_mask(
        segmenter.model.vision.sam,
        segmenter.features,
        points=[(point.x, point.y, point.inside) for point in asked.points],
        box=asked.box,
        prior=record.mask if record is not None and record.mask.any() else None,
    )
    session = session.add_mask(record.phrase if record else "what was clicked", mask.numpy(), score=score)
    return session, found(session.masks[-1])


@_tool(CombineArguments)
def combine(session: Session, asked: CombineArguments) -> tuple[Session, Found]:
    """Makes a mask from others: union, intersection, difference (the first without the others), complement."""
    records = [_own_mask(session, name) for name in asked.masks]
    mask = regions.combine(asked.op, [record.mask for record in records])
    phrases = [record.phrase for record in records]
    name = {
        "union": " and ".join(phrases),
        "intersection": f"where {' and '.join(phrases)} overlap",
        "difference": f"{phrases[0]} except {' and '.join(phrases[1:])}" if phrases[1:] else phrases[0],
        "complement": f"everything except {' and '.join(phrases)}",
    }[asked.op]
    session = session.add_mask(name, mask)
    return session, found(session.masks[-1])


@_tool(PickArguments)
def pick(session: Session, asked: PickArguments) -> tuple[Session, Found]:
    """Takes one thing out of a mask of several: the leftmost, rightmost, topmost or lowest."""
    record = _own_mask(session, asked.mask)
    parts = regions.parts(record.mask)
    if len(parts) > 1:
        one = regions.outermost(parts, asked.end)
    elif asked.apart or not parts:
        one = np.zeros_like(record.mask)
    else:
        one = _thing_at(session, record.mask, asked.end)
    session = session.add_mask(asked.query or f"the {asked.end} of {record.phrase}", one, score=record.score)
    return session, found(session.masks[-1])


@_tool(MeasureArguments)
def measure(session: Session, asked: MeasureArguments) -> tuple[Session, Measurement]:
    """Measures a mask: area, share of the picture, box, place, main colour, parts, distance to another mask."""
    record = _own_mask(session, asked.mask)
    area = int(record.mask.sum())
    distance = None
    if asked.to is not None:
        distance = round(regions.distance(record.mask, _own_mask(session, asked.to).mask), 2)
    return session, Measurement(
        mask=record.id,
        phrase=record.phrase,
        area=area,
        share=round(area / record.mask.size, 6),
        box=regions.bounding_box(record.mask),
        place=regions.place(record.mask),
        colour=regions.colour_name(np.array(session.canvas), record.mask),  # as it is seen: edits count
        parts=tuple(int(part.sum()) for part in regions.parts(record.mask)),
        distance=distance,
    )


@_tool(EditArguments)
def edit(session: Session, asked: EditArguments) -> tuple[Session, EditResult]:
    """Changes only the masked region of the picture (or only the rest of it); edits add up."""
    record, before = _own_mask(session, asked.mask), session.canvas
    after = edits.edit(before, record.mask, asked.op, colour=asked.colour)
    if asked.op == "cut_out":
        changed = int((~record.mask).sum())
    else:
        changed = int((np.array(before) != np.array(after)).any(-1).sum())
    session = session.add_edit(asked.op, after)
    return session, EditResult(
        edit=session.edits[-1].id,
        mask=record.id,
        phrase=record.phrase,
        op=asked.op,
        colour=asked.colour,
        changed=changed,
    )


@_tool(WhereArguments)
def where(session: Session, asked: WhereArguments) -> tuple[Session, Place]:
    """Finds a place to go to: free space beside things, or a thing itself; gives a region and a point in it."""
    place = parse_place(asked.query)
    segmenter = session.picture.segmenter
    answers = segmenter.segment(list(place[1]) if place else [asked.query], threshold=session.threshold)
    missing = next((answer.query for answer in answers if not answer.exists), "")
    masks = [answer.union.cpu().numpy() for answer in answers]
    if missing:
        mask = np.zeros_like(masks[0])
    elif place:
        taken = [record.mask for record in session.visible if not _encloses(record.mask, masks)]
        mask = regions.free_space(place[0], masks, taken)
    else:
        mask = masks[0]
    session = session.add_mask(asked.query, mask, score=min(answer.score for answer in answers))
    record = session.masks[-1]
    point = regions.inner_point(record.mask) if record.exists else None
    return session, Place(**found(record).model_dump(), point=point, missing=missing)


@_tool(TalkArguments)
def talk(session: Session, asked: TalkArguments) -> tuple[Session, Spoken]:
    """Asks the picture's own language model a question that wants words; it may point at something too."""
    messages = []
    # Only what it said itself: a small model takes the agent's sentences, numbers and all, for a pattern to continue.
    said = [item for item in session.exchanges if any(step.tool == "talk" for step in item.trace.steps)]
    for exchange in said[-TALK_TURNS:]:
        messages += [_say("user", exchange.message), _say("assistant", exchange.answer) | _decision(exchange)]
    messages.append(_say("user", asked.message))
    answer = session.picture.segmenter.chat(messages, threshold=session.threshold)
    score = round(answer.score, 6)
    if not answer.exists:
        return session, Spoken(text=answer.answer, mask=None, score=score)
    session = session.add_mask(asked.message, answer.union.cpu().numpy(), score=answer.score)
    return session, Spoken(text=answer.answer, mask=session.masks[-1].id, score=score)


def found(record: MaskRecord) -> Found:
    """A mask as a result says it."""
    return Found(
        mask=record.id,
        phrase=record.phrase,
        exists=record.exists,
        score=round(record.score, 6),
        share=round(float(record.mask.mean()), 6),
        box=regions.bounding_box(record.mask),
        place=regions.place(record.mask),
    )


def _thing_at(session: Session, mask: Mask, end: regions.End) -> Mask:
    """Of things that touch, what SAM takes for one at that end; empty where that is no part of them, or all."""
    from mllmseg.inference.refine import refine_mask

    segmenter: Any = session.picture.segmenter
    nothing = np.zeros_like(mask)
    if not hasattr(segmenter, "model"):  # one without a SAM to ask
        return nothing
    x, y = regions.inner_point(regions.tip(mask, end))
    thing, _ = refine_mask(segmenter.model.vision.sam, segmenter.features, points=[(x, y, True)])
    one = mask & thing.numpy()
    return one if SLIVER <= one.sum() / mask.sum() <= WHOLE else nothing


def _own_mask(session: Session, name: str) -> MaskRecord:
    """A mask of the current picture."""
    record = session.mask(name)
    if record.picture != session.picture.id:
        raise DataError(f"mask '{name}' belongs to picture '{record.picture}', not to '{session.picture.id}'")
    return record


def _encloses(mask: Mask, others: list[Mask]) -> bool:
    """Whether a mask covers nearly all of one of the others, as a road does the car on it: then it is ground."""
    return any((mask & other).sum() > 0.9 * other.sum() and mask.sum() > 2 * other.sum() for other in others)


def _say(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def _decision(exchange: Exchange) -> dict[str, bool]:
    """What the language model decided in an answer of its own, {} where nothing: without it, it stops deciding."""
    spoken = [step.result for step in exchange.trace.steps if step.tool == "talk" and step.result]
    decided = bool(spoken) and spoken[-1]["score"] > 0
    return {"exists": spoken[-1]["mask"] is not None} if decided else {}
