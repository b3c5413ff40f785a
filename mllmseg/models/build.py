"""Builds the model from its configuration: fetches or finds pretrained weights and joins the stages."""

from __future__ import annotations

import pathlib

import torch

from mllmseg.config import ModelConfig
from mllmseg.errors import ConfigError
from mllmseg.models.head import SegHead
from mllmseg.models.mllm import build_mllm
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.models.pooling import GEOMETRY_DIM
from mllmseg.models.projector import build_projector
from mllmseg.models.sam import build_sam
from mllmseg.models.vision_stack import VisionStack
from mllmseg.models.vision_tower import build_vision_tower
from mllmseg.weights import resolve


def build_model(config: ModelConfig) -> MLLMSeg:
    """The model with pretrained frozen parts and freshly initialised trained ones, on the CPU in float32.

    Raises:
        ConfigError: a SAM checkpoint that is no local file.
        WeightsError: pretrained weights cannot be fetched.
    """
    vision = build_vision_stack(config)
    features = vision.vision_tower.hidden_size
    mllm = build_mllm(config.language_model, resolve(config.language_model.name))
    projector = build_projector(
        config.projector,
        in_channels=features,
        out_channels=mllm.hidden_size,
        token_norm=float(mllm.word_embeddings().norm(dim=1).mean()),
    )
    head = SegHead(
        config.head,
        llm_size=mllm.hidden_size,
        feature_size=features,
        geometry_size=GEOMETRY_DIM,
        vocabulary=mllm.embed_names(config.head.vocabulary),
    )
    return MLLMSeg(config, vision=vision, projector=projector, mllm=mllm, head=head)


def build_vision_stack(config: ModelConfig) -> VisionStack:
    """The frozen stages that look at pixels; enough to fill a feature cache, without the language model."""
    sam = build_sam(config.sam, _sam_checkpoint(config))
    source = None if config.vision_tower.checkpoint is None else resolve(config.vision_tower.checkpoint)
    tower = build_vision_tower(config.vision_tower, source, dtype=getattr(torch, config.vision_tower.dtype))
    # The mask decoder stays in float32: it is trained through, and costs little beside the encoder.
    sam.image_encoder.to(getattr(torch, config.sam.dtype))
    return VisionStack(config, sam=sam, vision_tower=tower)


def _sam_checkpoint(config: ModelConfig) -> pathlib.Path | None:
    if config.sam.checkpoint is None:
        return None
    path = pathlib.Path(resolve(config.sam.checkpoint))
    if not path.is_file():
        raise ConfigError(f"sam.checkpoint: {path} is no file; give a path to SAM's .pth, or mllmseg:mobile_sam")
    return path
