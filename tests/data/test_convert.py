"""Other tools' labels become own data that opens and draws what they drew."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mllmseg.data.convert import convert, write_whole
from mllmseg.data.referring import open_dataset
from mllmseg.errors import DataError


def test_coco(tmp_path: Path, write_miniature: Callable[[str, Path], None], miniatures: ModuleType) -> None:
    write_miniature("coco-mini", tmp_path)
    folder, out = tmp_path / "coco-mini", tmp_path / "new/own.jsonl"
    result = convert("coco", folder / "instances_val.json", out, text="the {category}s")
    assert (result.lines, result.images, result.skipped) == (1, 1, {"boxes without a mask": 1})
    dataset = open_dataset(f"jsonl:{out}", data_root=folder / "images")
    (query,) = dataset.queries
    assert (query.text, query.image, query.has_target) == ("the books", "000000000285.jpg", True)
    np.testing.assert_array_equal(dataset.target(query), miniatures.box_mask("left") | miniatures.box_mask("right"))
    assert [path.name for path in out.parent.iterdir()] == ["own.jsonl"], "nothing temporary is left"


def _labelme(folder: Path, miniatures: ModuleType) -> dict:
    miniatures.save_picture(folder / "sub/photo.jpg")
    left, top, right, bottom = miniatures.BOXES["small"]
    patch = io.BytesIO()
    Image.new("L", (right - left, bottom - top), 255).save(patch, "PNG")
    corners = np.reshape(miniatures.polygon("left"), (-1, 2)).tolist()
    shapes = [
        {"label": "red", "points": corners, "shape_type": "polygon", "group_id": None, "flags": {}},
        {"label": "yellow", "points": [[left, top], [right, bottom]], "shape_type": "mask",
         "mask": base64.b64encode(patch.getvalue()).decode()},
        {"label": "blue", "points": [[36.0, 10.0], [56.0, 40.0]], "shape_type": "rectangle"},
        {"label": "round", "points": [[30.0, 20.0], [30.0, 28.0]], "shape_type": "circle"},
        {"label": "dot", "points": [[3.0, 3.0]], "shape_type": "point"},
    ]  # fmt: skip
    return {
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "photo.jpg", "imageData": None,
        "imageHeight": miniatures.HEIGHT, "imageWidth": miniatures.WIDTH,
    }  # fmt: skip


def test_labelme(tmp_path: Path, miniatures: ModuleType) -> None:
    content = _labelme(tmp_path, miniatures)
    (tmp_path / "sub/photo.json").write_text(json.dumps(content))
    result = convert("labelme", tmp_path, tmp_path / "own.jsonl", text="{category}")
    assert (result.lines, result.images, result.skipped) == (4, 1, {"shapes of kind 'point'": 1})
    dataset = open_dataset(f"jsonl:{tmp_path / 'own.jsonl'}", data_root=None)
    assert {query.image for query in dataset.queries} == {"sub/photo.jpg"}
    masks = {query.text: dataset.target(query) for query in dataset.queries}
    for label, name in (("red", "left"), ("yellow", "small"), ("blue", "right")):
        np.testing.assert_array_equal(masks[label], miniatures.box_mask(name))
    assert abs(int(masks["round"].sum()) - np.pi * 8**2) < 8, "a circle of 64 corners, pixels on its rim either way"


@pytest.mark.parametrize(
    ("kind", "text", "content", "problem"),
    [
        ("yolo", "{category}", {}, "cannot convert 'yolo': known: coco, labelme"),
        ("coco", "the thing", {}, "needs {category}"),
        ("coco", "{category}", {}, r"in\.json: not COCO's instances: KeyError"),
        ("coco", "{category}", [], r"in\.json: expected an object"),
        ("coco", "{category}",
         {"images": [], "categories": [], "annotations": [{"id": 7, "image_id": 1, "category_id": 1}]},
         r"in\.json: annotation 7: image 1 or category 1"),
        ("labelme", "{category}", {"shapes": []}, r"in\.json: not labelme's: KeyError"),
        ("labelme", "{category}", {"imagePath": "a.jpg", "shapes": [{"points": "x"}]}, r"in\.json: not labelme's"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_nothing_is_written(
    tmp_path: Path, kind: str, text: str, content: object, problem: str
) -> None:
    (tmp_path / "in.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=problem):
        convert(kind, tmp_path / "in.json", tmp_path / "own.jsonl", text=text)
    assert not (tmp_path / "own.jsonl").exists()


def test_a_damaged_labelme_mask_is_named(tmp_path: Path, miniatures: ModuleType) -> None:
    content = _labelme(tmp_path, miniatures)
    content["shapes"][1]["mask"] = base64.b64encode(b"no picture").decode()
    (tmp_path / "sub/photo.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"photo\.json: shape 1: damaged mask"):
        convert("labelme", tmp_path, tmp_path / "own.jsonl", text="{category}")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("before")

    def fails() -> object:
        yield "half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fails())
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["out.jsonl"]
    write_whole(path, ["a", "b"])
    assert path.read_text() == "ab"
    with pytest.raises(DataError, match="cannot be written"):
        write_whole(path / "below_a_file", ["a"])
