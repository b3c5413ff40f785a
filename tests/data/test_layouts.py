"""The folder trees of other projects are found as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mllmseg.data.referring import open_dataset

LISA_IMAGES = "refer_seg/images/mscoco/images/train2014"


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("refer_seg", "refer_seg/images/mscoco/images/train2014"),
        ("refer_seg", "refer_seg/images/mscoco/train2014"),
        ("refer_seg", "refer_seg/images/train2014"),
        ("", "images/mscoco/images/train2014"),
        ("", "images/train2014"),
        ("dataset/refer_seg", "dataset/refer_seg/images/mscoco/images/train2014"),
        ("lisa/refer_seg", "lisa/refer_seg/images/mscoco/images/train2014"),
        ("data/lisa/refer_seg", "data/lisa/refer_seg/images/mscoco/images/train2014"),
        ("ref_seg", "glamm_data/images/coco2014/train2014"),
        ("data/ref_seg", "data/glamm_data/images/coco2014/train2014"),
        ("ref_seg", "ref_seg/refcoco/coco2014/train2014"),
        ("Sa2VA-Training/ref_seg", "Sa2VA-Training/glamm_data/images/coco2014/train2014"),
        ("datasets", "datasets/images/train2014"),
        ("refer_seg", "coco/train2014"),
        ("refer_seg", "refer_seg/refcoco/train2014"),
    ],
)
def test_spellings(tmp_path: Path, annotations: str, images: str, write_miniature: Callable[[str, Path], None]) -> None:
    made, root = tmp_path / "made", tmp_path / "root"
    write_miniature("refcoco", made)
    (root / images).mkdir(parents=True)
    shutil.copytree(made / LISA_IMAGES, root / images, dirs_exist_ok=True)
    shutil.copytree(made / "refer_seg/refcoco", root / annotations / "refcoco", dirs_exist_ok=True)
    dataset = open_dataset("refcoco", data_root=root)
    assert {dataset.image_path(query).parent for query in dataset.queries} == {root / images}
    assert dataset.target(dataset.queries[0]).any()
