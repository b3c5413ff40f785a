"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF: REFER's format, which later datasets extend.

References are a pickle (`refs(unc).p`) or JSON: a list of `{ref_id, image_id, ann_id, split, sentences: [{sent_id,
sent}]}`; labels are COCO's `instances.json`. What the later ones add is read here too: `ann_id` as a list with -1 or
nothing in it, or `source` "zero", for "no target"; `exist` and `is_false_premise` of a sentence.

Source: Yu et al., "Modeling Context in Referring Expressions", ECCV 2016, and its API.
"""

from __future__ import annotations

import pathlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllmseg.data import layouts
from mllmseg.data.json_files import read_json
from mllmseg.data.masks import draw, union
from mllmseg.data.referring import DATASETS, DatasetEntry, Mask, Query, choose_splits
from mllmseg.data.restricted_pickle import load_plain_pickle
from mllmseg.errors import DataError

UNC_SPLITS = ("train", "val", "testA", "testB")


@dataclass(frozen=True)
class ReferLayout:
    """How one dataset in REFER's format lies on the disk.

    Attributes:
        name: the dataset.
        references: spellings of the references' file, as FOLDER/FILE, preferred ones first.
        images: spellings of the image folders; those beside the references, such as `refzom/train2014`, count too.
    """

    name: str
    references: tuple[str, ...]
    images: tuple[str, ...] = layouts.COCO_2014

    def __call__(self, data_root: pathlib.Path, splits: Sequence[str] | None) -> list[ReferDataset]:
        """Reads both files once. See `referring.Loader`."""
        path = layouts.find(data_root, self.references, f"references of {self.name}")
        references = _read_references(path)
        present = list(dict.fromkeys(str(reference["split"]) for reference in references))
        wanted = present if splits is None else choose_splits(splits, _splits_by_name(present), path)
        chosen = {split: [item for item in references if in_split(str(item["split"]), split)] for split in wanted}
        instances = Instances(path.parent / "instances.json", (ref for part in chosen.values() for ref in part))
        own = tuple(
            str(path.parent.resolve() / spelling) for spelling in ("train2014", "val2014", "coco2014/train2014")
        )
        images = layouts.ImageFolders(data_root, (*self.images, *own))
        source = f"{path}, {instances.path}"
        return [ReferDataset(self.name, split, source, chosen[split], instances, images) for split in wanted]


def in_split(split: str, wanted: str) -> bool:
    """REFER's rule: `test` takes every test split, `testA` also `testAB`, others only themselves."""
    if wanted == "test":
        return "test" in split
    if wanted in ("testA", "testB", "testC"):
        return split.startswith("test") and wanted[-1] in split[4:]
    return split == wanted


def _splits_by_name(present: Sequence[str]) -> list[str]:
    """What may be asked of a file that has these splits."""
    names = dict.fromkeys(present)
    names |= dict.fromkeys(
        name for name in ("testA", "testB", "testC", "test") if any(in_split(s, name) for s in present)
    )
    return list(names)


class Instances:
    """The labels and images of COCO's `instances.json` that some references need."""

    def __init__(self, path: pathlib.Path, references: Iterable[dict[str, Any]]) -> None:
        """Reads the file and keeps what `references` mention. Raises DataError where it is missing or broken."""
        self.path = path
        needed, images = set(), set()
        for reference in references:
            needed.update(reference["ann_id"])
            images.add(reference["image_id"])

        def keep(item: dict[str, Any]) -> dict[str, Any] | None:
            # RefCOCO has 200,000 labels, a split needs a few thousand: the others go as soon as they are parsed.
            return None if "segmentation" in item and item.get("id") not in needed else item

        try:
            content = read_json(path, keep)
            self.images = {item["id"]: item for item in content["images"] if item["id"] in images}
            self._annotations = {item["id"]: item for item in content["annotations"] if item is not None}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: not COCO's instances: {type(error).__name__}: {error}") from error

    def image(self, image_id: Hashable, where: str) -> dict[str, Any]:
        """An image's entry, with `file_name`, `height` and `width`. Raises DataError where it is not in the file."""
        entry = self.images.get(image_id)
        if entry is None or not {"file_name", "height", "width"} <= entry.keys():
            raise DataError(f"{self.path}: {where}: no image {image_id} with file_name, height and width")
        return entry

    def draw(self, annotation_id: Hashable, size: tuple[int, int], where: str) -> Mask:
        """One label's mask. Raises DataError where it is not in the file or cannot be drawn."""
        annotation = self._annotations.get(annotation_id)
        if annotation is None or "segmentation" not in annotation:
            raise DataError(f"{self.path}: {where}: no annotation {annotation_id} with a segmentation")
        return draw(annotation["segmentation"], size, f"{self.path}: annotation {annotation_id}")


