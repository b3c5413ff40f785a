"""The agent's tools for other agents (MCP), over pictures and run-length codes. Docstrings are what MCP clients read.

A tool has one output, and that is text or a picture: of several, and of JSON, Gradio's MCP server would make Python's
`repr`.

Shapes: H W a picture's own size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pydantic
from PIL import Image

from mllmseg.agent.regions import Mask
from mllmseg.agent.schemas import Found
from mllmseg.agent.session import Session
from mllmseg.agent.tools import Call, call_tool
from mllmseg.demo import actions
from mllmseg.demo.conversation import Talk, ask
from mllmseg.demo.exports import rle
from mllmseg.demo.loading import Loader
from mllmseg.demo.uploads import MAX_PIXELS, read_upload
from mllmseg.errors import DataError, MLLMSegError
from mllmseg.inference.serialize import to_json
from mllmseg.models.postprocess import decode_rle, encode_rle

MAX_CODE = 4_000_000  # letters of a run-length code
JSON = dict[str, Any]


class Tools:
    """The agent's tools over pictures and run-length codes. Keeps nothing but the model."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def segment(self, image: str, query: str, threshold: float = 0.5) -> str:
        """Finds what a phrase names in a picture, or says that there is no such thing.

        Args:
            image: the picture.
            query: what to look for, such as "the dog on the left".
            threshold: it exists where its probability reaches this.

        Returns:
            JSON: the answer, with masks[0].rle (a run-length code), box and score.
        """
        with Friendly():
            session = open_picture(self.loader, image)
            segmenter: Any = session.picture.segmenter
            return _text(to_json(segmenter.segment(query, threshold=threshold), session.picture.name))

    def ask(self, image: str, message: str, mode: str = "strict", threshold: float = 0.5) -> str:
        """Answers one message about a picture: several things, exceptions, counting, measuring, places.

        Args:
            image: the picture.
            message: what to say, such as "everything except the people" or "how many cups are there?".
            mode: strict says no where nothing fits exactly, lenient shows the closest thing.
            threshold: a thing exists where its probability reaches this.

        Returns:
            JSON: words, masks, an offer where nothing fits, the steps taken.
        """
        with Friendly():
            return _text(reply_values(ask_once(self.loader, None, image, message, mode, threshold)))

    def verify(self, image: str, mask: str, query: str) -> str:
        """Checks whether a mask shows what a phrase says, against phrases that say the contrary.

        Args:
            image: the picture.
            mask: a run-length code as `segment` gives it: {"size": [height, width], "counts": "…"}.
            query: what it should show.

        Returns:
            JSON: whether it fits, with probabilities and rival phrases.
        """
        with Friendly():
            session = open_picture(self.loader, image)
            session = session.add_mask(query or "it", _mask(mask, session))
            return _text(_call(session, "verify", mask="m1", query=query)[1])

    def refine(self, image: str, points: str = "", box: str = "", mask: str = "") -> str:
        """Corrects a mask, or makes a new one, from points or a box.

        Args:
            image: the picture.
            points: a JSON list such as [{"x": 10, "y": 20, "inside": true}], in pixels.
            box: a JSON list [x, y, width, height] in pixels.
            mask: the run-length code of the mask to correct; leave out for a new one.

        Returns:
            JSON: the new mask as a run-length code, with its score.
        """
        with Friendly():
            session = open_picture(self.loader, image)
            arguments: JSON = {"points": _json(points, "points") or [], "box": _json(box, "box")}
            if mask:
                session = session.add_mask("it", _mask(mask, session))
                arguments["mask"] = "m1"
            return _text(_with_mask(*_call(session, "refine", **arguments)))

    def combine(self, op: str, masks: str) -> str:
        """Makes a mask from others.

        Args:
            op: union, intersection, difference (the first without the others) or complement (none of them).
            masks: a JSON list of run-length codes of one size.

        Returns:
            JSON: the new mask as a run-length code.
        """
        with Friendly():
            codes = _json(masks, "masks")
            if not isinstance(codes, list) or not codes:
                raise DataError("masks takes a JSON list of run-length codes")
            decoded = [_decode(code) for code in codes[:32]]
            height, width = decoded[0].shape
            session = Session().add_picture(Image.new("RGB", (width, height)), self.loader.agent.segmenter)
            for array in decoded:
                session = session.add_mask("it", array)
            made = _call(session, "combine", op=op, masks=[record.id for record in session.masks])
            return _text(_with_mask(*made))

    def measure(self, image: str, mask: str, to: str = "") -> str:
        """Measures a mask: area, share of the picture, box, place, main colour, parts, distance to another mask.

        Args:
            image: the picture.
            mask: its run-length code.
            to: the run-length code of another mask, to measure the distance.

        Returns:
            JSON: all of it in pixels.
        """
        with Friendly():
            session = open_picture(self.loader, image, look=False)
            session = session.add_mask("it", _mask(mask, session))
            if to:
                session = session.add_mask("the other", _mask(to, session))
            return _text(_call(session, "measure", mask="m1", to="m2" if to else None)[1])

    def edit(self, image: str, mask: str, op: str, colour: str = "") -> Image.Image:
        """Changes a region of a picture; every pixel outside of it keeps its bits (*_rest: inside of it).

        Args:
            image: the picture.
            mask: the region's run-length code.
            op: cut_out, blur, blur_rest, grey, grey_rest, recolour, highlight or remove.
            colour: a colour's name or #rrggbb, for recolour and highlight.

        Returns:
            The edited picture as PNG.
        """
        with Friendly():
            session = open_picture(self.loader, image, look=False)
            session = session.add_mask("it", _mask(mask, session))
            session, _ = _call(session, "edit", mask="m1", op=op, colour=colour or None)
            return session.edits[-1].image

    def where(self, image: str, query: str) -> str:
        """Finds a place to go to: free space beside things, or a thing itself.

        Args:
            image: the picture.
            query: such as "the free space left of the red car".

        Returns:
            JSON: the region as a run-length code, and a point (x, y) well inside.
        """
        with Friendly():
            return _text(_with_mask(*_call(open_picture(self.loader, image), "where", query=query)))


