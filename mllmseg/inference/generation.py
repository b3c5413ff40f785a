"""Free generation: the language model writes the answer, the calibrated decision stands in for its [SEG] or [REJ].

N [SEG] tokens, S superpixels, P prompt tokens with the visual ones, D LLM width, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllmseg.constants import NEW_TOKENS, REJ_TOKEN, SEG_TOKEN
from mllmseg.errors import DataError
from mllmseg.models.head import Regions
from mllmseg.models.head_inputs import Words
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.structures import Turn


@dataclass(frozen=True)
class Generated:
    """An answer in the language model's words.

    Attributes:
        text: without special tokens.
        seg_hidden_states: `[N, D]` float32, one row per [SEG] in the answer.
        words: the words before each [SEG].
        score: P(the target exists) at the first decision; 0 where the answer decides nothing.
        decided: whether the answer holds a [SEG] or a [REJ].
    """

    text: str
    seg_hidden_states: Tensor
    words: Words
    score: float
    decided: bool


def turns_of(messages: Sequence[dict[str, Any]]) -> list[Turn]:
    """Chat messages to turns, the last one open.

    Args:
        messages: `{"role": "user" | "assistant", "content": str}` in turn, the user's first and last. An assistant's
            message may say `"exists": bool`: the decision token its answer opened with, which `content` lacks.

    Raises:
        DataError: another role, order or kind of content.
    """
    for index, message in enumerate(messages):
        expected = ("user", "assistant")[index % 2]
        role, content = message.get("role"), message.get("content")
        if role != expected or not isinstance(content, str):
            raise DataError(
                f"message {index + 1}: expected role '{expected}' with text, found role {role!r} with "
                f"{type(content).__name__}; user and assistant take turns (the system prompt is the model's own)"
            )
    if len(messages) % 2 == 0:
        raise DataError(f"{len(messages)} messages: a chat ends with a question by the user")
    answers = [_with_decision(message) for message in messages[1::2]] + [""]
    return [Turn(message["content"], answer) for message, answer in zip(messages[::2], answers, strict=True)]


def _with_decision(message: dict[str, Any]) -> str:
    content = str(message["content"])
    if message.get("exists") is None or content.startswith(NEW_TOKENS):
        return content
    return f"{SEG_TOKEN if message['exists'] else REJ_TOKEN} {content}"


class HiddenTape:
    """Records the last hidden state of every step of a generation."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    @contextmanager
    def recording(self, decoder: Any) -> Iterator[None]:
        """Within this context every forward pass of `decoder` appends `[D]` float32."""
        handle = decoder.register_forward_hook(self._record)
        try:
            yield
        finally:
            handle.remove()

    def _record(self, module: Any, args: Any, output: Any) -> None:
        self.states.append(output.last_hidden_state[0, -1].float())


