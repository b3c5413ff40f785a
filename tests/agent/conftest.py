"""A drawn picture and a segmenter that knows what is in it: the agent's logic without a trained model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mllmseg.agent.phrases import parse_phrase, singular
from mllmseg.agent.regions import COLOURS
from mllmseg.agent.session import Session
from mllmseg.inference.answers import check_question, compose_answer
from mllmseg.models.postprocess import mask_boxes
from mllmseg.structures import Segmentation, Superpixels

WIDTH, HEIGHT = 320, 200


@dataclass(frozen=True)
class Thing:
    """A drawn thing: its noun, its words, its box (x0, y0, x1, y1; the end is inside) and its colour."""

    noun: str
    words: str
    box: tuple[int, int, int, int]
    colour: tuple[int, int, int]

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


THINGS = (
    Thing("car", "blue", (200, 110, 269, 149), (45, 95, 215)),
    Thing("dog", "brown left", (20, 120, 59, 149), (125, 80, 45)),
    Thing("dog", "black right", (120, 110, 169, 149), (25, 25, 25)),
    Thing("ball", "red", (70, 130, 89, 149), (214, 40, 40)),
    Thing("person", "green", (285, 80, 309, 149), (50, 160, 70)),
)
SYNONYMS = {"people": "person", "vehicle": "car", "photo": "picture"}
_SIDES = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}


def draw() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), (200, 220, 240))
    pen = ImageDraw.Draw(image)
    for y in range(HEIGHT // 2, HEIGHT):
        pen.line((0, y, WIDTH, y), fill=(150, 170 - y % 7, 120))
    for thing in THINGS:
        pen.rectangle(thing.box, fill=thing.colour)
    return image


class DrawnSegmenter:
    """Knows the drawn things by noun, colour, side and one relation; of all else it says that it is not there."""

    threshold = 0.5

    def __init__(self) -> None:
        self.image: Image.Image | None = None
        self.calls: list[str] = []

    def fork(self) -> DrawnSegmenter:
        other = DrawnSegmenter()
        other.calls = self.calls
        return other

    def set_image(self, image: Image.Image) -> None:
        self.image = image

    def segment(self, query: Any, *, threshold: float | None = None) -> Any:
        if isinstance(query, str):
            return self._one(query, self.threshold if threshold is None else threshold)
        return [self.segment(text, threshold=threshold) for text in query]

    def chat(self, messages: Any, *, threshold: float | None = None) -> Segmentation:
        text = messages[-1]["content"]
        return self._answer(text, [], 0.0, answer=f"{len(messages)} messages, the last: {text}", exists=False)

    def _one(self, query: str, threshold: float) -> Segmentation:
        check_question(query)
        self.calls.append(query)
        things = self._meant(query)
        score = 0.9 if things else 0.05
        exists = score >= threshold
        if not things and exists:  # asked to point at something whatever it is
            things = [thing for thing in THINGS if thing.noun in query][:1]
        return self._answer(query, things, score, answer=compose_answer(query, exists=exists), exists=exists)

    def _meant(self, query: str) -> list[Thing]:
        assert self.image is not None, "no image is set"
        if self.image.size != (WIDTH, HEIGHT):  # a crop: by what is most of it
            pixels = np.array(self.image).reshape(-1, 3)
            return [t for t in THINGS if t.noun in query and (pixels == t.colour).all(1).mean() > 0.3]
        phrase = parse_phrase(query.lower())
        noun = SYNONYMS.get(phrase.noun, singular(phrase.noun))
        if noun == "background":
            return []
        things = [thing for thing in THINGS if thing.noun == noun]
        for word in (*phrase.adjectives, *(w for tail in phrase.tails if not tail.anchor for w in tail.text.split())):
            if word in ("left", "right") or word in COLOURS:
                things = [thing for thing in things if word in thing.words.split()]
        for tail in phrase.tails:
            things = [thing for thing in things if not tail.anchor or self._relates(thing, tail.text, tail.anchor)]
        return things

    def _relates(self, thing: Thing, text: str, anchor: str) -> bool:
        others = self._meant(anchor)
        side = next((name for name in _SIDES if re.search(rf"\b{name}\b", text)), None)
        if side is None or not others:
            return False
        axis, sign = _SIDES[side]
        return all(sign * (thing.centre[axis] - other.centre[axis]) > 0 for other in others)

    def _answer(self, query: str, things: list[Thing], score: float, *, answer: str, exists: bool) -> Segmentation:
        assert self.image is not None
        masks = torch.zeros(int(exists), self.image.height, self.image.width, dtype=torch.bool)
        for thing in things if exists else []:
            x0, y0, x1, y1 = thing.box
            masks[0, y0 : y1 + 1, x0 : x1 + 1] = True
        one = torch.ones(1)
        return Segmentation(
            query=query,
            answer=answer,
            exists=exists,
            score=score,
            masks=masks,
            boxes=mask_boxes(masks),
            mask_scores=torch.full((int(exists),), 0.9),
            superpixels=Superpixels(torch.zeros(4, 4, dtype=torch.int64), torch.zeros(1, 4), one.long(), one),
            superpixel_scores=torch.ones(int(exists), 1),
            num_visual_tokens=1,
        )


@pytest.fixture
def picture() -> Image.Image:
    return draw()


@pytest.fixture
def segmenter() -> DrawnSegmenter:
    return DrawnSegmenter()


@pytest.fixture
def session(segmenter: DrawnSegmenter, picture: Image.Image) -> Session:
    """A conversation about the drawn picture."""
    segmenter.set_image(picture)
    return Session().add_picture(picture, segmenter, "drawn.png")


@pytest.fixture
def region() -> Callable[..., np.ndarray]:
    """`(index, …)` gives the mask of these drawn things together."""

    def make(*indices: int) -> np.ndarray:
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for index in indices:
            x0, y0, x1, y1 = THINGS[index].box
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
        return mask

    return make
