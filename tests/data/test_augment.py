"""Views of photos: labels lie where their pixels are, nothing said becomes a lie, nothing is half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mllmseg.data.augment import MIN_WHOLE, Augmentation, augment, names_a_colour, names_a_place
from mllmseg.data.datasets.coco_mini import CocoMini, Photo, instance_mask
from mllmseg.data.windows import MIN_KEPT, STRETCH
from mllmseg.errors import DataError

SIZE = (240, 320)  # height, width
BOXES = {1: (20, 100, 60, 80), 2: (140, 60, 50, 120), 3: (250, 20, 40, 40)}
PAINT = {1: (200, 30, 30), 2: (30, 60, 200), 3: (220, 200, 40)}
GRAY = 128
SENTENCES: list[dict[str, Any]] = [
    {"text": "the red car", "ann_ids": [1]},
    {"text": "the car on the left", "ann_ids": [1]},
    {"text": "every car", "ann_ids": [1, 2, 3]},
    {"text": "the zebra", "ann_ids": []},
    {"text": "the tall car", "ann_ids": None, "box": [140, 60, 50, 120]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photo of three cars on gray, one of them known by its box alone."""
    return write(tmp_path / "data", SENTENCES)


def write(root: Path, sentences: list[dict[str, Any]], *, photos: int = 1, crowd: bool = False) -> Path:
    (root / "images/sub").mkdir(parents=True)
    pixels = np.full((*SIZE, 3), GRAY, dtype=np.uint8)
    for ident, (x, y, width, height) in BOXES.items():
        pixels[y : y + height, x : x + width] = PAINT[ident]
    images, labels = [], []
    for photo in range(1, photos + 1):
        Image.fromarray(pixels).save(root / f"images/sub/{photo}.png")
        images.append({"id": photo, "file_name": f"sub/{photo}.png", "height": SIZE[0], "width": SIZE[1]})
        images[-1] |= {"label_scope": "coco80", "captions": ["Three cars."], "license": 4}
        for ident, (x, y, width, height) in BOXES.items():
            polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
            drawn = {"mask": "human", "segmentation": [polygon]} if ident < 3 else {"mask": None, "segmentation": []}
            place = {"image_id": photo, "category_id": 1, "bbox": [x, y, width, height], "area": width * height}
            labels.append({"id": 10 * photo + ident, "iscrowd": int(crowd and ident == 3)} | place | drawn)
    content = {"images": images, "annotations": labels, "categories": [{"id": 1, "name": "car", "isthing": 1}]}
    (root / "instances_train.json").write_text(json.dumps(content))
    plain = {"image_id": 1, "source": "people", "rule": None, "box": None, "tags": None}
    lines = [
        plain | line | {"ann_ids": line["ann_ids"] and [10 + item for item in line["ann_ids"]]} for line in sentences
    ]
    (root / "expressions_train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def views_of(root: Path) -> list[Photo]:
    return [photo for photo in CocoMini(root, "train").photos.values() if photo.view_of is not None]


def pixels_of(photo: Photo) -> np.ndarray:
    pixels = np.asarray(Image.open(photo.path).convert("RGB")).astype(int)
    assert pixels.shape[:2] == photo.size
    return pixels


def painted(pixels: np.ndarray) -> int:
    """Which car has these pixels `[N, 3]`, whatever their tones."""
    red, green, blue = np.median(pixels, axis=0)
    return 3 if min(red, green) > blue + 20 else 1 if red > blue else 2


def test_labels_lie_where_their_pixels_are(folder: Path, tmp_path: Path) -> None:
    done = augment(folder, tmp_path / "out", views=25)
    photos = views_of(tmp_path / "out")
    assert done.photos == 1
    assert len(photos) == done.views >= 20
    assert len({photo.size for photo in photos}) > 12
    seen = set()
    for photo in photos:
        pixels = pixels_of(photo)
        coloured = np.ones(photo.size, dtype=bool)  # but for what is labelled, edges blurred by JPEG included
        found = []
        for item in photo.instances:
            if item.segmentation:
                mask = instance_mask(photo, item)
                assert item.area == mask.sum()
            else:
                x, y, width, height = (round(side) for side in item.box)
                mask = np.zeros(photo.size, dtype=bool)
                mask[y : y + height, x : x + width] = True
            coloured &= np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(7))) == 0
            found.append(painted(pixels[mask]))
            whole = BOXES[found[-1]][2] * BOXES[found[-1]][3]
            assert MIN_KEPT * whole <= item.area <= whole
            assert item.mask_source == (None if found[-1] == 3 else "human")
        coloured &= np.ptp(pixels, axis=2) > 30
        assert coloured.sum() < 20, "what is to be seen has a label"
        assert len(set(found)) == len(found) > 0
        seen.add(tuple(sorted(found)))
        aspect = photo.size[1] / photo.size[0] / (SIZE[1] / SIZE[0])
        assert STRETCH[0] - 0.02 < aspect < STRETCH[1] + 0.02
    assert (1, 2, 3) in seen
    assert len(seen) > 2, "some windows leave a car out"


