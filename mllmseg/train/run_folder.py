"""Whose folder a run's folder is: a run never goes on by accident, and never with other settings."""

from __future__ import annotations

import pathlib

from mllmseg.config import Config, ModelConfig, TrainConfig

SETTINGS_FILE, MODEL_SETTINGS_FILE = "train.yaml", "model.yaml"
# How a run is computed and watched, not what it learns: free to change when it is resumed.
FREE = {
    "engine",
    "cache_workers",
    "data_workers",
    "loggers",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "max_loss",
    "val_every",
    "out",
}


def folder_problem(out: pathlib.Path, config: TrainConfig, model: ModelConfig, *, resume: bool) -> str | None:
    """Why a run must not start in this folder, or None."""
    settings, model_settings = out / SETTINGS_FILE, out / MODEL_SETTINGS_FILE
    if not resume:
        if settings.exists():
            unsaved = "" if (out / "checkpoints").exists() else ", or delete the folder: that run has saved nothing yet"
            return f"{out} holds a run already: resume it (--resume) or choose another 'out'{unsaved}"
        return None
    if not settings.exists():
        return f"{out} holds no run to resume"
    changed = [key for key in _changed(TrainConfig.from_yaml(settings), config) if key not in FREE]
    if model_settings.exists():
        changed += [f"model: {key}" for key in _changed(ModelConfig.from_yaml(model_settings), model)]
    if changed:
        return f"{out} was trained with other settings ({', '.join(changed)}): resume with its own"
    return None


def claim(out: pathlib.Path, config: TrainConfig, model: ModelConfig) -> None:
    """Makes the folder that of a run with these settings."""
    out.mkdir(parents=True, exist_ok=True)
    model.to_yaml(out / MODEL_SETTINGS_FILE)
    config.to_yaml(out / SETTINGS_FILE)  # last: it says that there is a run


def _changed(old: Config, new: Config) -> list[str]:
    before, after = old.model_dump(), new.model_dump()
    return [key for key in before if before[key] != after[key]]
