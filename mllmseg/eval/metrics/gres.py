"""gIoU, cIoU, N-acc, T-acc and Pr@k as generalised referring segmentation defines them (ReLA, CVPR 2023).

A sentence without a target scores 1 where it is rejected and 0 where not, whatever was painted; painting adds to cIoU's
union. A rejected target scores 0 and its union still counts: a false rejection is never free.
"""

from __future__ import annotations

import math
from typing import Self

from mllmseg.eval.metrics.base import Sample, ratio

THRESHOLDS = (0.7, 0.8, 0.9)


def gres_iou(sample: Sample) -> float:
    """One sample's term of gIoU."""
    if not sample.has_target:
        return 0.0 if sample.exists else 1.0
    if not sample.exists or sample.union == 0:
        return 0.0
    return sample.intersection / sample.union


class GresMetric:
    """`gIoU`, `cIoU`, `N-acc`, `T-acc` and `Pr@0.7` to `Pr@0.9` (IoU ≥ threshold, over samples with a target)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._ious: list[float] = []
        self._target_ious: list[float] = []
        self._intersection = 0
        self._union = 0
        self._rejected = {True: 0, False: 0}  # by whether there is a target
        self._total = {True: 0, False: 0}

    def update(self, sample: Sample) -> None:
        """Counts one sample."""
        iou = gres_iou(sample)
        self._ious.append(iou)
        self._total[sample.has_target] += 1
        self._rejected[sample.has_target] += not sample.exists
        if sample.has_target:
            self._target_ious.append(iou)
            self._intersection += sample.intersection if sample.exists else 0
            self._union += sample.union
        elif sample.exists:
            self._union += sample.predicted

    def merge(self, other: Self) -> None:
        """Adds another shard's counts."""
        self._ious += other._ious
        self._target_ious += other._target_ious
        self._intersection += other._intersection
        self._union += other._union
        for has_target in (True, False):
            self._rejected[has_target] += other._rejected[has_target]
            self._total[has_target] += other._total[has_target]

    def compute(self) -> dict[str, float]:
        """The numbers so far; NaN where no sample defines one."""
        with_target = self._total[True]
        numbers = {
            "gIoU": ratio(math.fsum(self._ious), len(self._ious)),  # fsum: the same in any order of shards
            "cIoU": ratio(self._intersection, self._union),
            "N-acc": ratio(self._rejected[False], self._total[False]),
            "T-acc": ratio(with_target - self._rejected[True], with_target),
        }
        for threshold in THRESHOLDS:
            hits = sum(iou >= threshold for iou in self._target_ious)
            numbers[f"Pr@{threshold}"] = ratio(hits, with_target)
        return numbers
