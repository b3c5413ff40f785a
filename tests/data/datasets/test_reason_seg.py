"""ReasonSeg: void regions, painting order, encodings, the protocol's one sentence a photo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mllmseg.constants import IGNORE_LABEL
from mllmseg.data.referring import open_dataset
from mllmseg.errors import DataError

Writer = Callable[[str, Path], None]


def test_target_ignore_flag(tmp_path: Path, write_miniature: Writer, miniatures: ModuleType) -> None:
    write_miniature("reasonseg", tmp_path)
    dataset = open_dataset("reasonseg", data_root=tmp_path)
    expected = miniatures.box_mask("left") + IGNORE_LABEL * miniatures.box_mask("small").astype(int)
    np.testing.assert_array_equal(dataset.target(dataset.queries[0]), expected)
    assert dataset.queries[0].kind == "sentence"
    assert dataset.queries[0].image == "1000_7.jpg"


def test_the_first_sentence_counts_but_in_training(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("reasonseg", tmp_path)
    assert len(open_dataset("reasonseg:val", data_root=tmp_path).queries) == 2
    train = open_dataset("reasonseg:train", data_root=tmp_path).queries
    assert len(train) == 4
    assert train[3].text.endswith("a bull — and why?"), "the second file is cp1252"


def test_smaller_shapes_lie_on_top(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("reasonseg", tmp_path)
    path = tmp_path / "reason_seg/ReasonSeg/val/1000_7.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    outer, inner = [[2, 2], [20, 2], [20, 20], [2, 20]], [[5, 5], [8, 5], [8, 8], [5, 8]]
    content["shapes"] = [{"label": "ignore", "points": inner}, {"label": "target", "points": outer}]
    path.write_text(json.dumps(content))
    dataset = open_dataset("reasonseg", data_root=tmp_path)
    target = dataset.target(dataset.queries[0])
    assert (target == IGNORE_LABEL).sum() == 16, "outlines belong to a shape"
    assert (target == 1).sum() == 19 * 19 - 16


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "not valid JSON"), ("{}", "list 'shapes'"), ('{"shapes": [], "text": []}', "list 'text'")],
)
def test_broken_files_are_named(tmp_path: Path, write_miniature: Writer, content: str, problem: str) -> None:
    write_miniature("reasonseg", tmp_path)
    (tmp_path / "reason_seg/ReasonSeg/val/1000_7.json").write_text(content)
    with pytest.raises(DataError, match=rf"1000_7\.json: .*{problem}"):
        open_dataset("reasonseg", data_root=tmp_path)
    content = '{"shapes": [{"label": "target", "points": [[1]]}], "text": "a"}'
    (tmp_path / "reason_seg/ReasonSeg/val/1000_7.json").write_text(content)
    dataset = open_dataset("reasonseg", data_root=tmp_path)
    with pytest.raises(DataError, match=r"1000_7\.json: shape 0"):
        dataset.target(dataset.queries[0])
