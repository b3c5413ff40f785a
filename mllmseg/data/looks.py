"""What only pixels tell about an instance: its colours, how bright it is, what it rests on. Measured once per photo.

Sentences need a few words of this at every training step, so it is kept in a small JSON file: `measure` makes it of a
photo and its masks, `write_looks` and `read_looks` keep it.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mllmseg.data import colours
from mllmseg.data.convert import write_whole
from mllmseg.data.datasets.coco_mini import Photo, instance_mask
from mllmseg.data.transforms import load_image
from mllmseg.errors import DataError

MEASURED_SIDE = 480  # pixels of the longer side: colours need no more
MIN_PIXELS = 250  # at that size
MIN_CHROMA = 4.0  # mean of a photo: below, it is black and white, or nearly
MIN_LIGHTNESS = 28.0  # mean of a photo: below, everything is a silhouette
UPRIGHT = 2.1  # height by width of somebody seen from head to foot, more or less
CHEST = (0.22, 0.42)  # of that height: where a top is worn
TOP_COLOURS = frozenset({"black", "white", "red", "yellow", "green", "blue", "purple"})  # no skin has these
REST_SHARE = 0.6  # of an instance's lower edge has the other one beneath it
FORMAT = 1


@dataclass(frozen=True)
class Look:
    """One instance.

    Attributes:
        colours: name → share of its pixels.
        top: the same for what an upright person wears above the waist; empty where that was not to be seen.
        lightness: the median, 0 to 100 (CIELAB's L).
        rests_on: ids of instances that its lower edge stands or lies on.
    """

    colours: Mapping[str, float] = field(default_factory=dict)
    top: Mapping[str, float] = field(default_factory=dict)
    lightness: float = 50.0
    rests_on: tuple[int, ...] = ()


Bools = npt.NDArray[np.bool_]


def measure(photo: Photo, masks: Mapping[int, Bools] | None = None) -> dict[int, Look]:
    """Looks at a photo.

    Args:
        photo: its labels; the image file is opened.
        masks: instance id → `[h, w]` bool of any size that spans the whole photo; None draws those that labels have.
            Instances without one are not measured.

    Raises:
        DataError: the photo or a mask cannot be read.
    """
    if masks is None:
        masks = {item.id: instance_mask(photo, item) for item in photo.instances if item.segmentation}
    if not masks:
        return {}
    scale = MEASURED_SIDE / max(photo.size)
    height, width = (max(1, round(side * scale)) for side in photo.size)
    pixels = np.asarray(load_image(photo.path).resize((width, height), Image.Resampling.BOX))
    drawn = {key: _resize(mask, (height, width)) for key, mask in masks.items()}
    lab = colours.to_lab(pixels)
    coloured = np.hypot(lab[..., 1], lab[..., 2]).mean() >= MIN_CHROMA and lab[..., 0].mean() >= MIN_LIGHTNESS
    names = colours.name_pixels(lab)
    looks = {}
    for item in photo.instances:
        if item.id not in drawn or item.is_crowd:
            continue
        mask, others = drawn[item.id], [drawn[key] for key in drawn if key != item.id]
        inner = _inner(mask)
        if inner.sum() < MIN_PIXELS:
            looks[item.id] = Look(rests_on=_rests_on(item.id, drawn))
            continue
        top = _chest(mask, others) if item.category == "person" and coloured else None
        looks[item.id] = Look(
            colours=colours.shares(names[inner]) if coloured else {},
            top=colours.shares(names[top]) if top is not None else {},
            lightness=round(float(np.median(lab[..., 0][inner])), 1),
            rests_on=_rests_on(item.id, drawn),
        )
    return looks


def write_looks(path: str | os.PathLike[str], looks: Mapping[int, Look]) -> None:
    """Stores looks, whole or not at all. Raises DataError where the file cannot be written."""
    content = {"format": FORMAT, "looks": {str(key): asdict(look) for key, look in sorted(looks.items())}}
    write_whole(pathlib.Path(path), [json.dumps(content, separators=(",", ":")), "\n"])


def read_looks(path: str | os.PathLike[str]) -> dict[int, Look]:
    """Instance id → look. Raises DataError where the file is missing or not one of `write_looks`."""
    path = pathlib.Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"{path}: format {content['format']}, this version reads {FORMAT}; measure again")
        return {int(key): _parse(entry) for key, entry in content["looks"].items()}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `mllmseg data synth --looks` measures") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a file of looks: {type(error).__name__}: {error}; measure again") from error


def _parse(entry: dict[str, Any]) -> Look:
    parts = {key: {str(name): float(share) for name, share in entry[key].items()} for key in ("colours", "top")}
    if unknown := {name for part in parts.values() for name in part} - set(colours.NAMES):
        raise ValueError(f"unknown colours {sorted(unknown)}")
    return Look(parts["colours"], parts["top"], float(entry["lightness"]), tuple(map(int, entry["rests_on"])))


def _resize(mask: Bools, size: tuple[int, int]) -> Bools:
    height, width = size
    image = Image.fromarray(np.asarray(mask, dtype=np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
    return np.asarray(image) >= 128


def _inner(mask: Bools) -> Bools:
    """Without its rim, where the background mixes in."""
    inner = mask.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner &= padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner


def _chest(mask: Bools, others: list[Bools]) -> Bools | None:
    """Where somebody upright wears a top, without what is in front of it; None where that cannot be told."""
    ys, xs = mask.nonzero()
    y0, y1, x0, x1 = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    cut_off = x0 <= 1 or y0 <= 1 or x1 >= mask.shape[1] - 1
    if cut_off or (y1 - y0) < UPRIGHT * (x1 - x0):
        return None
    rows = slice(y0 + round(CHEST[0] * (y1 - y0)), y0 + round(CHEST[1] * (y1 - y0)))
    chest = np.zeros_like(mask)
    chest[rows] = _inner(mask)[rows]
    for other in others:
        if (other & mask).sum() < 0.8 * mask.sum():  # what surrounds a person hides nothing
            chest &= ~other
    return chest if chest.sum() >= MIN_PIXELS / 2 else None


def _rests_on(key: int, masks: Mapping[int, Bools]) -> tuple[int, ...]:
    """What is just beneath the lower edge of a mask, its lowest pixels where it reaches furthest down."""
    mask = masks[key]
    ys = np.flatnonzero(mask.any(1))
    if not len(ys):
        return ()
    height, width = mask.shape
    columns = np.arange(width)[mask.any(0)]
    lowest = height - 1 - mask[::-1, columns].argmax(0)
    tall = ys.max() - ys.min() + 1
    edge = lowest >= ys.max() - 0.15 * tall
    columns, lowest = columns[edge], lowest[edge]
    below = lowest + max(2, round(0.02 * height))
    if (below >= height).mean() > 0.3:  # cut off by the picture's edge
        return ()
    kept = below < height
    return tuple(
        other
        for other, surface in masks.items()
        if other != key and surface[below[kept], columns[kept]].mean() >= REST_SHARE
    )
