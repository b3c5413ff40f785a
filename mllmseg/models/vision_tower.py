"""Vision towers: an image to patch features, frozen.

Shapes: B batch, h w the tower's input in pixels, C channels, h' w' patches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mllmseg.config import VisionTowerConfig
from mllmseg.constants import PIXEL_MEAN, PIXEL_STD, SAM_EMBEDDING_DIM, SAM_EMBEDDING_STRIDE
from mllmseg.errors import AlignmentError, CheckpointError, ConfigError
from mllmseg.registry import Registry

Checkpoint = Path | str | None
VISION_TOWERS: Registry[Callable[[VisionTowerConfig, Checkpoint, torch.dtype], VisionTower]] = Registry("vision tower")


class VisionTower(nn.Module):
    """What every tower offers. Frozen and always in evaluation mode.

    Attributes:
        patch_size: side of a patch in pixels of the tower's input.
        hidden_size: C, channels of the patch features.
        needs_pixels: whether `encode` reads `tower_pixels`; where false, preprocessing need not make them.
        square: whether it reads squares only, to which images are stretched.
        mean, std: of each channel of its input, in 0..255.
    """

    patch_size: int
    hidden_size: int
    needs_pixels: bool = True
    square: bool = False
    mean: tuple[float, ...] = PIXEL_MEAN
    std: tuple[float, ...] = PIXEL_STD

    def freeze(self) -> VisionTower:
        """Takes every parameter out of training."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> VisionTower:
        """Stays in evaluation mode whatever its parent does."""
        return super().train(False)

    def encode(
        self,
        tower_pixels: Tensor,
        image_embeddings: Tensor | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Patch features of the valid image.

        Args:
            tower_pixels: `[B, 3, h, w]`, normalised, sides multiples of `patch_size`.
            image_embeddings: `[B, 256, 64, 64]` from SAM's image encoder, for towers that reuse them.
            input_size: (height, width) of the valid window of SAM's input, for the same towers; one for the batch.

        Returns:
            `[B, C, h', w']` in the tower's dtype, without gradient.
        """
        raise NotImplementedError


def build_vision_tower(
    config: VisionTowerConfig, checkpoint: Checkpoint = None, *, dtype: torch.dtype = torch.float32
) -> VisionTower:
    """Builds the tower `config.name`.

    Args:
        config: which tower; `overrides` are settings of the transformers config for random weights.
        checkpoint: a `.pt`/`.pth` file with DINOv2's original keys, a transformers folder or hub id, or None for random
            weights. `mllmseg:<name>` is resolved by `mllmseg.weights`.
        dtype: of the weights and of the features.

    Raises:
        ConfigError: unknown name, or sizes that differ from the checkpoint's.
        CheckpointError: the file does not exist or does not fit.
    """
    if isinstance(checkpoint, str) and checkpoint.startswith("mllmseg:"):
        from mllmseg.weights import resolve

        checkpoint = resolve(checkpoint)
    return VISION_TOWERS.get(config.name)(config, checkpoint, dtype).freeze()


class Dinov2Tower(VisionTower):
    """DINOv2, with or without registers: final-layernormed patch tokens (arXiv 2304.07193, 2309.16588).

    transformers' model interpolates position embeddings to other sizes as the original does for models with registers:
    bicubic with antialiasing, to the exact grid, no offset.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        settings: Any = model.config
        self.patch_size = int(settings.patch_size)
        self.hidden_size = int(settings.hidden_size)
        self._num_prefix_tokens = 1 + int(getattr(settings, "num_register_tokens", 0))

    @torch.no_grad()
    def encode(
        self,
        tower_pixels: Tensor,
        image_embeddings: Tensor | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """See `VisionTower.encode`. Raises AlignmentError where a side is no multiple of the patch size."""
        height, width = tower_pixels.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise AlignmentError(f"tower input {height}x{width} is not made of whole {self.patch_size}-pixel patches")
        tokens: Tensor = self.model(pixel_values=tower_pixels).last_hidden_state[:, self._num_prefix_tokens :]
        grid = (height // self.patch_size, width // self.patch_size)
        return tokens.transpose(1, 2).reshape(len(tokens), self.hidden_size, *grid)


class SamTower(VisionTower):
    """SAM's own image embeddings as patch features: no second encoder."""

    patch_size = SAM_EMBEDDING_STRIDE
    hidden_size = SAM_EMBEDDING_DIM
    needs_pixels = False

    @torch.no_grad()
    def encode(
        self,
        tower_pixels: Tensor,
        image_embeddings: Tensor | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """See `VisionTower.encode`. Raises AlignmentError where SAM's embeddings or the window are missing."""
        if image_embeddings is None or input_size is None:
            raise AlignmentError("the 'sam' tower needs image_embeddings and input_size")
        # A last patch that is mostly padding would only blur the border, so the window is rounded, not widened.
        rows, columns = (max(1, int(side / SAM_EMBEDDING_STRIDE + 0.5)) for side in input_size)
        return image_embeddings[..., :rows, :columns]


@VISION_TOWERS.register("sam")
def _build_sam(config: VisionTowerConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> VisionTower:
    return SamTower()


@VISION_TOWERS.register("dinov2")
def _build_dinov2(config: VisionTowerConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> VisionTower:
    from transformers import Dinov2WithRegistersModel

    if checkpoint is None:
        model = Dinov2WithRegistersModel(_dinov2_settings(config)).to(dtype)
    elif str(checkpoint).endswith((".pt", ".pth")):
        model = _load_original_dinov2(config, Path(checkpoint)).to(dtype)
    else:
        model = _load_pretrained(str(checkpoint), dtype)
    tower = Dinov2Tower(model)
    if (tower.hidden_size, tower.patch_size) != (config.hidden_size, config.patch_size):
        raise ConfigError(
            f"vision_tower: hidden_size {config.hidden_size} and patch_size {config.patch_size} differ from "
            f"{checkpoint or 'overrides'}: {tower.hidden_size} and {tower.patch_size}"
        )
    return tower


def _dinov2_settings(config: VisionTowerConfig, **known: Any) -> Any:
    """A transformers config: what is `known` from a checkpoint, else ViT's conventions; `overrides` win."""
    from transformers import Dinov2WithRegistersConfig

    settings: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "num_attention_heads": max(1, config.hidden_size // 64),  # 64 a head in every DINOv2
    }
    return Dinov2WithRegistersConfig(**{**settings, **known, **config.overrides})


def _load_pretrained(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModel

    try:
        model: nn.Module
        model, report = AutoModel.from_pretrained(checkpoint, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: neither a .pt file nor a transformers model ({error})") from error
    # transformers only warns about weights it had to invent; a random vision tower must not pass.
    if report["missing_keys"] or report["mismatched_keys"]:
        raise CheckpointError(f"{checkpoint}: missing or misshapen weights: {sorted(report['missing_keys'])[:5]}")
    return model


def _load_original_dinov2(config: VisionTowerConfig, path: Path) -> nn.Module:
    """Dinov2WithRegistersModel from a file with the original repository's keys; sizes are read off the tensors."""
    from transformers import Dinov2WithRegistersModel

    state = _read_state(path)
    missing = [
        key for key in ("pos_embed", "register_tokens", "patch_embed.proj.weight", "norm.weight") if key not in state
    ]
    if missing or "blocks.0.mlp.fc1.weight" not in state:
        raise CheckpointError(f"{path}: not DINOv2 with registers in its original format; missing {missing or 'fc1'}")
    hidden_size, _, patch_size, _ = state["patch_embed.proj.weight"].shape
    settings = _dinov2_settings(
        config,
        hidden_size=hidden_size,
        patch_size=patch_size,
        image_size=round((state["pos_embed"].shape[1] - 1) ** 0.5) * patch_size,
        num_hidden_layers=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        num_register_tokens=state["register_tokens"].shape[1],
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] // hidden_size,
    )
    with torch.device("meta"):  # no time or memory for weights that are about to be replaced
        model: nn.Module = Dinov2WithRegistersModel(settings)
    separate = any(key.endswith("attention.q_proj.weight") for key in model.state_dict())
    try:
        model.load_state_dict(convert_dinov2_keys(state, separate=separate), strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit the vision tower: {error}") from error
    return model


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such vision tower checkpoint")
    try:
        return dict(torch.load(os.fspath(path), map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise CheckpointError(f"{path}: cannot be read as a PyTorch checkpoint ({error}); fetch it again") from error


_RENAMES = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),  # the class token's row comes first in both
    (r"^register_tokens$", "embeddings.register_tokens"),
    (r"^mask_token$", "embeddings.mask_token"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
)


def convert_dinov2_keys(state: dict[str, Tensor], *, separate: bool = True) -> dict[str, Tensor]:
    """Original DINOv2 keys to transformers' `Dinov2WithRegistersModel`.

    Args:
        state: the original state dict; its fused qkv is split in three.
        separate: attention projections named `attention.q_proj`, as in transformers 5.23; otherwise
            `attention.attention.query`, as in earlier releases.
    """
    names = ("q_proj", "k_proj", "v_proj") if separate else ("attention.query", "attention.key", "attention.value")
    output = "o_proj" if separate else "output.dense"
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        if ".attn.qkv." in key:
            for name, part in zip(names, value.chunk(3), strict=True):
                converted[key.replace("attn.qkv", f"attention.{name}")] = part.clone()
        else:
            converted[key.replace("attn.proj", f"attention.{output}")] = value
    return converted
