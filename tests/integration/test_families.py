"""Every family of language models, as a tiny random twin of its real class, through the whole of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from mllmseg.config import LossConfig, ModelConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.data.transforms import preprocess
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models import build
from mllmseg.models.checkpoint import save_checkpoint, trained_state
from mllmseg.models.mllm import branch_attention_mask
from mllmseg.models.mllmseg import MLLMSeg, ModelOutput
from mllmseg.structures import ImageFeatures, Turn
from mllmseg.train.batch import Targets
from mllmseg.train.steps import instruct_loss

# Float32 sums in another order through two layers of width 32 and the head.
TOLERANCE = 1e-4
BRANCHES = [
    [Turn("the circle?", "[SEG] Here."), Turn("and the square?", "[SEG] Here it is.")],
    [Turn("a dog?", "[REJ] No.")],
    [Turn("Describe it.", "Two shapes on grey.")],
]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    canvas = Image.new("RGB", (128, 96), (90, 90, 90))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((6, 10, 36, 50), fill=(200, 40, 40))
    draw.ellipse((52, 12, 90, 52), fill=(40, 60, 210))
    return canvas


@pytest.fixture(scope="module")
def seen(
    tiny_config: ModelConfig, picture: Image.Image, make_features: Callable[..., ImageFeatures], one_sam: None
) -> ImageFeatures:
    """What the frozen stages say of the picture, with a random DINOv2; superpixels that a random SAM would not find."""
    stack = build.build_vision_stack(tiny_config)
    found = stack.encode_image(preprocess(picture, **stack.tower_input))
    return replace(found, superpixels=make_features(4).superpixels)


@pytest.fixture(scope="module")
def model(family_config: ModelConfig, one_sam: None) -> MLLMSeg:
    torch.manual_seed(0)
    model = build.build_model(family_config).eval()
    generator = torch.Generator().manual_seed(1)
    for tensor in trained_state(model).values():  # as after training: nothing is where it starts
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)
    return model


@pytest.fixture(scope="module")
def segmenter(model: MLLMSeg, picture: Image.Image, seen: ImageFeatures) -> Segmenter:
    segmenter = Segmenter(model)
    if model.config.vision_tower.name == "host":
        pixels = preprocess(picture, **model.vision.tower_input).tower_pixels
        seen = replace(seen, patch_features=model.vision.vision_tower.encode(pixels[None])[0])
    segmenter.set_features(seen)
    return segmenter


@torch.no_grad()
def read(model: MLLMSeg, features: ImageFeatures, branches: list[list[Turn]]) -> ModelOutput:
    encoder = ConversationEncoder(model.mllm.tokenizer, "Be brief.")
    visual = model.project(features)
    return model([features], [visual], [encoder.encode(branches, len(visual.tokens))])


def test_a_packed_branch_reads_as_if_it_were_alone(model: MLLMSeg, segmenter: Segmenter) -> None:
    together = read(model, segmenter.features, BRANCHES)
    alone = [read(model, segmenter.features, [branch]) for branch in BRANCHES]
    options = {"atol": TOLERANCE, "rtol": 0}
    torch.testing.assert_close(together.text_logits, torch.cat([item.text_logits for item in alone]), **options)
    exists = torch.cat([item.images[0].exist_logits for item in alone])
    torch.testing.assert_close(together.images[0].exist_logits, exists, **options)
    # and it does see the picture
    other = segmenter.features.patch_features.flip(-1) + 1
    features = ImageFeatures(None, segmenter.features.superpixels, other, (768, 1024), (96, 128))
    assert (read(model, features, BRANCHES).text_logits - together.text_logits).abs().max() > 10 * TOLERANCE


@torch.no_grad()
def test_a_cached_prefix_changes_nothing(model: MLLMSeg, segmenter: Segmenter) -> None:
    encoder, tokens = segmenter.encoder, model.project(segmenter.features)
    whole = encoder.encode(BRANCHES, len(tokens.tokens))
    rest = encoder.encode(BRANCHES, len(tokens.tokens), with_prefix=False)
    expected, _ = model.mllm(
        whole.input_ids[None],
        visual_tokens=tokens.embeddings,
        attention_mask=branch_attention_mask([whole]),
        position_ids=whole.position_ids[None],
    )
    found, _ = model.mllm(
        rest.input_ids[None],
        visual_tokens=None,
        attention_mask=branch_attention_mask([rest], cached=rest.prefix_length),
        position_ids=rest.position_ids[None],
        past_key_values=segmenter._scene.copy_cache(),  # type: ignore[union-attr]
    )
    torch.testing.assert_close(found, expected[:, rest.prefix_length :], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_it_generates_what_its_logits_say(model: MLLMSeg, segmenter: Segmenter) -> None:
    """Greedy decoding over the cached prefix by transformers, and by reading the whole text again for each token."""
    mllm, tokens, answer = model.mllm, model.project(segmenter.features), []
    text = segmenter.encoder.encode([[Turn("Describe it.", "")]], len(tokens.tokens))
    for _ in range(5):
        ids = torch.cat([text.input_ids, torch.tensor(answer, dtype=torch.int64)])
        hidden, _ = mllm(
            ids[None],
            visual_tokens=tokens.embeddings,
            attention_mask=torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool).tril(),
            position_ids=torch.arange(len(ids))[None],
        )
        logits = mllm.logits(hidden[0, -1])
        logits[mllm.new_token_ids] = -torch.inf
        answer.append(int(logits.argmax()))
    generated = mllm.causal_lm.generate(
        input_ids=text.input_ids[None],
        attention_mask=torch.ones_like(text.input_ids)[None],
        past_key_values=segmenter._scene.copy_cache(),  # type: ignore[union-attr]
        suppress_tokens=mllm.new_token_ids,
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
    )
    assert generated[0, len(text.input_ids) :].tolist() == answer
    found = segmenter.chat([{"role": "user", "content": "Where is the circle?"}], max_new_tokens=6)
    assert found.exists == (found.score >= segmenter.threshold)


def test_every_trained_part_gets_a_gradient_and_the_loss_falls(model: MLLMSeg, segmenter: Segmenter) -> None:
    model, features = copy.deepcopy(model).train(), segmenter.features
    grid = features.superpixels.label_map.shape
    masks = torch.zeros(2, *grid, dtype=torch.bool)
    masks[0, :, : grid[1] // 2] = True
    masks[1] = ~masks[0]
    targets = Targets(masks, torch.tensor([True, True, False]))
    encoder = ConversationEncoder(model.mllm.tokenizer, "Be brief.")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=3e-3), []
    for _ in range(10):
        visual = model.project(features)
        text = encoder.encode(BRANCHES, len(visual.tokens))
        # No masks: a random SAM's are noise.
        terms = instruct_loss(model, [features], [visual], [text], [targets], [torch.zeros(0, dtype=torch.int64)])
        loss = terms.total(LossConfig().model_dump(), terms.counts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    grads = {name: item.grad for name, item in model.named_parameters() if item.grad is not None}
    assert {name.split(".")[0] for name, grad in grads.items() if grad.any()} == {"projector", "mllm", "head"}
    assert all("lora_" in name or "trainable_tokens" in name for name in grads if name.startswith("mllm."))


def test_it_is_saved_and_loaded(model: MLLMSeg, segmenter: Segmenter, tmp_path: Path) -> None:
    """With LoRA merged, as every user loads it."""
    save_checkpoint(model, tmp_path / "saved", training={})
    loaded = Segmenter.from_pretrained(tmp_path / "saved", device="cpu", dtype="float32")
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())
    expected, found = (read(item, segmenter.features, BRANCHES) for item in (model, loaded.model))
    torch.testing.assert_close(found.text_logits, expected.text_logits, atol=TOLERANCE, rtol=0)
    loaded.set_features(segmenter.features)
    one, other = (item.segment("the circle", threshold=0) for item in (segmenter, loaded))
    assert abs(one.score - other.score) < TOLERANCE
    assert one.masks.shape == other.masks.shape == (1, 96, 128)
    # A pixel whose logit is all but zero may fall to either side.
    assert (one.masks != other.masks).float().mean() < 1e-3


def test_the_vision_stack_alone_sees_the_same(
    family_config: ModelConfig, segmenter: Segmenter, picture: Image.Image
) -> None:
    """It fills the feature cache, where the language model is not held."""
    if family_config.vision_tower.name != "host":
        pytest.skip("its tower is random here")
    stack = build.build_vision_stack(family_config)
    assert not any("embed_tokens" in name for name, _ in stack.named_parameters())
    features = stack.encode_image(preprocess(picture, **stack.tower_input))
    assert features.patch_features.equal(segmenter.features.patch_features)
