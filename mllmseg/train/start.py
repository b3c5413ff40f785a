"""What a run starts from: a model's settings and fresh weights, or a trained checkpoint."""

from __future__ import annotations

import pathlib

from mllmseg.config import ModelConfig, TrainConfig
from mllmseg.inference.pretrained import find_checkpoint
from mllmseg.models.checkpoint import MODEL_FILE, load_trained_file, read_config
from mllmseg.models.mllmseg import MLLMSeg

# The model inside the package, as `init` calls it.
EMBEDDED = "mllmseg:tiny"


def initial_model_config(config: TrainConfig) -> ModelConfig:
    """The settings of the model that a run trains.

    Raises:
        ConfigError: the file is missing or wrong.
        CheckpointError: there is no checkpoint to start from.
    """
    if config.model is not None:
        return ModelConfig.from_yaml(config.model)
    return read_config(_checkpoint(config))


def load_initial_weights(model: MLLMSeg, config: TrainConfig) -> None:
    """Gives a model the weights to start from. Raises CheckpointError where they do not fit, tensor for tensor."""
    if config.init is not None:
        load_trained_file(model, _checkpoint(config) / MODEL_FILE, parts=config.init_parts)


def _checkpoint(config: TrainConfig) -> pathlib.Path:
    return find_checkpoint(None if config.init == EMBEDDED else config.init)
