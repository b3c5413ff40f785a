from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mllmseg.demo.calls import MAX_KEPT, Pictures, decode_mask
from mllmseg.errors import DataError


@pytest.mark.weights
def test_a_picture_is_looked_at_once(loader: Any, examples: Path, tmp_path: Path) -> None:
    pictures = Pictures(loader)
    first = pictures.open(str(examples / "tower.jpg"))
    copy = tmp_path / "another-name.jpg"
    copy.write_bytes((examples / "tower.jpg").read_bytes())
    again = pictures.open(str(copy))
    assert again.picture.segmenter is first.picture.segmenter
    assert (first.picture.name, again.picture.name) == ("tower.jpg", "another-name.jpg")
    assert len(pictures._known) <= MAX_KEPT


@pytest.mark.parametrize(
    "code", [None, 3, {}, {"size": [2]}, {"size": [0, 4], "counts": "4"}, {"size": [1 << 20, 1 << 20], "counts": "1"}]
)
def test_what_is_no_mask_is_refused(code: Any) -> None:
    with pytest.raises(DataError):
        decode_mask(code)
