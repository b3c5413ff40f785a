"""Filling the feature cache: several processes, on several machines, each with a journal of its own.

Nobody hands out the work. Every filling process goes through the images in its own order and leaves out what anyone has
finished meanwhile. Processes of one launch take every n-th image first, so that they share whatever is missing, and
then the others' from the end; one that joins others by chance starts anywhere. What two of them compute twice is at
most what is in flight when they meet.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import math
import multiprocessing
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mllmseg.data.transforms import load_image, preprocess
from mllmseg.distributed import this_process
from mllmseg.errors import DataError
from mllmseg.models.allocator import keep_freed_memory
from mllmseg.models.vision_stack import VisionStack
from mllmseg.progress import image_bar
from mllmseg.train.box_masks import estimate_masks
from mllmseg.train.cache_entry import CacheEntry, Stamp
from mllmseg.train.cache_shards import Journal, Record, adopt_journals

if TYPE_CHECKING:
    from mllmseg.train.cache import FeatureCache

log = logging.getLogger(__name__)

MAX_IMAGES = 1024
MAX_BYTES = 1 << 30
# Looking at everybody's journals costs a few file operations: not before every image.
LOOK_EVERY = 2.0


@dataclass(frozen=True)
class FillReport:
    """What a filling process did: images it computed, images that were there, and (name, problem) of the bad ones."""

    computed: int
    present: int
    bad: tuple[tuple[str, str], ...]


def encode(entry: CacheEntry, stack: VisionStack, *, embeddings: bool) -> tuple[Record, dict[str, Tensor]]:
    """Lets the frozen stages look at one image.

    Returns:
        What the index and what the columns of the cache keep.

    Raises:
        DataError: the image cannot be read, has another size than its label says, or gives no finite features.
    """
    stamp = Stamp(len(entry.data), 0) if entry.data is not None else _stamp(entry)
    content = entry.read()
    try:
        image = load_image(content)
    except DataError as error:
        raise DataError(str(error).replace("image bytes", str(entry.path))) from error
    inputs = preprocess(image, **stack.tower_input)
    if entry.size is not None and inputs.original_size != entry.size:
        raise DataError(f"{entry.path} is {inputs.original_size}, its label says {entry.size}")
    device = next((parameter.device for parameter in _parameters(stack)), torch.device("cpu"))
    features = stack.encode_image(inputs.to(device))
    estimated = estimate_masks(features, entry.boxes, stack.predict_boxes) if entry.boxes else {}
    features = features.to("cpu")
    superpixels, found = features.superpixels, features.image_embeddings
    assert found is not None
    grid = superpixels.label_map.shape
    tensors = {
        "boxes": superpixels.boxes,
        "areas": superpixels.areas,
        "scores": superpixels.scores,
        "label_map": superpixels.label_map,
        "patch_features": features.patch_features.half(),
        "image_embeddings": found.half() if embeddings else torch.zeros(0, dtype=torch.float16),
        "mask_bits": pack_masks([mask.cpu() for mask in estimated.values()]),
    }
    for name in ("patch_features", "image_embeddings"):
        if not bool(torch.isfinite(tensors[name]).all()):
            raise DataError(f"{entry.path}: {name} are not finite in float16")
    record = Record(
        name=entry.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size=stamp.size,
        mtime_ns=stamp.mtime_ns,
        boxes=entry.boxes_digest,
        grid=(grid[0], grid[1]),
        superpixels=len(superpixels),
        patches=_triple(features.patch_features),
        input_size=features.input_size,
        original_size=features.original_size,
        masks=tuple(estimated),
        embedded=embeddings,
    )
    return record, tensors


def _stamp(entry: CacheEntry) -> Stamp:
    try:
        return entry.stamp()
    except OSError as error:
        raise DataError(f"{entry.path}: cannot be read ({error.strerror or error})") from error


def _parameters(stack: Any) -> Iterator[Tensor]:
    return stack.parameters() if isinstance(stack, torch.nn.Module) else iter(())


def _triple(features: Tensor) -> tuple[int, int, int]:
    channels, rows, columns = features.shape
    return channels, rows, columns


def pack_masks(masks: Sequence[Tensor]) -> Tensor:
    """`[N, h, w]` bool masks as bits, `[N, ceil(h * w / 8)]` uint8."""
    if not masks:
        return torch.zeros(0, dtype=torch.uint8)
    return torch.from_numpy(np.packbits(torch.stack(list(masks)).flatten(1).numpy(), axis=1))


def unpack_masks(bits: Tensor, grid: tuple[int, int]) -> Tensor:
    """The reverse of `pack_masks`: `[N, h, w]` bool."""
    if not len(bits):
        return torch.zeros(0, *grid, dtype=torch.bool)
    flat = np.unpackbits(bits.numpy(), axis=1, count=math.prod(grid))
    return torch.from_numpy(flat.astype(bool)).view(len(bits), *grid)


class Writer:
    """Computes images and keeps them, a shard after another."""

    def __init__(self, cache: FeatureCache, stack: VisionStack) -> None:
        self._cache, self._stack = cache, stack
        self._journal: Journal | None = None

    def add(self, entry: CacheEntry) -> str | None:
        """Computes one image; returns what is wrong with it, if anything. Raises DataError where the disk is full."""
        try:
            record, tensors = encode(entry, self._stack, embeddings=self._cache.embeddings)
        except DataError as error:
            return str(error)
        except Exception as error:  # whatever an odd image makes the models raise, the others can be computed
            return f"{entry.path}: {type(error).__name__}: {error}"
        self._journal = self._journal or Journal(self._cache.folder)
        self._journal.append(record, tensors)
        if self._journal.images >= MAX_IMAGES or self._journal.num_bytes >= MAX_BYTES:
            self.close()
        return None

    def close(self) -> None:
        """Packs what there is."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None


