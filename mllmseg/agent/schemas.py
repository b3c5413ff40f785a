"""What the agent's tools take and give: frozen, checked, and the same for every planner, each with a JSON schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from mllmseg.agent.edits import EditOp
from mllmseg.agent.regions import Box, CombineOp, End

# Characters of a message or phrase.
MAX_TEXT = 2000
Text = Annotated[str, pydantic.Field(min_length=1, max_length=MAX_TEXT)]
MaskId = Annotated[str, pydantic.Field(description="Id of a mask made before, such as 'm1'.")]


class Strict(pydantic.BaseModel):
    """Base of all of them: frozen, no unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class SegmentArguments(Strict):
    """Arguments of `segment`."""

    query: Text = pydantic.Field(description="A phrase that names things in the picture: 'the dog on the left'.")


class VerifyArguments(Strict):
    """Arguments of `verify`."""

    mask: MaskId
    query: Text | None = pydantic.Field(None, description="What it should show; leave out for what it was made for.")
    closely: bool = pydantic.Field(True, description="Also look at the masked region alone; takes a second or two.")


class Point(Strict):
    """A click, in pixels of the picture."""

    x: float
    y: float
    inside: bool = pydantic.Field(True, description="Whether the point belongs to the thing.")


class RefineArguments(Strict):
    """Arguments of `refine`."""

    mask: MaskId | None = pydantic.Field(None, description="The mask to correct; leave out to start from nothing.")
    points: tuple[Point, ...] = pydantic.Field((), max_length=64)
    box: tuple[float, float, float, float] | None = pydantic.Field(None, description="x, y, width, height in pixels.")


class CombineArguments(Strict):
    """Arguments of `combine`."""

    op: CombineOp = pydantic.Field(description="difference: the first without the others; complement: none of them.")
    masks: tuple[MaskId, ...] = pydantic.Field(min_length=1, max_length=32)


class PickArguments(Strict):
    """Arguments of `pick`."""

    mask: MaskId
    end: End
    query: Text | None = pydantic.Field(None, description="What the one that is picked is called.")
    apart: bool = pydantic.Field(False, description="Only where the mask falls into parts that do not touch.")


class MeasureArguments(Strict):
    """Arguments of `measure`."""

    mask: MaskId
    to: MaskId | None = pydantic.Field(None, description="Another mask, to measure the distance.")


class EditArguments(Strict):
    """Arguments of `edit`."""

    mask: MaskId
    op: EditOp = pydantic.Field(
        description="cut_out: all else transparent; *_rest changes all but the mask; remove fills it from around it."
    )
    colour: str | None = pydantic.Field(None, description="A colour's name or #rrggbb, for recolour and highlight.")


class WhereArguments(Strict):
    """Arguments of `where`."""

    query: Text = pydantic.Field(description="A place or a thing: 'the free space left of the red car'.")


class TalkArguments(Strict):
    """Arguments of `talk`."""

    message: Text = pydantic.Field(description="A question about the picture that asks for words.")


class Result(Strict):
    """Base of what tools give back: plain values, ready for JSON and the same on every run."""


class Found(Result):
    """A mask, or that there is none.

    Attributes:
        mask: its id; also where nothing was found, of an empty mask.
        share: of the picture's area, 0..1.
    """

    kind: Literal["mask"] = "mask"
    mask: str
    phrase: str
    exists: bool
    score: float
    share: float
    box: Box
    place: str


class Verdict(Result):
    """Whether a mask shows what was asked for.

    Attributes:
        fits: nothing speaks against it.
        score: P(the query exists) in the whole picture.
        overlap: IoU of the mask and what the query points at in the whole picture.
        probability: P(the thing exists) in the masked region alone, None where it was not looked at.
        rivals: contrary phrases that mean the same region, with their P.
        rival: the one that fits clearly better, "" where there is none.
        colour: what the mask's pixels look like where the query names a colour that they are not, else "".
    """

    kind: Literal["verdict"] = "verdict"
    mask: str
    query: str
    fits: bool
    score: float
    overlap: float
    probability: float | None
    rivals: dict[str, float]
    rival: str
    colour: str = ""


class Measurement(Result):
    """Sizes of a mask.

    Attributes:
        area: in pixels.
        share: of the picture's area, 0..1.
        parts: areas in pixels of the connected parts, largest first, without specks.
        distance: to the other mask in pixels, None where none was given.
    """

    kind: Literal["measurement"] = "measurement"
    mask: str
    phrase: str
    area: int
    share: float
    box: Box
    place: str
    colour: str
    parts: tuple[int, ...]
    distance: float | None


class EditResult(Result):
    """An edited picture.

    Attributes:
        edit: its id.
        changed: pixels that differ from the picture before.
    """

    kind: Literal["edit"] = "edit"
    edit: str
    mask: str
    phrase: str
    op: EditOp
    colour: str | None
    changed: int


class Place(Found):
    """A region to go to.

    Attributes:
        point: (x, y) of a pixel well within it, None where there is no such region.
        missing: the thing the place is beside, where it was not found; else "".
    """

    point: tuple[int, int] | None
    missing: str = ""


class Spoken(Result):
    """An answer in words.

    Attributes:
        mask: the id of what the words point at, None where they point at nothing.
    """

    kind: Literal["words"] = "words"
    text: str
    mask: str | None
    score: float


def json_schema(arguments: type[Strict]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, without references and titles: what function calling takes."""
    schema = arguments.model_json_schema()
    definitions = schema.pop("$defs", {})

    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return [plain(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return plain(definitions[node["$ref"].rpartition("/")[2]])
        return {key: plain(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}

    plain_schema: dict[str, Any] = plain(schema)
    return plain_schema
