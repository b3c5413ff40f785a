"""TinyViT-5M as MobileSAM trained it: SAM's image encoder at a hundredth of its cost.

Source: "TinyViT: Fast Pretraining Distillation for Small Vision Transformers" (ECCV 2022, arXiv 2207.10666) and
"Faster Segment Anything" (arXiv 2306.14289), which keeps the last stage at stride 16 and adds SAM's neck. Module names
are the checkpoint's. Tensors stay `[B, C, H, W]` in channels-last memory, so that going to tokens and back is a view.

Shapes: B batch, C channels, H W the grid of a stage, w window side, M heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mllmseg.constants import SAM_EMBEDDING_DIM

# The ImageNet classifier the encoder was pre-trained with; its weights are in the file and no part of SAM.
CLASSIFIER_KEYS = ("norm_head.weight", "norm_head.bias", "head.weight", "head.bias")


class ConvBN(nn.Module):
    """A convolution and its batch norm (frozen statistics), applied as one convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → `[B, C', H', W']`. Folding the norm costs microseconds and saves a pass over the map."""
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        scale = self.bn.weight * torch.rsqrt(self.bn.running_var + self.bn.eps)
        bias = self.bn.bias - self.bn.running_mean * scale
        weight = self.c.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)


class PatchEmbed(nn.Module):
    """Two stride-2 convolutions: pixels to a stride-4 map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvBN(3, dim // 2, 3, 2), nn.GELU(), ConvBN(dim // 2, dim, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 3, H, W]` → `[B, C, H/4, W/4]`."""
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise, project, residual."""

    def __init__(self, dim: int, expand_ratio: int = 4) -> None:
        super().__init__()
        hidden = dim * expand_ratio
        self.conv1 = ConvBN(dim, hidden)
        self.conv2 = ConvBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBN(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → the same."""
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(hidden))


class PatchMerging(nn.Module):
    """Between stages: change the width and, by `stride`, the resolution."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, out_dim)
        self.conv2 = ConvBN(out_dim, out_dim, 3, stride, groups=out_dim)
        self.conv3 = ConvBN(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → `[B, C', H/stride, W/stride]`."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class Attention(nn.Module):
    """Self-attention in a window, with a learned bias for every absolute offset (|dy|, |dx|)."""

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        # The checkpoint numbers the offsets in the order a row-major walk from the corner meets them: dy * w + dx.
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        y, x = y.flatten(), x.flatten()
        offsets = (y[:, None] - y).abs() * window + (x[:, None] - x).abs()
        self.register_buffer("attention_bias_idxs", offsets, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B', w*w, C]` windows → the same."""
        count, length, dim = x.shape
        qkv = self.qkv(self.norm(x)).view(count, length, self.num_heads, 3, -1).permute(3, 0, 2, 1, 4)
        query, key, value = qkv.unbind(0)  # each [B', M, w*w, C/M]
        bias = self.attention_biases[:, self.attention_bias_idxs][None].to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(count, length, dim))


class Mlp(nn.Module):
    """Norm, widen by four, GELU, narrow."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` → the same."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Window attention, a depthwise convolution, an MLP."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(dim, num_heads, window)
        self.local_conv = ConvBN(dim, dim, 3, groups=dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → the same."""
        x = x + self._attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        tokens = self.local_conv(x).permute(0, 2, 3, 1)
        return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        """`[B, H, W, C]` → the same; zeros fill the last windows (before the norm, as the weights were trained)."""
        batch, height, width, dim = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        windows = x.view(batch, rows, side, columns, side, dim).transpose(2, 3).reshape(-1, side * side, dim)
        x = self.attn(windows).view(batch, rows, columns, side, side, dim).transpose(2, 3)
        return x.reshape(batch, rows * side, columns * side, dim)[:, :height, :width]


class Stage(nn.Module):
    """Blocks, then a change of width and resolution where another stage follows."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → `[B, C', H', W']`."""
        x = self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a map."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → the same."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class TinyViT(nn.Module):
    """SAM's image encoder in MobileSAM: 6 M parameters, stride 16, 256 channels.

    Args:
        dims: channels of each stage.
        depths: blocks of each stage; the first stage is convolutional.
        heads: attention heads of each stage.
        windows: window side of each stage.
        out_dim: channels of the image embedding.
    """

    def __init__(
        self,
        dims: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (2, 4, 5, 10),
        windows: Sequence[int] = (7, 7, 14, 7),
        out_dim: int = SAM_EMBEDDING_DIM,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dims[0])
        # SAM needs stride 16: patches give 4, the first two mergings 16, the last keeps it.
        strides = (2, 2, 1)
        stages = []
        for index, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            blocks = [
                MBConv(dim) if index == 0 else TinyViTBlock(dim, heads[index], windows[index]) for _ in range(depth)
            ]
            last = index == len(dims) - 1
            stages.append(Stage(blocks, None if last else PatchMerging(dim, dims[index + 1], strides[index])))
        self.layers = nn.Sequential(*stages)
        self.neck = nn.Sequential(
            nn.Conv2d(dims[-1], out_dim, 1, bias=False),
            LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False),
            LayerNorm2d(out_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pixels `[B, 3, H, W]` → image embeddings `[B, 256, H/16, W/16]`."""
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        return self.neck(self.layers(x)).contiguous()
