"""What lies between `instruct` and `point`: the trained language model reads every photo, and its states are kept."""

from __future__ import annotations

import pathlib
import random

import torch

from mllmseg.config import TrainConfig
from mllmseg.constants import REJ_TOKEN, SEG_TOKEN
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.data.training import TrainingImage
from mllmseg.errors import DataError
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.structures import Turn
from mllmseg.train.batch import mirror, sample_targets
from mllmseg.train.pointing import Recording, record
from mllmseg.train.source import TrainingData


class Readings:
    """A folder of recordings: every photo `point.rounds` times, each with fresh questions, odd rounds mirrored."""

    def __init__(self, folder: pathlib.Path, config: TrainConfig, data: TrainingData) -> None:
        self.folder = folder
        self.config = config
        self.data = data

    def all(self) -> list[tuple[TrainingImage, int]]:
        """Every photo as often as it is to be recorded."""
        photos = self.data.images_of("point")
        return [(photo, number) for number in range(self.config.point.rounds) for photo in photos]

    def missing(self) -> list[tuple[TrainingImage, int]]:
        """Those that are not recorded yet."""
        return [reading for reading in self.all() if not self.path(*reading).exists()]

    def path(self, photo: TrainingImage, number: int) -> pathlib.Path:
        """Where a reading of a photo is kept."""
        return self.folder / f"{photo.file_name}-{number}.safetensors"

    def draw(self, photo: TrainingImage, rng: random.Random) -> Recording:
        """One of the readings of a photo."""
        path = self.path(photo, rng.randrange(self.config.point.rounds))
        if not path.is_file():
            raise DataError(f"there is no recording {path}")
        return Recording.load(path)

    def record(self, model: MLLMSeg, rank: int = 0, processes: int = 1) -> None:
        """Makes one process's share of what is missing; bad samples are left out.

        The share is of all readings, not of the missing ones: those get fewer while another process is at work, so
        that two that look at different times would share different lists out, and leave a reading to nobody.
        """
        self.folder.mkdir(exist_ok=True)
        encoder = ConversationEncoder(model.mllm.tokenizer, model.config.language_model.system_prompt)
        model.eval()
        for photo, number in self.all()[rank::processes]:
            if not self.path(photo, number).exists():
                try:
                    self._record_photo(photo, number, model, encoder)
                except DataError as error:
                    self.data.bad.add(photo.id, error)

    def _record_photo(self, photo: TrainingImage, number: int, model: MLLMSeg, encoder: ConversationEncoder) -> None:
        flip = float(number % 2 and self.config.data.flip > 0)
        data = self.config.data.model_copy(update={"flip": flip, "captions": 0, "positives": 8, "negatives": 5})
        cached = self.data.read(photo, embeddings=False)
        rng = random.Random(f"{self.config.seed} record {photo.id} {number}")
        sample = self.data.sample(photo, cached, rng, data, stage="point")
        features = cached.features.to(torch.float32)
        features = mirror(features) if sample.flipped else features
        branches = [
            [Turn(turns[0].question, SEG_TOKEN if exists else REJ_TOKEN)]
            for turns, exists in zip(sample.branches, sample.exists, strict=True)
        ]
        device, precision = next(model.head.parameters()).device, self.config.precision
        dtype = torch.bfloat16 if precision == "float32" else getattr(torch, precision)
        features = features.to(device)
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=precision != "float32"):
            tokens = model.project(features)
            text = encoder.encode(branches, len(tokens.tokens)).to(device)
            targets, labels = sample_targets(sample).to(device), self.data.labels(photo, cached).to(device)
            recording = record(model, features, tokens, text, targets, labels, flipped=sample.flipped)
        recording.to("cpu").save(self.path(photo, number))
