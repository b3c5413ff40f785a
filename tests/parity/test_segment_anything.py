"""Our SAM against segment_anything's own predictor around the same weights: preprocessing, prompts, masks."""

import pathlib

import numpy as np
import pytest
import torch

from mllmseg import weights
from mllmseg.config import SamConfig
from mllmseg.constants import PIXEL_MEAN, PIXEL_STD
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.models._segment_anything import import_segment_anything
from mllmseg.models.postprocess import postprocess_masks
from mllmseg.models.sam import build_sam

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def sam():
    return build_sam(SamConfig(), weights.fetch("mobile_sam"))


@pytest.fixture(scope="module")
def inputs():
    return preprocess(load_image(EXAMPLES / "coffee.jpg"))


@pytest.fixture(scope="module")
def predictor(sam, inputs):
    package = import_segment_anything()
    theirs = package.modeling.Sam(
        sam.image_encoder, sam.prompt_encoder, sam.mask_decoder, pixel_mean=PIXEL_MEAN, pixel_std=PIXEL_STD
    ).eval()
    theirs.image_encoder.img_size = 1024
    predictor = package.SamPredictor(theirs)
    # The resized pixels, as its own `set_image` would hand them on; it normalises and pads.
    height, width = inputs.input_size
    pixels = inputs.sam_pixels[:, :height, :width]
    pixels = pixels * torch.tensor(PIXEL_STD)[:, None, None] + torch.tensor(PIXEL_MEAN)[:, None, None]
    predictor.set_torch_image(pixels[None], inputs.original_size)
    return predictor


@pytest.fixture(scope="module")
def embeddings(sam, inputs):
    return sam.encode_image(inputs.sam_pixels[None])


def test_padding_and_normalisation_agree(predictor, embeddings):
    # Both run the same encoder; float32 rounding of normalise(denormalise(x)) is all that may differ.
    torch.testing.assert_close(predictor.features, embeddings, atol=1e-4, rtol=1e-4)


def test_resize_agrees_with_its_transform(inputs):
    transform = import_segment_anything().utils.transforms.ResizeLongestSide(1024)
    assert transform.get_preprocess_shape(*inputs.original_size, 1024) == inputs.input_size
    corner = np.array([[inputs.original_size[1], inputs.original_size[0]]])
    np.testing.assert_allclose(transform.apply_coords(corner, inputs.original_size)[0], inputs.input_size[::-1])


@pytest.mark.parametrize("multimask", [False, True])
def test_points_give_the_same_masks(sam, predictor, embeddings, multimask):
    points = torch.tensor([[[300.0, 200.0], [500.0, 300.0]], [[900.0, 100.0], [20.0, 30.0]]])
    labels = torch.tensor([[1, 0], [1, 1]])
    _, ious, low_res = predictor.predict_torch(points, labels, multimask_output=multimask, return_logits=True)
    ours, our_ious = sam.decode_masks(embeddings, sam.embed_points(points, labels), sam.no_mask_dense(2), multimask)
    # Logits of up to 100 from embeddings that differ by 1e-5.
    torch.testing.assert_close(ours, low_res, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(our_ious, ious, atol=1e-4, rtol=0)


def test_boxes_give_the_same_masks_at_the_images_own_size(sam, predictor, embeddings, inputs):
    boxes = torch.tensor([[293.0, 26.0, 708.0, 532.0], [600.0, 300.0, 1000.0, 600.0]])
    masks, ious, low_res = predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)
    ours, our_ious = sam.predict_boxes(embeddings, boxes)
    torch.testing.assert_close(ours, low_res, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(our_ious, ious, atol=1e-4, rtol=0)
    full = postprocess_masks(ours[:, 0], inputs.input_size, inputs.original_size)
    assert (full == masks[:, 0]).float().mean() > 0.9999


def test_mask_prompts_give_the_same_masks(sam, predictor, embeddings):
    boxes = torch.tensor([[293.0, 26.0, 708.0, 532.0]])
    prior = torch.full((1, 1, 256, 256), -8.0)
    prior[..., 10:130, 75:170] = 8.0
    _, _, low_res = predictor.predict_torch(None, None, boxes=boxes, mask_input=prior, multimask_output=False)
    ours, _ = sam.decode_masks(embeddings, sam.embed_boxes(boxes), sam.embed_mask_prompt(prior))
    torch.testing.assert_close(ours, low_res, atol=1e-2, rtol=1e-4)
