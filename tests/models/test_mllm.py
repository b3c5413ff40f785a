"""The language model: new tokens, visual tokens at placeholders, packed branches, what is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mllmseg.config import LanguageModelConfig, LoraConfig
from mllmseg.constants import NEW_TOKENS
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.errors import AlignmentError, ConfigError
from mllmseg.models.host import load_host
from mllmseg.models.mllm import Mllm, branch_attention_mask, build_mllm, load_tokenizer, pad
from mllmseg.structures import PackedText, Turn

# Float32 sums in another order through two layers of width 32.
TOLERANCE = 1e-4
NUM_VISUAL = 3
BRANCHES = [
    [Turn("the cat?", "[SEG] Here it is.")],
    [Turn("a dog?", "[REJ] None."), Turn("and the cat and its tail?", "[SEG] and [SEG].")],
    [Turn("Describe the picture.", "A cat.")],
]


def build(folder: Path, *, r: int = 4) -> Mllm:
    config = LanguageModelConfig(name=str(folder), lora=LoraConfig(r=r, dropout=0.0))
    return build_mllm(config, folder, load_host(config, folder)).eval()


@pytest.fixture(scope="module")
def mllm(language_model: Path, randomise_lora: Callable[[Mllm], None]) -> Mllm:
    model = build(language_model)
    randomise_lora(model)
    return model


@pytest.fixture(scope="module")
def encoder(mllm: Mllm) -> ConversationEncoder:
    return ConversationEncoder(mllm.tokenizer, "Be brief.")


@pytest.fixture(scope="module")
def visual() -> Tensor:
    return torch.randn(NUM_VISUAL, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_names_are_mean_word_embeddings(mllm: Mllm) -> None:
    table = mllm.embed_names(["cat", "dog"])
    ids = mllm.tokenizer(" cat", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(table[0], mllm.word_embeddings()[ids].mean(0))
    assert table.shape == (2, mllm.hidden_size)
    assert mllm.embed_names([]).shape == (0, mllm.hidden_size)


def read(mllm: Mllm, texts: list[PackedText], visual: Tensor | None) -> Tensor:
    hidden, _ = mllm(
        pad([text.input_ids for text in texts], 0),
        visual_tokens=visual,
        attention_mask=branch_attention_mask(texts),
        position_ids=pad([text.position_ids for text in texts], 0),
    )
    return hidden


def test_new_tokens_are_single_ids_with_the_mean_row(language_model: Path) -> None:
    mllm = build(language_model)
    ids = [mllm.seg_token_id, mllm.rej_token_id, mllm.image_token_id]
    assert ids == mllm.tokenizer.convert_tokens_to_ids(list(NEW_TOKENS))
    assert len(set(ids)) == 3
    assert mllm.tokenizer("a[SEG]b", add_special_tokens=False)["input_ids"].count(mllm.seg_token_id) == 1
    words = mllm.word_embeddings()
    assert len(words) == len(mllm.tokenizer)
    torch.testing.assert_close(words[min(ids) :], words[: min(ids)].mean(0).expand(3, -1))


@pytest.mark.parametrize("r", [0, 4])
def test_word_embeddings_are_no_copy(language_model: Path, r: int) -> None:
    """They are looked up at every step, and the vocabulary is most of a small model."""
    mllm = build(language_model, r=r)
    words = mllm.word_embeddings()
    assert words.data_ptr() == mllm.word_embeddings().data_ptr()
    assert not words.requires_grad
    index = torch.tensor([[70, 71]])
    assert mllm.embedding(index)[0].equal(words[index[0]])


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path, save_tokenizer: Callable[..., int]) -> None:
    save_tokenizer(tmp_path, chat_template=None)
    with pytest.raises(ConfigError, match=f"{tmp_path}.*no chat template"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("found", "given"), [(2, 2), (4, 4), (0, None)])
def test_placeholders_and_visual_tokens_must_agree(
    mllm: Mllm, encoder: ConversationEncoder, found: int, given: int | None
) -> None:
    text = encoder.encode(BRANCHES, NUM_VISUAL)
    visual = None if given is None else torch.zeros(given, 32)
    with pytest.raises(AlignmentError, match=f"{NUM_VISUAL} image placeholders .* {found} visual tokens"):
        read(mllm, [text], visual)


def test_visual_tokens_without_placeholders_are_refused(mllm: Mllm, encoder: ConversationEncoder) -> None:
    text = encoder.encode(BRANCHES, NUM_VISUAL, with_prefix=False)
    with pytest.raises(AlignmentError, match=r"0 image placeholders .* 3 visual tokens"):
        read(mllm, [text], torch.zeros(3, 32))


def test_visual_tokens_stand_where_the_placeholders_are(
    mllm: Mllm, encoder: ConversationEncoder, visual: Tensor
) -> None:
    text = encoder.prefix(NUM_VISUAL)
    with mllm.visual_tokens(visual):
        embedded = mllm.embedding(text.input_ids[None])[0]
    is_image = text.input_ids == mllm.image_token_id
    assert torch.equal(embedded[is_image], visual)
    words = text.input_ids[~is_image]
    assert torch.equal(embedded[~is_image], mllm.embedding(words[None])[0])


def test_a_branch_reads_as_if_it_were_alone(mllm: Mllm, encoder: ConversationEncoder, visual: Tensor) -> None:
    packed = encoder.encode(BRANCHES, NUM_VISUAL)
    hidden = read(mllm, [packed], visual)[0]
    for number, branch in enumerate(BRANCHES, start=1):
        single = encoder.encode([branch], NUM_VISUAL)
        alone = read(mllm, [single], visual)[0]
        assert torch.equal(single.input_ids[single.branch_ids == 1], packed.input_ids[packed.branch_ids == number])
        together = hidden[packed.branch_ids == number]
        torch.testing.assert_close(together, alone[single.branch_ids == 1], atol=TOLERANCE, rtol=0)
    # and it does see the picture
    other = read(mllm, [packed], visual + 1)[0]
    assert (other - hidden)[packed.branch_ids > 0].abs().amax(1).min() > 100 * TOLERANCE


def test_a_cached_prefix_changes_nothing(mllm: Mllm, encoder: ConversationEncoder, visual: Tensor) -> None:
    packed = encoder.encode(BRANCHES, NUM_VISUAL)
    expected = read(mllm, [packed], visual)[0]
    prefix = encoder.prefix(NUM_VISUAL)
    rest = encoder.encode(BRANCHES, NUM_VISUAL, with_prefix=False)
    with torch.no_grad():
        first, cache = mllm(
            prefix.input_ids[None],
            visual_tokens=visual,
            attention_mask=branch_attention_mask([prefix]),
            position_ids=prefix.position_ids[None],
            past_key_values=mllm.new_cache(),
        )
        second, _ = mllm(
            rest.input_ids[None],
            visual_tokens=None,
            attention_mask=branch_attention_mask([rest], cached=rest.prefix_length),
            position_ids=rest.position_ids[None],
            past_key_values=cache,
        )
    assert rest.prefix_length == len(prefix.input_ids) == packed.prefix_length
    torch.testing.assert_close(torch.cat([first, second], dim=1)[0], expected, atol=TOLERANCE, rtol=0)


def test_padding_changes_nothing(mllm: Mllm, encoder: ConversationEncoder, visual: Tensor) -> None:
    long, short = encoder.encode(BRANCHES, NUM_VISUAL), encoder.encode(BRANCHES[2:], 1)
    hidden = read(mllm, [short, long], torch.cat([visual[:1], visual]))
    assert hidden.isfinite().all()
    alone = read(mllm, [short], visual[:1])[0]
    torch.testing.assert_close(hidden[0, : len(alone)], alone, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(hidden[1], read(mllm, [long], visual)[0], atol=TOLERANCE, rtol=0)


def test_who_sees_whom() -> None:
    branch_ids = torch.tensor([0, 0, 1, 1, 2])
    nothing = torch.zeros(0, dtype=torch.int64)
    text = PackedText(branch_ids, branch_ids, branch_ids, branch_ids, nothing, nothing, 2)
    expected = torch.tensor(
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]], dtype=torch.bool
    )
    assert torch.equal(branch_attention_mask([text])[0, 0], expected)
    cached = branch_attention_mask([text], cached=3)[0, 0]
    assert cached[:, :3].all()
    assert torch.equal(cached[:, 3:], expected)


def train_a_step(mllm: Mllm, visual: Tensor) -> None:
    """One optimizer step on the text loss and the decision."""
    text = ConversationEncoder(mllm.tokenizer, "Be brief.").encode(BRANCHES, NUM_VISUAL)
    trained = [parameter for parameter in mllm.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    hidden, _ = mllm(
        text.input_ids[None],
        visual_tokens=visual,
        attention_mask=branch_attention_mask([text]),
        position_ids=text.position_ids[None],
    )
    loss = torch.nn.functional.cross_entropy(mllm.logits(hidden[0, :-1]), text.labels[1:], ignore_index=-100)
    (loss + mllm.decision_margin(hidden[0, text.decision_positions]).sum()).backward()
    optimizer.step()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_only_lora_and_the_new_rows_are_trained(
    tmp_path: Path,
    save_language_model: Callable[..., Path],
    randomise_lora: Callable[[Mllm], None],
    visual: Tensor,
    tied: bool,
) -> None:
    mllm = build(save_language_model(tmp_path, tie_word_embeddings=tied))
    randomise_lora(mllm)
    trained = {name for name, parameter in mllm.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "trainable_tokens" in name for name in trained)
    assert sum("lora_" in name for name in trained) == 2 * 2 * 2, "two factors, two projections, two layers"
    before = {name: parameter.detach().clone() for name, parameter in mllm.named_parameters()}
    everything, probe = torch.arange(len(mllm.tokenizer)), torch.eye(32)
    others = everything < mllm.seg_token_id
    with torch.no_grad():
        rows, columns = mllm.causal_lm.get_input_embeddings(), mllm.logits
        words, answers = rows(everything[others]), columns(probe)
    train_a_step(mllm, visual)
    for name, parameter in mllm.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in trained), name
    with torch.no_grad():
        assert torch.equal(rows(everything[others]), words)
        assert torch.equal(columns(probe)[:, others], answers[:, others])
        # [SEG] and [REJ] start alike; both what is read and what is said must come apart.
        seg, rej = columns(probe)[:, mllm.seg_token_id], columns(probe)[:, mllm.rej_token_id]
        assert not torch.allclose(seg, rej, atol=1e-2)
        seg, rej = rows(torch.tensor([mllm.seg_token_id, mllm.rej_token_id]))
        assert not torch.allclose(seg, rej, atol=1e-2)


@pytest.mark.parametrize("case", ["lora", "merged", "untied", "untied merged", "frozen", "qwen2"])
def test_the_decision_margin_is_a_difference_of_logits(
    tmp_path: Path, save_language_model: Callable[..., Path], visual: Tensor, case: str
) -> None:
    family = "qwen2" if case == "qwen2" else "llama"
    mllm = build(
        save_language_model(tmp_path, family=family, tie_word_embeddings="untied" not in case),
        r=0 if case == "frozen" else 4,
    )
    if case != "frozen":
        train_a_step(mllm, visual)  # the new rows start alike
    if "merged" in case:
        mllm.merge_lora()
    with torch.no_grad():
        hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
        logits = mllm.logits(hidden)
        margin = mllm.decision_margin(hidden)
    expected = logits[:, mllm.seg_token_id] - logits[:, mllm.rej_token_id]
    torch.testing.assert_close(margin, expected, atol=TOLERANCE, rtol=0)
    assert (margin.abs().max() > 100 * TOLERANCE) == (case != "frozen")


def test_merging_changes_nothing(
    language_model: Path, randomise_lora: Callable[[Mllm], None], encoder: ConversationEncoder, visual: Tensor
) -> None:
    mllm = build(language_model)
    randomise_lora(mllm)
    train_a_step(mllm, visual)
    text = encoder.encode(BRANCHES, NUM_VISUAL)
    expected = read(mllm, [text], visual)
    words = mllm.word_embeddings()
    mllm.merge_lora()
    torch.testing.assert_close(read(mllm, [text], visual), expected, atol=TOLERANCE, rtol=1e-5)
    assert torch.equal(mllm.word_embeddings()[: mllm.seg_token_id], words[: mllm.seg_token_id])
    with pytest.raises(AlignmentError):
        read(mllm, [text], visual[:1])


def test_without_lora_nothing_is_trained_and_everything_works(
    language_model: Path, encoder: ConversationEncoder, visual: Tensor
) -> None:
    mllm = build(language_model, r=0)
    assert not any(parameter.requires_grad for parameter in mllm.parameters())
    text = encoder.encode(BRANCHES, NUM_VISUAL)
    hidden = read(mllm, [text], visual)
    assert hidden.shape == (1, len(text.input_ids), 32)
    assert mllm.logits(hidden).shape[-1] == len(mllm.tokenizer)
    assert mllm.word_embeddings().shape == (len(mllm.tokenizer), 32)
