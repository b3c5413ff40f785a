"""The segmenter on a real photo: pretrained frozen parts, trained parts as they are at the start of training."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mllmseg.config import ModelConfig, SuperpixelConfig
from mllmseg.errors import DataError
from mllmseg.inference import generation
from mllmseg.inference.answers import denies
from mllmseg.inference.generation import DecisionProcessor
from mllmseg.inference.pretrained import embedded_checkpoint
from mllmseg.inference.segmenter import Segmenter
from mllmseg.inference.serialize import to_json
from mllmseg.models.build import build_model
from mllmseg.models.head import maximise_expected_iou
from mllmseg.models.postprocess import decode_rle
from mllmseg.structures import Segmentation, Turn

pytestmark = pytest.mark.weights

PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"
# Float32 sums in another order through 30 layers, and the calibration below multiplies what is left by some hundred.
TOLERANCE = 5e-4
QUERIES = ["the red saucer", "where is the spoon?", "a purple elephant on the left of the espresso cup"]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    # A coarse grid of points: what is tested here does not depend on good superpixels.
    model = build_model(ModelConfig(superpixels=SuperpixelConfig(points_per_side=6)))
    made = Segmenter(model.eval())
    made.set_image(PHOTO)
    with torch.no_grad():
        # At its start the head finds everything alike. Drawn apart and centred, questions differ in all they lead to:
        # about half of the regions belong to a target, and P(it exists) spreads around one half.
        for name, parameter in model.mllm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        made.set_features(made.features)
        chosen = torch.cat([item.superpixel_scores for item in made.segment(QUERIES, threshold=0.0)])
        model.head.score.bias -= chosen.logit().median()
        evidence = torch.tensor([item.score for item in made.segment(QUERIES)]).logit()
        model.head.calibration.copy_(torch.tensor([1.0, -float(evidence.mean())]) / evidence.std())
    made.set_image(PHOTO)
    return made


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assert_same(one: Segmentation, other: Segmentation, *, tolerance: float = 0.0) -> None:
    assert (one.query, one.answer, one.exists) == (other.query, other.answer, other.exists)
    assert one.score == pytest.approx(other.score, abs=tolerance)
    torch.testing.assert_close(one.superpixel_scores, other.superpixel_scores, atol=tolerance, rtol=0)
    differing = (one.masks != other.masks).float().mean() if len(one.masks) else torch.tensor(0.0)
    assert differing <= tolerance


def test_a_segmentation_is_complete(segmenter: Segmenter) -> None:
    found = segmenter.segment("the red saucer", threshold=0.0)
    height, width = Image.open(PHOTO).size[::-1]
    count = len(segmenter.features.superpixels)
    assert found.exists
    assert found.masks.shape == (1, height, width)
    assert found.masks.dtype == torch.bool
    assert found.masks.any()
    assert found.boxes.shape == (1, 4)
    assert found.mask_scores.shape == (1,)
    assert found.superpixel_scores.shape == (1, count)
    assert found.num_visual_tokens == count
    assert "the red saucer" in found.answer
    stages = {"read", "preprocess", "image_encoder", "superpixels", "vision_tower", "project", "prefix"}
    assert found.timings.keys() == stages | {"language_model", "mask_decoder", "postprocess"}


def test_the_same_question_gets_the_same_answer_whatever_was_asked_between(segmenter: Segmenter) -> None:
    before = segmenter.segment(QUERIES[0], threshold=0.0)
    segmenter.segment(QUERIES, threshold=0.0)
    segmenter.chat([user("the spoon")], max_new_tokens=3)
    assert_same(segmenter.segment(QUERIES[0], threshold=0.0), before)


@pytest.mark.parametrize("packed_tokens", [512, 30])
def test_a_batch_is_its_queries_one_by_one(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, packed_tokens: int
) -> None:
    monkeypatch.setattr("mllmseg.inference.scene.MAX_PACKED_TOKENS", packed_tokens)
    monkeypatch.setattr("mllmseg.inference.scene.MASKS_PER_BATCH", 2)
    scores = [segmenter.segment(query).score for query in QUERIES]
    threshold = sum(sorted(scores)[:2]) / 2  # the least probable of the three does not exist
    batch = segmenter.segment(QUERIES, threshold=threshold)
    assert sum(item.exists for item in batch) == 2
    for query, item in zip(QUERIES, batch, strict=True):
        assert_same(item, segmenter.segment(query, threshold=threshold), tolerance=TOLERANCE)


def test_the_cached_prefix_changes_nothing(segmenter: Segmenter) -> None:
    """Against the forward pass of training, which reads prefix and branches in one go."""
    model = segmenter.model
    branches = [[Turn(query, "[SEG]")] for query in QUERIES]
    text = segmenter.encoder.encode(branches, len(segmenter.features.superpixels))
    with torch.no_grad():
        expected = model([segmenter.features], [model.project(segmenter.features)], [text]).images[0]
    found = segmenter.segment(QUERIES, threshold=0.0)
    probability = model.head.probability(expected.exist_logits)
    torch.testing.assert_close(torch.tensor([item.score for item in found]), probability, atol=TOLERANCE, rtol=0)
    scores = torch.cat([item.superpixel_scores for item in found])
    logits = maximise_expected_iou(expected.head.superpixel_logits, segmenter.features.superpixels.areas)
    torch.testing.assert_close(scores, logits.sigmoid(), atol=TOLERANCE, rtol=0)


def test_a_second_question_repeats_no_image_stage(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("an image stage ran again")

    for owner, name in [
        (segmenter.model, "encode_image"),
        (segmenter.model, "project"),
        (segmenter.model, "describe"),
        (segmenter.encoder, "prefix"),
    ]:
        monkeypatch.setattr(owner, name, refuse)
    assert segmenter.segment("the spoon", threshold=0.0).masks.any()


def test_the_threshold_decides(segmenter: Segmenter) -> None:
    found = segmenter.segment(QUERIES, threshold=0.0)
    missing = segmenter.segment(QUERIES, threshold=1.01)
    for yes, no in zip(found, missing, strict=True):
        assert yes.exists
        assert yes.masks.flatten(1).any(1).all()
        assert not no.exists
        assert no.masks.shape == (0, *yes.masks.shape[1:])
        assert len(no.boxes) == len(no.mask_scores) == len(no.superpixel_scores) == 0
        assert not no.union.any()
        assert yes.answer != no.answer
        assert yes.score == no.score
    exact = segmenter.segment(QUERIES[0]).score
    assert segmenter.segment(QUERIES[0], threshold=exact).exists  # reaching it is enough


def test_an_empty_mask_falls_back_to_the_best_superpixel(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        segmenter.model,
        "decode",
        lambda features, head, decode_masks: (torch.full((1, 256, 256), -9.0), torch.tensor([0.5])),
    )
    found = segmenter.segment("the spoon", threshold=0.0)
    region = segmenter.features.superpixels.label_map == int(found.superpixel_scores[0].argmax())
    assert found.masks.any()
    share = float(region.float().mean())
    assert float(found.masks.float().mean()) == pytest.approx(share, abs=0.05 + 0.2 * share)


def test_features_stand_in_for_the_image(segmenter: Segmenter) -> None:
    other = segmenter.fork()
    with pytest.raises(DataError, match="set_image"):
        other.segment("the spoon")
    features = segmenter.features
    half = replace(features, image_embeddings=features.image_embeddings.half())  # as a cache stores them
    other.set_features(half)
    assert other.image is None
    assert_same(other.segment(QUERIES[0]), segmenter.segment(QUERIES[0]), tolerance=0.02)


def test_any_kind_of_picture_is_taken(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    features = segmenter.features

    def encode(inputs: object, clock: object) -> object:
        seen.append(inputs)
        return features

    other = segmenter.fork()
    monkeypatch.setattr(segmenter.model, "encode_image", encode)
    photo = Image.open(PHOTO)
    png = io.BytesIO()
    photo.convert("LA").save(png, format="PNG")
    for picture in (photo.convert("L"), photo.convert("RGBA"), np.array(photo), png.getvalue(), str(PHOTO)):
        other.set_image(picture)
        assert other.image is not None
        assert other.image.mode == "RGB"
        assert other.image.size == photo.size
        assert seen[-1].sam_pixels.shape == (3, 1024, 1024)


def test_the_model_stays_in_the_mode_it_was_in(segmenter: Segmenter) -> None:
    expected = segmenter.segment(QUERIES[0])
    segmenter.model.train()
    try:
        found = segmenter.segment(QUERIES[0])
        assert segmenter.model.training
    finally:
        segmenter.model.eval()
    assert_same(found, expected)  # no dropout was at work


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("the [SEG] dog", r"\[SEG\]"),
        ("what is [IMG]?", r"\[IMG\]"),
        ("\udcff", "not valid text"),
        ("dog " * 9000, "tokens"),
    ],
)
def test_impossible_questions_are_refused(segmenter: Segmenter, question: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        segmenter.segment(["a cat", question])
    with pytest.raises(DataError, match=message):
        segmenter.chat([user(question)])


def test_no_question_no_answer(segmenter: Segmenter) -> None:
    assert segmenter.segment([]) == []


def test_json_is_plain_and_faithful(segmenter: Segmenter) -> None:
    found = segmenter.segment("der “rote” Löffel", threshold=0.0)
    item = json.loads(json.dumps(to_json(found, "coffee.jpg")))
    assert list(item) == [
        "image", "query", "answer", "exists", "score", "masks", "image_size", "num_visual_tokens", "timings_ms",
    ]  # fmt: skip
    assert item["query"] == "der “rote” Löffel"
    (mask,) = item["masks"]
    assert set(mask) == {"rle", "box", "area", "score"}
    assert torch.equal(decode_rle(mask["rle"]), found.masks[0])
    assert mask["area"] == int(found.masks.sum())
    assert item["image_size"] == list(found.masks.shape[1:])
    assert to_json(segmenter.segment("x", threshold=1.01), "")["masks"] == []


def test_a_referring_question_is_decided_by_the_calibrated_probability(segmenter: Segmenter) -> None:
    found = segmenter.chat([user("the red saucer")], threshold=0.0, max_new_tokens=4)
    missing = segmenter.chat([user("the red saucer")], threshold=1.01, max_new_tokens=4)
    scored = segmenter.segment("the red saucer", threshold=0.0)
    assert (found.exists, len(found.masks)) == (True, 1)
    assert (missing.exists, len(missing.masks)) == (False, 0)
    assert found.score == missing.score == pytest.approx(scored.score, abs=TOLERANCE)
    # Both modes prompt SAM with the hidden state of the same [SEG].
    torch.testing.assert_close(found.superpixel_scores, scored.superpixel_scores, atol=TOLERANCE, rtol=0)
    for item in (found, missing):
        assert item.answer
        assert "[" not in item.answer


def test_a_question_about_something_else_is_just_answered(segmenter: Segmenter) -> None:
    found = segmenter.chat([user("What is the capital of France?")], max_new_tokens=10)
    assert "Paris" in found.answer
    assert (found.exists, found.score, len(found.masks)) == (False, 0.0, 0)


@pytest.mark.parametrize("tail", ["<|im_end|>", ""])
def test_every_seg_gets_a_mask_from_its_own_hidden_state(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, tail: str
) -> None:
    """Against one pass over the finished conversation; also where [SEG] is the last token, which nothing reads."""
    script = segmenter.model.mllm.tokenizer("[SEG] the saucer and[SEG]" + tail)["input_ids"]

    def dictate(self: DecisionProcessor, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.probabilities.append(0.75)
        scores = torch.full_like(scores, -torch.inf)
        scores[:, script[input_ids.shape[1] - self.prompt_length]] = 0.0
        return scores

    seen = []
    real = generation.generate

    def spy(*args: object, **kwargs: object) -> object:
        seen.append(real(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(DecisionProcessor, "__call__", dictate)
    monkeypatch.setattr("mllmseg.inference.segmenter.generate", spy)
    messages = [
        user("the cup"),
        {"role": "assistant", "content": "There is none.", "exists": False},
        user("the saucer and the spoon"),
    ]
    first = segmenter.chat(messages[-1:], max_new_tokens=len(script))
    assert first.masks.shape[0] == 2
    seen.clear()
    found = segmenter.chat(messages, max_new_tokens=len(script))
    assert found.masks.shape[0] == 1  # after others, that of the question alone
    assert found.answer == "the saucer and"
    turns = [Turn("the cup", "[REJ] There is none."), Turn("the saucer and the spoon", "[SEG] the saucer and[SEG]")]
    text = segmenter.encoder.encode([turns], found.num_visual_tokens)
    with torch.no_grad():
        hidden = _hidden(segmenter, text)
    torch.testing.assert_close(seen[0].seg_hidden_states, hidden[text.seg_positions], atol=2e-3, rtol=1e-3)
    # The same words as in training, too, although here they are found without branches.
    words = segmenter.model.words(text.input_ids, text.branch_ids, text.seg_positions[-2:])
    assert seen[0].words.mask.equal(words.mask)
    assert seen[0].words.embeddings[words.mask].equal(words.embeddings[words.mask])


def _hidden(segmenter: Segmenter, text: object) -> torch.Tensor:
    from mllmseg.models.mllm import branch_attention_mask

    tokens = segmenter.model.project(segmenter.features).tokens
    hidden, _ = segmenter.model.mllm(
        text.input_ids[None],
        visual_tokens=tokens,
        attention_mask=branch_attention_mask([text]),
        position_ids=text.position_ids[None],
    )
    return hidden[0]


@pytest.mark.parametrize(
    ("said", "top", "probability", "expected"),
    [
        ([], "[SEG]", 0.9, "[SEG]"),
        ([], "[SEG]", 0.1, "[REJ]"),  # the calibrated decision stands in for the language model's
        ([], "[REJ]", 0.9, "[SEG]"),
        ([], "dog", 0.9, "dog"),
        (["[SEG]", "dog"], "[SEG]", 0.9, "[SEG]"),
        (["[SEG]", "dog"], "[REJ]", 0.1, "dog"),  # never a rejection beside a mask
        (["[REJ]", "dog"], "[SEG]", 0.9, "dog"),  # never a mask beside a rejection
        ([], "[IMG]", 0.9, "dog"),
        ([], "<|im_end|>", 0.9, "[SEG]"),  # an empty answer would tell nothing
        (["dog"], "<|im_end|>", 0.9, "<|im_end|>"),
    ],
)
def test_an_answer_never_holds_a_mask_and_a_rejection(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, said: list[str], top: str, probability: float, expected: str
) -> None:
    tokenizer = segmenter.model.mllm.tokenizer
    words = {"dog": tokenizer(" dog")["input_ids"][0]}

    def number(token: str) -> int:
        return words.get(token) or tokenizer.convert_tokens_to_ids(token)

    processor = DecisionProcessor(
        segmenter.model,
        segmenter._scene.regions,
        generation.HiddenTape(),
        prefix_length=1,
        prompt_length=2,
        threshold=0.5,
        decide=False,
        stops=[tokenizer.eos_token_id],
    )
    monkeypatch.setattr(processor, "_probability", lambda input_ids: probability)
    scores = torch.zeros(1, len(tokenizer))
    scores[0, number("dog")] = 1.0
    scores[0, number(top)] = 2.0
    ids = torch.tensor([[1, 2, *(number(token) for token in said)]])
    assert int(processor(ids, scores).argmax()) == number(expected)


@pytest.mark.parametrize("history", ["I see no elephant here.", "No elephant can be seen."])
def test_words_follow_the_decision_whatever_earlier_answers_said(segmenter: Segmenter, history: str) -> None:
    for threshold, exists in ((0.0, True), (1.0, False)):
        found = segmenter.chat(
            [
                {"role": "user", "content": "the elephant"},
                {"role": "assistant", "content": history, "exists": False},
                {"role": "user", "content": "the cup"},
            ],
            threshold=threshold,
        )
        assert found.exists is exists
        assert denies(found.answer, "the cup") is not exists


def test_what_was_said_before_does_not_decide(segmenter: Segmenter) -> None:
    before = [
        {"role": "user", "content": "the elephant"},
        {"role": "assistant", "content": "I see no elephant here.", "exists": False},
    ]
    for question in ("the cup", "the elephant", "find a dog"):  # such a question has to be decided
        alone = segmenter.segment(question)
        followed = segmenter.chat([*before, {"role": "user", "content": question}])
        assert torch.equal(followed.union, alone.union)
        assert followed.score == pytest.approx(alone.score, abs=1e-3)


def test_a_threshold_is_a_number(segmenter: Segmenter) -> None:
    threshold = float("nan")
    with pytest.raises(DataError, match="the threshold is"):
        segmenter.segment("the cup", threshold=threshold)
    with pytest.raises(DataError, match="the threshold is"):
        segmenter.chat([{"role": "user", "content": "the cup"}], threshold=threshold)


def test_an_answer_has_at_least_one_token(segmenter: Segmenter) -> None:
    with pytest.raises(DataError, match="max_new_tokens is 0"):
        segmenter.chat([{"role": "user", "content": "the cup"}], max_new_tokens=0)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "ends with a question"),
        ([{"role": "system", "content": "x"}], "expected role 'user'"),
        ([user("a"), user("b")], "expected role 'assistant'"),
        ([user("a"), {"role": "assistant", "content": "b"}], "ends with a question"),
        ([{"role": "user", "content": [{"type": "text"}]}], "list"),
    ],
)
def test_malformed_chats_are_refused(segmenter: Segmenter, messages: list[dict[str, object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        segmenter.chat(messages)


@pytest.mark.slow
@pytest.mark.skipif(not embedded_checkpoint().is_dir(), reason="no trained parameters in this checkout yet")
def test_the_embedded_model_tells_what_is_there_from_what_is_not() -> None:
    segmenter = Segmenter.from_pretrained(device="cpu")
    segmenter.set_image(PHOTO.with_name("astronaut.jpg"))
    person, giraffe = segmenter.segment(["the person", "the giraffe"])
    assert person.exists
    assert person.masks[0, 100:400, 150:300].float().mean() > 0.8  # her head and suit
    assert not giraffe.exists
