"""Shards of the feature cache: one safetensors file with a column per kind of tensor, and an index beside it.

While a worker computes, images go to its **journal**: a folder with one growing file a column and one line an image,
written after its data. Whoever kills the worker loses the image in flight; whoever comes next packs the journal. A full
journal becomes `shard-ID.safetensors`, then `shard-ID.jsonl`, each written under a temporary name and renamed; only
with the second does the shard count. A journal and its shard share an ID, so packing twice is harmless.

S superpixels, C channels of the patch features, h w the valid window of SAM's low-res grid, h' w' patches.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import shutil
import socket
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, Self

import filelock
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mllmseg.constants import SAM_EMBEDDING_DIM, SAM_EMBEDDING_STRIDE, SAM_IMAGE_SIZE
from mllmseg.errors import DataError

# Wide types first: each column then starts at a multiple of its item size, as torch needs it.
COLUMNS: dict[str, torch.dtype] = {
    "boxes": torch.int32,
    "areas": torch.int32,
    "scores": torch.float32,
    "label_map": torch.int16,
    "patch_features": torch.float16,
    "image_embeddings": torch.float16,
    "mask_bits": torch.uint8,
}
_SAFETENSORS_TYPES = {
    torch.int32: "I32",
    torch.float32: "F32",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.uint8: "U8",
}
_EMBEDDINGS_SHAPE = (1, SAM_EMBEDDING_DIM, *(SAM_IMAGE_SIZE // SAM_EMBEDDING_STRIDE,) * 2)
FORMAT = 1
JOURNAL_INDEX = "index.jsonl"


@dataclass(frozen=True, slots=True)
class Record:
    """One image in a shard: whose features they are, and their sizes.

    Attributes:
        name: `CacheEntry.name`.
        sha256: of the image file.
        size, mtime_ns: `CacheEntry.stamp()` when it was read.
        boxes: `CacheEntry.boxes_digest`.
        grid: (h, w).
        superpixels: S.
        patches: (C, h', w').
        input_size, original_size: as in `ImageFeatures`.
        masks: ids of the estimated masks.
        embedded: whether image embeddings are stored.
        checksum: CRC-32 of the image's rows of all columns.
    """

    name: str
    sha256: str
    size: int
    mtime_ns: int
    boxes: str
    grid: tuple[int, int]
    superpixels: int
    patches: tuple[int, int, int]
    input_size: tuple[int, int]
    original_size: tuple[int, int]
    masks: tuple[int, ...]
    embedded: bool
    checksum: int = 0

    @classmethod
    def from_json(cls, line: bytes | str) -> Self:
        """Raises ValueError, TypeError or KeyError where the line is not a whole record."""
        loaded = json.loads(line)
        values: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in loaded.items()}
        return cls(**values)

    def to_json(self) -> bytes:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of this image's part of each column."""
        return {
            "boxes": (self.superpixels, 4),
            "areas": (self.superpixels,),
            "scores": (self.superpixels,),
            "label_map": self.grid,
            "patch_features": self.patches,
            "image_embeddings": _EMBEDDINGS_SHAPE if self.embedded else (0,),
            "mask_bits": (len(self.masks), -(-math.prod(self.grid) // 8)),
        }


class Shard:
    """A finished shard, opened for reading. Tensors are views of the file in memory: only what is used is read."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises DataError where the file is missing or is no shard."""
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                self.columns: dict[str, Tensor] = {name: file.get_tensor(name) for name in COLUMNS}
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} is damaged ({error}); {REBUILD}") from error

    def read(self, record: Record, starts: Mapping[str, int]) -> dict[str, Tensor]:
        """One image's part of each column, in its shape.

        Args:
            record: the image.
            starts: where its parts start, as `starts_of` counts them.
        """
        return {
            name: self.columns[name][starts[name] : starts[name] + math.prod(shape)].view(shape)
            for name, shape in record.shapes().items()
        }


REBUILD = "`mllmseg cache verify CONFIG` sets damaged shards aside, then `mllmseg cache CONFIG` computes them anew"


def starts_of(records: Iterable[Record]) -> Iterator[dict[str, int]]:
    """Where each image's part of each column starts, in items."""
    starts = dict.fromkeys(COLUMNS, 0)
    for record in records:
        yield dict(starts)
        for name, shape in record.shapes().items():
            starts[name] += math.prod(shape)


class Journal:
    """What one worker has computed and not yet packed. Locked for as long as the worker lives."""

    def __init__(self, root: pathlib.Path) -> None:
        """Starts an empty journal below `root`."""
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.folder = root / f"journal-{self.id}"
        self._lock = lock_of(self.folder)
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()  # before the folder exists, so that nobody takes it for an orphan
            self.folder.mkdir()
            self._files = {name: (self.folder / name).open("wb", buffering=0) for name in COLUMNS}
            self._index = (self.folder / JOURNAL_INDEX).open("wb", buffering=0)
        except OSError as error:
            raise DataError(f"{root}: cannot be written ({error.strerror or error}); name another 'cache'") from error
        self.images = self.num_bytes = 0

    def append(self, record: Record, tensors: Mapping[str, Tensor]) -> None:
        """Saves an image: its data first, then the line that makes it count.

        Raises:
            DataError: the disk does not take it. The journal is then of no more use.
        """
        blobs = {name: tensors[name].contiguous().to(dtype).numpy().tobytes() for name, dtype in COLUMNS.items()}
        checksum = 0
        for blob in blobs.values():
            checksum = zlib.crc32(blob, checksum)
        line = replace(record, checksum=checksum).to_json()
        try:
            for name, blob in blobs.items():
                _write_all(self._files[name], blob)
            _write_all(self._index, line)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error.strerror}); make room and run again") from error
        self.images += 1
        self.num_bytes += sum(map(len, blobs.values()))

    def close(self) -> None:
        """Packs what there is into a shard."""
        for file in (*self._files.values(), self._index):
            file.close()
        try:
            pack(self.folder)
        finally:
            release(self._lock)


