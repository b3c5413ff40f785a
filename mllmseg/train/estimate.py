"""What a run will need, before anything is loaded: parameters, tokens, memory of a GPU, time.

Estimates, meant to tell a GPU that is large enough from one that is not: the assumptions are constants here, and
docs/training.md compares them with what was measured.
"""

from __future__ import annotations

import json
import math
import operator
import os
import pathlib
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mllmseg.config import ModelConfig, StageConfig, TrainConfig
from mllmseg.constants import SAM_EMBEDDING_STRIDE, SAM_IMAGE_SIZE
from mllmseg.errors import ConfigError
from mllmseg.models.skeleton import Part, Skeleton, TransformerShape, build_skeleton

BYTES: dict[str, float] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "nf4": 0.516}  # nf4: double scales
# Of COCO's photos, which are 4:3: mean superpixels with the carve rule (benchmarks/superpixel_oracle.md).
MEAN_SUPERPIXELS = 36
PHOTO_SHAPE = (480, 640)
# By SmolLM2's tokenizer, on 80 samples of coco-mini: a branch in the chat template, and the frame around the picture.
BRANCH_TOKENS = 22
PREFIX_TOKENS = 3
# Copies of a token's vectors that the backward pass of a layer keeps, in half precision: norms (some in float32),
# queries, attention, residuals; keys and values before and after their rotation; gate, up, their product.
HIDDEN_COPIES, KEY_VALUE_COPIES, INTERMEDIATE_COPIES = 14, 4, 5
# A CUDA context, cuBLAS workspaces and what the allocator loses.
OVERHEAD = 1.5e9
EFFICIENCY = 0.4  # of the speed of large matrix products


@dataclass(frozen=True)
class Layout:
    """How a run is spread.

    Attributes:
        gpus: how many processes.
        zero: DeepSpeed's stage; 0 where every process holds everything.
        offload_optimizer, offload_parameters: whether these stay in main memory.
        checkpointing: whether activations are recomputed.
        accumulate: micro-batches of a step.
    """

    gpus: int = 1
    zero: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    checkpointing: bool = False
    accumulate: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes a GPU needs for each purpose."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of it, with what CUDA takes for itself."""
        return self.weights + self.gradients + self.optimizer + self.activations + OVERHEAD


@dataclass(frozen=True)
class Tokens:
    """What the language model reads for one image: visual tokens, text of all branches, and how many of these."""

    visual: int
    text: int
    branches: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.visual + self.text


def visual_tokens(config: ModelConfig) -> int:
    """How many visual tokens a 4:3 photo gives on average."""
    projector, tower = config.projector, config.vision_tower
    if projector.name in ("average", "resampler"):
        return projector.num_tokens
    if projector.name == "mlp":
        size, patch = tower.image_size, tower.patch_size
        if tower.name == "sam":
            size, patch = SAM_IMAGE_SIZE, SAM_EMBEDDING_STRIDE
        return math.prod(max(1, round(size * side / max(PHOTO_SHAPE) / patch)) for side in PHOTO_SHAPE)
    return min(MEAN_SUPERPIXELS, config.superpixels.max_tokens)


def tokens_of(config: TrainConfig, model: ModelConfig) -> Tokens:
    """What the language model reads for one image of the run."""
    data = config.data
    made = data.positives + data.negatives + data.human_queries + data.captions
    counts = [made if source.name == "coco-mini" else data.queries for source in data.sources]
    weights = [source.weight for source in data.sources]
    branches = round(sum(map(operator.mul, counts, weights)) / sum(weights))
    return Tokens(visual_tokens(model), PREFIX_TOKENS + branches * BRANCH_TOKENS, branches)


