"""What a training step reads: one photo and several conversations about it, drawn anew each time it comes round."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mllmseg.config import DataConfig
from mllmseg.constants import REJ_TOKEN, SEG_TOKEN
from mllmseg.data.datasets.coco_mini import Box, CocoMini, Expression, Photo
from mllmseg.data.synth import sentences
from mllmseg.structures import Turn

# A sentence whose target is only a box means the label whose box overlaps it this much.
MIN_MATCH_IOU = 0.7
CAPTION_QUESTIONS = (
    "Describe the picture.",
    "What is in this picture?",
    "What do you see?",
    "Describe this image in one sentence.",
)


@dataclass(frozen=True)
class Sample:
    """Conversations about one photo.

    Attributes:
        photo: with its boxes mirrored where `flipped`.
        branches: the conversations.
        targets: for each [SEG] in the answers, in order, the instances it stands for.
        exists: for each [SEG] or [REJ] that opens an answer, in order, which it is.
        flipped: whether features and masks must be mirrored.
    """

    photo: Photo
    branches: tuple[tuple[Turn, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    exists: tuple[bool, ...]
    flipped: bool


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
) -> Sample:
    """Draws questions and answers about a photo.

    Args:
        photo: the photo.
        expressions: sentences people or templates gave for it.
        categories: name → whether it is a thing.
        drawable: instances with a mask; queries about others are left out.
        config: how many of each kind.
        rng: the only source of chance.
        frequency: category → how often it is a target, so that absent ones are drawn alike.
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
        )
    ]
    spoken = [item for item in (_spoken(photo, item, flipped) for item in expressions) if item is not None]
    queries += rng.sample(spoken, min(config.human_queries, len(spoken)))
    queries = [query for query in queries if drawable.issuperset(query[2])]
    branches = [(Turn(text, answer),) for text, answer, _ in queries]
    for caption in rng.sample(photo.captions, min(config.captions, len(photo.captions))):
        if not (flipped and _has_side(caption)):
            branches.append((Turn(rng.choice(CAPTION_QUESTIONS), caption),))
    return Sample(
        photo=photo,
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
    if flipped and _has_side(text):
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


def _has_side(text: str) -> bool:
    # Also "leftmost", "left-hand", "topleft"; that "leftover" goes too costs little.
    return re.search(r"\b(top|bottom|upper|lower)?(left|right)", text.lower()) is not None


def _iou(a: Box, b: Box) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / max(1e-6, a[2] * a[3] + b[2] * b[3] - overlap)
