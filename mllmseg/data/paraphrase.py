"""Other words for own data: a language model at an endpoint rephrases sentences; what changes the meaning is refused.

RIS-CQ's sentences were made in this way. A target stays exact only where the meaning does, and models drop a "not" or
swap who is left of whom. So both sentences must name the same things in the same order, and the same sides, numbers,
colours, sizes and negations; a good rephrasing may be refused, too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mllmseg.chat_endpoint import Endpoint, complete, text_of
from mllmseg.constants import NEW_TOKENS
from mllmseg.data import colours, words
from mllmseg.data.affordances import WORN
from mllmseg.data.convert import write_whole
from mllmseg.data.datasets.coco_mini import COCO80
from mllmseg.data.datasets.jsonl import parse_line, read_records
from mllmseg.data.datasets.riscq import residue
from mllmseg.data.prefetch import ordered
from mllmseg.errors import DataError
from mllmseg.progress import image_bar

MAX_WORDS = 40
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
    (STYLES[0], "the dog on the left that is not on the couch", "the left dog which isn't lying on the couch"),
    (STYLES[1], "Show me both people with a red umbrella, please.", "both people red umbrella"),
    (STYLES[2], "the biggest car", "What I mean is the car that is the biggest of those in the picture."),
)


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b")


# What both sentences must say, or neither. Numbers and colours are added below.
_MARKS = {
    "left": _pattern(r"left\w*"),
    "right": _pattern(r"right\w*"),
    "top": _pattern(r"top(?:most|s)?", "upper(?:most)?", "highest"),
    "bottom": _pattern(r"bottom(?:most)?", "lower(?:most)?", "lowest"),
    "middle": _pattern("middle", "cent(?:er|re|ral)"),
    "above": _pattern("above", "over"),
    "below": _pattern("below", "under", "underneath", "beneath"),
    "front": _pattern("(?:in )?front", "foreground"),
    "behind": _pattern("behind", "back", "background"),
    "inside": _pattern("inside", "within"),
    "between": _pattern("between"),
    "near": _pattern("near", "nearby", "beside", "next", "close", "alongside", "by"),
    "nearest": _pattern("nearest", "closest"),
    "far": _pattern("far", "farther", "further", "farthest", "furthest"),
    "large": _pattern("big", "bigger", "biggest", "large", "larger", "largest"),
    "small": _pattern("small", "smaller", "smallest", "little", "tiny", "tiniest"),
    "bright": _pattern(r"bright(?:er|est)?", r"light(?:er|est)?"),
    "dark": _pattern(r"dark(?:er|est)?"),
    "all": _pattern("all", "every", "each", "everything", "everyone"),
    "but": _pattern("except", "excluding", "but", "other than", "apart from", "besides"),
    "not": _pattern("not", r"\w+n['’]t", "no", "none", "without", "neither", "nor", "never", "lacking"),
    "first": _pattern("first", "1st"),
    "last": _pattern("last"),
}
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ORDINALS = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_MARKS |= {word: _pattern(word, str(number)) for number, word in enumerate(_NUMBERS, 1) if number > 2}
_MARKS |= {"two": _pattern("two", "2", "both", "pair")}
_MARKS |= {word: _pattern(word, rf"{number}(?:nd|rd|th)") for number, word in enumerate(_ORDINALS, 2)}
_MARKS |= {name: _pattern(rf"{name}\w*") for name in colours.NAMES if name not in ("gray", "red")}
_MARKS |= {"gray": _pattern(r"gr[ae]y\w*"), "red": _pattern("red", "reddish")}


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
    records = enumerate(read_records(source))
    lines = [{**entry, "id": parse_line(entry, number, where).id} for number, (where, entry) in records]
    journal = out.with_name(f"{out.name}.replies")
    known = _read_replies(journal)
    requests = [_request(line, endpoint.model, seed) for line in lines]
    keys = [hashlib.sha256(json.dumps(request).encode()).hexdigest() for request in requests]
    missing = dict(item for item in zip(keys, requests, strict=True) if item[0] not in known)

    def ask(item: tuple[str, list[dict[str, str]]]) -> tuple[str, str]:
        return item[0], text_of(complete(endpoint, item[1], max_tokens=MAX_TOKENS))

    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        with (
            journal.open("a", encoding="utf-8") as stream,
            image_bar("Asking", len(missing), shown=progress, unit="sentences") as advance,
        ):
            for key, reply in ordered(ask, missing.items(), workers=workers):
                known[key] = reply
                stream.write(json.dumps({"request": key, "reply": reply}) + "\n")
                stream.flush()
                if advance is not None:
                    advance(True)
    except OSError as error:
        raise DataError(f"{journal}: cannot be written: {error}") from error
    refused: Counter[str] = Counter()
    written = []
    for line, key in zip(lines, keys, strict=True):
        text = tidy(known[key])
        about = line.get("about")
        named = [item for item in about if isinstance(item, str)] if isinstance(about, list) else []
        if (reason := problem(line["text"], text, named)) is None:
            written.append(line | {"id": f"{line['id']}/{seed}", "text": text, "rephrased": line["text"]})
        else:
            refused[reason] += 1
    write_whole(out, (json.dumps(line, ensure_ascii=False) + "\n" for line in written))
    journal.unlink()
    return Paraphrases(len(written), dict(refused.most_common()))


def _read_replies(journal: pathlib.Path) -> dict[str, str]:
    """Request → reply of an earlier run; the line that it was killed at is cut off."""
    if not journal.is_file():
        return {}
    whole, _, half = journal.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    if half:
        write_whole(journal, [f"{whole}\n" if whole else ""])
    return {entry["request"]: entry["reply"] for _, entry in read_records(journal)}


def _request(line: dict[str, Any], model: str, seed: int) -> list[dict[str, str]]:
    style = random.Random(f"{seed} {line['id']}").choice(STYLES)
    talk = [("system", _SYSTEM)]
    for manner, text, reply in _EXAMPLES:
        talk += [("user", f"{manner}: {text}"), ("assistant", reply)]
    talk.append(("user", f"{style}: {line['text']}"))
    return [{"role": role, "content": content} for role, content in talk]


def tidy(reply: str) -> str:
    """A reply without the quotation marks that models like to put around it."""
    return reply.strip().strip("\"“”'`").strip()


def problem(text: str, other: str, named: Sequence[str] = ()) -> str | None:
    """Why a rephrasing cannot stand for a text, or None where it can; `named`: more names of things than COCO's."""
    if not other or len(other.split()) > MAX_WORDS:
        return "empty or too long"
    if residue(other) or any(token in other for token in NEW_TOKENS):
        return "not only a description"
    if _bare(text) == _bare(other):
        return "the same words"
    if things_of(text, named) != things_of(other, named):
        return "other things, or in another order"
    if marks_of(text) != marks_of(other):
        return "other sides, numbers, colours, sizes or negations"
    return None


def _bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def things_of(text: str, named: Sequence[str] = ()) -> list[str]:
    """The things that a text names, in its order."""
    things, pattern = _things(frozenset(named))
    return [things[match[0]] for match in pattern.finditer(text.lower())]


def marks_of(text: str) -> frozenset[str]:
    """What else a text says of which two sentences that mean the same must agree."""
    lower = text.lower()
    return frozenset(mark for mark, pattern in _MARKS.items() if pattern.search(lower))


@functools.lru_cache(maxsize=1024)
def _things(named: frozenset[str]) -> tuple[dict[str, str], re.Pattern[str]]:
    """Noun, also in the plural → what both sentences may call it; what finds them."""
    categories = COCO80 | WORN | words.PEOPLE | named
    singular = {noun: words.name(c) for c in categories for noun in (words.name(c), *words.synonyms(c))}
    things = {f"{noun}s": thing for noun, thing in singular.items()}  # "persons" is said, too
    things |= {words.plural(noun): thing for noun, thing in singular.items()} | singular
    return things, re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, things), key=len, reverse=True))})\b")
