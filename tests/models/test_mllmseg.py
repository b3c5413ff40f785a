"""The forward pass of training and the decoder both modes share, with random parts and features made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mllmseg.config import HeadConfig, LossConfig, ModelConfig, ProjectorConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.errors import AlignmentError
from mllmseg.models.build import build_model
from mllmseg.models.head import HeadOutput, paint
from mllmseg.models.mllmseg import MLLMSeg, ModelOutput
from mllmseg.structures import ImageFeatures, PackedText, Turn
from mllmseg.train.batch import Targets
from mllmseg.train.steps import instruct_loss

# Float32 sums in another order through the language model and the head.
TOLERANCE = 1e-4
FIRST = [
    [Turn("the cat?", "[SEG] Here."), Turn("its ears and tail?", "[SEG] and [SEG].")],
    [Turn("a dog?", "[REJ] No.")],
    [Turn("Describe it.", "A cat.")],
]
SECOND = [[Turn("the left half", "[SEG]")]]


def build(config: ModelConfig) -> MLLMSeg:
    torch.manual_seed(0)
    return build_model(config).eval()


@pytest.fixture(scope="module")
def model(tiny_config: ModelConfig, randomise_lora: Callable[[MLLMSeg], None]) -> MLLMSeg:
    model = build(tiny_config)
    randomise_lora(model)
    return model


@pytest.fixture(scope="module")
def features(make_features: Callable[..., ImageFeatures]) -> list[ImageFeatures]:
    return [make_features(5, seed=1), make_features(2, seed=2)]


@torch.no_grad()
def run(model: MLLMSeg, features: list[ImageFeatures], conversations: list[list[list[Turn]]]) -> ModelOutput:
    encoder = ConversationEncoder(model.mllm.tokenizer, model.config.language_model.system_prompt)
    visual = [model.project(item) for item in features]
    texts = [encoder.encode(item, len(tokens.tokens)) for item, tokens in zip(conversations, visual, strict=True)]
    return model(features, visual, texts)


def random_head(count: int, superpixels: int) -> HeadOutput:
    generator = torch.Generator().manual_seed(3)
    return HeadOutput(
        torch.randn(count, superpixels, generator=generator), torch.randn(count, 256, generator=generator)
    )


def test_shapes(model: MLLMSeg, features: list[ImageFeatures]) -> None:
    output = run(model, features, [FIRST, SECOND])
    first, second = output.images
    assert first.head.superpixel_logits.shape == (3, 5)
    assert first.head.prompt_embeddings.shape == (3, 256)
    assert first.exist_logits.shape == (3,)
    assert first.decision_superpixel_logits.shape == (3, 5)
    assert second.head.superpixel_logits.shape == (1, 2)
    assert output.text_logits.shape == (len(output.text_labels), len(model.mllm.tokenizer))
    assert (output.text_labels != -100).all()


def test_a_batch_is_its_images_one_by_one(model: MLLMSeg, features: list[ImageFeatures]) -> None:
    batch = run(model, features, [FIRST, SECOND])
    singles = [run(model, features[:1], [FIRST]), run(model, features[1:], [SECOND])]
    options = {"atol": TOLERANCE, "rtol": 0}
    torch.testing.assert_close(batch.text_logits, torch.cat([item.text_logits for item in singles]), **options)
    assert batch.text_labels.equal(torch.cat([item.text_labels for item in singles]))
    for together, single in zip(batch.images, singles, strict=True):
        alone = single.images[0]
        torch.testing.assert_close(together.exist_logits, alone.exist_logits, **options)
        torch.testing.assert_close(together.head.superpixel_logits, alone.head.superpixel_logits, **options)
        torch.testing.assert_close(together.head.prompt_embeddings, alone.head.prompt_embeddings, **options)


def spelled(model: MLLMSeg, text: PackedText, ends: list[int]) -> list[str]:
    """The words before each place, read back from their embeddings."""
    words = model.words(text.input_ids, text.branch_ids, torch.tensor(ends, dtype=torch.int64))
    assert words.embeddings.dtype == torch.float32
    assert (~words.mask).int().diff(dim=1).ge(0).all(), "padding is on the right"
    table = model.mllm.word_embeddings()
    found = []
    for row, mask in zip(words.embeddings, words.mask, strict=True):
        ids = (row[mask][:, None] == table).all(-1).int().argmax(1)
        found.append(model.mllm.tokenizer.decode(ids))
    return found


def test_words_are_those_of_the_own_branch_before_the_place(model: MLLMSeg) -> None:
    text = ConversationEncoder(model.mllm.tokenizer, "Be brief.").encode(FIRST, 5)
    first = "\nthe cat?<|im_end|>\n<|im_start|>assistant\n"
    second = first + " Here.<|im_end|>\n<|im_start|>user\nits ears and tail?<|im_end|>\n<|im_start|>assistant\n"
    third = "\na dog?<|im_end|>\n<|im_start|>assistant\n"
    # Neither the system prompt nor placeholders, no [SEG] or [REJ], no other branch, nothing that comes later.
    assert spelled(model, text, (text.decision_positions + 1).tolist()) == [first, second, third]
    assert spelled(model, text, text.seg_positions.tolist()) == [first, second, second + " and "]
    assert spelled(model, text, [int(text.decision_positions[-1]) + 1]) == [third], "asked alone"


def test_words_are_the_same_over_a_cached_prefix(model: MLLMSeg) -> None:
    encoder = ConversationEncoder(model.mllm.tokenizer, "Be brief.")
    whole, rest = encoder.encode(FIRST, 5), encoder.encode(FIRST, 5, with_prefix=False)
    expected = model.words(whole.input_ids, whole.branch_ids, whole.seg_positions)
    found = model.words(rest.input_ids, rest.branch_ids, rest.seg_positions)
    assert found.mask.equal(expected.mask)
    assert found.embeddings[found.mask].equal(expected.embeddings[expected.mask])


def test_no_place_has_no_words(model: MLLMSeg) -> None:
    text = ConversationEncoder(model.mllm.tokenizer, "").encode([FIRST[2]], 5)
    words = model.words(text.input_ids, text.branch_ids, text.seg_positions)
    assert len(words.embeddings) == len(words.mask) == 0


def test_words_are_what_the_language_model_was_trained_on(model: MLLMSeg) -> None:
    """Frozen embeddings: the head cannot bend them, nor can what it learns depend on [SEG]'s own row."""
    text = ConversationEncoder(model.mllm.tokenizer, "").encode(FIRST, 5)
    assert not model.words(text.input_ids, text.branch_ids, text.seg_positions).embeddings.requires_grad


