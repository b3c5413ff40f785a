"""SAM's mask decoder for many single-point prompts on one image: the same numbers for a fifth of the work.

An exact algebraic rewrite of segment_anything's `PromptEncoder` and `MaskDecoder` (arXiv 2304.02643):

1. Projections of the image in the first layer do not depend on the prompt: computed once an image.
2. In later layers the image differs for every prompt, but a prompt has only n = 7 tokens. A projection of 4096 image
   positions is absorbed into the tokens instead: with 8 heads, 8 * 7 = 56 columns replace 128 inner dimensions (the
   trick of multi-head latent attention).
3. Stride-2, kernel-2 transposed convolutions do not overlap: each is a matmul, run on the valid window only, in
   channels-last layout; pixels are put in their places only once the mask logits are there.
4. The IoU head needs no mask: its verdict comes first, and only prompts that pass are upscaled.

Shapes: P prompts, n tokens of a prompt, T = 64 * 64 image positions, M heads, c inner channels of a head, C = 256.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mllmseg.constants import SAM_EMBEDDING_STRIDE, SAM_IMAGE_SIZE, SAM_LOW_RES_STRIDE
from mllmseg.models.sam import Sam

_SIDE = SAM_IMAGE_SIZE // SAM_EMBEDDING_STRIDE


@dataclass(frozen=True)
class FoldedImage:
    """What every prompt on an image shares.

    Attributes:
        positions: `[T, C]`, the image plus the embedding that says there is no mask prompt.
        key, value: `[1, M, T, c]`, of the first attention from tokens to image.
        query: `[M, c, T]`, of the first attention from image to tokens.
    """

    positions: Tensor
    key: Tensor
    value: Tensor
    query: Tensor


@dataclass(frozen=True)
class PromptStates:
    """The transformer's output, before any mask.

    Attributes:
        tokens: `[P, n, C]`: IoU token, four mask tokens, the point, the padding point.
        positions: `[P, T, C]`, the image as each prompt sees it.
        iou_predictions: `[P, 3]` float32, for the subpart, part and whole mask.
    """

    tokens: Tensor
    positions: Tensor
    iou_predictions: Tensor

    def select(self, index: Tensor) -> PromptStates:
        """The prompts of `index` (`[P']` int64 or `[P]` bool)."""
        return PromptStates(self.tokens[index], self.positions[index], self.iou_predictions[index])


class _TokenToImage:
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
        query = _heads_of(self.attention.q_proj(tokens), self.heads)
        query = query * query.shape[-1] ** -0.5
        logits = _absorbed_logits(query, self.key_weight, self.position_key, positions)
        mixed = torch.bmm(logits.softmax(-1), positions).unflatten(1, (self.heads, -1))  # [P, M, n, C]
        out = torch.einsum("phnd,hcd->pnhc", mixed, self.value_weight).flatten(2) + self.attention.v_proj.bias
        return self.attention.out_proj(out)


class _ImageToToken:
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
        key = _heads_of(self.attention.k_proj(keys), self.heads)
        key = key * key.shape[-1] ** -0.5
        value = _heads_of(self.attention.v_proj(values), self.heads)
        value = torch.einsum("pnhc,hcd->phnd", value, self.out_weight) + self.out_bias
        value = value.flatten(1, 2)  # [P, M n, C]
        if query is not None:
            logits = _logits_of_shared(key, query)
        else:
            logits = _absorbed_logits(key, self.query_weight, self.position_query, positions)
        weights = logits.unflatten(1, (self.heads, -1)).softmax(2).flatten(1, 2)  # over the tokens
        residual = positions if query is None else positions.repeat(len(keys), 1, 1)
        return residual.baddbmm_(weights.transpose(1, 2), value)


class FoldedDecoder:
    """Decodes batches of points on one image.

    Args:
        sam: whose prompt encoder and mask decoder to fold; copied, later changes to it have no effect.
        dtype: of the arithmetic. float32 agrees with segment_anything to 1e-4 in the logits; bfloat16 is twice as
            fast on a CPU that has it and agrees in about 99.5 % of the mask's signs.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.prompt_encoder = sam.prompt_encoder
        decoder = copy.deepcopy(sam.mask_decoder).to(dtype).requires_grad_(False)
        self.decoder = decoder
        self.first, self.second = decoder.transformer.layers
        encoding = sam.get_dense_pe()[0].flatten(1).t().to(dtype)
        self.position_encoding = encoding
        self.no_mask = sam.prompt_encoder.no_mask_embed.weight.detach().to(dtype)
        self.output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        self.second_token_to_image = _TokenToImage(self.second.cross_attn_token_to_image, encoding)
        self.final_token_to_image = _TokenToImage(decoder.transformer.final_attn_token_to_image, encoding)
        self.first_image_to_token = _ImageToToken(self.first.cross_attn_image_to_token, encoding)
        self.second_image_to_token = _ImageToToken(self.second.cross_attn_image_to_token, encoding)
        expand, self.upscaling_norm, _, refine, _ = decoder.output_upscaling
        self.expand_weight, self.expand_bias = _as_linear(expand)
        self.refine_weight, self.refine_bias = _as_linear(refine)

    @torch.no_grad()
    def fold_image(self, image_embeddings: Tensor) -> FoldedImage:
        """`[1, 256, 64, 64]` → what all prompts share."""
        positions = image_embeddings[0].to(self.dtype).flatten(1).t() + self.no_mask
        encoded = positions + self.position_encoding
        to_image, to_token = self.first.cross_attn_token_to_image, self.first.cross_attn_image_to_token
        heads = to_image.num_heads
        return FoldedImage(
            positions=positions.contiguous(),
            key=_heads_of(to_image.k_proj(encoded), heads).transpose(0, 1)[None].contiguous(),
            value=_heads_of(to_image.v_proj(positions), heads).transpose(0, 1)[None].contiguous(),
            query=_heads_of(to_token.q_proj(encoded), heads).permute(1, 2, 0).contiguous(),
        )

    @torch.no_grad()
    def attend(self, image: FoldedImage, points: Tensor) -> PromptStates:
        """The two-way transformer for points `[P, 2]` (x, y) in SAM input pixels, and SAM's estimate of each IoU."""
        prompt = self._embed(points)
        first, second = self.first, self.second
        tokens = first.norm1(first.self_attn(q=prompt, k=prompt, v=prompt))
        tokens = first.norm2(tokens + self._first_token_to_image(tokens + prompt, image))
        tokens = first.norm3(tokens + first.mlp(tokens))
        positions = self.first_image_to_token(image.positions, tokens + prompt, tokens, image.query)
        positions = first.norm4(positions)

        encoded = tokens + prompt
        tokens = second.norm1(tokens + second.self_attn(q=encoded, k=encoded, v=tokens))
        tokens = second.norm2(tokens + self.second_token_to_image(tokens + prompt, positions))
        tokens = second.norm3(tokens + second.mlp(tokens))
        positions = second.norm4(self.second_image_to_token(positions, tokens + prompt, tokens))

        tokens = tokens + self.final_token_to_image(tokens + prompt, positions)
        tokens = self.decoder.transformer.norm_final_attn(tokens)
        iou = self.decoder.iou_prediction_head(tokens[:, 0])[:, 1:].float()
        return PromptStates(tokens, positions, iou)

    @torch.no_grad()
    def upscale(self, states: PromptStates, window: tuple[int, int] = (_SIDE, _SIDE)) -> Tensor:
        """The three masks (subpart, part, whole) of each prompt.

        Args:
            states: prompts worth a mask.
            window: (rows, columns) of the embedding grid to upscale, from the top left.

        Returns:
            mask logits `[P, 3, 4 * rows, 4 * columns]`, in the decoder's dtype.
        """
        mlps = self.decoder.output_hypernetworks_mlps
        hyper = torch.stack([mlps[index](states.tokens[:, 1 + index]) for index in (1, 2, 3)], dim=1)
        scale = SAM_EMBEDDING_STRIDE // SAM_LOW_RES_STRIDE
        masks = hyper.new_empty(*hyper.shape[:2], scale * window[0], scale * window[1])
        # On a CPU, one prompt at a time: its 4 MiB stay in the cache and its memory is reused. Batches cost twice.
        size = 1 if hyper.device.type == "cpu" else len(hyper)
        for start in range(0, len(hyper), size):
            part = slice(start, start + size)
            masks[part] = self._upscale(hyper[part], states.positions[part], window)
        return masks

    def _upscale(self, hyper: Tensor, positions: Tensor, window: tuple[int, int]) -> Tensor:
        """`[P, 3, 32]` mask weights, `[P, T, C]` → mask logits `[P, 3, 4 * rows, 4 * columns]`."""
        prompts, (rows, columns) = len(hyper), window
        grid = positions.view(prompts, _SIDE, _SIDE, -1)[:, :rows, :columns].reshape(-1, positions.shape[-1])
        x = F.linear(grid, self.expand_weight, self.expand_bias).view(-1, self.refine_weight.shape[1])
        norm = self.upscaling_norm
        x = _gelu_(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = _gelu_(F.linear(x, self.refine_weight, self.refine_bias))  # 4 x 4 sub-pixels of 32 channels a position
        masks = torch.bmm(hyper, x.view(prompts, -1, hyper.shape[-1]).transpose(1, 2))
        masks = masks.view(prompts, 3, rows, columns, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return masks.reshape(prompts, 3, 4 * rows, 4 * columns)

    def _embed(self, points: Tensor) -> Tensor:
        """`[P, 2]` → `[P, n, C]`: the decoder's output tokens, the point, and a padding point (no box)."""
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, _ = self.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
        return torch.cat([self.output_tokens.expand(len(points), -1, -1), sparse.to(self.dtype)], dim=1)

    def _first_token_to_image(self, tokens: Tensor, image: FoldedImage) -> Tensor:
        """`[P, n, C]` → `[P, n, C]`; the prompts' tokens line up as one long query against shared keys."""
        attention = self.first.cross_attn_token_to_image
        query = _heads_of(attention.q_proj(tokens.flatten(0, 1)), attention.num_heads).transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(query, image.key, image.value)[0].transpose(0, 1).flatten(1)
        return attention.out_proj(out).view_as(tokens)


def _gelu_(x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_(x)  # in place: new memory for the largest map costs more than the function


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """A projection's weight `[M c, C]` → `[M, c, C]`."""
    return weight.unflatten(0, (heads, -1)).contiguous()


def _heads_of(x: Tensor, heads: int) -> Tensor:
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


def _as_linear(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A 2 x 2, stride-2 transposed convolution as a linear map `[4 C', C]`, sub-pixels (row, column) first, + bias."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    assert convolution.bias is not None  # SAM's have one; a decoder without would not load
    if convolution.kernel_size == (2, 2):
        return weight.view(-1, convolution.in_channels), convolution.bias.repeat(4)
    raise ValueError(f"expected a 2 x 2 kernel, found {convolution.kernel_size}")
