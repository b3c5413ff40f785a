"""Generated sentences as a file that predict, score and train read (docs/data.md), and a report on what is in it."""

from __future__ import annotations

import json
import os
import pathlib
import random
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as coco_mask

from mllmseg.data import looks as appearance
from mllmseg.data.convert import write_whole
from mllmseg.data.datasets.coco import Labels
from mllmseg.data.datasets.coco_mini import Instance, Photo
from mllmseg.data.looks import Look
from mllmseg.data.synth import KINDS, NEGATIVE_WEIGHTS, PROGRAM_WEIGHTS, Query, sentences
from mllmseg.errors import DataError
from mllmseg.registry import did_you_mean

NEGATIVE_SHARE = 0.4
SAMPLES = 6  # of each program in the report


@dataclass(frozen=True)
class Line:
    """One sentence about one photo."""

    photo: Photo
    query: Query


def generate(
    labels: Labels,
    *,
    per_image: int,
    seed: int,
    kinds: Collection[str] | None = None,
    even: bool = False,
    looks: dict[int, Look] | None = None,
) -> Iterator[Line]:
    """Sentences about every photo; those about one depend on it and the seed alone.

    Args:
        labels: instances without a mask are no targets.
        per_image: how many a photo gets at most, `NEGATIVE_SHARE` of them without a target.
        seed: the same gives the same.
        kinds: of `synth.KINDS`; None for all.
        even: all kinds equally often where they apply, instead of in training's proportions.
        looks: what was measured before, by instance; what is missing is measured and added.

    Raises:
        DataError: an unknown kind, or a photo cannot be read.
    """
    positive, negative = _weights(PROGRAM_WEIGHTS, kinds, even), _weights(NEGATIVE_WEIGHTS, kinds, even)
    missing = round(per_image * NEGATIVE_SHARE) if positive else per_image
    looks = {} if looks is None else looks
    for photo in labels.photos:
        drawn = {item.id for item in photo.instances if item.segmentation and not item.is_crowd}
        if not drawn <= looks.keys():
            looks.update(appearance.measure(photo))
        queries = sentences(
            photo,
            labels.categories,
            random.Random(f"{seed} {photo.id}"),
            positives=per_image - missing if negative else per_image,
            negatives=missing,
            allowed=drawn,
            weights=positive,
            negative_weights=negative,
            looks=looks,
        )
        yield from (Line(photo, query) for query in queries)


def write_lines(path: str | os.PathLike[str], lines: Sequence[Line], images: pathlib.Path) -> None:
    """Writes own data (`datasets/jsonl.py`), image names relative to `images`. Raises DataError."""
    counts: Counter[int] = Counter()
    records = []
    for line in lines:
        number, counts[line.photo.id] = counts[line.photo.id], counts[line.photo.id] + 1
        query, photo = line.query, line.photo
        record = {
            "image": photo.path.relative_to(images).as_posix(),
            "text": query.text,
            "id": f"synth/{photo.id}/{number}",
            "ref": f"synth/{photo.id}",
            "kind": query.kind,
            "program": query.program,
            "about": list(query.arguments),
            "answer": query.answer,
            "exists": bool(query.instance_ids),
            "masks": [_mask(photo.instance(key), photo) for key in query.instance_ids],
        }
        records.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_whole(pathlib.Path(path), records)


def report(lines: Sequence[Line], command: str, styles: Mapping[str, Sequence[str]], seed: int) -> str:
    """What was generated, as Markdown.

    Args:
        lines: the sentences.
        command: what made them.
        styles: name → sentences of people or of another set, to compare lengths with.
        seed: draws the samples.
    """
    with_target = sum(bool(line.query.instance_ids) for line in lines)
    images = len({line.photo.id for line in lines})
    parts = [
        "# Generated sentences\n",
        f"{len(lines)} sentences about {images} photos, {with_target} of them with a target, by\n",
        f"```sh\n{command}\n```\n",
        "## Words per sentence\n",
        _table(["sentences", "number", "mean", "5 %", "half", "95 %"], _lengths(lines, styles)),
        "## Kinds and programs\n",
        _table(["kind", "program", "sentences", "words", "several targets"], _programs(lines)),
        "## Samples\n",
        *_samples(lines, random.Random(seed)),
    ]
    return "\n".join(parts)


def read_style(path: str | os.PathLike[str]) -> list[str]:
    """Sentences to compare with: a text file of one a line, or RIS-CQ's JSON. Raises DataError."""
    path = pathlib.Path(path)
    if path.suffix == ".json":
        from mllmseg.data.datasets.riscq import read_records

        return [record.sentence for record in read_records(path)]
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a file of sentences: {error}") from error


def _weights(weights: Mapping[str, float], kinds: Collection[str] | None, even: bool) -> dict[str, float]:
    for kind in kinds or ():
        if kind not in KINDS:
            raise DataError(f"no kind of sentence '{kind}': {did_you_mean(kind, list(KINDS))}")
    chosen: dict[str, float] = {}
    for kind, programs in KINDS.items():
        known = [program for program in programs if program in weights]
        if kinds is None or kind in kinds:
            chosen |= {program: 1 / len(known) if even else weights[program] for program in known}
    return chosen


def _mask(item: Instance, photo: Photo) -> Any:
    segmentation = item.segmentation
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        packed = coco_mask.frPyObjects(segmentation, *photo.size)
        return {"size": list(photo.size), "counts": packed["counts"].decode("ascii")}
    return segmentation


def _lengths(lines: Sequence[Line], styles: Mapping[str, Sequence[str]]) -> list[list[str]]:
    long = [line.query.text for line in lines if line.query.kind == "long"]
    groups = {"generated": [line.query.text for line in lines], "generated, kind `long`": long, **styles}
    rows = []
    for name, texts in groups.items():
        counts = sorted(len(text.split()) for text in texts)
        if counts:
            at = [str(counts[min(len(counts) - 1, int(share * len(counts)))]) for share in (0.05, 0.5, 0.95)]
            rows.append([name, str(len(counts)), f"{statistics.mean(counts):.1f}", *at])
    return rows


def _programs(lines: Sequence[Line]) -> list[list[str]]:
    rows = []
    for kind, programs in KINDS.items():
        for program in programs:
            found = [line.query for line in lines if line.query.program == program]
            if found:
                words = statistics.mean(len(query.text.split()) for query in found)
                several = sum(len(query.instance_ids) > 1 for query in found)
                rows.append([kind, f"`{program}`", str(len(found)), f"{words:.1f}", str(several)])
    return rows


def _samples(lines: Sequence[Line], rng: random.Random) -> Iterator[str]:
    for kind, programs in KINDS.items():
        found = [line.query for line in lines if line.query.program in programs]
        if not found:
            continue
        yield f"### {kind}\n"
        for program in programs:
            mine = [query for query in found if query.program == program]
            yield from (
                f"- {query.text} → {query.answer} `{program}({', '.join(query.arguments)})`"
                for query in rng.sample(mine, min(SAMPLES, len(mine)))
            )
        yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"
