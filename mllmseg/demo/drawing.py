"""The picture with everything on it, as HTML: SVG over the photo, no files, nothing that needs a round trip to hover.

Shapes: H W the picture's own size, h w the label map, S superpixels.
"""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from mllmseg.agent import regions
from mllmseg.agent.session import MaskRecord, Picture, Session
from mllmseg.demo.conversation import Talk
from mllmseg.demo.outline import outline
from mllmseg.demo.uploads import Upload
from mllmseg.inference.visualize import color

PAGE_SIDE = 1280  # pixels of the longer side of what is sent to a page
THUMBNAIL = 112
JPEG_QUALITY = 88


def colours(session: Session) -> dict[str, int]:
    """The colour's index of each phrase; a phrase keeps its colour through a conversation, and its corrections too."""
    shown = [name for exchange in session.exchanges for name in exchange.trace.shown]
    known = {record.id: record.phrase for record in session.masks}
    phrases = [*(known[name] for name in shown if name in known), *known.values()]
    return {phrase: index for index, phrase in enumerate(dict.fromkeys(phrases))}


def hex_colour(index: int) -> str:
    """`#rrggbb` of a colour's index."""
    return "#{:02x}{:02x}{:02x}".format(*color(index))


def data_uri(image: Image.Image, *, side: int = PAGE_SIDE) -> str:
    """A picture inside the page: JPEG, or WebP where it is transparent."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "WEBP" if small.mode == "RGBA" else "JPEG"
    small.save(buffer, format=kind, quality=JPEG_QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def draw_stage(talk: Talk) -> str:
    """The picture, its masks or regions, and the pictures to turn to."""
    session = talk.session
    if not session.pictures:
        return (
            '<button type="button" class="empty"><span class="big" aria-hidden="true">◩</span><b>Choose a picture, or '
            "drop it here</b><span>Then ask. Or take one of the examples below.</span></button>"
        )
    picture = session.picture
    layers = {"masks": _masks, "regions": _regions}.get(talk.view, lambda _: "")(talk)
    image = _base(talk)
    width, height = picture.image.size
    note = _see_through(image)
    bar = _bar(talk)
    return (
        f'{bar}<div class="frame{note}"><svg viewBox="0 0 {width} {height}" class="picture pointer-{talk.pointer}" '
        f'data-pointer="{talk.pointer}" tabindex="0" role="group" aria-label="{_alt(talk)}" '
        f'style="aspect-ratio:{width}/{height}">'
        f'<image href="{data_uri(image)}" width="{width}" height="{height}" preserveAspectRatio="none"/>'
        f'{layers}<g class="drawn"></g></svg><div class="tip" hidden></div></div>{_hint(talk)}{_pictures(session)}'
    )


def draw_looking(upload: Upload) -> str:
    """A picture that the model is looking at for the first time, which takes seconds."""
    name = escape(upload.name, quote=True)
    return (
        f'<div class="frame looking"><img alt="{name}" src="{data_uri(upload.image)}">'
        f'<span class="pill"><span class="spinner"></span><bdi>Looking at {name}</bdi></span></div>'
    )


def _base(talk: Talk) -> Image.Image:
    session = talk.session
    edits = [item for item in session.edits if item.picture == session.current]
    if talk.view in ("original", "regions") or not edits:  # regions are those of the picture as the model saw it
        return session.picture.image
    return edits[-1].image if talk.view == "result" else session.canvas


def _see_through(image: Image.Image) -> str:
    return " see-through" if image.mode == "RGBA" else ""


def _alt(talk: Talk) -> str:
    """What somebody hears who does not see the picture."""
    session = talk.session
    names = [f"“{record.phrase}” ({regions.place(record.mask)})" for record in session.visible if record.mask.any()]
    marked = f"Marked: {', '.join(names)}." if names and talk.view == "masks" else "Nothing is marked."
    kind = {"result": "Edited picture", "regions": "Superpixels of picture", "original": "Picture"}
    return escape(f"{kind.get(talk.view, 'Picture')} {session.picture.name}. {marked}", quote=True)


def _button(do: str, value: str, label: str, *, pressed: bool, title: str) -> str:
    return (
        f'<button type="button" data-do="{do}" data-value="{value}" aria-pressed="{str(pressed).lower()}" '
        f'title="{escape(title, quote=True)}">{label}</button>'
    )


def _bar(talk: Talk) -> str:
    """What to see, and what a click does."""
    edited = any(item.picture == talk.session.current for item in talk.session.edits)
    views = [("masks", "Masks", "what was found"), ("regions", "Superpixels", "what the language model reads")]
    if edited:
        views.append(("result", "Edited", "the last edit, without masks"))
    views.append(("original", "Original", "the picture as it came"))
    left = "".join(_button("view", key, text, pressed=talk.view == key, title=title) for key, text, title in views)
    pointers = (
        ("look", "Look", "hover over a mask to read its phrase"),
        ("add", "+ Point", "click what belongs to the mask"),
        ("take", "− Point", "click what does not belong to it"),
        ("box", "▭ Box", "drag a box around the thing"),
    )
    right = "".join(
        _button("pointer", key, text, pressed=talk.pointer == key, title=title) for key, text, title in pointers
    )
    return (
        f'<div class="bar"><div class="segments" role="group" aria-label="What to see">{left}</div>'
        f'<div class="segments" role="group" aria-label="What a click does">{right}</div></div>'
    )


def _hint(talk: Talk) -> str:
    if talk.pointer == "look":
        return ""
    record = talk.chosen
    what = f"“<bdi>{escape(record.phrase)}</bdi>”" if record is not None and record.mask.any() else "something new"
    how = {
        "add": "click what belongs to it",
        "take": "click what does not belong to it",
        "box": "drag a box around it",
    }[talk.pointer]
    again = '<button type="button" data-do="select" data-value="">mark something new</button>' if record else ""
    return f'<p class="hint">Marking {what}: {how}. With the keyboard: arrow keys, then Enter. {again}</p>'


def _pictures(session: Session) -> str:
    """The pictures of the conversation, to turn to."""
    if len(session.pictures) < 2:
        return ""
    items = "".join(_thumbnail(item, current=item.id == session.current) for item in session.pictures)
    return f'<div class="pictures" role="group" aria-label="Pictures of this conversation">{items}</div>'


def _thumbnail(picture: Picture, *, current: bool) -> str:
    name = escape(picture.name or picture.id, quote=True)
    return (
        f'<button type="button" data-do="picture" data-value="{picture.id}" aria-pressed="{str(current).lower()}" '
        f'title="{name}"><img alt="{name}" src="{data_uri(picture.image, side=THUMBNAIL)}"></button>'
    )


def _masks(talk: Talk) -> str:
    palette = colours(talk.session)
    drawn = [record for record in talk.session.visible if record.mask.any()]
    # Large ones first, so that small ones on top of them can be hovered and clicked.
    drawn.sort(key=lambda record: -int(record.mask.sum()))
    return "".join(_mask(record, palette[record.phrase], selected=record.id == talk.selected) for record in drawn)


def _mask(record: MaskRecord, index: int, *, selected: bool) -> str:
    label = escape(f"{record.phrase} · {record.mask.mean():.1%} · P {record.score:.2f}", quote=True)
    chosen = " chosen" if selected else ""
    return (
        f'<path class="mask{chosen}" d="{outline(record.mask)}" fill-rule="evenodd" data-tip="{label}" '
        f'data-mask="{record.id}" style="--c:{hex_colour(index)}" tabindex="0" role="img" aria-label="{label}"/>'
    )


def _regions(talk: Talk) -> str:
    """Superpixels with their numbers, lit by how much each belongs to the selected answer."""
    segmenter: Any = talk.session.picture.segmenter
    superpixels = segmenter.features.superpixels
    labels = superpixels.label_map.cpu().numpy()
    width, height = talk.session.picture.image.size
    across, down = width / labels.shape[1], height / labels.shape[0]
    scores = scores_of(talk.chosen)
    size = 0.028 * min(width, height) + 4
    paths, numbers = [], []
    for number in range(len(superpixels)):
        region = labels == number
        if not region.any():
            continue
        belongs = None if scores is None else float(scores[number])
        label = f"region {number}" + ("" if belongs is None else f" · belongs with P {belongs:.2f}")
        lit = "" if belongs is None else f" {'lit' if belongs >= 0.5 else 'dim'}"
        style = "" if belongs is None else f' style="--p:{belongs:.2f}"'
        paths.append(
            f'<path class="region{lit}"{style} d="{outline(region)}" fill-rule="evenodd" data-tip="{label}" '
            f'transform="scale({across:.6g} {down:.6g})"/>'
        )
        x, y = regions.inner_point(region)
        numbers.append(
            f'<text class="number" x="{(x + 0.5) * across:.1f}" y="{(y + 0.5) * down:.1f}" font-size="{size:.1f}">'
            f"{number}</text>"
        )
    return "".join(paths + numbers)


def scores_of(record: MaskRecord | None) -> np.ndarray[Any, Any] | None:
    """`[S]` P that each superpixel belongs to an answer; None where there is no answer of the model itself."""
    if record is None or record.answer is None or not len(record.answer.superpixel_scores):
        return None
    return np.asarray(record.answer.superpixel_scores.float().max(0).values)
