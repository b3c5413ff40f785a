"""gRefCOCO: several targets, none, and both file formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from mllmseg.data.referring import open_dataset
from mllmseg.data.restricted_pickle import load_plain_pickle


def test_one_many_none(tmp_path: Path, write_miniature: Callable[[str, Path], None], miniatures: ModuleType) -> None:
    write_miniature("grefcoco", tmp_path)
    dataset = open_dataset("grefcoco:testB", data_root=tmp_path)
    assert [query.has_target for query in dataset.queries] == [True, True, False, False]
    one, many, none, _ = (dataset.target(query) for query in dataset.queries)
    np.testing.assert_array_equal(one, miniatures.box_mask("right"))
    np.testing.assert_array_equal(many, miniatures.box_mask("right") | miniatures.box_mask("small"))
    assert none.shape == one.shape
    assert not none.any()


def test_json_is_the_same(tmp_path: Path, write_miniature: Callable[[str, Path], None]) -> None:
    write_miniature("grefcoco", tmp_path)
    pickled = open_dataset("grefcoco", data_root=tmp_path)
    path = tmp_path / "refer_seg/grefcoco/grefs(unc).p"
    path.with_suffix(".json").write_text(json.dumps(load_plain_pickle(path)))
    path.unlink()
    read = open_dataset("grefcoco", data_root=tmp_path)
    assert read.queries == pickled.queries
    assert "grefs(unc).json" in read.source
