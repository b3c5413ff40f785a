"""The same tools for programs (`gradio_client`) and for other agents (MCP): stateless, but for `/chat`.

Every endpoint's inputs are real components, so that Gradio itself fetches files and refuses paths outside its folder.
Masks travel as COCO's compressed run-length codes. Docstrings are what MCP clients read.

Shapes: H W a picture's own size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pydantic
from PIL import Image

from mllmseg.agent.regions import Mask
from mllmseg.agent.schemas import EditResult, Found
from mllmseg.agent.session import Session
from mllmseg.agent.tools import Call, call_tool
from mllmseg.demo import actions
from mllmseg.demo.conversation import Talk, ask
from mllmseg.demo.exports import rle
from mllmseg.demo.loading import Loader
from mllmseg.demo.uploads import MAX_PIXELS, read_upload
from mllmseg.errors import DataError, MLLMSegError
from mllmseg.inference.serialize import to_json
from mllmseg.inference.visualize import overlay
from mllmseg.models.postprocess import decode_rle, encode_rle

MAX_CODE = 4_000_000  # letters of a run-length code
JSON = dict[str, Any]


def add_endpoints(loader: Loader, *, threshold: float, limits: JSON) -> None:
    """Adds all endpoints to the page that is being built, on components that are not shown.

    Args:
        loader: of the agent.
        threshold: what endpoints use that are given none.
        limits: of concurrency, shared with the page.
    """
    tools = Tools(loader)
    with gr.Column(visible=False):
        image = gr.File(label="image", file_types=["image"], type="filepath")
        query, message = gr.Textbox(label="query"), gr.Textbox(label="message")
        level = gr.Slider(0, 1, value=threshold, label="threshold")
        mask, to = gr.Textbox(label="mask"), gr.Textbox("", label="to")
        masks, points, box = gr.Textbox(label="masks"), gr.Textbox("", label="points"), gr.Textbox("", label="box")
        op, edit_op, colour = gr.Textbox(label="op"), gr.Textbox(label="op"), gr.Textbox("", label="colour")
        mode = gr.Textbox("strict", label="mode")
        start_mask = gr.Textbox("", label="mask")
        optional_image = gr.File(None, label="image", file_types=["image"], type="filepath")
        state = gr.State(None)
        result, picture = gr.JSON(label="result"), gr.Image(label="picture", format="png", type="pil")
        endpoints: list[tuple[Callable[..., Any], list[Any], list[Any]]] = [
            (tools.segment, [image, query, level], [result, picture]),
            (tools.chat, [message, optional_image, mode, level, state], [result, picture, state]),
            (tools.verify, [image, mask, query], [result]),
            (tools.refine, [image, points, box, start_mask], [result]),
            (tools.combine, [op, masks], [result]),
            (tools.measure, [image, mask, to], [result]),
            (tools.edit, [image, mask, edit_op, colour], [result, picture]),
            (tools.where, [image, query], [result]),
        ]
        for function, inputs, outputs in endpoints:
            gr.Button(visible=False).click(
                function, inputs, outputs, api_name=function.__name__, show_progress="hidden", **limits
            )


class Tools:
    """The agent's tools over pictures and run-length codes. Keeps nothing but the model."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def segment(self, image: str, query: str, threshold: float = 0.5) -> tuple[JSON, Image.Image]:
        """Finds what a phrase names in a picture, or says that there is no such thing.

        Args:
            image: the picture.
            query: what to look for, such as "the dog on the left".
            threshold: it exists where its probability reaches this.

        Returns:
            The answer with a run-length coded mask, box and score, and the picture with the mask drawn on it.
        """
        with _Friendly():
            session = self._open(image)
            segmenter: Any = session.picture.segmenter
            found = segmenter.segment(query, threshold=threshold)
            drawn = overlay(segmenter.image, found.masks, labels=[query] * len(found.masks))
            return to_json(found, session.picture.name), drawn

    def chat(
        self,
        message: str,
        image: str | None = None,
        mode: str = "strict",
        threshold: float = 0.5,
        state: Any = None,
        request: gr.Request | None = None,
    ) -> tuple[JSON, Image.Image | None, Talk | None]:
        """Talks about a picture: several things, exceptions, counting, measuring, edits, follow-ups.

        Args:
            message: what to say, such as "everything except the people" or "blur the background".
            image: a picture to turn to; may be left out where the conversation has one.
            mode: strict says no where nothing fits exactly, lenient shows the closest thing.
            threshold: a thing exists where its probability reaches this.

        Returns:
            Words, masks, an offer where nothing fits, the steps taken; and the edited picture where it was edited.
        """
        # All MCP clients come through one connection of Gradio's own: what one says must not reach another.
        alone = request is not None and request.headers.get("x-gradio-user") == "mcp"
        with _Friendly():
            if mode not in ("strict", "lenient"):
                raise DataError(f"mode '{mode[:40]}': use strict or lenient")
            talk = actions.settle(None if alone else state, mode, threshold)
            talk.check_room(message)
            agent = self.loader.agent
            if image:
                talk = talk.add_picture(agent, read_upload(image))
            if not talk.session.pictures:
                raise DataError("there is no picture to talk about yet: give an image")
            talk = _last(ask(agent, talk, message))
            edited = next((item.image for item in talk.session.edits[::-1]), None) if talk.view == "result" else None
            return _reply(talk), edited, None if alone else talk

    def verify(self, image: str, mask: str, query: str) -> JSON:
        """Checks whether a mask shows what a phrase says, against phrases that say the contrary.

        Args:
            image: the picture.
            mask: a run-length code as `segment` gives it: {"size": [height, width], "counts": "…"}.
            query: what it should show.

        Returns:
            Whether it fits, with probabilities and rival phrases.
        """
        with _Friendly():
            session = self._open(image)
            session = session.add_mask(query or "it", _mask(mask, session))
            return _call(session, "verify", mask="m1", query=query)[1]

    def refine(self, image: str, points: str = "", box: str = "", mask: str = "") -> JSON:
        """Corrects a mask, or makes a new one, from points or a box.

        Args:
            image: the picture.
            points: a JSON list such as [{"x": 10, "y": 20, "inside": true}], in pixels.
            box: a JSON list [x, y, width, height] in pixels.
            mask: the run-length code of the mask to correct; leave out for a new one.

        Returns:
            The new mask as a run-length code, with its score.
        """
        with _Friendly():
            session = self._open(image)
            arguments: JSON = {"points": _json(points, "points") or [], "box": _json(box, "box")}
            if mask:
                session = session.add_mask("it", _mask(mask, session))
                arguments["mask"] = "m1"
            return _with_mask(*_call(session, "refine", **arguments))

    def combine(self, op: str, masks: str) -> JSON:
        """Makes a mask from others.

        Args:
            op: union, intersection, difference (the first without the others) or complement (none of them).
            masks: a JSON list of run-length codes of one size.

        Returns:
            The new mask as a run-length code.
        """
        with _Friendly():
            codes = _json(masks, "masks")
            if not isinstance(codes, list) or not codes:
                raise DataError("masks takes a JSON list of run-length codes")
            decoded = [_decode(code) for code in codes[:32]]
            height, width = decoded[0].shape
            session = Session().add_picture(Image.new("RGB", (width, height)), self.loader.agent.segmenter)
            for array in decoded:
                session = session.add_mask("it", array)
            return _with_mask(*_call(session, "combine", op=op, masks=[record.id for record in session.masks]))

    def measure(self, image: str, mask: str, to: str = "") -> JSON:
        """Measures a mask: area, share of the picture, box, place, main colour, parts, distance to another mask.

        Args:
            image: the picture.
            mask: its run-length code.
            to: the run-length code of another mask, to measure the distance.

        Returns:
            All of it in pixels.
        """
        with _Friendly():
            session = self._open(image, look=False)
            session = session.add_mask("it", _mask(mask, session))
            if to:
                session = session.add_mask("the other", _mask(to, session))
            return _call(session, "measure", mask="m1", to="m2" if to else None)[1]

    def edit(self, image: str, mask: str, op: str, colour: str = "") -> tuple[JSON, Image.Image]:
        """Changes a region of a picture; every pixel outside of it keeps its bits (*_rest: inside of it).

        Args:
            image: the picture.
            mask: the region's run-length code.
            op: cut_out, blur, blur_rest, grey, grey_rest, recolour, highlight or remove.
            colour: a colour's name or #rrggbb, for recolour and highlight.

        Returns:
            How many pixels changed, and the edited picture.
        """
        with _Friendly():
            session = self._open(image, look=False)
            session = session.add_mask("it", _mask(mask, session))
            session, result = _call(session, "edit", mask="m1", op=op, colour=colour or None)
            return result, session.edits[-1].image

    def where(self, image: str, query: str) -> JSON:
        """Finds a place to go to: free space beside things, or a thing itself.

        Args:
            image: the picture.
            query: such as "the free space left of the red car".

        Returns:
            The region as a run-length code, and a point (x, y) well inside.
        """
        with _Friendly():
            return _with_mask(*_call(self._open(image), "where", query=query))

    def _open(self, image: str, *, look: bool = True) -> Session:
        """A conversation about a picture at its own size; `look` where the model has to see it."""
        if not image:
            raise DataError("give an image")
        upload, agent = read_upload(image, side=None), self.loader.agent
        if look:
            return agent.open(upload.image, name=upload.name)
        return Session().add_picture(upload.image, agent.segmenter, upload.name)


class _Friendly:
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
    if isinstance(result, EditResult):
        values.pop("edit", None)
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


def _last(steps: Any) -> Talk:
    talk = None
    for item in steps:
        talk = item if isinstance(item, Talk) else talk
    assert talk is not None
    return talk


def _reply(talk: Talk) -> JSON:
    """The last answer as plain values."""
    session = talk.session
    exchange = session.exchanges[-1] if session.exchanges else None
    image = session.picture.image
    steps = exchange.trace.model_dump(mode="json", exclude={"steps": {"__all__": {"thumbnail"}}})["steps"] if exchange else []
    return {
        "answer": exchange.answer if exchange else "There is nothing to undo.",
        "picture": Path(session.picture.name).name,
        "image_size": [image.height, image.width],
        "masks": [{"id": record.id, **rle(record)} for record in session.visible if record.mask.any()],
        "offer": None if session.offer is None else session.offer.phrase,
        "steps": steps,
    }
