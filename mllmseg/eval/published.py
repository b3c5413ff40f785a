"""What papers report on the same benchmarks, to stand beside our own numbers, always marked as published.

Numbers of LISA's family are teacher-forced: [SEG] stands in the answer they are evaluated on, so that they cannot fail
to give a mask.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One number of one method.

    Attributes:
        method: its name, with its size.
        dataset: as `mllmseg` calls it.
        split: of the dataset.
        scorer: whose definition the paper follows.
        figure: of that scorer.
        percent: the number as printed.
        teacher_forced: known to place [SEG] in the answer before it is evaluated.
    """

    method: str
    dataset: str
    split: str
    scorer: str
    figure: str
    percent: float
    teacher_forced: bool


# Validation and test splits of RefCOCO, RefCOCO+ and RefCOCOg, in the order papers print them.
_REFCOCO = tuple(
    (dataset, split)
    for dataset, splits in {
        "refcoco": ("val", "testA", "testB"),
        "refcoco+": ("val", "testA", "testB"),
        "refcocog-umd": ("val", "test"),
    }.items()
    for split in splits
)
_CIOU: dict[str, tuple[float | None, ...]] = {
    "LISA-7B": (74.9, 79.1, 72.3, 65.1, 70.8, 58.1, 67.9, 70.6),
    "GSVA-7B": (77.2, 78.9, 73.5, 65.9, 69.6, 59.8, 72.7, 73.3),
    "GLaMM": (79.5, 83.2, 76.9, 72.6, 78.7, 64.6, 74.2, 74.9),
    "Sa2VA-8B": (81.6, None, None, 76.2, None, None, 78.7, None),
    "UniPixel-7B": (80.8, 83.0, 77.4, 75.3, 80.1, 70.0, 76.4, 77.1),
    "X-SAM": (85.1, 87.1, 83.4, 78.0, 81.0, 74.4, 83.8, 83.9),
}
_GREFCOCO = {  # val: gIoU, cIoU, N-acc
    "LISA": (61.6, 61.8, 54.7),
    "GSVA": (66.5, 63.3, 62.4),
    "MLLMSeg": (75.1, 71.6, 73.2),
    "DeRIS-L": (77.7, 72.0, 82.2),
}
_RREFCOCO = {  # val: mIoU, mRR, rIoU, by the reference code
    "RefSegformer": (68.8, 73.7, 46.1),
    "CoHD": (74.2, 84.3, 53.6),
    "InstanceVG": (76.7, 92.2, 62.4),
    "SSDE": (78.3, 92.3, 64.4),
}
_FPREFCOCO = {"fprefcoco": 59.8, "fprefcoco+": 53.3, "fprefcocog": 55.0}
_REASONSEG = {"LISA": 52.9, "READ": 59.8, "SAM 3 agent": 76.0}
_TEACHER_FORCED = ("LISA", "GSVA", "GLaMM")


def _entry(method: str, dataset: str, split: str, scorer: str, figure: str, percent: float) -> Published:
    return Published(method, dataset, split, scorer, figure, percent, method.startswith(_TEACHER_FORCED))


PUBLISHED: tuple[Published, ...] = (
    *(
        _entry(method, dataset, split, "lisa", "cIoU", percent)
        for method, row in _CIOU.items()
        for (dataset, split), percent in zip(_REFCOCO, row, strict=True)
        if percent is not None
    ),
    *(
        _entry(method, "grefcoco", "val", "gres", figure, percent)
        for method, row in _GREFCOCO.items()
        for figure, percent in zip(("gIoU", "cIoU", "N-acc"), row, strict=True)
    ),
    *(
        _entry(method, "rrefcoco", "val", "rris-reference", figure, percent)
        for method, row in _RREFCOCO.items()
        for figure, percent in zip(("mIoU", "mRR", "rIoU"), row, strict=True)
    ),
    *(_entry("SESAME", dataset, "val", "sesame", "cIoU", percent) for dataset, percent in _FPREFCOCO.items()),
    *(_entry(method, "reasonseg", "val", "lisa", "gIoU", percent) for method, percent in _REASONSEG.items()),
)


def published_on(dataset: str, split: str) -> tuple[Published, ...]:
    """What is published for one split; empty where nothing is known, as for RIS-CQ, which no MLLM has evaluated."""
    return tuple(entry for entry in PUBLISHED if (entry.dataset, entry.split) == (dataset, split))