class Filling:
    """One call of `FeatureCache.fill`."""

    def __init__(self, cache: FeatureCache, entries: Sequence[CacheEntry]) -> None:
        self.cache, self.entries = cache, entries
        self.computed = self.present = 0
        self.bad: dict[str, str] = {}
        self._done: set[tuple[str, str]] = set()
        self._looked = -math.inf
        self._advance: Callable[[bool], None] | None = None

    def missing(self) -> Iterator[CacheEntry]:
        """The images that nobody has computed, looked up one at a time, just before each is needed."""
        for number in self._order():
            entry = self.entries[number]
            try:
                if self._is_done(entry):
                    self.present += 1
                    self._show(False)
                else:
                    yield entry
            except DataError as error:  # of an image that is not there
                self.note(entry, str(error))

    def note(self, entry: CacheEntry, problem: str | None) -> None:
        """Counts an image that was worked on."""
        if problem is None:
            self.computed += 1
            self._done.add((self.cache.index.hash_of(entry), entry.boxes_digest))
        else:
            self.bad[entry.name] = problem
            log.warning("not cached: %s", problem)
        self._show(True)

    def _show(self, computed: bool) -> None:
        if self._advance is not None:
            self._advance(computed)

    def run(self, workers: int, stack: VisionStack | None, *, shown: bool) -> FillReport:
        """Computes what is missing and waits for what others are about to finish."""
        adopt_journals(self.cache.folder)
        self.cache.index.refresh()
        with image_bar("Caching", len(self.entries), shown=shown) as advance:
            self._advance = advance
            if stack is not None:
                self._fill_here(stack)
            else:
                self._fill_in_processes(workers)
        self._wait_for_others()
        return FillReport(self.computed, self.present, tuple(self.bad.items()))

    def _order(self) -> list[int]:
        numbers, process = range(len(self.entries)), this_process()
        if process.count > 1:
            others = [number for number in reversed(numbers) if number % process.count != process.rank]
            return [*numbers[process.rank :: process.count], *others]
        first = 0
        if any(self.cache.folder.glob("journal-*")):
            first = random.Random(f"{socket.gethostname()} {os.getpid()}").randrange(max(1, len(self.entries)))
        return [*numbers[first:], *numbers[:first]]

    def _is_done(self, entry: CacheEntry) -> bool:
        index, embeddings = self.cache.index, self.cache.embeddings
        if index.find(entry, embeddings=embeddings) or (index.hash_of(entry), entry.boxes_digest) in self._done:
            return True
        if time.monotonic() - self._looked > LOOK_EVERY:
            index.refresh_journals()
            index.refresh()
            self._looked = time.monotonic()
        return bool(index.find(entry, embeddings=embeddings)) or index.is_waiting(entry, embeddings=embeddings)

    def _wait_for_others(self) -> None:
        """Until what others have computed lies in shards; whose owner died is packed here."""
        index, embeddings = self.cache.index, self.cache.embeddings
        waiting: list[CacheEntry] = [entry for entry in self.entries if entry.name not in self.bad]
        while True:
            adopt_journals(self.cache.folder)
            index.refresh_journals()
            index.refresh()
            waiting = [
                entry
                for entry in waiting
                if index.is_waiting(entry, embeddings=embeddings) and not index.find(entry, embeddings=embeddings)
            ]
            if not waiting:
                return
            time.sleep(0.2)

    def _fill_here(self, stack: VisionStack) -> None:
        writer = Writer(self.cache, stack)
        for entry in self.missing():
            self.note(entry, writer.add(entry))
        writer.close()

    def _fill_in_processes(self, workers: int) -> None:
        missing = self.missing()
        first = list(itertools.islice(missing, workers))
        if not first:
            return
        missing = itertools.chain(first, missing)
        team = _Team(self.cache, len(first), workers)
        try:
            team.work(missing, self)
        finally:
            team.stop()


