"""What a file of predictions rests on, saved beside it as `FILE.meta.json`, and compared before a run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import mllmseg
from mllmseg.data.referring import Query, ReferringDataset
from mllmseg.errors import ConfigError, DataError
from mllmseg.eval.provenance import git_revision

# Raise the number when the same model would get other questions or write other lines.
PROTOCOL = "predictions/1"
# What another run of the same kind must share. Another version or revision may go on: a fix elsewhere should not throw
# hours away.
_IDENTITY = (
    "protocol", "dataset", "split", "queries_sha256", "num_queries", "mode", "threshold", "weights_sha256", "dtype",
    "device",
)  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 0 as ranks are: every `count`-th image, by order of first appearance."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `i/n`. Raises ConfigError for anything else."""
        first, slash, second = text.partition("/")
        if slash and first.isdecimal() and second.isdecimal() and int(first) < int(second):
            return cls(int(first), int(second))
        raise ConfigError(f"shard '{text}': write i/n with i from 0 to n - 1, as 0/4, 1/4, 2/4, 3/4")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Manifest:
    """One file of predictions.

    Attributes:
        protocol: of asking and writing.
        dataset: its name.
        split: its split.
        source: the annotation files.
        queries_sha256: over ids, images and sentences, in order.
        num_queries: of the whole split.
        mode: `scored`, `free` or `teacher`.
        threshold: of P(the target exists); None where it decides nothing.
        checkpoint: its name.
        weights_sha256: over its files.
        dtype: of the language model.
        device: kind of device, whose sums round in their own way.
        threads: of the CPU; another number rounds some sums another way, so a run goes on with the one it began with.
        shard: which part of the images.
        lines: runs (first, count) of the split's queries that the file's lines are about, in order.
        complete: every line is there.
        version: of this package.
        revision: of its code.
    """

    dataset: str
    split: str
    source: str
    queries_sha256: str
    num_queries: int
    mode: str
    threshold: float | None
    checkpoint: str
    weights_sha256: str
    dtype: str
    device: str
    threads: int
    shard: str
    lines: tuple[tuple[int, int], ...]
    complete: bool = False
    protocol: str = PROTOCOL
    version: str = mllmseg.__version__
    revision: str | None = None

    @property
    def positions(self) -> list[int]:
        """The place among the split's queries of each line."""
        return [place for first, count in self.lines for place in range(first, first + count)]

    def check_same(self, other: Manifest, where: pathlib.Path) -> None:
        """Raises DataError where `other`, at `where`, is of another run. Shards are not compared."""
        for key in _IDENTITY:
            if getattr(self, key) != getattr(other, key):
                raise DataError(
                    f"{manifest_path(where)}: made by another run: {key} is {getattr(other, key)!r}, not "
                    f"{getattr(self, key)!r}; name another file"
                )

    def finished(self) -> Manifest:
        """The same, complete."""
        return replace(self, complete=True)

    def save(self, path: pathlib.Path) -> None:
        """Writes the file beside the predictions at `path`, whole or not at all."""
        target = manifest_path(path)
        temporary = target.with_name(f".{target.name}-{os.getpid()}")
        try:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise DataError(f"{target}: cannot be written ({error.strerror}); name another place") from error


def manifest_path(path: pathlib.Path) -> pathlib.Path:
    """`FILE.meta.json`."""
    return path.with_name(path.name + ".meta.json")


def read_manifest(path: pathlib.Path) -> Manifest:
    """The manifest of the predictions at `path`. Raises DataError where there is none or it is damaged."""
    source = manifest_path(path)
    try:
        values: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Manifest)}
        lines = tuple((int(first), int(count)) for first, count in values["lines"])
        return Manifest(**{key: value for key, value in values.items() if key in known} | {"lines": lines})
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file, so nobody knows what made {path.name}; predict anew") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{source}: damaged ({error}); predict into another file") from error


def describe(dataset: ReferringDataset, shard: Shard, **made_by: Any) -> Manifest:
    """The manifest of a run; `made_by`: the attributes from `mode` to `device`."""
    return Manifest(
        dataset=dataset.name,
        split=dataset.split,
        source=dataset.source,
        queries_sha256=hash_queries(dataset.queries),
        num_queries=len(dataset.queries),
        shard=str(shard),
        lines=runs(sorted(place for places in images_of(dataset.queries, shard).values() for place in places)),
        revision=git_revision(),
        **made_by,
    )


def images_of(queries: Sequence[Query], shard: Shard) -> dict[str, list[int]]:
    """Image → the places of its queries, for the shard's images in order of first appearance."""
    images: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        images.setdefault(query.image, []).append(place)
    chosen = list(images)[shard.index :: shard.count]
    return {image: images[image] for image in chosen}


def runs(places: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as (first, count) of each stretch without a gap."""
    found: list[list[int]] = []
    for place in places:
        if found and place == sum(found[-1]):
            found[-1][1] += 1
        else:
            found.append([place, 1])
    return tuple((first, count) for first, count in found)


def hash_queries(queries: Sequence[Query]) -> str:
    """SHA-256 over what is asked, in order."""
    digest = hashlib.sha256()
    for query in queries:
        digest.update("\0".join((query.id, query.image, query.text, "")).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
