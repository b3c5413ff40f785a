"""A dataset's predictions, on disk: resumed where they were interrupted, split over shards, joined again.

Whatever the way, the file ends up with the same bytes: each image is asked all of its sentences together even where a
part of the answers is known, and a line holds nothing but the answer.
"""

from __future__ import annotations

import heapq
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mllmseg.data.referring import Query, ReferringDataset
from mllmseg.errors import AlignmentError, DataError
from mllmseg.eval.line_writer import LineWriter
from mllmseg.eval.manifest import Manifest, Shard, images_of, manifest_path, read_manifest, runs
from mllmseg.eval.predictions import PredictionLine, parse_line, read_lines
from mllmseg.inference.answers import check_question

if TYPE_CHECKING:
    from mllmseg.eval.answering import Answerer

# A process that has written nothing for so long will not finish.
PATIENCE_SECONDS = 3600.0
POLL_SECONDS = 0.5


def check_queries(dataset: ReferringDataset, shard: Shard) -> None:
    """Finds what would stop a run in the middle: image files that are missing, sentences that cannot be asked.

    Raises:
        DataError: names the first of them; or two queries share an id.
    """
    seen: set[str] = set()
    for query in dataset.queries:
        if query.id in seen:
            raise DataError(f"{dataset.source}: two queries have the id '{query.id}'; give each its own")
        seen.add(query.id)
    for places in images_of(dataset.queries, shard).values():
        dataset.image_path(dataset.queries[places[0]])
        for place in places:
            query = dataset.queries[place]
            try:
                check_question(query.text)
            except DataError as error:
                raise DataError(f"{dataset.source}: query '{query.id}': {error}") from error


def claim(out: pathlib.Path, manifest: Manifest, *, resume: bool) -> bool:
    """Makes `out` this run's file, or checks that it is; returns whether anything is left to predict.

    Raises:
        DataError: `out` exists and `resume` is not asked for, or it is of another run.
    """
    if out.is_dir():
        raise DataError(f"{out}: is a folder; name a file")
    if out.exists() and not resume:
        raise DataError(f"{out}: exists; go on with it by --resume, or name another file")
    if resume and (out.exists() or manifest_path(out).exists()):
        before = read_manifest(out)
        manifest.check_same(before, out)
        if before.lines != manifest.lines:
            raise DataError(f"{manifest_path(out)}: shard is {before.shard}, not {manifest.shard}; name another file")
        return not (before.complete and out.exists())
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_name(out.name + ".ahead").unlink(missing_ok=True)  # of a file that somebody removed
    manifest.save(out)
    return True


def predict(
    dataset: ReferringDataset,
    answerer: Answerer,
    out: pathlib.Path,
    manifest: Manifest,
    on_image: Callable[[bool], None] | None = None,
) -> None:
    """Predicts what `out` lacks of the manifest's shard.

    Args:
        dataset: which sentences about which images.
        answerer: gets an image and all of its sentences.
        out: claimed by `claim`.
        manifest: likewise; saved as complete at the end.
        on_image: called after each image with whether it had to be computed.

    Raises:
        DataError: an image cannot be read, the file cannot be written or holds what it should not.
        AlignmentError: more or fewer answers than sentences.
    """
    slots = {place: slot for slot, place in enumerate(manifest.positions)}
    by_id = {dataset.queries[place].id: slot for place, slot in slots.items()}

    def slot_of(line: bytes, where: str) -> int:
        return by_id.get(parse_line(line, where).id, -1)

    with LineWriter(out, len(slots), slot_of) as writer:
        for places in images_of(dataset.queries, Shard.parse(manifest.shard)).values():
            missing = not all(writer.has(slots[place]) for place in places)
            if missing:
                queries = [dataset.queries[place] for place in places]
                lines = _predict_image(dataset.image_path(queries[0]), queries, answerer, manifest.mode)
                for place, line in zip(places, lines, strict=True):
                    writer.put(slots[place], line.to_bytes())
            if on_image is not None:
                on_image(missing)
    manifest.finished().save(out)


