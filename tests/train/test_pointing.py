"""What the head needs from the language model, written down and read back: nothing is lost but half the precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from mllmseg.config import LossConfig, ModelConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.models.build import build_model
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.structures import ImageFeatures, PackedText, Turn, VisualTokens
from mllmseg.train.batch import SuperpixelLabels, Targets
from mllmseg.train.pointing import Recording, record, replay
from mllmseg.train.steps import Terms, lexicon_loss, loss_weights, point_loss, refine_loss

# Hidden states of about 1 in float16 (2^-11), through the head.
TOLERANCE = 5e-3
BRANCHES = [[Turn("the cat", "[SEG]")], [Turn("a dog in the corner", "[REJ]")], [Turn("its tail", "[SEG]")]]
EXISTS = torch.tensor([True, False, True])
NAMES = ("cat", "dog")


def named(config: ModelConfig) -> ModelConfig:
    return config.model_copy(update={"head": config.head.model_copy(update={"vocabulary": NAMES})})


@pytest.fixture(scope="module")
def model(tiny_config: ModelConfig, randomise_lora: Callable[[MLLMSeg], None]) -> MLLMSeg:
    torch.manual_seed(0)
    model = build_model(named(tiny_config)).eval()
    randomise_lora(model)
    torch.nn.init.normal_(model.head.modulate.weight, std=0.1)  # zero at the start
    return model


@pytest.fixture(scope="module")
def features(make_features: Callable[..., ImageFeatures]) -> ImageFeatures:
    return make_features(5, seed=1)


def targets(exists: torch.Tensor = EXISTS) -> Targets:
    masks = torch.zeros(int(exists.sum()), 192, 256, dtype=torch.bool)
    for number, mask in enumerate(masks, start=1):
        mask[7:, : 37 * number] = True  # no multiple of eight anywhere
    return Targets(masks, exists)


def read(model: MLLMSeg, features: ImageFeatures, branches: list[list[Turn]]) -> tuple[VisualTokens, PackedText]:
    encoder = ConversationEncoder(model.mllm.tokenizer, "Be brief.")
    with torch.no_grad():
        tokens = model.project(features)
    return tokens, encoder.encode(branches, len(tokens.tokens))


def recording_of(
    model: MLLMSeg,
    features: ImageFeatures,
    branches: list[list[Turn]] = BRANCHES,
    exists: torch.Tensor = EXISTS,
    names: str = "a-b?a",
) -> Recording:
    """`names` has a letter per superpixel: one of two names, `-` for none, `?` where nothing is known."""
    superpixels = len(features.superpixels)
    labels = SuperpixelLabels(
        torch.tensor([[letter == name for name in "ab"] for letter in names[:superpixels]]),
        torch.tensor([[letter == "?"] * 2 for letter in names[:superpixels]]),
    )
    return record(model, features, *read(model, features, branches), targets(exists), labels, flipped=True)


@pytest.mark.parametrize(
    ("branches", "exists"),
    [(BRANCHES, EXISTS), ([BRANCHES[1]], EXISTS[1:2]), ([], EXISTS[:0])],
    ids=["questions", "a rejection", "nothing"],
)
def test_round_trip(
    model: MLLMSeg, features: ImageFeatures, tmp_path: Path, branches: list[list[Turn]], exists: torch.Tensor
) -> None:
    recording = recording_of(model, features, branches, exists)
    recording.save(tmp_path / "1-0.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["1-0.safetensors"]
    loaded = Recording.load(tmp_path / "1-0.safetensors")
    for item in fields(Recording):
        found, expected = getattr(loaded, item.name), getattr(recording, item.name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), item.name
        assert found.equal(expected), item.name
    assert loaded.flipped
    assert loaded.seg_hidden.dtype == loaded.visual_hidden.dtype == torch.float16


def test_masks_are_stored_as_bits(model: MLLMSeg, features: ImageFeatures, tmp_path: Path) -> None:
    recording_of(model, features).save(tmp_path / "r.safetensors")
    assert (tmp_path / "r.safetensors").stat().st_size < 2 * 192 * 256 / 8 + 20_000


@torch.no_grad()
def test_a_replay_is_the_forward_pass(model: MLLMSeg, features: ImageFeatures, tmp_path: Path) -> None:
    tokens, text = read(model, features, BRANCHES)
    expected = model([features], [tokens], [text]).images[0]
    recording_of(model, features).save(tmp_path / "r.safetensors")
    found, lexicon = replay(model, Recording.load(tmp_path / "r.safetensors"))
    options = {"atol": TOLERANCE, "rtol": TOLERANCE}
    torch.testing.assert_close(found.exist_logits, expected.exist_logits, **options)
    torch.testing.assert_close(found.decision_superpixel_logits, expected.decision_superpixel_logits, **options)
    torch.testing.assert_close(found.head.superpixel_logits, expected.head.superpixel_logits, **options)
    torch.testing.assert_close(found.head.prompt_embeddings, expected.head.prompt_embeddings, **options)
    # The questions differ by far more than that.
    assert (expected.head.superpixel_logits[0] - expected.head.superpixel_logits[1]).abs().max() > 10 * TOLERANCE
    assert lexicon.shape == (5, 32)
    torch.testing.assert_close(lexicon.norm(dim=-1), torch.ones(5))


def means(terms: Terms) -> dict[str, float]:
    return {name: total / count for name, (total, count) in terms.detached().items()}


def total(terms: Terms) -> torch.Tensor:
    return terms.total(loss_weights(LossConfig()), terms.counts)


def loss_of(model: MLLMSeg, photos: list[ImageFeatures]) -> Terms:
    return point_loss(model, [recording_of(model, item) for item in photos])


@pytest.fixture
def photos(features: ImageFeatures, make_features: Callable[..., ImageFeatures]) -> list[ImageFeatures]:
    return [features, make_features(3, seed=2)]


def test_losses_of_every_kind(model: MLLMSeg, photos: list[ImageFeatures]) -> None:
    result = loss_of(model, photos)
    weights, figures = LossConfig(), means(result)
    losses = ("existence", "decision_pointer", "pointer_bce", "pointer_dice")
    expected = sum(getattr(weights, name) * figures[name] for name in losses) + weights.naming * figures["lexicon"]
    assert total(result).item() == pytest.approx(expected, rel=1e-5)
    assert all(0 <= figures[name] <= 1 for name in ("pointer_iou", "seg_recall", "lexicon_accuracy"))


def test_the_lexicon_is_taught_what_each_superpixel_shows(model: MLLMSeg, features: ImageFeatures) -> None:
    recording = recording_of(model, features)
    assert recording.names.nonzero().tolist() == [[0, 0], [2, 1], [4, 0]]
    assert recording.open.nonzero().tolist() == [[3, 0], [3, 1]]
    with torch.no_grad():
        _, lexicon = replay(model, recording)
        expected = lexicon_loss(model.head, [lexicon], [recording.labels])
    assert means(point_loss(model, [recording]))["lexicon"] == pytest.approx(means(expected)["lexicon"])
    silent = recording_of(model, features, names="?????")
    assert "lexicon" not in means(point_loss(model, [silent]))


def refine(model: MLLMSeg, photos: list[ImageFeatures]) -> Terms:
    recordings = [recording_of(model, item) for item in photos]
    return refine_loss(model, photos, recordings, [torch.tensor([0]) for _ in photos])


def test_refining_needs_image_embeddings(model: MLLMSeg, photos: list[ImageFeatures]) -> None:
    with pytest.raises(ValueError, match="no image embeddings"):
        refine(model, [replace(photos[0], image_embeddings=None)])


def test_refining_a_photo_without_targets_costs_nothing(model: MLLMSeg, features: ImageFeatures) -> None:
    recording = recording_of(model, features, [BRANCHES[1]], EXISTS[1:2])
    nothing = torch.zeros(0, dtype=torch.int64)
    assert refine_loss(model, [features], [recording], [nothing]).detached() == {}


def learning(model: MLLMSeg) -> set[str]:
    return {name for name, item in model.named_parameters() if item.grad is not None and item.grad.any()}


def test_gradients_reach_what_each_stage_trains(tiny_config: ModelConfig, photos: list[ImageFeatures]) -> None:
    torch.manual_seed(0)
    model = build_model(named(tiny_config)).train()
    torch.nn.init.normal_(model.head.modulate.weight, std=0.1)  # zero at the start
    head = {name for name, _ in model.named_parameters() if name.startswith("head.")}
    prompt = {name for name in head if name.startswith(("head.prompt", "head.prior_weight"))}
    total(loss_of(model, photos)).backward()
    assert learning(model) == head - prompt
    model.zero_grad()
    result = refine(model, photos)
    assert set(means(result)) == {"mask_bce", "mask_dice", "mask_iou"}
    total(result).backward()
    assert learning(model) >= prompt
