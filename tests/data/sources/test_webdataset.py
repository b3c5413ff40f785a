"""Shards as training data: the same samples as from files on the disk."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mllmseg.data.shards import read_bytes
from mllmseg.data.training import BadSamples, Sample, TrainingSource
from mllmseg.errors import ConfigError, DataError

Open = Callable[..., TrainingSource]
Draw = Callable[..., Sample]


def write(path: Path, files: dict[str, Any]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))


@pytest.fixture
def lines(miniatures: Any) -> list[dict[str, Any]]:
    return [
        {"text": "red", "masks": [[miniatures.polygon("left")]]},
        {"text": "blue", "masks": [miniatures.compressed(miniatures.box_mask("right"))]},
        {"text": "a zebra", "masks": []},
    ]


def test_samples_are_those_of_the_same_lines_in_a_file(
    tmp_path: Path, lines: list[dict[str, Any]], open_: Open, draw: Draw
) -> None:
    write(
        tmp_path / "train-000.tar",
        {"0001.jpg": b"first", "0001.json": lines, "b/0002.png": b"2", "b/0002.json": lines[0]},
    )
    write(tmp_path / "train-001.tar", {"0003.json": lines[1], "0003.jpg": b"third"})
    source = open_("webdataset:train-*.tar")
    assert [image.id.partition("/")[2] for image in source.images] == [
        "train-000.tar/0001.jpg", "train-000.tar/b/0002.png", "train-001.tar/0003.jpg",
    ]  # fmt: skip
    assert [read_bytes(image.path) for image in source.images] == [b"first", b"2", b"third"]
    assert source.stages == {"instruct", "point", "refine"}
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"image": "0001.jpg"} | line) + "\n" for line in lines))
    reference = open_(f"jsonl:{own}")
    for seed in range(5):
        found, expected = draw(source, seed=seed), draw(reference, seed=seed)
        assert (found.branches, found.exists) == (expected.branches, expected.exists)
        assert found.masks.equal(expected.masks)


def test_captions_and_conversations(tmp_path: Path, open_: Open, draw: Draw) -> None:
    talk = {"conversations": [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "Three."}]}
    write(
        tmp_path / "a.tar",
        {"1.jpg": b"", "1.txt": "Blöcke.".encode(), "2.jpg": b"", "2.json": [talk, {"caption": "x"}]},
    )
    source = open_("webdataset:a.tar")
    assert source.stages == {"align", "instruct"}
    assert [turn.answer for (turn,) in draw(source, 0, stage="align").branches] == ["Blöcke."]
    assert {turn.answer for (turn,) in draw(source, 1).branches} == {"Three.", "x"}


def test_stages_read_what_they_have_a_use_for(
    tmp_path: Path, lines: list[dict[str, Any]], open_: Open, draw: Draw
) -> None:
    write(tmp_path / "a.tar", {"1.jpg": b"", "1.json": [*lines, {"caption": "Blocks."}]})
    source = open_("webdataset:a.tar")
    assert source.stages == {"align", "instruct", "point", "refine"}
    assert [turn.answer for (turn,) in draw(source, stage="align").branches] == ["Blocks."]
    assert len(draw(source).branches) == 4
    assert len(draw(source, stage="point").exists) == len(draw(source, stage="point").branches) == 3


def test_what_is_wrong_is_named(
    tmp_path: Path, lines: list[dict[str, Any]], open_: Open, draw: Draw, bad: BadSamples
) -> None:
    files = {"1.jpg": b"", "2.jpg": b"", "2.json": b"{", "3.jpg": b"", "3.json": lines[0], "4.jpg": b"", "4.json": [[]]}
    write(tmp_path / "a.tar", files)
    source = open_("webdataset:a.tar")
    assert [image.path.name for image in source.images] == ["2.jpg", "3.jpg", "4.jpg"]
    assert bad.found == {"webdataset:a.tar/a.tar/1.jpg": "no 1.json or 1.txt beside it"}
    for index, problem in ((0, "2.json: not valid JSON"), (2, "4.json: expected an object")):
        with pytest.raises(DataError, match=problem):
            draw(source, index)
    assert draw(source, 1).masks.dtype == torch.bool
    with pytest.raises(DataError, match=r"1.jpg: no 1.json"):
        open_("webdataset:a.tar", bad=BadSamples(skip=False))
    with pytest.raises(DataError, match=r"b-\*.tar: no such shards"):
        open_("webdataset:b-*.tar")
    with pytest.raises(ConfigError, match="'webdataset' needs files"):
        open_("webdataset")
