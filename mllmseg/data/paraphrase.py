"""Other words for own data: a language model at an endpoint rephrases sentences; what changes the meaning is refused.

RIS-CQ's sentences were made in this way. A target stays exact only where the meaning does, and models drop a "not" or
swap who is left of whom; what may stand for what decides `same_meaning.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mllmseg.chat_endpoint import Endpoint, RefusedError, complete, text_of
from mllmseg.data.convert import write_whole
from mllmseg.data.datasets.jsonl import read_queries, read_records
from mllmseg.data.prefetch import ordered
from mllmseg.data.same_meaning import problem
from mllmseg.errors import DataError
from mllmseg.progress import image_bar

MAX_TOKENS = 80  # of a reply
STYLES = (
    "In other words",
    "In as few words as somebody types into a search box",
    "As one long sentence with a subordinate clause",
    "As a request to an assistant",
)
_SYSTEM = (
    "You rephrase what people say to point at things in a photo. Keep the meaning exactly: the same things in the same "
    "order, the same sides, numbers, colours, sizes and negations. Add nothing. Answer with the rephrased text alone."
)
_EXAMPLES = (
    (STYLES[0], "the dog on the left that is not on the couch", "the left dog which isn't on the couch"),
    (STYLES[1], "Show me both people with a red umbrella, please.", "both people with red umbrella"),
    (STYLES[2], "the biggest car", "What I mean is the car that is the biggest of those in the picture."),
)


Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Paraphrases:
    """What came out: sentences written, and why others were refused."""

    written: int
    refused: dict[str, int]


def paraphrase(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    endpoint: Endpoint,
    *,
    seed: int = 0,
    workers: int = 4,
    progress: bool = False,
) -> Paraphrases:
    """Writes each line of own data again, in other words where they mean the same; the others are left out.

    Replies are kept in `OUT.replies` until all are there, so an interrupted run asks for no sentence twice.

    Args:
        source: own data (docs/data.md), such as `mllmseg data synth` writes.
        out: JSONL to write, whole or not at all.
        endpoint: where the model is.
        seed: chooses the style of each.
        workers: how many requests are made at once.
        progress: show a bar.

    Raises:
        DataError: a line is broken, or a file cannot be written.
        EndpointError: the endpoint is down, slow, or answers what cannot be read.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    lines = _read_lines(source, out)
    journal = out.with_name(f"{out.name}.replies")
    talks = [_messages(line, seed) for line in lines]
    replies = _replies(endpoint, talks, journal, workers=workers, progress=progress)
    refused: Counter[str] = Counter()
    written = []
    for line, reply in zip(lines, replies, strict=True):
        text = tidy(reply)
        if (reason := problem(line["text"], text)) is None:
            written.append(line | {"id": f"{line['id']}/{seed}", "text": text, "rephrased": line["text"]})
        else:
            refused[reason] += 1
    write_whole(out, (json.dumps(line, ensure_ascii=False) + "\n" for line in written))
    journal.unlink()
    return Paraphrases(len(written), dict(refused.most_common()))


def _read_lines(source: pathlib.Path, out: pathlib.Path) -> list[dict[str, Any]]:
    """The records, each with an id. Raises DataError where their copies beside `out` could not be read."""
    if out.resolve() == source.resolve():
        raise DataError(f"{out}: would replace what is read; name another file")
    elsewhere = out.parent.resolve() != source.parent.resolve()
    lines = []
    for where, entry, query in read_queries(source):
        if elsewhere and any(isinstance(mask, str) for mask in entry.get("masks") or ()):
            raise DataError(
                f"{where}: masks that are files are looked for beside the file: write {out.name} there, too"
            )
        lines.append({**entry, "id": query.id})
    return lines


def _replies(
    endpoint: Endpoint, talks: Sequence[Messages], journal: pathlib.Path, *, workers: int, progress: bool
) -> list[str]:
    """What the model says to each; equal requests are made once, each reply is kept in `journal` as it comes."""
    keys = [hashlib.sha256(json.dumps([endpoint.model, talk]).encode()).hexdigest() for talk in talks]
    known = _read_replies(journal)
    missing = {key: talk for key, talk in zip(keys, talks, strict=True) if key not in known}
    lock = threading.Lock()

    def ask(key: str) -> None:
        try:
            reply = text_of(complete(endpoint, missing[key], max_tokens=MAX_TOKENS))
        except RefusedError:
            reply = ""
        with lock:
            known[key] = reply
            stream.write(json.dumps({"request": key, "reply": reply}) + "\n")
            stream.flush()

    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        with (
            journal.open("a", encoding="utf-8") as stream,
            image_bar("Asking", len(missing), shown=progress, unit="sentences") as advance,
        ):
            for _ in ordered(ask, missing, workers=workers):
                if advance is not None:
                    advance(True)
    except OSError as error:
        raise DataError(f"{journal}: cannot be written: {error}") from error
    return [known[key] for key in keys]


def _read_replies(journal: pathlib.Path) -> dict[str, str]:
    """Request → reply of an earlier run; the line that it was killed at is cut off."""
    if not journal.is_file():
        return {}
    whole, _, half = journal.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    if half:
        write_whole(journal, [f"{whole}\n" if whole else ""])
    return {entry["request"]: entry["reply"] for _, entry in read_records(journal)}


def _messages(line: dict[str, Any], seed: int) -> Messages:
    style = random.Random(f"{seed} {line['id']}").choice(STYLES)
    talk = [("system", _SYSTEM)]
    for manner, text, reply in _EXAMPLES:
        talk += [("user", f"{manner}: {text}"), ("assistant", reply)]
    talk.append(("user", f"{style}: {line['text']}"))
    return [{"role": role, "content": content} for role, content in talk]


def tidy(reply: str) -> str:
    """A reply without the quotation marks that models like to put around it."""
    return reply.strip().strip("\"“”'`").strip()