def _predict_image(
    image: pathlib.Path, queries: Sequence[Query], answerer: Answerer, mode: str
) -> Iterator[PredictionLine]:
    count = 0
    for count, answer in enumerate(answerer.answer(image, [query.text for query in queries]), start=1):
        if count > len(queries):
            break
        query = queries[count - 1]
        rle, box = answer.painted()
        yield PredictionLine(
            query.id, query.image, query.text, answer.exists, answer.score, answer.answer, rle=rle, box=box, mode=mode
        )
    if count != len(queries):
        raise AlignmentError(f"{image}: {len(queries)} sentences, {count} answers")


def shard_path(out: pathlib.Path, shard: Shard) -> pathlib.Path:
    """Where a process of several puts its part: `NAME.0-of-4.jsonl`."""
    return out.with_name(f"{out.stem}.{shard.index}-of-{shard.count}{out.suffix}")


def wait_for_shards(paths: Sequence[pathlib.Path], *, patience: float = PATIENCE_SECONDS) -> None:
    """Returns once every file is complete. Raises DataError where none of them grows for `patience` seconds."""
    seen: dict[pathlib.Path, int] = {}
    last_sign = time.monotonic()
    waiting = list(paths)
    while waiting := [path for path in waiting if not _is_complete(path)]:
        sizes = {path: path.stat().st_size if path.exists() else 0 for path in waiting}
        if sizes != seen:
            seen, last_sign = sizes, time.monotonic()
        if time.monotonic() - last_sign > patience:
            names = ", ".join(str(path) for path in waiting)
            raise DataError(f"{names}: nothing written for {patience:.0f} s; look at that process, then use --resume")
        time.sleep(POLL_SECONDS)


def _is_complete(path: pathlib.Path) -> bool:
    return manifest_path(path).is_file() and path.exists() and read_manifest(path).complete


def merge_predictions(out: pathlib.Path, paths: Sequence[pathlib.Path]) -> Manifest:
    """Joins the shards of one run in the order of its dataset; `out` is there whole or not at all.

    Raises:
        DataError: the files are no complete set of one run's shards, or `out` exists.
    """
    if out.exists():
        raise DataError(f"{out}: exists; remove it or name another file")
    manifests = [read_manifest(path) for path in paths]
    first = manifests[0]
    for path, manifest in zip(paths, manifests, strict=True):
        first.check_same(manifest, path)
        if not manifest.complete:
            raise DataError(f"{path}: shard {manifest.shard} is not finished; go on with it by --resume")
    held = sorted(place for manifest in manifests for place in manifest.positions)
    if held != list(range(first.num_queries)):
        names = ", ".join(manifest.shard for manifest in manifests)
        raise DataError(
            f"{out}: shards {names} hold {len(held)} lines, {len(set(held))} different ones, of {first.num_queries}; "
            "give every shard once"
        )
    merged = replace(first, shard=str(Shard()), lines=runs(held)).finished()
    temporary = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for _, line in heapq.merge(*map(_numbered_lines, paths, manifests)):
                file.write(line)
        merged.save(out)
        temporary.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); name another place") from error
    finally:
        temporary.unlink(missing_ok=True)
    return merged


def _numbered_lines(path: pathlib.Path, manifest: Manifest) -> Iterator[tuple[int, bytes]]:
    positions = manifest.positions
    count = 0
    for count, (place, line) in enumerate(read_lines(path), start=1):
        if count > len(positions):
            raise DataError(f"{place}: one line more than the {len(positions)} of shard {manifest.shard}")
        yield positions[count - 1], line
    if count < len(positions):
        raise DataError(f"{path}: {count} lines, but shard {manifest.shard} has {len(positions)}; predict it again")


def remove_shards(paths: Sequence[pathlib.Path]) -> None:
    """Deletes merged shards with their manifests."""
    for path in paths:
        path.unlink(missing_ok=True)
        manifest_path(path).unlink(missing_ok=True)
