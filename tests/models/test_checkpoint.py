"""Saved and read back: the same outputs, or an error that names what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mllmseg.config import ModelConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.errors import CheckpointError
from mllmseg.models import checkpoint
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import load_checkpoint, load_trained_state, save_checkpoint, trained_state
from mllmseg.models.mllmseg import MLLMSeg, ModelOutput
from mllmseg.structures import ImageFeatures, Turn


@pytest.fixture(scope="module")
def model(tiny_config: ModelConfig) -> MLLMSeg:
    torch.manual_seed(0)
    model = build_model(tiny_config).eval()
    generator = torch.Generator().manual_seed(1)
    for tensor in trained_state(model).values():  # as after training: nothing is where it starts
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.02)
    return model


@pytest.fixture(scope="module")
def saved(model: MLLMSeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "final"
    save_checkpoint(model, folder, training={"steps": 7})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@torch.no_grad()
def answer(model: MLLMSeg, features: ImageFeatures) -> ModelOutput:
    encoder = ConversationEncoder(model.mllm.tokenizer, model.config.language_model.system_prompt)
    visual = model.project(features)
    text = encoder.encode([[Turn("the cat", "[SEG] Here.")], [Turn("a dog", "[REJ] No.")]], len(visual.tokens))
    return model([features], [visual], [text])


def test_round_trip(model: MLLMSeg, saved: Path, make_features: Callable[..., ImageFeatures]) -> None:
    loaded = load_checkpoint(saved)
    assert loaded.config == model.config
    assert not loaded.training
    one, other = answer(model, make_features(4)), answer(loaded, make_features(4))
    assert one.text_logits.equal(other.text_logits)
    assert one.images[0].exist_logits.equal(other.images[0].exist_logits)
    assert one.images[0].head.prompt_embeddings.equal(other.images[0].head.prompt_embeddings)
    assert loaded.head.get_buffer("calibration").equal(model.head.get_buffer("calibration"))
    assert json.loads((saved / "training.json").read_text()) == {"steps": 7}


def test_only_what_is_trained_is_saved(model: MLLMSeg, saved: Path) -> None:
    state = load_file(saved / "model.safetensors")
    assert state.keys() == trained_state(model).keys()
    assert {name.split(".")[0] for name in state} == {"projector", "mllm", "head"}
    assert "head.calibration" in state
    frozen = sum(item.numel() for item in model.parameters() if not item.requires_grad)
    assert sum(item.numel() for item in state.values()) < frozen / 50


def test_half_precision_on_disk(model: MLLMSeg, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "half", training={}, dtype=torch.bfloat16)
    assert all(item.dtype == torch.bfloat16 for item in load_file(tmp_path / "half" / "model.safetensors").values())
    loaded = trained_state(load_checkpoint(tmp_path / "half"))
    for name, tensor in trained_state(model).items():
        assert loaded[name].dtype == torch.float32
        assert loaded[name].equal(tensor.bfloat16().float()), name


def test_the_tokenizer_is_saved_with_the_new_tokens(saved: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert tokenizer.tokenize("a[SEG]") == ["a", "[SEG]"]
    assert tokenizer.chat_template


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{folder}: no {name}"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="nowhere"):
        load_checkpoint(folder / "nowhere")


def test_a_damaged_file_is_named(folder: Path, model: MLLMSeg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "build_model", lambda config: model)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"<html>not found</html>"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{path} is missing or damaged"):
            load_checkpoint(folder)


def test_missing_unexpected_and_misshapen_tensors_are_named(
    folder: Path, model: MLLMSeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "build_model", lambda config: model)
    path = folder / "model.safetensors"
    state = load_file(path)
    cases = {
        r"missing \['head.score.bias'\] \(1\)": {key: item for key, item in state.items() if key != "head.score.bias"},
        r"unexpected \['head.extra'\] \(1\)": state | {"head.extra": torch.zeros(1)},
        r"head.score.bias is \(2,\), expected \(1,\)": state | {"head.score.bias": torch.zeros(2)},
    }
    for problem, tensors in cases.items():
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=f"{path}.*{problem}"):
            load_checkpoint(folder)


def test_nothing_is_loaded_where_something_does_not_fit(model: MLLMSeg) -> None:
    before = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    state = {name: tensor + 1 for name, tensor in before.items()} | {"head.score.bias": torch.zeros(2)}
    with pytest.raises(CheckpointError):
        load_trained_state(model, state, source="a test")
    assert all(tensor.equal(before[name]) for name, tensor in trained_state(model).items())


def test_an_interrupted_save_leaves_the_old_checkpoint(
    folder: Path, model: MLLMSeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(model.mllm.tokenizer, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(model, folder, training={})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_second_save_replaces_the_first(folder: Path, model: MLLMSeg) -> None:
    (folder / "stray").touch()
    save_checkpoint(model, folder, training={"steps": 8})
    assert json.loads((folder / "training.json").read_text()) == {"steps": 8}
    assert not (folder / "stray").exists()
    assert list(folder.parent.iterdir()) == [folder]
