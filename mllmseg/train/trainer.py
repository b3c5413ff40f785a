"""A run: align the visual tokens, instruct the whole, point with the head, refine masks, calibrate, save all.

All chance follows from the seed, the stage and a sample's number in it, so that a resumed run repeats the run that was
never stopped, and many processes read what one would, without saving the state of any generator.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import multiprocessing
import os
import pathlib
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from mllmseg import __version__
from mllmseg.config import TrainConfig
from mllmseg.errors import ConfigError, DataError, InterruptedRunError, TrainingError
from mllmseg.models.allocator import keep_freed_memory
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import load_trained_state, save_checkpoint, trained_state
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.train import sharing
from mllmseg.train.cache import FeatureCache, FillReport
from mllmseg.train.calibration import existence_logits, fit_platt
from mllmseg.train.checkpoints import Checkpoints, Progress
from mllmseg.train.engine import Engine
from mllmseg.train.journal import Journal
from mllmseg.train.logging import RunLog
from mllmseg.train.optim import build_optimizer, learning_rate, set_learning_rate
from mllmseg.train.preemption import StopRequest
from mllmseg.train.readings import Readings
from mllmseg.train.run_folder import claim, folder_problem
from mllmseg.train.runners import Figures, Runner
from mllmseg.train.source import TrainingData
from mllmseg.train.stage_module import StageModule, place, prepare_precision
from mllmseg.train.stages import STAGE_NAMES, STAGES, Item, Stage
from mllmseg.train.start import initial_model_config, load_initial_weights
from mllmseg.train.steps import LOSSES
from mllmseg.train.validation import ValidationSet, validate

log = logging.getLogger(__name__)
VAL_FIGURE = "gIoU"  # what the checkpoint in `best` is best in


class Trainer:
    """One run in one folder, or this process's part of it."""

    def __init__(self, config: TrainConfig, *, resume: bool = False) -> None:
        """Joins the other processes, reads the data and builds the model.

        Raises:
            ConfigError: the run folder holds a run and `resume` is false, resuming finds none or other settings, the
                processes or their number do not fit the settings, or no photo is left to train on.
            CheckpointError: the state to resume from is damaged.
        """
        self.config = config
        self.out = pathlib.Path(config.out)
        self.engine = Engine(config.engine, config.precision)
        self.stages = [stage for stage in STAGES if getattr(config, stage.name).steps]
        for stage in self.stages:
            sharing.check_batch(self.engine, stage.name, getattr(config, stage.name).batch_size)
        model_config = initial_model_config(config)
        if self.engine.shards_model and "mask_decoder" in model_config.trainable:
            raise ConfigError("ZeRO-3 cannot train SAM's mask decoder: use zero2, or leave it out of 'trainable'")
        self.data = TrainingData(config, model_config)
        head = model_config.head.model_copy(update={"vocabulary": self.data.vocabulary})
        self.model_config = model_config.model_copy(update={"head": head})
        problem = folder_problem(self.out, config, self.model_config, resume=resume) if self.engine.is_main else None
        if problem := self.engine.gather(problem)[0]:
            raise ConfigError(problem)
        self.model = self._build()
        self.checkpoints = Checkpoints(self.out / "checkpoints", config.keep_checkpoints)
        self.readings = Readings(self.out / "recordings", config, self.data)
        self.journal = Journal(self.out / "journal.jsonl")
        self.progress = Progress(STAGE_NAMES[0], 0, 0.0)
        self._optimizer_state: dict[str, torch.Tensor] = {}
        if resume:
            self._load()
        elif self.engine.is_main:  # only now: a run that cannot even start occupies no folder
            claim(self.out, config, self.model_config)

    def run(self) -> pathlib.Path:
        """Trains every stage that is not done yet; returns the folder of the final checkpoint."""
        if self.engine.is_main:
            self.checkpoints.clean()
            self.journal.rewind(self.progress.stage, self.progress.step)
            self.data.fill_cache(progress=True)
        for found in self.engine.gather(self.data.bad.found):
            self.data.bad.found |= found  # all processes leave out the same images
        settings = self.config.model_dump(mode="json")
        self.log = RunLog(self.out, self.config.loggers, settings) if self.engine.is_main else None
        for stage in self.stages:
            if STAGE_NAMES.index(stage.name) >= STAGE_NAMES.index(self.progress.stage):
                if stage.recorded:
                    self.record()
                self.run_stage(stage(self.config, self.data, self.model, self.readings))
        self._calibrate()
        self._report_bad_samples()
        final = self.out / "final"
        if self.log is not None:
            self.log.close()
            save_checkpoint(self.model, final, training=self.training_facts())
        self.engine.barrier()
        return final

    def run_stage(self, stage: Stage) -> None:
        """One stage from where the run stands to its end."""
        settings = stage.settings
        first = self.progress.step if self.progress.stage == stage.name else 0
        if first >= settings.steps:
            return
        with stage.training() as parameters, StopRequest() as request, contextlib.ExitStack() as cleanup:
            optimizer, module = build_optimizer(parameters, settings), StageModule(stage)
            runner = self.engine.prepare(module, parameters, optimizer, settings, shard="mllm" in stage.modules)
            if first and self._optimizer_state:
                runner.load_optimizer_state(self._optimizer_state)
            self.model.train()
            items = cleanup.enter_context(contextlib.closing(self._items(stage, first)))
            for step in range(first, settings.steps):
                began = time.perf_counter()
                self._step(stage, step, items, runner, request)
                seconds = self.progress.seconds + time.perf_counter() - began
                self.progress = replace(self.progress, stage=stage.name, step=step + 1, seconds=seconds)
                self._after_step(stage, step + 1, runner)
            with self._all_trained(), runner.as_built():
                state = {name: tensor.cpu().clone() for name, tensor in trained_state(self.model).items()}
            runner.close()
        if self.engine.shards_model and "mllm" in stage.modules:  # ZeRO-3 took the model apart for good
            self.model = self._build()
            load_trained_state(self.model, state, source=f"the state after {stage.name}")

    def _items(self, stage: Stage, first: int) -> Generator[Item, None, None]:
        """This process's samples of all steps to come, in the order in which it uses them."""
        size = stage.settings.batch_size
        places = [place for part in sharing.share(self.engine, size) for place in part]
        numbers = (step * size + place for step in range(first, stage.settings.steps) for place in places)
        return self.data.stream(stage.name, numbers, stage.read)

    def _step(self, stage: Stage, step: int, items: Iterator[Item], runner: Runner, request: StopRequest) -> None:
        """Reads this process's share of a batch, adds up all gradients, updates."""
        settings = stage.settings
        parts = [
            list(itertools.islice(items, len(places))) for places in sharing.share(self.engine, settings.batch_size)
        ]
        own = [item for part in parts for item in part]
        foreseen = stage.counts(own)
        # Of this process, times the processes: for the log, which is not worth another message.
        tokens = self.engine.processes * sum(len(item.text.input_ids) for item in own if item.text is not None)
        counts, signal = sharing.agree(self.engine, foreseen, request.signal)
        if signal:
            self._stop(stage, step, runner, signal)
        sharing.seed_dropout(self.config.seed, stage.name, step, self.engine.rank)
        rate = learning_rate(settings, step)
        set_learning_rate(runner.optimizer, rate)
        found = runner.backpropagate([([item.to(self.engine.device) for item in part], counts) for part in parts])
        figures = sharing.means(self.engine, found, foreseen)
        figures["loss"] = sum(stage.weights[name] * figures[name] for name in LOSSES if name in figures)
        ids = [photo.id for photo in self.data.photos_of(stage.name, settings, step)]
        self._check(stage, step, figures["loss"], found, ids)
        figures |= {"grad_norm": runner.step(), "learning_rate": rate}
        if self.config.precision != "float16":  # where an infinite gradient only makes its scale smaller
            self._check(stage, step, figures["grad_norm"], found, ids, limit=math.inf)
        if self.log is not None:
            self.log.add(figures, tokens=tokens, images=settings.batch_size)
            told = {name: figures[name] for name in ("loss", "grad_norm", "learning_rate")}
            self.journal.add({"stage": stage.name, "step": step, "samples": ids, **told})

    def _after_step(self, stage: Stage, done: int, runner: Runner) -> None:
        config, last = self.config, done == stage.settings.steps
        if self.log is not None and (done % config.log_every == 0 or last):
            self.log.flush(stage.name, done, stage.settings.steps)
        if stage.name == "instruct" and self.data.validation and (done % config.val_every == 0 or last):
            self._validate(self.data.validation, done, runner)
        if done % config.checkpoint_every == 0 or last:
            self._save(runner)

    def _validate(self, dataset: ValidationSet, done: int, runner: Runner) -> None:
        """The main process asks the model about val photos and keeps the best so far."""
        if self.engine.shards_model:
            log.warning("no validation under ZeRO-3, which divides the model: evaluate the checkpoints instead")
            return
        if self.log is not None:
            value = validate(self.model, dataset, self.data.features_of, self.log, done).get(VAL_FIGURE)
            if value is not None and (self.progress.best is None or value > self.progress.best):
                self.progress = replace(self.progress, best=value)
                with self._all_trained(), runner.as_built():
                    save_checkpoint(self.model, self.out / "best", training=self.training_facts() | {VAL_FIGURE: value})
            self.model.train()
        self.engine.barrier()

    def _check(
        self,
        stage: Stage,
        step: int,
        value: float,
        found: Sequence[Figures],
        ids: list[str],
        limit: float | None = None,
    ) -> None:
        """Stops the run where a loss or gradient is not finite or out of bounds, before it is saved."""
        limit = self.config.max_loss if limit is None else limit
        if math.isfinite(value) and value <= limit:
            return
        suspects, saved = sharing.suspects(self.engine, found, ids), self.checkpoints.all()
        raise TrainingError(
            f"{stage.name} step {step}: the {'loss' if math.isfinite(limit) else 'gradient'} is {value:g} "
            f"(max_loss {self.config.max_loss:g}) on photos {ids}"
            f"{f', not finite where {suspects} are' if suspects else ''}. The last good checkpoint is "
            f"{saved[-1] if saved else 'none'}. Look at these photos' labels, or lower {stage.name}.learning_rate"
        )

    def _stop(self, stage: Stage, step: int, runner: Runner, signal: int) -> None:
        self.progress = replace(self.progress, stage=stage.name, step=step)
        self._save(runner)
        raise InterruptedRunError(
            f"stopped by signal {signal} after {step} steps of {stage.name}, which are saved; go on with --resume",
            signal=signal,
        )

    def _save(self, runner: Runner) -> None:
        state = runner.optimizer_state()  # all processes together
        with self._all_trained(), runner.as_built():
            if self.engine.is_main:
                self.checkpoints.save(self.model, self.progress, state, self.training_facts())
        self.engine.barrier()

    def _load(self) -> None:
        saved = self.checkpoints.all()
        if not saved:
            log.info("%s: nothing was saved yet, starting at the beginning", self.out)
            return
        self.progress, self._optimizer_state = self.checkpoints.load(saved[-1], self.model)
        log.info("going on after step %d of %s", self.progress.step, self.progress.stage)

    def _build(self) -> MLLMSeg:
        torch.manual_seed(self.config.seed)
        model = build_model(self.model_config)
        load_initial_weights(model, self.config)
        prepare_precision(model, self.config.precision)
        place(model, self.engine.device, gradient_checkpointing=self.config.engine.gradient_checkpointing)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return model

    @contextmanager
    def _all_trained(self) -> Iterator[None]:
        """A stage freezes what it does not train, but a checkpoint holds it all the same."""
        frozen = [parameter for parameter in self._trained if not parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def record(self) -> None:
        """Lets the trained language model read every photo, each process its share; what is recorded stays."""
        workers = self.config.cache_workers
        alone = self.engine.strategy == "single" and self.engine.device.type == "cpu"
        if alone and min(workers, len(self.readings.missing())) > 1:
            context = multiprocessing.get_context("spawn")
            processes = [context.Process(target=_record_share, args=(self.config, n, workers)) for n in range(workers)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        else:
            self.readings.record(self.model, self.engine.rank, self.engine.processes)
        self.engine.barrier()
        missing = self.readings.missing()
        for photo, _ in missing:
            problem = f"{len(missing)} recordings could not be made in {self.readings.folder}; see above"
            self.data.bad.add(photo.id, DataError(problem))

    @torch.no_grad()
    def _calibrate(self) -> None:
        logits, exists = existence_logits(self.model, self.config, self.data, self.engine)
        if bool(exists.all()) or not bool(exists.any()):
            log.warning("not calibrated anew: the images held out have no sentences of both kinds (data.holdout_every)")
            return
        scale, bias = fit_platt(logits, exists)
        self.model.head.get_buffer("calibration").copy_(torch.tensor([scale, bias]))
        log.info("calibrated on %d queries: scale %.3f, bias %.3f", len(logits), scale, bias)

    def _report_bad_samples(self) -> None:
        for found in self.engine.gather(self.data.bad.found):
            self.data.bad.found |= found
        if self.data.bad.found and self.engine.is_main:
            path = self.out / "bad_samples.jsonl"
            self.data.bad.save(path)
            log.warning("%s; all are in %s", self.data.bad.report(), path)

    def training_facts(self) -> dict[str, Any]:
        """How the weights came to be, for `training.json`."""
        return {
            "mllmseg": __version__,
            "stage": self.progress.stage,
            "step": self.progress.step,
            "photos": len(self.data.photos),
            "processes": self.engine.processes,
            "strategy": self.engine.strategy,
            "seconds": round(self.progress.seconds),
            "config": self.config.model_dump(mode="json"),
        }


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
    trainer.readings.record(trainer.model, rank, workers)
