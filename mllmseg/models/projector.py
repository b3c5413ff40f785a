"""Projectors: patch features and superpixels to visual tokens.

Shapes: C channels, h' w' the patch grid, P = h' * w', S superpixels, T tokens, E the projector's width, D LLM width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mllmseg.config import ProjectorConfig
from mllmseg.errors import ConfigError
from mllmseg.models.pooling import (
    GEOMETRY_DIM,
    POSITION_DIM,
    grid_position_code,
    patch_weights,
    pool_superpixels,
    superpixel_geometry,
)
from mllmseg.registry import Registry
from mllmseg.structures import Superpixels, VisualTokens

PROJECTORS: Registry[Callable[[ProjectorConfig, int, int, float], Projector]] = Registry("projector")


class Projector(nn.Module):
    """What every projector shares: normalised input, an MLP to the language model's width, and its scale.

    The final LayerNorm starts at `token_norm / sqrt(D)`, so that visual tokens enter the language model about as long
    as its word embeddings, which is where its layers expect them.
    """

    def __init__(self, config: ProjectorConfig, in_channels: int, out_channels: int, token_norm: float) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(in_channels)
        self.input_projection = nn.Linear(in_channels, config.hidden_size)
        self.output_projection = nn.Sequential(nn.GELU(), nn.Linear(config.hidden_size, out_channels))
        self.output_norm = nn.LayerNorm(out_channels)
        nn.init.constant_(self.output_norm.weight, token_norm / math.sqrt(out_channels))

    def forward(self, patch_features: Tensor, superpixels: Superpixels) -> VisualTokens:
        """Visual tokens of one image.

        Args:
            patch_features: `[C, h', w']` over the valid image; any grid from 1 x 1.
            superpixels: the partition of the same image.

        Returns:
            `[T, D]` tokens and the `[S, T]` assignment of superpixels to them.
        """
        raise NotImplementedError

    def num_tokens(self, patch_features: Tensor, superpixels: Superpixels) -> int:
        """T of `forward`, without running it."""
        return len(superpixels)

    def normalised(self, patch_features: Tensor) -> Tensor:
        """`[C, h', w']` of any dtype to `[P, C]` in the parameters' dtype, each patch normalised."""
        normalised: Tensor = self.input_norm(patch_features.flatten(1).T.to(self.input_norm.weight.dtype))
        return normalised

    def to_tokens(self, hidden: Tensor) -> Tensor:
        """`[T, E]` to `[T, D]`."""
        tokens: Tensor = self.output_norm(self.output_projection(hidden))
        return tokens


def build_projector(
    config: ProjectorConfig, *, in_channels: int, out_channels: int, token_norm: float = 1.0
) -> Projector:
    """Builds the projector `config.name`.

    Args:
        config: which projector and its sizes.
        in_channels: C of the patch features.
        out_channels: D, the language model's width.
        token_norm: length of a token at the start, about the mean norm of the language model's word embeddings.

    Raises:
        ConfigError: unknown name, heads that do not divide the width, or a number of tokens that is no square.
    """
    if config.hidden_size % config.num_heads:
        raise ConfigError(f"projector: num_heads {config.num_heads} does not divide hidden_size {config.hidden_size}")
    return PROJECTORS.get(config.name)(config, in_channels, out_channels, token_norm)


class SuperpixelPositionEmbedding(nn.Module):
    """SSPE: geometry and position of each region, `[S, GEOMETRY_DIM]` to `[S, E]`."""

    def __init__(self, size: int, *, hidden_size: int | None = None) -> None:
        super().__init__()
        hidden_size = size // 2 if hidden_size is None else hidden_size
        self.layers = nn.Sequential(nn.Linear(GEOMETRY_DIM, hidden_size), nn.GELU(), nn.Linear(hidden_size, size))

    def forward(self, superpixels: Superpixels) -> Tensor:
        """`[S, E]` in the parameters' dtype."""
        geometry = superpixel_geometry(superpixels).to(next(self.parameters()).dtype)
        embedding: Tensor = self.layers(geometry)
        return embedding


