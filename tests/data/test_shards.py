"""Files in tar archives, by offset."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from mllmseg.data import shards
from mllmseg.errors import DataError

FILES = {"0001.jpg": b"first", "./a/0002.jpg": b"second" * 200, "0001.json": b"{}"}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write(tmp_path / "train-000.tar", FILES)


def write(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        archive.addfile(tarfile.TarInfo("b"))
    return path


def test_members_are_read_like_files(shard: Path, tmp_path: Path) -> None:
    assert shards.read_bytes(shard / "0001.jpg") == b"first"
    assert shards.read_bytes(shard / "a/0002.jpg") == b"second" * 200
    assert list(shards.members(shard)) == ["0001.jpg", "a/0002.jpg", "0001.json", "b"]
    assert shards.stat(shard / "0001.jpg") == (5, shard.stat().st_mtime_ns)
    (tmp_path / "plain").write_bytes(b"on the disk")
    assert shards.read_bytes(tmp_path / "plain") == b"on the disk"
    assert shards.stat(tmp_path / "plain")[0] == 11
    assert shards.shard_of(tmp_path / "plain") is None


def test_the_index_is_kept_beside_the_shard_and_used(shard: Path) -> None:
    found = shards.members(shard)
    index = shard.with_name("train-000.tar.index.json")
    assert index.is_file()
    shards._members.cache_clear()
    content = index.read_text()
    index.write_text(content.replace("0001.jpg", "9999.jpg"))
    assert "9999.jpg" in shards.members(shard), "not scanned again"
    shards._members.cache_clear()
    index.write_text("{")
    assert shards.members(shard) == found
    assert index.read_text() == content


def test_a_shard_that_has_changed_is_scanned_again(shard: Path) -> None:
    shards.members(shard)
    write(shard, {"new.jpg": b"!"})
    os.utime(shard, ns=(1, 1))
    assert list(shards.members(shard)) == ["new.jpg", "b"]
    assert shards.read_bytes(shard / "new.jpg") == b"!"


def test_what_cannot_be_read_is_named(shard: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-000.tar: holds no 0003.jpg"):
        shards.read_bytes(shard / "0003.jpg")
    with pytest.raises(FileNotFoundError):
        shards.stat(shard / "0003.jpg")
    with pytest.raises(DataError, match=r"nothing.jpg: cannot be read \(No such file"):
        shards.read_bytes(tmp_path / "nothing.jpg")
    for content in (b"no archive at all, but long enough to be one" * 20, b""):
        (tmp_path / "bad.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"bad.tar: not a whole, uncompressed tar archive"):
            shards.members(tmp_path / "bad.tar")


def test_a_shard_cut_off_is_named(shard: Path) -> None:
    with shard.open("r+b") as stream:
        stream.truncate(1536 + 700)  # within the second member
    with pytest.raises(DataError, match=r"train-000.tar"):
        shards.read_bytes(shard / "a/0002.jpg")
