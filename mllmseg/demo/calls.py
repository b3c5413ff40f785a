"""What a call of a program or of another agent needs: its picture, its masks, its answer as plain values.

Shapes: H W a picture's own size.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pydantic

from mllmseg.agent.regions import Mask
from mllmseg.agent.session import Session
from mllmseg.demo import actions
from mllmseg.demo.conversation import Talk, ask
from mllmseg.demo.exports import rle
from mllmseg.demo.loading import Loader
from mllmseg.demo.uploads import MAX_PIXELS, read_upload
from mllmseg.errors import DataError, MLLMSegError
from mllmseg.models.postprocess import decode_rle

MAX_CODE = 4_000_000  # letters of a run-length code
# Pictures whose features are kept, and up to which size.
MAX_KEPT = 4
MAX_KEPT_PIXELS = 4_000_000
JSON = dict[str, Any]


class Pictures:
    """The last few pictures that were looked at: an agent's next call is most often about the same one.

    A picture is found by its content alone, so that nobody finds one that he does not have.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._known: OrderedDict[bytes, Session] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: str | None, *, look: bool = True) -> Session:
        """A conversation about a picture at its own size.

        Args:
            path: where Gradio has put it.
            look: whether the model has to see it.

        Raises:
            DataError: it is none.
        """
        if not path:
            raise DataError("give an image")
        upload, agent = read_upload(path, side=None), self.loader.agent
        if not look:
            return Session().add_picture(upload.image, agent.segmenter, upload.name)
        key = hashlib.sha256(repr(upload.image.size).encode() + upload.image.tobytes()).digest()
        with self._lock:
            session = self._known.pop(key, None)
        session = session or agent.open(upload.image, name=upload.name)
        if upload.image.width * upload.image.height <= MAX_KEPT_PIXELS:
            with self._lock:
                self._known[key] = session
                while len(self._known) > MAX_KEPT:
                    self._known.popitem(last=False)
        return replace(session, pictures=(replace(session.picture, name=upload.name),))


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


def to_text(values: JSON) -> str:
    """JSON in one line, in any language."""
    return json.dumps(values, ensure_ascii=False)


class Friendly:
    """What a caller can get wrong becomes Gradio's error, with the words and without a stack."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MLLMSegError | pydantic.ValidationError):
            raise gr.Error(str(error), print_exception=False) from error


def parse_json(text: str, name: str) -> Any:
    """The value of a JSON text, None for "". Raises DataError where it is none."""
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{name}: not JSON ({error})") from error


def mask_of(text: str, session: Session) -> Mask:
    """`[H, W]` of a run-length code that must have the picture's size."""
    mask = decode_mask(parse_json(text, "mask"))
    width, height = session.picture.image.size
    if mask.shape != (height, width):
        raise DataError(f"the mask has size {list(mask.shape)}, the picture {[height, width]} (height, width)")
    return mask


def decode_mask(code: Any) -> Mask:
    """`[H, W]` of a run-length code. Raises DataError where it is none, or far too large."""
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
