"""Numbers from saved predictions, query by query in the dataset's order, so that memory holds no more than one mask."""

from __future__ import annotations

import hashlib
import math
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mllmseg.data.referring import Mask, Query, ReferringDataset, UnknownTargetError
from mllmseg.errors import DataError
from mllmseg.eval.metrics import SCORERS, Sample, Scorer
from mllmseg.eval.predictions import Place, PredictionLine, index_predictions, read_at
from mllmseg.models.postprocess import mask_boxes


@dataclass(frozen=True)
class Answers:
    """Predictions held against their targets.

    Attributes:
        samples: query id → what scorers count, in the dataset's order.
        num_missing: how many queries have no prediction and were left out.
        num_unknown: how many have no ground truth and were left out.
        data_sha256: over what was asked and meant, whatever files it came from.
        boxed: query id → boxes counted instead of masks, for those of the left out whose target's box is known. No
            scorer is fed with them: an IoU of boxes is another number than one of masks.
    """

    samples: dict[str, Sample]
    num_missing: int
    num_unknown: int
    data_sha256: str
    boxed: dict[str, Sample] = field(default_factory=dict)


def read_answers(dataset: ReferringDataset, paths: Sequence[pathlib.Path], *, partial: bool = False) -> Answers:
    """Holds every query's prediction against its target.

    Args:
        dataset: the ground truth.
        paths: one file of predictions, or the shards of one; lines in any order.
        partial: leave out queries without a prediction.

    Raises:
        DataError: a line is broken or about no query of the dataset, predictions are missing, or labels are broken.
    """
    places = index_predictions(list(paths))
    _check_coverage(dataset, places, partial=partial)
    samples: dict[str, Sample] = {}
    boxed: dict[str, Sample] = {}
    digest = hashlib.sha256()
    missing = unknown = 0
    for index, query in enumerate(dataset.queries):
        target, place = _target(dataset, query), places.get(query.id)
        if target is None:
            unknown += 1
            if query.box is not None and place is not None:
                boxed[query.id] = _box_sample(query, query.box, index, _read(place, query), place)
            continue
        digest.update("\0".join((query.id, query.image, query.text, "")).encode("utf-8", "surrogatepass"))
        digest.update(target.tobytes())
        if place is None:
            missing += 1
        else:
            samples[query.id] = _sample(query, index, _read(place, query), place, target)
    if not samples and not boxed:
        raise DataError(f"{dataset.source}: none of the {len(dataset.queries)} queries has a prediction and a target")
    return Answers(samples, missing, unknown, digest.hexdigest(), boxed)


def find_scorers(names: Sequence[str] = ()) -> dict[str, Scorer]:
    """Fresh scorers by name, all there are for no names. Raises ConfigError for a name that is none."""
    return {name: SCORERS.get(name)() for name in (names or tuple(SCORERS))}


def score_answers(answers: Answers, names: Sequence[str] = ()) -> dict[str, Scorer]:
    """Scorers by name, all there are for no names, fed. Raises ConfigError for a name that is none."""
    scorers = find_scorers(names)
    for sample in answers.samples.values():
        for scorer in scorers.values():
            scorer.update(sample)
    return scorers


def plain_scores(scorers: dict[str, Scorer]) -> dict[str, dict[str, float | None]]:
    """`{scorer: {metric: value}}`; None where a number is not defined."""
    return {
        name: {metric: None if math.isnan(value) else value for metric, value in scorer.compute().items()}
        for name, scorer in scorers.items()
    }


def _sample(query: Query, index: int, line: PredictionLine, place: Place, target: Mask) -> Sample:
    return Sample.from_masks(
        line.mask((target.shape[0], target.shape[1]), str(place)),
        target,
        exists=line.exists,
        image=query.image,
        score=line.score,
        has_target=query.has_target,
        ref=query.ref,
        index=index,
    )


def _box_sample(
    query: Query, box: tuple[float, float, float, float], index: int, line: PredictionLine, place: Place
) -> Sample:
    """Boxes as if they were masks: the one that is meant, and the one around what was painted."""
    found: Sequence[int] = (0, 0, 0, 0)
    if line.rle is not None:
        mask = line.mask((line.rle["size"][0], line.rle["size"][1]), str(place))
        found = mask_boxes(torch.from_numpy(mask)[None])[0].tolist()
    (ax, ay, aw, ah), (bx, by, bw, bh) = found, (round(side) for side in box)
    width, height = (max(min(a + m, b + n) - max(a, b), 0) for a, m, b, n in ((ax, aw, bx, bw), (ay, ah, by, bh)))
    forced = Sample(
        image=query.image,
        has_target=True,
        exists=True,
        score=line.score,
        intersection=width * height,
        union=aw * ah + bw * bh - width * height,
        predicted=aw * ah,
        ref=query.ref,
        index=index,
    )
    return forced if line.exists else forced.rejected()


def _target(dataset: ReferringDataset, query: Query) -> Mask | None:
    try:
        return None if query.has_target is None else dataset.target(query)
    except UnknownTargetError:
        return None


def _read(place: Place, query: Query) -> PredictionLine:
    line = read_at(place)
    if query.text != line.text:
        raise DataError(f"{place}: query '{query.id}' asks '{query.text}', the line says '{line.text}'; check --data")
    return line


def _check_coverage(dataset: ReferringDataset, places: dict[str, Place], *, partial: bool) -> None:
    known = {query.id for query in dataset.queries}
    for name, place in places.items():
        if name not in known:
            raise DataError(
                f"{place}: query '{name}' is not in {dataset.name} {dataset.split}, whose ids look like "
                f"'{next(iter(known), '')}'; check --data"
            )
    missing = [query.id for query in dataset.queries if query.id not in places]
    if missing and not partial:
        raise DataError(
            f"{len(missing)} of the {len(known)} queries of {dataset.name} {dataset.split} have no prediction, "
            f"the first is '{missing[0]}'; go on with the prediction, give all shards, or allow it with --partial"
        )