def open_picture(loader: Loader, image: str | None, *, look: bool = True) -> Session:
    """A conversation about a picture at its own size; `look` where the model has to see it."""
    if not image:
        raise DataError("give an image")
    upload = read_upload(image, side=None)
    if look:
        return loader.agent.open(upload.image, name=upload.name)
    return Session().add_picture(upload.image, loader.agent.segmenter, upload.name)


def ask_once(loader: Loader, talk: Talk | None, image: str | None, message: str, mode: str, threshold: float) -> Talk:
    """The conversation after one more message, and perhaps one more picture. Raises DataError for bad input."""
    if mode not in ("strict", "lenient"):
        raise DataError(f"mode '{mode[:40]}': use strict or lenient")
    talk = actions.settle(talk, mode, threshold)
    talk.check_room(message)
    agent = loader.agent
    if image:
        talk = talk.add_picture(agent, read_upload(image))
    if not talk.session.pictures:
        raise DataError("there is no picture to talk about yet: give an image")
    for step in ask(agent, talk, message):
        if isinstance(step, Talk):
            talk = step
    return talk


def _text(values: JSON) -> str:
    return json.dumps(values, ensure_ascii=False)


class Friendly:
    """What a caller can get wrong becomes Gradio's error, with the words and without a stack."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MLLMSegError | pydantic.ValidationError):
            raise gr.Error(str(error), print_exception=False) from error


def _call(session: Session, tool: str, **arguments: Any) -> tuple[Session, JSON]:
    session, result = call_tool(session, Call(tool, arguments))
    values = result.model_dump(mode="json", exclude={"kind"})
    if not isinstance(result, Found):
        values.pop("mask", None)  # ids mean nothing outside of a conversation
    return session, values


def _with_mask(session: Session, values: JSON) -> JSON:
    """The result with the run-length code in the place of the mask's id."""
    return {**values, "mask": encode_rle(session.mask(values["mask"]).mask)}


def _json(text: str, name: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{name}: not JSON ({error})") from error


def _mask(text: str, session: Session) -> Mask:
    """`[H, W]` of a run-length code that must have the picture's size."""
    mask = _decode(_json(text, "mask"))
    width, height = session.picture.image.size
    if mask.shape != (height, width):
        raise DataError(f"the mask has size {list(mask.shape)}, the picture {[height, width]} (height, width)")
    return mask


def _decode(code: Any) -> Mask:
    size = code.get("size") if isinstance(code, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise DataError('a mask is a run-length code: {"size": [height, width], "counts": "…"}')
    if size[0] * size[1] > MAX_PIXELS or len(str(code.get("counts"))) > MAX_CODE:
        raise DataError(f"a mask may have {MAX_PIXELS:,} pixels and {MAX_CODE:,} letters at most")
    return np.asarray(decode_rle(code).numpy(), dtype=bool)


def reply_values(talk: Talk) -> JSON:
    """The last answer as plain values."""
    session = talk.session
    exchange = session.exchanges[-1] if session.exchanges else None
    image = session.picture.image
    steps = (
        exchange.trace.model_dump(mode="json", exclude={"steps": {"__all__": {"thumbnail"}}})["steps"]
        if exchange
        else []
    )
    return {
        "answer": exchange.answer if exchange else "There is nothing to undo.",
        "picture": Path(session.picture.name).name,
        "image_size": [image.height, image.width],
        "masks": [{"id": record.id, **rle(record)} for record in session.visible if record.mask.any()],
        "offer": None if session.offer is None else session.offer.phrase,
        "steps": steps,
    }
