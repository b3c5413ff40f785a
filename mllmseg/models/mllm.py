"""Stage 5: the language model. Any Hugging Face causal LM or VLM, LoRA by PEFT, new tokens trained by rows only.

B batch, T text tokens with the visual ones, K keys (T plus what a KV cache holds), V visual tokens of the batch,
D LLM width, k DeepStack layers (0 for most models).
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mllmseg.config import LanguageModelConfig
from mllmseg.constants import IMAGE_TOKEN, NEW_TOKENS, REJ_TOKEN, SEG_TOKEN
from mllmseg.errors import AlignmentError, ConfigError
from mllmseg.models.host import Host, decoder_name, join
from mllmseg.structures import PackedText


def load_tokenizer(source: str | os.PathLike[str], chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of `source` with `[SEG]`, `[REJ]` and the image placeholder added, each as one token.

    Args:
        source: a folder or hub id.
        chat_template: in the place of the tokenizer's own.

    Raises:
        ConfigError: there is no chat template, or a new token does not map to a single id.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"{source}: the tokenizer has no chat template; use an instruction-tuned language model, or write the "
            "template it was tuned with into language_model.chat_template"
        )
    tokenizer.add_tokens(list(NEW_TOKENS), special_tokens=True)
    for token in NEW_TOKENS:
        token_id = tokenizer.convert_tokens_to_ids(token)
        if token_id is None or token_id == tokenizer.unk_token_id or tokenizer.tokenize(token) != [token]:
            raise ConfigError(f"{source}: the tokenizer does not keep {token} as one token")
    return tokenizer


class Mllm(nn.Module):
    """A language model that reads visual tokens at its image placeholders.

    Every token, visual or not, has one position. Where a VLM knows positions in time, height and width (M-RoPE), the
    three are alike: a superpixel has no place in a grid. Where it lies is in its embedding.

    Attributes:
        tokenizer: with the new tokens.
        language_model: the model, wrapped by PEFT where LoRA is on.
        seg_token_id, rej_token_id, image_token_id: ids of the new tokens.
    """

    def __init__(self, language_model: nn.Module, tokenizer: PreTrainedTokenizerBase, lora: Any = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.seg_token_id, self.rej_token_id, self.image_token_id = (
            int(tokenizer.convert_tokens_to_ids(token)) for token in (SEG_TOKEN, REJ_TOKEN, IMAGE_TOKEN)
        )
        _add_rows(language_model, len(tokenizer))
        language_model.requires_grad_(False)
        self.language_model: Any = language_model if lora is None else get_peft_model(language_model, lora)
        for parameter in self.language_model.parameters():  # what is trained keeps its small steps
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self._visual_tokens: Tensor | None = None
        self._hook = self.embedding.register_forward_hook(self._insert_visual_tokens)

    @property
    def causal_lm(self) -> Any:
        """The Hugging Face model itself, LoRA layers included."""
        model = self.language_model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def decoder(self) -> Any:
        """What makes hidden states of token ids: the causal LM without its head, of a VLM the part that reads text."""
        return self.causal_lm.get_decoder()

    @property
    def is_quantized(self) -> bool:
        """Whether its linear layers are held in eight or four bits."""
        return bool(getattr(self.causal_lm, "is_quantized", False))

    @property
    def embedding(self) -> nn.Module:
        """The word embedding."""
        return self.causal_lm.get_input_embeddings()

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.causal_lm.config.get_text_config().hidden_size)

    def merge_lora(self) -> None:
        """Folds LoRA and the new rows into the language model, for inference only.

        Not only LoRA's own products are saved: with trainable rows PEFT copies the whole vocabulary at each call.
        A quantised model stays as it is: rounding LoRA to four bits would lose it.
        """
        if hasattr(self.language_model, "merge_and_unload") and not self.is_quantized:
            self._hook.remove()
            self.language_model = self.language_model.merge_and_unload()
            self._hook = self.embedding.register_forward_hook(self._insert_visual_tokens)

    def save_adapter(self, folder: str | os.PathLike[str], base: str) -> None:
        """Writes LoRA and the new rows as a PEFT adapter, with the tokenizer that tells how many rows there are.

        Args:
            folder: where.
            base: what the adapter says it belongs to.
        """
        for config in self.language_model.peft_config.values():
            config.base_model_name_or_path = base
        self.language_model.save_pretrained(folder, save_embedding_layers=False)
        (pathlib.Path(folder) / "README.md").unlink(missing_ok=True)  # a form to fill in
        self.tokenizer.save_pretrained(folder)
        _readable_by_all(folder)

    def save_merged(self, folder: str | os.PathLike[str], vision: Any) -> None:
        """Writes the language model with LoRA merged; a VLM whole, with the `vision` that was taken from it.

        Raises:
            ConfigError: it is quantised.
        """
        if self.is_quantized:
            raise ConfigError("LoRA cannot be merged into a quantised language model without losing most of it")
        self.merge_lora()
        join(Host(self.language_model, vision)).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        _readable_by_all(folder)

    def new_cache(self) -> DynamicCache:
        """An empty KV cache that keeps every token, so that a mask alone says who may look at whom."""
        return DynamicCache()

    @property
    def new_token_ids(self) -> list[int]:
        """Ids of [SEG], [REJ] and the image placeholder."""
        return [self.seg_token_id, self.rej_token_id, self.image_token_id]

    def word_embeddings(self) -> Tensor:
        """`[vocabulary, D]` the frozen word embeddings."""
        layer: Any = self.embedding
        for inner in ("token_adapter", "base_layer"):  # past PEFT's wrappers, whose own weight is a copy at each call
            layer = getattr(layer, inner, layer)
        return layer.weight.detach()

    def embed_names(self, names: Sequence[str]) -> Tensor:
        """`[K, D]` the mean word embedding of each name, as the language model would read it mid-sentence."""
        table = self.word_embeddings().float()
        ids = [self.tokenizer(" " + name, add_special_tokens=False)["input_ids"] for name in names]
        return torch.stack([table.new_zeros(self.hidden_size), *(table[item].mean(0) for item in ids)])[1:]

    def forward(
        self,
        input_ids: Tensor,
        *,
        visual_tokens: Tensor | None,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any = None,
    ) -> tuple[Tensor, Any]:
        """Reads text and visual tokens.

        Args:
            input_ids: `[B, T]` int64 with one image placeholder per visual token.
            visual_tokens: `[V, (1 + k) * D]` in the order of the placeholders (`VisualTokens.embeddings`), or None
                where `input_ids` hold none.
            attention_mask: `[B, 1, T, K]` bool, True where a query may look.
            position_ids: `[B, T]` int64.
            past_key_values: a cache of the prefix; extended in place.

        Returns:
            `[B, T, D]` last hidden states (after the final norm), and the cache.

        Raises:
            AlignmentError: placeholders and visual tokens differ in number.
        """
        tokens, deepstack = visual_tokens, {}
        if visual_tokens is not None and visual_tokens.shape[1] > self.hidden_size:
            tokens, *layers = visual_tokens.split(self.hidden_size, dim=1)
            deepstack = {"visual_pos_masks": input_ids == self.image_token_id, "deepstack_visual_embeds": layers}
        with self.visual_tokens(tokens):
            output = self.decoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=past_key_values is not None,
                **deepstack,
            )
        return output.last_hidden_state, output.past_key_values

    def logits(self, hidden_states: Tensor) -> Tensor:
        """`[..., D]` hidden states → `[..., vocabulary]` logits. The head is wide: ask for the rows you need only."""
        return self.causal_lm.get_output_embeddings()(hidden_states)

    def decision_margin(self, hidden_states: Tensor) -> Tensor:
        """`[M, D]` hidden states before a decision → `[M]` logit of [SEG] minus logit of [REJ]."""
        head = self.causal_lm.get_output_embeddings()
        adapter = getattr(head, "token_adapter", None)
        if adapter is None:
            rows, seg, rej = head.weight, self.seg_token_id, self.rej_token_id
        else:  # PEFT's trainable rows themselves: its merged weight would copy the vocabulary, forward and backward
            (name,) = adapter.active_adapters
            seg, rej = (adapter.token_indices[name].index(index) for index in (self.seg_token_id, self.rej_token_id))
            rows = adapter.trainable_tokens_delta[name].to(adapter.base_layer.weight.dtype)
        direction = rows[seg] - rows[rej]
        return hidden_states @ direction.to(hidden_states.dtype)

    @contextmanager
    def visual_tokens(self, visual_tokens: Tensor | None) -> Iterator[None]:
        """Within this context the word embedding answers placeholders with these `[V, D]` rows."""
        self._visual_tokens = visual_tokens
        try:
            yield
        finally:
            self._visual_tokens = None

    def _insert_visual_tokens(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # A hook, because it reaches every model family alike, in forward and in generate.
        is_image = args[0] == self.image_token_id
        expected = int(is_image.sum())
        found = 0 if self._visual_tokens is None else self._visual_tokens.shape[0]
        if expected != found:
            raise AlignmentError(f"{expected} image placeholders in the text but {found} visual tokens")
        if self._visual_tokens is None:
            return output
        return output.masked_scatter(is_image[..., None], self._visual_tokens.to(output.dtype))


def build_mllm(config: LanguageModelConfig, source: str | os.PathLike[str], host: Host) -> Mllm:
    """The language model of `host` with the tokenizer of `source`, frozen but for LoRA and new rows."""
    tokenizer = load_tokenizer(source, config.chat_template)
    return Mllm(host.language_model, tokenizer, _peft_config(config, tokenizer, host))


def _peft_config(config: LanguageModelConfig, tokenizer: PreTrainedTokenizerBase, host: Host) -> PeftLoraConfig | None:
    if config.lora.r == 0:
        return None
    language_model = host.language_model
    embedding, head = language_model.get_input_embeddings(), language_model.get_output_embeddings()
    names = {layer: name for name, layer in language_model.named_modules()}
    # Where the two are one matrix, PEFT ties the rows; where not, [SEG] and [REJ] must be learned on both sides.
    layers = [embedding] if head.weight is embedding.weight else [embedding, head]
    targets: list[str] | str = list(config.lora.target_modules)
    if host.vision is not None:  # lest whoever loads the adapter into the whole VLM adapts its vision encoder, too
        targets = rf"{re.escape(decoder_name(language_model))}\..*\.({'|'.join(map(re.escape, targets))})"
    new_rows = [int(index) for index in tokenizer.convert_tokens_to_ids(list(NEW_TOKENS))]
    return PeftLoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=targets,
        trainable_token_indices={names[layer]: new_rows for layer in layers},
        task_type="CAUSAL_LM",
    )


def _add_rows(language_model: Any, vocabulary: int) -> None:
    """Makes room for the new tokens; their rows start as the mean of all others, alike on every machine."""
    old = language_model.get_input_embeddings().weight.shape[0]
    if old >= vocabulary:
        return
    language_model.resize_token_embeddings(vocabulary, mean_resizing=False)
    with torch.no_grad():
        for layer in (language_model.get_input_embeddings(), language_model.get_output_embeddings()):
            layer.weight[old:] = layer.weight[:old].mean(0)


def _readable_by_all(folder: str | os.PathLike[str]) -> None:
    for path in pathlib.Path(folder).glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner only


def branch_attention_mask(texts: list[PackedText], *, cached: int = 0) -> Tensor:
    """Who may look at whom: causal, every branch sees the prefix and itself.

    Args:
        texts: B packed texts; shorter ones are padded on the right.
        cached: tokens of a prefix that lie in a KV cache and not in `input_ids`; all may see them.

    Returns:
        `[B, 1, T, cached + T]` bool. Padding sees itself, so that no row of the softmax is empty.
    """
    length = max(len(text.input_ids) for text in texts)
    branch = torch.full((len(texts), length), -1, device=texts[0].branch_ids.device)
    for row, text in enumerate(texts):
        branch[row, : len(text.branch_ids)] = text.branch_ids
    query, key = branch[:, :, None], branch[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    allowed = causal & ((key == query) | (key == 0))
    if cached:
        allowed = torch.cat([allowed.new_ones(len(texts), length, cached), allowed], dim=-1)
    return allowed[:, None]


def pad(rows: list[Tensor], value: int) -> Tensor:
    """Stacks `[T_i]` rows to `[B, max T]`, padded on the right with `value`."""
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
