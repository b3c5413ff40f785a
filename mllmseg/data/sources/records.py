"""Own lines, LLaVA's conversations and captions: JSON records, each with an image and something said about it.

- a **line**, `{"image", "text", "masks", "exists", "answer"}`: a sentence and its target (docs/data.md); `answer` is
  what to say after the decision;
- a **conversation**, LLaVA's `{"image", "conversations": [{"from": "human", "value": …}, {"from": "gpt", …}]}`;
- a **caption**, `{"image", "caption"}`, the caption a text or a list of texts.
"""

from __future__ import annotations

import pathlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mllmseg.config import DataConfig
from mllmseg.data.datasets.coco_mini import Box, Photo
from mllmseg.data.datasets.jsonl import parse_line, read_records
from mllmseg.data.json_files import read_json
from mllmseg.data.masks import draw, union
from mllmseg.data.training import (
    CAPTION_QUESTIONS,
    SOURCES,
    BadSamples,
    Opening,
    Sample,
    TrainingImage,
    View,
    answer,
    ask,
    check_text,
    names_a_side,
    shrink,
    stacked,
)
from mllmseg.errors import ConfigError, DataError
from mllmseg.structures import Turn

# What LLaVA's files write where the image belongs; it stands before every conversation here.
PLACEHOLDERS = ("<image>", "<Image>")
KINDS = {"jsonl": "line", "vqa": "conversation", "captions": "caption"}
POINTING = frozenset({"point", "refine"})
STAGES = {
    "line": frozenset({"instruct", "point", "refine"}),
    "conversation": frozenset({"align", "instruct"}),
    "caption": frozenset({"align", "instruct"}),
}


@dataclass(frozen=True)
class Line:
    """A sentence and its target: `masks` as the file gives them, empty where nothing fits."""

    where: str
    text: str
    masks: tuple[Any, ...]
    answer: str
    folder: pathlib.Path | None


@dataclass(frozen=True)
class Talk:
    """A conversation, or a caption with a question drawn at each visit (`turns` empty)."""

    turns: tuple[Turn, ...]
    caption: str = ""


Record = Line | Talk


def kind_of(entry: Any) -> str:
    """What a record is, by its keys."""
    keys = entry.keys() if isinstance(entry, dict) else ()
    return "conversation" if "conversations" in keys else "caption" if "caption" in keys else "line"


def parse(entry: Any, where: str, *, folder: pathlib.Path | None) -> list[Record]:
    """What a record says. `folder`: what the paths of PNGs are relative to; None where there can be none.

    Raises:
        DataError: it is broken, empty, or its target is not known.
    """
    kind = kind_of(entry)
    if kind == "conversation":
        return [Talk(_turns(entry["conversations"]))]
    if kind == "caption":
        captions = [entry["caption"]] if isinstance(entry["caption"], str) else entry["caption"]
        if not isinstance(captions, list) or not captions:
            raise DataError(f"'caption' must be a text or a list of texts, not {captions!r:.80}")
        return [Talk((), check_text(caption, "the caption")) for caption in captions]
    query = parse_line(entry, 0, where)
    masks = entry.get("masks") or []
    if query.has_target is None or (query.has_target and not masks):
        raise DataError("neither 'masks' nor 'exists': false says what the sentence means")
    words = check_text(entry["answer"], "'answer'") if entry.get("answer") is not None else ""
    return [Line(where, check_text(query.text, "'text'"), tuple(masks), words, folder)]


def _turns(messages: Any) -> tuple[Turn, ...]:
    if not isinstance(messages, list) or not messages or len(messages) % 2:
        raise DataError("'conversations' must be questions and answers in turns")
    texts = []
    for number, message in enumerate(messages):
        speaker = ("gpt", "assistant") if number % 2 else ("human", "user")
        if not isinstance(message, dict) or message.get("from") not in speaker:
            raise DataError(f"message {number} must be from {speaker[0]}")
        text = message.get("value")
        if not number and isinstance(text, str):
            for placeholder in PLACEHOLDERS:
                text = text.replace(placeholder, "", 1)
        if isinstance(text, str) and any(placeholder in text for placeholder in PLACEHOLDERS):
            raise DataError(f"message {number} speaks of another image: {text!r:.80}")
        texts.append(check_text(text, f"message {number}"))
    return tuple(Turn(*pair) for pair in zip(texts[::2], texts[1::2], strict=True))