def memory_of(
    skeleton: Skeleton, model: ModelConfig, tokens: Tokens, images: int, layout: Layout, *, precision: str
) -> Memory:
    """The memory of one GPU at the peak of a step.

    Args:
        skeleton: of `model`.
        model: the settings.
        tokens: of one image.
        images: of one micro-batch of one GPU.
        layout: how the run is spread.
        precision: of the frozen weights; what is trained is float32, with AdamW's two moments.
    """
    trained = sum(part.parameters for part in skeleton.parts if part.trained)
    weights = sum(_weight_bytes(part, model, precision) for part in skeleton.parts)
    gradients, optimizer = 4.0 * trained, 8.0 * trained
    if layout.zero >= 1:
        optimizer /= layout.gpus
    if layout.zero >= 2:
        gradients /= layout.gpus
    if layout.zero >= 3:
        weights /= layout.gpus
    if layout.offload_optimizer:
        optimizer = 0.0
    if layout.zero >= 3 and layout.offload_parameters:
        weights = 0.0
    if layout.zero >= 3 and skeleton.language_model is not None:
        # Two layers' weights are gathered at a time: the one that computes and the next.
        weights += 2 * _layer_parameters(skeleton.language_model) * BYTES[precision]
    activations = 0.0
    if skeleton.language_model is not None:
        activations = _activations(skeleton.language_model, tokens, images, layout, BYTES[precision])
    return Memory(weights, gradients, optimizer, activations)


def _weight_bytes(part: Part, model: ModelConfig, precision: str) -> float:
    if part.trained:
        return 4.0 * part.parameters
    if part.name == "SAM":
        return BYTES[model.sam.dtype] * part.parameters
    if part.name == "vision tower":
        return BYTES[model.vision_tower.dtype] * part.parameters
    quantized = model.language_model.quantization
    if part.name == "language model" and quantized != "none":
        return BYTES[quantized] * part.linear + BYTES[precision] * (part.parameters - part.linear)
    return BYTES[precision] * part.parameters


def _layer_parameters(shape: TransformerShape) -> int:
    return 2 * shape.hidden * (shape.hidden + shape.key_value) + 3 * shape.hidden * shape.intermediate


def _activations(shape: TransformerShape, tokens: Tokens, images: int, layout: Layout, width: float) -> float:
    read = images * tokens.total
    layer = HIDDEN_COPIES * shape.hidden + KEY_VALUE_COPIES * shape.key_value + INTERMEDIATE_COPIES * shape.intermediate
    kept = shape.layers * shape.hidden + layer if layout.checkpointing else shape.layers * layer
    # Logits are computed where the text loss counts, a third of the text, once in half and twice in full precision.
    logits = images * tokens.text / 3 * shape.vocabulary * (width + 8)
    return read * kept * width + logits


def step_flops(skeleton: Skeleton, tokens: Tokens, images: int, layout: Layout) -> float:
    """Floating-point operations of one step of `instruct`: the language model's, which outweigh all others.

    A frozen weight costs two a token forward and two backward (to its input only), and two more where activations are
    recomputed.
    """
    shape = skeleton.language_model
    if shape is None:
        return math.nan
    passes = 6 if layout.checkpointing else 4
    attention = 2 * shape.layers * shape.hidden * tokens.total
    return images * tokens.total * passes * (shape.layers * _layer_parameters(shape) + attention)


