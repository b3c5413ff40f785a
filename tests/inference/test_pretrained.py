"""Where a model comes from, on which device and in which dtype; merging LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import LlamaConfig, LlamaForCausalLM

from mllmseg.config import LanguageModelConfig
from mllmseg.errors import CheckpointError, ConfigError
from mllmseg.inference import pretrained
from mllmseg.models.mllm import Mllm, _peft_config, load_tokenizer
from mllmseg.weights import fetch


@pytest.mark.weights
def test_merging_lora_changes_no_number() -> None:
    torch.manual_seed(0)
    tokenizer = load_tokenizer(fetch("smollm2"))
    config = LlamaConfig(
        vocab_size=len(tokenizer) - 3, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    mllm = Mllm(LlamaForCausalLM(config), tokenizer, _peft_config(LanguageModelConfig(), tokenizer)).eval()
    for parameter in mllm.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.tensor([[5, mllm.image_token_id, 7, mllm.seg_token_id, mllm.rej_token_id]])
    inputs = {
        "visual_tokens": torch.randn(1, 32),
        "attention_mask": torch.ones(1, 1, 5, 5, dtype=torch.bool).tril(),
        "position_ids": torch.arange(5)[None],
    }
    with torch.no_grad():
        before, _ = mllm(ids, **inputs)
        margin, logits = mllm.decision_margin(before[0]), mllm.logits(before)
        mllm.merge_lora()
        after, _ = mllm(ids, **inputs)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mllm.decision_margin(before[0]), margin)
    torch.testing.assert_close(mllm.logits(before), logits)
    mllm.merge_lora()  # nothing is left to merge
    assert not any("lora" in name for name, _ in mllm.named_parameters())


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
    assert pretrained.pick_dtype(None, cpu) == torch.float32
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