class DecisionProcessor:
    """Where the language model is about to say [SEG] or [REJ], says what the calibrated probability says.

    One answer never holds both: a mask beside "not there" would contradict itself.
    """

    def __init__(
        self,
        model: MLLMSeg,
        regions: Regions,
        tape: HiddenTape,
        *,
        prefix_length: int,
        prompt_length: int,
        threshold: float,
        decide: bool,
        stops: Sequence[int],
        known: float | None = None,
    ) -> None:
        self.model = model
        self.regions = regions
        self.tape = tape
        self.prefix_length = prefix_length
        self.prompt_length = prompt_length
        self.threshold = threshold
        self.decide = decide  # whether the answer has to open with a decision
        self.stops = tuple(stops)  # tokens that end an answer: an empty one would tell nothing, so it is decided
        self.known = known  # P(the target exists) where it is not to be read from this conversation
        self.probabilities: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`[1, P + generated]` ids so far, `[1, vocabulary]` logits of the next token → logits."""
        mllm = self.model.mllm
        seg, rej, said = mllm.seg_token_id, mllm.rej_token_id, input_ids[0, self.prompt_length :].tolist()
        scores = scores.clone()
        scores[:, mllm.image_token_id] = -torch.inf  # a placeholder without a visual token
        top = int(scores[0].argmax())
        scores[:, [seg, rej]] = -torch.inf
        opens = not said and (self.decide or top in self.stops)
        if rej in said or not (top in (seg, rej) or opens):
            return scores
        probability = self._probability(input_ids[0]) if self.known is None else self.known
        exists = probability >= self.threshold
        if exists or seg not in said:
            self.probabilities.append(probability)
            scores[:] = -torch.inf
            scores[:, seg if exists else rej] = 0.0
        return scores

    def _probability(self, input_ids: Tensor) -> float:
        hidden = self.tape.states[-1][None]
        margin = self.model.mllm.decision_margin(hidden)
        words = _words(self.model, input_ids, self.prefix_length, [len(input_ids)])
        return float(self.model.head.probability(self.model.head.existence(hidden, words, self.regions, margin)[0]))


@torch.no_grad()
def generate(
    model: MLLMSeg,
    input_ids: Tensor,
    *,
    cache: Any,
    regions: Regions,
    prefix_length: int,
    threshold: float,
    decide: bool,
    max_new_tokens: int,
    known: float | None = None,
) -> Generated:
    """Writes an answer, greedily.

    Args:
        model: the model.
        input_ids: `[P]` the whole prompt, visual placeholders included.
        cache: keys and values of its first tokens, up to the last placeholder at least; extended in place.
        regions: the head's view of the superpixels.
        prefix_length: tokens before the conversation itself.
        threshold: [SEG] where P(the target exists) reaches it.
        decide: whether the answer must open with [SEG] or [REJ].
        max_new_tokens: where to stop at the latest.
        known: P(the target exists), where it is not to be read from this conversation.
    """
    mllm, language_model = model.mllm, model.mllm.causal_lm
    tape, greedy = HiddenTape(), _greedy(model)
    processor = DecisionProcessor(
        model,
        regions,
        tape,
        prefix_length=prefix_length,
        prompt_length=len(input_ids),
        threshold=threshold,
        decide=decide,
        stops=greedy["eos_token_id"],
        known=known,
    )
    with tape.recording(mllm.decoder):
        output = language_model.generate(
            input_ids=input_ids[None],
            attention_mask=torch.ones_like(input_ids)[None],
            past_key_values=cache,
            logits_processor=[processor],
            max_new_tokens=max_new_tokens,
            **greedy,
            return_dict_in_generate=True,
        )
        answer = output.sequences[0, len(input_ids) :]
        if int(answer[-1]) == mllm.seg_token_id:  # the last token has not been read yet
            language_model(input_ids=answer[None, -1:], past_key_values=output.past_key_values)
    # The state recorded at step k has read the prompt and k tokens of the answer.
    said_seg = (answer == mllm.seg_token_id).nonzero()[:, 0].tolist()
    rows = [tape.states[index + 1] for index in said_seg]
    return Generated(
        text=mllm.tokenizer.decode(answer, skip_special_tokens=True).strip(),
        words=_words(model, output.sequences[0], prefix_length, [len(input_ids) + index for index in said_seg]),
        seg_hidden_states=torch.stack(rows) if rows else tape.states[0].new_zeros(0, mllm.hidden_size),
        score=processor.probabilities[0] if processor.probabilities else 0.0,
        decided=bool(processor.probabilities),
    )


def _words(model: MLLMSeg, input_ids: Tensor, prefix_length: int, ends: list[int]) -> Words:
    """The words of the one conversation before each place."""
    branch_ids = (torch.arange(len(input_ids), device=input_ids.device) >= prefix_length).long()
    return model.words(input_ids, branch_ids, torch.tensor(ends, dtype=torch.int64, device=input_ids.device))


def _greedy(model: MLLMSeg) -> dict[str, Any]:
    """Greedy, whatever sampling the language model's own generation config asks for."""
    tokenizer, own = model.mllm.tokenizer, model.mllm.causal_lm.generation_config
    stops = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    stops = sorted({int(token) for token in [*stops, tokenizer.eos_token_id] if token is not None})
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    return {
        "do_sample": False,
        "num_beams": 1,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "repetition_penalty": None,
        "eos_token_id": stops,
        "pad_token_id": pad,
    }
