"""The agent: a message goes to a planner, its calls to the tools, the results back, all of it into a trace."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from mllmseg.agent.execution import Final
from mllmseg.agent.planner import COMMANDS, Planner, PlannerError, RulePlanner, make_plan
from mllmseg.agent.schemas import Result
from mllmseg.agent.session import Exchange, MaskRecord, Mode, Offer, Segments, Session
from mllmseg.agent.tools import Call, call_tool
from mllmseg.agent.trace import Step, Trace, thumbnail_of
from mllmseg.data.transforms import ImageSource, load_image
from mllmseg.errors import MLLMSegError

MAX_STEPS = 32
MAX_SECONDS = 120.0


class LimitReached(MLLMSegError):
    """A message has taken too many steps or too long."""


@dataclass(frozen=True)
class Reply:
    """The answer to a message.

    Attributes:
        session: the conversation after it, for the next message.
        text: the words, notes on fallbacks included.
        masks: what to draw on the picture.
        image: the edited picture, None where nothing was edited.
        offer: the closest candidate where nothing fits; "yes" shows it.
        trace: how the answer came about.
    """

    session: Session
    text: str
    masks: tuple[MaskRecord, ...]
    image: Image.Image | None
    offer: Offer | None
    trace: Trace


class Agent:
    """Talks about pictures. It keeps nothing between messages: all state is in the sessions it is given.

    Args:
        segmenter: the model; its own image is left alone, each picture gets a fork.
        planner: what decides on tools first; None for the rules.
        max_steps: calls of tools a message may take.
        max_seconds: time a message may take; looked at between the calls.
    """

    def __init__(
        self,
        segmenter: Segments,
        *,
        planner: Planner | None = None,
        max_steps: int = MAX_STEPS,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self.segmenter = segmenter
        self.rules = RulePlanner()
        self.planner = planner
        self.max_steps = max_steps
        self.max_seconds = max_seconds

    def open(
        self, image: ImageSource, *, session: Session | None = None, name: str = "", mode: Mode | None = None
    ) -> Session:
        """Looks at a picture: a new conversation, or one more picture in `session`, which becomes the current one.

        Raises:
            DataError: the picture cannot be read, or the session has too many.
        """
        session = Session() if session is None else session
        if mode is not None:
            session = replace(session, mode=mode)
        loaded = load_image(image)
        segmenter = self.segmenter.fork()
        segmenter.set_image(loaded)
        return session.add_picture(loaded, segmenter, name)

    def ask(self, session: Session, message: str) -> Reply:
        """Answers a message. What the user can get wrong becomes an answer, not an exception.

        Raises:
            DataError: the session has no picture.
        """
        picture = session.picture
        notes: list[str] = []
        for planner in self._planners(message):
            work = _Work(session, self.max_steps, time.monotonic() + self.max_seconds)
            try:
                final = work.run(planner.work(message, session))
            except PlannerError as error:
                notes.append(f"{planner.name} failed ({error}); the local rules answered instead.")
                continue
            except LimitReached as error:
                final = Final(f"I stopped: {error}.")
            except MLLMSegError as error:
                final = Final(f"That did not work: {error}.", keep=True, topic=session.topic)
            break
        trace = Trace(
            message=message,
            picture=picture.id,
            mode=session.mode.value,
            threshold=session.threshold,
            planner=planner.name,
            notes=tuple(notes),
            steps=tuple(work.steps),
        )
        return _conclude(session, work.session, final, trace)

    def _planners(self, message: str) -> Sequence[Planner]:
        """Who is tried in turn. Commands to the session itself need no model."""
        if self.planner is None or make_plan(message).intent in COMMANDS:
            return (self.rules,)
        return self.planner, self.rules


class _Work:
    """One message being worked on: the session as it grows, the steps taken, the limits."""

    def __init__(self, session: Session, max_steps: int, deadline: float) -> None:
        self.session = session
        self.steps: list[Step] = []
        self.max_steps = max_steps
        self.deadline = deadline

    def run(self, calls: Generator[Call, Result, Final]) -> Final:
        """Carries out what a planner yields."""
        try:
            call = next(calls)
            while True:
                self._check_limits()
                try:
                    result = self._call(call)
                except MLLMSegError as error:
                    call = calls.throw(error)
                else:
                    call = calls.send(result)
        except StopIteration as end:
            final: Final = end.value
            return final
        finally:
            calls.close()

    def _check_limits(self) -> None:
        if len(self.steps) >= self.max_steps:
            raise LimitReached(f"this took more than {self.max_steps} steps")
        if time.monotonic() > self.deadline:
            raise LimitReached("this took too long")

    def _call(self, call: Call) -> Result:
        start = time.perf_counter()
        try:
            self.session, result = call_tool(self.session, call)
        except MLLMSegError as error:
            spent = 1e3 * (time.perf_counter() - start)
            self.steps.append(
                Step(tool=call.tool, arguments=call.arguments, error=str(error), milliseconds=round(spent, 1))
            )
            raise
        spent = 1e3 * (time.perf_counter() - start)
        values = result.model_dump(mode="json")
        self.steps.append(
            Step(
                tool=call.tool,
                arguments=call.arguments,
                result=values,
                thumbnail=thumbnail_of(self.session, values),
                score=values.get("score"),
                milliseconds=round(spent, 1),
            )
        )
        return result


def _conclude(before: Session, after: Session, final: Final, trace: Trace) -> Reply:
    """The session after a message, and the reply."""
    if final.command == "undo":
        return _undone(before, trace)
    text = " ".join([*trace.notes, final.text]).strip()
    if final.command == "reset":
        after, text = after.without_edits().show([]), "The picture is as it was."
    elif final.command == "hide":
        after, text = after.show([]), "Nothing is marked now."
    elif not final.keep:
        after = after.show(final.show)
    for item in final.names:
        after = after.rename(item.mask, item.phrase)
    # After "I see no dog here" neither "it" nor what was marked before is what "it" meant then.
    focus = final.show or (before.focus if final.keep else ())
    trace = trace.model_copy(update={"answer": text, "shown": tuple(item.id for item in after.visible)})
    after = replace(
        after,
        focus=focus,
        topic=final.topic or before.topic,
        offer=final.offer,
        exchanges=(*before.exchanges, Exchange(trace.message, text, trace)),
        previous=before,
    )
    image = next((item.image for item in after.edits if item.id == final.edit), None)
    return Reply(after, text, after.visible, image, final.offer, trace)


def _undone(session: Session, trace: Trace) -> Reply:
    earlier = session.undo()
    text = "There is nothing to undo." if earlier is session else "Undone."
    trace = trace.model_copy(update={"answer": text, "shown": tuple(item.id for item in earlier.visible)})
    edits = [item for item in earlier.edits if item.picture == earlier.current]
    return Reply(earlier, text, earlier.visible, edits[-1].image if edits else None, earlier.offer, trace)
