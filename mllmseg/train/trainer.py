"""Single-process training: fill the cache, align the projector, instruct the whole, point with the head, save all that.

All chance of a step follows from the seed, the stage and the step's number, so that a resumed run repeats the run that
was never stopped, bit for bit on one CPU process, without saving the state of any generator.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import pathlib
import pickle
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mllmseg import __version__
from mllmseg.config import Config, DataConfig, ModelConfig, StageConfig, TrainConfig
from mllmseg.constants import REJ_TOKEN, SEG_TOKEN
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.data.datasets.coco_mini import CocoMini, Expression, Photo
from mllmseg.data.mixture import Sample, make_sample, training_photos
from mllmseg.data.synth import target_frequency
from mllmseg.errors import CheckpointError, ConfigError, DataError
from mllmseg.models.allocator import keep_freed_memory
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import load_trained_state, save_checkpoint, trained_state
from mllmseg.models.losses import superpixel_coverage
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.structures import ImageFeatures, Turn
from mllmseg.train.batch import mirror, sample_targets, superpixel_names
from mllmseg.train.cache import CachedPhoto, FeatureCache
from mllmseg.train.calibration import fit_platt
from mllmseg.train.logging import RunLog
from mllmseg.train.optim import build_optimizer, learning_rate
from mllmseg.train.pointing import Recording, record
from mllmseg.train.steps import StepResult, instruct_loss, name_embeddings, naming_loss, point_loss
from mllmseg.train.validation import validate, validation_photos

log = logging.getLogger(__name__)
STAGES = ("align", "instruct", "point")
STATE_FILE, SETTINGS_FILE, MODEL_SETTINGS_FILE = "state.pt", "train.yaml", "model.yaml"


class Trainer:
    """One run in one folder."""

    def __init__(self, config: TrainConfig, *, resume: bool = False) -> None:
        """Reads the data and builds the model.

        Raises:
            ConfigError: the run folder holds a run and `resume` is false, resuming finds none or other settings, or no
                photo is left to train on.
            CheckpointError: the state to resume from is damaged.
        """
        self.config = config
        self.out = pathlib.Path(config.out)
        self.model_config = ModelConfig.from_yaml(config.model)
        self._check_folder(resume)
        torch.manual_seed(config.seed)
        self.dataset = CocoMini(config.data.root, "train")
        self.val = CocoMini(config.data.root, "val")
        self.cache = FeatureCache(config.cache, self.model_config)
        photos, every = training_photos(self.dataset, config.data.photos), config.data.holdout_every
        self.holdout = photos[every - 1 :: every] if every else []
        held = {photo.id for photo in self.holdout}
        self.photos = [photo for photo in photos if photo.id not in held]
        if not self.photos:
            raise ConfigError(f"{config.data.root}: {len(photos)} photos, {len(held)} of them held out: none is left")
        self.model = build_model(self.model_config)
        prepare_precision(self.model, config.precision)
        self.encoder = ConversationEncoder(self.model.mllm.tokenizer, self.model_config.language_model.system_prompt)
        self.frequency = target_frequency(self.photos)
        self.names = sorted(self.dataset.categories)
        self.name_table = name_embeddings(self.model.mllm, self.names)
        self._expressions: dict[int, list[Expression]] = {}
        for expression in self.dataset.expressions:
            self._expressions.setdefault(expression.image_id, []).append(expression)
        self.recordings = self.out / "recordings"
        self.seconds = 0.0
        self.start = (STAGES[0], 0)
        self.optimizer: torch.optim.Optimizer | None = None
        self._resumed: dict[str, Any] | None = self._load_state() if resume else None
        if not resume:  # only now: a run that cannot even start occupies no folder
            self._claim_folder()

    def run(self) -> pathlib.Path:
        """Trains every stage that is not done yet; returns the folder of the final checkpoint."""
        _fill(self.cache, self.config, self.dataset, self.val)
        self.log = RunLog(self.out)
        self.run_stage("align", self.config.align, self.model.projector.parameters(), self.align_step)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.run_stage("instruct", self.config.instruct, trained, self.instruct_step)
        self.record()
        self.run_stage("point", self.config.point, self.model.head.parameters(), self.point_step)
        self.calibrate()
        final = self.out / "final"
        last, stage = ("point", self.config.point) if self.config.point.steps else ("instruct", self.config.instruct)
        save_checkpoint(self.model, final, training=self.training_facts(last, stage.steps))
        return final

    def run_stage(
        self,
        name: str,
        stage: StageConfig,
        parameters: Iterable[nn.Parameter],
        step_fn: Callable[[list[Photo], random.Random], StepResult],
    ) -> None:
        """One stage from where the run stands to its end."""
        if STAGES.index(name) < STAGES.index(self.start[0]):
            return
        parameters = list(parameters)
        self.optimizer = build_optimizer(parameters, stage)
        first = self.start[1] if name == self.start[0] else 0
        if first and self._resumed is not None:
            self.optimizer.load_state_dict(self._resumed["optimizer"])
        self.model.train()
        began = time.perf_counter()
        for step in range(first, stage.steps):
            rng = step_rng(self.config.seed, name, step)
            result = step_fn(self.photos_of(name, stage, step), rng)
            rate = learning_rate(stage, step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            result.loss.backward()
            nn.utils.clip_grad_norm_(parameters, stage.max_grad_norm)
            self.optimizer.step()
            self.log.add(result.figures | {"learning_rate": rate})
            self._after_step(name, stage, step + 1, began)
        self.seconds += time.perf_counter() - began

    def align_step(self, photos: list[Photo], rng: random.Random) -> StepResult:
        """Visual tokens towards the words for what they show."""
        features, names = [], []
        for photo in photos:
            cached = self.cache.read(photo, embeddings=False)
            item = as_float(cached.features)
            index = self.superpixel_names(photo, cached)
            if rng.random() < self.config.data.flip:
                item = mirror(item)
            features.append(item)
            names.append(index)
        return naming_loss([self.model.project(item) for item in features], names, self.name_table)

    def instruct_step(self, photos: list[Photo], rng: random.Random) -> StepResult:
        """Questions and answers, masks and existence."""
        features, visual, texts, targets, names = [], [], [], [], []
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            for photo in photos:
                cached = self.cache.read(photo)
                sample = self.sample(photo, cached, rng)
                item = as_float(cached.features)
                item = mirror(item) if sample.flipped else item
                tokens = self.model.project(item)
                features.append(item)
                visual.append(tokens)
                texts.append(self.encoder.encode(sample.branches, len(tokens.tokens)))
                targets.append(sample_targets(sample, cached))
                names.append(self.superpixel_names(photo, cached))
            weights, masks = self.config.losses, self.config.masks_per_photo
            result = instruct_loss(self.model, features, visual, texts, targets, weights, masks_per_photo=masks)
            naming = naming_loss(visual, names, self.name_table)
        return StepResult(result.loss + weights.naming * naming.loss, naming.figures | result.figures)

    def record(self) -> None:
        """Lets the trained language model read every photo, in several processes; what is recorded stays."""
        if not self.config.point.steps:
            return
        self.recordings.mkdir(exist_ok=True)
        context, workers = multiprocessing.get_context("spawn"), self.config.cache_workers
        processes = [
            context.Process(target=_record_share, args=(self.config, rank, workers)) for rank in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        missing = sum(not self.recording_of(*item).exists() for item in self.readings())
        if missing:
            raise DataError(f"{self.recordings}: {missing} recordings could not be made; see above")

    def readings(self) -> list[tuple[Photo, int]]:
        """Every photo as often as it is to be recorded."""
        return [(photo, number) for number in range(self.config.point.rounds) for photo in self.photos]

    def recording_of(self, photo: Photo, number: int) -> pathlib.Path:
        """Where a reading of a photo is kept."""
        return self.recordings / f"{photo.path.stem}-{number}.safetensors"

    def record_photo(self, photo: Photo, number: int) -> None:
        """Asks fresh questions about a photo, mirrored in odd rounds, and keeps the hidden states."""
        flip = float(number % 2 and self.config.data.flip > 0)
        data = self.config.data.model_copy(update={"flip": flip, "captions": 0, "positives": 8, "negatives": 5})
        cached = self.cache.read(photo, embeddings=False)
        sample = self.sample(photo, cached, random.Random(f"{self.config.seed} record {photo.id} {number}"), data)
        features = as_float(cached.features)
        features = mirror(features) if sample.flipped else features
        branches = [
            [Turn(turns[0].question, SEG_TOKEN if exists else REJ_TOKEN)]
            for turns, exists in zip(sample.branches, sample.exists, strict=True)
        ]
        half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16")
        with torch.no_grad(), half:
            tokens = self.model.project(features)
            text = self.encoder.encode(branches, len(tokens.tokens))
            recording = record(self.model, tokens, text, sample_targets(sample, cached), flipped=sample.flipped)
        recording.save(self.recording_of(photo, number))

    def point_step(self, photos: list[Photo], rng: random.Random) -> StepResult:
        """The head alone, on recorded hidden states."""
        features, recordings, names = [], [], []
        for place, photo in enumerate(photos):
            cached = self.cache.read(photo, embeddings=place == 0)  # the first photo trains SAM's prompts
            recording = Recording.load(self.recording_of(photo, rng.randrange(self.config.point.rounds)))
            item = as_float(cached.features)
            features.append(mirror(item) if recording.flipped else item)
            recordings.append(recording)
            names.append(self.superpixel_names(photo, cached))
        return point_loss(
            self.model,
            features,
            recordings,
            names,
            self.name_table,
            self.config.losses,
            masks_per_step=self.config.point.masks_per_step,
        )

    @torch.no_grad()
    def calibrate(self) -> None:
        """Fits P(the target exists) on the photos held out."""
        self.model.eval()
        upright = self.config.data.model_copy(update={"flip": 0.0})
        logits, exists = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
        for photo in self.holdout:
            cached = self.cache.read(photo, embeddings=False)
            sample = self.sample(photo, cached, random.Random(f"{self.config.seed} {photo.id}"), upright)
            features = as_float(cached.features)
            visual = self.model.project(features)
            text = self.encoder.encode(sample.branches, len(visual.tokens))
            logits.append(self.model([features], [visual], [text]).images[0].exist_logits.float())
            exists.append(torch.tensor(sample.exists, dtype=torch.bool))
        scale, bias = fit_platt(torch.cat(logits), torch.cat(exists))
        self.model.head.get_buffer("calibration").copy_(torch.tensor([scale, bias]))
        log.info("calibrated on %d queries: scale %.3f, bias %.3f", len(torch.cat(exists)), scale, bias)

    def sample(self, photo: Photo, cached: CachedPhoto, rng: random.Random, data: DataConfig | None = None) -> Sample:
        """Fresh questions and answers about a photo; `data`: other settings than the run's."""
        return make_sample(
            photo,
            self._expressions.get(photo.id, []),
            self.dataset.categories,
            set(cached.masks),
            data or self.config.data,
            rng,
            self.frequency,
        )

    def superpixel_names(self, photo: Photo, cached: CachedPhoto) -> Tensor:
        """`[S]` index into the sorted category names, -1 where unknown."""
        superpixels = cached.features.superpixels
        masks = torch.stack([torch.zeros_like(superpixels.label_map, dtype=torch.bool), *cached.masks.values()])[1:]
        coverage = superpixel_coverage(masks, superpixels.label_map, len(superpixels))
        index = {name: number for number, name in enumerate(self.names)}
        return superpixel_names(cached, {item.id: index[item.category] for item in photo.instances}, coverage)

    def photos_of(self, name: str, stage: StageConfig, step: int) -> list[Photo]:
        """The photos of a step: each epoch goes through all of them in an order of its own."""
        chosen = []
        for number in range(step * stage.batch_size, (step + 1) * stage.batch_size):
            epoch, place = divmod(number, len(self.photos))
            shuffled = random.Random(f"{self.config.seed} {name} {epoch}").sample(self.photos, len(self.photos))
            chosen.append(shuffled[place])
        return chosen

    def training_facts(self, stage: str, step: int) -> dict[str, Any]:
        """How the weights came to be, for `training.json`."""
        return {
            "mllmseg": __version__,
            "stage": stage,
            "step": step,
            "photos": len(self.photos),
            "seconds": round(self.seconds),
            "config": self.config.model_dump(mode="json"),
        }

    def _after_step(self, name: str, stage: StageConfig, done: int, began: float) -> None:
        last = done == stage.steps
        if done % self.config.log_every == 0 or last:
            self.log.flush(name, done, stage.steps)
        if done % self.config.checkpoint_every == 0 or last:
            self._save_state(name, done, self.seconds + time.perf_counter() - began)
        if name == "instruct" and self.config.val_photos and (done % self.config.val_every == 0 or last):
            validate(self.model, self.config, self.val, self.cache, self.log, done)
            self.model.train()

    def _check_folder(self, resume: bool) -> None:
        settings, model = self.out / SETTINGS_FILE, self.out / MODEL_SETTINGS_FILE
        if not resume:
            if (self.out / STATE_FILE).exists() or settings.exists():
                raise ConfigError(f"{self.out} holds a run already: resume it (--resume) or choose another 'out'")
            return
        if not settings.exists():
            raise ConfigError(f"{self.out} holds no run to resume")
        changed = _changed(TrainConfig.from_yaml(settings), self.config)
        if model.exists():
            changed += [f"model: {key}" for key in _changed(ModelConfig.from_yaml(model), self.model_config)]
        if changed:
            raise ConfigError(f"{self.out} was trained with other settings ({', '.join(changed)}): resume with its own")

    def _claim_folder(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.config.to_yaml(self.out / SETTINGS_FILE)
        self.model_config.to_yaml(self.out / MODEL_SETTINGS_FILE)

    def _save_state(self, stage: str, step: int, seconds: float) -> None:
        assert self.optimizer is not None
        state = {
            "stage": stage,
            "step": step,
            "seconds": seconds,
            "model": trained_state(self.model),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.out / f".{STATE_FILE}"
        torch.save(state, temporary)
        temporary.rename(self.out / STATE_FILE)

    def _load_state(self) -> dict[str, Any] | None:
        path = self.out / STATE_FILE
        if not path.is_file():
            log.info("%s: nothing was saved yet, starting at the beginning", self.out)
            return None
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); start the run anew in another 'out'") from error
        load_trained_state(self.model, state["model"], source=str(path))
        self.start, self.seconds = (state["stage"], state["step"]), state["seconds"]
        return state


def fill_cache(config: TrainConfig) -> FeatureCache:
    """Computes the features a run will read, and nothing else: before the run, or on several machines at once."""
    cache = FeatureCache(config.cache, ModelConfig.from_yaml(config.model))
    _fill(cache, config, CocoMini(config.data.root, "train"), CocoMini(config.data.root, "val"))
    return cache


def _fill(cache: FeatureCache, config: TrainConfig, train: CocoMini, val: CocoMini) -> None:
    photos = training_photos(train, config.data.photos)
    if config.val_photos:
        photos += validation_photos(val, config.val_photos)
    cache.fill(photos, workers=config.cache_workers)


def _record_share(config: TrainConfig, rank: int, workers: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    keep_freed_memory()
    trainer = Trainer(config, resume=True)
    trainer.model.eval()
    for photo, number in trainer.readings()[rank::workers]:
        if not trainer.recording_of(photo, number).exists():
            trainer.record_photo(photo, number)


def step_rng(seed: int, stage: str, step: int) -> random.Random:
    """The chance of one step, for Python and torch (dropout) alike."""
    digest = hashlib.sha256(f"{seed} {stage} {step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
    return random.Random(digest)


def prepare_precision(model: MLLMSeg, precision: str) -> None:
    """Keeps frozen language-model weights in the training precision; what is trained stays in float32."""
    if precision == "bfloat16":
        for parameter in model.mllm.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()


def as_float(features: ImageFeatures) -> ImageFeatures:
    """Cached features are stored in half precision; the model reads float32."""
    return features.to(torch.float32)


def _changed(old: Config, new: Config) -> list[str]:
    before, after = old.model_dump(), new.model_dump()
    return [key for key in before if before[key] != after[key]]
