"""What a finished evaluation knows, before anybody decides how `render_html` and `render_markdown` show it."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from mllmseg.eval.compare import Comparison, compare
from mllmseg.eval.metrics import SCORERS, Sample
from mllmseg.eval.metrics.bootstrap import REPEATS, Interval
from mllmseg.eval.metrics.gres import gres_iou

# How a model was asked; the first of these that a report has is the result, teacher-forcing is what it is held against.
MODES = {"free": "free-running", "scored": "scored", "teacher": "teacher-forced"}


@dataclass(frozen=True)
class ModeResult:
    """One way of asking the model, scored.

    Attributes:
        mode: `free`, `scored` or `teacher`, as in the predictions' lines.
        scores: scorer → figure → number with interval.
        samples: query id → sample, from which plots and gaps are drawn.
        versions: scorer → version.
    """

    mode: str
    scores: Mapping[str, Mapping[str, Interval]]
    samples: Mapping[str, Sample]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The mode in words."""
        return MODES.get(self.mode, self.mode)


@dataclass(frozen=True)
class KindResult:
    """Sentences of one kind, scored apart from all others.

    Attributes:
        name: of the kind; `all sentences`.
        modes: mode or baseline → `classic`, and for the model's own modes `gres` and `calibration`.
        boxed: targets are known by their boxes only, and boxes are compared instead of masks.
    """

    name: str
    modes: Mapping[str, ModeResult]
    boxed: bool = False


@dataclass(frozen=True)
class GalleryItem:
    """One answer to look at.

    Attributes:
        id: the query's.
        text: the sentence.
        image: the photo or its path.
        target: COCO RLE of the ground truth; None where there is no target.
        prediction: COCO RLE of the prediction; None where it rejected.
        exists: the decision.
        score: P(the target exists).
        iou: of the two masks; None where there is no target.
        answer: in words.
    """

    id: str
    text: str
    image: pathlib.Path | Image.Image
    target: Mapping[str, Any] | None
    prediction: Mapping[str, Any] | None
    exists: bool
    score: float
    iou: float | None
    answer: str = ""


@dataclass(frozen=True)
class EvaluationReport:
    """Everything on one split of one dataset.

    Attributes:
        dataset: as `mllmseg` calls it.
        split: of the dataset.
        modes: at least one; the result and, beside it, teacher-forcing.
        provenance: protocol, `weights_sha256`, `data_sha256`, `revision`, settings and what else is known.
        model: what to call the model.
        source: which files the data was read from.
        command: what to type to get this again.
        galleries: title → answers.
        kinds: sentences by kind, all of them first; baselines stand beside the model there.
        notes: sentences the reader needs to judge the numbers.
        title: of the page; empty: dataset and split.
    """

    dataset: str
    split: str
    modes: Sequence[ModeResult]
    provenance: Mapping[str, Any]
    model: str = "mllmseg"
    source: str = ""
    command: str = ""
    galleries: Mapping[str, Sequence[GalleryItem]] = field(default_factory=dict)
    kinds: Sequence[KindResult] = ()
    notes: Sequence[str] = ()
    title: str = ""

    @property
    def result(self) -> ModeResult:
        """The mode that counts: the first of `MODES` that was run."""
        return min(self.modes, key=lambda mode: [*MODES, mode.mode].index(mode.mode))

    @property
    def teacher(self) -> ModeResult | None:
        """Teacher-forcing, where it was run beside the result."""
        return next((mode for mode in self.modes if mode.mode == "teacher" and mode is not self.result), None)

    @property
    def name(self) -> str:
        """`refcoco:val`."""
        return f"{self.dataset}:{self.split}" if self.split else self.dataset

    def gap(self, *, repeats: int = REPEATS) -> Comparison | None:
        """Teacher-forced minus result, paired by query; None where only one mode was run or no query is in both."""
        teacher = self.teacher
        if teacher is None or not self.result.samples.keys() & teacher.samples.keys():
            return None
        shared = [name for name in self.result.scores if name in teacher.scores]
        names = (self.result.label, teacher.label)
        return compare(self.result.samples, teacher.samples, scorers=shared, names=names, repeats=repeats)


def score_mode(
    mode: str, samples: Mapping[str, Sample], *, scorers: Iterable[str] = SCORERS, repeats: int = REPEATS
) -> ModeResult:
    """All figures of some scorers, with intervals.

    Args:
        mode: `free`, `scored` or `teacher`.
        samples: query id → sample.
        scorers: names in `SCORERS`.
        repeats: how many resamplings.

    Raises:
        ConfigError: an unknown scorer.
    """
    scores, versions = {}, {}
    for name in scorers:
        scorer = SCORERS.get(name)()
        for sample in samples.values():
            scorer.update(sample)
        scores[name], versions[name] = scorer.intervals(repeats=repeats), scorer.version
    return ModeResult(mode, scores, samples, versions)


def choose_gallery(samples: Mapping[str, Sample], count: int = 8) -> dict[str, list[str]]:
    """Which answers to show: title → query ids.

    `best` and `worst` are accepted sentences with a target; `false alarms` sentences without one that were accepted,
    the surest first. At most one an image.
    """
    accepted = {key: s for key, s in samples.items() if s.has_target and s.exists}
    alarms = {key: s for key, s in samples.items() if not s.has_target and s.exists}
    best = _one_an_image(sorted(accepted, key=lambda key: -accepted[key].iou), samples, count)
    rest = sorted(accepted.keys() - set(best), key=lambda key: (accepted[key].iou, -accepted[key].score, key))
    return {
        "best": best,
        "worst": _one_an_image(rest, samples, count),
        "false alarms": _one_an_image(sorted(alarms, key=lambda key: -alarms[key].score), samples, count),
    }


def _one_an_image(ids: Iterable[str], samples: Mapping[str, Sample], count: int) -> list[str]:
    first: dict[int | str, str] = {}
    for key in ids:
        first.setdefault(samples[key].image, key)
    return list(first.values())[:count]


def answer_loss(sample: Sample) -> float:
    """What one answer costs: one minus gres's term of gIoU, so that a right rejection costs nothing."""
    return 1 - gres_iou(sample)


def is_known(value: float) -> bool:
    """A number and not NaN."""
    return not math.isnan(value)
