"""What one visitor has said and seen. Nothing is changed, only replaced, so that every state can be gone back to."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mllmseg.agent.loop import Agent, Reply
from mllmseg.agent.planner import Final, Planner, make_plan
from mllmseg.agent.replies import describe
from mllmseg.agent.schemas import EditResult, Found, Result
from mllmseg.agent.session import MaskRecord, Mode, Session
from mllmseg.agent.tools import Call
from mllmseg.demo.uploads import Upload
from mllmseg.errors import DataError, MLLMSegError

MAX_MESSAGE = 1000
# A conversation's masks stay in memory for as long as it lasts.
MAX_TURNS = 60
MAX_MASKS = 150
VIEWS = ("masks", "result", "regions", "original")
POINTERS = ("look", "add", "take", "box")


@dataclass(frozen=True)
class Line:
    """One entry of the chat: `picture` (an id), a `message` in somebody's words, or an `answer` (its exchange)."""

    role: str
    text: str = ""
    picture: str = ""
    exchange: int = -1


@dataclass(frozen=True)
class Talk:
    """A visitor's conversation and how it is shown.

    Attributes:
        session: what the agent knows.
        lines: the chat.
        selected: the mask that clicks correct and edits change; "" for a new one.
        view: one of `VIEWS`.
        pointer: what a click on the picture does, one of `POINTERS`.
        before: what undo goes back to.
    """

    session: Session = field(default_factory=Session)
    lines: tuple[Line, ...] = ()
    selected: str = ""
    view: str = "masks"
    pointer: str = "look"
    before: Talk | None = field(default=None, repr=False)

    @property
    def chosen(self) -> MaskRecord | None:
        """The selected mask where it is one of the current picture."""
        for record in self.session.masks:
            if record.id == self.selected and record.picture == self.session.current:
                return record
        return None

    def say(self, role: str, text: str) -> Talk:
        """Adds a line to the chat."""
        return replace(self, lines=(*self.lines, Line(role, text)))

    def add_picture(self, agent: Agent, upload: Upload) -> Talk:
        """Looks at a picture and turns to it. Raises DataError where it cannot."""
        session = agent.open(upload.image, session=self.session, name=upload.name)
        line = Line("user", upload.note, picture=session.current)
        return replace(
            self, session=session, lines=(*self.lines, line), selected="", view="masks", pointer="look", before=self
        )

    def turn_to(self, picture: str) -> Talk:
        """Talks about another picture of the conversation."""
        session = self.session.turn_to(picture)
        shown = session.visible
        return replace(self, session=session, selected=shown[-1].id if shown else "", view="masks")

    def undo(self) -> Talk:
        """Goes back to before the last message, picture, correction, edit or deletion; settings stay."""
        if self.before is None:
            return self
        session = replace(self.before.session, mode=self.session.mode)
        if self.session.threshold is not None and self.session.threshold != session.threshold:
            session = session.redecide(self.session.threshold)
        return replace(self.before, session=session)

    def toggle(self, mask: str) -> Talk:
        """Shows or hides a mask."""
        return replace(self, session=self.session.toggle(mask), view="masks")

    def rename(self, mask: str, phrase: str) -> Talk:
        """Calls a mask something else; an empty name changes nothing."""
        phrase = " ".join(phrase.split())[:MAX_MESSAGE]
        return replace(self, session=self.session.rename(mask, phrase)) if phrase else self

    def remove(self, mask: str) -> Talk:
        """Forgets a mask."""
        selected = "" if self.selected == mask else self.selected
        return replace(self, session=self.session.remove_mask(mask), selected=selected, before=self)

    def with_mode(self, mode: Mode) -> Talk:
        """Strict or lenient from now on."""
        return replace(self, session=replace(self.session, mode=mode))

    def redecide(self, threshold: float) -> Talk:
        """Asks anew of all answers so far which things exist."""
        return replace(self, session=self.session.redecide(threshold))

    def check_room(self, message: str) -> None:
        """Raises DataError where one more message is too much."""
        if len(message) > MAX_MESSAGE:
            raise DataError(f"that message has {len(message)} characters; up to {MAX_MESSAGE} are read; shorten it")
        if len(self.session.exchanges) >= MAX_TURNS or len(self.session.masks) >= MAX_MASKS:
            raise DataError("this conversation has become very long; start a new one")


def ask(agent: Agent, talk: Talk, message: str) -> Iterator[str | Talk]:
    """Answers a message: words about each step while it is taken, at last the conversation with the answer."""
    if make_plan(message).intent == "undo":
        yield talk.undo()
        return
    yield from _work(agent, talk, message, agent.planner or agent.rules, shown_as=message)


