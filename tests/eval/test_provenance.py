"""Hashes change with names and contents; the revision is that of this checkout, or none."""

from __future__ import annotations

from pathlib import Path

from mllmseg.eval.provenance import git_revision, hash_checkpoint, hash_files


def test_names_order_and_contents_count(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    second.write_text("1")
    hashes = {hash_files(paths) for paths in ([first], [second], [first, second], [second, first])}
    before = hash_files([first])
    first.write_text("2")
    assert len(hashes | {hash_files([first])}) == 5
    first.write_text("1")
    assert hash_files([first]) == before


def test_what_is_said_of_a_checkpoint_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("1")
    before = hash_checkpoint(tmp_path)
    for name in ("training.json", "README.md"):
        (tmp_path / name).write_text("how it came to be")
    assert hash_checkpoint(tmp_path) == before
    (tmp_path / "config.yaml").write_text("how it reads")
    assert hash_checkpoint(tmp_path) != before


def test_the_revision() -> None:
    revision = git_revision()
    assert revision is None or len(revision.rstrip("+")) >= 12
