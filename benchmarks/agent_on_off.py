"""The agent against the bare model, sentence by sentence: python benchmarks/agent_on_off.py --out FILE.md

On the validation photos of coco-mini, whose labels are complete for 80 categories, so that "everything except the
people" and "the dog and the zebra" have exact targets. Sentences are made from the labels by the rules below, the same
on every run; those about sides and sizes, and people's own, are the file's. Off: the whole sentence goes to
`Segmenter.segment`. On: it goes to `Agent.ask`, and what it shows is the prediction.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from mllmseg.agent.loop import Agent
from mllmseg.data import words
from mllmseg.data.datasets.coco_mini import COCO80, CocoMini, Photo, instance_mask
from mllmseg.errors import MLLMSegError
from mllmseg.eval.compare import Difference, compare
from mllmseg.eval.metrics.base import Sample

Mask = npt.NDArray[np.bool_]
Asked = dict[str, tuple[str, str, Sample, Sample]]  # id → kind, text, the bare model's sample, the agent's
# A thing of fewer pixels than this share of the photo is left out of what is asked for.
SMALLEST = 0.002
RULES = {"left": "side", "right": "side", "{c}": "side", "largest": "size"}
_ABOUT = """Each is asked of the bare model and of the agent (strict, rules only). Figures as
in gRefCOCO (`gres`); the change is paired by sentence, with its 95 % interval over photos, in bold where that excludes
zero."""
KINDS = {
    "several": "“the A and the B”, both there",
    "several, one absent": "“the A and the B”, only A there: the target is A",
    "none of several": "“the A and the B”, neither there: nothing fits",
    "everything except": "“everything except the A” (or “… and the B”): the rest of the photo",
    "some except one": "“the As except the leftmost one”",
    "except what is absent": "“everything except the A”, no A there: the whole photo",
    "absent": "“the A”, not there: the file's sentences, nothing fits",
    "side": "“the A on the left”, “the topmost A” and the like: the file's",
    "size": "“the largest A”: the file's",
    "people's own": "written by people, most with a negation: the file's",
}


@dataclass(frozen=True)
class Sentence:
    """A sentence about a photo and the pixels it means, `[H, W]`; all False where nothing fits."""

    kind: str
    text: str
    target: Mask


def main(
    data: Annotated[pathlib.Path, typer.Option(help="Folder of coco-mini.")] = pathlib.Path("../shared/data/coco-mini"),
    model: Annotated[str | None, typer.Option(help="Checkpoint; none for the one in the package.")] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="Where to write the page; none for the screen only.")] = None,
    lines: Annotated[pathlib.Path | None, typer.Option(help="Also write every sentence with its scores there.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many photos.", min=1)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")] = "auto",
) -> None:
    """Asks both, pairs them by sentence, prints the differences with their 95 % intervals."""
    from mllmseg.eval.provenance import git_revision, hash_checkpoint, hash_files
    from mllmseg.inference.pretrained import find_checkpoint
    from mllmseg.inference.segmenter import Segmenter

    dataset = CocoMini(data, "val")
    checkpoint = find_checkpoint(model)
    agent = Agent(Segmenter.from_pretrained(checkpoint, device=device))
    weights = hash_checkpoint(checkpoint)
    labels = hash_files([data / "instances_val.json", data / "expressions_val.jsonl"])
    origin = f"Weights {weights[:12]}, code {git_revision()}, data {labels[:12]}."
    asked: Asked = {}
    for number, photo in enumerate(itertools.islice(dataset.photos.values(), limit), 1):
        session = agent.open(photo.path)
        for sentence in sentences(dataset, photo):
            bare = session.picture.segmenter.segment(sentence.text)
            reply = agent.ask(session, sentence.text)
            shown = np.logical_or.reduce([np.zeros(photo.size, bool), *(item.mask for item in reply.masks)])
            asked[f"{photo.id}/{sentence.text}"] = (
                sentence.kind, sentence.text,
                sample(photo, sentence, bare.union.numpy(), exists=bare.exists),
                sample(photo, sentence, shown, exists=bool(reply.masks)),
            )  # fmt: skip
        if number % 10 == 0:
            sys.stderr.write(f"{number} photos, {len(asked)} sentences\n")
            _write(asked, origin, out, lines)
    sys.stdout.write(_write(asked, origin, out, lines))


def _write(asked: Asked, origin: str, out: pathlib.Path | None, lines: pathlib.Path | None) -> str:
    """The page so far, into its file too."""
    text = page(asked, origin)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if lines is not None:
        lines.write_text("".join(_line(key, *item) for key, item in asked.items()), encoding="utf-8")
    return text


def sample(photo: Photo, sentence: Sentence, found: Mask, *, exists: bool) -> Sample:
    """What the scorer counts; a rejection has no mask."""
    found = found if exists else np.zeros_like(found)
    return Sample.from_masks(found, sentence.target, exists=exists, image=photo.id)


def sentences(dataset: CocoMini, photo: Photo) -> Iterator[Sentence]:
    """The sentences about one photo, at most two of each made kind."""
    chance = random.Random(photo.id)
    seen: set[str] = set()
    for sentence in itertools.chain(_made(photo, chance), _of_the_file(dataset, photo)):
        if sentence.text not in seen:
            seen.add(sentence.text)
            yield sentence


def _made(photo: Photo, chance: random.Random) -> Iterator[Sentence]:
    present = _things(photo)
    if not photo.scope >= COCO80:
        return
    names = sorted(present)
    chance.shuffle(names)
    labelled = {item.category for item in photo.instances}
    absent = sorted(name for name in COCO80 - labelled if not any(words.confusable(name, other) for other in labelled))
    missing = chance.sample(absent, 3)
    for one, other in [tuple(names[:2])] if len(names) > 1 else []:
        yield Sentence("several", f"{_the(one, present)} and {_the(other, present)}", _union(present, one, other))
        both = f"everything except {_the(one, present)} and {_the(other, present)}"
        yield Sentence("everything except", both, ~_union(present, one, other))
    nothing = np.zeros(photo.size, dtype=bool)
    for one in names[:1]:
        yield Sentence("several, one absent", f"{_the(one, present)} and the {missing[0]}", _union(present, one))
        yield Sentence("everything except", f"everything except {_the(one, present)}", ~_union(present, one))
    yield Sentence("none of several", f"the {missing[1]} and the {missing[2]}", nothing)
    yield Sentence("except what is absent", f"everything except the {missing[0]}", ~nothing)
    yield from itertools.islice((item for name in names for item in _some_except_one(name, present[name])), 2)


def _some_except_one(name: str, masks: list[Mask]) -> Iterator[Sentence]:
    """Where it is plain which of them is the leftmost and which the rightmost."""
    if len(masks) < 2:
        return
    middles = [float(np.flatnonzero(mask.any(0)).mean()) for mask in masks]
    order = np.argsort(middles)
    margin = 0.05 * masks[0].shape[1]
    for side, end, next_one in (("leftmost", order[0], order[1]), ("rightmost", order[-1], order[-2])):
        if abs(middles[end] - middles[next_one]) > margin:
            rest = [mask for number, mask in enumerate(masks) if number != end]
            yield Sentence(
                "some except one", f"the {words.plural(words.name(name))} except the {side} one",
                np.logical_or.reduce(rest) & ~masks[end],
            )  # fmt: skip


def _things(photo: Photo) -> dict[str, list[Mask]]:
    """Masks by category, of those without a crowd and not too small to be meant."""
    crowded = {item.category for item in photo.instances if item.is_crowd or item.mask_source != "human"}
    found: dict[str, list[Mask]] = defaultdict(list)
    for item in photo.instances:
        if item.category in COCO80 - crowded:
            found[item.category].append(instance_mask(photo, item))
    return {name: masks for name, masks in found.items() if np.logical_or.reduce(masks).mean() >= SMALLEST}


def _union(present: dict[str, list[Mask]], *names: str) -> Mask:
    union: Mask = np.logical_or.reduce([mask for name in names for mask in present[name]])
    return union


def _the(name: str, present: dict[str, list[Mask]]) -> str:
    return f"the {words.name(name) if len(present[name]) == 1 else words.plural(words.name(name))}"


def _of_the_file(dataset: CocoMini, photo: Photo) -> Iterator[Sentence]:
    """The first two of each kind that the file has for a photo."""
    count: Counter[str] = Counter()
    for expression in dataset.expressions_of(photo.id):
        kind = "people's own" if expression.source != "template" else RULES.get(expression.rule or "")
        kind = "absent" if kind is None and expression.ann_ids == () else kind
        if kind is None or expression.ann_ids is None:
            continue
        count[kind] += 1
        if count[kind] > 2:
            continue
        masks = [instance_mask(photo, photo.instance(number)) for number in expression.ann_ids]
        yield Sentence(kind, expression.text, np.logical_or.reduce([np.zeros(photo.size, dtype=bool), *masks]))


def page(asked: Asked, origin: str) -> str:
    """The differences by kind, as Markdown."""
    photos = len({item[2].image for item in asked.values()})
    lines = [
        "# The agent against the bare model",
        "",
        f"{len(asked)} sentences about {photos} validation photos of coco-mini. {_ABOUT}",
        "",
        "| kind | sentences | figure | model alone | agent | change |",
        "|---|---|---|---|---|---|",
    ]
    for kind in (*KINDS, "all but side and size", "all"):
        chosen = {key: item for key, item in asked.items() if kind in (item[0], "all")}
        if kind == "all but side and size":
            chosen = {key: item for key, item in asked.items() if item[0] not in ("side", "size")}
        if chosen:
            lines += _rows(kind, chosen)
    lines += ["", "What the kinds are:", "", *(f"- *{kind}*: {text}" for kind, text in KINDS.items()), "", origin, ""]
    return "\n".join(lines)


def _rows(kind: str, chosen: Asked) -> Iterator[str]:
    result = compare(
        {key: item[2] for key, item in chosen.items()},
        {key: item[3] for key, item in chosen.items()},
        scorers=["gres"],
        names=("model", "agent"),
    )
    for difference in result.differences:
        if difference.figure in ("gIoU", "N-acc", "T-acc") and difference.change.count:
            yield _row(kind, len(chosen), difference)


def _row(kind: str, count: int, difference: Difference) -> str:
    change = difference.change
    spread = f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
    values = f"{difference.first:.3f} | {difference.second:.3f}"
    return f"| {kind} | {count} | {difference.figure} | {values} | {f'**{spread}**' if difference.clear else spread} |"


def _line(key: str, kind: str, text: str, bare: Sample, agent: Sample) -> str:
    row: dict[str, Any] = {"id": key, "kind": kind, "text": text, "has_target": bare.has_target}
    for name, result in (("model", bare), ("agent", agent)):
        row[name] = {"exists": result.exists, "iou": round(result.iou, 4)}
    return json.dumps(row) + "\n"


if __name__ == "__main__":
    try:
        typer.run(main)
    except MLLMSegError as error:
        sys.exit(f"error: {error}")
