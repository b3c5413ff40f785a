"""How near to a GPU's limits encoders, superpixels, a 7B-class language model and whole questions come.

    python benchmarks/gpu_roofline.py --out benchmarks/gpu_roofline.md
    python benchmarks/gpu_roofline.py --device cpu --small    # does it run at all? Its numbers mean nothing.

The limits are measured in the same run. Language model, ViT-B and ViT-H have random weights: their time does not
depend on them. Superpixels depend on what SAM sees, so they are MobileSAM's where its weights are at hand; where not,
every mask passes, which is more work than a photo makes.
"""

from __future__ import annotations

import functools
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from random_model import FULL, SMALL, Encoder, Size, join_tokenizer, language_model, random_sam, real_sam, whole_model
from roofline import HEADER, Roof, Row, count_waits, measure, measure_roof, weight_bytes
from transformers import DynamicCache, LlamaForCausalLM

from mllmseg.config import SuperpixelConfig
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.host import Host
from mllmseg.models.mllm import Mllm
from mllmseg.models.sam import Sam
from mllmseg.models.superpixels import SuperpixelGenerator
from mllmseg.structures import ImageInputs

PHOTO = Path(__file__).parents[1] / "examples" / "astronaut.jpg"
QUESTION_TOKENS = 24


def main(
    out: Annotated[Path | None, typer.Option(help="Write the page there, too.")] = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu to see whether it runs.")] = "cuda",
    small: Annotated[bool, typer.Option(help="Everything tiny.")] = False,
) -> None:
    """Measures the limits and what comes near them; prints a page."""
    if device == "cuda" and not torch.cuda.is_available():
        typer.echo(
            f"torch {torch.__version__} finds no GPU here, so there is nothing to measure; --device cpu --small runs "
            "everything once in tiny sizes",
            err=True,
        )
        raise typer.Exit(1)
    torch.manual_seed(0)
    place, size = torch.device(device), SMALL if small else FULL
    with torch.no_grad():
        roof = measure_roof(place, small=small)
        sam, config, note = real_sam(size, place)
        inputs = preprocess(load_image(PHOTO)).to(place)
        rows = encoders(size, place, inputs) + generators(sam, config, inputs, size)
        host = language_model(size, place)
        rows += prefill_and_decode(host, size, place)
        waits, mllm = [], join_tokenizer(host)
        for encoder in dict.fromkeys((size.encoders[0], size.encoders[-1])):
            own_sam, superpixels = (sam, config) if encoder == "tiny_vit" else random_sam(encoder, config, place)
            found, waited = whole_questions(encoder, own_sam, superpixels, mllm, size, place)
            rows += found
            waits += waited
    text = page(place, roof, rows, waits, note, size)
    typer.echo(text)
    if out is not None:
        temporary = out.with_name(f".{out.name}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out)


def encoders(size: Size, device: torch.device, inputs: ImageInputs) -> list[Row]:
    """SAM's image encoders in bfloat16, alone and in a batch."""
    rows = []
    for name in size.encoders:
        sam, _ = random_sam(name, SuperpixelConfig(), device)
        for batch in (1, size.batch):
            pixels = inputs.sam_pixels.expand(batch, -1, -1, -1)
            title = f"SAM {name} encode, {batch} at once, each"
            read = weight_bytes([sam.image_encoder])
            rows.append(
                measure(title, _call(sam.encode_image, pixels), device, size.rounds, share=batch, num_bytes=read)
            )
    return rows


def _call(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


def generators(sam: Sam, config: SuperpixelConfig, inputs: ImageInputs, size: Size) -> list[Row]:
    """Superpixels of one embedding: the whole grid, the default, and with the partition on the CPU."""
    embeddings = sam.encode_image(inputs.sam_pixels[None])
    side = config.points_per_side
    whole = SuperpixelGenerator(sam, config.model_copy(update={"max_covering_fraction": None}))
    default = SuperpixelGenerator(sam, config)
    compiled = SuperpixelGenerator(sam, config)
    compiled.compiled = True
    cases: list[tuple[str, Callable[..., object]]] = [
        (f"masks of the whole {side}×{side} grid", whole.propose),
        ("masks by default", default.propose),
        ("superpixels by default, partition on the CPU included", default),
    ]
    if embeddings.device.type == "cuda":
        cases.append(("masks by default, torch.compile", compiled.propose))
    read = weight_bytes([sam.mask_decoder]) / 2  # held in float32, read in bfloat16
    return [
        measure(name, _call(run, embeddings, inputs.input_size), embeddings.device, size.rounds, num_bytes=read)
        for name, run in cases
    ]


def prefill_and_decode(host: Host, size: Size, device: torch.device) -> list[Row]:
    """Reading so many visual tokens with a question, a scored answer after them, and one more word."""
    model, rows = host.language_model, []
    read = weight_bytes([model.get_decoder()])
    for tokens in size.prefill:
        for batch in (1, size.batch):
            ids = torch.randint(0, 32000, (batch, tokens + QUESTION_TOKENS), device=device)
            title = f"{tokens} visual tokens and a question, {batch} at once, each"
            rows.append(
                measure(
                    f"prefill: {title}",
                    _call(model.get_decoder(), ids),
                    device,
                    size.rounds,
                    share=batch,
                    num_bytes=read,
                )
            )
        rows += [_after_prefix(model, tokens, count, size, device, read) for count in (QUESTION_TOKENS, 1)]
    return rows


def _after_prefix(
    model: LlamaForCausalLM, tokens: int, count: int, size: Size, device: torch.device, read: float
) -> Row:
    """`count` more tokens after a cached prefix: a scored question, or one word of a generated answer."""
    cache = DynamicCache()
    model.get_decoder()(torch.randint(0, 32000, (1, tokens), device=device), past_key_values=cache, use_cache=True)
    ids = torch.randint(0, 32000, (1, count), device=device)

    def run() -> None:
        model.get_decoder()(ids, past_key_values=cache, use_cache=True)
        cache.crop(-count)

    kept = 2 * 2 * size.layers * size.width * tokens
    kind = f"scored: a question of {count} tokens" if count > 1 else "decode: one word"
    return measure(f"{kind} after {tokens} visual tokens", run, device, size.rounds, num_bytes=read + kept)


def whole_questions(
    encoder: Encoder, sam: Sam, superpixels: SuperpixelConfig, mllm: Mllm, size: Size, device: torch.device
) -> tuple[list[Row], list[str]]:
    """From a photo in memory to a mask: the first question, the next, many; and what the CPU waits for."""
    segmenter = Segmenter(whole_model(encoder, sam, superpixels, mllm, size), device=device, threshold=0.0)
    vision, photo = segmenter.model.vision, load_image(PHOTO)
    inputs = preprocess(photo, **vision.tower_input).to(device)
    many = [f"thing number {number}" for number in range(32 if size is FULL else 3)]

    def first() -> None:
        segmenter.set_image(photo)
        segmenter.segment("the person on the left")

    first()
    embeddings = segmenter.features.image_embeddings
    assert embeddings is not None
    propose = functools.partial(vision.superpixel_generator.propose, embeddings, inputs.input_size)
    name = f"{encoder}, {len(segmenter.features.superpixels)} superpixels"
    look = weight_bytes([sam.image_encoder, vision.vision_tower])
    read = weight_bytes([segmenter.model.mllm.decoder])
    one, all_of_them = _call(segmenter.segment, "the person on the left"), _call(segmenter.segment, many)
    together = _call(vision.encode_images, [inputs] * size.batch)
    cases: list[tuple[str, Callable[[], object], int, float]] = [
        ("photo to first mask", first, 1, look + read),
        ("next question", one, 1, read),
        (f"{len(many)} questions at once, each", all_of_them, len(many), read),
        (f"stages 1 to 3, {size.batch} photos at once, each", together, size.batch, look),
    ]
    rows = [
        measure(f"{name}: {title}", run, device, size.rounds, share=share, num_bytes=num_bytes)
        for title, run, share, num_bytes in cases
    ]
    waits = []
    calls = (("masks of a photo", propose), ("a question", one), (f"{len(many)} questions at once", all_of_them))
    for title, run in calls:
        counts = ", ".join(f"{count} × `{event}`" for event, count in sorted(count_waits(run, device).items()))
        waits.append(f"| {encoder}: {title} | {counts or 'none'} |")
    return rows, waits


def page(device: torch.device, roof: Roof, rows: list[Row], waits: list[str], note: str, size: Size) -> str:
    """Everything as Markdown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "A trial run on the CPU, not a result"
    command = shlex.join(["python", "benchmarks/gpu_roofline.py", *sys.argv[1:]])
    about = (
        f"{name}; torch {torch.__version__}, Python {platform.python_version()}. Measured in the same run: "
        f"{roof.flops / 1e12:,.3g} TFLOP/s of bfloat16 products, {roof.bandwidth / 1e9:,.3g} GB/s of copying. Medians "
        f"of {size.rounds}. Superpixels with {note}. The floor of a line is its arithmetic at that rate, or reading "
        "its weights once; activations are not counted, so shares are lower bounds."
    )
    lines = ["# How near to the limits of a GPU", "", "```sh", command, "```", "", about, "", HEADER]
    lines += [row.markdown(roof) for row in rows]
    lines += ["", "## What the CPU waits for", ""]
    lines += [
        "Counted by the profiler. None of it may grow with the points decoded or with the questions of a call.",
        "",
    ]
    lines += ["| what | waits |", "|---|---|", *waits, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
