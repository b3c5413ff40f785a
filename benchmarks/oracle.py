"""A segmenter that sees what a person saw: whatever goes wrong in a conversation with it is the agent's own fault.

H W the photo's own size; a mask is a bool array `[H, W]`.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from instruction_set import Conversation, Mask, Outcome, Photo, hold
from PIL import Image

from mllmseg.agent.loop import Agent
from mllmseg.inference.answers import check_question, compose_answer
from mllmseg.models.postprocess import mask_boxes
from mllmseg.structures import Segmentation, Superpixels


class Oracle:
    """A segmenter that finds what was drawn, by the names listed, and nothing else."""

    threshold = 0.5

    def __init__(self, photo: Photo) -> None:
        self.photo = photo
        self.image: Image.Image | None = None
        self.puzzled: list[str] = []  # what it was asked for that nobody would ask for, such as "the dogs are"

    def fork(self) -> Oracle:
        """Another one for the same photo."""
        other = Oracle(self.photo)
        other.puzzled = self.puzzled
        return other

    def set_image(self, image: Image.Image) -> None:
        """Looks at the photo, or at a part of it."""
        self.image = image

    def segment(self, query: Any, *, threshold: float | None = None) -> Any:
        """What is drawn under the name; at threshold 0 something, as the model does."""
        if not isinstance(query, str):
            return [self.segment(text, threshold=threshold) for text in query]
        check_question(query)
        mask = self._meant(query, checking=threshold == 0)
        score = 0.05 if mask is None else 0.95
        return self._answer(query, mask, score, score >= (self.threshold if threshold is None else threshold))

    def chat(self, messages: Any, *, threshold: float | None = None) -> Segmentation:
        """A sentence about the photo."""
        return self._answer(messages[-1]["content"], None, 0.0, exists=False, words=self.photo.caption)

    def _meant(self, query: str, *, checking: bool) -> Mask | None:
        text = re.sub(r"^(?:all the|all|both|every|the|an?|any|some|that|this) ", "", " ".join(query.lower().split()))
        region = self.photo.names.get(text)
        if region is None and not checking and text not in {*self.photo.absent, *self.puzzled}:
            self.puzzled.append(text)
        return None if region is None else self.photo.region(region)

    def _answer(self, query: str, mask: Mask | None, score: float, exists: bool, words: str = "") -> Segmentation:
        assert self.image is not None
        shape = (self.image.height, self.image.width)
        masks = torch.zeros(int(exists), *shape, dtype=torch.bool)
        if exists and mask is not None and mask.shape == shape:
            masks[0] = torch.from_numpy(mask)
        one = torch.ones(1)
        return Segmentation(
            query=query,
            answer=words or compose_answer(query, exists=exists),
            exists=exists,
            score=score,
            masks=masks,
            boxes=mask_boxes(masks),
            mask_scores=torch.full((int(exists),), score),
            superpixels=Superpixels(torch.zeros(4, 4, dtype=torch.int64), torch.zeros(1, 4), one.long(), one),
            superpixel_scores=torch.ones(int(exists), 1),
            num_visual_tokens=1,
        )


def hold_with_oracle(conversation: Conversation) -> Outcome:
    """Holds a conversation with an oracle; asking it for what nobody means is a fault, too."""
    oracle = Oracle(conversation.photo)
    agent = Agent(oracle)
    outcome = hold(agent, agent.open(conversation.photo.image), conversation)
    outcome.faults += [f"looks for “{text}”" for text in oracle.puzzled]
    return outcome
