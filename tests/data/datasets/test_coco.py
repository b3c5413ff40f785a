"""COCO's own files, made small: instances with captions, panoptic with its PNGs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmseg.data.datasets.coco import find_labels, read_coco
from mllmseg.data.datasets.coco_mini import instance_mask
from mllmseg.errors import DataError


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    image = {"id": 5, "file_name": "a.jpg", "height": 40, "width": 60}
    box = {"id": 1, "image_id": 5, "category_id": 1, "bbox": [10, 10, 20, 10], "area": 200, "iscrowd": 0}
    drawn = box | {"segmentation": [[10, 10, 30, 10, 30, 20, 10, 20]]}
    only_box = box | {"id": 2, "segmentation": []}
    names = [{"id": 1, "name": "dog"}, {"id": 2, "name": "sky", "isthing": 0}]
    notes = tmp_path / "annotations"
    write(notes / "instances_val.json", {"images": [image], "annotations": [drawn, only_box], "categories": names[:1]})
    write(notes / "captions_val.json", {"annotations": [{"image_id": 5, "caption": " A dog. "}]})
    (tmp_path / "val").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "val" / "a.jpg")
    segments = [{"id": 300, "category_id": 1, "bbox": [10, 10, 20, 10], "area": 200, "iscrowd": 0},
                {"id": 70000, "category_id": 2, "bbox": [0, 0, 60, 10], "area": 600, "iscrowd": 0}]  # fmt: skip
    entry = {"image_id": 5, "file_name": "a.png", "segments_info": segments}
    write(notes / "panoptic.json", {"images": [image], "annotations": [entry], "categories": names})
    pixels = np.zeros((40, 60), dtype=np.int64)
    pixels[10:20, 10:30], pixels[:10] = 300, 70000
    (notes / "panoptic").mkdir()
    rgb = np.stack([pixels % 256, pixels // 256 % 256, pixels // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(notes / "panoptic" / "a.png")
    return tmp_path


def test_instances(root: Path) -> None:
    labels = find_labels(root, "val")
    (photo,) = labels.photos
    assert labels.categories == {"dog": True}
    assert photo.path.is_file()
    assert (photo.size, photo.scope, photo.captions) == ((40, 60), {"dog"}, ("A dog.",))
    assert [item.mask_source for item in photo.instances] == ["human", None]
    assert instance_mask(photo, photo.instances[0]).sum() == 200


def test_panoptic(root: Path) -> None:
    labels = read_coco(root / "annotations/panoptic.json", root / "val")
    (photo,) = labels.photos
    assert labels.categories == {"dog": True, "sky": False}
    assert [item.id for item in photo.instances] == [1, 2], "their own ids repeat from image to image"
    dog, sky = (instance_mask(photo, item) for item in photo.instances)
    assert dog[10:20, 10:30].all()
    assert dog.sum() == 200
    assert sky[:10].all()
    assert sky.sum() == 600


def test_broken_files_are_named(root: Path) -> None:
    with pytest.raises(DataError, match="neither instances_train"):
        find_labels(root, "train")
    write(root / "annotations/instances_train.json", {"images": []})
    with pytest.raises(DataError, match=r"instances_train\.json: not COCO's format: KeyError"):
        find_labels(root, "train")
    broken = {"images": [{"id": 1}], "annotations": [], "categories": []}
    write(root / "annotations/instances_train.json", broken)
    with pytest.raises(DataError, match=r"image 1: KeyError: 'file_name'"):
        list(find_labels(root, "train").photos)
