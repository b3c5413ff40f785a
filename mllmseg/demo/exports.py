"""What a visitor takes home: masks, overlay, cut-out, COCO JSON, run-length codes, traces.

Shapes: H W the picture's own size.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mllmseg.agent import edits, regions
from mllmseg.agent.session import MaskRecord, Session
from mllmseg.demo.conversation import Talk
from mllmseg.errors import DataError
from mllmseg.inference.outputs import save_image
from mllmseg.inference.visualize import overlay
from mllmseg.models.postprocess import encode_rle


def write_exports(talk: Talk, folder: Path) -> list[Path]:
    """Writes what is marked on the current picture.

    Args:
        talk: the conversation.
        folder: an empty one.

    Returns:
        The files: a mask a phrase, overlay, cut-out, the edited picture where there is one, COCO and RLE as JSON, and
        the traces of all answers.

    Raises:
        DataError: nothing is marked.
    """
    records = [record for record in talk.session.visible if record.mask.any()]
    if not records:
        raise DataError("nothing is marked: ask for something, or show a mask of the list")
    image = talk.session.picture.image
    stem = file_stem(Path(talk.session.picture.name).stem or "picture")
    masks = np.stack([record.mask for record in records])
    pictures = {
        f"{stem}-overlay.png": overlay(image, masks, labels=[record.phrase for record in records]),
        f"{stem}-cutout.png": edits.edit(talk.session.canvas, np.logical_or.reduce(masks), "cut_out"),
    }
    for number, record in enumerate(records, 1):
        white = Image.fromarray(record.mask.astype(np.uint8) * np.uint8(255))
        pictures[f"{stem}-mask-{number}-{file_stem(record.phrase)}.png"] = white
    edited = [item for item in talk.session.edits if item.picture == talk.session.current]
    if edited:
        pictures[f"{stem}-edited.png"] = edited[-1].image
    texts = {
        f"{stem}-coco.json": coco(talk.session, records),
        f"{stem}-rle.json": [rle(record) for record in records],
        f"{stem}-traces.json": [item.trace.model_dump(mode="json") for item in talk.session.exchanges],
    }
    written = []
    for name, picture in pictures.items():
        written.append(folder / name)
        save_image(picture, written[-1])
    for name, value in texts.items():
        written.append(folder / name)
        written[-1].write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return written


def rle(record: MaskRecord) -> dict[str, Any]:
    """A mask as plain JSON values: phrase, score, COCO's run-length code, box (x, y, width, height), area."""
    return {
        "phrase": record.phrase,
        "score": round(record.score, 6),
        "rle": encode_rle(record.mask),
        "box": [int(side) for side in regions.bounding_box(record.mask)],
        "area": int(record.mask.sum()),
    }


def coco(session: Session, records: list[MaskRecord]) -> dict[str, Any]:
    """A COCO instance file of the current picture, a category a phrase; segmentations are run-length codes."""
    image = session.picture.image
    names = list(dict.fromkeys(record.phrase for record in records))
    return {
        "images": [{"id": 1, "file_name": session.picture.name, "width": image.width, "height": image.height}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": 1 + names.index(record.phrase),
                "segmentation": encode_rle(record.mask),
                "bbox": [int(side) for side in regions.bounding_box(record.mask)],
                "area": int(record.mask.sum()),
                "iscrowd": 0,
                "score": round(record.score, 6),
            }
            for number, record in enumerate(records, 1)
        ],
    }


def file_stem(text: str) -> str:
    """Words as part of a file name, in any language: no separators, no control characters, not too long."""
    return re.sub(r"[^\w-]+", "-", text).strip("-_")[:40] or "mask"
