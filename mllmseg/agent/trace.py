"""How an answer came about, step by step: for people to read, to export as JSON, and to run again."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
from PIL import Image

from mllmseg.agent.tools import Call, call_tool
from mllmseg.errors import DataError, MLLMSegError

if TYPE_CHECKING:
    from mllmseg.agent.session import Session

THUMBNAIL = 96  # pixels of its longer side


class Step(pydantic.BaseModel):
    """One call of a tool.

    Attributes:
        tool: its name.
        arguments: as it was called with.
        result: what it gave back, {} where it failed.
        error: why it failed, "" where it did not.
        thumbnail: what came out, as a `data:image/png;base64,` address; "" where nothing can be shown.
        score: P of the result where it has one.
        milliseconds: how long it took.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    tool: str
    arguments: dict[str, Any]
    result: dict[str, Any] = {}
    error: str = ""
    thumbnail: str = ""
    score: float | None = None
    milliseconds: float = 0.0


class Trace(pydantic.BaseModel):
    """One message and everything done about it.

    Attributes:
        message: what the user said.
        picture: the id of the picture it was about.
        mode: strict or lenient.
        threshold: of the session, None for the segmenter's own.
        planner: whose plan it was: "rules" or the model's name.
        notes: what went otherwise than asked for, such as a fallback.
        steps: in order.
        answer: the words.
        shown: ids of the masks shown.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    message: str
    picture: str
    mode: str
    threshold: float | None
    planner: str
    notes: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    answer: str = ""
    shown: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The trace as JSON text; `from_json` reads it back equal."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """Reads what `to_json` wrote. Raises DataError where it is something else."""
        try:
            return cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "all of it"
            raise DataError(f"not a trace of this program ({where}: {first['msg']}); export it again") from error


def replay(trace: Trace, before: Session) -> tuple[Session, list[str]]:
    """Runs a trace's calls again.

    Args:
        trace: of one message.
        before: the session as it was before that message.

    Returns:
        The session with the masks and edits made again, and what came out otherwise than in the trace; [] where the
        result is the same.
    """
    session, differences = before, []
    for number, step in enumerate(trace.steps, 1):
        error, result, thumbnail = "", {}, ""
        try:
            session, outcome = call_tool(session, Call(step.tool, step.arguments))
            result = outcome.model_dump(mode="json")
            thumbnail = thumbnail_of(session, result)
        except MLLMSegError as failure:
            error = str(failure)
        if error != step.error:
            differences.append(f"step {number} ({step.tool}): error {error!r} instead of {step.error!r}")
        for key in sorted({*result, *step.result}):
            if result.get(key) != step.result.get(key):
                differences.append(
                    f"step {number} ({step.tool}): {key} {result.get(key)!r} instead of {step.result.get(key)!r}"
                )
        if step.thumbnail and thumbnail != step.thumbnail:
            differences.append(f"step {number} ({step.tool}): another picture came out")
    return session, differences


def thumbnail_of(session: Session, result: dict[str, Any]) -> str:
    """A small picture of a tool's result: the masked region lit, or the edited picture; "" where there is neither."""
    if result.get("edit"):
        image = next(item.image for item in session.edits if item.id == result["edit"])
    elif result.get("mask"):
        mask = session.mask(result["mask"]).mask
        pixels = np.array(session.picture.image)
        image = Image.fromarray(np.where(mask[..., None], pixels, pixels // 4).astype(np.uint8))
    else:
        return ""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
