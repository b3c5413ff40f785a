"""Validation on the way: its figures are those of its saved predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mllmseg.config import ModelConfig, TrainConfig
from mllmseg.data.datasets.coco_mini import CocoMini
from mllmseg.data.datasets.coco_mini_queries import CocoMiniQueries
from mllmseg.eval.scoring import plain_scores, read_answers, score_answers
from mllmseg.models.build import build_model
from mllmseg.train.cache import FeatureCache
from mllmseg.train.logging import RunLog
from mllmseg.train.validation import validate, validation_photos


@pytest.mark.weights
def test_figures_come_from_saved_predictions(run_settings: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = run_settings(tmp_path, val_photos=2)
    model_config = ModelConfig.from_yaml(Path(config.model))
    torch.manual_seed(0)
    model = build_model(model_config)
    dataset, cache = CocoMini(config.data.root, "val"), FeatureCache(config.cache, model_config)
    run_log = RunLog(tmp_path)
    figures = validate(model, config, dataset, cache, run_log, 7)
    path = tmp_path / "val" / "step-000007.jsonl"
    first = path.read_bytes()
    scores = plain_scores(score_answers(read_answers(CocoMiniQueries(dataset), [path]), ["classic", "calibration"]))
    assert figures["giou_forced"] == scores["classic"]["mIoU"], "every sentence got its mask"
    assert figures["auroc"] == scores["calibration"]["AUROC"]
    assert 0 <= figures["giou_positives"] <= figures["giou_forced"]
    assert 0 <= figures["balanced_accuracy"] <= 1
    assert validate(model, config, dataset, cache, run_log, 7) == figures, "again, in the place of what is there"
    assert path.read_bytes() == first
    assert [photo.id for photo in validation_photos(dataset, 1)] == [4]