def measure_flops(dtype: torch.dtype) -> float:
    """Floating-point operations a second of this machine's best device, by a few large matrix products."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        float((left @ right)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def layout_of(config: TrainConfig, gpus: int) -> Layout:
    """How a configuration spreads over `gpus` processes: ZeRO's stage and offloading are those of its DeepSpeed file.

    Raises:
        ConfigError: the DeepSpeed file cannot be read.
    """
    engine: Any = getattr(config, "engine", None)
    if engine is None:
        return Layout(gpus=gpus)
    zero: dict[str, Any] = {}
    if engine.deepspeed is not None:
        try:
            zero = json.loads(pathlib.Path(engine.deepspeed).read_text(encoding="utf-8")).get("zero_optimization", {})
        except (OSError, ValueError) as error:
            raise ConfigError(f"engine.deepspeed: {engine.deepspeed} cannot be read ({error})") from error
    return Layout(
        gpus=gpus,
        zero=int(zero.get("stage", 0)),
        offload_optimizer=_offloads(zero, "offload_optimizer"),
        offload_parameters=_offloads(zero, "offload_param"),
        checkpointing=engine.gradient_checkpointing,
        accumulate=engine.accumulate,
    )


def _offloads(zero: dict[str, Any], key: str) -> bool:
    return (zero.get(key) or {}).get("device", "none") != "none"


def planned_gpus() -> int:
    """How many processes the launcher started; alone, one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def describe(config: TrainConfig, model: ModelConfig, *, gpus: int, tflops: float | None = None) -> list[str]:
    """What `mllmseg train --dry-run` says, line by line.

    Args:
        config: the run.
        model: its model.
        gpus: how many processes it will have.
        tflops: speed of one GPU in 10¹² operations a second; None: this machine's is measured.

    Raises:
        ConfigError: the global batch cannot be split over these processes.
    """
    skeleton, tokens, layout = build_skeleton(model), tokens_of(config, model), layout_of(config, gpus)
    share = gpus * layout.accumulate
    stage: StageConfig = config.instruct
    if stage.batch_size % share:
        raise ConfigError(
            f"instruct.batch_size {stage.batch_size} cannot be split over {gpus} processes with {layout.accumulate} "
            f"micro-batches each: make it a multiple of {share}"
        )
    images = stage.batch_size // share
    lines = _describe_parts(skeleton)
    lines += [
        "tokens per sample",
        f"  {tokens.visual} visual ({model.projector.name}), about {tokens.text} of text in {tokens.branches} branches",
        f"  {stage.batch_size} images a step: {images} a GPU in each of {layout.accumulate} micro-batches",
    ]
    if skeleton.language_model is not None:
        memory = memory_of(skeleton, model, tokens, images, layout, precision=config.precision)
        lines += _describe_memory(memory, layout)
        lines += _describe_time(config, skeleton, tokens, layout, tflops)
    return lines + [line for problem in skeleton.unknown for line in (f"not known: {problem}",)]


def _describe_parts(skeleton: Skeleton) -> list[str]:
    lines = []
    total = sum(part.parameters for part in skeleton.parts)
    for trained, title in ((True, "trained parameters"), (False, "frozen parameters")):
        parts = [part for part in skeleton.parts if part.trained is trained]
        count = sum(part.parameters for part in parts)
        lines.append(f"{title}: {count:,} ({count / max(1, total):.2%})")
        lines += [f"  {part.parameters:>15,}  {part.name}" for part in parts]
    return lines


def _describe_memory(memory: Memory, layout: Layout) -> list[str]:
    names: tuple[Literal["weights", "gradients", "optimizer", "activations"], ...] = (
        "weights", "gradients", "optimizer", "activations",
    )  # fmt: skip
    where = f"{layout.gpus} GPU{'s' * (layout.gpus > 1)}, " + (f"ZeRO-{layout.zero}" if layout.zero else "no ZeRO")
    lines = [f"memory per GPU, {where}: about {memory.total / 1e9:.1f} GB"]
    lines += [f"  {getattr(memory, name) / 1e9:>7.2f} GB  {name}" for name in names]
    return [*lines, f"  {OVERHEAD / 1e9:>7.2f} GB  CUDA itself"]


def _describe_time(
    config: TrainConfig, skeleton: Skeleton, tokens: Tokens, layout: Layout, tflops: float | None
) -> list[str]:
    stage = config.instruct
    if tflops is None:
        speed, source = measure_flops(getattr(torch, config.precision)), "measured here"
    else:
        speed, source = tflops * 1e12, "as given"
    flops = step_flops(skeleton, tokens, stage.batch_size, layout)
    seconds = flops / (speed * EFFICIENCY * layout.gpus)
    total = round(seconds * stage.steps)
    return [
        f"time of instruct: about {total // 3600}:{total // 60 % 60:02}:{total % 60:02} h",
        f"  {stage.steps} steps of {seconds:.3g} s, {flops / 1e12:.3g} TFLOP each",
        f"  at {EFFICIENCY:.0%} of {speed / 1e12:.3g} TFLOP/s a GPU ({source})",
        "  without the cache, validation and the other stages",
    ]