def test_questions_in_one_text_are_those_questions_one_by_one(model: MLLMSeg, features: list[ImageFeatures]) -> None:
    """Short ones beside a long one, whose padding and words must not reach them."""
    branches = [FIRST[1], [Turn("the one that stands to the left of the old lamp", "[SEG] Here.")], SECOND[0]]
    together = run(model, features[:1], [branches]).images[0]
    alone = [run(model, features[:1], [[branch]]).images[0] for branch in branches]
    options = {"atol": TOLERANCE, "rtol": 0}
    for name in ("exist_logits", "decision_superpixel_logits"):
        torch.testing.assert_close(
            getattr(together, name), torch.cat([getattr(item, name) for item in alone]), **options
        )
    for name in ("superpixel_logits", "prompt_embeddings"):
        singles = torch.cat([getattr(item.head, name) for item in alone])
        torch.testing.assert_close(getattr(together.head, name), singles, **options)


def test_a_text_for_another_image_is_refused(model: MLLMSeg, features: list[ImageFeatures]) -> None:
    encoder = ConversationEncoder(model.mllm.tokenizer, "")
    with pytest.raises(AlignmentError, match="4 image placeholders in the text but 5 visual tokens"):
        model(features[:1], [model.project(features[0])], [encoder.encode(SECOND, 4)])


@pytest.mark.parametrize("name", ["mlp", "average", "resampler"])
def test_every_projector_fits(tiny_config: ModelConfig, features: list[ImageFeatures], name: str) -> None:
    projector = ProjectorConfig(name=name, hidden_size=32, num_heads=4, num_tokens=4)
    output = run(build(tiny_config.model_copy(update={"projector": projector})), features, [FIRST, SECOND])
    assert [item.head.superpixel_logits.shape for item in output.images] == [(3, 5), (1, 2)]


def test_a_conversation_without_decisions_or_answers(model: MLLMSeg, features: list[ImageFeatures]) -> None:
    for conversations in ([FIRST[2]], []):
        output = run(model, features[:1], [conversations])
        assert output.images[0].head.superpixel_logits.shape == (0, 5)
        assert output.images[0].exist_logits.shape == (0,)
        assert len(output.text_logits) == len(output.text_labels)
        assert bool(len(output.text_labels)) == bool(conversations)


def test_half_precision_frozen_weights_need_no_autocast(
    tiny_config: ModelConfig, features: list[ImageFeatures]
) -> None:
    model = build(tiny_config)
    expected = run(model, features, [FIRST, SECOND])
    for parameter in model.mllm.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    found = run(model, features, [FIRST, SECOND])
    for one, other in zip(found.images, expected.images, strict=True):
        assert one.exist_logits.dtype == one.head.prompt_embeddings.dtype == torch.float32
        # Eight bits of precision through two layers.
        torch.testing.assert_close(one.exist_logits, other.exist_logits, atol=0.05, rtol=0)


