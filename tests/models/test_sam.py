import copy
import json
import pathlib
import sys

import pytest
import torch

from mllmseg import weights
from mllmseg.config import SamConfig
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.errors import CheckpointError
from mllmseg.models import sam as sam_module
from mllmseg.models.postprocess import decode_rle
from mllmseg.models.sam import Sam, build_sam

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture
def small_vit(monkeypatch):
    # The real widths take seconds to initialise; the code path is the same.
    monkeypatch.setitem(sam_module._VIT, "vit_b", (32, 2, 2, [1]))
    return SamConfig(encoder="vit_b", checkpoint=None)


def test_is_frozen_and_stays_in_eval_mode(mobile_sam):
    assert not any(parameter.requires_grad for parameter in mobile_sam.parameters())
    mobile_sam.train()
    assert not any(module.training for module in mobile_sam.modules())


def test_import_leaves_no_stand_ins_behind():
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        assert sys.modules[name].__spec__ is not None, f"{name} is a stand-in"


@pytest.mark.parametrize("photo", ["astronaut", "coffee"])
def test_prompts_on_a_photo_give_the_masks_we_looked_at(mobile_sam, photo):
    expected = json.loads((TESTS / "data" / "sam_prompts.json").read_text())[photo]
    image = load_image(TESTS.parent / "examples" / f"{photo}.jpg")
    inputs = preprocess(image)
    scale = inputs.input_size[1] / image.width
    embeddings = mobile_sam.encode_image(inputs.sam_pixels[None])
    assert embeddings.shape == (1, 256, 64, 64)
    box_masks, box_ious = mobile_sam.predict_boxes(embeddings, torch.tensor([expected["box"]]).float() * scale)
    points = torch.tensor(expected["points"]).float()[:, None] * scale
    point_masks, point_ious = mobile_sam.decode_masks(
        embeddings,
        mobile_sam.embed_points(points, torch.ones(2, 1)),
        mobile_sam.no_mask_dense(2),
        multimask_output=True,
    )
    best = point_ious.argmax(1)
    rows = torch.arange(2)
    masks = torch.cat([box_masks[:, 0], point_masks[rows, best]]) > 0
    ious = torch.cat([box_ious[:, 0], point_ious[rows, best]])
    torch.testing.assert_close(ious, torch.tensor(expected["iou_predictions"]), atol=2e-3, rtol=0)
    for mask, rle in zip(masks, expected["low_res_rles"], strict=True):
        stored = decode_rle(rle).bool()
        # Another CPU rounds differently at the edge of a mask; a wrong weight or layout does not get near this.
        assert (mask & stored).sum() / (mask | stored).sum() > 0.99


def test_half_precision_encoder_returns_float32_and_the_same_image(mobile_sam, astronaut, astronaut_embeddings):
    sam = Sam(copy.deepcopy(mobile_sam.image_encoder).bfloat16(), mobile_sam.prompt_encoder, mobile_sam.mask_decoder)
    half = sam.encode_image(astronaut.sam_pixels[None])
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half, astronaut_embeddings, dim=1).min() > 0.98


def test_mask_decoder_is_differentiable_in_both_prompts(mobile_sam, astronaut_embeddings):
    sparse = torch.randn(2, 1, 256, requires_grad=True)
    prior = torch.randn(2, 1, 256, 256, requires_grad=True)
    masks, ious = mobile_sam.decode_masks(astronaut_embeddings, sparse, mobile_sam.embed_mask_prompt(prior))
    assert masks.shape == (2, 1, 256, 256)
    assert ious.shape == (2, 1)
    masks.mean().backward()
    assert sparse.grad.abs().sum() > 0
    assert prior.grad.abs().sum() > 0


def test_prompt_embeddings_are_the_prompt_encoders_own(mobile_sam):
    logits = torch.randn(2, 1, 256, 256)
    boxes = torch.tensor([[10.0, 20.0, 300.0, 400.0], [0.0, 0.0, 1024.0, 1024.0]])
    sparse, dense = mobile_sam.prompt_encoder(points=None, boxes=boxes, masks=logits)
    torch.testing.assert_close(mobile_sam.embed_mask_prompt(logits), dense)
    torch.testing.assert_close(mobile_sam.embed_boxes(boxes), sparse)
    torch.testing.assert_close(
        mobile_sam.no_mask_dense(2), mobile_sam.prompt_encoder(points=None, boxes=boxes, masks=None)[1]
    )
    assert mobile_sam.get_dense_pe().shape == (1, 256, 64, 64)


def test_official_vit_files_load_and_encode(small_vit, tmp_path):
    original = build_sam(small_vit, None)
    path = tmp_path / "sam_vit.pth"
    torch.save(original.state_dict() | {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}, path)
    loaded = build_sam(small_vit, path)
    for key, value in original.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value)
    assert loaded.encode_image(torch.zeros(1, 3, 1024, 1024)).shape == (1, 256, 64, 64)


def test_missing_unexpected_and_misshapen_weights_are_named(tmp_path, mobile_sam):
    state = dict(mobile_sam.state_dict())
    del state["mask_decoder.iou_token.weight"]
    state["image_encoder.blocks.0.surprise"] = torch.zeros(1)
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 8)
    path = tmp_path / "broken.pt"
    torch.save(state, path)
    with pytest.raises(CheckpointError) as error:
        build_sam(SamConfig(), path)
    for part in ("broken.pt", "mask_decoder.iou_token.weight", "blocks.0.surprise", "no_mask_embed.weight"):
        assert part in str(error.value)


def test_weights_of_another_encoder_do_not_load(small_vit):
    with pytest.raises(CheckpointError, match=r"patch_embed.*sam\.encoder"):
        build_sam(small_vit, weights.fetch("mobile_sam"))


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint", b"\x80\x02K\x01."])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "sam.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"sam\.pt"):
        build_sam(SamConfig(), path)
