"""coco-mini as training data: labels of which sentences are made anew at every visit, people's sentences, captions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mllmseg.config import DataConfig
from mllmseg.constants import REJ_TOKEN, SEG_TOKEN
from mllmseg.data import looks
from mllmseg.data.datasets.coco_mini import Box, CocoMini, Expression, Photo, instance_mask
from mllmseg.data.synth import ABSENT_ONLY, NEGATIVE_WEIGHTS, sentences, target_frequency
from mllmseg.data.training import (
    CAPTION_QUESTIONS,
    SOURCES,
    Opening,
    Sample,
    TrainingImage,
    View,
    names_a_side,
    shrink,
    stacked,
)
from mllmseg.errors import ConfigError
from mllmseg.structures import Turn

# A sentence whose target is only a box means the label whose box overlaps it this much.
MIN_MATCH_IOU = 0.7


@dataclass(frozen=True)
class Questions:
    """Conversations about one photo, before masks are drawn.

    Attributes:
        branches: the conversations.
        targets: for each [SEG] in the answers, in order, the instances it stands for.
        exists: for each [SEG] or [REJ] that opens an answer, in order, which it is.
        flipped: whether features and masks must be mirrored.
    """

    branches: tuple[tuple[Turn, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    exists: tuple[bool, ...]
    flipped: bool


class CocoMiniSource:
    """One split. See `training.TrainingSource`."""

    stages = frozenset({"align", "instruct", "point", "refine"})

    def __init__(self, opening: Opening) -> None:
        """Reads the labels. Raises ConfigError without a folder, DataError as CocoMini does."""
        if opening.root is None:
            raise ConfigError("data.sources: 'coco-mini' needs a 'root', the folder with instances_train.json")
        self.name, self._bad = opening.name, opening.bad
        self._data = CocoMini(opening.root, opening.what or "train")
        self._photos = training_photos(self._data, opening.config.photos)
        images = opening.images([(str(photo.id), photo.path, photo.size) for photo in self._photos])
        self.images = tuple(
            image if photo.view_of is None else replace(image, view_of=f"{self.name}/{photo.view_of}")
            for image, photo in zip(images, self._photos, strict=True)
        )
        self.categories = tuple(self._data.categories)
        self._frequency = target_frequency(self._photos)
        self._looks: dict[int, dict[int, looks.Look]] = {}
        self._expressions: dict[int, list[Expression]] = {}
        for expression in self._data.expressions:
            self._expressions.setdefault(expression.image_id, []).append(expression)

    def boxes(self, image: TrainingImage) -> dict[int, Box]:
        """The boxes of things that nobody drew."""
        photo = self._photos[image.index]
        return {item.id: item.box for item in photo.instances if not item.segmentation and not item.is_crowd}

    def labelled(self, image: TrainingImage, view: View) -> tuple[Photo, dict[int, Tensor]]:
        """Every label, with all masks there are."""
        photo = self._photos[image.index]
        drawn = [item.id for item in photo.instances if item.segmentation]
        return photo, {ident: _mask(photo, ident, view) for ident in (*drawn, *view.estimated)}

    def draw(self, image: TrainingImage, view: View, rng: random.Random, data: DataConfig, *, stage: str) -> Sample:
        """Sentences made from the labels, people's, and captions; none in `align`, which reads the labels alone."""
        if stage == "align":
            flipped = rng.random() < data.flip
            return Sample((), stacked([], view), (), flipped)
        photo = self._photos[image.index]
        found = make_sample(
            photo,
            self._expressions.get(photo.id, []),
            self._data.categories,
            _drawable(photo, view),
            data,
            rng,
            self._frequency,
            self._looks_of(image, view),
        )
        masks = {ident: _mask(photo, ident, view) for ids in found.targets for ident in ids}
        unions = [torch.stack([masks[ident] for ident in ids]).any(0) for ids in found.targets]
        return Sample(found.branches, stacked(unions, view, flipped=found.flipped), found.exists, found.flipped)

    def _looks_of(self, image: TrainingImage, view: View) -> dict[int, looks.Look]:
        """Colours and what rests on what, measured at the first visit: a mirrored photo has the same."""
        photo = self._photos[image.index]
        if photo.id not in self._looks:
            _, masks = self.labelled(image, view)
            self._looks[photo.id] = looks.measure(photo, {ident: mask.numpy() for ident, mask in masks.items()})
        return self._looks[photo.id]


