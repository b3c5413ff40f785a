"""coco-mini as queries: kinds, unknown targets, and the real validation split where it is at hand."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mllmseg.data.referring import UnknownTargetError, open_dataset

REAL = Path(__file__).parents[4] / "shared" / "data" / "coco-mini"


def test_kinds_and_targets(
    tmp_path: Path, write_miniature: Callable[[str, Path], None], miniatures: ModuleType
) -> None:
    write_miniature("coco-mini", tmp_path)
    dataset = open_dataset("coco-mini", data_root=tmp_path)
    assert [query.id for query in dataset.queries] == [f"coco-mini/285/{number}" for number in range(4)]
    assert [query.kind for query in dataset.queries] == ["template/all", "template/all", "human", "human"]
    assert [query.box for query in dataset.queries] == [None, None, None, (26, 30, 8, 14)]
    assert [query.has_target for query in dataset.queries] == [True, False, True, True]
    both = miniatures.box_mask("left") | miniatures.box_mask("right")
    np.testing.assert_array_equal(dataset.target(dataset.queries[0]), both)
    assert not dataset.target(dataset.queries[1]).any()
    with pytest.raises(UnknownTargetError, match="coco-mini/285/3: only the target's box"):
        dataset.target(dataset.queries[3])


@pytest.mark.skipif(not REAL.is_dir(), reason="coco-mini is not at hand")
def test_the_real_validation_split() -> None:
    dataset = open_dataset("coco-mini:val", data_root=REAL)
    counts = collections.Counter((query.kind.partition("/")[0], query.has_target) for query in dataset.queries)
    assert counts == {("template", True): 577, ("template", False): 342, ("human", True): 20, ("human", False): 4}
    for query in dataset.queries[::40]:
        assert dataset.target(query).any() == query.has_target
