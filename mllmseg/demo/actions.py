"""What happens when a visitor does something: from what the page sends to the conversation that it shows next."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mllmseg.agent.loop import Agent
from mllmseg.agent.session import Mode
from mllmseg.demo import conversation
from mllmseg.demo.conversation import POINTERS, VIEWS, Talk
from mllmseg.demo.examples import EXAMPLES, photo_path
from mllmseg.demo.loading import Loader
from mllmseg.demo.uploads import Upload, read_upload
from mllmseg.errors import DataError, MLLMSegError


@dataclass(frozen=True)
class Progress:
    """Something is under way.

    Attributes:
        talk: the conversation so far.
        text: what was asked.
        words: what is being done about it.
        picture: what is being looked at for the first time.
    """

    talk: Talk
    text: str
    words: str
    picture: Upload | None = None


WAIT = 0.5  # seconds between two looks at a model that is being loaded


def settle(talk: Talk | None, mode: str, threshold: float) -> Talk:
    """A conversation, new where there is none, under the settings of the page."""
    talk = (talk or Talk()).with_mode(Mode(mode))
    return talk if talk.session.threshold == threshold else talk.redecide(threshold)


def send(loader: Loader, talk: Talk, text: str, files: list[str]) -> Iterator[Progress | Talk]:
    """A message with any number of pictures."""
    text = " ".join(text.split())
    if not text and not files:
        yield talk.say("assistant", "Write what to look for, or drop a picture.")
        return
    try:
        talk.check_room(text)
        agent = yield from _agent(loader, talk, text)
        for path in files:
            upload = read_upload(path)
            yield Progress(talk, text, f"Looking at {upload.name}", upload)
            talk = talk.add_picture(agent, upload)
        if not talk.session.pictures:
            yield talk.say("user", text).say(
                "assistant", "Drop a picture into the message box first, or take an example."
            )
        elif not text:
            yield talk.say("assistant", _seen(talk))
        else:
            yield from _relay(talk, text, conversation.ask(agent, talk, text))
    except MLLMSegError as error:
        yield _sorry(talk, text, error)


def try_example(loader: Loader, talk: Talk, number: int) -> Iterator[Progress | Talk]:
    """One of the examples: its photo, unless that is the current picture already, and its message."""
    if not 0 <= number < len(EXAMPLES) or (path := photo_path(EXAMPLES[number].photo)) is None:
        yield talk
        return
    example = EXAMPLES[number]
    same = next((item for item in talk.session.pictures if item.name == example.photo), None)
    if same is not None:
        yield from send(loader, talk.turn_to(same.id), example.message, [])
    else:
        yield from send(loader, talk, example.message, [str(path)])


def work(loader: Loader, talk: Talk, what: dict[str, Any]) -> Iterator[Progress | Talk]:
    """What takes the model or some time: an example, a point, a box, an edit.

    Args:
        loader: of the model.
        talk: the conversation.
        what: `work` and its values, as `page.js` sends them; anything may stand there.
    """
    kind = what.get("work")
    try:
        if kind == "example":
            yield from try_example(loader, talk, int(what.get("value", -1)))
            return
        if not talk.session.pictures:
            yield talk
            return
        agent = yield from _agent(loader, talk, "")
        talk.check_room("")
        if kind == "point":
            point = {"x": float(what["x"]), "y": float(what["y"]), "inside": bool(what["inside"])}
            yield from _relay(talk, "", conversation.refine(agent, talk, points=[point]))
        elif kind == "box":
            box = [float(what[key]) for key in ("x", "y", "width", "height")]
            yield from _relay(talk, "", conversation.refine(agent, talk, box=box))
        elif kind == "edit":
            colour = str(what["colour"]) if what.get("colour") else None
            yield from _relay(talk, "", conversation.change(agent, talk, str(what["value"]), colour))
        else:
            yield talk
    except MLLMSegError as error:
        yield _sorry(talk, "", error)
    except (KeyError, TypeError, ValueError):  # the page does not send that; somebody else does
        yield talk


def act(talk: Talk, what: dict[str, Any]) -> Talk:
    """What only changes how things are shown, or undoes.

    Args:
        talk: the conversation.
        what: `do` and its `value`, as `page.js` sends them; anything may stand there.
    """
    value = str(what.get("value", ""))
    deeds: dict[str, Callable[[], Talk]] = {
        "view": lambda: replace(talk, view=value) if value in VIEWS else talk,
        "pointer": lambda: replace(talk, pointer=value, view=_markable(talk.view)) if value in POINTERS else talk,
        "picture": lambda: talk.turn_to(value),
        "toggle": lambda: talk.toggle(value),
        "select": lambda: replace(talk, selected=value if not value else talk.session.mask(value).id),
        "rename": lambda: talk.rename(value, str(what.get("name", ""))),
        "remove": lambda: talk.remove(value),
        "undo": talk.undo,
    }
    deed = deeds.get(str(what.get("do")))
    try:
        return deed() if deed else talk
    except DataError:  # a mask or picture that is gone already, as after a double click
        return talk


def _markable(view: str) -> str:
    """Where masks can be seen, so that a click shows what it did."""
    return view if view == "regions" else "masks"


def _agent(loader: Loader, talk: Talk, text: str) -> Generator[Progress, None, Agent]:
    """Waits for the model, visibly."""
    loader.start()
    while not (status := loader.status).ready:
        if status.failed:
            raise MLLMSegError(f"there is no model: {status.words}")
        yield Progress(talk, text, status.words)
        loader.wait(WAIT)
    return loader.agent


def _relay(talk: Talk, text: str, answer: Iterator[str | Talk]) -> Iterator[Progress | Talk]:
    for item in answer:
        yield Progress(talk, text, item) if isinstance(item, str) else item


def _seen(talk: Talk) -> str:
    segmenter: Any = talk.session.picture.segmenter
    count, seconds = len(segmenter.features.superpixels), sum(segmenter.timings.values()) / 1e3
    return f"I have looked at it: {count} regions, {seconds:.1f} s. What are you looking for?"


def _sorry(talk: Talk, text: str, error: MLLMSegError) -> Talk:
    said = talk.say("user", text) if text else talk
    return said.say("assistant", f"That did not work: {error}.")
