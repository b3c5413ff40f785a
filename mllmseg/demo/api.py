"""For programs (`gradio_client`): `/segment` and `/chat`, and where the tools for other agents (MCP) are joined in.

Every endpoint's inputs are real components, so that Gradio itself fetches files and refuses paths outside its folder.
Masks travel as COCO's compressed run-length codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image

from mllmseg.demo.calls import JSON, Friendly, Pictures, ask_once, reply_values
from mllmseg.demo.conversation import Talk
from mllmseg.demo.loading import Loader
from mllmseg.demo.mcp_tools import Tools
from mllmseg.inference.serialize import to_json
from mllmseg.inference.visualize import overlay


def add_endpoints(loader: Loader, *, threshold: float, limits: JSON) -> None:
    """Adds all endpoints to the page that is being built, on components that are not shown.

    Args:
        loader: of the agent.
        threshold: what endpoints use that are given none.
        limits: of concurrency, shared with the page.
    """
    with gr.Column(visible=False):
        image = gr.File(label="image", file_types=["image"], type="filepath")
        query, message = gr.Textbox(label="query"), gr.Textbox(label="message")
        level = gr.Slider(0, 1, value=threshold, label="threshold")
        mask, to = gr.Textbox(label="mask"), gr.Textbox("", label="to")
        masks, points, box = gr.Textbox(label="masks"), gr.Textbox("", label="points"), gr.Textbox("", label="box")
        op, edit_op, colour = gr.Textbox(label="op"), gr.Textbox(label="op"), gr.Textbox("", label="colour")
        end = gr.Textbox(label="end")
        mode = gr.Textbox("strict", label="mode")
        start_mask = gr.Textbox("", label="mask")
        optional_image = gr.File(None, label="image", file_types=["image"], type="filepath")
        state = gr.State(None)
        result, text = gr.JSON(label="result"), gr.Textbox(label="result")
        picture = gr.Image(label="picture", format="png", type="pil")
        pictures = Pictures(loader)
        programs, tools = Programs(loader, pictures), Tools(loader, pictures)
        endpoints: list[tuple[str, Callable[..., Any], list[Any], list[Any]]] = [
            ("segment", programs.program_segment, [image, query, level], [result, picture]),
            ("chat", programs.program_chat, [message, optional_image, mode, level, state], [result, picture, state]),
            ("tool_segment", tools.segment, [image, query, level], [text]),
            ("tool_ask", tools.ask, [image, message, mode, level], [text]),
            ("tool_verify", tools.verify, [image, mask, query], [text]),
            ("tool_refine", tools.refine, [image, points, box, start_mask], [text]),
            ("tool_combine", tools.combine, [op, masks], [text]),
            ("tool_pick", tools.pick, [image, mask, end], [text]),
            ("tool_measure", tools.measure, [image, mask, to], [text]),
            ("tool_edit", tools.edit, [image, mask, edit_op, colour], [picture]),
            ("tool_where", tools.where, [image, query], [text]),
        ]
        for name, function, inputs, outputs in endpoints:
            gr.Button(visible=False).click(function, inputs, outputs, api_name=name, show_progress="hidden", **limits)


def _for_programs(function: Any) -> Any:
    """Keeps an endpoint out of the list of MCP tools: it has two outputs, or state, which Gradio gives to no tool."""
    function._mcp_type = "program"
    return function


class Programs:
    """What `gradio_client` calls."""

    def __init__(self, loader: Loader, pictures: Pictures) -> None:
        self.loader = loader
        self.pictures = pictures

    @_for_programs
    def program_segment(self, image: str, query: str, threshold: float = 0.5) -> tuple[JSON, Image.Image]:
        """Finds what a phrase names in a picture, or says that there is no such thing.

        Args:
            image: the picture.
            query: what to look for, such as "the dog on the left".
            threshold: it exists where its probability reaches this.

        Returns:
            The answer as `mllmseg segment --json` prints it, and the picture with the mask drawn on it.
        """
        with Friendly():
            session = self.pictures.open(image)
            segmenter: Any = session.picture.segmenter
            found = segmenter.segment(query, threshold=threshold)
            drawn = overlay(segmenter.image, found.masks, labels=[query] * len(found.masks))
            return to_json(found, session.picture.name), drawn

    @_for_programs
    def program_chat(
        self,
        message: str,
        image: str | None = None,
        mode: str = "strict",
        threshold: float = 0.5,
        state: Any = None,
    ) -> tuple[JSON, Image.Image | None, Talk]:
        """Talks about a picture; a client keeps its conversation from call to call.

        Args:
            message: what to say, such as "everything except the people" or "blur the background".
            image: a picture to turn to; may be left out where the conversation has one.
            mode: strict says no where nothing fits exactly, lenient shows the closest thing.
            threshold: a thing exists where its probability reaches this.
            state: the conversation so far, kept by Gradio.

        Returns:
            Words, masks, an offer where nothing fits, the steps taken; and the edited picture where it was edited.
        """
        with Friendly():
            talk = ask_once(self.loader, state, image, message, mode, threshold)
            edited = talk.session.edits[-1].image if talk.view == "result" else None
            return reply_values(talk), edited, talk
