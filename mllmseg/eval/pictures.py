"""Saved predictions as pictures, to look at."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence

import torch
from PIL import Image

from mllmseg.data.datasets.coco_mini import CocoMini
from mllmseg.eval.rows import Row
from mllmseg.models.postprocess import decode_rle


def save_pictures(
    dataset: CocoMini, rows: Sequence[Row], folder: str | os.PathLike[str], count: int
) -> list[pathlib.Path]:
    """Paints `count` rows, spread evenly, over their photos.

    The file's name holds the image, the question, and what became of it: `iou0.83`, `rejected`.
    """
    from mllmseg.inference.visualize import overlay

    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    count = min(count, len(rows))
    paths = []
    for row in (rows[index * len(rows) // count] for index in range(count)):
        photo = dataset.photos[row.image]
        with Image.open(photo.path) as file:
            image = file.convert("RGB")
        masks = decode_rle(row.rle)[None] if row.rle else torch.zeros((0, *photo.size), dtype=torch.bool)
        words = re.sub(r"[^a-z0-9]+", "-", row.text.lower()).strip("-")[:60]
        outcome = "rejected" if not row.exists else "accepted" if row.iou is None else f"iou{row.iou:.2f}"
        paths.append(target / f"{row.image:06d}_{words}_{outcome}.jpg")
        overlay(image, masks, labels=[row.text] if row.rle else None).convert("RGB").save(paths[-1], quality=88)
    return paths
