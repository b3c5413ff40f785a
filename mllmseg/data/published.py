"""How many images, references and sentences each split has by its publication, so that a download can be checked.

Only numbers that are certain are here; None where one is not. RefCOCO, + and g: Yu et al. 2016, Mao et al. 2016 and
Nagaraja et al. 2016 as TensorFlow Datasets counts them; gRefCOCO: its images are RefCOCO's; ReasonSeg: Lai et al. 2024;
RIS-CQ: the public file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One split's size; None where it is not known for certain."""

    images: int | None = None
    refs: int | None = None
    sentences: int | None = None


PUBLISHED: dict[tuple[str, str], Published] = {
    ("refcoco", "train"): Published(16_994, 42_404, 120_624),
    ("refcoco", "val"): Published(1_500, 3_811, 10_834),
    ("refcoco", "testA"): Published(750, 1_975, 5_657),
    ("refcoco", "testB"): Published(750, 1_810, 5_095),
    ("refcoco+", "train"): Published(16_992, 42_278, 120_191),
    ("refcoco+", "val"): Published(1_500, 3_805, 10_758),
    ("refcoco+", "testA"): Published(750, 1_975, 5_726),
    ("refcoco+", "testB"): Published(750, 1_798, 4_889),
    ("refcocog-umd", "train"): Published(21_899, 42_226, 80_512),
    ("refcocog-umd", "val"): Published(1_300, 2_573, 4_896),
    ("refcocog-umd", "test"): Published(2_600, 5_023, 9_602),
    ("refcocog-google", "train"): Published(24_698, 44_822, 85_474),
    ("refcocog-google", "val"): Published(4_650, 5_000, 9_536),
    ("grefcoco", "train"): Published(images=16_994),
    ("grefcoco", "val"): Published(images=1_500),
    ("grefcoco", "testA"): Published(images=750),
    ("grefcoco", "testB"): Published(images=750),
    ("reasonseg", "train"): Published(images=239),
    ("reasonseg", "val"): Published(images=200, sentences=200),
    ("reasonseg", "test"): Published(images=779, sentences=779),
    ("riscq", "all"): Published(images=1_000, sentences=1_000),
}
