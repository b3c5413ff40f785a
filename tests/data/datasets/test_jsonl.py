"""Own data: every form of mask, what may be left out, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mllmseg.data.referring import UnknownTargetError, open_dataset
from mllmseg.errors import DataError


def test_the_format(tmp_path: Path, write_miniature: Callable[[str, Path], None], miniatures: ModuleType) -> None:
    write_miniature("jsonl", tmp_path)
    dataset = open_dataset(f"jsonl:{tmp_path / 'data.jsonl'}", data_root=None, image_root=tmp_path / "images")
    assert (dataset.name, dataset.split) == ("jsonl", "data")
    assert [query.has_target for query in dataset.queries] == [True, True, False, False, True, None]
    first, mine = dataset.queries[0], dataset.queries[3]
    assert (first.id, first.ref, first.kind) == ("jsonl/0/0", "jsonl/0/0", "")
    assert (mine.id, mine.ref, mine.kind) == ("mine", "yaks", "animal")
    assert dataset.image_path(mine) == tmp_path / "images/more/two.png"
    np.testing.assert_array_equal(dataset.target(first), miniatures.box_mask("left"))
    everything = sum(miniatures.box_mask(name) for name in miniatures.BOXES)
    np.testing.assert_array_equal(dataset.target(dataset.queries[1]), everything)
    assert not dataset.target(dataset.queries[2]).any()
    assert not dataset.target(mine).any()
    for query in dataset.queries[4:]:
        with pytest.raises(UnknownTargetError, match=r"data\.jsonl: line [56]: .*no 'masks'"):
            dataset.target(query)


def test_a_json_list_is_the_same(tmp_path: Path, write_miniature: Callable[[str, Path], None]) -> None:
    write_miniature("jsonl", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    (tmp_path / "data.json").write_text(json.dumps(lines, indent=1))
    of_lines = open_dataset(f"jsonl:{tmp_path / 'data.jsonl'}", data_root=tmp_path / "images")
    of_list = open_dataset(f"jsonl:{tmp_path / 'data.json'}", data_root=tmp_path / "images")
    assert of_list.queries == of_lines.queries
    np.testing.assert_array_equal(of_list.target(of_list.queries[1]), of_lines.target(of_lines.queries[1]))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object"),
        ('{"text": "a"}', "'image' must be a string"),
        ('{"image": "a.jpg", "text": " "}', "'text' must be a string"),
        ('{"image": "a.jpg", "text": "a", "exist": true}', "unknown key 'exist': did you mean 'exists'"),
        ('{"image": "a.jpg", "text": "a", "exists": 1}', "'exists' must be true, false or null"),
        ('{"image": "a.jpg", "text": "a", "masks": {}}', "'masks' must be a list"),
        ('{"image": "a.jpg", "text": "a", "exists": false, "masks": [[1, 2]]}', "'exists' is false, but"),
        ('{"image": "a.jpg", "text": "a", "exists": true, "masks": []}', "'exists' is true, but"),
        ('{"image": "a.jpg", "text": "a", "id": "first"}', "id 'first' is used twice"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"image": "a.jpg", "text": "a", "id": "first", "photographer": "me"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=rf"data\.jsonl: line 3: .*{problem}"):
        open_dataset(f"jsonl:{path}", data_root=None)


def test_bad_masks_and_missing_images_are_named(tmp_path: Path, miniatures: ModuleType) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"image": "a.jpg", "text": "a", "masks": [{"size": [2, 2], "counts": [4]}]}\n')
    dataset = open_dataset(f"jsonl:{path}", data_root=None)
    with pytest.raises(DataError, match=r"line 1: no image .*a\.jpg; say with --image-root"):
        dataset.target(dataset.queries[0])
    miniatures.save_picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"line 1: mask of size \[2, 2\]"):
        dataset.target(dataset.queries[0])
    with pytest.raises(DataError, match="no such file"):
        open_dataset(f"jsonl:{tmp_path / 'none.jsonl'}", data_root=None)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        open_dataset(f"jsonl:{path}", data_root=None)
