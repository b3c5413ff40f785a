"""Attention between a few prompt tokens and the whole image, the image's projections absorbed into the tokens.

See `folded_decoder.py`, whose second point this is.

Shapes: P prompts, n tokens of a prompt, T = 64 * 64 image positions, M heads, c inner channels of a head, C = 256.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class TokenToImage:
    """Attention from tokens to the image, projections of the image absorbed into the tokens."""

    def __init__(self, attention: Any, position_encoding: Tensor) -> None:
        self.attention = attention
        self.heads = attention.num_heads
        self.key_weight = _by_head(attention.k_proj.weight, self.heads)
        self.value_weight = _by_head(attention.v_proj.weight, self.heads)
        encoded = F.linear(position_encoding, attention.k_proj.weight)  # the bias shifts all logits alike: no effect
        self.position_key = encoded.unflatten(-1, (self.heads, -1)).permute(1, 2, 0).contiguous()

    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """`[P, n, C]` (with their positional part), `[P, T, C]` → `[P, n, C]`."""
        query = heads_of(self.attention.q_proj(tokens), self.heads)
        query = query * query.shape[-1] ** -0.5
        logits = _absorbed_logits(query, self.key_weight, self.position_key, positions)
        mixed = torch.bmm(logits.softmax(-1), positions).unflatten(1, (self.heads, -1))  # [P, M, n, C]
        out = torch.einsum("phnd,hcd->pnhc", mixed, self.value_weight).flatten(2) + self.attention.v_proj.bias
        return self.attention.out_proj(out)


class ImageToToken:
    """Attention from the image to tokens, projections of the image absorbed into the tokens."""

    def __init__(self, attention: Any, position_encoding: Tensor) -> None:
        self.attention = attention
        self.heads = attention.num_heads
        self.query_weight = _by_head(attention.q_proj.weight, self.heads)
        encoded = F.linear(position_encoding, attention.q_proj.weight, attention.q_proj.bias)
        self.position_query = encoded.unflatten(-1, (self.heads, -1)).permute(1, 2, 0).contiguous()
        out = attention.out_proj
        self.out_weight = out.weight.t().unflatten(0, (self.heads, -1)).contiguous()  # [M, c, C]
        # Attention weights of a head sum to one, so the output's bias may ride on the values: a pass over T saved.
        self.out_bias = out.bias / self.heads

    def __call__(self, positions: Tensor, keys: Tensor, values: Tensor, query: Tensor | None = None) -> Tensor:
        """The image plus what it read from the tokens.

        Args:
            positions: `[P, T, C]`, overwritten; or `[T, C]` with `query` where all prompts still share the image.
            keys: `[P, n, C]`, tokens with their positional part.
            values: `[P, n, C]`.
            query: `[M, c, T]`, the image's queries where shared.

        Returns:
            `[P, T, C]`.
        """
        key = heads_of(self.attention.k_proj(keys), self.heads)
        key = key * key.shape[-1] ** -0.5
        value = heads_of(self.attention.v_proj(values), self.heads)
        value = torch.einsum("pnhc,hcd->phnd", value, self.out_weight) + self.out_bias
        value = value.flatten(1, 2)  # [P, M n, C]
        if query is not None:
            logits = _logits_of_shared(key, query)
        else:
            logits = _absorbed_logits(key, self.query_weight, self.position_query, positions)
        weights = logits.unflatten(1, (self.heads, -1)).softmax(2).flatten(1, 2)  # over the tokens
        residual = positions if query is None else positions.repeat(len(keys), 1, 1)
        return residual.baddbmm_(weights.transpose(1, 2), value)


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """A projection's weight `[M c, C]` → `[M, c, C]`."""
    return weight.unflatten(0, (heads, -1)).contiguous()


def heads_of(x: Tensor, heads: int) -> Tensor:
    """`[..., M c]` → `[..., M, c]`."""
    return x.unflatten(-1, (heads, -1))


def _logits_of_shared(tokens: Tensor, image: Tensor) -> Tensor:
    """`[P, n, M, c]` · `[M, c, T]` → `[P, M n, T]`."""
    prompts, count, heads, channels = tokens.shape
    rows = tokens.permute(2, 0, 1, 3).reshape(heads, prompts * count, channels)
    return torch.bmm(rows, image).view(heads, prompts, count, -1).transpose(0, 1).flatten(1, 2)


def _absorbed_logits(tokens: Tensor, weight: Tensor, position_part: Tensor, positions: Tensor) -> Tensor:
    """Attention logits of projected tokens against the image, without projecting the image.

    Args:
        tokens: `[P, n, M, c]`, projected and scaled.
        weight: `[M, c, C]`, the image's projection, here applied to the tokens.
        position_part: `[M, c, T]`, the projected positional encoding, the same for every prompt.
        positions: `[P, T, C]`.

    Returns:
        `[P, M n, T]`.
    """
    absorbed = torch.einsum("pnhc,hcd->phnd", tokens, weight).flatten(1, 2)
    return torch.baddbmm(_logits_of_shared(tokens, position_part), absorbed, positions.transpose(1, 2))
