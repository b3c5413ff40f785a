"""Superpixel proposals against segment_anything's SamAutomaticMaskGenerator: CPU-seconds and agreement of the masks.

    python benchmarks/superpixel_generator.py examples/astronaut.jpg examples/coffee.jpg examples/cat.jpg

Same encoder output, same grid of points, same thresholds; the encoder's time is left out. Runs are interleaved. Masks
are compared at SAM's low resolution. Ours are compared before suppression by mask and partition, theirs after theirs.
"""

from __future__ import annotations

import argparse
import pathlib
import platform
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllmseg.bench.reference import ReferenceGenerator
from mllmseg.config import SamConfig, SuperpixelConfig
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.models.sam import build_sam
from mllmseg.models.superpixels import SuperpixelGenerator
from mllmseg.weights import resolve

SETTINGS: dict[str, dict[str, Any]] = {
    "whole grid, float32": {"max_covering_fraction": None, "dtype": "float32", "points_per_batch": 4},
    "whole grid, bfloat16": {"max_covering_fraction": None},
    "default (covered points skipped, bfloat16)": {},
}


def matched(masks: Tensor, others: Tensor, threshold: float) -> float:
    """Share of `masks` that have one among `others` with an IoU above `threshold`."""
    first, second = masks.flatten(1).float(), others.flatten(1).float()
    intersection = first @ second.t()
    iou = intersection / (first.sum(1)[:, None] + second.sum(1) - intersection)
    return (iou.amax(1) > threshold).float().mean().item()


def main() -> None:
    """Runs both on every photo, prints a markdown block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sam = build_sam(SamConfig(), pathlib.Path(resolve("mllmseg:mobile_sam")))
    reference = ReferenceGenerator(sam, SuperpixelConfig(), SuperpixelConfig().points_per_side)
    ours = {name: SuperpixelGenerator(sam, SuperpixelConfig(**values)) for name, values in SETTINGS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ["reference", *ours]}
    shares: dict[str, list[list[float]]] = {name: [] for name in ours}
    counts: dict[str, list[int]] = {name: [] for name in ["reference", *ours]}
    with torch.inference_mode():
        for path in arguments.images:
            image = load_image(path)
            inputs = preprocess(image)
            embeddings = sam.encode_image(inputs.sam_pixels[None])
            start = time.process_time()
            theirs = reference(np.asarray(image), embeddings, inputs)
            seconds["reference"].append(time.process_time() - start)
            counts["reference"].append(len(theirs))
            for name, generator in ours.items():
                generator(embeddings, inputs.input_size)  # the first call folds the decoder
                start = time.process_time()
                found = generator.propose(embeddings, inputs.input_size)
                generator.partition(found)
                seconds[name].append(time.process_time() - start)
                counts[name].append(len(found.masks))
                shares[name].append(
                    [
                        matched(*pair, level)
                        for pair in ((theirs, found.masks), (found.masks, theirs))
                        for level in (0.9, 0.75)
                    ]
                )
    print(f"{platform.machine()}, one thread, torch {torch.__version__}, {len(arguments.images)} photos\n")
    print("| generator | CPU-s a photo | ratio | masks | theirs found by ours, IoU > 0.9 / 0.75 | ours by theirs |")
    print("|---|---|---|---|---|---|")
    base = statistics.mean(seconds["reference"])
    print(f"| SamAutomaticMaskGenerator | {base:.1f} | 1 | {statistics.mean(counts['reference']):.0f} | | |")
    for name in ours:
        cost, share = statistics.mean(seconds[name]), np.mean(shares[name], axis=0)
        print(
            f"| {name} | {cost:.2f} | {base / cost:.1f} × | {statistics.mean(counts[name]):.0f} | "
            f"{share[0]:.2f} / {share[1]:.2f} | {share[2]:.2f} / {share[3]:.2f} |"
        )


if __name__ == "__main__":
    main()
