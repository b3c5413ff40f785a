"""SAM's mask decoder for many prompts on one image: the same numbers for a fifth of the work.

An exact algebraic rewrite of segment_anything's `PromptEncoder` and `MaskDecoder` (arXiv 2304.02643):

1. Projections of the image in the first layer do not depend on a point: computed once an image.
2. In later layers, and where a prompt has a mask, the image differs for every prompt, but a prompt has only n = 7
   tokens. A projection of 4096 image positions is absorbed into the tokens instead: with 8 heads, 8 * 7 = 56 columns
   replace 128 inner dimensions (the trick of multi-head latent attention).
3. Stride-2, kernel-2 transposed convolutions do not overlap: each is a matmul, run on the valid window only, in
   channels-last layout; pixels are put in their places only once the mask logits are there.
4. The IoU head needs no mask: its verdict comes first, and only prompts that pass are upscaled.

Shapes: P prompts, n tokens of a prompt, T = 64 * 64 image positions, M heads, c inner channels of a head, C = 256.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mllmseg.constants import SAM_EMBEDDING_STRIDE, SAM_IMAGE_SIZE, SAM_LOW_RES_STRIDE
from mllmseg.models.compiled import Compiled
from mllmseg.models.folded_attention import ImageToToken, TokenToImage, heads_of
from mllmseg.models.sam import Sam

_SIDE = SAM_IMAGE_SIZE // SAM_EMBEDDING_STRIDE
_LOW_RES_SIDE = SAM_IMAGE_SIZE // SAM_LOW_RES_STRIDE
# Which of SAM's four masks: the one for unambiguous prompts, or subpart, part and whole.
SINGLE_MASK, MULTIMASK = (0,), (1, 2, 3)


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
        tokens: `[P, n, C]`: IoU token, four mask tokens, the prompt's own (of a point: itself and a padding point).
        positions: `[P, T, C]`, the image as each prompt sees it.
        iou_predictions: `[P, 4]` float32, for each of SAM's masks.
    """

    tokens: Tensor
    positions: Tensor
    iou_predictions: Tensor

    def select(self, index: Tensor | slice) -> PromptStates:
        """The prompts of `index` (`[P']` int64, `[P]` bool, or a slice)."""
        return PromptStates(self.tokens[index], self.positions[index], self.iou_predictions[index])


