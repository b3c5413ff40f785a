"""Cut-outs of photos beside the photos: a folder in coco-mini's format gets so many views of each more.

A view is a window of the photo, enlarged by whatever reads it, its tones changed a little. The frozen encoders see it
as a photo of its own, so features are cached as ever. No label may become a lie: a window cuts off nothing that it
would leave a scrap of, sentences that the window could make wrong are left out, and tones stay where a sentence that
is kept names a colour.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageEnhance

from mllmseg.data import colours
from mllmseg.data.convert import write_whole
from mllmseg.data.datasets.coco_mini import CocoMini, Photo, instance_mask
from mllmseg.data.datasets.jsonl import read_records
from mllmseg.data.json_files import read_json_object
from mllmseg.data.sources.coco_mini import training_photos
from mllmseg.data.training import names_a_side
from mllmseg.data.transforms import load_image
from mllmseg.data.windows import Bools, Window, choose_window
from mllmseg.errors import DataError
from mllmseg.progress import image_bar

MIN_WHOLE = 0.95  # of every thing must be left where sentences by people are kept: they speak of hats and heads
TONES = (0.7, 1.3)  # factors on brightness, contrast and saturation
QUALITY = 95

# What a cut-out may make wrong although all that is labelled is still there.
_PLACES = re.compile(
    r"\b(top|bottom|upper|low|high|middle|cent(er|re)|edge|corner|front|back(ground)?\b|foreground|far|furth|near|close"
    r"|first|second|third|fourth|fifth|sixth|last|end\b|side\b|whole|complete|incomplete|part|cut\b|\d+(st|nd|rd|th))"
)
_COLOURS = re.compile(
    rf"\b({'|'.join(colours.NAMES)}|grey|gold|silver|tan|beige|blond|cream|maroon|navy|teal|turquoise|violet|khaki|dark"
    r"|light|bright|pale|colou?r|multi-?colou?r)"
)


@dataclass(frozen=True)
class Augmentation:
    """What was written: photos, views of them, and the sentences that the views kept."""

    photos: int
    views: int
    sentences: int


def augment(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str = "train",
    views: int = 1,
    photos: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Augmentation:
    """Writes a folder that holds what `root` holds, and views of its photos.

    Args:
        root: a folder in coco-mini's format.
        out: the folder to make; the photos themselves are linked where the disk allows.
        split: as in `instances_SPLIT.json`.
        views: of each photo, but not of one that is a view; fewer where no window will do.
        photos: only so many, those that training takes first.
        seed: the same seed gives the same views.
        progress: show a bar.

    Raises:
        DataError: the labels or a photo cannot be read, `out` is there already, or the disk is full.
    """
    root, out = pathlib.Path(root), pathlib.Path(out)
    if out.exists():
        raise DataError(f"{out} is there already: name a new folder, or remove it")
    dataset = CocoMini(root, split)
    chosen = training_photos(dataset, photos)
    writer = _Writer(dataset, seed)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            target = pathlib.Path(folder) / "data"
            for photo in chosen:
                _link(photo.path, target / "images" / photo.path.relative_to(root / "images"))
                writer.keep(photo)
            with image_bar("Augmenting", len(chosen), shown=progress) as advance:
                for photo in chosen:
                    if photo.view_of is None:
                        writer.add_views(photo, views, target)
                    if advance is not None:
                        advance(True)
            writer.write(target)
            target.rename(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}") from error
    return Augmentation(len(chosen), writer.num_views, writer.num_sentences)


class _Writer:
    """The records of the new folder, as the files hold them: keys that nobody here reads are kept."""

    def __init__(self, dataset: CocoMini, seed: int) -> None:
        path = dataset.root / f"instances_{dataset.split}.json"
        content = read_json_object(path)
        self._dataset, self._seed = dataset, seed
        self._images = {int(entry["id"]): entry for entry in content["images"]}
        self._labels: dict[int, list[dict[str, Any]]] = {}
        for entry in content["annotations"]:
            self._labels.setdefault(int(entry["image_id"]), []).append(entry)
        self._lines: dict[int, list[dict[str, Any]]] = {}
        sentences = dataset.root / f"expressions_{dataset.split}.jsonl"
        for _, line in read_records(sentences) if sentences.is_file() else ():
            self._lines.setdefault(int(line["image_id"]), []).append(line)
        self._next_image = max(self._images, default=0) + 1
        self._next_label = max((int(entry["id"]) for entry in content["annotations"]), default=0) + 1
        self._out = content | {"images": [], "annotations": []}
        self._out_lines: list[dict[str, Any]] = []
        self.num_views = self.num_sentences = 0

    def keep(self, photo: Photo) -> None:
        """Takes over a photo as it is."""
        self._out["images"].append(self._images[photo.id])
        self._out["annotations"] += self._labels.get(photo.id, [])
        self._out_lines += self._lines.get(photo.id, [])

    def add_views(self, photo: Photo, count: int, target: pathlib.Path) -> None:
        """Draws views, saves their pictures and takes down their labels."""
        masks = {item.id: instance_mask(photo, item) for item in photo.instances if item.segmentation}
        image = load_image(photo.path)
        if (image.height, image.width) != photo.size:
            raise DataError(f"{photo.path} is {(image.height, image.width)}, its label says {photo.size}")
        for number in range(1, count + 1):
            rng = random.Random(f"{self._seed} {photo.id} {number}")
            window = choose_window(photo, masks, self._dataset.categories, rng)
            if window is not None:
                self._add_view(photo, masks, image.crop(window), window, rng, target)

    def _add_view(
        self,
        photo: Photo,
        masks: Mapping[int, Bools],
        image: Image.Image,
        window: Window,
        rng: random.Random,
        target: pathlib.Path,
    ) -> None:
        labels, new_ids = self._cut_labels(photo, masks, window)
        categories = self._dataset.categories
        things = [item for item in photo.instances if categories[item.category]]
        # Else a sentence may speak of what is no longer to be seen.
        whole = all(window.share(item, masks) >= MIN_WHOLE for item in things)
        lines = [
            cut
            for line in self._lines.get(photo.id, [])
            if whole and not names_a_place(line["text"]) and (cut := _cut_line(line, window, new_ids)) is not None
        ]
        if not any(names_a_colour(line["text"]) for line in lines):
            image = change_tones(image, rng)
        old = pathlib.PurePosixPath(self._images[photo.id]["file_name"])
        name = old.with_name(f"{old.stem}_view{self._next_image}.jpg")
        with (target / "images" / name).open("xb") as stream:  # never through a link into the source
            image.save(stream, "JPEG", quality=QUALITY)
        size = {"width": image.width, "height": image.height}
        ids = {"id": self._next_image, "view_of": photo.id}
        # Captions tell of the whole photo.
        self._out["images"].append(self._images[photo.id] | ids | size | {"file_name": str(name), "captions": []})
        self._out["annotations"] += [label | {"image_id": self._next_image} for label in labels]
        self._out_lines += [line | {"image_id": self._next_image} for line in lines]
        self._next_image += 1
        self.num_views += 1
        self.num_sentences += len(lines)

    def write(self, folder: pathlib.Path) -> None:
        """Writes the files of labels and sentences."""
        split = self._dataset.split
        write_whole(folder / f"instances_{split}.json", [json.dumps(self._out)])
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in self._out_lines)
        write_whole(folder / f"expressions_{split}.jsonl", lines)

    def _cut_labels(
        self, photo: Photo, masks: Mapping[int, Bools], window: Window
    ) -> tuple[list[dict[str, Any]], dict[int, int]]:
        """The records of what lies in the window, and old id → new."""
        records = {int(entry["id"]): entry for entry in self._labels.get(photo.id, [])}
        labels, new_ids = [], {}
        for item in photo.instances:
            cut = window.cut_mask(masks[item.id]) if item.id in masks else window.cut_box(item.box)
            if cut is None:
                continue
            new_ids[item.id] = self._next_label
            labels.append(records[item.id] | cut | {"id": self._next_label})
            self._next_label += 1
        return labels, new_ids


def change_tones(image: Image.Image, rng: random.Random) -> Image.Image:
    """Another brightness, contrast and saturation; the hues stay."""
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(rng.uniform(*TONES))
    return image


def names_a_place(text: str) -> bool:
    """Whether a window may change what a text means: it names a side, a place in the photo, or an order."""
    return names_a_side(text) or _PLACES.search(text.lower()) is not None


def names_a_colour(text: str) -> bool:
    """Whether other tones may make a text wrong."""
    return _COLOURS.search(text.lower()) is not None


def _cut_line(line: dict[str, Any], window: Window, new_ids: Mapping[int, int]) -> dict[str, Any] | None:
    """A sentence about a window that holds every thing; None where the box it means is cut short."""
    ids, box = line["ann_ids"], line.get("box")
    if box is not None:
        if window.share_of_box(box) < MIN_WHOLE:
            return None
        box = list(window.clip(box))
    if ids is not None and not new_ids.keys() >= set(ids):  # stuff need not be in the window
        return None
    return line | {"box": box, "ann_ids": None if ids is None else [new_ids[item] for item in ids]}


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    if not source.is_file():
        raise DataError(f"{source}: no such image file")
    if target.exists():  # two records of one picture
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source.resolve())
    except OSError:  # another disk, or one that has no links
        shutil.copyfile(source, target)
