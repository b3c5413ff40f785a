"""The agent's tools for other agents (MCP), over pictures and run-length codes. Docstrings are what MCP clients read.

A tool has one output, and that is text or a picture: of several, and of JSON, Gradio's MCP server would make Python's
`repr`.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from mllmseg.agent.schemas import Found
from mllmseg.agent.session import Session
from mllmseg.agent.tools import Call, call_tool
from mllmseg.demo.calls import (
    JSON,
    Friendly,
    Pictures,
    ask_once,
    decode_mask,
    mask_of,
    parse_json,
    reply_values,
    to_text,
)
from mllmseg.demo.conversation import Talk
from mllmseg.demo.loading import Loader
from mllmseg.errors import DataError
from mllmseg.inference.serialize import to_json
from mllmseg.models.postprocess import encode_rle


class Tools:
    """The agent's tools over pictures and run-length codes, without state but for a few pictures."""

    def __init__(self, loader: Loader, pictures: Pictures) -> None:
        self.loader = loader
        self.pictures = pictures

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
            session = self.pictures.open(image)
            segmenter: Any = session.picture.segmenter
            return to_text(to_json(segmenter.segment(query, threshold=threshold), session.picture.name))

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
            talk = Talk(session=self.pictures.open(image))
            return to_text(reply_values(ask_once(self.loader, talk, None, message, mode, threshold)))

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
            session = self.pictures.open(image)
            session = session.add_mask(query or "it", mask_of(mask, session))
            return to_text(_call(session, "verify", mask="m1", query=query)[1])

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
            session = self.pictures.open(image)
            arguments: JSON = {"points": parse_json(points, "points") or [], "box": parse_json(box, "box")}
            if mask:
                session = session.add_mask("it", mask_of(mask, session))
                arguments["mask"] = "m1"
            return to_text(_with_mask(*_call(session, "refine", **arguments)))

    def combine(self, op: str, masks: str) -> str:
        """Makes a mask from others.

        Args:
            op: union, intersection, difference (the first without the others) or complement (none of them).
            masks: a JSON list of run-length codes of one size.

        Returns:
            JSON: the new mask as a run-length code.
        """
        with Friendly():
            codes = parse_json(masks, "masks")
            if not isinstance(codes, list) or not codes:
                raise DataError("masks takes a JSON list of run-length codes")
            decoded = [decode_mask(code) for code in codes[:32]]
            height, width = decoded[0].shape
            session = Session().add_picture(Image.new("RGB", (width, height)), self.loader.agent.segmenter)
            for array in decoded:
                session = session.add_mask("it", array)
            made = _call(session, "combine", op=op, masks=[record.id for record in session.masks])
            return to_text(_with_mask(*made))

    def pick(self, image: str, mask: str, end: str) -> str:
        """Takes one thing out of a mask of several.

        Args:
            image: the picture.
            mask: the run-length code of all of them.
            end: leftmost, rightmost, topmost or lowest.

        Returns:
            JSON: the one as a run-length code.
        """
        with Friendly():
            session = self.pictures.open(image)
            session = session.add_mask("it", mask_of(mask, session))
            return to_text(_with_mask(*_call(session, "pick", mask="m1", end=end)))

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
            session = self.pictures.open(image, look=False)
            session = session.add_mask("it", mask_of(mask, session))
            if to:
                session = session.add_mask("the other", mask_of(to, session))
            return to_text(_call(session, "measure", mask="m1", to="m2" if to else None)[1])

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
            session = self.pictures.open(image, look=False)
            session = session.add_mask("it", mask_of(mask, session))
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
            return to_text(_with_mask(*_call(self.pictures.open(image), "where", query=query)))


def _call(session: Session, tool: str, **arguments: Any) -> tuple[Session, JSON]:
    session, result = call_tool(session, Call(tool, arguments))
    values = result.model_dump(mode="json", exclude={"kind"})
    if not isinstance(result, Found):
        values.pop("mask", None)  # ids mean nothing outside of a conversation
    return session, values


def _with_mask(session: Session, values: JSON) -> JSON:
    """The result with the run-length code in the place of the mask's id."""
    return {**values, "mask": encode_rle(session.mask(values["mask"]).mask)}
