"""Single-process training: align the visual tokens, instruct the whole, point with the head, refine masks, save all.

All chance of a step follows from the seed, the stage and the step's number, so that a resumed run repeats the run that
was never stopped, bit for bit on one CPU process, without saving the state of any generator.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import multiprocessing
import os
import pathlib
import pickle
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mllmseg import __version__
from mllmseg.config import Config, DataConfig, ModelConfig, StageConfig, TrainConfig
from mllmseg.constants import REJ_TOKEN, SEG_TOKEN
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.data.training import TrainingImage
from mllmseg.errors import CheckpointError, ConfigError, DataError
from mllmseg.models.allocator import keep_freed_memory
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import load_trained_state, save_checkpoint, trained_state
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.models.pooling import pool_superpixels
from mllmseg.structures import ImageFeatures, Turn, VisualTokens
from mllmseg.train.batch import SuperpixelLabels, Targets, mirror, sample_targets
from mllmseg.train.cache import FeatureCache, FillReport
from mllmseg.train.calibration import fit_platt
from mllmseg.train.logging import RunLog
from mllmseg.train.optim import build_optimizer, learning_rate
from mllmseg.train.pointing import Recording, record
from mllmseg.train.source import TrainingData
from mllmseg.train.start import initial_model_config, load_initial_weights
from mllmseg.train.steps import StepResult, instruct_loss, lexicon_loss, naming_loss, point_loss, refine_loss
from mllmseg.train.validation import validate

log = logging.getLogger(__name__)
STAGES = ("align", "instruct", "point", "refine")
STATE_FILE, SETTINGS_FILE, MODEL_SETTINGS_FILE = "state.pt", "train.yaml", "model.yaml"
BAD_SAMPLES_FILE = "bad_samples.jsonl"


@dataclass(frozen=True)
class Example:
    """What a step needs to know about one image; `branches` are its conversations."""

    features: ImageFeatures
    branches: tuple[tuple[Turn, ...], ...]
    targets: Targets
    labels: SuperpixelLabels


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
        model_config = initial_model_config(config)
        self.data = TrainingData(config, model_config)
        head = model_config.head.model_copy(update={"vocabulary": self.data.vocabulary})
        self.model_config = model_config.model_copy(update={"head": head})
        self._check_folder(resume)
        torch.manual_seed(config.seed)
        self.model = build_model(self.model_config)
        load_initial_weights(self.model, config)
        prepare_precision(self.model, config.precision)
        self.encoder = ConversationEncoder(self.model.mllm.tokenizer, self.model_config.language_model.system_prompt)
        self.recordings = self.out / "recordings"
        self.seconds = 0.0
        self.start = (STAGES[0], 0)
        self.optimizer: torch.optim.Optimizer | None = None
        self._resumed: dict[str, Any] | None = self._load_state() if resume else None
        if not resume:  # only now: a run that cannot even start occupies no folder
            self._claim_folder()

    def run(self) -> pathlib.Path:
        """Trains every stage that is not done yet; returns the folder of the final checkpoint."""
        self.data.fill_cache()
        self.log = RunLog(self.out, self.config.loggers, self.config.model_dump(mode="json"))
        config, head = self.config, self.model.head
        self.run_stage("align", config.align, [*self.model.projector.parameters(), *head.parameters()], self.align_step)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.run_stage("instruct", config.instruct, trained, self.instruct_step)
        if config.point.steps or config.refine.steps:
            self.record()
        self.run_stage("point", config.point, head.parameters(), self.point_step)
        self.run_stage("refine", config.refine, [*head.prompt.parameters(), head.prior_weight], self.refine_step)
        self.calibrate()
        self.log.close()
        if self.data.bad.found:
            self.data.bad.save(self.out / BAD_SAMPLES_FILE)
            log.warning("%s; all are in %s", self.data.bad.report(), self.out / BAD_SAMPLES_FILE)
        final = self.out / "final"
        last = [name for name in STAGES if getattr(config, name).steps][-1]
        save_checkpoint(self.model, final, training=self.training_facts(last, getattr(config, last).steps))
        return final

    def run_stage(
        self,
        name: str,
        stage: StageConfig,
        parameters: Iterable[nn.Parameter],
        step_fn: Callable[[list[Any], random.Random], StepResult],
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
        for step, batch in enumerate(self._batches(name, stage, first), start=first):
            rng = step_rng(self.config.seed, name, step)
            result = step_fn(batch, rng)
            rate = learning_rate(stage, step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            result.loss.backward(inputs=parameters)
            nn.utils.clip_grad_norm_(parameters, stage.max_grad_norm)
            self.optimizer.step()
            self.log.add(result.figures | {"learning_rate": rate})
            self._after_step(name, stage, step + 1, began)
        self.seconds += time.perf_counter() - began

    def _batches(self, name: str, stage: StageConfig, first: int) -> Iterator[list[Any]]:
        """What each step reads."""
        numbers = range(first * stage.batch_size, stage.steps * stage.batch_size)
        read: dict[str, Callable[[TrainingImage, random.Random], Any]] = {
            "align": self._read_align,
            "instruct": self._read_instruct,
            "point": self._recording,
            "refine": self._read_refine,
        }
        with contextlib.closing(self.data.stream(name, numbers, read[name])) as items:
            while batch := list(itertools.islice(items, stage.batch_size)):
                yield batch

    def _read_align(self, image: TrainingImage, rng: random.Random) -> Example:
        return self._read(image, rng, self.config.data, "align", embeddings=False)

    def _read_instruct(self, image: TrainingImage, rng: random.Random) -> Example:
        return self._read(image, rng, self.config.data, "instruct", embeddings=self.config.masks_per_photo > 0)

    def _read_held_out(self, image: TrainingImage, rng: random.Random) -> Example:
        upright = self.config.data.model_copy(update={"flip": 0.0})
        return self._read(image, rng, upright, "instruct", embeddings=False)

    def _read(
        self, image: TrainingImage, rng: random.Random, data: DataConfig, stage: str, *, embeddings: bool
    ) -> Example:
        cached = self.data.read(image, embeddings=embeddings)
        sample = self.data.sample(image, cached, rng, data, stage=stage)
        features = cached.features.to(torch.float32)  # stored in half precision
        features = mirror(features) if sample.flipped else features
        return Example(features, sample.branches, sample_targets(sample), self.data.labels(image, cached))

    def _read_refine(self, image: TrainingImage, rng: random.Random) -> tuple[ImageFeatures, Recording]:
        recording = self._recording(image, rng)
        features = self.data.read(image).features.to(torch.float32)
        return mirror(features) if recording.flipped else features, recording

    def align_step(self, batch: list[Example], rng: random.Random) -> StepResult:
        """Visual tokens and the head's lexicon towards the words for what they show, and towards captions."""
        visual = [self.model.project(item.features) for item in batch]
        naming, named = self._names(batch, visual)
        loss, figures = naming.loss + named.loss, naming.figures | named.figures
        told = [(item, tokens) for item, tokens in zip(batch, visual, strict=True) if item.branches]
        if told:
            with self._autocast():
                result = self._talk([item for item, _ in told], [tokens for _, tokens in told], masks=0)
            loss, figures = loss + result.loss, figures | result.figures
        return StepResult(loss, figures)

    def instruct_step(self, batch: list[Example], rng: random.Random) -> StepResult:
        """Questions and answers, pointing and existence, and masks where `masks_per_photo` asks for them."""
        with self._autocast():
            visual = [self.model.project(item.features) for item in batch]
            result = self._talk(batch, visual, masks=self.config.masks_per_photo)
            naming, named = self._names(batch, visual)
        loss = result.loss + self.config.losses.naming * (naming.loss + named.loss)
        return StepResult(loss, naming.figures | named.figures | result.figures)

    def _talk(self, batch: list[Example], visual: list[VisualTokens], *, masks: int) -> StepResult:
        texts = [
            self.encoder.encode(item.branches, len(tokens.tokens)) for item, tokens in zip(batch, visual, strict=True)
        ]
        features, targets = [item.features for item in batch], [item.targets for item in batch]
        return instruct_loss(self.model, features, visual, texts, targets, self.config.losses, masks_per_photo=masks)

    def _names(self, batch: list[Example], visual: list[VisualTokens]) -> tuple[StepResult, StepResult]:
        head, labels = self.model.head, [item.labels for item in batch]
        lexicon = [
            head.look_up(pool_superpixels(item.features.patch_features, item.features.superpixels)) for item in batch
        ]
        return naming_loss(visual, labels, head.get_buffer("vocabulary")), lexicon_loss(head, lexicon, labels)

    def record(self) -> None:
        """Lets the trained language model read every photo, in several processes; what is recorded stays."""
        if all(self.recording_of(*item).exists() for item in self.readings()):
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
        missing = [photo for photo, number in self.readings() if not self.recording_of(photo, number).exists()]
        for photo in missing:
            problem = f"{len(missing)} recordings could not be made in {self.recordings}; see above"
            self.data.bad.add(photo.id, DataError(problem))

    def readings(self) -> list[tuple[TrainingImage, int]]:
        """Every photo as often as it is to be recorded."""
        photos = self.data.images_of("point")
        return [(photo, number) for number in range(self.config.point.rounds) for photo in photos]

    def recording_of(self, photo: TrainingImage, number: int) -> pathlib.Path:
        """Where a reading of a photo is kept."""
        return self.recordings / f"{photo.file_name}-{number}.safetensors"

    def record_photo(self, photo: TrainingImage, number: int) -> None:
        """Asks fresh questions about a photo, mirrored in odd rounds, and keeps the hidden states."""
        flip = float(number % 2 and self.config.data.flip > 0)
        data = self.config.data.model_copy(update={"flip": flip, "captions": 0, "positives": 8, "negatives": 5})
        cached = self.data.read(photo, embeddings=False)
        sample = self.data.sample(
            photo, cached, random.Random(f"{self.config.seed} record {photo.id} {number}"), data, stage="point"
        )
        features = cached.features.to(torch.float32)
        features = mirror(features) if sample.flipped else features
        branches = [
            [Turn(turns[0].question, SEG_TOKEN if exists else REJ_TOKEN)]
            for turns, exists in zip(sample.branches, sample.exists, strict=True)
        ]
        with torch.no_grad(), self._autocast():
            tokens = self.model.project(features)
            text = self.encoder.encode(branches, len(tokens.tokens))
            targets, labels = sample_targets(sample), self.data.labels(photo, cached)
            recording = record(self.model, features, tokens, text, targets, labels, flipped=sample.flipped)
        recording.save(self.recording_of(photo, number))

    def point_step(self, recordings: list[Recording], rng: random.Random) -> StepResult:
        """The head alone, on recorded hidden states."""
        with self._autocast():
            return point_loss(self.model, recordings, self.config.losses)

    def refine_step(self, batch: list[tuple[ImageFeatures, Recording]], rng: random.Random) -> StepResult:
        """The head's prompt through SAM's decoder, on recorded hidden states."""
        features, recordings = ([*part] for part in zip(*batch, strict=True))
        masks = max(1, self.config.masks_per_photo)
        return refine_loss(self.model, features, recordings, self.config.losses, masks_per_photo=masks)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Fits P(the target exists) on the photos held out."""
        self.model.eval()
        logits, exists = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
        for item in self.data.held_out(self._read_held_out):
            visual = self.model.project(item.features)
            text = self.encoder.encode(item.branches, len(visual.tokens))
            logits.append(self.model([item.features], [visual], [text]).images[0].exist_logits.float())
            exists.append(item.targets.exists)
        known = torch.cat(exists)
        if bool(known.all()) or not bool(known.any()):
            log.warning("not calibrated anew: the images held out have no sentences of both kinds (data.holdout_every)")
            return
        scale, bias = fit_platt(torch.cat(logits), known)
        self.model.head.get_buffer("calibration").copy_(torch.tensor([scale, bias]))
        log.info("calibrated on %d queries: scale %.3f, bias %.3f", len(known), scale, bias)

    def _recording(self, photo: TrainingImage, rng: random.Random) -> Recording:
        path = self.recording_of(photo, rng.randrange(self.config.point.rounds))
        if not path.is_file():
            raise DataError(f"{path}: there is no such recording")
        return Recording.load(path)

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def training_facts(self, stage: str, step: int) -> dict[str, Any]:
        """How the weights came to be, for `training.json`."""
        return {
            "mllmseg": __version__,
            "stage": stage,
            "step": step,
            "photos": len(self.data.photos),
            "seconds": round(self.seconds),
            "config": self.config.model_dump(mode="json"),
        }

    def _after_step(self, name: str, stage: StageConfig, done: int, began: float) -> None:
        last = done == stage.steps
        if done % self.config.log_every == 0 or last:
            self.log.flush(name, done, stage.steps)
        if done % self.config.checkpoint_every == 0 or last:
            self._save_state(name, done, self.seconds + time.perf_counter() - began)
        due = name == "instruct" and (done % self.config.val_every == 0 or last)
        if due and self.data.validation is not None:
            validate(self.model, self.data.validation, self.data.features_of, self.log, done)
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


def fill_cache(
    config: TrainConfig, *, skip_bad: bool = False, progress: bool = False
) -> tuple[FeatureCache, FillReport]:
    """Computes the features a run will read, and nothing else: before the run, or on several machines at once."""
    data = TrainingData(config, initial_model_config(config))
    return data.cache, data.fill_cache(skip_bad=skip_bad, progress=progress)


def _record_share(config: TrainConfig, rank: int, workers: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    keep_freed_memory()
    trainer = Trainer(config, resume=True)
    trainer.model.eval()
    for photo, number in trainer.readings()[rank::workers]:
        if not trainer.recording_of(photo, number).exists():
            try:
                trainer.record_photo(photo, number)
            except DataError as error:
                trainer.data.bad.add(photo.id, error)


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


def _changed(old: Config, new: Config) -> list[str]:
    before, after = old.model_dump(), new.model_dump()
    return [key for key in before if before[key] != after[key]]
