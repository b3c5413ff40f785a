"""The vision tower of a VLM: its own vision encoder and connector, whose patches are in the language model's space.

Shapes: B batch, h w the tower's input in pixels, h' w' visual tokens as the VLM itself would read them, P = h' * w',
D LLM width, k DeepStack layers, C = (1 + k) * D.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor

from mllmseg.config import VisionTowerConfig
from mllmseg.errors import AlignmentError, CheckpointError, ConfigError
from mllmseg.models.vision_tower import VisionTower


class HostTower(VisionTower):
    """What a VLM's `get_image_features` says of an image, as a grid.

    There are two kinds, told apart by what that method takes: those that read a list of patches with the size of their
    grid keep the image's aspect; others read squares of one size, to which the image is stretched. One view of the
    image is read, no tiles: superpixels are few, and what they pool is the whole image at once.

    Where a VLM also feeds features to the first layers of its decoder (DeepStack, arXiv 2406.04334), these are further
    channels after the D of the tokens.

    Args:
        vision: the VLM's base model without its decoder.
        source: its folder or hub id, for its mean and deviation of pixels.
    """

    def __init__(self, vision: Any, source: str | os.PathLike[str]) -> None:
        super().__init__()
        self.model = vision
        settings = vision.config
        vision_settings = settings.vision_config
        takes = inspect.signature(vision.get_image_features).parameters
        self._takes_grid = "image_grid_thw" in takes
        self._takes_several_images = "pixel_attention_mask" in takes
        self.square = not self._takes_grid
        self.patch_size = _token_size(settings)
        self.deepstack = len(getattr(vision_settings, "deepstack_visual_indexes", None) or ())
        self.hidden_size = (1 + self.deepstack) * int(settings.get_text_config().hidden_size)
        self.mean, self.std = _pixel_statistics(_image_processor(source))

    @torch.no_grad()
    def encode(
        self,
        tower_pixels: Tensor,
        image_embeddings: Tensor | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """See `VisionTower.encode`; C counts the DeepStack channels.

        Raises:
            AlignmentError: a side is no multiple of a token's, or the VLM makes another number of tokens.
        """
        height, width = tower_pixels.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise AlignmentError(f"tower input {height}x{width} is not made of whole {self.patch_size}-pixel tokens")
        grid = (height // self.patch_size, width // self.patch_size)
        output = self._image_features(tower_pixels.to(next(self.model.parameters()).dtype))
        layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        features = torch.cat([torch.stack(list(layer)) for layer in layers], dim=-1)  # [B, P, C]
        if features.shape[1:] != (grid[0] * grid[1], self.hidden_size):
            raise AlignmentError(
                f"the VLM made {tuple(features.shape[1:])} of {height}x{width} pixels, expected {grid[0]}x{grid[1]} "
                f"tokens of {self.hidden_size}: is vision_tower.image_size the one it was trained with?"
            )
        return features.transpose(1, 2).reshape(len(features), self.hidden_size, *grid)

    def _image_features(self, pixels: Tensor) -> Any:
        model: Any = self.model
        if self._takes_grid:
            patches, grid = flatten_patches(pixels, model.config.vision_config)
            return model.get_image_features(pixel_values=patches, image_grid_thw=grid)
        return model.get_image_features(pixel_values=pixels[:, None] if self._takes_several_images else pixels)


def flatten_patches(pixels: Tensor, vision_settings: Any) -> tuple[Tensor, Tensor]:
    """Images as Qwen's vision encoders read them: one row a patch, patches that will be merged side by side.

    Args:
        pixels: `[B, 3, h, w]`.
        vision_settings: patch_size, spatial_merge_size and temporal_patch_size; an image is repeated in time.

    Returns:
        `[B * patches, 3 * time * patch_size ** 2]`, and `[B, 3]` int64 (time, rows, columns) of each image's grid.
    """
    size, merge = vision_settings.patch_size, vision_settings.spatial_merge_size
    time = vision_settings.temporal_patch_size
    batch, channels, height, width = pixels.shape
    rows, columns = height // size, width // size
    cells = pixels.view(batch, channels, rows // merge, merge, size, columns // merge, merge, size)
    cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]
    cells = cells.expand(*cells.shape[:6], time, size, size)
    grid = torch.tensor([[1, rows, columns]] * batch, device=pixels.device)
    return cells.reshape(batch * rows * columns, -1), grid


def build_host_tower(
    config: VisionTowerConfig, vision: nn.Module | None, source: str | os.PathLike[str], dtype: torch.dtype
) -> VisionTower:
    """The tower of a VLM that was loaded and split.

    Raises:
        ConfigError: the language model does not see, or sizes differ from the VLM's.
        CheckpointError: the VLM comes without the settings of its image processor.
    """
    if vision is None:
        raise ConfigError(f"vision_tower.name is 'host', but {source} is a language model that does not see")
    tower = HostTower(nn.Module.to(vision, dtype), source)
    if (tower.hidden_size, tower.patch_size) != (config.hidden_size, config.patch_size):
        raise ConfigError(
            f"vision_tower: hidden_size {config.hidden_size} and patch_size {config.patch_size} differ from {source}: "
            f"{tower.hidden_size} and {tower.patch_size}"
        )
    return tower.freeze()


def _token_size(settings: Any) -> int:
    """Pixels a side of what becomes one visual token: the encoder's patches and what the connector merges of them."""
    size = settings.vision_config.patch_size
    size = size[0] if isinstance(size, list | tuple) else size
    if (merge := getattr(settings.vision_config, "spatial_merge_size", None)) is not None:
        return int(size * merge)
    if (ratio := getattr(settings, "downsample_ratio", None)) is not None:
        return round(size / ratio)
    return int(size * getattr(settings, "scale_factor", 1))


def copy_image_processor(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Writes the image processor of the VLM `source` beside an exported model."""
    _image_processor(source).save_pretrained(folder)


def _image_processor(source: str | os.PathLike[str]) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(source, backend="pil")  # the other backend needs torchvision
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source}: the VLM's image processor cannot be read: {error}") from error


def _pixel_statistics(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel in 0..255, as the VLM's image processor has them."""
    mean, std = (tuple(255.0 * value for value in values) for values in (processor.image_mean, processor.image_std))
    return mean, std
