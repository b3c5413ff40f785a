"""Conversations with the agent and what must come of them: the file, the ground truth, the checks.

What is where in each photo was drawn by a person who looked at the photo (`agent_instructions.yaml`), before any model
saw the question. `oracle.py` holds the same conversations without a model.

H W the photo's own size; a mask is a bool array `[H, W]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image, ImageDraw

from mllmseg.agent.loop import Agent, Reply
from mllmseg.agent.regions import iou
from mllmseg.agent.session import Mode, Session

Mask = npt.NDArray[np.bool_]
ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("agent_instructions.yaml")
# Outlines drawn by hand are a few pixels off; half is what COCO and the published benchmarks call found.
FITS = 0.5


@dataclass(frozen=True)
class Photo:
    """A photo, what is where in it, and by which names.

    Attributes:
        name: its file's name without the ending.
        image: RGB.
        regions: name → mask.
        names: phrase without article, in lower case → what it means, as `region` takes it.
        absent: phrases without article for what is not in the photo, which a planner may ask for too.
        caption: a sentence about all of it.
    """

    name: str
    image: Image.Image
    regions: dict[str, Mask]
    names: dict[str, str]
    absent: frozenset[str]
    caption: str

    @classmethod
    def from_file(cls, name: str, drawn: dict[str, Any]) -> Self:
        """Draws the regions of one photo of the file."""
        image = Image.open(ROOT / "examples" / f"{name}.jpg").convert("RGB")
        regions: dict[str, Mask] = {"all": np.ones((image.height, image.width), dtype=bool)}
        for region, shapes in drawn["regions"].items():
            regions[region] = _draw(shapes, image.size) if isinstance(shapes, list) else _combine(shapes, regions)
        names = {text.lower(): region for region, texts in drawn["names"].items() for text in texts}
        absent = frozenset(text.lower() for text in drawn["absent"])
        return cls(name, image, regions, names, absent, drawn["caption"])

    def region(self, text: str) -> Mask:
        """The mask of `cup`, of `all - cup - spoon`, of `left_eye + right_eye`."""
        return _combine(text, self.regions)


def _combine(text: str, regions: dict[str, Mask]) -> Mask:
    first, *rest = text.split()
    mask = regions[first].copy()
    for sign, name in zip(rest[::2], rest[1::2], strict=True):
        mask = mask | regions[name] if sign == "+" else mask & ~regions[name]
    return mask


def _draw(shapes: list[str], size: tuple[int, int]) -> Mask:
    """`box x0 y0 x1 y1`, `ellipse x y rx ry`, or a polygon `x,y x,y …`, together."""
    canvas = Image.new("1", size)
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        kind, *numbers = shape.split()
        if kind == "ellipse":
            x, y, rx, ry = map(int, numbers)
            pen.ellipse((x - rx, y - ry, x + rx, y + ry), fill=1)
        elif kind == "box":
            pen.rectangle(tuple(map(int, numbers)), fill=1)
        else:
            pen.polygon([tuple(map(int, point.split(","))) for point in shape.split()], fill=1)
    return np.array(canvas)


@dataclass(frozen=True)
class Turn:
    """A message and what must come of it. What is None is not looked at.

    Attributes:
        say: the message.
        shows: what each shown mask must be, in order; () for nothing at all.
        says: patterns that the words must hold.
        counts: how many parts were counted, one for each thing asked for.
        offers: what must be offered; "" for nothing.
        relation: how the shown pixels must lie to those of an earlier turn, exactly: `inside 1`, `outside 1`, `same 1`,
            `complement 1`, `around 1`.
        edit: which edit must have been made; "" for none. That no other pixel changed is always looked at.
        changed: which pixels must have changed, roughly.
        point: where the point to go to must lie.
        talks: whether the language model was asked for words.
    """

    say: str
    shows: tuple[str, ...] | None = None
    says: tuple[str, ...] = ()
    counts: tuple[int, ...] | None = None
    offers: str | None = None
    relation: str = ""
    edit: str | None = None
    changed: str = ""
    point: str = ""
    talks: bool | None = None


@dataclass(frozen=True)
class Conversation:
    """Turns about one photo; right where every turn is."""

    kind: str
    photo: Photo
    turns: tuple[Turn, ...]
    mode: Mode = Mode.STRICT


@dataclass
class Outcome:
    """What came of a conversation: for each failed turn its number and what was wrong, and all replies."""

    faults: list[str] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Nothing was wrong."""
        return not self.faults


