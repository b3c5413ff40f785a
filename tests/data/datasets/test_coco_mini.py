"""The reader on a made-up file in the same format, and on the real data where it is at hand."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from mllmseg.data.datasets.coco_mini import COCO80, VOC20, CocoMini, instance_mask, union_mask
from mllmseg.errors import DataError

REAL = pathlib.Path(__file__).parents[4] / "shared" / "data" / "coco-mini"
CATEGORIES = [
    {"id": 1, "name": "dog", "isthing": 1},
    {"id": 2, "name": "cat", "isthing": 1},
    {"id": 3, "name": "zebra", "isthing": 1},
    {"id": 4, "name": "hat", "isthing": 1},
    {"id": 5, "name": "tie", "isthing": 1},
    {"id": 6, "name": "sky-other-merged", "isthing": 0},
    {"id": 7, "name": "person", "isthing": 1},
]
SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]  # 4×3 pixels


def _annotation(ident: int, **changes: object) -> dict[str, object]:
    entry: dict[str, object] = {"id": ident, "image_id": 1, "category_id": 1, "bbox": [2, 1, 4, 3], "area": 12}
    return entry | {"iscrowd": 0, "segmentation": SQUARE, "mask": "human"} | changes


def _image(ident: int = 1, scope: str = "coco80") -> dict[str, object]:
    return {"id": ident, "file_name": f"{ident}.jpg", "width": 10, "height": 8, "label_scope": scope, "captions": ["a"]}


def _write(root: pathlib.Path, images: list, annotations: list, expressions: list | None = None) -> pathlib.Path:
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "instances_val.json").write_text(json.dumps(content))
    if expressions is not None:
        (root / "expressions_val.jsonl").write_text("\n".join(json.dumps(entry) for entry in expressions) + "\n")
    return root


def _expression(**changes: object) -> dict[str, object]:
    entry = {"image_id": 1, "text": "the dog", "source": "template", "rule": "unique", "ann_ids": [1], "box": None}
    return entry | {"tags": None} | changes


def test_reads_photos_instances_and_expressions(tmp_path: pathlib.Path) -> None:
    crowd = {"counts": [0, 8, 72], "size": [8, 10]}
    annotations = [
        _annotation(1),
        _annotation(2, segmentation=[], mask=None, area=5),
        _annotation(3, segmentation=crowd, iscrowd=1),
    ]
    expressions = [_expression(), _expression(ann_ids=[]), _expression(ann_ids=None, box=[1, 2, 3, 4], tags=["attr"])]
    dataset = CocoMini(_write(tmp_path, [_image()], annotations, expressions), "val")
    photo = dataset.photos[1]
    assert photo.size == (8, 10)
    assert photo.path == tmp_path / "images" / "1.jpg"
    assert photo.captions == ("a",)
    assert [item.mask_source for item in photo.instances] == ["human", None, "human"]
    assert [item.is_crowd for item in photo.instances] == [False, False, True]
    assert photo.instances[1].area == 12, "a box-only label's area is its box's"
    assert [e.ann_ids for e in dataset.expressions] == [(1,), (), None]
    assert dataset.expressions[2].box == (1.0, 2.0, 3.0, 4.0)
    assert dataset.expressions[2].tags == ("attr",)
    assert dataset.categories["sky-other-merged"] is False
    assert dataset.expressions_of(1) == dataset.expressions


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("coco80", {"dog", "cat", "zebra", "tie", "person"}),
        ("voc20", {"dog", "cat", "person"}),
        ("panoptic", {"dog", "cat", "zebra", "tie", "person", "sky-other-merged"}),
        ("clothing", {"hat", "tie"}),
        ("dog,cat", {"dog", "cat"}),
    ],
)
def test_scope_is_what_was_looked_for(tmp_path: pathlib.Path, scope: str, expected: set[str]) -> None:
    assert CocoMini(_write(tmp_path, [_image(scope=scope)], []), "val").photos[1].scope == expected


def test_category_tables_are_complete() -> None:
    assert (len(VOC20), len(COCO80)) == (20, 80)


def test_draws_polygons_and_both_kinds_of_rle(tmp_path: pathlib.Path) -> None:
    expected = np.zeros((8, 10), dtype=bool)
    expected[1:4, 2:6] = True
    runs, value = [], False
    flat = expected.ravel(order="F")
    while len(flat):
        length = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        runs.append(length)
        flat, value = flat[length:], not value
    from pycocotools import mask as coco_mask

    compressed = coco_mask.encode(np.asfortranarray(expected.astype(np.uint8)))
    compressed["counts"] = compressed["counts"].decode()
    forms = [SQUARE, {"counts": runs, "size": [8, 10]}, {"counts": compressed["counts"], "size": [8, 10]}]
    annotations = [_annotation(i, segmentation=form) for i, form in enumerate(forms)]
    photo = CocoMini(_write(tmp_path, [_image()], annotations), "val").photos[1]
    for instance in photo.instances:
        mask = instance_mask(photo, instance)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(union_mask(photo, (0, 1)), expected)
    assert not union_mask(photo, ()).any()


def test_box_only_labels_have_no_mask(tmp_path: pathlib.Path) -> None:
    photo = CocoMini(_write(tmp_path, [_image()], [_annotation(7, segmentation=[], mask=None)]), "val").photos[1]
    with pytest.raises(DataError, match="annotation 7 has a box only"):
        instance_mask(photo, photo.instances[0])


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [([[1, 2, 3, 4]], "cannot be drawn"), ({"counts": [80], "size": [10, 8]}, "size")],
)
def test_a_segmentation_that_cannot_be_drawn(tmp_path: pathlib.Path, segmentation: object, problem: str) -> None:
    photo = CocoMini(_write(tmp_path, [_image()], [_annotation(7, segmentation=segmentation)]), "val").photos[1]
    with pytest.raises(DataError, match=f"annotation 7.*{problem}"):
        instance_mask(photo, photo.instances[0])


@pytest.mark.parametrize(
    ("images", "annotations", "expressions", "problem"),
    [
        ([_image(scope="dog,unicorn")], [], [], r"image 1: .*unicorn"),
        ([_image()], [_annotation(5, category_id=99)], [], r"annotation 5: missing or unknown 99"),
        ([_image()], [_annotation(5, bbox=[1, 2])], [], r"annotation 5: box"),
        ([_image()], [_annotation(5, mask="robot")], [], r"annotation 5: mask 'robot'"),
        ([_image()], [_annotation(5, mask=None)], [], r"annotation 5: mask is None but"),
        ([_image()], [_annotation(5, image_id=2)], [], r"images it does not list: \[2\]"),
        ([_image()], [_annotation(5), _annotation(5)], [], r"annotation 5: this id is used twice"),
        ([_image(), _image()], [], [], r"image 1: this id is used twice"),
        ([_image() | {"file_name": 5}], [], [], r"image 1: file_name is 5, not"),
        ([_image()], [_annotation(5, bbox=[1, 2, float("nan"), 3])], [], r"annotation 5: box"),
        ([_image()], [_annotation(5, segmentation=[[1, 2, 3, 4, 5, 6, 7]])], [], r"annotation 5: a polygon has 7"),
        ([_image()], [], [_expression(ann_ids=[], text="  ")], r"line 1 .*text is '  ', no sentence"),
        ([_image()], [], [_expression(ann_ids=[4])], r"expressions_val.jsonl: line 1 .*no annotations \[4\]"),
        ([_image()], [], [_expression(ann_ids=None)], r"line 1 .*neither ann_ids nor box"),
        ([_image()], [], [_expression(ann_ids=[], image_id=8)], r"line 1 .*missing or unknown 8"),
    ],
)
def test_bad_records_are_named(
    tmp_path: pathlib.Path, images: list, annotations: list, expressions: list, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        CocoMini(_write(tmp_path, images, annotations, expressions), "val")


def test_bad_files_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"instances_val.json: no such file"):
        CocoMini(tmp_path, "val")
    (tmp_path / "instances_val.json").write_text("{")
    with pytest.raises(DataError, match=r"instances_val.json: not valid JSON"):
        CocoMini(tmp_path, "val")


@pytest.mark.skipif(not REAL.is_dir(), reason="coco-mini is not at hand")
def test_the_real_validation_split() -> None:
    dataset = CocoMini(REAL, "val")
    assert len(dataset.photos) == 171
    assert sum(e.source == "template" and bool(e.ann_ids) for e in dataset.expressions) == 577
    assert all(photo.path.is_file() for photo in dataset.photos.values())
    for photo in list(dataset.photos.values())[::10]:
        for instance in photo.instances:
            assert instance_mask(photo, instance).any()
