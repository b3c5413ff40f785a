"""The file of generated sentences: read back as own data, the same for the same seed, reported on."""

from __future__ import annotations

import json
import pathlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmseg.data import synth_set
from mllmseg.data.datasets.coco import Labels
from mllmseg.data.datasets.coco_mini import Instance, Photo, union_mask
from mllmseg.data.datasets.jsonl import JsonlDataset
from mllmseg.data.synth import KINDS
from mllmseg.errors import DataError

NAMES = {"car": True, "dog": True, "person": True, "bus": True, "cup": True}


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    """Two photos of a red car, a white car and a box-only dog."""
    pixels = np.full((300, 400, 3), 128, dtype=np.uint8)
    pixels[100:200, 20:140], pixels[100:200, 250:390] = (200, 20, 25), (250, 250, 250)
    photos = []
    for ident in (1, 2):
        Image.fromarray(pixels).save(tmp_path / f"{ident}.png")
        instances = []
        for number, (name, x, w) in enumerate((("car", 20, 120), ("car", 250, 140), ("dog", 150, 60))):
            drawn = [[x, 100, x + w, 100, x + w, 200, x, 200]] if name == "car" else []
            source = "human" if drawn else None
            instances.append(Instance(10 * ident + number, name, (x, 100, w, 100), source, drawn, False, w * 100.0))
        path = tmp_path / f"{ident}.png"
        photos.append(Photo(ident, path, (300, 400), frozenset(NAMES), "made up", tuple(instances)))
    return Labels(photos, NAMES, tmp_path)


def make(labels: Labels, **changes: object) -> list[synth_set.Line]:
    arguments: dict = {"per_image": 20, "seed": 0} | changes
    return list(synth_set.generate(labels, **arguments))


def test_targets_are_read_back(labels: Labels, tmp_path: Path) -> None:
    lines = make(labels)
    synth_set.write_lines(tmp_path / "out.jsonl", lines, tmp_path)
    data = JsonlDataset(tmp_path / "out.jsonl")
    assert [query.text for query in data.queries] == [line.query.text for line in lines]
    assert {query.kind for query in data.queries} >= {"attribute", "position", "absent", "wrong attribute"}
    for query, line in zip(data.queries, lines, strict=True):
        assert query.kind == line.query.kind
        assert query.has_target == bool(line.query.instance_ids)
        assert (data.target(query) == union_mask(line.photo, line.query.instance_ids)).all()
    assert not {12, 22} & {key for line in lines for key in line.query.instance_ids}, "no mask, no target"


def test_same_seed_same_file_whatever_the_other_photos(labels: Labels) -> None:
    assert make(labels) == make(labels)
    assert [line.query for line in make(labels)] != [line.query for line in make(labels, seed=1)]
    alone = Labels(list(labels.photos)[1:], labels.categories, labels.images)
    assert make(alone) == [line for line in make(labels) if line.photo.id == 2]


def test_kinds(labels: Labels) -> None:
    assert {line.query.kind for line in make(labels, kinds=["attribute"])} == {"attribute"}
    assert {line.query.kind for line in make(labels, kinds=["wrong count"], even=True)} == {"wrong count"}
    assert {line.query.kind for line in make(labels, even=True)} <= set(KINDS)
    with pytest.raises(DataError, match="no kind of sentence 'atribute': did you mean 'attribute'"):
        make(labels, kinds=["atribute"])


def test_what_is_measured_is_kept(labels: Labels) -> None:
    looks: dict = {}
    lines = make(labels, looks=looks)
    assert set(looks) == {10, 11, 20, 21}
    for photo in labels.photos:
        photo.path.unlink()
    assert make(labels, looks=looks) == lines, "the pictures are not opened again"


def test_programs_are_written(labels: Labels, tmp_path: Path) -> None:
    synth_set.write_lines(tmp_path / "out.jsonl", make(labels, kinds=["attribute"]), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    red = next(item for item in records if item["program"] == "colour" and "red" in item["about"])
    assert red["about"] == ["car", "red"]
    assert red["masks"] == [[[20, 100, 140, 100, 140, 200, 20, 200]]]


def test_report(labels: Labels, tmp_path: Path) -> None:
    (tmp_path / "style.txt").write_text("left car\n\nright red car\n")
    text = synth_set.report(make(labels), "the command", {"theirs": synth_set.read_style(tmp_path / "style.txt")}, 0)
    assert "the command" in text
    assert "| theirs | 2 | 2.5 | 2 | 3 | 3 |" in text
    assert "| attribute | `colour` |" in text
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        synth_set.read_style(pathlib.Path("nowhere.txt"))
