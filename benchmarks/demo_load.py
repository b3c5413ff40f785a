"""Visitors at once on loopback, as programs: errors, mixed sessions, memory, latency.

`python benchmarks/demo_load.py --users 8 --minutes 5 --out benchmarks/demo_load.md`. Each visitor has a photo of his
own and checks that every answer is about it: its name, its size, and the phrase that he asked for. A visit is one
upload and five questions; then the same visitor comes again as somebody new.
"""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from PIL import Image

ROOT = Path(__file__).parents[1]
PHOTOS = ("astronaut", "cat", "coffee", "officer", "photographer", "portrait", "raccoon", "tower")
QUESTIONS = (
    "the person",
    "the cup",
    "the dog",
    "the animal",
    "everything except the person",
    "how many cups are there?",
)


@dataclass
class Log:
    """What happened, by all visitors."""

    first: list[float] = field(default_factory=list)  # seconds of messages with a picture
    further: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    visits: int = 0
    memory: list[tuple[float, float]] = field(default_factory=list)  # (seconds, MB)


def main(
    users: Annotated[int, typer.Option(help="Visitors at once, up to eight.")] = 8,
    minutes: Annotated[float, typer.Option(help="How long.")] = 5.0,
    out: Annotated[Path | None, typer.Option(help="Write the page there.")] = None,
) -> None:
    """Runs the server and its visitors."""
    server, url = start_server()
    log = Log()
    try:
        warm_up(url)
        end = time.monotonic() + 60 * minutes
        start = time.monotonic()
        load_before = os.getloadavg()[0]
        threads = [threading.Thread(target=visit_until, args=(url, name, end, log)) for name in PHOTOS[:users]]
        for thread in threads:
            thread.start()
        process = psutil.Process(server.pid)
        while any(thread.is_alive() for thread in threads):
            log.memory.append((time.monotonic() - start, process.memory_info().rss / 1e6))
            time.sleep(1)
        report = describe(log, users, minutes, time.monotonic() - start, load_before)
    finally:
        server.terminate()
        server.wait(30)
    print(report)
    if out is not None:
        out.write_text(report, encoding="utf-8")
    if log.errors or log.mixed:
        raise typer.Exit(1)


def start_server() -> tuple[subprocess.Popen[str], str]:
    """`mllmseg demo` on a free port."""
    command = [sys.executable, "-m", "mllmseg.cli", "demo", "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if " is open" in line:
            return server, line.split()[0]
    raise SystemExit("the demo did not start")


def warm_up(url: str) -> None:
    """Waits for the model."""
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False, analytics_enabled=False)
    client.predict("the cup", handle_file(ROOT / "examples" / "coffee.jpg"), api_name="/chat")


def visit_until(url: str, name: str, end: float, log: Log) -> None:
    """One visitor, again and again."""
    chance = random.Random(name)
    while time.monotonic() < end:
        try:
            visit(url, name, end, log, chance)
        except Exception as error:  # whatever goes wrong is what is counted
            log.errors.append(f"{name}: {type(error).__name__}: {error}"[:300])


def visit(url: str, name: str, end: float, log: Log, chance: random.Random) -> None:
    """An upload and five questions, every answer checked."""
    from gradio_client import Client, handle_file

    path = ROOT / "examples" / f"{name}.jpg"
    width, height = Image.open(path).size
    with tempfile.TemporaryDirectory() as folder:
        client = Client(url, verbose=False, analytics_enabled=False, download_files=folder)
        for turn in range(6):
            if time.monotonic() > end:
                return
            question = chance.choice(QUESTIONS)
            picture = handle_file(path) if turn == 0 else None
            start = time.monotonic()
            reply, _ = client.predict(question, picture, api_name="/chat")
            (log.further if turn else log.first).append(time.monotonic() - start)
            wrong = what_is_wrong(reply, path.name, [height, width], question)
            if wrong:
                log.mixed.append(f"{name}: {question}: {wrong}")
        client.close()
    log.visits += 1


def what_is_wrong(reply: dict[str, Any], name: str, size: list[int], question: str) -> str:
    """Why an answer is somebody else's, "" where it is not."""
    if reply["picture"] != name or reply["image_size"] != size:
        return f"about {reply['picture']} {reply['image_size']}"
    if any(mask["rle"]["size"] != size for mask in reply["masks"]):
        return "a mask of another size"
    asked = reply["steps"][0]["arguments"].get("query", "")
    # The phrase that is looked for is part of the question, or its noun is.
    return "" if asked.split()[-1] in question else f"looked for {asked}"


def describe(log: Log, users: int, minutes: float, seconds: float, load_before: float) -> str:
    """The page."""
    rows = "".join(
        f"| {what} | {len(times)} | {' | '.join(f'{np.percentile(times, q):.1f}' for q in (50, 90, 95, 99))} |\n"
        for what, times in (("the first, with an upload", log.first), ("each further one", log.further))
        if times
    )
    steps = np.linspace(0, len(log.memory) - 1, 11).astype(int)
    memory = "".join(f"| {log.memory[index][0]:.0f} | {log.memory[index][1]:,.0f} |\n" for index in steps)
    failures = "".join(f"- {line}\n" for line in [*log.errors, *log.mixed][:20])
    command = f"python benchmarks/demo_load.py --users {users} --minutes {minutes:g} --out benchmarks/demo_load.md"
    return f"""# The demo under load

Written by `{command}`: do not edit.

{users} visitors at once for {minutes:g} minutes on loopback, and until all that had been asked was answered:
{seconds:.0f} s. Each has a photo of examples/ of his own and comes anew after every upload and five questions, by
`gradio_client`. Every answer is checked to be about the visitor's own photo and question. Server: {platform.machine()},
{os.cpu_count()} cores, shared with other programs: the load average was {load_before:.0f} before the visitors came.

| | |
|---|---|
| messages answered | {len(log.first) + len(log.further)} |
| visits completed | {log.visits} |
| errors | {len(log.errors)} |
| answers about somebody else's picture or question | {len(log.mixed)} |

| seconds to an answer | n | 50 % | 90 % | 95 % | 99 % |
|---|---|---|---|---|---|
{rows}
Two messages are computed at a time; the rest of the time is waiting in the queue.

| second | resident memory of the server, MB |
|---|---|
{memory}
Conversations of visitors who left without a word (programs do) stay until an hour has passed or 48 others have come.
{failures}"""


if __name__ == "__main__":
    typer.run(main)
