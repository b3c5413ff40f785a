"""A checkpoint for others: the same answers from us, PEFT and transformers, or nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from mllmseg import cli
from mllmseg.config import ModelConfig, ProjectorConfig, VisionTowerConfig
from mllmseg.errors import CheckpointError, ConfigError
from mllmseg.inference import export as exporting
from mllmseg.inference.export import export, find_trained
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import load_checkpoint, save_checkpoint, trained_state
from mllmseg.models.mllmseg import MLLMSeg

pytestmark = pytest.mark.usefixtures("one_sam")
# Float32 sums in another order through two layers of width 32.
TOLERANCE = 1e-4
SAM_TOWER = VisionTowerConfig(name="sam", checkpoint=None, patch_size=16, hidden_size=256, dtype="float32")


def save(config: ModelConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    model = build_model(config)
    generator = torch.Generator().manual_seed(1)
    for tensor in trained_state(model).values():  # as after training: nothing is where it starts
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)
    save_checkpoint(model, folder, training={"steps": 7})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory, one_sam: None) -> Path:
    folder = tmp_path_factory.mktemp("run") / "final"
    return save(tiny_config.model_copy(update={"vision_tower": SAM_TOWER}), folder)


@torch.no_grad()
def text_logits(model: MLLMSeg) -> torch.Tensor:
    ids = model.mllm.tokenizer("what is this? [SEG]", return_tensors="pt")["input_ids"]
    return model.mllm.causal_lm(input_ids=ids).logits


@torch.no_grad()
def test_the_adapter_is_what_peft_loads(checkpoint: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = export(checkpoint, tmp_path / "out", merge=False, card=False)
    assert (found.logits, found.scores, found.masks) == (0, 0, 0)
    loaded = load_checkpoint(tmp_path / "out")
    expected = text_logits(loaded)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "language_model")
    base = AutoModelForCausalLM.from_pretrained(loaded.config.language_model.name)
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    adapted = PeftModel.from_pretrained(base, tmp_path / "out" / "language_model")
    ids = tokenizer("what is this? [SEG]", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(adapted(input_ids=ids).logits, expected, atol=TOLERANCE, rtol=0)
    assert not (tmp_path / "out" / "language_model" / "README.md").exists()


@torch.no_grad()
def test_the_merged_model_is_what_transformers_loads(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = text_logits(load_checkpoint(checkpoint))
    found = export(checkpoint, tmp_path / "first", merge=True, card=True)
    assert found.fine
    moved = Path(shutil.move(tmp_path / "first", tmp_path / "moved"))
    plain = AutoModelForCausalLM.from_pretrained(moved / "language_model")
    tokenizer = AutoTokenizer.from_pretrained(moved / "language_model")
    ids = tokenizer("what is this? [SEG]", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(plain(input_ids=ids).logits, expected, atol=TOLERANCE, rtol=0)
    segmenter = Segmenter.from_pretrained(moved, device="cpu")
    assert not any("lora" in name or "trainable" in name for name, _ in segmenter.model.named_parameters())
    front, _, text = (moved / "README.md").read_text().removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(front)["pipeline_tag"] == "image-segmentation"
    assert "LoRA merged" in text
    assert str(tmp_path) not in (moved / "config.yaml").read_text(), "it may be moved anywhere"


def test_a_vlm_is_merged_whole(tiny_config: ModelConfig, save_vlm: Callable[[Path, str], Path], tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    source = str(save_vlm(tmp_path / "vlm", "idefics3"))
    tower = VisionTowerConfig(
        name="host", checkpoint=source, image_size=56, patch_size=28, hidden_size=32, dtype="float32"
    )
    language_model = tiny_config.language_model.model_copy(update={"name": source})
    changes = {"language_model": language_model, "vision_tower": tower, "projector": ProjectorConfig(name="pooled")}
    trained = save(tiny_config.model_copy(update=changes), tmp_path / "trained")
    assert export(trained, tmp_path / "out", merge=True, card=False).fine
    shutil.rmtree(source)  # nothing else is needed
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "language_model")
    assert any("vision_model" in name for name, _ in whole.named_parameters())
    assert Segmenter.from_pretrained(tmp_path / "out", device="cpu").model.vision.vision_tower.square


def test_what_answers_otherwise_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(model: MLLMSeg, folder: Path, source: Path) -> None:
        model.head.prompt[0].weight.data.add_(1)
        model.head.score.bias.data.add_(5)
        save_checkpoint(model, folder, training={})

    monkeypatch.setattr(exporting, "write_adapter", damage)
    with pytest.raises(CheckpointError, match=r"answers differently .*; nothing was written"):
        export(checkpoint, tmp_path / "out", merge=False, card=False)
    assert list(tmp_path.iterdir()) == []


def test_where_things_are_not_overwritten_or_found(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export(checkpoint, tmp_path / "out", merge=False, card=False)
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        find_trained(tmp_path)
    saved = Path(shutil.copytree(checkpoint, tmp_path / "run" / "checkpoints" / "instruct-000100"))
    assert find_trained(tmp_path / "run") == saved
    final = Path(shutil.copytree(checkpoint, tmp_path / "run" / "final"))
    assert find_trained(tmp_path / "run") == final
    assert find_trained(saved) == saved


def test_the_two_ways_contradict_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mllmseg", "export", "a", str(tmp_path / "b"), "--merge", "--adapter-only"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "contradict" in capsys.readouterr().err
