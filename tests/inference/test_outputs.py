"""Pictures on disk: refused early, written whole."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmseg.errors import DataError
from mllmseg.inference.outputs import check_writable, numbered, save_image

MASK = Image.fromarray((np.arange(64).reshape(8, 8) % 2 * 255).astype(np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp", ".tif", ".bmp"])
def test_masks_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    check_writable(path, lossless=True)
    save_image(MASK, path)
    assert np.array_equal(np.array(Image.open(path).convert("L")), np.array(MASK))
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "out.gif", "one of"),
        (tmp_path / "out", "one of"),
        (tmp_path / "missing" / "out.png", "cannot write there"),
        (Path("/proc/out.png"), "cannot write there"),
    ]:
        with pytest.raises(DataError, match=message):
            check_writable(path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        check_writable(tmp_path / "folder.png")
    with pytest.raises(DataError, match=r"'\.jpg'"):
        check_writable(tmp_path / "mask.jpg", lossless=True)
    check_writable(tmp_path / "overlay.jpg")
    assert [item.name for item in tmp_path.iterdir()] == ["folder.png"]


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    save_image(MASK, path)
    before = path.read_bytes()

    def fail(self: Image.Image, file: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(DataError, match=r"out\.png: cannot be written \(no space left\)"):
        save_image(MASK, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_several_pictures_are_numbered() -> None:
    assert numbered(Path("a/out.png"), 1) == [Path("a/out.png")]
    assert numbered(Path("a/out.v2.png"), 2) == [Path("a/out.v2-1.png"), Path("a/out.v2-2.png")]
