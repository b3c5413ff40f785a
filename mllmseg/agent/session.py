"""What a conversation knows: pictures, masks with their phrases, edits, what was said. Never changed, only replaced.

Shapes: H W a picture's own size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from PIL import Image

from mllmseg.agent.regions import Mask
from mllmseg.errors import DataError
from mllmseg.structures import Segmentation

if TYPE_CHECKING:
    from mllmseg.agent.trace import Trace

# A picture's embeddings and caches take tens of megabytes.
MAX_PICTURES = 8


class Mode(Enum):
    """How exactly a thing must fit what was said."""

    STRICT = "strict"  # a purple laptop is no red laptop: found things are checked, the closest is offered, not shown
    LENIENT = "lenient"  # the closest candidate is shown where nothing fits, and said to be just that


class Segments(Protocol):
    """What the agent needs of `mllmseg.inference.segmenter.Segmenter`."""

    threshold: float

    def fork(self) -> Any:
        """The same model without an image."""

    def set_image(self, image: Any) -> None:
        """Looks at a picture."""

    @property
    def image(self) -> Image.Image | None:
        """The picture as it was read."""

    def segment(self, query: Any, *, threshold: float | None = None) -> Any:
        """One segmentation for a str, a list for a list."""

    def chat(self, messages: Any, *, threshold: float | None = None) -> Segmentation:
        """An answer in words."""


@dataclass(frozen=True)
class Picture:
    """A picture and the segmenter that has looked at it; nobody else sets that segmenter's image."""

    id: str
    name: str
    image: Image.Image
    segmenter: Segments = field(repr=False, compare=False)


@dataclass(frozen=True)
class MaskRecord:
    """A mask of the conversation.

    Attributes:
        id: `m1`, `m2`, …, in order of making.
        picture: the id of its picture.
        phrase: what it is a mask of.
        mask: `[H, W]` bool, read-only; empty where nothing was found.
        score: P(what was asked for exists), 1 for masks computed from others.
        exists: whether it was found.
        existed: whether it was at any threshold so far.
        answer: the model's own answer at threshold 0, None for masks that did not come from a question.
    """

    id: str
    picture: str
    phrase: str
    mask: Mask = field(repr=False, compare=False)
    score: float
    exists: bool
    existed: bool
    answer: Segmentation | None = field(default=None, repr=False, compare=False)

    @property
    def is_below(self) -> bool:
        """Whether it is an answer whose score does not reach the threshold."""
        return self.answer is not None and not self.exists


@dataclass(frozen=True)
class Edited:
    """An edited picture, `e1`, `e2`, …"""

    id: str
    picture: str
    op: str
    image: Image.Image = field(repr=False, compare=False)


@dataclass(frozen=True)
class Offer:
    """A mask that was found but not shown, and how to call it."""

    mask: str
    phrase: str


@dataclass(frozen=True)
class Exchange:
    """One turn: what the user said, what was answered, and how it came about."""

    message: str
    answer: str
    trace: Trace = field(repr=False)


