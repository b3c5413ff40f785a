"""The conversation as messages for `gr.Chatbot`: whatever anybody wrote is text, never markup."""

from __future__ import annotations

import re
from typing import Any

import gradio as gr

from mllmseg.agent.session import MaskRecord
from mllmseg.demo.conversation import Line, Talk
from mllmseg.demo.drawing import colours, data_uri

CHAT_PICTURE = 420  # pixels of the longer side
# `color-0` … in style.css; later colours start over.
NUM_COLOURS = 16


def plain(text: str) -> str:
    """Text that neither Markdown nor HTML takes for its own: everything but letters, digits and spaces by number."""
    return "".join(
        letter if letter.isalnum() or letter == " " or ord(letter) > 127 else f"&#{ord(letter)};" for letter in text
    )


def messages(talk: Talk) -> list[dict[str, Any]]:
    """All of a conversation, in the form `gr.Chatbot` takes."""
    made = [_message(talk, line) for line in talk.lines]
    offer = talk.session.offer
    if made and offer is not None and talk.lines[-1].exchange == len(talk.session.exchanges) - 1:
        label = f"Show “{offer.phrase}” instead"
        made[-1]["options"] = [{"value": "yes", "label": label if len(label) < 80 else label[:79] + "…"}]
    return made


def pending(talk: Talk, message: str, words: str) -> list[dict[str, Any]]:
    """The conversation while an answer is under way: what was asked, and what is being done about it."""
    asked = [{"role": "user", "content": _bubble(plain(message))}] if message else []
    working = {"role": "assistant", "content": "", "metadata": {"title": f"{plain(words)} …", "status": "pending"}}
    return [*messages(talk), *asked, working]


def _message(talk: Talk, line: Line) -> dict[str, Any]:
    session = talk.session
    if line.picture:
        picture = next(item for item in session.pictures if item.id == line.picture)
        name = plain(picture.name or picture.id)
        note = f'<span class="quiet">{name}{f", {plain(line.text)}" if line.text else ""}</span>'
        shot = f'<img class="shot" alt="{name}" src="{data_uri(picture.image, side=CHAT_PICTURE)}">'
        # As a component: a text with a picture in it would be read out letter by letter.
        return {"role": "user", "content": gr.HTML(shot + note, apply_default_css=False, js_on_load=None)}
    if line.exchange < 0:
        return {"role": line.role, "content": _bubble(plain(line.text))}
    exchange = session.exchanges[line.exchange]
    records = [record for record in session.masks if record.id in exchange.trace.shown]
    palette = colours(session)
    # An answer keeps the words it was given in, a mask may have been renamed since.
    words = {step.result.get("mask"): step.result.get("phrase") for step in exchange.trace.steps}
    names = [(name, record) for record in records for name in (words.get(record.id), record.phrase) if name]
    text = _coloured(exchange.answer, {name: palette[record.phrase] for name, record in names})
    chips = "".join(_chip(record, palette[record.phrase]) for record in records)
    return {"role": "assistant", "content": _bubble(text) + (f'<span class="chips">{chips}</span>' if chips else "")}


def _bubble(text: str) -> str:
    """The browser finds out by itself which way a message is written."""
    return f'<span class="said" dir="auto">{text}</span>'


def _coloured(answer: str, palette: dict[str, int]) -> str:
    """The answer, each quoted phrase that has a mask in the mask's colour."""
    parts = re.split(r"“([^”]*)”", answer)
    made = []
    for number, part in enumerate(parts):
        if number % 2 == 0:
            made.append(plain(part))
        elif part in palette:
            made.append(f'<b class="phrase color-{palette[part] % NUM_COLOURS}">{plain(part)}</b>')
        else:
            made.append(f"“{plain(part)}”")
    return "".join(made)


def _chip(record: MaskRecord, index: int) -> str:
    state = "" if record.exists else " gone"
    below = "" if record.exists else ", below the threshold"
    share = f" · {record.mask.mean():.1%}" if record.exists else ""
    facts = f"P {record.score:.2f}{share}{below}"
    return (
        f'<span class="chip color-{index % NUM_COLOURS}{state}"><b>{plain(record.phrase)}</b> '
        f'<span class="facts">{plain(facts)}</span></span>'
    )