class _Team:
    """Processes that compute images, each fed through a pipe of its own: one that is killed harms no other."""

    def __init__(self, cache: FeatureCache, count: int, share: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: dict[Connection, Any] = {}
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(cache, theirs, rank, share), daemon=True)
            process.start()
            theirs.close()
            self.pipes[ours] = process

    def work(self, missing: Iterator[CacheEntry], filling: Filling) -> None:
        """Hands out images until none is left. Raises DataError where every process has died."""
        busy: dict[Connection, CacheEntry] = {}
        idle = list(self.pipes)
        while True:
            while idle and (entry := next(missing, None)) is not None:
                pipe = idle.pop()
                busy[pipe] = entry
                with contextlib.suppress(OSError):  # it has died, which reading from it will tell
                    pipe.send(entry)
            if not busy:
                break
            for ready in wait(list(busy)):
                pipe = ready  # type: ignore[assignment]
                entry = busy.pop(pipe)
                try:
                    answer = pipe.recv()
                except (EOFError, OSError):
                    self._bury(pipe, entry, filling)
                    continue
                if isinstance(answer, DataError):  # not the image's fault
                    raise answer
                filling.note(entry, answer)
                idle.append(pipe)

    def _bury(self, pipe: Connection, entry: CacheEntry, filling: Filling) -> None:
        process = self.pipes.pop(pipe)
        process.join()
        filling.note(entry, f"{entry.path}: the process at work on it ended with exit code {process.exitcode}")
        if not self.pipes:
            raise DataError(
                f"{filling.cache.folder}: all processes ended early, the last with exit code {process.exitcode}; "
                "what is done is kept: run again, with fewer 'cache_workers' where memory is short"
            )

    def stop(self) -> None:
        """Lets every process pack what it has."""
        for pipe, process in self.pipes.items():
            pipe.close()
            process.join()


def _work(cache: FeatureCache, pipe: Connection, rank: int, share: int) -> None:
    processes = share * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    keep_freed_memory()
    from mllmseg.models.build import build_vision_stack  # loads what language models need: seconds

    stack = build_vision_stack(cache.config)
    if torch.cuda.is_available():
        stack.to(f"cuda:{(this_process().local * share + rank) % torch.cuda.device_count()}")
    writer = Writer(cache, stack)
    while True:
        try:
            entry = pipe.recv()
        except (EOFError, OSError):  # no more work, or whoever gives it is gone
            break
        try:
            pipe.send(writer.add(entry))
        except DataError as error:
            pipe.send(error)
            return
    writer.close()
