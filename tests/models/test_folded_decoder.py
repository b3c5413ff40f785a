import copy

import pytest
import torch

from mllmseg.config import SamConfig
from mllmseg.models.folded_decoder import FoldedDecoder
from mllmseg.models.sam import build_sam

POINTS = torch.tensor([[450.0, 220.0], [800.0, 480.0], [3.0, 1020.0], [512.5, 511.0], [700.0, 40.0]])


def stock(sam, embeddings, points):
    sparse = sam.embed_points(points[:, None], torch.ones(len(points), 1))
    return sam.decode_masks(embeddings, sparse, sam.no_mask_dense(len(points)), multimask_output=True)


@pytest.fixture(scope="module")
def random_sam():
    torch.manual_seed(0)
    sam = build_sam(SamConfig(checkpoint=None), None)
    # SAM's initialisation has zero biases, which would hide a bias in the wrong place.
    for parameter in sam.mask_decoder.parameters():
        if parameter.dim() > 1:
            parameter.mul_(1.5)
        else:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return sam


def test_random_weights_agree_with_the_stock_decoder(random_sam):
    embeddings = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.5
    masks, ious = stock(random_sam, embeddings, POINTS)
    decoder = FoldedDecoder(random_sam)
    states = decoder.attend(decoder.fold_image(embeddings), POINTS)
    assert masks.std() > 0.05  # else the comparison says nothing
    torch.testing.assert_close(decoder.upscale(states), masks, atol=1e-4, rtol=0)
    torch.testing.assert_close(states.iou_predictions[:, 1:], ious, atol=1e-5, rtol=0)


def test_real_weights_agree_with_the_stock_decoder(mobile_sam, astronaut_embeddings):
    masks, ious = stock(mobile_sam, astronaut_embeddings, POINTS)
    decoder = FoldedDecoder(mobile_sam)
    states = decoder.attend(decoder.fold_image(astronaut_embeddings), POINTS)
    # Real logits reach 100, where float32 itself is no better than 1e-5: the tolerance is 1e-4 of a logit of 10.
    torch.testing.assert_close(decoder.upscale(states), masks, atol=1e-4, rtol=1e-5 * 10)
    torch.testing.assert_close(states.iou_predictions[:, 1:], ious, atol=1e-5, rtol=0)
    assert ((decoder.upscale(states) > 0) == (masks > 0)).float().mean() > 0.99999


def test_double_precision_agrees_to_rounding(random_sam):
    """What is left in float32 is rounding, not algebra."""
    sam = copy.deepcopy(random_sam)
    embeddings = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))
    decoder = FoldedDecoder(sam, torch.float64)
    sparse = decoder.embed(POINTS[:2])  # in float32, as the original is: the rest is compared in float64
    torch.testing.assert_close(sparse, sam.embed_points(POINTS[:2, None], torch.ones(2, 1)), atol=1e-6, rtol=0)
    encoding, dense = sam.get_dense_pe().double(), sam.no_mask_dense(2).double()
    states = decoder.attend(decoder.fold_image(embeddings), POINTS[:2])
    masks, ious = sam.mask_decoder.double()(
        embeddings.double(), encoding, sparse.double(), dense, multimask_output=True
    )
    torch.testing.assert_close(decoder.upscale(states), masks, atol=1e-9, rtol=0)
    torch.testing.assert_close(states.iou_predictions[:, 1:].double(), ious, atol=1e-6, rtol=0)  # given in float32


def test_half_precision_agrees_in_the_masks(mobile_sam, astronaut_embeddings):
    masks, ious = stock(mobile_sam, astronaut_embeddings, POINTS)
    decoder = FoldedDecoder(mobile_sam, torch.bfloat16)
    states = decoder.attend(decoder.fold_image(astronaut_embeddings), POINTS)
    assert ((decoder.upscale(states) > 0) == (masks > 0)).float().mean() > 0.99
    torch.testing.assert_close(states.iou_predictions[:, 1:], ious, atol=0.05, rtol=0)


@pytest.mark.parametrize("window", [(64, 64), (43, 64), (64, 1), (1, 1)])
def test_window_is_a_crop(mobile_sam, astronaut_embeddings, window):
    decoder = FoldedDecoder(mobile_sam)
    states = decoder.attend(decoder.fold_image(astronaut_embeddings), POINTS[:2])
    whole = decoder.upscale(states)
    cropped = decoder.upscale(states, window)
    torch.testing.assert_close(cropped, whole[:, :, : 4 * window[0], : 4 * window[1]], atol=1e-4, rtol=1e-5)


def test_selected_prompts_keep_their_masks(mobile_sam, astronaut_embeddings):
    decoder = FoldedDecoder(mobile_sam)
    states = decoder.attend(decoder.fold_image(astronaut_embeddings), POINTS)
    keep = torch.tensor([True, False, False, True, False])
    selected = states.select(keep)
    torch.testing.assert_close(decoder.upscale(selected), decoder.upscale(states)[keep])
    torch.testing.assert_close(selected.iou_predictions, states.iou_predictions[keep])


def test_later_changes_to_sam_have_no_effect(random_sam):
    sam = copy.deepcopy(random_sam)
    embeddings = torch.randn(1, 256, 64, 64)
    decoder = FoldedDecoder(sam)
    before = decoder.attend(decoder.fold_image(embeddings), POINTS[:1]).iou_predictions
    sam.mask_decoder.iou_prediction_head.requires_grad_(False)
    for parameter in sam.mask_decoder.parameters():
        parameter.zero_()
    torch.testing.assert_close(decoder.attend(decoder.fold_image(embeddings), POINTS[:1]).iou_predictions, before)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 2.0)])
def test_prompts_with_masks_agree_with_the_stock_decoder(mobile_sam, astronaut_embeddings, dtype, tolerance):
    """As the [SEG] head prompts: one embedding and a mask a prompt, one mask back."""
    generator = torch.Generator().manual_seed(3)
    prior = torch.full((3, 1, 256, 256), -5.0)
    prior[0, :, 60:200, 80:180] = prior[1, :, :40, :40] = prior[2, :, 100:, 128:] = 5.0
    sparse = torch.randn(3, 1, 256, generator=generator)
    dense = mobile_sam.embed_mask_prompt(prior)
    masks, ious = mobile_sam.decode_masks(astronaut_embeddings, sparse, dense)
    found, found_ious = FoldedDecoder(mobile_sam, dtype).decode_masks(astronaut_embeddings, sparse, dense)
    assert found.shape == (3, 1, 256, 256)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, masks, atol=tolerance, rtol=1e-4)  # logits reach 30
    torch.testing.assert_close(found_ious, ious, atol=1e-4 if dtype == torch.float32 else 0.05, rtol=0)
    assert ((found > 0) == (masks > 0)).float().mean() > (0.9999 if dtype == torch.float32 else 0.97)
