from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmseg.demo.uploads import MAX_BYTES, WORKING_SIDE, read_upload
from mllmseg.errors import DataError


def png_that_claims(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes whose header speaks of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 30)), (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "L", "P", "1", "LA", "I;16"])
def test_reads_any_mode(tmp_path: Path, mode: str) -> None:
    kind = "tif" if mode == "CMYK" else "png"
    path = tmp_path / f"picture.{kind}"
    Image.new(mode, (30, 20)).save(path)
    upload = read_upload(path)
    assert (upload.image.mode, upload.image.size, upload.name, upload.note) == ("RGB", (30, 20), path.name, "")


@pytest.mark.parametrize("kind", ["gif", "webp", "bmp", "jpg"])
def test_reads_any_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"图片 🐈.{kind}"
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    more = {"save_all": True, "append_images": frames[1:]} if kind in ("gif", "webp") else {}
    frames[0].save(path, **more)
    red, _, blue = read_upload(path).image.getpixel((3, 3))
    assert red > 240
    assert blue < 20


def test_turns_a_photo_upright(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    assert read_upload(path).image.size == (20, 40)


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert read_upload(tmp_path / "dot.png").image.size == (1, 1)


def test_scales_large_ones_down_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((500, 2000, 3), dtype=np.uint8)).save(path)
    upload = read_upload(path)
    assert upload.image.size == (WORKING_SIDE, 400)
    assert upload.note == "scaled down from 2000 × 500 to 1600 × 400 pixels"
    assert read_upload(path, side=None).image.size == (2000, 500)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.png", b"no picture at all", "not an image"),
        ("empty.jpg", b"", "not an image"),
        ("cut.jpg", None, "damaged or truncated"),
    ],
)
def test_refuses_what_is_no_picture_by_its_own_name(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is None:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:900]
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_upload(path, "holiday.png")
    assert "holiday.png" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (60_000, 60_000), (2_000_000_000, 2)])
def test_refuses_many_pixels_before_it_decodes_them(tmp_path: Path, width: int, height: int) -> None:
    with pytest.raises(DataError, match="million pixels"):
        read_upload(png_that_claims(tmp_path / "bomb.png", width, height))


def test_refuses_many_bytes_before_it_reads_them(tmp_path: Path) -> None:
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="more than 21 MB"):
        read_upload(tmp_path / "big.png")


def test_says_that_a_file_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: the upload is gone; send it again"):
        read_upload(tmp_path / "gone.png")
