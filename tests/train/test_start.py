"""What a run starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mllmseg.config import HeadConfig, ModelConfig, TrainConfig
from mllmseg.errors import CheckpointError, ConfigError
from mllmseg.inference.pretrained import embedded_checkpoint
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import save_checkpoint, trained_state
from mllmseg.train.start import EMBEDDED, initial_model_config, load_initial_weights

Settings = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def checkpoint(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    model = build_model(tiny_config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    folder = tmp_path_factory.mktemp("init") / "trained"
    save_checkpoint(model, folder, training={})
    return folder


def test_a_checkpoint_brings_its_settings_and_every_trained_weight(
    checkpoint: Path, run_settings: Settings, tmp_path: Path, tiny_config: ModelConfig
) -> None:
    settings = run_settings(tmp_path, model=None, init=str(checkpoint))
    assert initial_model_config(settings) == tiny_config
    model = build_model(tiny_config)
    before = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    load_initial_weights(model, settings)
    after = trained_state(model)
    assert all(not tensor.equal(before[name]) for name, tensor in after.items() if name != "head.calibration")
    again = build_model(tiny_config)
    load_initial_weights(again, settings)
    assert all(tensor.equal(after[name]) for name, tensor in trained_state(again).items())


def test_settings_alone_leave_fresh_weights(run_settings: Settings, tmp_path: Path, tiny_config: ModelConfig) -> None:
    settings = run_settings(tmp_path)
    model = build_model(initial_model_config(settings))
    before = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    load_initial_weights(model, settings)
    assert all(tensor.equal(before[name]) for name, tensor in trained_state(model).items())


def test_the_embedded_model_has_a_name(run_settings: Settings, tmp_path: Path) -> None:
    expected = ModelConfig.from_yaml(embedded_checkpoint() / "config.yaml")
    assert initial_model_config(run_settings(tmp_path, model=None, init=EMBEDDED)) == expected


def test_a_checkpoint_that_does_not_fit_is_refused(
    checkpoint: Path, run_settings: Settings, tmp_path: Path, tiny_config: ModelConfig
) -> None:
    settings = run_settings(tmp_path, model=None, init=str(checkpoint))
    other = tiny_config.model_copy(update={"head": HeadConfig(hidden_size=16, num_layers=1, num_heads=4)})
    with pytest.raises(CheckpointError, match=r"model.safetensors: head\.\S+ is .*, expected"):
        load_initial_weights(build_model(other), settings)
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        initial_model_config(run_settings(tmp_path, model=None, init=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("origin", ["", "model: m.yaml\ninit: folder\n"])
def test_a_run_has_one_origin(origin: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"{origin}data: {{root: d}}\ncache: c\nout: o\nalign: {{steps: 1}}\ninstruct: {{steps: 2}}\n")
    with pytest.raises(ConfigError, match=r"give either 'model'.* or 'init'"):
        TrainConfig.from_yaml(path)


def test_parts_of_a_checkpoint_are_taken_over_and_the_others_start_afresh(
    checkpoint: Path, run_settings: Settings, tmp_path: Path, tiny_config: ModelConfig
) -> None:
    deeper = tiny_config.model_copy(update={"head": tiny_config.head.model_copy(update={"num_layers": 3})})
    deeper.to_yaml(tmp_path / "deeper.yaml")
    settings = run_settings(
        tmp_path, model=str(tmp_path / "deeper.yaml"), init=str(checkpoint), init_parts=("projector.", "head.lexicon.")
    )
    assert initial_model_config(settings) == deeper
    model, whole = build_model(deeper), build_model(tiny_config)
    load_initial_weights(whole, run_settings(tmp_path, model=None, init=str(checkpoint)))
    before = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    load_initial_weights(model, settings)
    theirs = trained_state(whole)
    for name, tensor in trained_state(model).items():
        taken = name.startswith(("projector.", "head.lexicon."))
        assert tensor.equal(theirs[name] if taken else before[name]), name


def test_a_part_that_is_none_is_named(
    checkpoint: Path, run_settings: Settings, tmp_path: Path, tiny_config: ModelConfig
) -> None:
    tiny_config.to_yaml(tmp_path / "model.yaml")
    settings = run_settings(
        tmp_path, model=str(tmp_path / "model.yaml"), init=str(checkpoint), init_parts=("proyector.",)
    )
    with pytest.raises(CheckpointError, match=r"init_parts: no trained tensor's name begins with 'proyector\.'"):
        load_initial_weights(build_model(tiny_config), settings)


def test_parts_need_both_a_model_and_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(
        "init: a\ninit_parts: [b]\ndata: {root: d}\ncache: c\nout: o\nalign: {steps: 1}\ninstruct: {steps: 2}\n"
    )
    with pytest.raises(ConfigError, match=r"'init_parts' are parts of 'init'.*give both"):
        TrainConfig.from_yaml(path)