def read_instructions(path: Path = FILE) -> list[Conversation]:
    """All conversations of the file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    photos = {name: Photo.from_file(name, drawn) for name, drawn in content["photos"].items()}
    found = []
    for kind, conversations in content["instructions"].items():
        for item in conversations:
            turns = tuple(Turn(**{key: _frozen(value) for key, value in turn.items()}) for turn in item["turns"])
            found.append(Conversation(kind, photos[item["photo"]], turns, Mode(item.get("mode", "strict"))))
    return found


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def hold(agent: Agent, session: Session, conversation: Conversation) -> Outcome:
    """Holds a conversation.

    Args:
        agent: with the model or an oracle.
        session: in which the photo was opened and nothing said; its mode becomes the conversation's.
        conversation: to be held.
    """
    outcome, session = Outcome(), replace(session, mode=conversation.mode)
    shown: list[Mask] = []
    for number, turn in enumerate(conversation.turns, 1):
        before = session
        reply = agent.ask(session, turn.say)
        session = reply.session
        shown.append(_shown(reply))
        outcome.replies.append(reply)
        for fault in _faults(turn, reply, before, conversation.photo, shown):
            outcome.faults.append(f"“{turn.say}”: {fault}" if number == 1 else f"… “{turn.say}”: {fault}")
    return outcome


def _shown(reply: Reply) -> Mask:
    image = reply.session.picture.image
    return np.logical_or.reduce(
        [np.zeros((image.height, image.width), dtype=bool), *(record.mask for record in reply.masks)]
    )


def _faults(turn: Turn, reply: Reply, before: Session, photo: Photo, shown: list[Mask]) -> Iterator[str]:
    """Every check of one turn; yields what is wrong."""
    if turn.shows is not None:
        yield from _shown_faults(turn.shows, reply, photo)
    for pattern in turn.says:
        if not re.search(pattern, reply.text, re.IGNORECASE):
            yield f"said “{reply.text[:160]}”, not /{pattern}/"
    results = [(step.tool, step.result) for step in reply.trace.steps if not step.error]
    if turn.counts is not None:
        counted = tuple(len(result["parts"]) for tool, result in results if tool == "measure")
        if counted != turn.counts:
            yield f"counted {', '.join(map(str, counted)) or 'nothing'}, not {', '.join(map(str, turn.counts))}"
    if turn.offers is not None:
        yield from _offer_faults(turn.offers, reply, photo)
    if turn.relation and not _relates(turn.relation, shown):
        yield f"what is shown is not: {turn.relation}"
    if turn.talks is not None and turn.talks != any(tool == "talk" for tool, _ in results):
        yield "the language model was not asked" if turn.talks else "the language model was asked"
    if turn.point:
        point = next((result["point"] for tool, result in results if tool == "where" and result["point"]), None)
        if point is None or not photo.region(turn.point)[point[1], point[0]]:
            yield f"the point {point} is not in {turn.point}"
    yield from _edit_faults(turn, reply, before, photo)


def _shown_faults(wanted: tuple[str, ...], reply: Reply, photo: Photo) -> Iterator[str]:
    if len(wanted) != len(reply.masks):
        found = ", ".join(f"“{record.phrase}”" for record in reply.masks) or "nothing"
        yield f"shows {found}, not {', '.join(wanted) or 'nothing'}"
        return
    for name, record in zip(wanted, reply.masks, strict=True):
        overlap = iou(record.mask, photo.region(name))
        if overlap < FITS:
            yield f"“{record.phrase}” has IoU {overlap:.2f} with {name}"


def _offer_faults(wanted: str, reply: Reply, photo: Photo) -> Iterator[str]:
    if (reply.offer is None) != (wanted == ""):
        yield f"offers “{reply.offer.phrase}”" if reply.offer else f"does not offer {wanted}"
    elif reply.offer is not None:
        overlap = iou(reply.session.mask(reply.offer.mask).mask, photo.region(wanted))
        if overlap < FITS:
            yield f"offers “{reply.offer.phrase}”, which has IoU {overlap:.2f} with {wanted}"


def _relates(relation: str, shown: list[Mask]) -> bool:
    how, number = relation.split()
    now, earlier = shown[-1], shown[int(number) - 1]
    if not now.any() or not earlier.any():
        return False
    return {
        "inside": not (now & ~earlier).any(),
        "outside": not (now & earlier).any(),
        "same": bool((now == earlier).all()),
        "complement": bool((now == ~earlier).all()),
        "around": not (earlier & ~now).any(),
    }[how]


def _edit_faults(turn: Turn, reply: Reply, before: Session, photo: Photo) -> Iterator[str]:
    made = [step for step in reply.trace.steps if step.tool == "edit" and not step.error]
    names = ", ".join(step.result["op"] for step in made)
    if turn.edit is not None and names != turn.edit:
        yield f"edits {names or 'nothing'}, not {turn.edit or 'nothing'}"
    old = np.array(before.canvas)
    changed = np.zeros(old.shape[:2], dtype=bool)
    for step in made:
        new = np.array(next(item.image for item in reply.session.edits if item.id == step.result["edit"]))
        op, mask = step.result["op"], reply.session.mask(step.result["mask"]).mask
        now: Mask = new[..., 3] == 0 if op == "cut_out" else (new != old).any(-1)
        kept = mask if op == "cut_out" or op.endswith("_rest") else ~mask
        if (now & kept).any() or (new[..., :3][kept] != old[kept]).any():
            yield f"{op} changed pixels outside its region"
        changed |= now
        old = old if op == "cut_out" else new
    if turn.changed and iou(changed, photo.region(turn.changed)) < FITS:
        yield f"what changed has IoU {iou(changed, photo.region(turn.changed)):.2f} with {turn.changed}"
