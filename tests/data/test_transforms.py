import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mllmseg.constants import PIXEL_MEAN, PIXEL_STD
from mllmseg.data.transforms import (
    MAX_IMAGE_PIXELS,
    load_image,
    preprocess,
    sam_input_size,
    tower_input_size,
)
from mllmseg.errors import DataError

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_reads_paths_bytes_images_and_arrays_alike(tmp_path):
    image = Image.fromarray(COLOURS)
    path = tmp_path / "picture.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), image, COLOURS):
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        assert np.array_equal(np.array(loaded), COLOURS)


def test_result_shares_nothing_with_its_source():
    image = Image.new("RGB", (4, 4), "red")
    load_image(image).putpixel((0, 0), (0, 0, 255))
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(encoded(Image.fromarray(COLOURS), "PNG", exif=exif))
    assert loaded.size == ((9, 6) if orientation <= 4 else (6, 9))
    if orientation == 6:
        assert np.array_equal(np.array(loaded), np.rot90(COLOURS, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb(mode):
    source = Image.fromarray(COLOURS)
    if mode == "RGBa":
        source = source.convert("RGBA")
    if mode == "La":
        source = source.convert("LA")
    loaded = load_image(source.convert(mode))
    assert loaded.mode == "RGB"
    assert loaded.size == (9, 6)


def test_transparency_is_composited_on_white():
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 255))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.info["transparency"] = 0
    assert [load_image(clear).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]
    assert [load_image(palette).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]
    assert load_image(np.zeros((1, 1, 2), np.uint8)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bit_files_are_scaled_not_clipped(dtype):
    samples = np.array([[0, 257 * 100, 65535]], dtype)
    image = Image.fromarray(samples)
    assert [load_image(image).getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]
    if dtype == np.uint16:
        assert load_image(encoded(image, "PNG")).getpixel((1, 0)) == (100, 100, 100)


def test_arrays_of_other_types():
    assert load_image(np.array([[0.0, 0.5, 1.0]])).getpixel((1, 0)) == (128, 128, 128)
    assert load_image(np.array([[False, True]])).getpixel((1, 0)) == (255, 255, 255)
    assert load_image(np.array([[[0, 128, 65535]]], np.uint16)).getpixel((0, 0)) == (0, 0, 255)
    assert load_image(np.full((2, 3, 1), 7, np.int64)).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 2), 3.0),
        np.full((2, 2), np.nan),
        np.full((2, 2), -1),
        np.zeros((3, 2, 2, 2), np.uint8),
        np.zeros((3, 20, 20), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 2), np.complex64),
    ],
)
def test_senseless_arrays_are_refused(array):
    with pytest.raises(DataError):
        load_image(array)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    loaded = load_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert loaded.getpixel((1, 1)) == (255, 0, 0)


def test_errors_name_the_file_and_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"absent\.png: no such"):
        load_image(tmp_path / "absent.png")
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.png.*convert"):
        load_image(text)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cut = tmp_path / "cut.png"
    cut.write_bytes(encoded(Image.fromarray(noise), "PNG")[:2000])
    with pytest.raises(DataError, match=r"cut\.png.*again"):
        load_image(cut)


@pytest.mark.parametrize("side", [9500, 20000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(side):
    # A valid header is enough: the size is known before a pixel is decoded.
    header = encoded(Image.new("1", (1, 1)), "PPM").split(b"\n", 1)[0]
    with pytest.raises(DataError, match="scale it down"):
        load_image(header + f"\n{side} {side}\n".encode() + bytes(8))
    assert side**2 > MAX_IMAGE_PIXELS


def test_sam_input_is_segment_anythings():
    image = load_image(np.random.default_rng(1).integers(0, 256, (300, 451, 3), dtype=np.uint8))
    inputs = preprocess(image)
    resized = np.array(image.resize((1024, 681), Image.Resampling.BILINEAR)).astype(np.float32)
    expected = (resized - np.array(PIXEL_MEAN, np.float32)) / np.array(PIXEL_STD, np.float32)
    assert inputs.input_size == (681, 1024)
    assert inputs.original_size == (300, 451)
    assert torch.equal(inputs.sam_pixels[:, :681], torch.from_numpy(expected).permute(2, 0, 1))
    assert not inputs.sam_pixels[:, 681:].any()


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_sizes_follow_their_rules(height, width):
    scale = 1024 * 1.0 / max(height, width)  # ResizeLongestSide.get_preprocess_shape, but never zero
    assert sam_input_size((height, width)) == (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    size = tower_input_size((height, width), tower_size=518, patch_size=14)
    assert max(size) == 518
    assert all(side % 14 == 0 and side >= 14 for side in size)
    short = min(height, width) / max(height, width) * 518
    assert abs(min(size) - short) <= 7 or min(size) == 14


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_small_images_work(height, width):
    inputs = preprocess(Image.new("RGB", (width, height)), tower_size=70)
    assert inputs.sam_pixels.shape == (3, 1024, 1024)
    assert max(inputs.tower_pixels.shape[1:]) == 70


@pytest.mark.parametrize("size", [(8000, 1), (1, 8000), (8000, 20)])
def test_extreme_shapes_keep_at_least_a_pixel_and_a_patch(size):
    inputs = preprocess(Image.new("RGB", size))
    assert min(inputs.input_size) >= 1
    assert max(inputs.input_size) == 1024
    assert min(inputs.tower_pixels.shape[1:]) == 14


def test_large_image():
    inputs = preprocess(Image.new("RGB", (8000, 6000), "white"))
    assert inputs.input_size == (768, 1024)
    assert inputs.tower_pixels.shape == (3, 392, 518)


def test_tower_that_needs_no_pixels_and_wrong_mode():
    inputs = preprocess(Image.new("RGB", (30, 20)), tower_size=None, patch_size=16)
    assert inputs.tower_pixels.shape == (3, 16, 16)
    with pytest.raises(DataError, match="load_image"):
        preprocess(Image.new("L", (3, 3)))


def test_tower_size_is_floored_to_whole_patches():
    assert tower_input_size((100, 200), tower_size=60, patch_size=14) == (28, 56)
    assert tower_input_size((100, 200), tower_size=5, patch_size=14) == (14, 14)
