"""Stages 1 to 3 together: SAM's image encoder, superpixels and vision tower. All frozen, none needs the text."""

from __future__ import annotations

from collections.abc import Sequence

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
        return self.encode_images([inputs], clock)[0]

    @torch.no_grad()
    def encode_images(self, inputs: Sequence[ImageInputs], clock: Stopwatch | None = None) -> list[ImageFeatures]:
        """Several images at once, each with the features it would get alone.

        Both encoders read a batch, the vision tower one for each size of input. Superpixels are made image by image:
        a decoder's batch is full with the points of one. On a GPU that keeps small encoders busy; on a CPU it saves
        nothing and takes memory (`mllmseg bench --suite growth`).
        """
        clock = clock or Stopwatch()
        with clock.stage("image_encoder"):
            embeddings = self.sam.encode_image(torch.stack([item.sam_pixels for item in inputs])).split(1)
        with clock.stage("superpixels"):
            sizes = [item.input_size for item in inputs]
            superpixels = [self.superpixel_generator(*pair) for pair in zip(embeddings, sizes, strict=True)]
        with clock.stage("vision_tower"):
            patch_features = self._look(inputs, embeddings)
        return [
            ImageFeatures(embedding, regions, patches, item.input_size, item.original_size)
            for embedding, regions, patches, item in zip(embeddings, superpixels, patch_features, inputs, strict=True)
        ]

    def _look(self, inputs: Sequence[ImageInputs], embeddings: Sequence[Tensor]) -> list[Tensor]:
        """`[C, h', w']` patch features of each image; those of one size go through the tower together."""
        alike: dict[tuple[object, ...], list[int]] = {}
        for place, item in enumerate(inputs):
            alike.setdefault((item.tower_pixels.shape, item.input_size), []).append(place)
        found: dict[int, Tensor] = {}
        for places in alike.values():
            features = self.vision_tower.encode(
                tower_pixels=torch.stack([inputs[place].tower_pixels for place in places]),
                image_embeddings=torch.cat([embeddings[place] for place in places]),
                input_size=inputs[places[0]].input_size,
            )
            found.update(zip(places, features.float(), strict=True))
        return [found[place] for place in range(len(inputs))]

    @torch.no_grad()
    def predict_boxes(self, image_embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """`Sam.predict_boxes` in the time and the precision of the superpixels' decoder."""
        sparse, dense = self.sam.embed_boxes(boxes), self.sam.no_mask_dense(len(boxes))
        return self.superpixel_generator.decoder(image_embeddings.device).decode_masks(image_embeddings, sparse, dense)
