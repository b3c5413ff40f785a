"""The four stages: which parameters each trains, what it reads of a photo, and its losses."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mllmseg.config import StageConfig, TrainConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.data.training import TrainingImage
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.models.pooling import pool_superpixels
from mllmseg.structures import ImageFeatures, Movable, PackedText
from mllmseg.train import steps
from mllmseg.train.batch import SuperpixelLabels, Targets, mirror, sample_targets
from mllmseg.train.pointing import Recording
from mllmseg.train.readings import Readings
from mllmseg.train.source import TrainingData
from mllmseg.train.steps import Terms

PROMPT = ("head.prompt.", "head.prior_weight", "mask_decoder.")  # what only masks can teach


@dataclass(frozen=True)
class Item(Movable):
    """What a stage reads about one photo; fields it has no use for are None.

    Attributes:
        features: mirrored where the sample is, floats in float32.
        labels: what the superpixels show.
        text: the packed conversations.
        targets: what the model should say.
        recording: hidden states of an earlier reading.
        drawn: indices of the masks that go through SAM's decoder.
    """

    features: ImageFeatures | None = None
    labels: SuperpixelLabels | None = None
    text: PackedText | None = None
    targets: Targets | None = None
    recording: Recording | None = None
    drawn: Tensor | None = None


class Stage(ABC):
    """One stage of a run; made when it begins."""

    name: ClassVar[str]
    modules: tuple[str, ...]  # children of the model that it runs, but for SAM's frozen ones
    recorded: ClassVar[bool] = False  # whether it reads recordings

    def __init__(self, config: TrainConfig, data: TrainingData, model: MLLMSeg, readings: Readings) -> None:
        self.config = config
        self.settings: StageConfig = getattr(config, self.name)
        self.data = data
        self.model = model
        self.readings = readings
        self.encoder = ConversationEncoder(model.mllm.tokenizer, model.config.language_model.system_prompt)
        self.weights: Mapping[str, float] = steps.loss_weights(config.losses)

    @abstractmethod
    def trains(self, name: str) -> bool:
        """Whether it trains the parameter of this name, given that some stage does."""

    @abstractmethod
    def read(self, photo: TrainingImage, rng: random.Random) -> Item:
        """Everything a step needs to know about one photo; `rng` is the only source of chance."""

    @abstractmethod
    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        """What each loss will be divided by, known before any forward pass."""

    @abstractmethod
    def terms(self, items: Sequence[Item]) -> Terms:
        """The losses."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """What it trains, by name."""
        named = self.model.named_parameters()
        frozen = self.settings.freeze
        return {
            name: item
            for name, item in named
            if item.requires_grad and self.trains(name) and not name.startswith(frozen)
        }

    @contextmanager
    def training(self) -> Iterator[dict[str, nn.Parameter]]:
        """Within this context only what the stage trains asks for gradients."""
        own = self.parameters()
        frozen = [item for name, item in self.model.named_parameters() if item.requires_grad and name not in own]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield own
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _mask_parameters(self) -> list[Tensor]:
        """What no output depends on where no mask is drawn."""
        decoder = getattr(self.model, "mask_decoder", None)
        parameters = [self.model.head.prior_weight, *(() if decoder is None else decoder.parameters())]
        return [parameter for parameter in parameters if parameter.requires_grad]

    def _draw(self, count: int, limit: int, rng: random.Random) -> Tensor:
        return torch.tensor(rng.sample(range(count), min(count, limit)), dtype=torch.int64)

    def _autocast(self) -> torch.autocast:
        precision = self.config.precision
        device = next(self.model.head.parameters()).device.type
        dtype = torch.bfloat16 if precision == "float32" else getattr(torch, precision)
        return torch.autocast(device, dtype=dtype, enabled=precision != "float32")


class Align(Stage):
    """Visual tokens and the head's lexicon towards the words for what they show, and towards captions."""

    name = "align"
    modules: tuple[str, ...] = ("projector", "head")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.weights = {"naming": 1.0, "lexicon": 1.0, "text": self.config.losses.text}
        if self.data.speaks(self.name):
            self.modules = ("projector", "mllm", "head")

    def trains(self, name: str) -> bool:  # noqa: D102
        return name.startswith(("projector.", "head.lexicon.", "head.word.", "head.background"))

    def read(self, photo: TrainingImage, rng: random.Random) -> Item:  # noqa: D102
        cached = self.data.read(photo, embeddings=False)
        sample = self.data.sample(photo, cached, rng, stage=self.name)
        features = cached.features.to(torch.float32)
        features = mirror(features) if sample.flipped else features
        tokens = self.model.projector.num_tokens(features.patch_features, features.superpixels)
        return Item(
            features=features,
            labels=self.data.labels(photo, cached),
            text=self.encoder.encode(sample.branches, tokens) if sample.branches else None,
            targets=sample_targets(sample),
            drawn=self._draw(0, 0, rng),
        )

    def counts(self, items: Sequence[Item]) -> dict[str, int]:  # noqa: D102
        told = [item for item in items if item.text is not None]
        return {**steps.text_counts(each(told, "text")), **steps.label_counts(each(items, "labels"))}

    def terms(self, items: Sequence[Item]) -> Terms:  # noqa: D102
        features = each(items, "features")
        visual = [self.model.project(item) for item in features]
        named = _words_terms(self.model, features, visual, items)
        told = [(item, tokens) for item, tokens in zip(items, visual, strict=True) if item.text is not None]
        if not told:
            return named
        spoken = [item for item, _ in told]
        with self._autocast():
            others = (each(spoken, name) for name in ("text", "targets", "drawn"))
            said = steps.instruct_loss(self.model, each(spoken, "features"), [tokens for _, tokens in told], *others)
        return steps.join(said, named)