SOURCES.register("coco-mini")(CocoMiniSource)


def _drawable(photo: Photo, view: View) -> set[int]:
    """Instances with a mask, drawn or estimated."""
    return {item.id for item in photo.instances if item.segmentation or item.id in view.estimated}


def _mask(photo: Photo, ident: int, view: View) -> Tensor:
    return (
        view.estimated[ident]
        if ident in view.estimated
        else shrink(instance_mask(photo, photo.instance(ident)), view.grid)
    )


def training_photos(dataset: CocoMini, limit: int | None) -> list[Photo]:
    """The photos worth most first: sentences and human masks, then boxes, then partial labels; at most `limit`."""
    spoken = {expression.image_id for expression in dataset.expressions}

    def rank(photo: Photo) -> tuple[bool, bool, bool, float, int]:
        things = [item for item in photo.instances if not item.is_crowd]
        drawn = sum(item.mask_source == "human" for item in things) / max(1, len(things))
        wide = photo.scope_name in ("coco80", "panoptic")
        return (photo.id not in spoken, drawn < 1, not wide, -drawn, photo.id)

    usable = [photo for photo in dataset.photos.values() if photo.instances]
    return sorted(usable, key=rank)[:limit]


def make_sample(
    photo: Photo,
    expressions: Sequence[Expression],
    categories: dict[str, bool],
    drawable: set[int],
    config: DataConfig,
    rng: random.Random,
    frequency: Mapping[str, float] | None = None,
    seen: Mapping[int, looks.Look] | None = None,
) -> Questions:
    """Draws questions and answers about a photo.

    Args:
        photo: the photo.
        expressions: sentences people or templates gave for it.
        categories: name → whether it is a thing.
        drawable: instances with a mask; queries about others are left out.
        config: how many of each kind.
        rng: the only source of chance.
        frequency: category → how often it is a target, so that absent ones are drawn alike.
        seen: what was measured of the pixels; without it nothing is said about colours.
    """
    flipped = rng.random() < config.flip
    if flipped:
        photo = mirrored(photo)
    queries = [
        (query.text, query.answer, query.instance_ids)
        for query in sentences(
            photo,
            categories,
            rng,
            negatives=config.negatives,
            positives=config.positives,
            allowed=drawable,
            frequency=frequency,
            looks=seen,
            negative_weights=NEGATIVE_WEIGHTS if config.hard_negatives else ABSENT_ONLY,
        )
    ]
    spoken = [item for item in (_spoken(photo, item, flipped) for item in expressions) if item is not None]
    queries += rng.sample(spoken, min(config.human_queries, len(spoken)))
    queries = [query for query in queries if drawable.issuperset(query[2])]
    branches = [(Turn(text, answer),) for text, answer, _ in queries]
    for caption in rng.sample(photo.captions, min(config.captions, len(photo.captions))):
        if not (flipped and names_a_side(caption)):
            branches.append((Turn(rng.choice(CAPTION_QUESTIONS), caption),))
    return Questions(
        branches=tuple(branches),
        targets=tuple(ids for _, _, ids in queries if ids),
        exists=tuple(bool(ids) for _, _, ids in queries),
        flipped=flipped,
    )


def mirrored(photo: Photo) -> Photo:
    """The photo's labels as they are after a horizontal flip (boxes only: masks live in the cache)."""
    width = photo.size[1]

    def flip(box: Box) -> Box:
        return (width - box[0] - box[2], *box[1:])

    return replace(photo, instances=tuple(replace(item, box=flip(item.box)) for item in photo.instances))


def _spoken(photo: Photo, expression: Expression, flipped: bool) -> tuple[str, str, tuple[int, ...]] | None:
    text = expression.text
    if flipped and names_a_side(text):
        return None
    ids = expression.ann_ids
    if ids is None:
        if flipped or expression.box is None:
            return None
        matches = [item.id for item in photo.instances if _iou(item.box, expression.box) >= MIN_MATCH_IOU]
        if len(matches) != 1:
            return None
        ids = (matches[0],)
    if not ids:
        return text, f"{REJ_TOKEN} I see nothing here that fits “{text}”.", ids
    verb = "are" if len(ids) > 1 else "is"
    return text, f"{SEG_TOKEN} Here {verb} {text}.", ids


def _iou(a: Box, b: Box) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / max(1e-6, a[2] * a[3] + b[2] * b[3] - overlap)