class ReferDataset:
    """One split in REFER's format. See `referring.ReferringDataset`."""

    def __init__(
        self,
        name: str,
        split: str,
        source: str,
        references: Sequence[dict[str, Any]],
        instances: Instances,
        images: layouts.ImageFolders,
    ) -> None:
        """`references`: the split's, with `ref`, `ann_id` and sentences' `key` as `_read_references` makes them.

        Raises:
            DataError: a reference's image is not among the instances.
        """
        self.name, self.split, self.source = name, split, source
        self._instances, self._images = instances, images
        self._meant: dict[str, tuple[Hashable, tuple[Hashable, ...]]] = {}
        self.queries: tuple[Query, ...] = tuple(
            query for reference in references for query in self._queries_of(reference)
        )

    def _queries_of(self, reference: dict[str, Any]) -> Iterable[Query]:
        ref = f"{self.name}/{reference['key']}"
        file_name = str(self._instances.image(reference["image_id"], ref)["file_name"]).replace("\\", "/")
        self._meant[ref] = (reference["image_id"], reference["ann_id"])
        for sentence in reference["sentences"]:
            yield Query(
                id=f"{ref}/{sentence['key']}",
                image=file_name,
                text=str(sentence["sent"]),
                ref=ref,
                has_target=bool(reference["ann_id"]) and sentence["exists"],
            )

    def image_path(self, query: Query) -> pathlib.Path:
        """The query's image file. Raises DataError where it is missing."""
        return self._images.path(query.image, query.id)

    def target(self, query: Query) -> Mask:
        """`[H, W]`, all zeros where the sentence has no target. Raises DataError where a label is broken."""
        image_id, annotation_ids = self._meant[query.ref]
        entry = self._instances.image(image_id, query.ref)
        size = (int(entry["height"]), int(entry["width"]))
        if not query.has_target:
            return np.zeros(size, dtype=np.uint8)
        return union((self._instances.draw(item, size, query.id) for item in annotation_ids), size)


def unique_or_positions(values: Sequence[Any]) -> list[Any]:
    """The values where they are ids, all there and all different, else their positions."""
    whole = all(isinstance(value, int | str) for value in values) and len(set(values)) == len(values)
    return list(values) if whole else list(range(len(values)))


def _read_references(path: pathlib.Path) -> list[dict[str, Any]]:
    """All references with what the variants spell differently made alike: `key`, `ann_id` a tuple, sentences' `key`
    and `exists`."""
    content = read_json(path) if path.suffix == ".json" else load_plain_pickle(path)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise DataError(f"{path}: expected a list of references")
    keys = unique_or_positions([item.get("ref_id") for item in content])
    references = []
    for position, (key, item) in enumerate(zip(keys, content, strict=True)):
        try:
            references.append(
                {
                    "key": key,
                    "split": item["split"],
                    "image_id": item["image_id"],
                    "ann_id": () if item.get("source") == "zero" else _annotation_ids(item["ann_id"]),
                    "sentences": _sentences(item["sentences"]),
                }
            )
        except (KeyError, TypeError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path}: reference {item.get('ref_id', f'number {position}')}: {problem}") from error
    return references


def _annotation_ids(ann_id: Any) -> tuple[Hashable, ...]:
    """The labels meant; none for [-1], [] and None."""
    ids = ann_id if isinstance(ann_id, list | tuple) else [ann_id]
    return tuple(item for item in ids if item is not None and item != -1)


def _sentences(sentences: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = unique_or_positions([sentence.get("sent_id") for sentence in sentences])
    return [
        {
            "key": key,
            "sent": sentence["sent"] if "sent" in sentence else sentence["raw"],
            "exists": bool(sentence.get("exist", True)) and not sentence.get("is_false_premise", False),
        }
        for key, sentence in zip(keys, sentences, strict=True)
    ]


def register(layout: ReferLayout, splits: tuple[str, ...], default_split: str, put: str) -> None:
    """Files a dataset in REFER's format."""
    DATASETS.register(layout.name)(DatasetEntry(splits, default_split, layout, put))


_COCO_IMAGES = "COCO's train2014 images into refer_seg/images/mscoco/images/train2014/"
# SESAME's archive has only the copies without the images of its other sets' evaluation splits.
register(
    ReferLayout("refcoco", ("refcoco/refs(unc).p", "refcoco/refs(unc_exclude_unified).p")),
    UNC_SPLITS, "val", f"refs(unc).p and instances.json into refer_seg/refcoco/, {_COCO_IMAGES}",
)  # fmt: skip
register(
    ReferLayout(
        "refcoco+",
        ("refcoco+/refs(unc).p", "refcocop/refs(unc).p", "refcoco_plus/refs(unc).p",
         "refcoco+/refs(unc_exclude_unified).p"),
    ),
    UNC_SPLITS, "val", f"refs(unc).p and instances.json into refer_seg/refcoco+/, {_COCO_IMAGES}",
)  # fmt: skip
register(
    ReferLayout("refcocog-umd", ("refcocog/refs(umd).p", "refcocog/refs(umd_exclude_unified).p")),
    ("train", "val", "test"), "val", f"refs(umd).p and instances.json into refer_seg/refcocog/, {_COCO_IMAGES}",
)  # fmt: skip
register(
    ReferLayout("refcocog-google", ("refcocog/refs(google).p",)),
    ("train", "val"), "val", f"refs(google).p and instances.json into refer_seg/refcocog/, {_COCO_IMAGES}",
)  # fmt: skip
register(
    ReferLayout("refclef", ("refclef/refs(unc).p", "refclef/refs(berkeley).p"), layouts.SAIAPR),
    ("train", "val", "testA", "testB", "testC", "test"), "val",
    "refs(unc).p and instances.json into refer_seg/refclef/, the images of saiapr_tc-12 into "
    "refer_seg/images/saiapr_tc-12/",
)  # fmt: skip
