"""From a name to a trained model ready to answer: checkpoint folder, hub id, or the model inside this package."""

from __future__ import annotations

import re
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mllmseg.config import ModelConfig
from mllmseg.errors import CheckpointError, ConfigError
from mllmseg.weights import SCHEME, resolve

if TYPE_CHECKING:
    from mllmseg.models.mllmseg import MLLMSeg

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def pick_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    if device is None or str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device '{device}': torch knows no such device; use cuda, mps or cpu") from error
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not available.get(chosen.type, True):
        raise ConfigError(f"device '{device}': torch {torch.__version__} finds none here; leave it out to use the best")
    return chosen


def pick_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The language model's dtype: the one asked for, or bfloat16 where the device computes in it, else float32.

    Raises:
        ConfigError: neither float32 nor bfloat16.
    """
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if _computes_bfloat16(device) else torch.float32
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise ConfigError(f"dtype '{dtype}': use float32 or bfloat16")
    return chosen


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: a CPU without instructions for it emulates them slowly."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return device.type == "cuda"


def embedded_checkpoint() -> Path:
    """The folder of the trained parameters inside this package."""
    return Path(str(resources.files("mllmseg"))) / "assets" / "tiny"


def find_checkpoint(name_or_path: str | PathLike[str] | None) -> Path:
    """A folder with a checkpoint; a hub id is downloaded.

    Raises:
        CheckpointError: there is no such folder or repository, or it cannot be reached.
    """
    if name_or_path is None:
        folder = embedded_checkpoint()
        if not folder.is_dir():
            raise CheckpointError(
                f"this installation carries no trained model (no folder {folder}); name a checkpoint folder or a hub id"
            )
        return folder
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder}: not a folder; give the folder that training or export wrote")
    if not isinstance(name_or_path, str) or not _HUB_ID.fullmatch(name_or_path):
        raise CheckpointError(f"{folder}: no such folder, nor is it a Hugging Face hub id (owner/name)")
    return _download(name_or_path)


def load_pretrained(
    name_or_path: str | PathLike[str] | None, *, dtype: torch.dtype = torch.float32, progress: bool = False
) -> MLLMSeg:
    """A trained model in eval mode with LoRA merged, on the CPU.

    Args:
        name_or_path: as for `find_checkpoint`.
        dtype: of the language model; everything else stays in its own.
        progress: show a progress bar on stderr where pre-trained weights must be fetched.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not fit.
        WeightsError: pre-trained weights cannot be fetched.
    """
    # Here, so that a missing checkpoint is found before the language model's libraries have taken seconds to import.
    from mllmseg.models.checkpoint import CONFIG_FILE, load_checkpoint

    folder = find_checkpoint(name_or_path)
    if (folder / CONFIG_FILE).is_file():  # else loading says what is missing
        config = ModelConfig.from_yaml(folder / CONFIG_FILE)
        for spec in (config.sam.checkpoint, config.vision_tower.checkpoint, config.language_model.name):
            if spec is not None and spec.startswith(SCHEME):
                resolve(spec, progress=progress)
    model = load_checkpoint(folder)
    # Merged in the precision it was trained in and rounded once; a quantised model is neither merged nor cast.
    model.mllm.merge_lora()
    if not model.mllm.is_quantized:
        model.mllm.language_model.to(dtype)
    return model


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.safetensors", "*.yaml", "*.json", "*.jinja", "*.txt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"'{hub_id}' is no local folder, and fetching it from the Hugging Face hub failed: {reason}"
        ) from error
