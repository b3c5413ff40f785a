"""A dataset of drawn photos in coco-mini's format, with a feature cache that needs no encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mllmseg.config import DataConfig, LossConfig, ModelConfig, StageConfig, TrainConfig, ValidationConfig
from mllmseg.data.datasets.coco_mini import CocoMini
from mllmseg.models.partition import to_superpixels
from mllmseg.structures import ImageFeatures, ImageInputs
from mllmseg.train.cache import CacheEntry, FeatureCache

NAMES = ("dog", "cat", "car", "horse", "sheep")
COLOURS = ("red", "green", "blue")
SIZE = (96, 128)
# Three things a photo, (x, y, width, height); photos differ in which thing is where.
PLACES = ((8, 10, 36, 60), (52, 30, 30, 50), (90, 6, 32, 40))


def save_dataset(root: Path) -> None:
    """Three photos to train on and two to validate on, each with three things and sentences about them."""
    (root / "images").mkdir(parents=True)
    categories = [{"id": index, "name": name, "isthing": 1} for index, name in enumerate(NAMES, start=1)]
    for split, idents in (("train", (1, 2, 3)), ("val", (4, 5))):
        images, annotations, expressions = [], [], []
        for ident in idents:
            name = f"{ident}.png"
            things = [(index + ident) % 3 for index in range(3)]
            canvas = Image.new("RGB", SIZE[::-1], (90, 80, 70 + 20 * ident))
            for thing, (x, y, width, height) in zip(things, PLACES, strict=True):
                ImageDraw.Draw(canvas).rectangle((x, y, x + width - 1, y + height - 1), fill=COLOURS[thing])
                annotations.append(
                    {
                        "id": 10 * ident + thing,
                        "image_id": ident,
                        "category_id": thing + 1,
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
                        "mask": "human",
                    }
                )
            canvas.save(root / "images" / name)
            size = {"height": SIZE[0], "width": SIZE[1]}
            images.append({"id": ident, "file_name": name, "label_scope": "coco80", "captions": ["shapes"], **size})
            for text, ids in (("the dog", [10 * ident]), ("the horse", [])):
                entry = {"image_id": ident, "text": text, "source": "template", "rule": "unique", "ann_ids": ids}
                expressions.append(entry | {"box": None, "tags": None})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"instances_{split}.json").write_text(json.dumps(content))
        (root / f"expressions_{split}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in expressions))


class DrawnStack:
    """Answers as the frozen stages would: a superpixel a colour, features that tell colours apart."""

    tower_input: ClassVar[dict[str, Any]] = {"tower_size": 56, "patch_size": 14}

    def encode_image(self, inputs: ImageInputs) -> ImageFeatures:
        height, width = (side // 4 for side in inputs.input_size)
        # Seven bits are lost to normalisation and resizing, which do not matter for which colour is which.
        pixels = inputs.sam_pixels[:, 2 : 4 * height : 4, 2 : 4 * width : 4]
        loudest = pixels.argmax(0) + 1
        labels = torch.where(pixels.amax(0) - pixels.amin(0) > 2, loudest, 0).numpy()
        generator = torch.Generator().manual_seed(int(pixels.sum().abs()))
        patches = torch.randn(16, 3, 4, generator=generator)
        return ImageFeatures(
            image_embeddings=torch.randn(1, 256, 64, 64, generator=generator),
            superpixels=to_superpixels(labels, np.ones(4, dtype=np.float32)),
            patch_features=patches,
            input_size=inputs.input_size,
            original_size=inputs.original_size,
        )


@pytest.fixture(scope="session")
def run_settings(tmp_path_factory: pytest.TempPathFactory, tiny_config: ModelConfig) -> Callable[..., TrainConfig]:
    """`(out, **changes)` makes the settings of a short run on the drawn photos, whose features are cached."""
    root = tmp_path_factory.mktemp("training")
    save_dataset(root / "data")
    lora = tiny_config.language_model.lora.model_copy(update={"dropout": 0.1})
    language_model = tiny_config.language_model.model_copy(update={"lora": lora})
    model = tiny_config.model_copy(update={"language_model": language_model})
    model.to_yaml(root / "model.yaml")
    cache = FeatureCache(root / "cache", model)
    photos = [photo for split in ("train", "val") for photo in CocoMini(root / "data", split).photos.values()]
    entries = [CacheEntry(photo.path, size=photo.size) for photo in photos]
    cache.fill(entries, stack=DrawnStack())  # type: ignore[arg-type]

    def settings(out: Path, **changes: Any) -> TrainConfig:
        plain: dict[str, Any] = {
            "model": str(root / "model.yaml"),
            "data": DataConfig(
                root=str(root / "data"),
                holdout_every=3,
                positives=2,
                negatives=1,
                flip=0.5,
                validation=ValidationConfig(name="coco-mini:val"),
            ),
            "cache": str(root / "cache"),
            "out": str(out),
            "align": StageConfig(steps=3, batch_size=2),
            "instruct": StageConfig(steps=4, batch_size=2),
            "losses": LossConfig(),
            "masks_per_photo": 1,
            "log_every": 2,
            "val_photos": 0,
            "checkpoint_every": 2,
        }
        return TrainConfig(**(plain | changes))

    return settings
