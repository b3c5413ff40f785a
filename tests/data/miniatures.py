"""A miniature of every dataset, in the form its authors released: pickles as Python 2 wrote them, panoptic PNGs, labels
of every kind that occurs. Tests reach it by the fixture `write_miniature` in tests/conftest.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 48, 64
BOXES = {"left": (4, 6, 20, 30), "right": (36, 10, 56, 40), "small": (26, 30, 34, 44)}  # left, top, right, bottom
COLOURS = {"left": (200, 30, 30), "right": (30, 60, 200), "small": (230, 200, 40)}
COCO_2014 = "refer_seg/images/mscoco/images/train2014"


def box_mask(name: str) -> np.ndarray:
    """`[H, W]` uint8: one of the three rectangles that every picture shows."""
    left, top, right, bottom = BOXES[name]
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def polygon(name: str) -> list[float]:
    left, top, right, bottom = BOXES[name]
    return [float(n) for n in (left, top, right, top, right, bottom, left, bottom)]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": [*mask.shape], "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": [*mask.shape], "counts": [0, *runs] if flat[0] else runs}


def save_picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (90, 140, 90))
    canvas = ImageDraw.Draw(image)
    for name, (left, top, right, bottom) in BOXES.items():
        canvas.rectangle((left, top, right - 1, bottom - 1), fill=COLOURS[name])
    image.save(path, quality=95)


def python2_pickle(value: Any) -> bytes:
    """The value as Python 2's cPickle wrote it with protocol 2: `str` as bytes without an encoding."""

    def dump(item: Any) -> bytes:
        if item is None:
            return b"N"
        if isinstance(item, bool):
            return b"\x88" if item else b"\x89"
        if isinstance(item, int):
            return b"J" + struct.pack("<i", item)
        if isinstance(item, str):
            raw = item.encode()
            return (b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw
        if isinstance(item, list):
            return b"](" + b"".join(map(dump, item)) + b"e"
        return b"}(" + b"".join(dump(key) + dump(entry) for key, entry in item.items()) + b"u"

    return b"\x80\x02" + dump(value) + b"."


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# One image of COCO 2014 per split, two for val; five annotations on each: ids 10 x image + 1..5.
IMAGES = {"val": (9, 25), "testA": (30,), "testB": (34,), "test": (36,), "train": (42,)}


def coco_name(image: int) -> str:
    return f"COCO_train2014_{image:012d}.jpg"


def annotations(image: int) -> list[dict[str, Any]]:
    """Every kind of label that occurs: polygons of several parts, crowds as run lengths, lists of compressed masks,
    polygons of fewer than three points beside real ones and alone."""
    degenerate = [7.0, 7.0, 9.0, 9.0]
    forms: list[Any] = [
        [polygon("left"), polygon("small")],
        uncompressed(box_mask("right")),
        [degenerate, polygon("small"), [3.0, 4.0]],
        [compressed(box_mask("left"))],
        [degenerate],
    ]
    return [
        {
            "id": 10 * image + number,
            "image_id": image,
            "category_id": 1,
            "iscrowd": int(isinstance(form, dict)),
            "segmentation": form,
            "bbox": [0.0, 0.0, 5.0, 5.0],
            "area": 25.0,
        }
        for number, form in enumerate(forms, start=1)
    ]


def write_instances(folder: Path, images: Sequence[int], name: Callable[[int], str] = coco_name) -> None:
    write_json(
        folder / "instances.json",
        {
            "info": {},
            "licenses": [],
            "images": [
                {"id": image, "file_name": name(image), "height": HEIGHT, "width": WIDTH} for image in (*images, 999)
            ],
            "annotations": [item for image in (*images, 999) for item in annotations(image)],
            "categories": [{"id": 1, "name": "thing", "supercategory": "thing"}],
        },
    )


class References:
    """Collects references and numbers them as REFER does."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._sentence = 0

    def add(self, split: str, image: int, ann_id: Any, *texts: str | dict[str, Any], **more: Any) -> None:
        sentences = []
        for text in texts:
            entry = {"sent": text} if isinstance(text, str) else text
            sentences.append({"sent_id": self._sentence, "raw": entry["sent"].upper(), "tokens": ["a"]} | entry)
            self._sentence += 1
        reference = {"ref_id": len(self.items) + 50, "ann_id": ann_id, "image_id": image, "split": split}
        reference |= {"file_name": coco_name(image), "category_id": 1, "sentences": sentences}
        reference["sent_ids"] = [sentence["sent_id"] for sentence in sentences]
        self.items.append(reference | more)


def _refer(
    root: Path, folder: str, file: str, splits: Sequence[str], fill: Callable[[References, str, int], None]
) -> None:
    references = References()
    images = [image for split in splits for image in IMAGES[split]]
    for split in splits:
        for image in IMAGES[split]:
            fill(references, split, image)
    write_instances(root / folder, [image for part in IMAGES.values() for image in part])
    (root / folder / file).write_bytes(python2_pickle(references.items))
    for image in images:
        save_picture(root / COCO_2014 / coco_name(image))


UNC = ("train", "val", "testA", "testB")
UMD = ("train", "val", "test")


def _plain(references: References, split: str, image: int) -> None:
    references.add(split, image, 10 * image + 1, "the red one with the yellow", "café on the left")
    references.add(split, image, 10 * image + 2, "blue")
    references.add(split, image, 10 * image + 3, "the little yellow one")


def _clef(root: Path) -> None:
    references = References()
    for split, image in (("val", 112), ("testA", 113), ("testAB", 114), ("train", 115)):
        references.add(split, image, 10 * image + 4, "red block")
        save_picture(root / f"refer_seg/images/saiapr_tc-12/{image}.jpg")
    folder = root / "refer_seg/refclef"
    write_instances(folder, (112, 113, 114, 115), lambda image: f"{image}.jpg")
    (folder / "refs(unc).p").write_bytes(python2_pickle(references.items))


def _grefcoco(references: References, split: str, image: int) -> None:
    references.add(split, image, [10 * image + 2], "blue", no_target=False)
    references.add(split, image, [10 * image + 2, 10 * image + 3, 10 * image + 5], "blue and yellow", no_target=False)
    references.add(split, image, [-1], "the zebra", "a green dog", no_target=True)


def _rrefcoco(references: References, split: str, image: int) -> None:
    negatives: list[Any] = [{"sent": f"the purple one {number}", "exist": False} for number in range(3)]
    references.add(split, image, 10 * image + 1, "red and yellow", {"sent": "both left", "exist": True}, *negatives)
    references.add(split, image, 10 * image + 2, "blue")


def _fprefcoco(references: References, split: str, image: int) -> None:
    false = {"sent": "the green one", "is_false_premise": True, "gt_sent": "the blue one"}
    references.add(
        split, image, 10 * image + 2, {"sent": "the blue one", "is_false_premise": False, "gt_sent": ""}, false
    )


def _refzom(root: Path) -> None:
    references = References()
    names = {9: "COCO_train2014_000000000009.jpg", 42: "COCO_val2014_000000000042.jpg"}
    for split, image in (("train", 9), ("test", 42)):
        references.add(split, image, [10 * image + 2], "blue", source="one")
        references.add(split, image, [10 * image + 2, 10 * image + 4], "the big ones", source="many")
        references.add(split, image, [], "three zebras", source="zero")
        save_picture(root / f"refer_seg/images/mscoco/images/{names[image].split('_')[1]}/{names[image]}")
    folder = root / "refer_seg/refzom"
    write_instances(folder, (9, 42), lambda image: names.get(image, coco_name(image)))
    (folder / "Ref_ZOM.p").write_bytes(python2_pickle(references.items))


def _reasonseg(root: Path) -> None:
    def corners(name: str) -> list[list[float]]:
        left, top, right, bottom = BOXES[name]
        return [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]]

    for split, count in (("train", 2), ("val", 2), ("test", 1)):
        for number in range(count):
            path = root / f"reason_seg/ReasonSeg/{split}/{1000 + number}_7.jpg"
            save_picture(path)
            labels = {
                "text": ["What would a bull run at?", "Which of them is said to anger a bull — and why?"],
                "is_sentence": True,
                "shapes": [
                    {"label": "target", "labels": ["target"], "shape_type": "polygon", "points": corners("left")},
                    {"label": "ignore", "labels": ["ignore"], "shape_type": "polygon", "points": corners("small")},
                    {"label": "flag", "labels": ["flag"], "shape_type": "polygon", "points": corners("right")},
                ],
            }
            encoding = "cp1252" if number else "utf-8"
            path.with_suffix(".json").write_bytes(json.dumps(labels, ensure_ascii=False).encode(encoding))


SEGMENTS = {"left": 3_648_962, "right": 300, "small": 5}


def _riscq(root: Path) -> None:
    sentences = [
        ("left", "The red block is beside the yellow block."),
        ("right", "The blue block is behind the yellow block.\n\nRewritten: The blue block is behind."),
        ("small", "Between the red block and the blue block there is a yellow block."),
    ]
    records = []
    for number, (name, sentence) in enumerate(sentences, start=73):
        file_name, png = f"train2017/{number:012d}.jpg", f"panoptic_train2017/{number:012d}.png"
        save_picture(root / "coco" / file_name)
        ids = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
        for other, segment in SEGMENTS.items():
            ids[box_mask(other) == 1] = segment
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
        (root / "coco" / png).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours).save(root / "coco" / png)
        records.append({"file_name": file_name, "sentence": sentence, "pan_seg_file": png, "id": SEGMENTS[name]})
    write_json(root / "riscq/sub_ris.json", records)


def _talk2car(root: Path) -> None:
    folder = root / "talk2car-regseg"
    content: dict[str, dict[str, Any]] = {}
    for split, count in (("train", 1), ("val", 2), ("test", 2)):
        content[split] = {}
        for number in range(count):
            save_picture(folder / f"imgs/img_{split}_{number}.jpg")
            (folder / "val_masks_new").mkdir(exist_ok=True)
            Image.fromarray(box_mask("right") * 255).save(folder / f"val_masks_new/gt_img_ann_{split}_{number}.png")
            content[split][str(number)] = {"img": f"img_{split}_{number}.jpg", "command": "Park behind the blue one"}
    write_json(folder / "talk2car_test.json", {"test": content.pop("test")})
    for samples in content.values():
        for sample in samples.values():
            sample |= {"referred_object": [36, 10, 20, 30], "centernet": [], "command_token": "abc"}
    write_json(folder / "talk2car_w_rpn_no_duplicates.json", content)


def _coco_mini(root: Path) -> None:
    folder = root / "coco-mini"
    for split, image, suffix in (("train", 9, "webp"), ("val", 285, "jpg")):
        name = f"{image:012d}.{suffix}"
        save_picture(folder / "images" / name)
        shared = {"image_id": image, "category_id": 1, "iscrowd": 0, "area": 100, "bbox": [4, 6, 16, 24]}
        labels: list[dict[str, Any]] = [
            {"id": 1, "segmentation": [polygon("left")], "mask": "human"},
            {"id": 2, "segmentation": uncompressed(box_mask("right")), "mask": "human"},
            {"id": 3, "segmentation": [], "mask": None},
        ]
        info = {"id": image, "file_name": name, "width": WIDTH, "height": HEIGHT, "label_scope": "coco80"}
        write_json(
            folder / f"instances_{split}.json",
            {
                "images": [info | {"captions": ["Three blocks."]}],
                "annotations": [shared | label for label in labels],
                "categories": [{"id": 1, "name": "book", "isthing": 1}],
            },
        )
        template = {"image_id": image, "source": "template", "rule": "all", "box": None, "tags": None}
        human = template | {"source": "refcocos", "rule": None, "tags": ["negation"]}
        lines = [
            template | {"text": "all the books", "ann_ids": [1, 2]},
            template | {"text": "the zebra", "ann_ids": []},
            human | {"text": "the book that is not blue", "ann_ids": [1]},
            human | {"text": "the book in the middle", "ann_ids": None, "box": [26, 30, 8, 14]},
        ]
        (folder / f"expressions_{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _jsonl(root: Path) -> None:
    save_picture(root / "images/one.jpg")
    save_picture(root / "images/more/two.png")
    Image.fromarray(box_mask("small") * 255).save(root / "small.png")
    lines: list[dict[str, Any]] = [
        {"image": "one.jpg", "text": "red", "masks": [[polygon("left")]]},
        {"image": "one.jpg", "text": "all", "masks": [[polygon("left")], compressed(box_mask("right")), "small.png"]},
        {"image": "one.jpg", "text": "a zebra", "masks": []},
        {"image": "more/two.png", "text": "a yak", "id": "mine", "ref": "yaks", "kind": "animal", "exists": False},
        {"image": "more/two.png", "text": "blue", "exists": True},
        {"image": "more/two.png", "text": "whatever"},
    ]
    (root / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


_WRITERS: dict[str, Callable[[Path], None]] = {
    "refcoco": lambda root: _refer(root, "refer_seg/refcoco", "refs(unc).p", UNC, _plain),
    "refcoco+": lambda root: _refer(root, "refer_seg/refcoco+", "refs(unc).p", UNC, _plain),
    "refcocog-umd": lambda root: _refer(root, "refer_seg/refcocog", "refs(umd).p", UMD, _plain),
    "refcocog-google": lambda root: _refer(root, "refer_seg/refcocog", "refs(google).p", ("train", "val"), _plain),
    "refclef": _clef,
    "grefcoco": lambda root: _refer(root, "refer_seg/grefcoco", "grefs(unc).p", UNC, _grefcoco),
    "rrefcoco": lambda root: _refer(root, "rrefcoco", "refs(unc).p", UNC, _rrefcoco),
    "rrefcoco+": lambda root: _refer(root, "rrefcoco+", "refs(unc).p", UNC, _rrefcoco),
    "rrefcocog": lambda root: _refer(root, "rrefcocog", "refs(umd).p", UMD, _rrefcoco),
    "fprefcoco": lambda root: _fp(root, "fprefcoco", UNC),
    "fprefcoco+": lambda root: _fp(root, "fprefcoco+", UNC),
    "fprefcocog": lambda root: _fp(root, "fprefcocog", UMD),
    "refzom": _refzom,
    "reasonseg": _reasonseg,
    "riscq": _riscq,
    "talk2car-regseg": _talk2car,
    "coco-mini": _coco_mini,
    "jsonl": _jsonl,
}


def _fp(root: Path, name: str, splits: Sequence[str]) -> None:
    _refer(root, f"refer_seg/{name}", "refs(berkeley_exclude_unified).p", splits, _fprefcoco)


def write_miniature(name: str, root: Path) -> None:
    """Writes one dataset's tree below `root`, which then is its `--data-root`; several may share a root.

    `jsonl` is `root/data.jsonl` with images in `root/images`.
    """
    _WRITERS[name](root)


def write_sesame_copy(root: Path) -> None:
    """SESAME's filtered copy of R-RefCOCO, with its own folder and file name."""
    _refer(root, "refer_seg/R-refcoco", "refs(unc_exclude_unified).p", UNC, _rrefcoco)
