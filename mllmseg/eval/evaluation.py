"""A whole evaluation from its configuration: predictions of every mode, their scores, one folder with everything.

The folder holds `config.yaml`, `MODE.jsonl` with its manifest, `results.json`, `report.md` and `report.html`. Run
again, it predicts what is missing and scores anew.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from mllmseg.config import EvalConfig
from mllmseg.data.referring import ReferringDataset, open_dataset
from mllmseg.distributed import Process
from mllmseg.errors import DataError
from mllmseg.eval.evaluation_report import EvaluationReport, GalleryItem, ModeResult, choose_gallery, score_mode
from mllmseg.eval.html import render_html
from mllmseg.eval.job import Model, PredictionJob, run_job
from mllmseg.eval.kinds import score_kinds
from mllmseg.eval.manifest import read_manifest
from mllmseg.eval.markdown import render_markdown
from mllmseg.eval.metrics import Sample
from mllmseg.eval.predictions import index_predictions, read_at
from mllmseg.eval.scoring import Answers, find_scorers, read_answers
from mllmseg.inference.pretrained import find_checkpoint
from mllmseg.models.postprocess import encode_rle

CONFIG_FILE = "config.yaml"
RESULTS_FILE = "results.json"


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


def run_evaluation(config: EvalConfig, process: Process, *, command: str = "", progress: bool = False) -> pathlib.Path:
    """Predicts what is missing, scores, writes; returns the folder. Only the first of several processes scores.

    Args:
        config: what to do.
        process: which process this is.
        command: what made it, for the report.
        progress: show it on stderr.

    Raises:
        ConfigError: no such dataset, scorer, device or dtype.
        DataError: data or predictions are broken, or the folder holds another evaluation.
        CheckpointError: there is no such model.
    """
    find_scorers(config.scorers)
    dataset = open_configured(config)
    model = Model.find(find_checkpoint(config.checkpoint), config.device, config.dtype, process, config.threads)
    load = functools.cache(functools.partial(model.load, progress=progress))
    folder = pathlib.Path(config.out)
    for mode in (*config.modes, *config.baselines):
        job = PredictionJob(dataset, mode, config.threshold, predictions_path(folder, mode))
        run_job(job, model, process, load, resume=True, progress=progress)
    if process.rank == 0:
        config.to_yaml(folder / CONFIG_FILE)
        report = build_evaluation_report(config, dataset, command=command)
        _write(folder / RESULTS_FILE, json.dumps(plain_results(report), indent=2) + "\n")
        _write(folder / "report.md", render_markdown(report))
        _write(folder / "report.html", render_html(report))
    return folder


def build_evaluation_report(config: EvalConfig, dataset: ReferringDataset, *, command: str = "") -> EvaluationReport:
    """Scores the predictions in the configuration's folder. Raises DataError where they are not complete."""
    folder = pathlib.Path(config.out)
    answers: dict[str, Answers] = {}
    for mode in (*config.modes, *config.baselines):
        answers[mode] = read_answers(dataset, [predictions_path(folder, mode)])
    scorers = list(find_scorers(config.scorers))
    modes = [score_mode(mode, answers[mode].samples, scorers=scorers) for mode in config.modes]
    manifests = {mode: read_manifest(predictions_path(folder, mode)) for mode in config.modes}
    manifest = manifests[config.modes[0]]
    names = ("protocol", "weights_sha256", "revision", "version", "queries_sha256", "checkpoint", "dtype", "device")
    report = EvaluationReport(
        dataset=dataset.name,
        split=dataset.split,
        modes=modes,
        provenance={name: getattr(manifest, name) for name in names}
        | {"data_sha256": answers[config.modes[0]].data_sha256}
        | {"threshold": {mode: item.threshold for mode, item in manifests.items() if item.threshold is not None}},
        model=manifest.checkpoint,
        source=_below(config.data_root, dataset.source),
        command=command,
        kinds=score_kinds(dataset.queries, answers),
        notes=_notes(answers[config.modes[0]]),
    )
    path = predictions_path(folder, report.result.mode)
    return dataclasses.replace(report, galleries=_galleries(dataset, path, report.result.samples))


def _below(root: str | None, source: str) -> str:
    """Files as others would find them, too: seen from the data root."""
    return source if root is None else source.replace(f"{pathlib.Path(root)}{os.sep}", "")


def _notes(answers: Answers) -> list[str]:
    unknown, boxed = answers.num_unknown, len(answers.boxed)
    notes = []
    if unknown - boxed:
        notes.append(f"{unknown - boxed} sentences without a known mask are predicted but not scored.")
    if boxed:
        notes.append(
            f"{boxed} sentences whose target is known by its box only are scored by boxes, apart from all else."
        )
    return notes


def _galleries(
    dataset: ReferringDataset, path: pathlib.Path, samples: Mapping[str, Sample]
) -> dict[str, list[GalleryItem]]:
    queries = {query.id: query for query in dataset.queries}
    places = index_predictions([path])

    def item(key: str) -> GalleryItem:
        query, sample, line = queries[key], samples[key], read_at(places[key])
        return GalleryItem(
            id=key,
            text=query.text,
            image=dataset.image_path(query),
            target=encode_rle(dataset.target(query) == 1) if query.has_target else None,
            prediction=line.rle if line.exists else None,
            exists=line.exists,
            score=line.score,
            iou=sample.iou if query.has_target else None,
            answer=line.answer,
        )

    return {title: [item(key) for key in keys] for title, keys in choose_gallery(samples).items()}


def plain_results(report: EvaluationReport) -> dict[str, Any]:
    """Provenance, numbers and their 95 % intervals as plain values; what is not defined is None."""
    return {
        "dataset": report.dataset,
        "split": report.split,
        "source": report.source,
        "provenance": report.provenance,
        "scorers": report.result.versions,
        "scores": {mode.mode: _values(mode) for mode in report.modes},
        "intervals": {mode.mode: _spans(mode) for mode in report.modes},
        "kinds": {
            kind.name: {
                mode: {"scores": _values(found), "intervals": _spans(found)} for mode, found in kind.modes.items()
            }
            for kind in report.kinds
        },
        "num_queries": len(report.result.samples),
    }


def _values(mode: ModeResult) -> dict[str, dict[str, float | None]]:
    return {
        scorer: {figure: _number(found.value) for figure, found in figures.items()}
        for scorer, figures in mode.scores.items()
    }


def _spans(mode: ModeResult) -> dict[str, dict[str, list[float | None]]]:
    return {
        scorer: {figure: [_number(found.low), _number(found.high)] for figure, found in figures.items()}
        for scorer, figures in mode.scores.items()
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror}); make room and run again") from error
