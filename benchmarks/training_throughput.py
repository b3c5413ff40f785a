"""Steps of `instruct` a second: superpixel tokens with the cache, without it, and full patch tokens with the cache.

One language model, the same photos and the same questions in all variants, one step of each in turn, so that whatever
else the machine does meets all alike:

    python benchmarks/training_throughput.py --data ../shared/data/coco-mini --out benchmarks/training_throughput.md
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass

import torch

from mllmseg.config import ModelConfig, TrainConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.data.training import TrainingImage
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.models.allocator import keep_freed_memory
from mllmseg.models.build import build_model, build_vision_stack
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.models.projector import Projector, build_projector
from mllmseg.models.skeleton import build_skeleton
from mllmseg.structures import ImageFeatures
from mllmseg.train.batch import sample_targets
from mllmseg.train.cache import CachedImage, FeatureCache
from mllmseg.train.estimate import Layout, Tokens, memory_of
from mllmseg.train.source import TrainingData
from mllmseg.train.steps import instruct_loss, loss_weights

ROOT = pathlib.Path(__file__).parents[1]


@dataclass
class Variant:
    """One way to train: a projector, where features come from, and what was measured."""

    name: str
    projector: Projector
    cache: FeatureCache
    online: bool
    seconds: list[float]
    visual: list[int]
    text: list[int]
    kept: float = 0.0  # bytes that autograd keeps for the backward pass of a step
    estimate: float = 0.0  # what `mllmseg train --dry-run` would say


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a folder in coco-mini's format")
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--questions", type=int, default=3, help="about each photo")
    parser.add_argument("--cache", type=pathlib.Path, help="kept from run to run; none: a temporary folder")
    parser.add_argument("--out", type=pathlib.Path, help="a Markdown file; none: stdout")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        text = measure(arguments, arguments.cache or pathlib.Path(folder))
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text)


def measure(arguments: argparse.Namespace, folder: pathlib.Path) -> str:
    """Runs every variant on every photo in turn, once for warming up."""
    negatives = arguments.questions // 3
    overrides = [
        f"data.root={arguments.data}", f"cache={folder}", "data.flip=0", "val_photos=0", "data.captions=0",
        f"data.positives={arguments.questions - negatives}", f"data.negatives={negatives}", "data.human_queries=0",
    ]  # fmt: skip
    config = TrainConfig.from_yaml(ROOT / "configs" / "train" / "tiny.yaml", overrides)
    model_config = ModelConfig.from_yaml(ROOT / "configs" / "model" / "tiny.yaml")
    data = TrainingData(config, model_config)
    photos = data.photos[: arguments.photos]
    torch.manual_seed(0)
    model = build_model(model_config)
    for parameter in model.mllm.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    variants = make_variants(model, model_config, folder, data, photos)
    encoder = ConversationEncoder(model.mllm.tokenizer, model_config.language_model.system_prompt)
    skeleton = build_skeleton(model_config)
    for number, photo in enumerate([photos[0], *photos]):
        for variant in variants:
            with Activations(model) if not number else contextlib.nullcontext() as activations:
                spent, visual, text = step(model, variant, data, encoder, photo, config)
            if activations is not None:
                tokens = Tokens(visual, text, 0)
                variant.kept = activations.bytes
                memory = memory_of(skeleton, model_config, tokens, 1, Layout(), precision="bfloat16")
                variant.estimate = memory.activations
            print(f"{photo.path.name} {variant.name}: {spent:.2f} s, {visual} visual tokens", file=sys.stderr)
            if number:
                variant.seconds.append(spent)
                variant.visual.append(visual)
                variant.text.append(text)
    return report(variants, arguments)


class Activations:
    """Counts what autograd keeps for the backward pass, weights apart."""

    def __init__(self, model: MLLMSeg) -> None:
        self.weights = {item.untyped_storage().data_ptr() for item in model.parameters()}
        self.kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def __enter__(self) -> Activations:
        self.hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.__exit__(*_)

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(storage.nbytes() for place, storage in self.kept.items() if place not in self.weights)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self.kept[storage.data_ptr()] = storage
        return tensor


def make_variants(
    model: MLLMSeg, config: ModelConfig, folder: pathlib.Path, data: TrainingData, photos: list[TrainingImage]
) -> list[Variant]:
    """The four of them, with their caches filled."""
    variants = []
    norm = float(model.mllm.word_embeddings().float().norm(dim=1).mean())
    for name, kind, size, online in (
        ("superpixels, cached", "semantic", 336, False),
        ("superpixels, encoders at every step", "semantic", 336, True),
        ("every patch of 336 pixels, cached", "mlp", 336, False),
        ("every patch of 518 pixels, cached", "mlp", 518, False),
    ):
        tower = config.vision_tower.model_copy(update={"image_size": size})
        settings = config.model_copy(update={"vision_tower": tower})
        cache = FeatureCache(folder, settings, embeddings=False)
        entries = [data.entry(photo) for photo in photos]
        if any(entry not in cache for entry in entries):
            cache.fill(entries, stack=build_vision_stack(settings), progress=True)
        projector = model.projector
        if kind == "mlp":
            projector = build_projector(
                config.projector.model_copy(update={"name": "mlp"}),
                in_channels=model.vision.vision_tower.hidden_size,
                out_channels=model.mllm.hidden_size,
                token_norm=norm,
            )
        variants.append(Variant(name, projector, cache, online, [], [], []))
    return variants


def step(
    model: MLLMSeg,
    variant: Variant,
    data: TrainingData,
    encoder: ConversationEncoder,
    photo: TrainingImage,
    config: TrainConfig,
) -> tuple[float, int, int]:
    """One optimizer step on one photo; returns its seconds, visual tokens and text tokens."""
    model.projector = variant.projector
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, foreach=True)
    began = time.process_time()
    cached = read(model, variant, data, photo)
    sample = data.sample(photo, cached, random.Random(photo.id))
    with torch.autocast("cpu", torch.bfloat16):
        features = cached.features
        tokens = model.project(features)
        text = encoder.encode(sample.branches, len(tokens.tokens))
        targets = sample_targets(sample)
        terms = instruct_loss(model, [features], [tokens], [text], [targets], [torch.zeros(0, dtype=torch.int64)])
        loss = terms.total(loss_weights(config.losses), terms.counts)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    spent = time.process_time() - began
    optimizer.zero_grad()
    return spent, len(tokens.tokens), len(text.input_ids) - len(tokens.tokens)


def read(model: MLLMSeg, variant: Variant, data: TrainingData, photo: TrainingImage) -> CachedImage:
    """A photo's features, from the cache or by the frozen encoders; estimated masks from the cache either way."""
    cached = variant.cache.read(data.entry(photo), embeddings=False)
    features = cached.features.to(torch.float32)
    if variant.online:
        inputs = preprocess(load_image(photo.path), **model.vision.tower_input)
        features = encode(model, inputs)
    return CachedImage(features, cached.estimated)