def _write_all(file: BinaryIO | Any, content: bytes) -> None:
    view = memoryview(content)
    while view:  # a raw file may take a part only
        view = view[file.write(view) :]


def lock_of(journal: pathlib.Path) -> filelock.BaseFileLock:
    """The lock of a journal; it lies beside the folder, which its owner removes."""
    return filelock.FileLock(journal.with_name(f".{journal.name}.lock"), blocking=False)


def release(lock: filelock.BaseFileLock) -> None:
    """Gives a journal's lock back for good: its journal never comes again."""
    pathlib.Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def adopt_journals(root: pathlib.Path) -> int:
    """Packs the journals whose owners are gone; returns how many images they held."""
    images = 0
    for folder in sorted(root.glob("journal-*")):
        lock = lock_of(folder)
        try:
            lock.acquire()
        except (filelock.Timeout, OSError):
            continue  # its owner lives
        try:
            images += pack(folder)
        finally:
            release(lock)
    return images


def read_journal(folder: pathlib.Path) -> list[Record]:
    """The whole lines of a journal, which may be growing; nothing where it is gone by now."""
    try:
        content = (folder / JOURNAL_INDEX).read_bytes()
    except OSError:
        return []
    records = []
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        try:
            records.append(Record.from_json(line))
        except (ValueError, TypeError, KeyError):
            break  # a machine that lost its power may leave anything
    return records


def pack(folder: pathlib.Path) -> int:
    """Makes a shard of a journal and removes the journal; returns the number of its images.

    Images whose data did not reach the disk, after a loss of power, are left out with all that follow them.
    """
    target = folder.parent / f"shard-{folder.name.removeprefix('journal-')}.safetensors"
    index = target.with_suffix(".jsonl")
    records = [] if index.exists() else _intact(folder, read_journal(folder))
    if records:
        num_bytes, digest = _write_columns(folder, records, target)
        lines = b"".join(record.to_json() for record in records)
        head = {
            "format": FORMAT,
            "bytes": num_bytes,
            "sha256": digest,
            "index_sha256": hashlib.sha256(lines).hexdigest(),
        }
        temporary = index.with_name(f".{index.name}.{os.getpid()}")
        temporary.write_bytes(json.dumps(head).encode() + b"\n" + lines)
        temporary.rename(index)
    shutil.rmtree(folder, ignore_errors=True)
    return len(records)


def _intact(folder: pathlib.Path, records: list[Record]) -> list[Record]:
    files = {}
    try:
        for name in COLUMNS:
            files[name] = (folder / name).open("rb")
        for number, record in enumerate(records):
            checksum = 0
            for name, shape in record.shapes().items():
                checksum = zlib.crc32(files[name].read(math.prod(shape) * COLUMNS[name].itemsize), checksum)
            if checksum != record.checksum:
                return records[:number]
    except OSError:
        return []
    finally:
        for file in files.values():
            file.close()
    return records


def _write_columns(folder: pathlib.Path, records: list[Record], target: pathlib.Path) -> tuple[int, str]:
    """Joins a journal's columns to a safetensors file; returns its size and SHA-256."""
    header: dict[str, Any] = {"__metadata__": {"format": str(FORMAT)}}
    end = 0
    for name, dtype in COLUMNS.items():
        items = sum(math.prod(record.shapes()[name]) for record in records)
        start, end = end, end + items * dtype.itemsize
        header[name] = {"dtype": _SAFETENSORS_TYPES[dtype], "shape": [items], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    digest = hashlib.sha256()
    with temporary.open("wb") as file:
        for block in _blocks(folder, header, text):
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    Shard(temporary)  # what is published can be read
    num_bytes = temporary.stat().st_size
    temporary.rename(target)
    return num_bytes, digest.hexdigest()


def _blocks(folder: pathlib.Path, header: dict[str, Any], text: bytes) -> Iterator[bytes]:
    yield len(text).to_bytes(8, "little") + text
    for name in COLUMNS:
        start, end = header[name]["data_offsets"]
        with (folder / name).open("rb") as file:
            while block := file.read(min(1 << 22, end - start)):
                start += len(block)
                yield block
