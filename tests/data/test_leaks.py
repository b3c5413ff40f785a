"""One photo under two names is found, two photos under similar names are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mllmseg.data.leaks import Leak, find_leaks, image_names, photo_key
from mllmseg.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("COCO_train2014_000000581857.jpg", "coco 581857"),
        ("train2017/000000581857.jpg", "coco 581857"),
        ("images\\val2017\\000000581857.webp", "coco 581857"),
        ("COCO_train2014_000000581857_16.jpg", "coco 581857"),
        ("voc_2008_000837.webp", "voc_2008_000837"),
        ("a/1000_7.jpg", "1000_7"),
        ("000000581857_copy.jpg", "000000581857_copy"),
        ("581857.jpg", "581857"),
    ],
)
def test_photo_key(name: str, key: str) -> None:
    assert photo_key(name) == key


def test_each_photo_is_named_once() -> None:
    train = ["COCO_train2014_000000000009.jpg", "b.jpg", "c.png"]
    test = ["train2017/000000000009.jpg", "val/000000000009.webp", "d.jpg", "x/c.jpg"]
    assert find_leaks(train, test) == [
        Leak("coco 9", "COCO_train2014_000000000009.jpg", "train2017/000000000009.jpg"),
        Leak("c", "c.png", "x/c.jpg"),
    ]


def test_sources(tmp_path: Path, write_miniature: Callable[[str, Path], None]) -> None:
    write_miniature("refcoco", tmp_path)
    write_miniature("coco-mini", tmp_path)
    write_miniature("jsonl", tmp_path)
    nine = "COCO_train2014_000000000009.jpg"
    assert nine in image_names("refcoco:val", tmp_path)
    assert nine in image_names(str(tmp_path / "refer_seg/refcoco/instances.json"), None)
    assert nine in [Path(name).name for name in image_names(str(tmp_path / "refer_seg"), None)]
    assert image_names(str(tmp_path / "data.jsonl"), None) == ["one.jpg", "more/two.png"]
    assert image_names("coco-mini:train", tmp_path) == ["000000000009.webp"]
    (tmp_path / "names.txt").write_text("a.jpg\n\nb.jpg\na.jpg\n")
    assert image_names(str(tmp_path / "names.txt"), None) == ["a.jpg", "b.jpg"]


def test_photos_without_sentences_were_trained_on_too(
    tmp_path: Path, write_miniature: Callable[[str, Path], None]
) -> None:
    write_miniature("coco-mini", tmp_path)
    (tmp_path / "coco-mini/expressions_train.jsonl").write_text("")
    assert image_names("coco-mini:train", tmp_path) == ["000000000009.webp"]


def test_bad_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown dataset 'no-such'"):
        image_names("no-such", tmp_path)
    for name, content in (("a.json", "{"), ("b.jsonl", json.dumps({"text": "a"})), ("c.json", "[3]"), ("d.txt", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            image_names(str(tmp_path / name), None)