def encode(model: MLLMSeg, inputs: object) -> ImageFeatures:
    """The frozen encoders, as a run without a cache would use them."""
    with torch.no_grad():
        return model.encode_image(inputs)  # type: ignore[arg-type]


def report(variants: list[Variant], arguments: argparse.Namespace) -> str:
    """The table."""
    base = statistics.median(variants[0].seconds)
    lines = [
        "# Training throughput",
        "",
        "Steps of `instruct` with the tiny preset's language model (SmolLM2-135M, bfloat16 autocast, LoRA): one photo",
        "of coco-mini a step with the same questions in every variant, one step of each variant in turn, after one to",
        "warm up. Forward, backward and AdamW, reading or computing the features included, in CPU seconds of one",
        "thread, which other work on the machine changes little.",
        f"{len(variants[0].seconds)} photos, one thread, torch {torch.__version__}, Python "
        + platform.python_version()
        + ".",
        "",
        f"    python {shlex.join(sys.argv)}",
        "",
        (
            "| features | visual tokens | text tokens | CPU-s a step (median) | samples/s | time against the first "
            "| activations of the first photo, GB | as estimated |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants:
        seconds = statistics.median(variant.seconds)
        ratios = [ours / first for ours, first in zip(variant.seconds, variants[0].seconds, strict=True)]
        low, high = min(ratios), max(ratios)
        lines.append(
            f"| {variant.name} | {statistics.mean(variant.visual):.0f} | {statistics.mean(variant.text):.0f} "
            f"| {seconds:.2f} | {1 / seconds:.3f} | {seconds / base:.2f} × ({low:.2f} to {high:.2f} by photo) "
            f"| {variant.kept / 1e9:.2f} | {variant.estimate / 1e9:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