class FoldedDecoder:
    """Decodes batches of prompts on one image.

    Args:
        sam: whose prompt encoder and mask decoder to fold; copied, later changes to it have no effect.
        dtype: of the arithmetic. float32 agrees with segment_anything to 1e-4 in the logits; bfloat16 is twice as
            fast on a CPU that has it and agrees in about 99.5 % of the mask's signs.
        mask_decoder: to fold instead of SAM's own; one that was trained.
        compiled_batch: compile what points need for batches of so many, to which smaller ones are filled up; None:
            compile nothing. `docs/superpixels.md` says where that pays.

    Attributes:
        points_decoded: by `attend` so far; what superpixels cost is mostly this.
    """

    def __init__(
        self,
        sam: Sam,
        dtype: torch.dtype = torch.float32,
        mask_decoder: Any = None,
        *,
        compiled_batch: int | None = None,
    ) -> None:
        self.dtype = dtype
        self._compiled_batch = compiled_batch
        self._attend: Callable[[FoldedImage, Tensor], PromptStates] = self._attend_points
        self._upscale: Callable[[Tensor, Tensor], Tensor] = self._upscale_grid
        if compiled_batch is not None:
            self._attend = Compiled(self._attend, "SAM's transformer", dynamic=False)
            self._upscale = Compiled(self._upscale, "SAM's upscaling")
        self.points_decoded = 0
        self.prompt_encoder = sam.prompt_encoder
        decoder = copy.deepcopy(mask_decoder or sam.mask_decoder).to(dtype).requires_grad_(False)
        self.decoder = decoder
        self.first, self.second = decoder.transformer.layers
        encoding = sam.get_dense_pe()[0].flatten(1).t().to(dtype)
        self.position_encoding = encoding
        self.no_mask = sam.prompt_encoder.no_mask_embed.weight.detach().to(dtype)
        self.output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        self.first_token_to_image = TokenToImage(self.first.cross_attn_token_to_image, encoding)
        self.second_token_to_image = TokenToImage(self.second.cross_attn_token_to_image, encoding)
        self.final_token_to_image = TokenToImage(decoder.transformer.final_attn_token_to_image, encoding)
        self.first_image_to_token = ImageToToken(self.first.cross_attn_image_to_token, encoding)
        self.second_image_to_token = ImageToToken(self.second.cross_attn_image_to_token, encoding)
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
            key=heads_of(to_image.k_proj(encoded), heads).transpose(0, 1)[None].contiguous(),
            value=heads_of(to_image.v_proj(positions), heads).transpose(0, 1)[None].contiguous(),
            query=heads_of(to_token.q_proj(encoded), heads).permute(1, 2, 0).contiguous(),
        )

    @torch.no_grad()
    def attend(self, image: FoldedImage, points: Tensor) -> PromptStates:
        """The two-way transformer for points `[P, 2]` (x, y) in SAM input pixels, and SAM's estimate of each IoU."""
        self.points_decoded += len(points)
        missing = max(0, (self._compiled_batch or 0) - len(points))  # one shape, one compilation
        points_and_filling = torch.cat([points, points[-1:].expand(missing, 2)]) if missing else points
        states = self._attend(image, self._with_output_tokens(self.embed(points_and_filling)))
        return states.select(slice(len(points))) if missing else states

    def _attend_points(self, image: FoldedImage, prompt: Tensor) -> PromptStates:
        """`[P, n, C]` tokens of points and what they share → what the transformer makes of both."""
        tokens = self._ask(prompt, lambda query: self._first_token_to_image(query, image))
        positions = self.first_image_to_token(image.positions, tokens + prompt, tokens, image.query)
        return self._second_layer(prompt, tokens, positions)

    @torch.no_grad()
    def attend_prompts(
        self, image_embeddings: Tensor, sparse_prompt_embeddings: Tensor, dense_prompt_embeddings: Tensor
    ) -> PromptStates:
        """The same for any prompts; each may have a mask of its own, so that nothing of the image is shared.

        Args:
            image_embeddings: `[1, 256, 64, 64]`.
            sparse_prompt_embeddings: `[P, K, 256]`.
            dense_prompt_embeddings: `[P, 256, 64, 64]`.
        """
        prompt = self._with_output_tokens(sparse_prompt_embeddings)
        positions = (image_embeddings + dense_prompt_embeddings).flatten(2).to(self.dtype).transpose(1, 2).contiguous()
        tokens = self._ask(prompt, lambda query: self.first_token_to_image(query, positions))
        positions = self.first_image_to_token(positions, tokens + prompt, tokens)
        return self._second_layer(prompt, tokens, positions)

    @torch.no_grad()
    def decode_masks(
        self, image_embeddings: Tensor, sparse_prompt_embeddings: Tensor, dense_prompt_embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`Sam.decode_masks` with one mask a prompt: logits `[N, 1, 256, 256]` and IoU estimates `[N, 1]`, float32.

        On a CPU one prompt at a time: as `upscale` does, and for the same reason.
        """
        count = len(sparse_prompt_embeddings)
        size = 1 if image_embeddings.device.type == "cpu" else max(1, count)
        masks = image_embeddings.new_empty(count, 1, _LOW_RES_SIDE, _LOW_RES_SIDE, dtype=torch.float32)
        ious = masks.new_empty(count, 1)
        for start in range(0, count, size):
            part = slice(start, start + size)
            states = self.attend_prompts(
                image_embeddings, sparse_prompt_embeddings[part], dense_prompt_embeddings[part]
            )
            masks[part] = self.upscale(states, outputs=SINGLE_MASK)
            ious[part] = states.iou_predictions[:, SINGLE_MASK]
        return masks, ious

    def _ask(self, prompt: Tensor, read_image: Callable[[Tensor], Tensor]) -> Tensor:
        """The tokens after the first layer, before the image hears of them."""
        first = self.first
        tokens = first.norm1(first.self_attn(q=prompt, k=prompt, v=prompt))
        tokens = first.norm2(tokens + read_image(tokens + prompt))
        return first.norm3(tokens + first.mlp(tokens))

    def _second_layer(self, prompt: Tensor, tokens: Tensor, positions: Tensor) -> PromptStates:
        """What follows once each prompt has an image of its own, `positions` `[P, T, C]` before the first norm."""
        positions = self.first.norm4(positions)
        second = self.second
        encoded = tokens + prompt
        tokens = second.norm1(tokens + second.self_attn(q=encoded, k=encoded, v=tokens))
        tokens = second.norm2(tokens + self.second_token_to_image(tokens + prompt, positions))
        tokens = second.norm3(tokens + second.mlp(tokens))
        positions = second.norm4(self.second_image_to_token(positions, tokens + prompt, tokens))

        tokens = tokens + self.final_token_to_image(tokens + prompt, positions)
        tokens = self.decoder.transformer.norm_final_attn(tokens)
        return PromptStates(tokens, positions, self.decoder.iou_prediction_head(tokens[:, 0]).float())

    @torch.no_grad()
    def upscale(
        self, states: PromptStates, window: tuple[int, int] = (_SIDE, _SIDE), outputs: tuple[int, ...] = MULTIMASK
    ) -> Tensor:
        """Masks of each prompt.

        Args:
            states: prompts worth a mask.
            window: (rows, columns) of the embedding grid to upscale, from the top left.
            outputs: K of SAM's four masks: `MULTIMASK` (subpart, part, whole) or `SINGLE_MASK`.

        Returns:
            mask logits `[P, K, 4 * rows, 4 * columns]`, in the decoder's dtype.
        """
        mlps = self.decoder.output_hypernetworks_mlps
        hyper = torch.stack([mlps[index](states.tokens[:, 1 + index]) for index in outputs], dim=1)
        scale = SAM_EMBEDDING_STRIDE // SAM_LOW_RES_STRIDE
        masks = hyper.new_empty(*hyper.shape[:2], scale * window[0], scale * window[1])
        # On a CPU, one prompt at a time: its 4 MiB stay in the cache and its memory is reused. Batches cost twice.
        size = 1 if hyper.device.type == "cpu" else len(hyper)
        for start in range(0, len(hyper), size):
            part = slice(start, start + size)
            grid = states.positions[part].unflatten(1, (_SIDE, _SIDE))[:, : window[0], : window[1]]
            masks[part] = self._upscale(hyper[part], grid)
        return masks

    def _upscale_grid(self, hyper: Tensor, grid: Tensor) -> Tensor:
        """`[P, K, 32]` mask weights, `[P, rows, columns, C]` → mask logits `[P, K, 4 * rows, 4 * columns]`."""
        prompts, rows, columns, channels = grid.shape
        grid = grid.reshape(-1, channels)
        x = F.linear(grid, self.expand_weight, self.expand_bias).view(-1, self.refine_weight.shape[1])
        norm = self.upscaling_norm
        x = _gelu_(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = _gelu_(F.linear(x, self.refine_weight, self.refine_bias))  # 4 x 4 sub-pixels of 32 channels a position
        masks = torch.bmm(hyper, x.view(prompts, -1, hyper.shape[-1]).transpose(1, 2))
        masks = masks.view(prompts, -1, rows, columns, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return masks.reshape(prompts, -1, 4 * rows, 4 * columns)

    def embed(self, points: Tensor) -> Tensor:
        """`[P, 2]` → `[P, 2, C]`: `Sam.embed_points` for points inside, without its look-ups that wait for a GPU."""
        encoder = self.prompt_encoder
        place = encoder.pe_layer.forward_with_coords(points[:, None] + 0.5, encoder.input_image_size)
        padding = encoder.not_a_point_embed.weight.expand(len(points), 1, -1)
        return torch.cat([place + encoder.point_embeddings[1].weight, padding], dim=1)

    def _with_output_tokens(self, sparse: Tensor) -> Tensor:
        """`[P, K, C]` → `[P, 5 + K, C]`: the decoder's output tokens first."""
        return torch.cat([self.output_tokens.expand(len(sparse), -1, -1), sparse.to(self.dtype)], dim=1)

    def _first_token_to_image(self, tokens: Tensor, image: FoldedImage) -> Tensor:
        """`[P, n, C]` → `[P, n, C]`; the prompts' tokens line up as one long query against shared keys."""
        attention = self.first.cross_attn_token_to_image
        query = heads_of(attention.q_proj(tokens.flatten(0, 1)), attention.num_heads).transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(query, image.key, image.value)[0].transpose(0, 1).flatten(1)
        return attention.out_proj(out).view_as(tokens)


def _gelu_(x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_(x)  # in place: new memory for the largest map costs more than the function


def _as_linear(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A 2 x 2, stride-2 transposed convolution as a linear map `[4 C', C]`, sub-pixels (row, column) first, + bias."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    assert convolution.bias is not None  # SAM's have one; a decoder without would not load
    if convolution.kernel_size == (2, 2):
        return weight.view(-1, convolution.in_channels), convolution.bias.repeat(4)
    raise ValueError(f"expected a 2 x 2 kernel, found {convolution.kernel_size}")
