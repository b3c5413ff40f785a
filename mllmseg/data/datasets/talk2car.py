"""Talk2Car-RegSeg: commands to a car and the region of the road where it should go.

The layout of the authors' code: annotations `{split: {number: {img, command, …}}}`, images in `imgs/`, region masks
`gt_img_ann_SPLIT_NUMBER.png` (not black: the region). The separate test split of short commands has an annotation file
and, where it was unpacked that way, folders of its own.

Source: Rufus et al., "Grounding Linguistic Commands to Navigable Regions", IROS 2021.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from mllmseg.data import layouts
from mllmseg.data.json_files import read_json
from mllmseg.data.masks import image_size, read_png_mask
from mllmseg.data.referring import DATASETS, DatasetEntry, Mask, Query, choose_splits
from mllmseg.errors import DataError

NAME = "talk2car-regseg"
SPLITS = ("train", "val", "test")
_FOLDERS = ("talk2car-regseg", "Talk2Car-RegSeg", "Talk2Car-RefSeg", "talk2car_regseg", "talk2car", "Talk2Car", "")
_ANNOTATIONS = ("talk2car_w_rpn_no_duplicates.json", "talk2car_test.json", "annotations.json")
_IMAGES = ("imgs", "images", "new_images")
_MASKS = ("val_masks_new", "mask_image_bin", "masks", "new_masks")


class Talk2CarDataset:
    """One split. See `referring.ReferringDataset`."""

    name = NAME

    def __init__(self, folder: pathlib.Path, split: str, source: pathlib.Path, samples: dict[str, Any]) -> None:
        """`samples`: number → `{img, command}`. Raises DataError where one lacks a key."""
        self.split, self.source = split, str(source)
        self._folder = folder
        self._images = layouts.ImageFolders(folder, _IMAGES, ("",))
        self._masks = layouts.ImageFolders(folder, _MASKS, ("",))
        self._mask_names: dict[str, str] = {}
        queries = []
        for number, sample in samples.items():
            ref = f"{NAME}/{split}-{number}"
            try:
                image, command = str(sample["img"]), str(sample["command"])
            except (KeyError, TypeError) as error:
                raise DataError(f"{source}: {split} {number}: needs 'img' and 'command'") from error
            self._mask_names[ref] = str(sample.get("mask", f"gt_img_ann_{split}_{number}.png"))
            queries.append(Query(f"{ref}/0", image.replace("\\", "/"), command, ref, has_target=True))
        self.queries: tuple[Query, ...] = tuple(queries)

    def image_path(self, query: Query) -> pathlib.Path:
        """The query's image file. Raises DataError where it is missing."""
        return self._images.path(query.image, query.id)

    def target(self, query: Query) -> Mask:
        """`[H, W]` of 0 and 1. Raises DataError where the mask is missing, damaged, or not the image's size."""
        path = self._masks.path(self._mask_names[query.ref], query.id)
        mask, size = read_png_mask(path), image_size(self.image_path(query))
        if mask.shape != size:
            raise DataError(f"{path}: {query.id}: mask of size {list(mask.shape)} for an image of {list(size)}")
        return mask


def _load(data_root: pathlib.Path, splits: Sequence[str] | None) -> list[Talk2CarDataset]:
    spellings = [f"{folder}/{file}".lstrip("/") for folder in _FOLDERS for file in _ANNOTATIONS]
    folder = layouts.find(data_root, spellings, "annotations of Talk2Car-RegSeg").parent
    parts: dict[str, tuple[pathlib.Path, dict[str, Any]]] = {}
    for path in (folder / file for file in _ANNOTATIONS):
        if path.is_file():
            content = read_json(path)
            if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
                raise DataError(f"{path}: expected an object of splits, each an object of samples by number")
            # The file of short commands comes second but is the one whose test split has masks.
            parts |= {split: (path, samples) for split, samples in content.items()}
    present = [split for split in SPLITS if split in parts]
    return [Talk2CarDataset(folder, split, *parts[split]) for split in choose_splits(splits, present, folder)]


DATASETS.register(NAME)(
    DatasetEntry(
        SPLITS,
        "val",
        _load,
        "talk2car_w_rpn_no_duplicates.json and talk2car_test.json into talk2car-regseg/, images into …/imgs/, masks "
        "gt_img_ann_SPLIT_NUMBER.png into …/val_masks_new/",
    )
)
