"""A whole evaluation from its configuration: predictions of every mode, their scores, one folder with everything.

The folder holds `config.yaml`, `MODE.jsonl` with its manifest, `results.json` and the report. Run again, it predicts
what is missing and scores anew.
"""

from __future__ import annotations

import functools
import json
import pathlib
from dataclasses import dataclass
from typing import Any

from mllmseg.config import EvalConfig
from mllmseg.data.referring import ReferringDataset, open_dataset
from mllmseg.distributed import Process
from mllmseg.errors import DataError
from mllmseg.eval.job import Model, PredictionJob, run_job
from mllmseg.eval.manifest import Manifest, read_manifest
from mllmseg.eval.metrics import Scorer
from mllmseg.eval.scoring import Answers, find_scorers, plain_scores, read_answers, score_answers
from mllmseg.inference.pretrained import find_checkpoint

CONFIG_FILE = "config.yaml"
RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Evaluation:
    """All there is to report.

    Attributes:
        folder: where it lies.
        dataset: what was asked.
        answers: by mode, held against their targets.
        scorers: by mode and name, fed.
        manifests: what each mode's predictions rest on.
    """

    folder: pathlib.Path
    dataset: ReferringDataset
    answers: dict[str, Answers]
    scorers: dict[str, dict[str, Scorer]]
    manifests: dict[str, Manifest]

    def predictions(self, mode: str) -> pathlib.Path:
        """The file of a mode's predictions."""
        return predictions_path(self.folder, mode)

    def to_dict(self) -> dict[str, Any]:
        """Provenance and numbers as plain values; numbers that are not defined are None."""
        any_manifest = next(iter(self.manifests.values()))
        any_answers = next(iter(self.answers.values()))
        names = ("dataset", "split", "source", "checkpoint", "weights_sha256", "dtype", "device", "version", "revision")
        return {
            "protocol": any_manifest.protocol,
            **{name: getattr(any_manifest, name) for name in names},
            "data_sha256": any_answers.data_sha256,
            "num_queries": len(any_answers.samples),
            "num_unknown": any_answers.num_unknown,
            "threshold": {mode: manifest.threshold for mode, manifest in self.manifests.items()},
            "scorers": {name: scorer.version for scorers in self.scorers.values() for name, scorer in scorers.items()},
            "scores": {mode: plain_scores(scorers) for mode, scorers in self.scorers.items()},
        }


def predictions_path(folder: pathlib.Path, mode: str) -> pathlib.Path:
    """Where an evaluation keeps a mode's predictions."""
    return folder / f"{mode}.jsonl"


def open_configured(config: EvalConfig) -> ReferringDataset:
    """The configuration's dataset. Raises ConfigError or DataError as `open_dataset` does."""
    return open_dataset(config.dataset, data_root=config.data_root, image_root=config.image_root)


def read_config(folder: pathlib.Path) -> EvalConfig:
    """The configuration of an evaluation's folder. Raises DataError where it is none."""
    if not (folder / CONFIG_FILE).is_file():
        raise DataError(f"{folder}: no {CONFIG_FILE} in it; give a folder that `mllmseg eval` wrote")
    return EvalConfig.from_yaml(folder / CONFIG_FILE)


def run_evaluation(config: EvalConfig, process: Process, *, progress: bool = False) -> pathlib.Path:
    """Predicts what is missing, scores, writes; returns the folder. Only the first of several processes scores.

    Raises:
        ConfigError: no such dataset, scorer, device or dtype.
        DataError: data or predictions are broken, or the folder holds another evaluation.
        CheckpointError: there is no such model.
    """
    find_scorers(config.scorers)
    dataset = open_configured(config)
    model = Model.find(find_checkpoint(config.checkpoint), config.device, config.dtype, process)
    load = functools.cache(functools.partial(model.load, progress=progress))
    folder = pathlib.Path(config.out)
    for mode in config.modes:
        job = PredictionJob(dataset, mode, config.threshold, predictions_path(folder, mode))
        run_job(job, model, process, load, resume=True, progress=progress)
    if process.rank != 0:
        return folder
    config.to_yaml(folder / CONFIG_FILE)
    paths: dict[str, pathlib.Path] = {mode: predictions_path(folder, mode) for mode in config.modes}
    answers = {mode: read_answers(dataset, [path]) for mode, path in paths.items()}
    evaluation = Evaluation(
        folder=folder,
        dataset=dataset,
        answers=answers,
        scorers={mode: score_answers(found, config.scorers) for mode, found in answers.items()},
        manifests={mode: read_manifest(path) for mode, path in paths.items()},
    )
    write_results(evaluation)
    return folder


def write_results(evaluation: Evaluation) -> None:
    """Writes `results.json`, whole or not at all."""
    path = evaluation.folder / RESULTS_FILE
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); make room and run again") from error
