"""A whole model of random weights, as large as wanted, nothing to fetch: its time depends on its shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mllmseg.config import LanguageModelConfig, LoraConfig, ModelConfig, SamConfig, SuperpixelConfig, VisionTowerConfig
from mllmseg.errors import WeightsError
from mllmseg.models.head import SegHead
from mllmseg.models.host import Host
from mllmseg.models.mllm import Mllm, build_mllm
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.models.pooling import GEOMETRY_DIM, PLACE_DIM
from mllmseg.models.projector import build_projector
from mllmseg.models.sam import Sam, build_sam
from mllmseg.models.vision_stack import VisionStack
from mllmseg.models.vision_tower import build_vision_tower
from mllmseg.weights import resolve

Encoder = Literal["tiny_vit", "vit_b", "vit_h"]
EVERY_MASK = {"pred_iou_threshold": -1e9, "stability_threshold": -1.0}


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    layers: int
    width: int
    head: int
    batch: int
    encoders: tuple[Encoder, ...]
    points_per_side: int
    rounds: int
    prefill: tuple[int, ...] = (36, 100, 576)


FULL = Size(
    layers=32, width=4096, head=128, batch=8, encoders=("tiny_vit", "vit_b", "vit_h"), points_per_side=16, rounds=20
)
SMALL = Size(layers=2, width=64, head=16, batch=2, encoders=("tiny_vit",), points_per_side=2, rounds=1)


def real_sam(size: Size, device: torch.device) -> tuple[Sam, SuperpixelConfig, str]:
    """MobileSAM, or one of random weights with thresholds that everything passes; which of the two."""
    config = SuperpixelConfig(points_per_side=size.points_per_side)
    try:
        sam, note = build_sam(SamConfig(), Path(resolve("mllmseg:mobile_sam"))), "MobileSAM's own weights"
    except WeightsError:
        sam, note = build_sam(SamConfig(checkpoint=None), None), "random weights: every mask passes"
        config = config.model_copy(update=EVERY_MASK)
    sam.image_encoder.bfloat16()
    return sam.to(device), config, note


def random_sam(encoder: Encoder, config: SuperpixelConfig, device: torch.device) -> tuple[Sam, SuperpixelConfig]:
    """A SAM of random weights, each of whose masks passes."""
    with device:
        sam = build_sam(SamConfig(encoder=encoder, checkpoint=None), None)
    sam.image_encoder.bfloat16()
    return sam.to(device), config.model_copy(update=EVERY_MASK)


def language_model(size: Size, device: torch.device) -> Host:
    """A Llama of random weights in bfloat16, made where it is needed."""
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=size.width,
        intermediate_size=round(size.width * 2.6875),
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // size.head,
        max_position_embeddings=8192,
        attn_implementation="sdpa",
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    return Host(model, None)


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, in ChatML: nothing has to be fetched."""
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", bos_token="<|im_start|>")
    found.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return found


def join_tokenizer(host: Host) -> Mllm:
    """The language model with a tokenizer of bytes; once only, since it puts a hook on the model."""
    with TemporaryDirectory() as folder:
        tokenizer().save_pretrained(folder)
        return build_mllm(LanguageModelConfig(dtype="bfloat16", lora=LoraConfig(r=0)), folder, host)


def whole_model(encoder: Encoder, sam: Sam, superpixels: SuperpixelConfig, mllm: Mllm, size: Size) -> MLLMSeg:
    """All stages around `sam` and `mllm`; projector, head and vision tower are random, too."""
    full = size is FULL
    tower = VisionTowerConfig(
        checkpoint=None,
        hidden_size=1024 if full else 32,
        overrides={} if full else {"num_hidden_layers": 1, "num_attention_heads": 2},
    )
    if full:
        tower = tower.model_copy(update={"overrides": {"num_hidden_layers": 24}})
    config = ModelConfig(
        sam=SamConfig(encoder=encoder, checkpoint=None),
        superpixels=superpixels,
        vision_tower=tower,
    )
    vision = VisionStack(config, sam=sam, vision_tower=build_vision_tower(tower, dtype=torch.bfloat16))
    projector = build_projector(
        config.projector, in_channels=tower.hidden_size, out_channels=mllm.hidden_size, token_norm=1.0
    )
    head = SegHead(
        config.head,
        llm_size=mllm.hidden_size,
        feature_size=tower.hidden_size,
        geometry_size=GEOMETRY_DIM,
        place_size=PLACE_DIM,
        vocabulary=mllm.embed_names(()),
    )
    return MLLMSeg(config, vision=vision, projector=projector, mllm=mllm, head=head).eval()
