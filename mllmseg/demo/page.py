"""The page: a picture, a chat, and what stands behind the answers. All of a visitor's state is in one `gr.State`."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from mllmseg.demo import actions, api
from mllmseg.demo.chat import messages, pending
from mllmseg.demo.conversation import Talk
from mllmseg.demo.drawing import draw_looking, draw_stage
from mllmseg.demo.examples import examples_html
from mllmseg.demo.exports import write_exports
from mllmseg.demo.loading import Loader
from mllmseg.demo.panels import edit_panel, masks_panel, regions_panel, why_panel
from mllmseg.errors import MLLMSegError

_HERE = Path(__file__).parent
SCRIPT = (_HERE / "page.js").read_text(encoding="utf-8")
# Questions that compute share two places; what only redraws does not wait for them.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 2}
LIGHT: dict[str, Any] = {"concurrency_id": "page", "concurrency_limit": 16, "show_progress": "hidden"}
# Temporary files: looked at every five minutes, deleted after an hour.
DELETE_CACHE = (300, 3600)
STATE_SECONDS = 3600
HEADING = """# mllmseg
Talk to a picture: see **what** was meant, **where** it is and **why**, or get an honest no."""
WELCOME = """<div class="welcome"><b>Drop a picture and ask.</b>Several things, exceptions, “not that one”, how many,
how big, “blur the rest”, “the free space left of the car”. In any words.</div>"""
NAME_DARK = "() => { document.querySelector('#dark').setAttribute('aria-label', 'Light or dark'); }"
DARK = "() => { document.body.classList.toggle('dark'); }"


# The tabs under picture and chat, each with what draws it.
PANELS = {"Masks": masks_panel, "Edit": edit_panel, "Superpixels": regions_panel, "Why": why_panel}


@dataclass(frozen=True)
class _Controls:
    """What a visitor writes and sets."""

    box: gr.MultimodalTextbox
    mode: gr.Radio
    slider: gr.Slider
    undo: gr.Button
    fresh: gr.Button


@dataclass(frozen=True)
class _Parts:
    """What a new state of the conversation redraws."""

    talk: gr.State
    chat: gr.Chatbot
    stage: gr.HTML
    masks: gr.HTML
    edits: gr.HTML
    regions: gr.HTML
    why: gr.HTML

    def all(self) -> list[Any]:
        return [self.talk, self.chat, self.stage, self.masks, self.edits, self.regions, self.why]


def build_page(loader: Loader, *, threshold: float, exports: Path) -> gr.Blocks:
    """The page over a model that may still be loading.

    Args:
        loader: of the agent; its weights are shared, each picture is in a fork of its own.
        threshold: where the slider stands at first.
        exports: a folder for files that visitors take home.
    """
    with gr.Blocks(title="mllmseg: talk to a picture", delete_cache=DELETE_CACHE, analytics_enabled=False) as page:
        talk = gr.State(None, time_to_live=STATE_SECONDS, delete_callback=_forget)
        with gr.Row(elem_id="top"):
            gr.Markdown(HEADING, elem_id="heading")
            banner = gr.HTML(_banner(loader), elem_id="banner", js_on_load=SCRIPT)
            dark = gr.Button("◐", elem_id="dark", size="sm", scale=0, min_width=44)
        with gr.Row(equal_height=False, elem_id="main"):
            with gr.Column(scale=6, min_width=320):
                stage = _part("stage", draw_stage(Talk()))
                examples = _part("examples", examples_html())
            with gr.Column(scale=5, min_width=320):
                chat = _chatbot()
                controls = _controls(threshold)
        with gr.Tabs(elem_id="panels", overflow_behavior="wrap"):
            panels = [_panel(name, draw(Talk())) for name, draw in PANELS.items()]
            _export_panel(talk, exports)
        parts = _Parts(talk, chat, stage, *panels)
        _listen(loader, parts, controls, examples)
        dark.click(None, js=DARK)
        page.load(None, js=NAME_DARK)
        _watch(loader, banner)
        api.add_endpoints(loader, threshold=threshold, limits=MODEL)
        page.unload(_forget_session(page))
    return page


def _controls(threshold: float) -> _Controls:
    box = gr.MultimodalTextbox(
        file_types=["image"],
        file_count="multiple",
        placeholder="Ask in any words …",
        show_label=False,
        label="Message",
        elem_id="message",
        max_plain_text_length=100_000,
    )
    with gr.Row(elem_id="settings"):
        mode = gr.Radio(["strict", "lenient"], value="strict", label="Where nothing fits", elem_id="mode")
        slider = gr.Slider(0, 1, value=threshold, step=0.01, label="Threshold (P)", elem_id="threshold")
    with gr.Row(elem_id="buttons"):
        undo = gr.Button("↶ Undo", size="sm", elem_id="undo", min_width=100)
        fresh = gr.Button("✕ New conversation", size="sm", elem_id="new", min_width=100)
    return _Controls(box, mode, slider, undo, fresh)


def _panel(name: str, html: str) -> gr.HTML:
    with gr.Tab(name, elem_id=f"tab-{name.lower()}"):
        return _part(name.lower(), html)


def _export_panel(talk: gr.State, exports: Path) -> None:
    with gr.Tab("Export", elem_id="tab-export"):
        gr.Markdown("What is marked on the picture now: a PNG mask a phrase, overlay, cut-out, COCO, RLE, traces.")
        export = gr.Button("Make the files", elem_id="export", size="sm")
        files = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")
    export.click(lambda talk: _export(talk, exports), talk, files, api_visibility="private", **LIGHT)


def _part(name: str, html: str) -> gr.HTML:
    return gr.HTML(html, elem_id=name, js_on_load=SCRIPT, apply_default_css=False)


def _chatbot() -> gr.Chatbot:
    return gr.Chatbot(
        height="clamp(320px, 52vh, 640px)",
        show_label=False,
        label="Conversation",
        elem_id="chat",
        latex_delimiters=[],
        buttons=[],
        allow_tags=False,
        feedback_options=None,
        layout="bubble",
        placeholder=WELCOME,
    )


def _draw(talk: Talk) -> tuple[Any, ...]:
    """All parts for a new state."""
    return talk, messages(talk), draw_stage(talk), *(draw(talk) for draw in PANELS.values())


def _stream(steps: Iterator[actions.Progress | Talk]) -> Iterator[tuple[Any, ...]]:
    """Redraws the chat while something is under way, and everything at the end."""
    pictures = -1
    for step in steps:
        if isinstance(step, Talk):
            yield _draw(step)
            continue
        stage = gr.skip()
        if step.picture is not None:
            stage, pictures = draw_looking(step.picture), -1
        elif len(step.talk.session.pictures) != pictures:
            stage, pictures = draw_stage(step.talk), len(step.talk.session.pictures)
        yield (gr.skip(), pending(step.talk, step.text, step.words), stage, *[gr.skip()] * 4)


def _listen(loader: Loader, parts: _Parts, controls: _Controls, examples: gr.HTML) -> None:
    """Joins what visitors do to what is done."""
    box = controls.box
    settings: list[Any] = [parts.talk, controls.mode, controls.slider]

    def submit(value: dict[str, Any], talk: Talk | None, mode: str, threshold: float) -> Iterator[tuple[Any, ...]]:
        empty = {"text": "", "files": []}
        steps = actions.send(loader, actions.settle(talk, mode, threshold), value["text"] or "", value["files"] or [])
        for number, drawn in enumerate(_stream(steps)):
            yield (*drawn, empty if number == 0 else gr.skip())

    def choose(talk: Talk | None, mode: str, threshold: float, choice: gr.SelectData) -> Iterator[tuple[Any, ...]]:
        yield from _stream(actions.send(loader, actions.settle(talk, mode, threshold), str(choice.value), []))

    def work(talk: Talk | None, mode: str, threshold: float, event: gr.EventData) -> Iterator[tuple[Any, ...]]:
        yield from _stream(actions.work(loader, actions.settle(talk, mode, threshold), dict(event._data or {})))

    def act(talk: Talk | None, mode: str, threshold: float, event: gr.EventData) -> tuple[Any, ...]:
        return _draw(actions.act(actions.settle(talk, mode, threshold), dict(event._data or {})))

    def settle(talk: Talk | None, mode: str, threshold: float) -> tuple[Any, ...]:
        return _draw(actions.settle(talk, mode, threshold))

    hidden: dict[str, Any] = {"api_visibility": "private"}
    outputs = parts.all()
    busy = {"show_progress": "hidden", **MODEL, **hidden}
    box.submit(submit, [box, *settings], [*outputs, box], trigger_mode="once", **busy)
    parts.chat.option_select(choose, settings, outputs, trigger_mode="once", **busy)
    for part in (parts.stage, parts.masks, parts.edits, parts.regions, examples):
        part.work(work, settings, outputs, trigger_mode="once", **busy)
        part.act(act, settings, outputs, trigger_mode="multiple", **LIGHT, **hidden)
    controls.slider.input(settle, settings, outputs, trigger_mode="always_last", **LIGHT, **hidden)
    controls.mode.input(settle, settings, outputs, **LIGHT, **hidden)
    controls.undo.click(
        lambda talk, mode, threshold: _draw(actions.act(actions.settle(talk, mode, threshold), {"do": "undo"})),
        settings, outputs, **LIGHT, **hidden,
    )  # fmt: skip
    controls.fresh.click(lambda: _draw(Talk()), None, outputs, **LIGHT, **hidden)


def _export(talk: Talk | None, exports: Path) -> list[str]:
    """Files in a folder whose name nobody can guess; they go with the other temporary files."""
    folder = exports / secrets.token_urlsafe(16)
    folder.mkdir(parents=True)
    try:
        if talk is None or not talk.session.pictures:
            raise MLLMSegError("there is no picture yet")
        return [str(path) for path in write_exports(talk, folder)]
    except MLLMSegError as error:
        shutil.rmtree(folder)
        raise gr.Error(escape(str(error)), print_exception=False) from error


def _banner(loader: Loader) -> str:
    status = loader.status
    if status.ready:
        return '<span class="pill ready" role="status">● model ready</span>'
    if not status.failed:
        return f'<span class="pill" role="status"><span class="spinner"></span>{escape(status.words)}</span>'
    again = f" Tried {status.tries} times so far." if status.tries > 1 else ""
    return (
        '<div class="missing" role="alert"><h2>There is no model yet</h2>'
        f"<p>{escape(status.words)}</p><p>With a network, <code>mllmseg weights fetch</code> gets what is missing; "
        "<code>mllmseg doctor</code> says what else is wrong with this machine. Then: "
        '<button type="button" data-do="retry">Try again</button>'
        f"{again}</p></div>"
    )


def _watch(loader: Loader, banner: gr.HTML) -> None:
    """Looks every second whether the model is there, until it is."""
    timer = gr.Timer(1.0)

    def look() -> tuple[str, Any]:
        return _banner(loader), gr.Timer(active=not loader.status.ready)

    timer.tick(look, None, [banner, timer], api_visibility="private", **LIGHT)

    def retry() -> str:
        loader.start()
        return _banner(loader)

    banner.act(retry, None, banner, api_visibility="private", **LIGHT)


def _forget(talk: Talk | None) -> None:
    """Lets go of what a conversation held; the pictures' features go with the last reference."""
    del talk


def _forget_session(page: gr.Blocks) -> Any:
    def forget(request: gr.Request) -> None:
        """When a tab is closed, its conversation goes at once and not an hour later."""
        page.state_holder.delete_state(request.session_hash)

    return forget
