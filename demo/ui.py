"""The demo's page: a photo, a question, the answer with its mask. One `Segmenter` a visitor over shared weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from mllmseg.errors import MLLMSegError
from mllmseg.inference.segmenter import Segmenter
from mllmseg.inference.visualize import overlay, superpixel_overlay

EXAMPLES = Path(__file__).parent.parent / "examples"


def build_ui(segmenter: Segmenter) -> gr.Blocks:
    """The page over a loaded model.

    Args:
        segmenter: its weights are shared; each visitor's image is kept in a fork of it.
    """

    def look(image: Image.Image | None) -> tuple[Segmenter | None, Image.Image | None, str]:
        """Encodes a new photo."""
        if image is None:
            return None, None, ""
        mine = segmenter.fork()
        try:
            mine.set_image(image)
        except MLLMSegError as error:
            raise gr.Error(str(error)) from error
        regions = superpixel_overlay(mine.image, mine.features.superpixels, numbered=True)
        seconds = sum(mine.timings.values()) / 1e3
        return mine, regions, f"{len(mine.features.superpixels)} regions, {seconds:.1f} s. Ask away."

    def ask(mine: Segmenter | None, question: str, threshold: float) -> tuple[Image.Image, str]:
        """Answers a question about the photo."""
        if mine is None or not question.strip():
            raise gr.Error("Choose a photo and write a question first.")
        try:
            found = mine.segment(question.strip(), threshold=threshold)
        except MLLMSegError as error:
            raise gr.Error(str(error)) from error
        picture = overlay(mine.image, found.masks, labels=[question] * len(found.masks))
        return picture, f"{found.answer} (P that it exists: {found.score:.2f})"

    with gr.Blocks(title="mllmseg") as page:
        gr.Markdown("# mllmseg\nAsk a question about a photo, get a mask and an answer, or an honest no.")
        mine: Any = gr.State(None)
        with gr.Row():
            with gr.Column():
                image = gr.Image(type="pil", label="Photo", elem_id="photo")
                question = gr.Textbox(label="Question", placeholder="the cup on the left", elem_id="question")
                threshold = gr.Slider(0, 1, value=segmenter.threshold, step=0.01, label="Threshold on P(it exists)")
                button = gr.Button("Ask", variant="primary", elem_id="ask")
                names = sorted(str(path) for path in EXAMPLES.glob("*.jpg"))
                gr.Examples([[name] for name in names], inputs=[image])
            with gr.Column():
                answer = gr.Textbox(label="Answer", interactive=False, elem_id="answer")
                picture = gr.Image(label="Mask", interactive=False, elem_id="mask")
                regions = gr.Image(label="Superpixels", interactive=False, elem_id="superpixels")
        image.change(look, inputs=image, outputs=[mine, regions, answer])
        gr.on([button.click, question.submit], ask, inputs=[mine, question, threshold], outputs=[picture, answer])
    return page
