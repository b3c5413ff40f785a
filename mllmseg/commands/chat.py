"""`mllmseg chat`: talk about a picture in the terminal."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllmseg.commands.options import (
    LLM_KEY,
    DeviceOption,
    DtypeOption,
    LlmModelOption,
    LlmUrlOption,
    ModelOption,
    ThresholdOption,
)
from mllmseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mllmseg.agent.loop import Agent, Reply
    from mllmseg.agent.planner import Planner
    from mllmseg.agent.session import Session

_HELP = """/open FILE      one more picture; it becomes the one that is talked about
/pictures       all pictures of this conversation
/picture 2      back to the second one (its number or its name)
/strict         where nothing fits, say so and offer what comes closest
/lenient        where nothing fits, show what comes closest and say so
/help           this
/quit           leave (so does the end of the input)"""


def chat(
    image: Annotated[str, typer.Argument(help="An image file.", show_default=False)],
    messages: Annotated[
        list[str] | None, typer.Argument(help="What to say; without any, a conversation on the terminal.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for what comes out of each message: 01-overlay.png, 01-edit.png, 01-trace.json."),
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option("--also", help="One more picture; “/picture 2” turns to it. May be repeated.")
    ] = None,
    lenient: Annotated[
        bool, typer.Option("--lenient/--strict", help="Show the closest thing where nothing fits, or only offer it.")
    ] = False,
    threshold: ThresholdOption = 0.5,
    llm_url: LlmUrlOption = None,
    llm_model: LlmModelOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    model: ModelOption = None,
) -> None:
    """Talk about pictures: find, exclude, count, measure, edit, ask back. Exit code 2 for bad input."""
    warnings.simplefilter("ignore")  # the libraries' deprecations are no news to a user
    from mllmseg.data.transforms import load_image
    from mllmseg.inference import pretrained

    # Everything that can be wrong with the input is found before the model is loaded.
    planner = make_planner(llm_url, llm_model)
    pictures = {str(path): load_image(str(path)) for path in (image, *(also or ()))}
    if out is not None:
        _make_folder(out)
    folder = pretrained.find_checkpoint(model)

    from mllmseg.agent.loop import Agent
    from mllmseg.agent.session import Mode, Session
    from mllmseg.inference.segmenter import Segmenter
    from mllmseg.models.allocator import keep_freed_memory

    keep_freed_memory()
    segmenter = Segmenter.from_pretrained(folder, device=device, dtype=dtype, progress=sys.stderr.isatty())
    agent = Agent(segmenter, planner=planner)
    session = Session(mode=Mode.LENIENT if lenient else Mode.STRICT, threshold=threshold)
    for name, picture in pictures.items():
        session = agent.open(picture, session=session, name=Path(name).name)
    session = session.turn_to(session.pictures[0].id)
    number = 0
    for message in messages or _typed(session.mode.value):
        if message.startswith("/"):
            session, said = _command(agent, session, message, forgiving=not messages)
            typer.echo(said)
            continue
        number += 1
        reply = agent.ask(session, message)
        session = reply.session
        _say(reply, _write(reply, out, number) if out else [])


def _command(agent: Agent, session: Session, line: str, *, forgiving: bool) -> tuple[Session, str]:
    """Carries out a line that starts with a slash; returns the session after it and what to say.

    Raises:
        DataError: it cannot be done, and `forgiving` is not set.
    """
    from mllmseg.agent.session import Mode

    name, _, argument = line.partition(" ")
    argument = argument.strip().strip("'\"")
    try:
        if name in ("/strict", "/lenient"):
            session = replace(session, mode=Mode(name[1:]))
            return session, f"{session.mode.value} from now on"
        if name == "/open":
            session = agent.open(argument, session=session, name=Path(argument).name)
        elif name == "/picture":
            session = session.turn_to(_picture_id(session, argument))
        elif name != "/pictures":
            return session, _HELP if name == "/help" else f"there is no {name}\n{_HELP}"
    except DataError as error:
        if not forgiving:
            raise
        return session, f"{error}"
    return session, _list(session)


def _picture_id(session: Session, asked: str) -> str:
    """The id of a picture by its number or its name."""
    for number, picture in enumerate(session.pictures, 1):
        if asked in (str(number), picture.id, picture.name, Path(picture.name).stem):
            return picture.id
    raise DataError(f"there is no picture '{asked}'; known:\n{_list(session)}")


def _list(session: Session) -> str:
    """All pictures, one a line, the current one marked."""
    lines = []
    for number, picture in enumerate(session.pictures, 1):
        mark = "*" if picture.id == session.current else " "
        shown = [record.phrase for record in map(session.mask, session.shown) if record.picture == picture.id]
        masks = f", shown: {', '.join(shown)}" if shown else ""
        lines.append(f"{mark} {number} {picture.name} ({picture.image.width} × {picture.image.height}{masks})")
    return "\n".join(lines)


def make_planner(url: str | None, name: str | None) -> Planner | None:
    """The planner that --llm-url and --llm-model ask for; None for the local rules.

    Raises:
        ConfigError: one of the two is missing.
    """
    if url is None and name is None:
        return None
    if url is None or name is None:
        raise ConfigError("a language model needs both --llm-url and --llm-model")
    from mllmseg.agent.llm_planner import LlmPlanner
    from mllmseg.chat_endpoint import Endpoint

    return LlmPlanner(Endpoint(url, name, key=os.environ.get(LLM_KEY, "")))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f"{folder}: cannot write there ({error.strerror}); choose another folder") from error


def _typed(mode: str) -> Iterator[str]:
    """What the user types, line by line, up to /quit or the end of the input."""
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        typer.echo(f"What do you look for? ({mode} mode; /help lists what else can be said)")
    while True:
        if on_terminal:
            typer.echo("> ", nl=False)
        line = sys.stdin.readline()
        if not line or line.strip().lower().lstrip("/") in ("quit", "exit"):
            return
        if line.strip():
            yield line.strip()


def _write(reply: Reply, folder: Path, number: int) -> list[Path]:
    """Writes what came out of a message; returns the files."""
    import numpy as np

    from mllmseg.inference.outputs import save_image
    from mllmseg.inference.visualize import overlay

    written: list[Path] = []
    if reply.masks:
        labels = [record.phrase for record in reply.masks]
        picture = reply.session.picture.image
        drawn = overlay(picture, np.stack([record.mask for record in reply.masks]), labels=labels)
        written.append(folder / f"{number:02d}-overlay.png")
        save_image(drawn, written[-1])
    if reply.image is not None:
        written.append(folder / f"{number:02d}-edit.png")
        save_image(reply.image, written[-1])
    written.append(folder / f"{number:02d}-trace.json")
    temporary = written[-1].with_name(f".{written[-1].name}-{os.getpid()}")
    try:
        temporary.write_text(reply.trace.to_json() + "\n", encoding="utf-8")
        temporary.replace(written[-1])
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{written[-1]}: cannot be written ({error.strerror})") from error
    return written


def _say(reply: Reply, written: list[Path]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(reply.text, style="bold green" if reply.masks or reply.image else "bold yellow"))
    for step in reply.trace.steps:
        given = ", ".join(str(value) for value in step.arguments.values())
        score = "" if step.score is None else f", P {step.score:.2f}"
        console.print(Text(f"  {step.tool}({given}){score}, {step.milliseconds:.0f} ms", style="dim"))
    for path in written:
        console.print(Text(f"  wrote {path}", style="dim"))