class SuperpixelAggregator(nn.Module):
    """SSA: each region's query attends to the patches inside it (detail) and to all patches (context).

    Both share keys and values. Inside, the logarithm of the area weights is added to the attention logits: patches
    outside have weight 0 and drop out, and where a query is indifferent the result is the area-weighted average.
    """

    def __init__(self, hidden_size: int, in_channels: int, num_heads: int, *, use_position: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, 2 * hidden_size)
        self.key = nn.Linear(in_channels, hidden_size)
        self.value = nn.Linear(in_channels, hidden_size)
        self.position = nn.Linear(POSITION_DIM, hidden_size, bias=False) if use_position else None
        self.output = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, hidden: Tensor, patches: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
        """The residual to add.

        Args:
            hidden: `[S, E]` one row a region.
            patches: `[P, C]` normalised patch features.
            weights: `[S, P]` from `patch_weights`; at least one positive entry a row.
            grid: (h', w') of the patches.

        Returns:
            `[S, E]`.
        """
        inside, context = self.query(self.norm(hidden)).view(len(hidden), 2, -1).unbind(1)
        key = self.key(patches)
        if self.position is not None:
            key = key + self.position(grid_position_code(grid, patches.device).to(patches.dtype))
        key = _heads(key, self.num_heads)
        value = _heads(self.value(patches), self.num_heads)
        queries = torch.stack([_heads(inside, self.num_heads), _heads(context, self.num_heads)])
        bias = torch.stack([weights.log(), torch.zeros_like(weights)])[:, None].to(queries.dtype)
        attended = F.scaled_dot_product_attention(queries, key[None], value[None], attn_mask=bias)  # [2, heads, S, d]
        residual: Tensor = self.output(attended.permute(2, 0, 1, 3).flatten(1))
        return residual


def _aggregator(config: ProjectorConfig, in_channels: int) -> SuperpixelAggregator:
    # Without SSPE no part of the projector knows where anything is: the ablation stays clean.
    return SuperpixelAggregator(config.hidden_size, in_channels, config.num_heads, use_position=config.sspe)


def _heads(rows: Tensor, num_heads: int) -> Tensor:
    """`[n, E]` to `[heads, n, E / heads]`."""
    return rows.view(len(rows), num_heads, -1).transpose(0, 1)


@PROJECTORS.register("semantic")
class SemanticProjector(Projector):
    """One token a superpixel: pooled patch features, SSPE and SSA, each switchable (SVP, arXiv 2509.13676)."""

    def __init__(self, config: ProjectorConfig, in_channels: int, out_channels: int, token_norm: float) -> None:
        super().__init__(config, in_channels, out_channels, token_norm)
        width = config.hidden_size
        self.sspe = SuperpixelPositionEmbedding(width) if config.sspe else None
        self.ssa = _aggregator(config, in_channels) if config.ssa else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Linear(width, width)

    def forward(self, patch_features: Tensor, superpixels: Superpixels) -> VisualTokens:
        """See `Projector.forward`; T = S and the assignment is the identity."""
        grid = (patch_features.shape[-2], patch_features.shape[-1])
        patches = self.normalised(patch_features)
        weights = patch_weights(superpixels, grid)
        hidden = self.input_projection(weights.to(patches.dtype) @ patches)
        if self.sspe is not None:
            hidden = hidden + self.sspe(superpixels)
        if self.ssa is not None:
            hidden = hidden + self.ssa(hidden, patches, weights, grid)
        tokens = self.to_tokens(self.mlp(self.mlp_norm(hidden)))
        return VisualTokens(tokens=tokens, assignment=torch.eye(len(superpixels), device=tokens.device))


@PROJECTORS.register("mlp")
class MlpProjector(Projector):
    """One token a patch through a two-layer MLP, as in LLaVA 1.5 (arXiv 2310.03744)."""

    def forward(self, patch_features: Tensor, superpixels: Superpixels) -> VisualTokens:
        """See `Projector.forward`; T = P, in row order."""
        grid = (patch_features.shape[-2], patch_features.shape[-1])
        tokens = self.to_tokens(self.input_projection(self.normalised(patch_features)))
        return VisualTokens(tokens=tokens, assignment=patch_weights(superpixels, grid))

    def num_tokens(self, patch_features: Tensor, superpixels: Superpixels) -> int:
        """P."""
        return patch_features.shape[-2] * patch_features.shape[-1]


