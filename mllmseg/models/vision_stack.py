"""Stages 1 to 3 together: SAM's image encoder, superpixels and vision tower. All frozen, none needs the text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mllmseg.config import ModelConfig
from mllmseg.models.sam import Sam
from mllmseg.models.superpixels import SuperpixelGenerator
from mllmseg.models.vision_tower import VisionTower
from mllmseg.structures import ImageFeatures, ImageInputs, TowerInput
from mllmseg.timing import Stopwatch


class VisionStack(nn.Module):
    """Everything that depends on the image alone, so that it can be computed once and cached."""

    def __init__(self, config: ModelConfig, *, sam: Sam, vision_tower: VisionTower) -> None:
        super().__init__()
        self.sam = sam
        self.superpixel_generator = SuperpixelGenerator(sam, config.superpixels)
        self.vision_tower = vision_tower
        self._tower_size = config.vision_tower.image_size
        self.requires_grad_(False)

    @property
    def tower_input(self) -> TowerInput:
        """What `preprocess` has to make for the vision tower."""
        tower = self.vision_tower
        return TowerInput(
            tower_size=self._tower_size if tower.needs_pixels else None,
            patch_size=tower.patch_size,
            square=tower.square,
            mean=tower.mean,
            std=tower.std,
        )

    @torch.no_grad()
    def encode_image(self, inputs: ImageInputs, clock: Stopwatch | None = None) -> ImageFeatures:
        """One preprocessed image → its features; `clock` takes the time of each stage."""
        clock = clock or Stopwatch()
        with clock.stage("image_encoder"):
            image_embeddings = self.sam.encode_image(inputs.sam_pixels[None])
        with clock.stage("superpixels"):
            superpixels = self.superpixel_generator(image_embeddings, inputs.input_size)
        with clock.stage("vision_tower"):
            patch_features = self.vision_tower.encode(
                tower_pixels=inputs.tower_pixels[None], image_embeddings=image_embeddings, input_size=inputs.input_size
            )[0].float()
        return ImageFeatures(image_embeddings, superpixels, patch_features, inputs.input_size, inputs.original_size)

    @torch.no_grad()
    def predict_boxes(self, image_embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """`Sam.predict_boxes` in the time and the precision of the superpixels' decoder."""
        sparse, dense = self.sam.embed_boxes(boxes), self.sam.no_mask_dense(len(boxes))
        return self.superpixel_generator.decoder(image_embeddings.device).decode_masks(image_embeddings, sparse, dense)
