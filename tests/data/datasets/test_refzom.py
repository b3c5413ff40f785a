"""Ref-ZOM: zero, one, many; images of train2014 and val2014; its file's several names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mllmseg.data.referring import open_dataset


def test_zero_one_many(tmp_path: Path, write_miniature: Callable[[str, Path], None], miniatures: ModuleType) -> None:
    write_miniature("refzom", tmp_path)
    dataset = open_dataset("refzom", data_root=tmp_path)
    assert [query.has_target for query in dataset.queries] == [True, True, False]
    assert dataset.image_path(dataset.queries[0]).parent.name == "val2014"
    many = miniatures.box_mask("left") | miniatures.box_mask("right")
    np.testing.assert_array_equal(dataset.target(dataset.queries[1]), many)
    assert not dataset.target(dataset.queries[2]).any()
    train = open_dataset("refzom:train", data_root=tmp_path)
    assert train.image_path(train.queries[0]).parent.name == "train2014"


@pytest.mark.parametrize("name", ["refzom/Ref-ZOM(final).p", "ref-zom/refs(final).p"])
def test_other_names(tmp_path: Path, write_miniature: Callable[[str, Path], None], name: str) -> None:
    write_miniature("refzom", tmp_path)
    folder = tmp_path / "refer_seg/refzom"
    folder = folder.rename(folder.parent / Path(name).parent)
    (folder / "Ref_ZOM.p").rename(folder.parent / name)
    assert name in open_dataset("refzom", data_root=tmp_path).source
