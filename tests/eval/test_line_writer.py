"""Lines in any order become a file in its own order, whatever happens in between."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllmseg.errors import DataError
from mllmseg.eval import line_writer
from mllmseg.eval.line_writer import LineWriter


def line_of(slot: int) -> bytes:
    return f"{slot:02} {'x' * slot}\n".encode()


def slot_of(line: bytes, where: str) -> int:
    assert where
    return int(line[:2])


def writer(path: Path, count: int) -> LineWriter:
    return LineWriter(path, count, slot_of)


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))], ids=str)
def test_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    path = tmp_path / "sub" / "lines"
    with writer(path, 4) as lines:
        for slot in order:
            assert not lines.has(slot)
            lines.put(slot, line_of(slot))
            assert lines.has(slot)
            lines.put(slot, b"99 again\n")
    assert path.read_bytes() == b"".join(map(line_of, range(4)))
    assert [item.name for item in path.parent.iterdir()] == ["lines"], "nothing else is left"


@settings(deadline=None, max_examples=60, derandomize=True)
@given(order=st.permutations(range(6)), stop=st.integers(0, 6), cut=st.integers(0, 12), data=st.data())
def test_whatever_is_killed_goes_on(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], stop: int, cut: int, data: st.DataObject
) -> None:
    """Killed after `stop` lines, the last write in either file cut short by some bytes."""
    path = tmp_path_factory.mktemp("lines") / "lines"
    lines = writer(path, 6)
    lines.__enter__()
    for slot in order[:stop]:
        lines.put(slot, line_of(slot))
    lines._lock.release()  # as the system does for a dead process
    victim = data.draw(st.sampled_from([path, path.with_name("lines.ahead")]))
    if victim.exists():
        size = victim.stat().st_size
        last = victim.read_bytes()[:-1].rfind(b"\n") + 1  # only the line in flight can be cut
        os.truncate(victim, max(last, size - cut))
    with writer(path, 6) as lines:
        assert sum(lines.has(slot) for slot in range(6)) >= stop - 1, "at most the line in flight is lost"
        for slot in order:
            lines.put(slot, line_of(slot))
    assert path.read_bytes() == b"".join(map(line_of, range(6)))


def test_early_lines_wait_on_disk_and_the_file_grows_in_order(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with writer(path, 4) as lines:
        lines.put(2, line_of(2))
        assert path.read_bytes() == b""
        assert (tmp_path / "lines.ahead").read_bytes() == line_of(2)
        lines.put(0, line_of(0))
        assert path.read_bytes() == line_of(0)
        lines.put(1, line_of(1))
        assert path.read_bytes() == b"".join(map(line_of, range(3)))


def test_other_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(line_of(0) + line_of(2))
    with pytest.raises(DataError, match="lines: line 2 is not what this run puts there"), writer(path, 4):
        pass
    path.write_bytes(line_of(0) + line_of(1))
    with pytest.raises(DataError, match="lines: line 2 is not what"), writer(path, 1):
        pass
    assert path.read_bytes() == line_of(0) + line_of(1), "untouched"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with (
        writer(path, 1),
        pytest.raises(DataError, match="lines: another process is writing it"),
        writer(path, 1),
    ):
        pass


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    with writer(path, 2) as lines:
        lines.put(0, line_of(0))

        def write(descriptor: int, content: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(line_writer.os, "write", write)
        with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); make room"):
            lines.put(1, line_of(1))
        assert not lines.has(1)


def test_a_disk_that_takes_a_part_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(line_writer.os, "write", lambda descriptor, content: whole(descriptor, content[:2]))
    with writer(tmp_path / "lines", 2) as lines:
        lines.put(1, line_of(1))
        lines.put(0, line_of(0))
    assert (tmp_path / "lines").read_bytes() == line_of(0) + line_of(1)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"), writer(tmp_path / "file" / "lines", 1):
        pass
