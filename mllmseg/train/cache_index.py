"""Which image lies where in the feature cache: the indices of all shards, merged in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

from mllmseg.errors import DataError
from mllmseg.train.cache_entry import CacheEntry, Stamp
from mllmseg.train.cache_shards import FORMAT, REBUILD, Record, read_journal, starts_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image lies.

    Attributes:
        record: the image.
        shard: the file's name.
        starts: where its part of each column starts.
    """

    record: Record
    shard: str
    starts: Mapping[str, int]


@dataclass(frozen=True)
class ShardHead:
    """The first line of a shard's index: what the shard must be."""

    num_bytes: int
    sha256: str
    images: int

    def compare(self, shard: pathlib.Path) -> str | None:
        """What is wrong with the shard, after reading it through; None for nothing."""
        try:
            with shard.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"{shard}: cannot be read ({error.strerror or error})"
        return None if found == self.sha256 else f"{shard}: its checksum differs, {self.images} images are lost"


class Index:
    """The images of one cache folder.

    Attributes:
        shards: name of each shard → its head.
        damaged: shards whose index or size is not what it should be, with the reason; they count as missing.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.shards: dict[str, ShardHead] = {}
        self.damaged: dict[str, str] = {}
        self._by_hash: dict[str, list[Place]] = {}
        self._by_name: dict[str, list[Record]] = {}
        self._hashes: dict[tuple[str, Stamp], str] = {}
        self._waiting: dict[str, list[Record]] = {}

    def refresh(self) -> None:
        """Takes in the shards that are new."""
        for path in sorted(self.folder.glob("shard-*.jsonl")):
            name = path.with_suffix(".safetensors").name
            if name not in self.shards and name not in self.damaged:
                try:
                    self._add(name, *read_index(path))
                except DataError as error:
                    self.damaged[name] = str(error)
                    log.warning("%s; its images count as missing", error)

    def refresh_journals(self) -> None:
        """Looks what workers have computed and not yet packed: done, but not to be read yet."""
        self._waiting = {}
        for folder in self.folder.glob("journal-*"):
            for record in read_journal(folder):
                self._waiting.setdefault(record.sha256, []).append(record)

    def __len__(self) -> int:
        return sum(map(len, self._by_hash.values()))

    def hash_of(self, entry: CacheEntry) -> str:
        """SHA-256 of an image as it is now; the file is read only where size or time differ from what is known.

        An image that is gone counts as unchanged: a cache outlives its photos.

        Raises:
            DataError: the image is neither there nor known.
        """
        if entry.data is not None:
            return hashlib.sha256(entry.data).hexdigest()
        known = self._by_name.get(entry.name, [])
        try:
            stamp = entry.stamp()
        except OSError as error:
            if known:
                return known[-1].sha256
            raise DataError(f"{entry.path}: cannot be read ({error.strerror or error})") from error
        for record in known:
            if (record.size, record.mtime_ns) == (stamp.size, stamp.mtime_ns):
                return record.sha256
        key = entry.name, stamp
        if key not in self._hashes:
            self._hashes[key] = hashlib.sha256(entry.read()).hexdigest()
        return self._hashes[key]

    def find(self, entry: CacheEntry, *, embeddings: bool) -> Place | None:
        """Where an image lies, as it is now, with masks for these boxes."""
        places = self._by_hash.get(self.hash_of(entry), [])
        return next((place for place in places if _serves(place.record, entry, embeddings)), None)

    def is_waiting(self, entry: CacheEntry, *, embeddings: bool) -> bool:
        """Whether the image was in a journal when these were last looked at."""
        if not self._waiting:
            return False
        return any(_serves(record, entry, embeddings) for record in self._waiting.get(self.hash_of(entry), []))

    def why_missing(self, entry: CacheEntry, *, embeddings: bool) -> str:
        """What to tell the user about an image that `find` does not find."""
        places = self._by_hash.get(self.hash_of(entry), [])
        if not places:
            known = entry.name in self._by_name
            return "has changed since it was cached" if known else "is not cached"
        if embeddings and not any(place.record.embedded for place in places):
            return "is cached without SAM's image embeddings, which masks need"
        return "is cached for other boxes"

    def _add(self, name: str, head: ShardHead, records: list[Record]) -> None:
        self.shards[name] = head
        for record, starts in zip(records, starts_of(records), strict=True):
            self._by_hash.setdefault(record.sha256, []).append(Place(record, name, starts))
            self._by_name.setdefault(record.name, []).append(record)


def _serves(record: Record, entry: CacheEntry, embeddings: bool) -> bool:
    return entry.boxes_digest in ("", record.boxes) and (record.embedded or not embeddings)


def read_index(path: pathlib.Path) -> tuple[ShardHead, list[Record]]:
    """Reads a shard's index and looks whether the shard is there, whole as far as its size tells.

    Raises:
        DataError: the index or the shard is not what it should be.
    """
    shard = path.with_suffix(".safetensors")
    try:
        first, _, lines = path.read_bytes().partition(b"\n")
        head = json.loads(first)
        if head["format"] != FORMAT:
            raise DataError(f"{path}: format {head['format']}, this version reads {FORMAT}; {REBUILD}")
        if hashlib.sha256(lines).hexdigest() != head["index_sha256"]:
            raise ValueError("its checksum differs")
        records = [Record.from_json(line) for line in lines.splitlines()]
        size = shard.stat().st_size if shard.is_file() else None
        if size != head["bytes"]:
            raise DataError(f"{shard} is damaged ({size} bytes instead of {head['bytes']}); {REBUILD}")
        return ShardHead(head["bytes"], head["sha256"], len(records)), records
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); {REBUILD}") from error


def set_shard_aside(shard: pathlib.Path) -> None:
    """Renames a shard and its index, the index first: without it the shard counts no more."""
    for path in (shard.with_suffix(".jsonl"), shard):
        if path.exists():
            path.rename(path.with_name(path.name + ".damaged"))
