"""Talk2Car-RegSeg: commands and regions in the layout of the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mllmseg.data.referring import open_dataset
from mllmseg.errors import DataError

Writer = Callable[[str, Path], None]


def test_regions(tmp_path: Path, write_miniature: Writer, miniatures: ModuleType) -> None:
    write_miniature("talk2car-regseg", tmp_path)
    dataset = open_dataset("talk2car-regseg:test", data_root=tmp_path)
    assert [query.id for query in dataset.queries] == ["talk2car-regseg/test-0/0", "talk2car-regseg/test-1/0"]
    assert dataset.queries[0].text == "Park behind the blue one"
    np.testing.assert_array_equal(dataset.target(dataset.queries[1]), miniatures.box_mask("right"))
    assert "talk2car_test.json" in dataset.source


def test_masks_of_another_size_and_missing_ones(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("talk2car-regseg", tmp_path)
    dataset = open_dataset("talk2car-regseg", data_root=tmp_path)
    path = tmp_path / "talk2car-regseg/val_masks_new/gt_img_ann_val_0.png"
    Image.new("L", (9, 9), 255).save(path)
    with pytest.raises(DataError, match=r"gt_img_ann_val_0\.png: talk2car-regseg/val-0/0: mask of size \[9, 9\]"):
        dataset.target(dataset.queries[0])
    path.unlink()
    with pytest.raises(DataError, match=r"gt_img_ann_val_0\.png"):
        dataset.target(dataset.queries[0])


@pytest.mark.parametrize(("content", "problem"), [("[]", "object of splits"), ('{"val": {"0": {}}}', "val 0: needs")])
def test_broken_annotations_are_named(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "talk2car").mkdir()
    (tmp_path / "talk2car/annotations.json").write_text(content)
    with pytest.raises(DataError, match=rf"annotations\.json: .*{problem}"):
        open_dataset("talk2car-regseg", data_root=tmp_path)
