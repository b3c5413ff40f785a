"""What stands below picture and chat, as HTML: the list of masks, edits, superpixels and times, and why."""

from __future__ import annotations

import base64
import json
from html import escape
from typing import Any

from mllmseg.agent.regions import COLOURS
from mllmseg.agent.session import MaskRecord
from mllmseg.agent.trace import Step, Trace
from mllmseg.demo.conversation import Talk
from mllmseg.demo.drawing import colours, hex_colour, scores_of

EDITS = (
    ("cut_out", "Cut out", "everything else becomes transparent"),
    ("blur_rest", "Blur the rest", "as a lens would"),
    ("grey_rest", "Grey the rest", "only this keeps its colours"),
    ("blur", "Blur it", "a face, a number plate"),
    ("grey", "Grey it", "takes its colours"),
    ("highlight", "Highlight", "marked in the picture itself"),
    ("remove", "Remove", "filled from around it"),
)
PAINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_STAGES = {
    "read": "read the picture",
    "preprocess": "resize",
    "image_encoder": "SAM's image encoder",
    "superpixels": "superpixels",
    "vision_tower": "vision tower",
    "project": "projector",
    "prefix": "visual tokens through the language model",
    "language_model": "the question",
    "mask_decoder": "SAM's mask decoder",
    "postprocess": "mask at full size",
}


def masks_panel(talk: Talk) -> str:
    """All masks of the conversation: show, rename, select, remove."""
    if not talk.session.masks:
        return _nothing("Masks of all questions gather here. Switch them on and off, rename them, correct them.")
    palette = colours(talk.session)
    found = [record for record in reversed(talk.session.masks) if record.exists]
    missed = [record for record in reversed(talk.session.masks) if not record.exists]
    rows = "".join(_row(talk, record, palette[record.phrase]) for record in found)
    listed = f'<ul class="masks">{rows}</ul>' if found else ""
    if not missed:
        return listed
    rows = "".join(_row(talk, record, palette[record.phrase]) for record in missed)
    return (
        f'{listed}<details class="missed"><summary>{len(missed)} not found at this threshold</summary>'
        f'<ul class="masks">{rows}</ul></details>'
    )


def _row(talk: Talk, record: MaskRecord, index: int) -> str:
    session = talk.session
    shown, here = record.id in session.shown and record.exists, record.picture == session.current
    name = escape(record.phrase, quote=True)
    facts = f"P {record.score:.2f}" + (f" · {record.mask.mean():.1%}" if record.exists else " · below the threshold")
    if not here:
        picture = next(item for item in session.pictures if item.id == record.picture)
        facts += f" · {escape(picture.name or picture.id)}"
    selected = record.id == talk.selected
    return (
        f'<li class="{"gone" if not record.exists else ""}{" chosen" if selected else ""}" '
        f'style="--c:{hex_colour(index)}">'
        f'<button type="button" class="eye" data-do="toggle" data-value="{record.id}" role="switch" '
        f'aria-checked="{str(shown).lower()}" aria-label="Show {name}" title="show or hide" '
        f"{'' if record.exists else 'disabled'}></button>"
        f'<input data-do="rename" data-value="{record.id}" value="{name}" dir="auto" maxlength="200" '
        f'aria-label="Name of the mask {name}">'
        f'<span class="facts">{facts}</span>'
        f'<button type="button" data-do="select" data-value="{record.id}" aria-pressed="{str(selected).lower()}" '
        f'title="correct it by clicking, edit it"{"" if here and record.exists else " disabled"}>Select</button>'
        f'<button type="button" class="bin" data-do="remove" data-value="{record.id}" aria-label="Remove {name}" '
        f'title="remove">✕</button></li>'
    )


def edit_panel(talk: Talk) -> str:
    """What can be done to the region of the selected mask."""
    record = talk.chosen
    if record is None or not record.mask.any():
        return _nothing("Find something first; then its region can be cut out, blurred, recoloured or removed here.")
    buttons = "".join(
        f'<button type="button" data-work="edit" data-value="{op}" title="{title}">{label}</button>'
        for op, label, title in EDITS
    )
    paints = "".join(
        f'<button type="button" class="paint" data-work="edit" data-value="recolour" data-colour="{name}" '
        f'style="--c:{"#{:02x}{:02x}{:02x}".format(*COLOURS[name])}" title="{name}" aria-label="Paint it {name}">'
        "</button>"
        for name in PAINTS
        if name in COLOURS
    )
    return (
        f"<p>The region of <b dir='auto'>{escape(record.phrase)}</b>; every pixel outside it keeps its bits.</p>"
        f'<div class="tools">{buttons}</div><div class="tools" role="group" aria-label="Paint it">'
        f"<span>Paint it</span>{paints}</div>"
    )


