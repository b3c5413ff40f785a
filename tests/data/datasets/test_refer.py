"""RefCOCO's family: what its labels draw, how its splits are named, how broken files are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mllmseg.data.datasets.refer import in_split, unique_or_positions
from mllmseg.data.referring import open_dataset
from mllmseg.errors import DataError

Writer = Callable[[str, Path], None]


def test_targets_are_the_labels_drawn(tmp_path: Path, write_miniature: Writer, miniatures: ModuleType) -> None:
    write_miniature("refcoco", tmp_path)
    dataset = open_dataset("refcoco:testA", data_root=tmp_path)
    both, _, right, small = (dataset.target(query) for query in dataset.queries)
    np.testing.assert_array_equal(both, miniatures.box_mask("left") | miniatures.box_mask("small"))
    np.testing.assert_array_equal(right, miniatures.box_mask("right"))
    np.testing.assert_array_equal(small, miniatures.box_mask("small"))


def test_ids_and_texts_are_the_files(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("refcoco", tmp_path)
    query = open_dataset("refcoco:train", data_root=tmp_path).queries[1]
    assert (query.id, query.ref) == ("refcoco/50/1", "refcoco/50")
    assert query.text == "café on the left"
    assert query.image == "COCO_train2014_000000000042.jpg"


@pytest.mark.parametrize(
    ("split", "wanted", "expected"),
    [("val", "val", True), ("testA", "test", True), ("testAB", "testA", True), ("testAB", "testC", False),
     ("trainA", "testA", False), ("val", "test", False), ("testA", "testAB", False)],
)  # fmt: skip
def test_split_names(split: str, wanted: str, expected: bool) -> None:
    assert in_split(split, wanted) == expected


def test_refclef_counts_shared_test_splits_twice(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("refclef", tmp_path)
    images = [query.image for query in open_dataset("refclef:testA", data_root=tmp_path).queries]
    assert images == ["113.jpg", "114.jpg"]
    assert [query.image for query in open_dataset("refclef:testB", data_root=tmp_path).queries] == ["114.jpg"]
    assert len(open_dataset("refclef:test", data_root=tmp_path).queries) == 2


def test_sets_without_ids_are_numbered_in_order(
    tmp_path: Path, write_miniature: Writer, miniatures: ModuleType
) -> None:
    assert unique_or_positions([5, 3]) == [5, 3]
    assert unique_or_positions([5, 5]) == [0, 1]
    assert unique_or_positions([None, 3]) == [0, 1]
    write_miniature("refcoco", tmp_path)
    sentence = {"sent": "a"}
    references = [
        {"ann_id": 421, "image_id": 42, "split": "train", "sentences": [sentence]},
        {"ann_id": 91, "image_id": 9, "split": "val", "sentences": [sentence, {"raw": "b"}]},
    ]
    (tmp_path / "refer_seg/refcoco/refs(unc).p").write_bytes(miniatures.python2_pickle(references))
    queries = open_dataset("refcoco", data_root=tmp_path).queries
    assert [(query.id, query.text) for query in queries] == [("refcoco/1/0", "a"), ("refcoco/1/1", "b")]


def _damage(root: Path, change: Callable[[dict], None]) -> None:
    path = root / "refer_seg/refcoco/instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_broken_labels_name_file_and_record(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("refcoco", tmp_path)

    def other_size(content: dict) -> None:
        for image in content["images"]:
            image["width"] += 1

    _damage(tmp_path, other_size)
    dataset = open_dataset("refcoco:testA", data_root=tmp_path)
    with pytest.raises(DataError, match=r"instances\.json: annotation 302: mask of size \[48, 64\].*\[48, 65\]"):
        dataset.target(dataset.queries[2])
    _damage(tmp_path, lambda content: content["annotations"].clear())
    dataset = open_dataset("refcoco:testA", data_root=tmp_path)
    with pytest.raises(DataError, match=r"instances\.json: refcoco/59/12: no annotation 301"):
        dataset.target(dataset.queries[0])
    _damage(tmp_path, lambda content: content["images"].clear())
    with pytest.raises(DataError, match=r"instances\.json: refcoco/59: no image 30"):
        open_dataset("refcoco:testA", data_root=tmp_path)
    _damage(tmp_path, lambda content: content.pop("images"))
    with pytest.raises(DataError, match=r"instances\.json: not COCO's instances"):
        open_dataset("refcoco", data_root=tmp_path)
    (tmp_path / "refer_seg/refcoco/instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json: no such file"):
        open_dataset("refcoco", data_root=tmp_path)


@pytest.mark.parametrize(
    ("references", "problem"),
    [
        ({"a": 1}, "expected a list"),
        ([{"ref_id": 7, "image_id": 9, "split": "val", "sentences": []}], "reference 7: no 'ann_id'"),
        ([{"image_id": 9, "ann_id": 1, "split": "val", "sentences": [{}]}], "reference number 0: no 'raw'"),
        ([{"ref_id": 7, "image_id": 9, "ann_id": 1, "split": "val", "sentences": 3}], "reference 7"),
    ],
)
def test_broken_references_are_named(
    tmp_path: Path, write_miniature: Writer, miniatures: ModuleType, references: object, problem: str
) -> None:
    write_miniature("refcoco", tmp_path)
    (tmp_path / "refer_seg/refcoco/refs(unc).p").write_bytes(miniatures.python2_pickle(references))
    with pytest.raises(DataError, match=rf"refs\(unc\)\.p: {problem}"):
        open_dataset("refcoco", data_root=tmp_path)
