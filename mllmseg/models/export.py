"""A trained model as others load it: a checkpoint of ours that has its language part for PEFT or transformers in it."""

from __future__ import annotations

import json
import pathlib

from mllmseg.config import ModelConfig
from mllmseg.models.checkpoint import TRAINING_FILE, save_checkpoint
from mllmseg.models.host_tower import copy_image_processor
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.weights import resolve

LANGUAGE_MODEL = "language_model"


def write_adapter(model: MLLMSeg, folder: pathlib.Path, source: pathlib.Path) -> None:
    """The trained tensors, and LoRA with the new rows once more as a PEFT adapter in `language_model/`.

    Args:
        model: as `load_checkpoint` gives it, not merged.
        folder: where to write; it must not exist.
        source: the checkpoint it was loaded from.
    """
    _save(model, folder, source)
    if model.config.language_model.lora.r:
        model.mllm.save_adapter(folder / LANGUAGE_MODEL, model.config.language_model.name)


def write_merged(model: MLLMSeg, folder: pathlib.Path, source: pathlib.Path) -> None:
    """The language model in full, LoRA merged into it, in `language_model/`; beside it the other trained tensors.

    Nothing else of the language model is needed to load it. The model is merged, so it cannot be trained on.

    Args:
        model: as `load_checkpoint(…, quantized=False)` gives it.
        folder: where to write; it must not exist.
        source: the checkpoint it was loaded from.
    """
    vision = getattr(model.vision.vision_tower, "model", None) if model.config.vision_tower.name == "host" else None
    pretrained = model.config.language_model.name
    model.mllm.merge_lora()
    model.config = _merged_config(model.config)
    _save(model, folder, source)
    model.mllm.save_merged(folder / LANGUAGE_MODEL, vision)
    if vision is not None:
        copy_image_processor(resolve(pretrained), folder / LANGUAGE_MODEL)


def _merged_config(config: ModelConfig) -> ModelConfig:
    here = f"./{LANGUAGE_MODEL}"
    lora = config.language_model.lora.model_copy(update={"r": 0})
    changes = {"name": here, "lora": lora, "quantization": "none"}
    tower = config.vision_tower
    if tower.name == "host":
        tower = tower.model_copy(update={"checkpoint": here})
    language_model = config.language_model.model_copy(update=changes)
    return config.model_copy(update={"language_model": language_model, "vision_tower": tower})


def _save(model: MLLMSeg, folder: pathlib.Path, source: pathlib.Path) -> None:
    facts = source / TRAINING_FILE
    training = json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else {}
    save_checkpoint(model, folder, training=training)
