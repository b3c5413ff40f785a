"""R-RefCOCO: negative sentences beside positive ones of a referent; the original files and SESAME's copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from mllmseg.data.referring import open_dataset


def test_a_missing_exist_means_true(tmp_path: Path, write_miniature: Callable[[str, Path], None]) -> None:
    write_miniature("rrefcoco", tmp_path)
    dataset = open_dataset("rrefcoco:testA", data_root=tmp_path)
    assert [query.has_target for query in dataset.queries] == [True, True, False, False, False, True]
    assert len({query.ref for query in dataset.queries[:5]}) == 1, "negatives belong to the referent they deny"
    assert dataset.target(dataset.queries[0]).any()
    assert not dataset.target(dataset.queries[2]).any()


def test_sesames_copy_is_read_where_it_is_all_there_is(
    tmp_path: Path, write_miniature: Callable[[str, Path], None], miniatures: ModuleType
) -> None:
    miniatures.write_sesame_copy(tmp_path)
    copy = open_dataset("rrefcoco", data_root=tmp_path)
    assert "R-refcoco/refs(unc_exclude_unified).p" in copy.source
    write_miniature("rrefcoco", tmp_path)
    original = open_dataset("rrefcoco", data_root=tmp_path)
    assert "rrefcoco/refs(unc).p" in original.source
    assert original.queries == copy.queries
