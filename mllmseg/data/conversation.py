"""Text of a conversation → token ids, labels and the positions that matter.

T tokens, N [SEG] tokens, M decisions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from mllmseg.constants import IGNORE_INDEX, IMAGE_TOKEN, NEW_TOKENS, REJ_TOKEN, SEG_TOKEN
from mllmseg.errors import ConfigError, DataError
from mllmseg.structures import PackedText, Turn

_PROBE = "what is this"


class ConversationEncoder:
    """Renders conversations about one image with the tokenizer's own chat template.

    Prompts and answers are tokenised apart, in training and in inference alike, so that no token ever spans the
    border between a question and its answer. Control tokens of the template in somebody's text are broken up.
    """

    def __init__(self, tokenizer: Any, system_prompt: str) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self._seg, self._rej, self._image = (
            int(tokenizer.convert_tokens_to_ids(token)) for token in (SEG_TOKEN, REJ_TOKEN, IMAGE_TOKEN)
        )
        control = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} - {*NEW_TOKENS}
        longest_first = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # Templates of VLMs read contents as lists of parts, and silently nothing of a content that is plain text.
        self._as_parts = False
        self._as_parts = _PROBE not in self._render([Turn(_PROBE, "")], placeholders=0)

    def encode(
        self, branches: Sequence[Sequence[Turn]], num_visual_tokens: int, *, with_prefix: bool = True
    ) -> PackedText:
        """Packs conversations about one image.

        Args:
            branches: each a conversation of one or more turns. The last answer of a branch may be just `[SEG]`
                (a *scored* query), or empty (a prompt for generation).
            num_visual_tokens: placeholders to write.
            with_prefix: False where the prefix lies in a KV cache.

        Raises:
            DataError: a question or answer contains the image placeholder, or a question a new token.
            ConfigError: the chat template rewrites earlier turns.
        """
        prefix = self._prefix_ids(num_visual_tokens)
        ids, labels, positions, branch_ids = [], [], [], []
        if with_prefix:
            ids, labels = list(prefix), [IGNORE_INDEX] * len(prefix)
            positions, branch_ids = list(range(len(prefix))), [0] * len(prefix)
        decisions: list[int] = []
        for number, turns in enumerate(branches, start=1):
            start = len(ids)
            for prompt, answer in self._pieces(turns):
                ids += prompt + answer
                labels += [IGNORE_INDEX] * len(prompt) + answer
                if answer and answer[0] in (self._seg, self._rej):
                    decisions.append(len(ids) - len(answer) - 1)
            positions += range(len(prefix), len(prefix) + len(ids) - start)
            branch_ids += [number] * (len(ids) - start)
        input_ids = torch.tensor(ids, dtype=torch.int64)
        return PackedText(
            input_ids=input_ids,
            labels=torch.tensor(labels, dtype=torch.int64),
            position_ids=torch.tensor(positions, dtype=torch.int64),
            branch_ids=torch.tensor(branch_ids, dtype=torch.int64),
            decision_positions=torch.tensor(decisions, dtype=torch.int64),
            seg_positions=(input_ids == self._seg).nonzero()[:, 0],
            prefix_length=len(prefix),
        )

    def prefix(self, num_visual_tokens: int) -> PackedText:
        """The prefix alone, for filling a KV cache."""
        return self.encode([], num_visual_tokens)

    def _prefix_ids(self, num_visual_tokens: int) -> list[int]:
        text = self._render([Turn("?", "")], placeholders=num_visual_tokens)
        return self._tokenize(text[: text.rfind(IMAGE_TOKEN) + len(IMAGE_TOKEN)])

    def _pieces(self, turns: Sequence[Turn]) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, answer ids) per turn, without the prefix."""
        for turn in turns:
            if any(token in turn.question for token in NEW_TOKENS) or IMAGE_TOKEN in turn.answer:
                raise DataError(f"a reserved token ({', '.join(NEW_TOKENS)}) stands in the text {turn.question!r}")
        pieces, done = [], ""
        for index, turn in enumerate(turns):
            # What stands before an answer is what stands before a probe: templates may put more there (a space, an
            # empty thought) than their generation prompt says.
            probe = self._render([*turns[:index], Turn(turn.question, SEG_TOKEN)], placeholders=1)
            prompt, new = probe[: probe.rfind(SEG_TOKEN)], probe[len(done) : probe.rfind(SEG_TOKEN)]
            is_open = index == len(turns) - 1 and turn.answer in ("", SEG_TOKEN)  # to be generated, or scored
            answered = prompt + turn.answer if is_open else self._render(turns[: index + 1], placeholders=1)
            if not (prompt.startswith(done) and answered.startswith(prompt)):
                raise ConfigError("this chat template rewrites earlier turns; conversations cannot be packed with it")
            if index == 0:
                new = new[new.rfind(IMAGE_TOKEN) + len(IMAGE_TOKEN) :]
            pieces.append((self._tokenize(new), self._tokenize(answered[len(prompt) :])))
            done = answered
        return pieces

    def _render(self, turns: Sequence[Turn], *, placeholders: int) -> str:
        messages = [("system", self.system_prompt)] if self.system_prompt else []
        for index, turn in enumerate(turns):
            image = IMAGE_TOKEN * placeholders + "\n" if index == 0 else ""
            messages.append(("user", image + self._as_text(turn.question)))
            messages.append(("assistant", self._as_text(turn.answer)))
        return self.tokenizer.apply_chat_template(
            [{"role": role, "content": self._content(text)} for role, text in messages], tokenize=False
        )

    def _content(self, text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if self._as_parts else text

    def _as_text(self, text: str) -> str:
        """Breaks up what the tokenizer would take for a control token, so that no text can end its own turn."""
        return self._control.sub(lambda found: f"{found[0][:1]} {found[0][1:]}", text)

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
