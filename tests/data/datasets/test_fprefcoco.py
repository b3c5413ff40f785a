"""FP-RefCOCO: a false premise has no target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mllmseg.data.referring import open_dataset


def test_false_premises(tmp_path: Path, write_miniature: Callable[[str, Path], None]) -> None:
    write_miniature("fprefcoco+", tmp_path)
    dataset = open_dataset("fprefcoco+:testB", data_root=tmp_path)
    assert [(query.text, query.has_target) for query in dataset.queries] == [
        ("the blue one", True),
        ("the green one", False),
    ]
    assert dataset.target(dataset.queries[0]).any()
    assert not dataset.target(dataset.queries[1]).any()