def refine(agent: Agent, talk: Talk, **prompt: Any) -> Iterator[str | Talk]:
    """Corrects the selected mask, or makes a new one, from `points` or a `box` as the tool takes them."""
    record = talk.chosen if talk.chosen is not None and talk.chosen.mask.any() else None
    call = Call("refine", {**({"mask": record.id} if record else {}), **prompt})
    visible = [item.id for item in talk.session.visible]

    def conclude(result: Result) -> Final:
        assert isinstance(result, Found)
        show = [result.mask if record is not None and name == record.id else name for name in visible]
        text = f"Corrected “{result.phrase}”" if record else "Here is what was clicked"
        text += f": {result.share:.1%} of the picture now, SAM trusts it {result.score:.0%}."
        return Final(text, tuple(dict.fromkeys([*show, result.mask])), topic=result.phrase)

    how = "a box" if "box" in prompt else "a point" if prompt["points"][0]["inside"] else "a point outside"
    name = f"“{record.phrase}”" if record else "something new"
    for item in _work(agent, talk, f"{name}: {how}", _ByHand(call, conclude), shown_as=f"☞ {name}, by {how}"):
        if isinstance(item, Talk):
            made = item.session.exchanges[-1].trace.shown if item.session.exchanges else ()
            item = replace(item, pointer=talk.pointer, selected=made[-1] if made else item.selected)
        yield item


def change(agent: Agent, talk: Talk, op: str, colour: str | None = None) -> Iterator[str | Talk]:
    """Edits the region of the selected mask.

    Raises:
        DataError: no mask is selected.
    """
    record = talk.chosen
    if record is None or not record.mask.any():
        raise DataError("choose a mask in the list first: it says which region to change")
    call = Call("edit", {"mask": record.id, "op": op, **({"colour": colour} if colour else {})})
    visible = tuple(item.id for item in talk.session.visible)

    def conclude(result: Result) -> Final:
        assert isinstance(result, EditResult)
        return Final(describe("edit", [result]), visible, topic=result.phrase, edit=result.edit)

    words = f"{op.replace('_', ' ')}: “{record.phrase}”{f' → {colour}' if colour else ''}"
    for item in _work(agent, talk, words, _ByHand(call, conclude), shown_as=f"✎ {words}"):
        yield replace(item, selected=record.id) if isinstance(item, Talk) else item


class _ByHand:
    """A plan of one call that a visitor made with the pointer."""

    name = "hand"

    def __init__(self, call: Call, conclude: Callable[[Result], Final]) -> None:
        self.call = call
        self.conclude = conclude

    def work(self, message: str, session: Session) -> Generator[Call, Result, Final]:
        """The call."""
        return self.conclude((yield self.call))


class _Watched:
    """A planner whose calls are reported when they are made."""

    def __init__(self, planner: Planner, report: Callable[[str], None]) -> None:
        self.planner = planner
        self.name = planner.name
        self.report = report

    def work(self, message: str, session: Session) -> Generator[Call, Result, Final]:
        """As the planner does."""
        calls = self.planner.work(message, session)
        try:
            call = next(calls)
            while True:
                self.report(_doing(call))
                try:
                    result = yield call
                except MLLMSegError as error:
                    call = calls.throw(error)
                else:
                    call = calls.send(result)
        except StopIteration as end:
            final: Final = end.value
            return final
        finally:
            calls.close()


def _doing(call: Call) -> str:
    """What a visitor reads while a tool works."""
    query = call.arguments.get("query") or call.arguments.get("message") or ""
    return {
        "segment": f"Looking for “{query}”",
        "verify": f"Checking whether it is “{query}”" if query else "Checking what was found",
        "refine": "Correcting the mask",
        "combine": "Putting masks together",
        "measure": "Measuring",
        "edit": "Changing the picture",
        "where": f"Looking for {query}",
        "talk": "Thinking of words",
    }.get(call.tool, call.tool)


def _work(agent: Agent, talk: Talk, message: str, planner: Planner, *, shown_as: str) -> Iterator[str | Talk]:
    """Runs a planner in a thread, so that its steps can be told of while it works."""
    reports: queue.SimpleQueue[str | Reply | BaseException] = queue.SimpleQueue()
    watching = Agent(
        agent.segmenter,
        planner=_Watched(planner, reports.put),
        max_steps=agent.max_steps,
        max_seconds=agent.max_seconds,
    )

    def run() -> None:
        try:
            reports.put(watching.ask(talk.session, message))
        except BaseException as error:  # raised where the visitor waits
            reports.put(error)

    threading.Thread(target=run, name="answer", daemon=True).start()
    while True:
        report = reports.get()
        if isinstance(report, str):
            yield report
        elif isinstance(report, BaseException):
            raise report
        else:
            yield _answered(talk, report, shown_as)
            return


def _answered(talk: Talk, reply: Reply, message: str) -> Talk:
    lines = (*talk.lines, Line("user", message), Line("assistant", exchange=len(reply.session.exchanges) - 1))
    visible = [record.id for record in reply.masks]
    shown = [name for name in reply.session.focus if name in visible] or visible
    return Talk(
        session=replace(reply.session, previous=None),  # undo is the conversation's, which knows more
        lines=lines,
        selected=shown[-1] if shown else "",
        view="result" if reply.image is not None else "masks",
        before=talk,
    )
