"""One file of predictions from one model, alone or as one of several processes that meet through files."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mllmseg.data.referring import ReferringDataset
from mllmseg.distributed import Process
from mllmseg.errors import ConfigError, DataError
from mllmseg.eval.answering import Answerer, Mode, SegmenterAnswerer
from mllmseg.eval.baselines import Baseline, build_baseline
from mllmseg.eval.manifest import Manifest, Shard, describe, read_manifest
from mllmseg.eval.prediction_run import (
    check_queries,
    claim,
    merge_predictions,
    predict,
    remove_shards,
    shard_path,
    wait_for_shards,
)
from mllmseg.eval.provenance import hash_checkpoint
from mllmseg.inference.pretrained import pick_device, pick_dtype
from mllmseg.inference.segmenter import Segmenter
from mllmseg.progress import image_bar


@dataclass(frozen=True)
class Model:
    """Which model computes how; loaded when first asked.

    Attributes:
        checkpoint: its folder.
        device: as `pick_device` takes it.
        dtype: as `pick_dtype` takes it.
        weights_sha256: `hash_checkpoint` of the folder.
        threads: of the CPU; None for torch's own choice, or that of the run which is gone on with.
    """

    checkpoint: pathlib.Path
    device: torch.device
    dtype: torch.dtype
    weights_sha256: str
    threads: int | None = None

    @classmethod
    def find(
        cls,
        checkpoint: pathlib.Path,
        device: str | None,
        dtype: str | None,
        process: Process,
        threads: int | None = None,
    ) -> Model:
        """Chooses device and dtype; on CUDA each process of a machine takes a device of its own.

        Raises:
            ConfigError: no such device or dtype.
        """
        chosen = pick_device(device)
        if chosen == torch.device("cuda") and process.count > 1:
            chosen = torch.device("cuda", process.local % torch.cuda.device_count())
        return cls(checkpoint, chosen, pick_dtype(dtype, chosen), hash_checkpoint(checkpoint), threads)

    def load(self, *, progress: bool = False) -> Segmenter:
        """Reads the weights. Raises CheckpointError or WeightsError where they are not there or do not fit."""
        return Segmenter.from_pretrained(self.checkpoint, device=self.device, dtype=self.dtype, progress=progress)


@dataclass(frozen=True)
class PredictionJob:
    """What is asked, how and where to.

    Attributes:
        dataset: the sentences.
        mode: how they are asked; or a baseline that answers instead of the model.
        threshold: of P(the target exists).
        out: the file.
        shard: only that part of the images; None for all, or for the process's own part where there are several.
    """

    dataset: ReferringDataset
    mode: Mode | Baseline
    threshold: float
    out: pathlib.Path
    shard: Shard | None = None

    def manifest(self, model: Model, shard: Shard) -> Manifest:
        """What the file will rest on."""
        return describe(
            self.dataset,
            shard,
            mode=self.mode,
            threshold=self.threshold if self.mode in ("scored", "free") else None,
            checkpoint=model.checkpoint.name,
            weights_sha256=model.weights_sha256,
            dtype=str(model.dtype).removeprefix("torch."),
            device=model.device.type,
            threads=model.threads or torch.get_num_threads(),
        )


def run_job(
    job: PredictionJob,
    model: Model,
    process: Process,
    load: Callable[[], Segmenter],
    *,
    resume: bool,
    progress: bool,
) -> None:
    """Predicts; with several processes each does its part in a file of its own, which the first one joins.

    Args:
        job: what.
        model: by which model.
        process: which process this is.
        load: gives the model; not called where nothing is left to predict.
        resume: go on with files of the same job.
        progress: show a bar on stderr.

    Raises:
        ConfigError: a shard was asked for of one of several processes.
        DataError: the input is broken, or the files are not this job's.
    """
    several = process.count > 1
    if several and job.shard is not None:
        raise ConfigError(f"--shard {job.shard}: {process.count} processes share the images already; leave it out")
    shard = job.shard or Shard(process.rank, process.count)
    check_queries(job.dataset, shard)
    manifest = job.manifest(model, shard)
    target = job.out
    if several:
        if job.out.exists():
            _check_done(job.out, manifest, resume=resume)
            return
        target = shard_path(job.out, shard)
    if claim(target, manifest, resume=resume):
        if model.threads is None:
            manifest = dataclasses.replace(manifest, threads=read_manifest(target).threads)
        torch.set_num_threads(manifest.threads)
        answerer = _answerer(job, load)
        images = len({job.dataset.queries[place].image for place in manifest.positions})
        with image_bar(f"{job.dataset.name} {job.mode}", images, shown=progress and process.rank == 0) as advance:
            predict(job.dataset, answerer, target, manifest, advance)
    if several and process.rank == 0:
        parts = [shard_path(job.out, Shard(index, process.count)) for index in range(process.count)]
        wait_for_shards(parts)
        merge_predictions(job.out, parts)
        remove_shards(parts)


def _answerer(job: PredictionJob, load: Callable[[], Segmenter]) -> Answerer:
    if job.mode == "whole-image" or job.mode == "largest-superpixel":
        return build_baseline(job.mode, load)
    return SegmenterAnswerer(load(), job.mode, job.threshold)


def _check_done(out: pathlib.Path, manifest: Manifest, *, resume: bool) -> None:
    """Several processes have nothing left to do where the joined file is there. Raises DataError where it is not it."""
    if not resume:
        raise DataError(f"{out}: exists; go on with it by --resume, or name another file")
    before = read_manifest(out)
    manifest.check_same(before, out)
    if not before.complete:
        raise DataError(f"{out}: begun by one process; finish it with one, or name another file")
