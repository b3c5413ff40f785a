"""Lines that are computed in one order and saved in another, never lost and never held in memory.

The file grows in its own order; a line whose turn has not come waits in `FILE.ahead` until it has. Each line is one
write at the end of a file, so whoever kills the process leaves at most one cut line, dropped on the next start.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Self

import filelock

from mllmseg.errors import DataError


class LineWriter:
    """Saves line `slot` of `count` in whatever order they come.

    Use as a context; the file is locked against a second process meanwhile.
    """

    def __init__(self, path: pathlib.Path, count: int, slot_of: Callable[[bytes, str], int]) -> None:
        """Nothing is touched yet.

        Args:
            path: the file, which is appended to.
            count: how many lines it will have.
            slot_of: from a line and its place, for messages, to its slot; called for each line found on disk.
        """
        self.path = path
        self.ahead_path = path.with_name(path.name + ".ahead")
        self.count = count
        self.written = 0  # lines in the file: just the slots below
        self._slot_of = slot_of
        self._ahead: dict[int, tuple[int, int]] = {}  # slot → offset and length in the file of waiting lines
        self._ahead_size = 0
        self._lock = filelock.FileLock(f"{path}.lock", blocking=False)

    def __enter__(self) -> Self:
        """Locks the file and takes in what an earlier run saved.

        Raises:
            DataError: another process has it, it cannot be written, or it holds other lines than it should.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout as error:
            raise DataError(f"{self.path}: another process is writing it; wait for it or name another file") from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written ({error.strerror}); name another place") from error
        try:
            self._recover()
            self._advance()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.written == self.count:
            self.ahead_path.unlink(missing_ok=True)
        pathlib.Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def has(self, slot: int) -> bool:
        """Whether the line is on disk."""
        return slot < self.written or slot in self._ahead

    def put(self, slot: int, line: bytes) -> None:
        """Saves a line, unless it is there. Raises DataError where the disk does not take it."""
        if self.has(slot):
            return
        if slot == self.written:
            _append(self.path, line)
            self.written += 1
            self._advance()
        else:
            _append(self.ahead_path, line)
            self._ahead[slot] = self._ahead_size, len(line)
            self._ahead_size += len(line)

    def _advance(self) -> None:
        """Moves the lines whose turn has come."""
        while self.written in self._ahead:
            offset, length = self._ahead.pop(self.written)
            with self.ahead_path.open("rb") as file:
                file.seek(offset)
                _append(self.path, file.read(length))
            self.written += 1

    def _recover(self) -> None:
        if not self.path.exists():
            _append(self.path, b"")
        for number, (_, line) in enumerate(_whole_lines(self.path), start=1):
            where = f"{self.path}: line {number}"
            if self.written == self.count or self._slot_of(line, where) != self.written:
                raise DataError(f"{where} is not what this run puts there; write to another file")
            self.written += 1
        if self.ahead_path.exists():
            for offset, line in _whole_lines(self.ahead_path):
                slot = self._slot_of(line, f"{self.ahead_path}: byte {offset}")
                if slot >= self.written:
                    self._ahead[slot] = offset, len(line)
                self._ahead_size = offset + len(line)


def _whole_lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Offset and content of each line; one that was cut off is removed from the file."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                os.truncate(path, offset)
                return
            yield offset, line
            offset += len(line)


def _append(path: pathlib.Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            while content:  # a second round only where the disk took a part
                content = content[os.write(descriptor, content) :]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); make room, then go on with --resume") from error