class Instruct(Stage):
    """Questions and answers, pointing and existence, and masks where `masks_per_photo` asks for them."""

    name, modules = "instruct", ("projector", "mllm", "head", "mask_decoder")

    def trains(self, name: str) -> bool:  # noqa: D102
        return self.config.masks_per_photo > 0 or not name.startswith(PROMPT)

    def read(self, photo: TrainingImage, rng: random.Random) -> Item:  # noqa: D102
        masks = self.config.masks_per_photo
        cached = self.data.read(photo, embeddings=masks > 0)
        sample = self.data.sample(photo, cached, rng)
        features = cached.features.to(torch.float32)
        features = mirror(features) if sample.flipped else features
        tokens = self.model.projector.num_tokens(features.patch_features, features.superpixels)
        targets = sample_targets(sample)
        return Item(
            features=features,
            labels=self.data.labels(photo, cached),
            text=self.encoder.encode(sample.branches, tokens),
            targets=targets,
            drawn=self._draw(len(targets.masks), masks, rng),
        )

    def counts(self, items: Sequence[Item]) -> dict[str, int]:  # noqa: D102
        return {
            **steps.text_counts(each(items, "text")),
            **steps.target_counts(each(items, "targets")),
            **steps.mask_counts(each(items, "drawn")),
            **steps.label_counts(each(items, "labels")),
        }

    def terms(self, items: Sequence[Item]) -> Terms:  # noqa: D102
        features = each(items, "features")
        with self._autocast():
            visual = [self.model.project(item) for item in features]
            others = (each(items, name) for name in ("text", "targets", "drawn"))
            said = steps.instruct_loss(self.model, features, visual, *others)
            said.outputs += self._mask_parameters()
            return steps.join(said, _words_terms(self.model, features, visual, items))


class Point(Stage):
    """The head alone, on recorded hidden states."""

    name, modules, recorded = "point", ("head",), True

    def trains(self, name: str) -> bool:  # noqa: D102
        return name.startswith("head.") and not name.startswith(PROMPT)

    def read(self, photo: TrainingImage, rng: random.Random) -> Item:  # noqa: D102
        return Item(recording=self.readings.draw(photo, rng))

    def counts(self, items: Sequence[Item]) -> dict[str, int]:  # noqa: D102
        recordings = each(items, "recording")
        lexicon = steps.label_counts(each(recordings, "labels"))["lexicon"]
        return {**steps.target_counts(recordings), "lexicon": lexicon}

    def terms(self, items: Sequence[Item]) -> Terms:  # noqa: D102
        with self._autocast():
            return steps.point_loss(self.model, each(items, "recording"))


class Refine(Stage):
    """The head's prompt through SAM's decoder, on recorded hidden states."""

    name, modules, recorded = "refine", ("head", "mask_decoder"), True

    def trains(self, name: str) -> bool:  # noqa: D102
        return name.startswith(PROMPT)

    def read(self, photo: TrainingImage, rng: random.Random) -> Item:  # noqa: D102
        recording = self.readings.draw(photo, rng)
        features = self.data.read(photo).features.to(torch.float32)
        return Item(
            features=mirror(features) if recording.flipped else features,
            recording=recording,
            drawn=self._draw(len(recording.masks), max(1, self.config.masks_per_photo), rng),
        )

    def counts(self, items: Sequence[Item]) -> dict[str, int]:  # noqa: D102
        return steps.mask_counts(each(items, "drawn"))

    def terms(self, items: Sequence[Item]) -> Terms:  # noqa: D102
        terms = steps.refine_loss(self.model, *(each(items, name) for name in ("features", "recording", "drawn")))
        terms.outputs += self._mask_parameters()
        return terms


STAGES: tuple[type[Stage], ...] = (Align, Instruct, Point, Refine)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def each(items: Sequence[Item], name: str) -> list[Any]:
    """The field `name` of every item."""
    return [getattr(item, name) for item in items]


def _words_terms(model: MLLMSeg, features: list[ImageFeatures], visual: list[Any], items: Sequence[Item]) -> Terms:
    """Naming and lexicon losses."""
    head, labels = model.head, each(items, "labels")
    lexicon = [head.look_up(pool_superpixels(item.patch_features, item.superpixels)) for item in features]
    naming = steps.naming_loss(visual, labels, head.get_buffer("vocabulary"))
    return steps.join(naming, steps.lexicon_loss(head, lexicon, labels))
