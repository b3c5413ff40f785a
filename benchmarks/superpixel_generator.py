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
from torch.nn import functional as F

from mllmseg.config import SamConfig, SuperpixelConfig
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.models._segment_anything import import_segment_anything
from mllmseg.models.sam import Sam, build_sam
from mllmseg.models.superpixels import SuperpixelGenerator, low_res_size
from mllmseg.structures import ImageInputs
from mllmseg.weights import resolve

SETTINGS: dict[str, dict[str, Any]] = {
    "whole grid, float32": {"max_covering_fraction": None, "dtype": "float32", "points_per_batch": 4},
    "whole grid, bfloat16": {"max_covering_fraction": None},
    "default (covered points skipped, bfloat16)": {},
}


def box_area(boxes: Tensor) -> Tensor:
    """torchvision's, for where it is not installed."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, categories: Tensor, iou_threshold: float) -> Tensor:
    """torchvision's, for a single category, for where it is not installed."""
    order = torch.argsort(scores, descending=True, stable=True)
    boxes = boxes[order].float()
    corners = torch.cat(
        [torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])], dim=-1
    )
    intersection = (corners[..., 2:] - corners[..., :2]).clamp(min=0).prod(-1)
    areas = box_area(boxes)
    overlaps = (intersection / (areas[:, None] + areas - intersection) > iou_threshold).numpy()
    alive = np.ones(len(boxes), dtype=bool)
    for index in range(len(boxes)):
        if alive[index]:
            alive[index + 1 :] &= ~overlaps[index, index + 1 :]
    return order[torch.from_numpy(np.flatnonzero(alive))]


def build_reference(sam: Sam, config: SuperpixelConfig) -> Any:
    """segment_anything's generator around the same modules."""
    package = import_segment_anything()
    module: Any = package.automatic_mask_generator
    module.batched_nms, module.box_area = batched_nms, box_area
    reference = package.modeling.Sam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder).eval()
    reference.image_encoder.img_size = 1024
    return package.SamAutomaticMaskGenerator(
        reference,
        points_per_side=config.points_per_side,
        pred_iou_thresh=config.pred_iou_threshold,
        stability_score_thresh=config.stability_threshold,
        box_nms_thresh=config.nms_threshold,
    )


def run_reference(generator: Any, pixels: np.ndarray, embeddings: Tensor, inputs: ImageInputs) -> Tensor:
    """`[M, h, w]` bool at the low resolution, and CPU-seconds are the caller's to take."""

    def set_image(*_: Any) -> None:
        predictor = generator.predictor
        predictor.reset_image()
        predictor.features, predictor.is_image_set = embeddings, True
        predictor.original_size, predictor.input_size = inputs.original_size, inputs.input_size

    generator.predictor.set_image = set_image
    masks = np.stack([found["segmentation"] for found in generator.generate(pixels)])
    size = low_res_size(inputs.input_size)
    return F.interpolate(torch.from_numpy(masks)[:, None].float(), size, mode="area")[:, 0] > 0.5


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
    reference = build_reference(sam, SuperpixelConfig())
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
            theirs = run_reference(reference, np.asarray(image), embeddings, inputs)
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
