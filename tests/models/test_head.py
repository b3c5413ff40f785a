"""The [SEG] head: shapes, what depends on what, words, painting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mllmseg.config import HeadConfig
from mllmseg.models.head import (
    CHOICE_MARGIN,
    LEXICON_SHARPNESS,
    MAX_UNLIKENESS,
    PRIOR_LIMIT,
    Regions,
    SegHead,
    maximise_expected_iou,
    paint,
)
from mllmseg.models.head_inputs import Words

LLM, FEATURES, GEOMETRY, WIDTH, VOCABULARY = 24, 6, 5, 16, 3
PLACE = 3  # of the geometry
# Attention sums in another order.
TOLERANCE = 1e-5


def build(**settings: Any) -> SegHead:
    torch.manual_seed(0)
    config = HeadConfig(hidden_size=WIDTH, num_layers=2, num_heads=4, **settings)
    vocabulary = torch.randn(VOCABULARY, LLM)
    head = SegHead(
        config,
        llm_size=LLM,
        feature_size=FEATURES,
        geometry_size=GEOMETRY,
        place_size=PLACE,
        vocabulary=vocabulary,
    )
    for parameter in head.modulate.parameters():  # zero at the start: regions would not depend on the question
        torch.nn.init.normal_(parameter, std=0.1)
    return head.eval()


@pytest.fixture(scope="module")
def head() -> SegHead:
    return build()


@pytest.fixture(scope="module")
def regions() -> Regions:
    generator = torch.Generator().manual_seed(1)
    tokens, lexicon = torch.randn(2, 7, WIDTH, generator=generator)
    # Rivals so weak that no likeness is cut off.
    return Regions(tokens, torch.nn.functional.normalize(lexicon, dim=-1), torch.full((7,), -9.0))


def pick(regions: Regions, rows: Tensor | slice) -> Regions:
    return Regions(regions.tokens[rows], regions.lexicon[rows], regions.rivals[rows])


@pytest.fixture(scope="module")
def hidden() -> Tensor:
    return torch.randn(3, LLM, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def words() -> Words:
    """Questions of two, four and three words."""
    embeddings = torch.randn(3, 4, LLM, generator=torch.Generator().manual_seed(3))
    return Words(embeddings, torch.arange(4) < torch.tensor([2, 4, 3])[:, None])


def question(words: Words, row: int) -> Words:
    """One question without its padding."""
    return Words(words.embeddings[row : row + 1, words.mask[row]], words.mask[row : row + 1, words.mask[row]])


NO_WORDS = Words(torch.zeros(0, 1, LLM), torch.zeros(0, 1, dtype=torch.bool))


def test_regions_use_all_three_views(head: SegHead) -> None:
    views = [torch.randn(7, size) for size in (FEATURES, GEOMETRY, LLM)]
    regions = head.regions(*views)
    assert regions.tokens.shape == regions.lexicon.shape == (7, WIDTH)
    torch.testing.assert_close(regions.lexicon.norm(dim=-1), torch.ones(7))
    for index in range(3):
        changed = list(views)
        changed[index] = torch.randn_like(views[index])
        assert not torch.allclose(head.regions(*changed).tokens, regions.tokens)
        from_features = index == 0
        assert torch.allclose(head.regions(*changed).lexicon, regions.lexicon) != from_features


@torch.no_grad()
def test_shapes(head: SegHead, hidden: Tensor, words: Words, regions: Regions) -> None:
    output = head(hidden, words, regions)
    assert output.superpixel_logits.shape == (3, 7)
    assert output.prompt_embeddings.shape == (3, 256)
    exist_logits, superpixel_logits = head.existence(hidden, words, regions, torch.zeros(3))
    assert exist_logits.shape == (3,)
    assert superpixel_logits.shape == (3, 7)


@pytest.mark.parametrize("training", [False, True])
def test_no_seg_token_at_all(regions: Regions, training: bool) -> None:
    head = build().train(training)
    output = head(torch.zeros(0, LLM), NO_WORDS, regions)
    assert output.superpixel_logits.shape == (0, 7)
    assert output.prompt_embeddings.shape == (0, 256)
    exist_logits, superpixel_logits = head.existence(torch.zeros(0, LLM), NO_WORDS, regions, torch.zeros(0))
    assert exist_logits.shape == (0,)
    assert superpixel_logits.shape == (0, 7)


@torch.no_grad()
def test_a_single_superpixel(head: SegHead, hidden: Tensor, words: Words, regions: Regions) -> None:
    output = head(hidden, words, pick(regions, slice(1)))
    assert output.superpixel_logits.shape == (3, 1)
    assert output.prompt_embeddings.isfinite().all()


@torch.no_grad()
def test_queries_see_neither_each_other_nor_padding(
    head: SegHead, hidden: Tensor, words: Words, regions: Regions
) -> None:
    together = head(hidden, words, regions)
    existence = head.existence(hidden, words, regions, torch.zeros(3))
    for row in range(3):
        alone = head(hidden[row : row + 1], question(words, row), regions)
        options = {"atol": TOLERANCE, "rtol": 0}
        torch.testing.assert_close(alone.superpixel_logits[0], together.superpixel_logits[row], **options)
        torch.testing.assert_close(alone.prompt_embeddings[0], together.prompt_embeddings[row], **options)
        single = head.existence(hidden[row : row + 1], question(words, row), regions, torch.zeros(1))
        torch.testing.assert_close(single[0][0], existence[0][row], **options)


@torch.no_grad()
def test_the_order_of_superpixels_means_nothing(head: SegHead, hidden: Tensor, words: Words, regions: Regions) -> None:
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    plain, shuffled = head(hidden, words, regions), head(hidden, words, pick(regions, order))
    options = {"atol": TOLERANCE, "rtol": 0}
    torch.testing.assert_close(shuffled.superpixel_logits, plain.superpixel_logits[:, order], **options)
    torch.testing.assert_close(shuffled.prompt_embeddings, plain.prompt_embeddings, **options)


@torch.no_grad()
def test_superpixels_see_each_other(head: SegHead, hidden: Tensor, words: Words, regions: Regions) -> None:
    """Else "the leftmost dog" could not compare dogs."""
    changed = Regions(regions.tokens.clone(), regions.lexicon, regions.rivals)
    changed.tokens[6] += 1
    difference = head(hidden, words, changed).superpixel_logits - head(hidden, words, regions).superpixel_logits
    assert difference[:, :6].abs().max() > 1e-3


@torch.no_grad()
def test_what_is_behind_the_padding_does_not_matter(
    head: SegHead, hidden: Tensor, words: Words, regions: Regions
) -> None:
    garbage = words.embeddings.where(words.mask[..., None], 99.0)
    other = head(hidden, Words(garbage, words.mask), regions)
    assert other.superpixel_logits.equal(head(hidden, words, regions).superpixel_logits)


@torch.no_grad()
def test_every_word_of_the_question_counts(head: SegHead, hidden: Tensor, words: Words, regions: Regions) -> None:
    plain, existence = head(hidden, words, regions), head.existence(hidden, words, regions, torch.zeros(3))
    for place in range(4):
        embeddings = words.embeddings.clone()
        embeddings[:, place] += torch.randn(LLM, generator=torch.Generator().manual_seed(place))
        changed = Words(embeddings, words.mask)
        moved = (head(hidden, changed, regions).superpixel_logits - plain.superpixel_logits).abs().amax(1) > TOLERANCE
        assert moved.equal(words.mask[:, place])
        decided = head.existence(hidden, changed, regions, torch.zeros(3))
        assert ((decided[0] - existence[0]).abs() > TOLERANCE).equal(words.mask[:, place])


@torch.no_grad()
def test_the_order_of_words_counts(head: SegHead, hidden: Tensor, words: Words, regions: Regions) -> None:
    """Else "the dog left of the cat" would be "the cat left of the dog"."""
    one = question(words, 1)
    swapped = Words(one.embeddings[:, [1, 0, 2, 3]], one.mask)
    difference = (
        head(hidden[1:2], swapped, regions).superpixel_logits - head(hidden[1:2], one, regions).superpixel_logits
    )
    assert difference.abs().max() > 1e-3


def test_without_the_sentence_nothing_of_it_is_trained() -> None:
    names = {name for name, _ in build(sentence=False).named_parameters()}
    assert names < {name for name, _ in build().named_parameters()}
    assert not any(name.startswith("sentence") for name in names)


def test_left_and_right_can_be_learned_for_places_never_seen() -> None:
    """Two regions that look alike, hidden states that differ by two percent."""
    generator = torch.Generator().manual_seed(4)
    head = build(sentence=True).train()
    common, sides = 5 * torch.randn(LLM, generator=generator), 0.1 * torch.randn(2, LLM, generator=generator)
    spoken, article = torch.randn(2, 1, LLM, generator=generator), torch.randn(1, LLM, generator=generator)
    alike, seen = torch.randn(1, FEATURES, generator=generator), torch.randn(1, LLM, generator=generator)
    questions = Words(torch.stack([torch.cat([article, side]) for side in spoken]), torch.ones(2, 2, dtype=torch.bool))

    def scores() -> tuple[Tensor, Tensor]:
        place = torch.rand(2, GEOMETRY, generator=generator) * 2 - 1
        logits = head(common + sides, questions, head.regions(alike.expand(2, -1), place, seen.expand(2, -1)))
        return logits.superpixel_logits, place[:, 0].argsort()

    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(600):
        logits, order = scores()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, order).backward()
        optimizer.step()
    right = sum(int((logits.argmax(1) == order).sum()) for logits, order in (scores() for _ in range(50)))
    assert right >= 85


@torch.no_grad()
def test_a_superpixel_that_shows_the_word_gains(head: SegHead, hidden: Tensor, words: Words, regions: Regions) -> None:
    """The match enters the logit itself, so that it works before anything else is learned."""
    one = question(words, 0)
    word = Words(one.embeddings[:, :1], one.mask[:, :1])  # a single word is all that attention can read
    meaning = head.name(word.embeddings[0])
    silent = build()
    silent.load_state_dict(head.state_dict())
    silent.likeness.weight.zero_()  # the way through the transformer apart
    logits = []
    for sign in (1, -1):
        lexicon = regions.lexicon.clone()
        lexicon[2] = sign * meaning[0]
        shown = Regions(regions.tokens, lexicon, torch.full((7,), -3.0))
        logits.append(silent(hidden[:1], word, shown).superpixel_logits[0])
    expected = torch.zeros(7)
    expected[2] = 2 * LEXICON_SHARPNESS
    torch.testing.assert_close(logits[0] - logits[1], expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_existence_adds_the_language_models_own_margin(
    head: SegHead, hidden: Tensor, words: Words, regions: Regions
) -> None:
    margin = torch.tensor([-2.0, 0.0, 3.0])
    without, _ = head.existence(hidden, words, regions, torch.zeros(3))
    torch.testing.assert_close(head.existence(hidden, words, regions, margin)[0], without + margin)


@torch.no_grad()
def test_deciding_and_pointing_ask_differently(head: SegHead, hidden: Tensor, words: Words, regions: Regions) -> None:
    pointed = head(hidden, words, regions).superpixel_logits
    assert not torch.allclose(head.existence(hidden, words, regions, torch.zeros(3))[1], pointed)


def test_every_parameter_learns(regions: Regions, hidden: Tensor, words: Words) -> None:
    head = build().train()
    described = head.regions(torch.randn(7, FEATURES), torch.randn(7, GEOMETRY), torch.randn(7, LLM))
    output = head(hidden, words, described)
    existence, _ = head.existence(hidden, words, described, torch.zeros(3))
    loss = output.superpixel_logits.square().sum() + output.prompt_embeddings.square().sum() + existence.sum()
    loss.backward()
    idle = [name for name, item in head.named_parameters() if item.grad is None or not item.grad.any()]
    assert idle == ["prior_weight"], "which decoding uses"


def test_rivals_are_the_vocabulary_and_nothing(head: SegHead) -> None:
    features = torch.randn(7, FEATURES)
    regions = head.regions(features, torch.randn(7, GEOMETRY), torch.randn(7, LLM))
    names = torch.cat(
        [head.name(head.get_buffer("vocabulary")), torch.nn.functional.normalize(head.background, dim=0)[None]]
    )
    logits = LEXICON_SHARPNESS * regions.lexicon @ names.T
    torch.testing.assert_close(head.name_logits(head.look_up(features)), logits)
    torch.testing.assert_close(regions.rivals, logits.exp().sum(1).log())
    assert logits.shape == (7, VOCABULARY + 1)


@torch.no_grad()
def test_what_shows_something_else_loses_only_so_much(
    head: SegHead, hidden: Tensor, words: Words, regions: Regions
) -> None:
    """An unknown word must be able to win by the rest of the evidence."""
    strong, stronger = (
        head(hidden, words, Regions(regions.tokens, regions.lexicon, torch.full((7,), rivals))).superpixel_logits
        for rivals in (LEXICON_SHARPNESS + MAX_UNLIKENESS, 99.0)
    )
    torch.testing.assert_close(strong, stronger)


def test_a_vocabulary_may_be_empty() -> None:
    config = HeadConfig(hidden_size=WIDTH, num_layers=1, num_heads=4)
    sizes = {"llm_size": LLM, "feature_size": FEATURES, "geometry_size": GEOMETRY, "place_size": PLACE}
    head = SegHead(config, vocabulary=torch.zeros(0, LLM), **sizes)
    assert head.name_logits(head.look_up(torch.randn(7, FEATURES))).shape == (7, 1)
    assert "vocabulary" not in head.state_dict(), "it comes from the language model"


def test_without_pointer_every_superpixel_counts_alike(regions: Regions, hidden: Tensor, words: Words) -> None:
    output = build(pointer=False)(hidden, words, regions)
    assert not output.superpixel_logits.any()
    assert output.prompt_embeddings.isfinite().all()
    assert not torch.allclose(output.prompt_embeddings[0], output.prompt_embeddings[1])


def test_select(head: SegHead, hidden: Tensor, words: Words, regions: Regions) -> None:
    output = head(hidden, words, regions)
    for rows in (torch.tensor([2, 0]), torch.tensor([True, False, True])):
        chosen = output.select(rows)
        assert torch.equal(chosen.superpixel_logits, output.superpixel_logits[rows])
        assert torch.equal(chosen.prompt_embeddings, output.prompt_embeddings[rows])


def test_probability_is_calibrated() -> None:
    head = build()
    logits = torch.tensor([-1.0, 0.5, 4.0])
    torch.testing.assert_close(head.probability(logits), logits.sigmoid())
    head.get_buffer("calibration").copy_(torch.tensor([2.0, -1.0]))
    torch.testing.assert_close(head.probability(logits), torch.tensor([-3.0, 0.0, 7.0]).sigmoid())
    assert "calibration" in head.state_dict()


def test_paint() -> None:
    label_map = torch.tensor([[0, 0, 1], [2, 2, 1]])
    logits = torch.tensor([[1.0, -2.0, 3.0], [99.0, -99.0, 0.0]])
    painted = paint(logits, label_map, 4)
    assert painted.shape == (2, 1, 4, 4)
    assert painted[0, 0, :2, :3].tolist() == [[1, 1, -2], [3, 3, -2]]
    assert painted[1, 0, :2, :3].tolist() == [[PRIOR_LIMIT, PRIOR_LIMIT, -PRIOR_LIMIT], [0, 0, -PRIOR_LIMIT]]
    assert (painted[:, :, 2:] == -PRIOR_LIMIT).all()
    assert (painted[:, :, :, 3:] == -PRIOR_LIMIT).all()
    assert paint(logits[:0], label_map, 4).shape == (0, 1, 4, 4)


def test_the_gradient_of_paint_counts_pixels() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    paint(logits, torch.tensor([[0, 0, 1], [0, 2, 1]]), 4).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[3, 2, 1]]


def test_expected_iou_picks_what_is_less_likely_than_not_when_unsure() -> None:
    areas = torch.tensor([10.0, 10.0, 10.0, 10.0])
    logits = torch.logit(torch.tensor([[0.45, 0.4, 0.01, 0.01], [0.99, 0.98, 0.02, 0.01], [0.9, 0.05, 0.05, 0.05]]))
    chosen = maximise_expected_iou(logits, areas) > 0
    assert chosen.tolist() == [[True, True, False, False], [True, True, False, False], [True, False, False, False]]


def test_expected_iou_is_the_best_of_all_sets_of_most_probable_regions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, areas = torch.randn(20, 7, generator=generator), torch.rand(7, generator=generator) + 0.1
    shifted = maximise_expected_iou(logits, areas)
    assert torch.equal(shifted.argsort(1), logits.argsort(1))
    assert shifted.abs().min() >= CHOICE_MARGIN
    weighted = areas * logits.sigmoid()

    def score(chosen: torch.Tensor, row: torch.Tensor) -> float:
        return float(row[chosen].sum() / (areas[chosen].sum() + row[~chosen].sum()))

    for row, before, after in zip(weighted, logits, shifted, strict=True):
        sets = [before >= value for value in before]
        assert score(after > 0, row) == pytest.approx(max(score(chosen, row) for chosen in sets))
