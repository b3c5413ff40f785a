"""What we trained, saved beside its configuration: a folder that `load_checkpoint` reads back strictly.

- `model.safetensors`: the trained tensors only (projector, head, LoRA, new token rows)
- `config.yaml`: the `ModelConfig`
- the tokenizer's files, with the new tokens
- `training.json`: seed, data, steps, time: how it came to be
- `language_model/`, where the folder was exported: what PEFT or transformers load (`mllmseg/models/export.py`)
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mllmseg.config import ModelConfig
from mllmseg.errors import CheckpointError
from mllmseg.models.build import build_model
from mllmseg.models.mllmseg import MLLMSeg

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
TRAINING_FILE = "training.json"


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that training changes: parameters that ask for gradients, and the head's calibration."""
    state: dict[str, Tensor] = {name: item for name, item in model.named_parameters() if item.requires_grad}
    state["head.calibration"] = model.get_buffer("head.calibration")
    return {name: tensor.detach() for name, tensor in state.items()}


def load_trained_state(model: nn.Module, state: dict[str, Tensor], *, source: str, parts: tuple[str, ...] = ()) -> None:
    """Copies tensors into the model, all or those whose names begin like one of `parts`.

    Raises:
        CheckpointError: their names and shapes are not exactly those of the model, or a part has none.
    """
    own = trained_state(model)
    for part in parts:
        if not any(name.startswith(part) for name in own):
            raise CheckpointError(f"init_parts: no trained tensor's name begins with {part!r}")
    if parts:
        own, state = ({name: item for name, item in of.items() if name.startswith(parts)} for of in (own, state))
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{source} does not fit its configuration: missing {missing[:5]} ({len(missing)}), "
            f"unexpected {unexpected[:5]} ({len(unexpected)})"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(f"{source}: {name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}")
    for name, tensor in own.items():
        tensor.copy_(state[name])


def save_checkpoint(
    model: MLLMSeg,
    folder: str | os.PathLike[str],
    *,
    training: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Writes the folder under a temporary name, then renames it: it is there whole or not at all, whatever is cut off.

    Args:
        model: the model.
        folder: where; a folder of that name is replaced.
        training: what `training.json` says.
        dtype: of the stored tensors.
        extra: further files, by name.
    """
    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        temporary = pathlib.Path(name) / folder.name
        temporary.mkdir()
        state = {key: tensor.to("cpu", dtype).contiguous() for key, tensor in trained_state(model).items()}
        # Not save_file: its files are readable by their owner alone.
        (temporary / MODEL_FILE).write_bytes(save(state, metadata={"format": "pt"}))
        model.config.to_yaml(temporary / CONFIG_FILE)
        model.mllm.tokenizer.save_pretrained(temporary)
        (temporary / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
        for file, content in (extra or {}).items():
            (temporary / file).write_bytes(content)
        for path in [*temporary.rglob("*"), temporary]:
            _to_disk(path)
        if folder.exists():
            folder.rename(pathlib.Path(name) / "old")
        temporary.rename(folder)
        _to_disk(folder.parent)


def _to_disk(path: pathlib.Path) -> None:
    """Waits until a file or folder would survive a power cut: else a rename may reach the disk before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The `config.yaml` of a checkpoint; what it names as `./…` lies in the checkpoint itself, wherever that is."""
    folder = pathlib.Path(folder)
    config = ModelConfig.from_yaml(folder / CONFIG_FILE)
    name = config.language_model.name
    if not name.startswith("./"):
        return config
    there = str(folder.resolve() / name)
    language_model = config.language_model.model_copy(update={"name": there})
    tower = config.vision_tower
    if tower.checkpoint == name:
        tower = tower.model_copy(update={"checkpoint": there})
    return config.model_copy(update={"language_model": language_model, "vision_tower": tower})


def load_checkpoint(folder: str | os.PathLike[str], *, quantized: bool = True) -> MLLMSeg:
    """Builds the model of `config.yaml` and loads the trained tensors strictly.

    Args:
        folder: the checkpoint.
        quantized: False holds the language model in full, whatever the configuration says.

    Raises:
        CheckpointError: the folder or a file is missing or damaged, or does not fit its configuration.
    """
    folder = pathlib.Path(folder)
    for name in (MODEL_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name} in it; give a folder written by training or export")
    config = read_config(folder)
    if not quantized:
        language_model = config.language_model.model_copy(update={"quantization": "none"})
        config = config.model_copy(update={"language_model": language_model})
    model = build_model(config)
    load_trained_file(model, folder / MODEL_FILE)
    return model.eval()


def load_trained_file(model: nn.Module, path: pathlib.Path, *, parts: tuple[str, ...] = ()) -> None:
    """Copies a checkpoint's tensors into the model.

    Args:
        model: the model.
        path: the file.
        parts: how the names of the tensors begin that are copied; empty for all there are.

    Raises:
        CheckpointError: they are damaged, do not fit, or no name begins like one of `parts`.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); fetch or export it again") from error
    load_trained_state(model, state, source=str(path), parts=parts)