def regions_panel(talk: Talk) -> str:
    """What the language model reads instead of patches, and where the time went."""
    if not talk.session.pictures:
        return _nothing("How the picture was cut into superpixels, and how long each stage took.")
    segmenter: Any = talk.session.picture.segmenter
    features = segmenter.features
    _, rows, columns = features.patch_features.shape
    record = talk.chosen
    answer = record.answer if record is not None else None
    tokens = answer.num_visual_tokens if answer is not None else len(features.superpixels)
    patches = rows * columns
    scores = scores_of(record)
    lit = ""
    if scores is not None and record is not None:
        lit = (
            f" {int((scores >= 0.5).sum())} of them are lit for <b dir='auto'>{escape(record.phrase)}</b>; hover to "
            "read each one's probability."
        )
    timings = segmenter.timings | (answer.timings if answer is not None else {})
    return (
        f'<div class="numbers"><div><b>{tokens}</b> visual tokens, one a superpixel</div><div><b>{patches:,}</b> patch '
        f"tokens ({rows} × {columns}) without them</div><div><b>{1 - tokens / patches:.0%}</b> fewer</div></div>"
        f"<p>The language model reads one token a region.{lit} "
        '<button type="button" data-do="view" data-value="regions">Show the regions</button></p>'
        f"{_times(timings)}"
    )


def _times(timings: dict[str, float]) -> str:
    longest = max(timings.values(), default=1.0) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{escape(_STAGES.get(stage, stage.replace("_", " ")))}</th><td><div class="time" '
        f'style="width:{max(1, 100 * spent / longest):.0f}%"></div></td><td class="ms">{spent:,.0f} ms</td></tr>'
        for stage, spent in timings.items()
    )
    return f'<table class="times"><caption>Time per stage</caption><tbody>{rows}</tbody></table>'


def why_panel(talk: Talk) -> str:
    """Every step of every answer, the last one first and open."""
    exchanges = talk.session.exchanges
    if not exchanges:
        return _nothing("Every step of an answer: which tool, with what, what came out, how sure, how long.")
    numbered = list(enumerate(exchanges, 1))[::-1]
    return "".join(_trace(number, item.trace, is_open=number == len(exchanges)) for number, item in numbered)


def _trace(number: int, trace: Trace, *, is_open: bool) -> str:
    steps = "".join(_step(step) for step in trace.steps) or "<li>No tool was needed.</li>"
    notes = "".join(f"<p class='quiet'>{escape(note)}</p>" for note in trace.notes)
    packed = base64.b64encode(trace.to_json().encode("utf-8")).decode("ascii")
    total = sum(step.milliseconds for step in trace.steps)
    return (
        f"<details{' open' if is_open else ''}><summary><span dir='auto'>{escape(trace.message)}</span> "
        f'<span class="quiet">{_steps(trace)}, {total:,.0f} ms</span></summary>'
        f'<p class="quiet">Planned by {escape(trace.planner)}, {trace.mode} mode.</p>{notes}'
        f'<ol class="steps">{steps}</ol>'
        f"<p dir='auto'>{escape(trace.answer)}</p>"
        f'<p><a download="trace-{number}.json" href="data:application/json;base64,{packed}">Save as JSON</a></p>'
        "</details>"
    )


def _steps(trace: Trace) -> str:
    return "1 step" if len(trace.steps) == 1 else f"{len(trace.steps)} steps"


def _step(step: Step) -> str:
    given = ", ".join(f"{key}: {_short(value)}" for key, value in step.arguments.items())
    came = ", ".join(f"{key}: {_short(value)}" for key, value in step.result.items() if key != "kind")
    picture = (
        f'<img alt="Result of {escape(step.tool, quote=True)}" src="{escape(step.thumbnail, quote=True)}">'
        if step.thumbnail
        else '<span class="none" aria-hidden="true">–</span>'
    )
    score = (
        ""
        if step.score is None
        else f'<span class="score"><span style="width:{100 * min(1.0, max(0.0, step.score)):.0f}%"></span></span> '
        f"P {step.score:.2f} · "
    )
    failed = f"<p class='failed'>{escape(step.error)}</p>" if step.error else ""
    return (
        f"<li>{picture}<div><b>{escape(step.tool)}</b> <span dir='auto'>({given})</span><br>"
        f'<span class="quiet">{score}{step.milliseconds:,.0f} ms</span>{failed}'
        f"<details><summary>what came out</summary><p dir='auto'>{came}</p></details></div></li>"
    )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return escape(text if len(text) <= 160 else text[:159] + "…")


def _nothing(text: str) -> str:
    return f'<p class="nothing">{text}</p>'