@torch.no_grad()
def test_decode_adds_the_painted_pointer_to_sams_correction(model: MLLMSeg, features: list[ImageFeatures]) -> None:
    head = random_head(2, 5)
    masks, scores = model.decode(features[0], head)
    assert masks.shape == (2, 256, 256)
    assert scores.shape == (2,)
    prior = paint(head.superpixel_logits, features[0].superpixels.label_map, 256)
    correction, _ = model.vision.sam.decode_masks(
        features[0].image_embeddings, head.prompt_embeddings[:, None], model.vision.sam.embed_mask_prompt(prior)
    )
    torch.testing.assert_close(masks, (correction + model.head.prior_weight * prior)[:, 0], atol=TOLERANCE, rtol=0)
    for row in range(2):
        alone, _ = model.decode(features[0], head.select(torch.tensor([row])))
        torch.testing.assert_close(alone[0], masks[row], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_without_dense_prior_the_prompt_embedding_alone_decides(
    tiny_config: ModelConfig, features: list[ImageFeatures]
) -> None:
    head = tiny_config.head.model_copy(update={"dense_prior": False})
    model = build(tiny_config.model_copy(update={"head": head}))
    prompts = random_head(1, 5)
    masks, _ = model.decode(features[0], prompts)
    assert masks.equal(model.decode(features[0], replace(prompts, superpixel_logits=-prompts.superpixel_logits))[0])
    moved = replace(prompts, prompt_embeddings=prompts.prompt_embeddings + 1)
    assert not masks.allclose(model.decode(features[0], moved)[0])


def test_decode_needs_image_embeddings(model: MLLMSeg, features: list[ImageFeatures]) -> None:
    with pytest.raises(ValueError, match="no image embeddings"):
        model.decode(replace(features[0], image_embeddings=None), random_head(1, 5))


def step(model: MLLMSeg, features: list[ImageFeatures]) -> dict[str, float]:
    """A step's gradients; returns its figures."""
    model.train()
    encoder = ConversationEncoder(model.mllm.tokenizer, "")
    visual = [model.project(item) for item in features]
    texts = [encoder.encode(FIRST, len(visual[0].tokens)), encoder.encode(SECOND, len(visual[1].tokens))]
    masks = torch.zeros(4, 192, 256, dtype=torch.bool)
    masks[:, :, :100] = True
    targets = [
        Targets(masks[:3], torch.tensor([True, True, False])),
        Targets(masks[3:], torch.tensor([True])),
    ]
    drawn = [torch.zeros(1, dtype=torch.int64)] * 2
    terms = instruct_loss(model, features, visual, texts, targets, drawn)
    terms.total(LossConfig().model_dump(), terms.counts).backward()
    return {name: total / count for name, (total, count) in terms.detached().items()}


@pytest.mark.parametrize(
    "head",
    [HeadConfig(), HeadConfig(pointer=False), HeadConfig(dense_prior=False)],
    ids=["full", "no pointer", "no prior"],
)
def test_the_gradient_reaches_projector_head_and_lora(
    tiny_config: ModelConfig,
    features: list[ImageFeatures],
    randomise_lora: Callable[[MLLMSeg], None],
    head: HeadConfig,
) -> None:
    model = build(tiny_config.model_copy(update={"head": head}))
    randomise_lora(model)
    torch.nn.init.normal_(model.head.modulate.weight, std=0.1)  # zero at the start
    figures = step(model, features)
    assert {"text", "existence", "pointer_bce", "pointer_dice", "mask_bce", "mask_dice"} <= figures.keys()
    idle = {
        name
        for name, item in model.named_parameters()
        if item.requires_grad and (item.grad is None or not item.grad.any())
    }
    uses_prior = head.dense_prior and head.pointer  # without pointer what is painted is 0
    assert idle == (set() if uses_prior else {"head.prior_weight"})
    assert not any(item.grad is not None for item in model.vision.parameters())


def test_the_mask_loss_alone_reaches_the_prompt(tiny_config: ModelConfig, features: list[ImageFeatures]) -> None:
    """Through SAM's frozen decoder."""
    model = build(tiny_config)
    head = random_head(1, 5)
    prompts, logits = head.prompt_embeddings.requires_grad_(), head.superpixel_logits.requires_grad_()
    masks, _ = model.decode(features[0], HeadOutput(logits, prompts))
    masks.square().mean().backward()
    assert prompts.grad is not None
    assert prompts.grad.any()
    assert logits.grad is not None
    assert logits.grad.any()


def test_only_what_is_trained_asks_for_gradients(model: MLLMSeg) -> None:
    trained = {name.split(".")[0] for name, item in model.named_parameters() if item.requires_grad}
    assert trained == {"projector", "mllm", "head"}
    assert not model.train().vision.sam.training
    assert not model.vision.vision_tower.training
    model.eval()
