"""What is measured of pictures made here, and that it survives the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmseg.data.colours import clear_name
from mllmseg.data.datasets.coco_mini import Instance, Photo
from mllmseg.data.looks import Look, measure, read_looks, write_looks
from mllmseg.errors import DataError


@pytest.fixture
def photo(tmp_path: Path) -> Photo:
    """A red box on a blue table, a person in a green top beside it, on light ground."""
    pixels = np.full((300, 400, 3), 220, dtype=np.uint8)
    pixels[200:260, 20:200] = (30, 80, 200)
    pixels[120:200, 60:140] = (200, 20, 25)
    pixels[40:280, 300:380] = (210, 180, 140)
    pixels[80:160, 300:380] = (40, 140, 50)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    boxes = {1: ("suitcase", 60, 120, 80, 80), 2: ("bed", 20, 200, 180, 60), 3: ("person", 300, 40, 80, 240)}
    instances = tuple(
        Instance(
            key, name, (x, y, w, h), "human", [[x, y, x + w, y, x + w, y + h, x, y + h]], is_crowd=False, area=w * h
        )
        for key, (name, x, y, w, h) in boxes.items()
    )
    return Photo(1, tmp_path / "a.png", (300, 400), frozenset({"suitcase", "bed", "person"}), "made up", instances)


def test_measure(photo: Photo) -> None:
    looks = measure(photo)
    assert clear_name(looks[1].colours) == "red"
    assert clear_name(looks[2].colours) == "blue"
    assert clear_name(looks[3].top) == "green"
    assert looks[1].rests_on == (2,)
    assert looks[2].rests_on == looks[3].rests_on == ()
    assert looks[1].lightness == pytest.approx(42.0, abs=1.5)  # L of (200, 20, 25), which a browser shows as 42.4


def test_masks_of_another_size_will_do(photo: Photo) -> None:
    mask = np.zeros((75, 100), dtype=bool)
    mask[30:50, 15:35] = True
    looks = measure(photo, {1: mask})
    assert set(looks) == {1}
    assert clear_name(looks[1].colours) == "red"
    assert measure(photo, {}) == {}


def test_a_mirrored_photo_looks_the_same(photo: Photo, tmp_path: Path) -> None:
    Image.open(photo.path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    flipped = tuple(
        replace(item, segmentation=[[400 - v if n % 2 == 0 else v for n, v in enumerate(item.segmentation[0])]])
        for item in photo.instances
    )
    mirrored = measure(replace(photo, path=tmp_path / "b.png", instances=flipped))
    for key, look in measure(photo).items():
        assert mirrored[key].rests_on == look.rests_on
        assert clear_name(mirrored[key].colours) == clear_name(look.colours)
        assert clear_name(mirrored[key].top) == clear_name(look.top)


def test_black_and_white_photos_have_no_colours(photo: Photo) -> None:
    Image.open(photo.path).convert("L").save(photo.path)
    assert all(not look.colours and not look.top for look in measure(photo).values())


def test_round_trip(photo: Photo, tmp_path: Path) -> None:
    looks = measure(photo)
    write_looks(tmp_path / "looks.json", looks)
    assert read_looks(tmp_path / "looks.json") == looks


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"format": 9, "looks": {}}', '{"format": 1, "looks": {"1": {}}}',
     '{"format": 1, "looks": {"1": {"colours": {"mauve": 1}, "top": {}, "lightness": 1, "rests_on": []}}}'],
)  # fmt: skip
def test_damaged_files_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "looks.json").write_text(content)
    with pytest.raises(DataError, match=r"looks\.json.*measure again"):
        read_looks(tmp_path / "looks.json")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_looks(tmp_path / "looks.json")


def test_the_file_is_small(tmp_path: Path) -> None:
    write_looks(tmp_path / "looks.json", {7: Look({"red": 0.5}, {}, 40.0, (3,))})
    assert json.loads((tmp_path / "looks.json").read_text())["looks"]["7"]["rests_on"] == [3]
    assert (tmp_path / "looks.json").stat().st_size < 120
