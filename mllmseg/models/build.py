"""Builds the model from its configuration: fetches or finds pretrained weights and joins the stages."""

from __future__ import annotations

import copy
import os
import pathlib

import torch

from mllmseg.config import ModelConfig
from mllmseg.errors import ConfigError
from mllmseg.models.head import SegHead
from mllmseg.models.host import Host, load_host
from mllmseg.models.host_tower import build_host_tower
from mllmseg.models.mllm import build_mllm
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.models.pooling import GEOMETRY_DIM, PLACE_DIM
from mllmseg.models.projector import build_projector
from mllmseg.models.sam import Sam, build_sam
from mllmseg.models.trainable import freeze_all_but
from mllmseg.models.vision_stack import VisionStack
from mllmseg.models.vision_tower import build_vision_tower
from mllmseg.weights import resolve


def build_model(config: ModelConfig) -> MLLMSeg:
    """The model with pretrained frozen parts and freshly initialised trained ones, on the CPU.

    Raises:
        ConfigError: a SAM checkpoint that is no local file, or parts that do not fit each other.
        WeightsError: pretrained weights cannot be fetched.
    """
    sam = _load_sam(config)
    source = resolve(config.language_model.name)
    host = load_host(config.language_model, source)
    vision = _join_vision(config, sam, host, source)
    features = vision.vision_tower.hidden_size
    mllm = build_mllm(config.language_model, source, host)
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
        place_size=PLACE_DIM,
        vocabulary=mllm.embed_names(config.head.vocabulary),
    )
    # A copy: superpixels must not change with what training does to answers.
    mask_decoder = copy.deepcopy(sam.mask_decoder) if "mask_decoder" in config.trainable else None
    model = MLLMSeg(config, vision=vision, projector=projector, mllm=mllm, head=head, mask_decoder=mask_decoder)
    freeze_all_but(model, config.trainable)
    return model


def build_vision_stack(config: ModelConfig) -> VisionStack:
    """The frozen stages that look at pixels; enough to fill a feature cache.

    Without the language model, but where the vision tower is a VLM's own: then that is read and let go again.
    """
    sam = _load_sam(config)
    if config.vision_tower.name != "host":
        return _join_vision(config, sam, None, "")
    source = resolve(config.language_model.name)
    unquantized = config.language_model.model_copy(update={"quantization": "none"})
    return _join_vision(config, sam, load_host(unquantized, source), source)


def _join_vision(config: ModelConfig, sam: Sam, host: Host | None, source: str | os.PathLike[str]) -> VisionStack:
    dtype = getattr(torch, config.vision_tower.dtype)
    if config.vision_tower.name == "host":
        tower = build_host_tower(config.vision_tower, host.vision if host else None, source, dtype)
    else:
        checkpoint = config.vision_tower.checkpoint
        tower = build_vision_tower(config.vision_tower, checkpoint and resolve(checkpoint), dtype=dtype)
    return VisionStack(config, sam=sam, vision_tower=tower)


def _load_sam(config: ModelConfig) -> Sam:
    path = None if config.sam.checkpoint is None else pathlib.Path(resolve(config.sam.checkpoint))
    if path is not None and not path.is_file():
        raise ConfigError(f"sam.checkpoint: {path} is no file; give a path to SAM's .pth, or mllmseg:mobile_sam")
    sam = build_sam(config.sam, path)
    # The mask decoder stays in float32: it is trained through, and costs little beside the encoder.
    sam.image_encoder.to(getattr(torch, config.sam.dtype))
    return sam
