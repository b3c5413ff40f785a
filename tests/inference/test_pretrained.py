"""Where a model comes from, on which device and in which dtype."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from mllmseg.errors import CheckpointError, ConfigError
from mllmseg.inference import pretrained


def test_a_missing_embedded_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretrained, "embedded_checkpoint", lambda: tmp_path / "assets")
    with pytest.raises(CheckpointError, match="carries no trained model"):
        pretrained.find_checkpoint(None)


def test_paths_to_nothing_are_no_hub_ids(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        pretrained.find_checkpoint(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="no such folder"):
        pretrained.find_checkpoint("./runs/missing/checkpoint")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not a folder"):
        pretrained.find_checkpoint(str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        pretrained.load_pretrained(tmp_path)
    assert pretrained.find_checkpoint(str(tmp_path)) == tmp_path


def test_hub_ids_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id, **_: str(tmp_path / hub_id))
    assert pretrained.find_checkpoint("someone/model-1.0") == tmp_path / "someone" / "model-1.0"

    def unreachable(hub_id: str, **_: object) -> str:
        raise LocalEntryNotFoundError("no connection\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match=r"no local folder.*no connection$"):
        pretrained.find_checkpoint("someone/model-1.0")


def test_devices_and_dtypes() -> None:
    cpu = pretrained.pick_device("cpu")
    assert cpu == torch.device("cpu")
    assert pretrained.pick_device(None) == pretrained.pick_device("auto")
    native = torch.cpu._is_avx512_bf16_supported()
    assert pretrained.pick_dtype(None, cpu) == (torch.bfloat16 if native else torch.float32)
    assert pretrained.pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pretrained.pick_dtype("bf16", cpu) == torch.bfloat16
    assert pretrained.pick_dtype(torch.float32, cpu) == torch.float32
    with pytest.raises(ConfigError, match="no such device"):
        pretrained.pick_device("potato")
    with pytest.raises(ConfigError, match="float32 or bfloat16"):
        pretrained.pick_dtype("int8", cpu)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="none here"):
            pretrained.pick_device("cuda")
