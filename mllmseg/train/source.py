"""What training steps read: photos in their order, their cached features, fresh sentences, names of superpixels."""

from __future__ import annotations

import random

from mllmseg.config import DataConfig, ModelConfig, StageConfig, TrainConfig
from mllmseg.data import words
from mllmseg.data.datasets.coco_mini import CocoMini, Expression, Photo
from mllmseg.data.mixture import Sample, make_sample, training_photos
from mllmseg.data.synth import target_frequency
from mllmseg.errors import ConfigError
from mllmseg.train.batch import CachedPhoto, SuperpixelLabels, cache_entry, cached_photo, superpixel_labels
from mllmseg.train.cache import FeatureCache, FillReport
from mllmseg.train.validation import validation_photos


class TrainingData:
    """The photos of a run and everything that is drawn about them.

    Attributes:
        photos: those trained on.
        holdout: those kept out, for calibration.
        vocabulary: names that superpixels may bear.
    """

    def __init__(self, config: TrainConfig, model: ModelConfig) -> None:
        """Reads the labels.

        Raises:
            ConfigError: no photo is left to train on.
        """
        self.config = config
        self.train = CocoMini(config.data.root, "train")
        self.val = CocoMini(config.data.root, "val")
        self.cache = FeatureCache(config.cache, model, embeddings=config.cache_embeddings)
        photos, every = training_photos(self.train, config.data.photos), config.data.holdout_every
        self.holdout = photos[every - 1 :: every] if every else []
        held = {photo.id for photo in self.holdout}
        self.photos = [photo for photo in photos if photo.id not in held]
        if not self.photos:
            raise ConfigError(f"{config.data.root}: {len(photos)} photos, {len(held)} of them held out: none is left")
        self.vocabulary = model.head.vocabulary or tuple(sorted({words.name(item) for item in self.train.categories}))
        place = {name: index for index, name in enumerate(self.vocabulary)}
        self._index = {item: place[words.name(item)] for item in self.train.categories if words.name(item) in place}
        self._frequency = target_frequency(self.photos)
        self._labels: dict[int, SuperpixelLabels] = {}
        self._expressions: dict[int, list[Expression]] = {}
        for expression in self.train.expressions:
            self._expressions.setdefault(expression.image_id, []).append(expression)

    def fill_cache(self, *, skip_bad: bool = False, progress: bool = False) -> FillReport:
        """Computes the features of every photo the run reads, where they are missing."""
        photos = [*self.photos, *self.holdout]
        if self.config.val_photos:
            photos += validation_photos(self.val, self.config.val_photos)
        entries = [cache_entry(photo) for photo in photos]
        return self.cache.fill(entries, workers=self.config.cache_workers, skip_bad=skip_bad, progress=progress)

    def read(self, photo: Photo, *, embeddings: bool = True) -> CachedPhoto:
        """A photo's cached features and the masks of its instances; `embeddings=False` leaves SAM's on disk."""
        return cached_photo(photo, self.cache.read(cache_entry(photo), embeddings=embeddings))

    def photos_of(self, name: str, stage: StageConfig, step: int) -> list[Photo]:
        """The photos of a step: each epoch goes through all of them in an order of its own."""
        chosen = []
        for number in range(step * stage.batch_size, (step + 1) * stage.batch_size):
            epoch, place = divmod(number, len(self.photos))
            shuffled = random.Random(f"{self.config.seed} {name} {epoch}").sample(self.photos, len(self.photos))
            chosen.append(shuffled[place])
        return chosen

    def sample(self, photo: Photo, cached: CachedPhoto, rng: random.Random, data: DataConfig | None = None) -> Sample:
        """Fresh questions and answers about a photo; `data`: other settings than the run's."""
        return make_sample(
            photo,
            self._expressions.get(photo.id, []),
            self.train.categories,
            set(cached.masks),
            data or self.config.data,
            rng,
            self._frequency,
        )

    def labels(self, photo: Photo, cached: CachedPhoto) -> SuperpixelLabels:
        """What each superpixel of a photo shows, mirrored or not; worked out once."""
        if photo.id not in self._labels:
            self._labels[photo.id] = superpixel_labels(photo, cached, self._index, len(self.vocabulary))
        return self._labels[photo.id]