def test_sentences_that_a_window_could_make_wrong_are_left_out(folder: Path, tmp_path: Path) -> None:
    augment(folder, tmp_path / "out", views=25)
    data = CocoMini(tmp_path / "out", "train")
    toned = []
    for photo in views_of(tmp_path / "out"):
        said = {line.text: line for line in data.expressions_of(photo.id)}
        assert "the car on the left" not in said
        whole = [BOXES[key][2] * BOXES[key][3] for key in BOXES]
        if len(photo.instances) < 3 or any(
            item.area < MIN_WHOLE * area for item, area in zip(photo.instances, whole, strict=True)
        ):
            assert not said
            toned.append(pixels_of(photo)[0, 0, 0] != GRAY)
            continue
        assert {"the red car", "every car", "the zebra"} <= said.keys()
        (red,) = said["the red car"].ann_ids or ()
        assert painted(pixels_of(photo)[instance_mask(photo, photo.instance(red))]) == 1
        assert set(said["every car"].ann_ids or ()) == {item.id for item in photo.instances}
        assert said["the zebra"].ann_ids == ()
        if tall := said.get("the tall car"):
            assert tall.box is not None
            assert tall.box == pytest.approx(photo.instances[1].box, abs=1)
        assert abs(pixels_of(photo)[0, 0, 0] - GRAY) <= 2, "a sentence names a colour: tones stay"
        assert not photo.captions
    assert np.mean(toned) > 0.8


def test_a_cut_crowd_is_kept(tmp_path: Path) -> None:
    augment(write(tmp_path / "data", [], crowd=True), tmp_path / "out", views=25)
    crowds = [item for photo in views_of(tmp_path / "out") for item in photo.instances if item.is_crowd]
    assert any(item.area < MIN_KEPT * 1600 for item in crowds)


def test_originals_and_what_their_records_say_stay(folder: Path, tmp_path: Path) -> None:
    augment(folder, tmp_path / "out")
    before, after = (json.loads((root / "instances_train.json").read_text()) for root in (folder, tmp_path / "out"))
    assert after["images"][0] == before["images"][0]
    assert after["annotations"][:3] == before["annotations"]
    view = after["images"][1]
    assert (view["view_of"], view["license"], view["file_name"]) == (1, 4, "sub/1_view2.jpg")
    lines = (tmp_path / "out/expressions_train.jsonl").read_text()
    assert lines.startswith((folder / "expressions_train.jsonl").read_text())
    picture = "images/sub/1.png"
    assert (tmp_path / "out" / picture).read_bytes() == (folder / picture).read_bytes()
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = augment(tmp_path / "out", tmp_path / "more", views=2, seed=1)
    assert (again.photos, again.views) == (2, 2), "no views of views"
    assert files == {path: path.read_bytes() for path in files}, "what is read is not written to"
    assert [pixels_of(photo).shape[:2] for photo in views_of(tmp_path / "more")]


def test_the_same_seed_gives_the_same_views(tmp_path: Path) -> None:
    root = write(tmp_path / "data", SENTENCES, photos=3)
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        augment(root, tmp_path / name, seed=seed)
    one, same, other = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "same", "other")
    )
    assert one == same
    assert one != other
    two = augment(root, tmp_path / "two", photos=2)
    lines = (tmp_path / "two/expressions_train.jsonl").read_text().splitlines()
    assert two == Augmentation(photos=2, views=2, sentences=len(lines) - len(SENTENCES))
    assert {photo.view_of for photo in views_of(tmp_path / "two")} == {1, 2}


def test_nothing_is_half_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="there is there already"):
        augment(folder, tmp_path / "there")
    with pytest.raises(DataError, match=r"nowhere.instances_train\.json: no such file"):
        augment(tmp_path / "nowhere", tmp_path / "out")
    (folder / "images/sub/1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png: no such image file"):
        augment(folder, tmp_path / "out")
    Image.new("RGB", (320, 200)).save(folder / "images/sub/1.png")
    with pytest.raises(DataError, match=r"1\.png is \(200, 320\), its label says \(240, 320\)"):
        augment(folder, tmp_path / "out")
    (folder / "images/sub/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png: not an image"):
        augment(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "there"}


@pytest.mark.parametrize(
    ("text", "place", "colour"),
    [
        ("the red car", False, True),
        ("the reddish car", False, True),
        ("the leftmost car", True, False),
        ("the car at the top", True, False),
        ("the topmost grey car", True, True),
        ("the second car", True, False),
        ("the car closest to the camera", True, False),
        ("the darker one in the background", True, True),
        ("the farthest car", True, False),
        ("the 3rd car, cut off", True, False),
        ("a multicolored car", False, True),
        ("the desktop beside a stopped car with a backpack", False, False),
    ],
)
def test_what_a_text_names(text: str, place: bool, colour: bool) -> None:
    assert (names_a_place(text), names_a_colour(text)) == (place, colour)