@dataclass(frozen=True)
class Session:
    """The state of one conversation. Every method returns a new one, so that any state can be kept and gone back to.

    Attributes:
        pictures: in order of adding.
        current: the id of the picture that is talked about, "" before the first.
        masks: all that were made, hidden ones too.
        shown: ids of the masks that are to be drawn.
        focus: ids of the masks that "it" and "them" mean.
        topic: the phrase last asked for, found or not.
        edits: edited pictures; the last one of a picture that is not a cut-out is what the next edit starts from.
        offer: what a "yes" would show.
        exchanges: the conversation.
        mode: how exactly a thing must fit.
        threshold: a thing exists where P(it exists) reaches this; None for the segmenter's own.
        previous: the session before the last message.
    """

    pictures: tuple[Picture, ...] = ()
    current: str = ""
    masks: tuple[MaskRecord, ...] = ()
    shown: tuple[str, ...] = ()
    focus: tuple[str, ...] = ()
    topic: str = ""
    edits: tuple[Edited, ...] = ()
    offer: Offer | None = None
    exchanges: tuple[Exchange, ...] = ()
    mode: Mode = Mode.STRICT
    threshold: float | None = None
    previous: Session | None = field(default=None, repr=False, compare=False)

    @property
    def picture(self) -> Picture:
        """The picture that is talked about. Raises DataError where there is none yet."""
        for picture in self.pictures:
            if picture.id == self.current:
                return picture
        raise DataError("there is no picture to talk about yet: add one first")

    @property
    def canvas(self) -> Image.Image:
        """The picture with all edits so far; a cut-out is no edit to go on from."""
        edits = [item for item in self.edits if item.picture == self.current and item.op != "cut_out"]
        return edits[-1].image if edits else self.picture.image

    @property
    def visible(self) -> tuple[MaskRecord, ...]:
        """The masks that are to be drawn on the current picture, in the order in which they were shown."""
        records = (self.mask(name) for name in self.shown)
        return tuple(record for record in records if record.picture == self.current and not record.is_below)

    def mask(self, name: str) -> MaskRecord:
        """A mask by its id. Raises DataError where there is none."""
        for record in self.masks:
            if record.id == name:
                return record
        known = ", ".join(record.id for record in self.masks) or "none yet"
        raise DataError(f"there is no mask '{name}'; known: {known}")

    def add_picture(self, image: Image.Image, segmenter: Segments, name: str = "") -> Self:
        """Adds a picture that `segmenter` has looked at, and turns to it. Raises DataError where there are too many."""
        if len(self.pictures) >= MAX_PICTURES:
            raise DataError(f"a conversation holds {MAX_PICTURES} pictures; start a new one for more")
        made = Picture(f"p{len(self.pictures) + 1}", name, image, segmenter)
        return replace(self, pictures=(*self.pictures, made)).turn_to(made.id)

    def turn_to(self, picture: str) -> Self:
        """Makes another picture the current one; "it" is what is shown on it.

        Raises:
            DataError: there is none of that id.
        """
        if picture not in {item.id for item in self.pictures}:
            raise DataError(f"there is no picture '{picture}'; known: {', '.join(item.id for item in self.pictures)}")
        turned = replace(self, current=picture, offer=None)
        shown = turned.visible
        return replace(turned, focus=tuple(record.id for record in shown), topic=shown[-1].phrase if shown else "")

    def add_mask(self, phrase: str, mask: Mask, *, score: float = 1.0, exists: bool | None = None) -> Self:
        """Adds a mask of the current picture as the last of `masks`, not shown yet."""
        mask = np.array(mask, dtype=bool)
        mask.setflags(write=False)
        found = bool(mask.any()) if exists is None else exists
        return replace(self, masks=(*self.masks, self._record(phrase, mask, score, found)))

    def add_answer(self, answer: Segmentation, threshold: float) -> Self:
        """Adds what the model says about a phrase, decided at a threshold; `redecide` can decide otherwise later.

        Args:
            answer: given at threshold 0, so that it has a mask whatever its score.
            threshold: it exists where its score reaches this.
        """
        record = self._record(answer.query, np.zeros((), dtype=bool), answer.score, False, answer)
        return replace(self, masks=(*self.masks, _decided(record, threshold)))

    def redecide(self, threshold: float) -> Self:
        """Asks of every answer anew whether its thing exists. Nothing is computed but this.

        What exists for the first time is shown; what ceases to is not until it exists again, and then as it was, shown
        or hidden. Masks made of others stay as they were made.
        """
        masks = tuple(_decided(item, threshold) for item in self.masks)
        new = [now.id for before, now in zip(self.masks, masks, strict=True) if now.existed and not before.existed]
        return replace(self, masks=masks, threshold=threshold, shown=tuple(dict.fromkeys((*self.shown, *new))))

    def remove_mask(self, name: str) -> Self:
        """Forgets a mask. Raises DataError where there is none of that id."""
        gone = self.mask(name).id
        return replace(
            self,
            masks=tuple(item for item in self.masks if item.id != gone),
            shown=tuple(item for item in self.shown if item != gone),
            focus=tuple(item for item in self.focus if item != gone),
            offer=None if self.offer is not None and self.offer.mask == gone else self.offer,
        )

    def _record(
        self, phrase: str, mask: Mask, score: float, exists: bool, answer: Segmentation | None = None
    ) -> MaskRecord:
        number = 1 + max((int(item.id[1:]) for item in self.masks), default=0)
        return MaskRecord(f"m{number}", self.picture.id, phrase, mask, score, exists, exists, answer)

    def add_edit(self, op: str, image: Image.Image) -> Self:
        """Adds an edited version of the current picture."""
        number = 1 + max((int(item.id[1:]) for item in self.edits), default=0)
        made = Edited(f"e{number}", self.picture.id, op, image)
        return replace(self, edits=(*self.edits, made))

    def show(self, names: Iterable[str]) -> Self:
        """Draws these masks and no others of the current picture. Raises DataError for an unknown one."""
        chosen = tuple(dict.fromkeys(names))
        others = tuple(name for name in self.shown if self.mask(name).picture != self.current)
        return replace(self, shown=(*others, *(self.mask(name).id for name in chosen)))

    def toggle(self, name: str) -> Self:
        """Shows a hidden mask, hides a shown one."""
        if name in self.shown:
            return replace(self, shown=tuple(item for item in self.shown if item != name))
        return replace(self, shown=(*self.shown, self.mask(name).id))

    def rename(self, name: str, phrase: str) -> Self:
        """Calls a mask something else."""
        wanted = self.mask(name)
        renamed = tuple(replace(item, phrase=phrase) if item is wanted else item for item in self.masks)
        return replace(self, masks=renamed)

    def without_edits(self) -> Self:
        """The current picture as it was at first."""
        return replace(self, edits=tuple(item for item in self.edits if item.picture != self.current))

    def undo(self) -> Session:
        """The session before the last message, or this one where there was none."""
        return self.previous or self


def _decided(record: MaskRecord, threshold: float) -> MaskRecord:
    """A record with its answer's mask where the score reaches the threshold, and an empty one where it does not."""
    if record.answer is None:
        return record
    exists = record.answer.score >= threshold
    union = record.answer.union.cpu().numpy()
    mask = np.array(union, dtype=bool) if exists else np.zeros_like(union, dtype=bool)
    mask.setflags(write=False)
    return replace(record, mask=mask, exists=exists, existed=record.existed or exists)
