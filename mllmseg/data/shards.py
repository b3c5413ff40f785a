"""Files inside tar archives, read by offset: `train-000.tar/000017.jpg` is a path like any other.

Webdataset's shards are meant to be streamed from front to back. Training reads them in an order of its own, which must
be the same after a resume and for any number of processes, so each shard is scanned once for where its members lie.
What was found is kept beside the shard (`train-000.tar.index.json`), or in memory alone where nothing can be written.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import tarfile

from mllmseg.errors import DataError

INDEX_SUFFIX = ".index.json"

# Name of a member → its offset and length in bytes.
Members = dict[str, tuple[int, int]]


def read_bytes(path: pathlib.Path) -> bytes:
    """A file's content, be it on the disk or in a shard. Raises DataError where it cannot be read."""
    shard = shard_of(path)
    try:
        if shard is None:
            return path.read_bytes()
        name = path.relative_to(shard).as_posix()
        if name not in members(shard):
            raise DataError(f"{shard}: holds no {name}")
        offset, length = members(shard)[name]
        with shard.open("rb") as stream:
            stream.seek(offset)
            content = stream.read(length)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) != length:
        raise DataError(f"{shard}: ends within {name}; copy the shard again")
    return content


def stat(path: pathlib.Path) -> tuple[int, int]:
    """Size in bytes, and time of the last change of the file or its shard. Raises OSError where there is none."""
    shard = shard_of(path)
    if shard is None:
        facts = path.stat()
        return facts.st_size, facts.st_mtime_ns
    name = path.relative_to(shard).as_posix()
    if name not in members(shard):
        raise FileNotFoundError(f"{shard}: holds no {name}")
    return members(shard)[name][1], shard.stat().st_mtime_ns


def shard_of(path: pathlib.Path) -> pathlib.Path | None:
    """The archive that `path` leads into; None for a file of its own."""
    return next((parent for parent in path.parents if parent.suffix == ".tar" and parent.is_file()), None)


def members(shard: pathlib.Path) -> Members:
    """The files in a shard, in its order. Raises DataError where it is missing or damaged."""
    try:
        facts = shard.stat()
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror or error})") from error
    return _members(shard, facts.st_size, facts.st_mtime_ns)


@functools.cache
def _members(shard: pathlib.Path, size: int, modified: int) -> Members:
    index = shard.with_name(shard.name + INDEX_SUFFIX)
    stamp = [size, modified]
    try:
        content = json.loads(index.read_bytes())
        if content["stamp"] == stamp:
            return {name: (offset, length) for name, (offset, length) in content["members"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not there yet, or no index of ours: it is only a shortcut
    found = _scan(shard)
    temporary = index.with_name(f".{index.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"stamp": stamp, "members": found}), encoding="utf-8")
        temporary.replace(index)
    except OSError:
        temporary.unlink(missing_ok=True)  # a folder that cannot be written to
    return found


def _scan(shard: pathlib.Path) -> Members:
    try:
        with tarfile.open(shard, "r:") as archive:
            return {item.name.removeprefix("./"): (item.offset_data, item.size) for item in archive if item.isfile()}
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{shard}: not a whole, uncompressed tar archive ({error})") from error
