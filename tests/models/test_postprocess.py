import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mllmseg.errors import DataError
from mllmseg.models import postprocess
from mllmseg.models.postprocess import decode_rle, encode_rle, mask_boxes, postprocess_masks, upsample_masks


def sam_rule(masks, input_size, original_size):
    """`Sam.postprocess_masks` of segment_anything, written out."""
    masks = F.interpolate(masks, (1024, 1024), mode="bilinear", align_corners=False)
    masks = masks[..., : input_size[0], : input_size[1]]
    return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("input_size", "original_size"), [((683, 1024), (100, 150)), ((1024, 1), (700, 1)), ((1024, 1024), (1, 1))]
)
def test_upsampling_is_sams(input_size, original_size):
    logits = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    expected = sam_rule(logits[:, None], input_size, original_size)[:, 0]
    assert torch.equal(upsample_masks(logits, input_size, original_size), expected)
    assert torch.equal(postprocess_masks(logits, input_size, original_size), expected > 0)


@pytest.mark.parametrize("limit", [1, 3000, 40_000])
def test_bands_agree_to_the_pixel(monkeypatch, limit):
    monkeypatch.setattr(postprocess, "_MAX_LOGITS", limit)
    logits = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    for original_size in ((150, 201), (97, 64), (2000, 31)):
        expected = upsample_masks(logits, (683, 1024), original_size) > 0.1
        assert torch.equal(postprocess_masks(logits, (683, 1024), original_size, threshold=0.1), expected)


def test_no_masks():
    none = torch.zeros(0, 256, 256)
    assert postprocess_masks(none, (683, 1024), (40, 60)).shape == (0, 40, 60)
    assert mask_boxes(torch.zeros(0, 5, 6, dtype=torch.bool)).shape == (0, 4)


def test_upsampling_carries_gradient():
    logits = torch.zeros(1, 256, 256, requires_grad=True)
    upsample_masks(logits, (1024, 1024), (64, 64)).sum().backward()
    assert logits.grad.abs().sum() > 0


masks = st.integers(1, 12).flatmap(
    lambda height: st.integers(1, 12).flatmap(
        lambda width: st.lists(st.booleans(), min_size=height * width, max_size=height * width).map(
            lambda bits: np.array(bits).reshape(height, width)
        )
    )
)


@settings(deadline=None)
@given(masks)
def test_boxes_and_codes_of_any_mask(mask):
    x, y, width, height = mask_boxes(torch.from_numpy(mask)[None])[0].tolist()
    if mask.any():
        rows, columns = np.nonzero(mask)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
    else:
        assert (x, y, width, height) == (0, 0, 0, 0)
    rle = json.loads(json.dumps(encode_rle(mask)))
    assert rle["size"] == list(mask.shape)
    assert np.array_equal(decode_rle(rle).numpy(), mask)


def test_codes_of_tensors_bytes_and_lists():
    mask = torch.tensor([[0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    rle = encode_rle(mask)
    assert torch.equal(decode_rle({**rle, "counts": rle["counts"].encode()}), mask)
    assert torch.equal(decode_rle({"size": [2, 3], "counts": [2, 1, 1, 2]}), mask)  # column order


@pytest.mark.parametrize("rle", [{}, {"size": [2, 3]}, {"size": [2, 3], "counts": [1]}, {"size": 3, "counts": "x"}])
def test_damaged_codes_are_refused(rle):
    with pytest.raises(DataError, match="run-length"):
        decode_rle(rle)


@pytest.mark.parametrize(
    "counts", ["", "5", "92", "922070", "9220", "9220\x00", "z", "9220é", "o", "ooooooooo1"], ids=repr
)
def test_a_code_that_does_not_fill_its_mask_is_refused(counts):
    """pycocotools itself returns uninitialised memory for the short ones."""
    assert decode_rle({"size": [4, 6], "counts": "92207"}).sum() == 4
    with pytest.raises(DataError, match="run-length"):
        decode_rle({"size": [4, 6], "counts": counts})


def test_encoding_takes_one_mask():
    with pytest.raises(DataError, match="one mask"):
        encode_rle(np.zeros((1, 2, 3), bool))