def sample_of(
    records: Sequence[Record], view: View, rng: random.Random, data: DataConfig, bad: BadSamples, *, stage: str
) -> Sample:
    """A visit: some of the records as branches; in `align` those alone that need no mask, when pointing those that do.

    Raises:
        DataError: none of them can be used.
    """
    lines = [record for record in records if isinstance(record, Line) and stage != "align"]
    words = [record for record in records if isinstance(record, Talk) and stage not in POINTING]
    talks = [record for record in words if record.turns]
    captions = [record for record in words if not record.turns]
    asked: list[Record] = [*lines, *talks]
    chosen: list[Record] = rng.sample(asked, min(data.queries, len(asked)))
    chosen += rng.sample(captions, min(data.captions, len(captions)))
    branches, masks, exists = [], [], []
    for record in chosen:
        if isinstance(record, Talk):
            branches.append(record.turns or (Turn(rng.choice(CAPTION_QUESTIONS), record.caption),))
            continue
        try:
            mask = _target(record, view)
        except DataError as error:
            bad.add(record.where, error)
            continue
        if mask is not None:
            masks.append(mask)
        exists.append(mask is not None)
        reply = answer(record.text, exists=mask is not None, words=record.answer)
        branches.append((Turn(ask(record.text, rng), reply),))
    if not branches:
        raise DataError("nothing that is said about it can be used")
    said = (text for turns in branches for turn in turns for text in (turn.question, turn.answer))
    flipped = rng.random() < data.flip and not any(names_a_side(text) for text in said)
    return Sample(tuple(branches), stacked(masks, view, flipped=flipped), tuple(exists), flipped)


def _target(line: Line, view: View) -> Tensor | None:
    """`[h, w]` bool; None where nothing fits."""
    if not line.masks:
        return None
    mask = union((draw(mask, view.size, line.where, folder=line.folder) for mask in line.masks), view.size)
    if not mask.any():
        raise DataError("the target has no pixel")
    return shrink(mask, view.grid)


class RecordSource:
    """One file of records, grouped by image. See `training.TrainingSource`."""

    categories: tuple[str, ...] = ()

    def __init__(self, opening: Opening) -> None:
        """Reads the file.

        Raises:
            ConfigError: no file is named.
            DataError: it is missing or broken or, unless such are skipped, a record is bad.
        """
        prefix = opening.config.name.partition(":")[0]
        if not opening.what:
            raise ConfigError(f"data.sources: '{prefix}' needs a file, as in {prefix}:FILE")
        path = pathlib.Path(opening.what)
        self.name, self._bad = opening.name, opening.bad
        self.stages = STAGES[KINDS[prefix]]
        root = path.parent if opening.root is None else opening.root
        groups: dict[str, list[Record]] = {}
        for where, entry in read_entries(path):
            try:
                image, records = _checked(entry, where, KINDS[prefix], path.parent)
            except DataError as error:
                opening.bad.add(where, error)
                continue
            groups.setdefault(image, []).extend(records)
        self._records = list(groups.values())
        self.images = opening.images([(name, root / name, None) for name in groups])

    def boxes(self, image: TrainingImage) -> dict[int, Box]:
        """None: targets are drawn."""
        return {}

    def labelled(self, image: TrainingImage, view: View) -> tuple[Photo, dict[int, Tensor]] | None:
        """None: what is not spoken of has no label."""
        return None

    def draw(self, image: TrainingImage, view: View, rng: random.Random, data: DataConfig, *, stage: str) -> Sample:
        """Some of what is said about the image."""
        return sample_of(self._records[image.index], view, rng, data, self._bad, stage=stage)


for _name in KINDS:
    SOURCES.register(_name)(RecordSource)


def _checked(entry: Any, where: str, kind: str, folder: pathlib.Path) -> tuple[str, list[Record]]:
    """A record's image and what it says about it."""
    if not isinstance(entry, dict):
        raise DataError(f"expected an object, found {type(entry).__name__}")
    if kind_of(entry) != kind:
        raise DataError(f"this is a {kind_of(entry)}, not a {kind}")
    image = check_text(entry.get("image"), "'image'").replace("\\", "/")
    return image, parse(entry, where, folder=folder)


def read_entries(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """The records of a JSONL or JSON file, with their places; COCO's captions as one record each.

    Raises:
        DataError: the file is missing or no JSON.
    """
    if path.suffix != ".json":
        yield from read_records(path)
        return
    content = read_json(path)
    if isinstance(content, dict):
        yield from _coco_captions(path, content)
    elif isinstance(content, list):
        yield from ((f"{path}: record {number}", entry) for number, entry in enumerate(content))
    else:
        raise DataError(f"{path}: expected a list of records, found {type(content).__name__}")


def _coco_captions(path: pathlib.Path, content: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    try:
        names = {item["id"]: item["file_name"] for item in content["images"]}
        for item in content["annotations"]:
            yield f"{path}: annotation {item['id']}", {"image": names[item["image_id"]], "caption": item["caption"]}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not COCO's captions: {type(error).__name__}: {error}") from error