@PROJECTORS.register("average")
class AverageProjector(Projector):
    """One token a cell of a k x k grid of averages."""

    def __init__(self, config: ProjectorConfig, in_channels: int, out_channels: int, token_norm: float) -> None:
        super().__init__(config, in_channels, out_channels, token_norm)
        self.side = math.isqrt(config.num_tokens)
        if self.side < 1 or self.side**2 != config.num_tokens:
            raise ConfigError(f"projector: num_tokens {config.num_tokens} is no square, which 'average' needs")

    def forward(self, patch_features: Tensor, superpixels: Superpixels) -> VisualTokens:
        """See `Projector.forward`; T = k * k, in row order. A grid smaller than k x k repeats patches."""
        cells = F.adaptive_avg_pool2d(patch_features[None], self.side)[0]
        tokens = self.to_tokens(self.input_projection(self.normalised(cells)))
        return VisualTokens(tokens=tokens, assignment=patch_weights(superpixels, (self.side, self.side)))

    def num_tokens(self, patch_features: Tensor, superpixels: Superpixels) -> int:
        """The cells of the grid."""
        return self.side**2


@PROJECTORS.register("resampler")
class ResamplerProjector(Projector):
    """A fixed number of learned queries that attend to the patches (Flamingo, arXiv 2204.14198, one layer)."""

    def __init__(self, config: ProjectorConfig, in_channels: int, out_channels: int, token_norm: float) -> None:
        super().__init__(config, in_channels, out_channels, token_norm)
        width = config.hidden_size
        if config.num_tokens < 1:
            raise ConfigError(f"projector: num_tokens {config.num_tokens}, at least 1 is needed")
        self.num_heads = config.num_heads
        self.queries = nn.Parameter(torch.randn(config.num_tokens, width))
        self.position = nn.Linear(POSITION_DIM, width, bias=False)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)

    def forward(self, patch_features: Tensor, superpixels: Superpixels) -> VisualTokens:
        """See `Projector.forward`; T = `num_tokens`, assigned by how much each looks at each superpixel."""
        grid = (patch_features.shape[-2], patch_features.shape[-1])
        hidden = self.input_projection(self.normalised(patch_features))  # [P, E]
        key = hidden + self.position(grid_position_code(grid, hidden.device).to(hidden.dtype))
        query, key, value = (
            _heads(rows, self.num_heads) for rows in (self.query(self.queries), self.key(key), self.value(hidden))
        )
        logits = query @ key.transpose(1, 2) / math.sqrt(key.shape[-1])
        attention = logits.float().softmax(-1)  # [heads, T, P]
        attended = (attention.to(value.dtype) @ value).transpose(0, 1).flatten(1)
        tokens = self.to_tokens(self.queries + self.attention_output(attended))
        # The small constant keeps rows finite where every token looks elsewhere.
        looks = patch_weights(superpixels, grid) @ attention.mean(0).T + 1e-8
        return VisualTokens(tokens=tokens, assignment=looks / looks.sum(1, keepdim=True))

    def num_tokens(self, patch_features: Tensor, superpixels: Superpixels) -> int:
        """As many as there are queries."""
        return len(self.queries)


@PROJECTORS.register("pooled")
class PooledProjector(Projector):
    """One token a superpixel: a VLM's own visual embeddings, averaged, with SSPE as a residual that starts at zero.

    What comes in is in the language model's space already, so nothing stands between: before any training the VLM reads
    the averages of tokens it knows. Channels after the first D are its DeepStack features, pooled alike.
    """

    def __init__(self, config: ProjectorConfig, in_channels: int, out_channels: int, token_norm: float) -> None:
        nn.Module.__init__(self)  # none of the layers that other projectors translate with
        if in_channels % out_channels:
            raise ConfigError(f"projector: 'pooled' needs features of the language model's width {out_channels}")
        self.width = out_channels
        self.sspe = SuperpixelPositionEmbedding(out_channels, hidden_size=config.hidden_size) if config.sspe else None
        if self.sspe is not None:
            for parameter in self.sspe.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, patch_features: Tensor, superpixels: Superpixels) -> VisualTokens:
        """See `Projector.forward`; T = S and the assignment is the identity."""
        pooled = pool_superpixels(patch_features, superpixels).float()
        tokens, deepstack = pooled[:, : self.width], pooled[:, self.width :]
        if self.sspe is not None:
            tokens = tokens + self.sspe(superpixels)
        assignment = torch.eye(len(superpixels), device=tokens.device)
        return VisualTokens(tokens, assignment, deepstack if deepstack.shape[1] else None)
