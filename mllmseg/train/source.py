"""What training steps read: sample after sample, in an order that follows from their numbers alone.

The n-th sample of a stage is an image of some source (`mllmseg/data/mixture.py`), its cached features and fresh
questions, whose chance follows from seed, stage and n. How many processes and threads share the work changes nothing.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
import random
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from mllmseg.config import DataConfig, ModelConfig, StageConfig, TrainConfig
from mllmseg.data import words
from mllmseg.data.mixture import Mixture
from mllmseg.data.prefetch import ordered
from mllmseg.data.referring import open_dataset
from mllmseg.data.training import BadSamples, Sample, TrainingImage, TrainingSource, View, open_source
from mllmseg.errors import ConfigError, DataError
from mllmseg.structures import ImageFeatures
from mllmseg.train.batch import SuperpixelLabels, superpixel_labels, unnamed
from mllmseg.train.cache import CachedImage, CacheEntry, FeatureCache, FillReport
from mllmseg.train.validation import ValidationSet

Item = TypeVar("Item")
Read = Callable[[TrainingImage, random.Random], Item]
# Labels of so many photos are kept, at 15 KB each; those of more are worked out at every visit.
MAX_KEPT_LABELS = 8192
# What the stages after `instruct` read is what it has something to point at for.
POINTING = "point"


class TrainingData:
    """The images of a run and everything that is drawn about them.

    Attributes:
        sources: where they come from.
        photos: those trained on.
        holdout: those kept out, for calibration.
        vocabulary: names that superpixels may bear.
        validation: what is validated on, if anything.
        bad: what was left out.
    """

    def __init__(self, config: TrainConfig, model: ModelConfig) -> None:
        """Reads the labels.

        Raises:
            ConfigError: no image is left to train on, or a stage has nothing to read.
            DataError: labels are missing or broken.
        """
        self.config = config
        self.bad = BadSamples(skip=config.data.on_bad_sample == "skip")
        self.cache = FeatureCache(config.cache, model, embeddings=config.cache_embeddings)
        settings, every = config.data.sources, config.data.holdout_every
        self.sources: list[TrainingSource] = [
            open_source(item, number, config.data, self.bad) for number, item in enumerate(settings)
        ]
        self._stages = [
            frozenset(item.stages) or source.stages for item, source in zip(settings, self.sources, strict=True)
        ]
        self.holdout: list[TrainingImage] = []
        self._kept: list[list[TrainingImage]] = []
        for source in self.sources:
            images = source.images
            whole = [image for image in images if image.view_of is None]
            held = whole[every - 1 :: every] if every and POINTING in source.stages else []
            self.holdout += held
            out = {image.id for image in held}  # and their views: one would give the other away
            self._kept.append([image for image in images if (image.view_of or image.id) not in out])
            if not self._kept[-1]:
                raise ConfigError(f"{source.name}: {len(images)} photos, {len(held)} of them held out: none is left")
        self.photos = [image for kept in self._kept for image in kept]
        categories = {item for source in self.sources for item in source.categories}
        self.vocabulary = model.head.vocabulary or tuple(sorted({words.name(item) for item in categories}))
        place = {name: index for index, name in enumerate(self.vocabulary)}
        self._index = {item: place[words.name(item)] for item in categories if words.name(item) in place}
        self.validation = _open_validation(config)
        self._labels: dict[str, SuperpixelLabels] = {}
        for name in ("align", "instruct", "point", "refine"):
            if getattr(config, name).steps:
                self._mixture(name)  # a stage with nothing to read is found now, not hours later

    def fill_cache(self, *, skip_bad: bool = False, progress: bool = False) -> FillReport:
        """Computes the features of every image the run reads, where they are missing; files the bad ones.

        Args:
            skip_bad: report bad images even where they are to end the run.
            progress: show a bar.
        """
        images = [*self.photos, *self.holdout]
        entries = [self.entry(image) for image in images]
        names: dict[str, list[str]] = {}
        for entry, image in zip(entries, images, strict=True):
            names.setdefault(entry.name, []).append(image.id)
        if self.validation is not None:
            entries += [CacheEntry(path) for path in self.validation.images()]
        skip_bad = skip_bad or self.bad.skip
        report = self.cache.fill(entries, workers=self.config.cache_workers, skip_bad=skip_bad, progress=progress)
        for name, problem in report.bad if self.bad.skip else ():
            for ident in names.get(name, [name]):
                self.bad.add(ident, DataError(problem))
        return report

    def features_of(self, path: pathlib.Path) -> ImageFeatures:
        """The cached features of an image that is validated on, with SAM's embeddings."""
        return self.cache.read(CacheEntry(path)).features

    def entry(self, image: TrainingImage) -> CacheEntry:
        """What the cache should hold about an image."""
        return CacheEntry(image.path, self.sources[image.source].boxes(image), image.size)

    def read(self, image: TrainingImage, *, embeddings: bool = True) -> CachedImage:
        """An image's cached features; `embeddings=False` leaves SAM's on disk."""
        return self.cache.read(self.entry(image), embeddings=embeddings)

    def images_of(self, stage: str) -> list[TrainingImage]:
        """The images that a stage reads, but for those known to be bad."""
        images = (image for number in self._readers(stage) for image in self._kept[number])
        return [image for image in images if image.id not in self.bad.found]

    def speaks(self, stage: str) -> bool:
        """Whether a stage reads sources that have words where others have labels."""
        return any(not self.sources[number].categories for number in self._readers(stage))

    def image(self, stage: str, number: int, attempt: int = 0) -> TrainingImage:
        """Sample `number` of a stage; `attempt`: so many in its place turned out to be bad."""
        mixture, readers = self._mixture(stage)
        place = mixture.place(number, attempt)
        return self._kept[readers[place.source]][place.index]

    def photos_of(self, name: str, stage: StageConfig, step: int) -> list[TrainingImage]:
        """The images of a step, bad ones too."""
        return [self.image(name, number) for number in range(step * stage.batch_size, (step + 1) * stage.batch_size)]

    def rng(self, stage: str, number: int) -> random.Random:
        """The chance of a sample."""
        return random.Random(hashlib.sha256(f"{self.config.seed} {stage} {number}".encode()).digest())

    def stream(self, stage: str, numbers: Iterable[int], read: Read[Item]) -> Generator[Item, None, None]:
        """Samples of a stage in the order of `numbers`, read ahead by `data_workers` threads.

        Args:
            stage: which.
            numbers: this process's share of them.
            read: makes of an image and the sample's chance what a step needs. Where it raises DataError, the sample is
                bad: the run ends with its name or, where such are skipped, the next good image of its source's epoch
                takes its place.

        Raises:
            DataError: as said, or every image of a source is bad.
        """
        return ordered(functools.partial(self._read, stage, read), numbers, workers=self.config.data_workers)

    def held_out(self, number: int, read: Read[Item]) -> tuple[Item, bool]:
        """What `read` makes of an image kept out, with the same chance at every call; where it is bad, of the next.

        Returns:
            The item, and whether it is that of this number.

        Raises:
            DataError: it is bad, or all are.
        """
        for attempt in range(len(self.holdout)):
            image = self.holdout[(number + attempt) % len(self.holdout)]
            try:
                return read(image, random.Random(f"{self.config.seed} {image.id}")), not attempt
            except DataError as error:
                self.bad.add(image.id, error)
        raise DataError(f"every image held out is bad: {self.bad.report()}")

    def _read(self, stage: str, read: Read[Item], number: int) -> Item:
        image = self.image(stage, number)
        for attempt in range(len(self._kept[image.source])):
            image = self.image(stage, number, attempt)
            try:
                return read(image, self.rng(stage, number))
            except DataError as error:
                self.bad.add(image.id, error)
                last = error
        raise DataError(f"{self.sources[image.source].name}: every image is bad, the last: {image.id}: {last}")

    def sample(
        self,
        image: TrainingImage,
        cached: CachedImage,
        rng: random.Random,
        data: DataConfig | None = None,
        *,
        stage: str = "instruct",
    ) -> Sample:
        """Fresh questions and answers about an image; `data`: other settings than the run's."""
        source = self.sources[image.source]
        return source.draw(image, _view(cached), rng, data or self.config.data, stage=stage)

    def labels(self, image: TrainingImage, cached: CachedImage) -> SuperpixelLabels:
        """What each superpixel of an image shows, mirrored or not."""
        if image.id in self._labels:
            return self._labels[image.id]
        superpixels = cached.features.superpixels
        found = self.sources[image.source].labelled(image, _view(cached))
        if found is None:
            return unnamed(superpixels, len(self.vocabulary))
        labels = superpixel_labels(*found, superpixels, self._index, len(self.vocabulary))
        if len(self._labels) < MAX_KEPT_LABELS:
            self._labels[image.id] = labels
        return labels

    def _readers(self, stage: str) -> list[int]:
        """The sources that a stage draws from."""
        return [number for number, stages in enumerate(self._stages) if stage in stages]

    @functools.cache  # noqa: B019  the data live as long as the run
    def _mixture(self, stage: str) -> tuple[Mixture, list[int]]:
        readers = self._readers(stage)
        if not readers:
            names = ", ".join(source.name for source in self.sources)
            raise ConfigError(f"data.sources: none of {names} has anything for '{stage}': set {stage}.steps=0")
        weights = [self.config.data.sources[number].weight for number in readers]
        sizes = [len(self._kept[number]) for number in readers]
        return Mixture(sizes, weights, key=f"{self.config.seed} {stage}"), readers


def _open_validation(config: TrainConfig) -> ValidationSet | None:
    chosen = config.data.validation
    if chosen is None or not config.val_photos:
        return None
    root = chosen.root if chosen.root is not None else config.data.root
    return ValidationSet(open_dataset(chosen.name, data_root=root), config.val_photos)


def _view(cached: CachedImage) -> View:
    height, width = cached.features.superpixels.label_map.shape
    return View((height, width), cached.features.original_size, cached.estimated)
