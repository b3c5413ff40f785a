"""How well superpixels could describe labelled objects, for several settings: tokens against the best union's IoU.

    python scripts/superpixel_oracle.py --data ../shared/data/coco-mini --limit 40 --panels /tmp/panels \
        --setting default --setting "whole grid: max_covering_fraction=null" --setting "8: points_per_side=8" \
        --plot out/oracle.svg

Objects are human masks of at least 1 % of the image. CPU-time is of the superpixels alone, without SAM's encoder.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Iterator

import numpy as np
import torch
import yaml

from mllmseg.config import SamConfig, SuperpixelConfig
from mllmseg.data.datasets.coco_mini import CocoMini, Photo, instance_mask
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.errors import ConfigError
from mllmseg.eval.superpixel_oracle import TABLE_HEADER, OracleReport, draw_curve, label_map_at, table_row
from mllmseg.inference.visualize import side_by_side, superpixel_overlay
from mllmseg.models.sam import Sam, build_sam
from mllmseg.models.superpixels import SuperpixelGenerator
from mllmseg.weights import resolve

# The first two rows are the comparison that decided between the partitions; the others, which points to decode.
SETTINGS = (
    "coarse-first, whole grid: partition=coarse_first max_covering_fraction=null stability_threshold=0.85",
    "carve, whole grid, large regions: max_covering_fraction=null stability_threshold=0.85 min_region_fraction=0.005",
    "whole grid: max_covering_fraction=null",
    "small masks cover: max_barren_points=null",
    "small masks cover, 10 barren points: max_barren_points=10",
    "default",
    "small masks cover, 6 barren points, from the first: coarse_points=0",
    "small masks cover, 3 barren points: max_barren_points=3",
    "masks below a quarter cover: max_covering_fraction=0.25 max_barren_points=null",
    "any mask covers: max_covering_fraction=1",
    "12 x 12: points_per_side=12",
    "8 x 8, all: points_per_side=8 max_covering_fraction=null",
)


def parse_setting(text: str) -> tuple[str, SuperpixelConfig]:
    """`name: key=value key=value` → name and settings. Raises ConfigError on unknown keys."""
    name, _, overrides = text.partition(":")
    values = {}
    for override in overrides.split():
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"setting '{text}': '{override}' is not of the form key=value")
        values[key] = yaml.safe_load(value)
    return name.strip(), SuperpixelConfig.from_dict(values, source=f"setting '{name}'")


def large_masks(photo: Photo, min_fraction: float = 0.01) -> Iterator[np.ndarray]:
    """Human masks of at least `min_fraction` of the photo."""
    for instance in photo.instances:
        if instance.mask_source == "human" and not instance.is_crowd:
            mask = instance_mask(photo, instance)
            if mask.mean() >= min_fraction:
                yield mask


@torch.no_grad()
def run(sam: Sam, photos: list[Photo], settings: list[str], panels: pathlib.Path | None) -> dict[str, dict[str, float]]:
    """What each setting gave, by its name."""
    generators = {name: SuperpixelGenerator(sam, config) for name, config in map(parse_setting, settings)}
    reports = {name: OracleReport() for name in generators}
    for photo in photos:
        image = load_image(photo.path)
        inputs = preprocess(image)
        embeddings = sam.encode_image(inputs.sam_pixels[None])
        masks = list(large_masks(photo))
        drawn = [image]
        for name, generator in generators.items():
            decoder = generator.decoder(embeddings.device)
            start, before = time.process_time(), decoder.points_decoded
            superpixels = generator(embeddings, inputs.input_size)
            seconds = time.process_time() - start
            labels = label_map_at(superpixels.label_map.numpy(), inputs.input_size, photo.size)
            reports[name].update(labels, masks, seconds, decoder.points_decoded - before)
            drawn.append(superpixel_overlay(image, superpixels))
        if panels is not None:
            panels.mkdir(parents=True, exist_ok=True)
            side_by_side(drawn).save(panels / f"{photo.path.stem}.jpg")
    return {name: report.compute() for name, report in reports.items()}


def main() -> None:
    """Parses the command line, prints the table, draws the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data/coco-mini"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--sam", default="mllmseg:mobile_sam", help="name or path of SAM's weights")
    parser.add_argument("--limit", type=int, help="only so many photos, spread evenly")
    parser.add_argument("--setting", action="append", help="'name: key=value …' of SuperpixelConfig; may be repeated")
    parser.add_argument("--plot", type=pathlib.Path, help="SVG file: CPU-time against the best union, a dot a setting")
    parser.add_argument("--panels", type=pathlib.Path, help="folder for pictures: photo | superpixels of each setting")
    arguments = parser.parse_args()
    photos = list(CocoMini(arguments.data, arguments.split).photos.values())
    if arguments.limit is not None and arguments.limit < len(photos):
        photos = [photos[index] for index in np.linspace(0, len(photos) - 1, arguments.limit).astype(int)]
    sam = build_sam(SamConfig(), pathlib.Path(resolve(arguments.sam)))
    sam.image_encoder.to(getattr(torch, SamConfig().dtype))
    found = run(sam, photos, arguments.setting or list(SETTINGS), arguments.panels)
    objects = next(iter(found.values()))["objects"]
    print(f"{len(photos)} photos, {objects:.0f} objects\n\n{TABLE_HEADER}")
    for name, values in found.items():
        print(table_row(name, values))
    if arguments.plot is not None:
        arguments.plot.parent.mkdir(parents=True, exist_ok=True)
        arguments.plot.write_text(draw_curve(found), encoding="utf-8")


if __name__ == "__main__":
    main()
