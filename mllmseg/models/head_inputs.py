"""What the head reads besides hidden states: the words of a question, and where regions are.

N questions, L words, S superpixels, G geometry values, D LLM width, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

# Words further from the decision than this share a position.
MAX_WORDS = 64


@dataclass(frozen=True)
class Words:
    """The words before a [SEG] or a decision.

    Attributes:
        embeddings: `[N, L, D]` frozen word embeddings, padded.
        mask: `[N, L]` bool, True for words.
    """

    embeddings: Tensor
    mask: Tensor


class Geometry(nn.Module):
    """Where a region is and what shape it has, in equal parts: `[S, G]` → `[S, d]`."""

    def __init__(self, geometry_size: int, place_size: int, width: int) -> None:
        super().__init__()
        self.place_size = place_size
        self.place = nn.Sequential(
            nn.Linear(place_size, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width)
        )
        self.shape = nn.Sequential(nn.Linear(geometry_size - place_size, width), nn.LayerNorm(width))

    def forward(self, geometry: Tensor) -> Tensor:
        """The sum of both."""
        found: Tensor = self.place(geometry[:, : self.place_size]) + self.shape(geometry[:, self.place_size :])
        return found


class Sentence(nn.Module):
    """A question word by word, and all of it in one vector."""

    def __init__(self, llm_size: int, width: int) -> None:
        super().__init__()
        self.word = nn.Sequential(nn.LayerNorm(llm_size), nn.Linear(llm_size, width), nn.LayerNorm(width))
        self.place = nn.Embedding(MAX_WORDS, width)
        self.gist = nn.Linear(width, width)
        nn.init.normal_(self.place.weight, std=0.3)

    def forward(self, words: Words) -> tuple[Tensor, Tensor]:
        """`[N, L, d]` words, each knowing how many are still to come, and `[N, d]` their gist."""
        to_come = words.mask.flip(1).cumsum(1).flip(1) - 1
        tokens = self.word(words.embeddings) + self.place(to_come.clamp(0, MAX_WORDS - 1))
        mean = (tokens * words.mask[..., None]).sum(1) / words.mask.sum(1, keepdim=True).clamp(min=1)
        return tokens, self.gist(mean)
