r"""At which size the vision tower should read a photo: how well a small network names superpixels by its features.

    python benchmarks/tower_size.py configs/train/tiny.yaml data.sources.0.photos=2880 --photos 450 \
        --out benchmarks/tower_size.md

The superpixels are the cache's (`mllmseg cache CONFIG` fills it); only the tower reads each photo anew, at each size. A
network of one hidden layer learns the names of the superpixels of some photos and is asked for those of the photos that
the run holds out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mllmseg.config import TrainConfig
from mllmseg.data.training import TrainingImage
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.models.pooling import pool_superpixels
from mllmseg.models.vision_tower import VisionTower, build_vision_tower
from mllmseg.train.source import TrainingData
from mllmseg.train.start import initial_model_config

# One hidden layer of this many units, trained for so many steps of so many superpixels.
WIDTH, STEPS, BATCH = 512, 800, 256


class Reading:
    """What the tower sees of photos at one size: features and name of every superpixel whose name is known."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []
        self.names: list[Tensor] = []
        self.patches = 0
        self.cpu_seconds = 0.0

    def add(self, data: TrainingData, image: TrainingImage, tower: VisionTower, size: int) -> None:
        """Reads one photo at `size` pixels on its long side."""
        cached = data.read(image, embeddings=False)
        names = data.labels(image, cached).names
        single = names.sum(1) == 1
        photo = load_image(data.entry(image).read())
        inputs = preprocess(photo, tower_size=size, patch_size=tower.patch_size, mean=tower.mean, std=tower.std)
        start = time.process_time()
        found = tower.encode(inputs.tower_pixels[None])[0].float()
        self.cpu_seconds += time.process_time() - start
        self.patches += found.shape[1] * found.shape[2]
        self.features.append(pool_superpixels(found, cached.features.superpixels)[single])
        self.names.append(names[single].int().argmax(1))


def accuracy(taught: Reading, asked: Reading, num_names: int, seed: int) -> float:
    """Share of superpixels of `asked` that a network taught by `taught` names right."""
    torch.manual_seed(seed)
    features, names = torch.cat(taught.features), torch.cat(taught.names)
    channels = features.shape[1]
    network = nn.Sequential(
        nn.LayerNorm(channels), nn.Linear(channels, WIDTH), nn.GELU(), nn.Dropout(0.3), nn.Linear(WIDTH, num_names)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, STEPS, pct_start=0.05)
    for _ in range(STEPS):
        batch = torch.randint(len(names), (BATCH,))
        loss = F.cross_entropy(network(features[batch]), names[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        return float((network(torch.cat(asked.features)).argmax(1) == torch.cat(asked.names)).float().mean())


def main() -> None:
    """Reads the photos at every size, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a training configuration whose cache is filled")
    parser.add_argument("settings", nargs="*", help="key=value changes to it")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 280, 336, 392, 518])
    parser.add_argument("--photos", type=int, default=450, help="so many teach; those held out are asked")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="Markdown to write")
    options = parser.parse_args()
    config = TrainConfig.from_yaml(options.config, options.settings)
    model = initial_model_config(config)
    data = TrainingData(config, model)
    settings = model.vision_tower
    tower = build_vision_tower(settings, settings.checkpoint, dtype=getattr(torch, settings.dtype))
    teaching = data.photos[:: max(1, len(data.photos) // options.photos)][: options.photos]
    lines = [
        "| long side, pixels | patches a photo | tower, CPU-ms a photo | superpixels named right, % |",
        "|---:|---:|---:|---:|",
    ]
    for size in options.sizes:
        taught, asked = Reading(), Reading()
        for images, reading in ((teaching, taught), (data.holdout, asked)):
            for image in images:
                reading.add(data, image, tower, size)
        right = [100 * accuracy(taught, asked, len(data.vocabulary), seed) for seed in range(options.seeds)]
        photos = len(teaching) + len(data.holdout)
        patches, spent = (getattr(taught, name) + getattr(asked, name) for name in ("patches", "cpu_seconds"))
        lines.append(
            f"| {size} | {patches / photos:.0f} | {1000 * spent / photos:.0f} | "
            f"{statistics.mean(right):.1f} ({min(right):.1f} – {max(right):.1f}) |"
        )
        print(lines[-1], flush=True)
    count = sum(map(len, asked.names))
    lines += ["", f"{len(teaching)} photos teach, {count} superpixels of {len(data.holdout)} others are asked for."]
    if options.out is not None:
        assert __doc__ is not None
        _, command, explanation = __doc__.split("\n\n", 2)
        heading = [
            "# How large the vision tower should read a photo",
            "",
            "```sh",
            command.strip(),
            "```",
            "",
            explanation,
        ]
        options.out.write_text("\n".join(heading + lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
