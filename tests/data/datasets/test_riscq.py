"""RIS-CQ: panoptic PNGs, residue, and the public file where it is at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mllmseg.data.datasets.riscq import read_records, residue, segment_ids
from mllmseg.data.referring import open_dataset
from mllmseg.errors import DataError

Writer = Callable[[str, Path], None]
REAL = Path(__file__).parents[4] / "shared" / "data" / "riscq" / "sub_ris.json"


def test_a_segment_is_its_three_bytes(tmp_path: Path) -> None:
    colours = np.array([[[2, 173, 55], [44, 1, 0], [0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert segment_ids(tmp_path / "a.png").tolist() == [[2 + 256 * 173 + 65536 * 55, 300, 0, 2**24 - 1]]


def test_targets(tmp_path: Path, write_miniature: Writer, miniatures: ModuleType) -> None:
    write_miniature("riscq", tmp_path)
    dataset = open_dataset("riscq", data_root=tmp_path)
    for query, name in zip(dataset.queries, ("left", "right", "small"), strict=True):
        np.testing.assert_array_equal(dataset.target(query), miniatures.box_mask(name))
    assert dataset.queries[0].id == "riscq/000000000073-3648962/0"
    clean = open_dataset("riscq:clean", data_root=tmp_path)
    assert clean.queries == (dataset.queries[0], dataset.queries[2]), "the same ids without the residue"


def test_the_wrong_png_is_named(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("riscq", tmp_path)
    path = tmp_path / "coco/panoptic_train2017/000000000073.png"
    with Image.open(path) as image:
        larger = image.resize((70, 50), Image.Resampling.NEAREST)
    larger.save(path)
    dataset = open_dataset("riscq", data_root=tmp_path)
    with pytest.raises(DataError, match=r"000000000073\.png: riscq/.*size \[50, 70\] for an image of \[48, 64\]"):
        dataset.target(dataset.queries[0])
    Image.new("RGB", (64, 48)).save(path)
    with pytest.raises(DataError, match=r"no pixel of segment 3648962"):
        dataset.target(dataset.queries[0])
    path.unlink()
    with pytest.raises(DataError, match=r"no image panoptic_train2017/000000000073\.png"):
        dataset.target(dataset.queries[0])


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "not valid JSON"), ("{}", "expected a list"), ('[{"file_name": "a"}]', "record 0: no 'sentence'")],
)
def test_broken_files_are_named(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "sub_ris.json").write_text(content)
    with pytest.raises(DataError, match=rf"sub_ris\.json: {problem}"):
        open_dataset("riscq", data_root=tmp_path)


@pytest.mark.parametrize(
    "sentence",
    [
        "The dog runs. \n\nThe dog runs.",
        "The dog runs. (No suffix was removed.)",
        "I understand. Here's the revised sentence: The dog runs.",
        "All numerical suffixes have been removed.",
        "The chosen relation description is not valid.",
    ],
)
def test_residue(sentence: str) -> None:
    assert residue(sentence)


@pytest.mark.parametrize(
    "sentence", ["The person is in front of an object.", "The sky is above multiple objects, a truck and a tree."]
)
def test_descriptions_are_kept(sentence: str) -> None:
    assert residue(sentence) is None


@pytest.mark.skipif(not REAL.is_file(), reason="the public file is not at hand")
def test_the_public_file() -> None:
    records = read_records(REAL)
    assert len(records) == 1000
    assert len({record.file_name for record in records}) == 1000
    assert all(record.file_name.startswith("train2017/") for record in records)
    found = [number for number, record in enumerate(records) if residue(record.sentence)]
    assert found == [33, 48, 282, 413, 447, 545, 582, 594, 750, 785, 813, 815, 874]


def test_the_miniature_has_the_public_files_keys(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("riscq", tmp_path)
    (first, *_) = json.loads((tmp_path / "riscq/sub_ris.json").read_text())
    assert {key: type(value) for key, value in first.items()} == {
        "file_name": str,
        "sentence": str,
        "pan_seg_file": str,
        "id": int,
    }
