"""Language models by their Hugging Face classes, quantised or not: a causal LM, or a VLM taken apart.

A VLM is used as what it is made of: its language model reads superpixel tokens (`mllm.py`), its vision encoder with
connector is a vision tower (`host_tower.py`). Nothing here knows a model by its name: what there is to know stands in
its config.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig

from mllmseg.config import LanguageModelConfig
from mllmseg.errors import ConfigError, WeightsError


@dataclass(frozen=True)
class Host:
    """A language model as it was loaded.

    Attributes:
        language_model: the Hugging Face model with its output head; of a VLM without what looks at pixels.
        vision: the VLM's base model without the decoder, whose `get_image_features` works; None for a causal LM.
    """

    language_model: Any
    vision: Any


def load_host(config: LanguageModelConfig, source: str | os.PathLike[str]) -> Host:
    """Loads the language model of `source`, a folder or hub id.

    Raises:
        ConfigError: it is neither a causal LM nor a VLM, or quantisation is asked for and bitsandbytes is missing.
        WeightsError: there is nothing to load there, or weights are missing in it.
    """
    try:
        settings = AutoConfig.from_pretrained(source)
        auto_class = _auto_class(settings, source)
        model, report = auto_class.from_pretrained(
            source,
            dtype=getattr(torch, config.dtype),
            quantization_config=_quantization(config, settings, auto_class),
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"language_model.name: {source} cannot be loaded ({_first_line(error)}); give a Hugging Face hub id or a "
            "local folder with a model's config.json and safetensors"
        ) from error
    # transformers only warns about weights it had to invent; a random language model must not pass.
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
        raise WeightsError(f"{source}: {len(missing)} weights are missing or misshapen, such as {missing[:3]}")
    return split(model)


def split(model: Any) -> Host:
    """Takes a VLM apart; a causal LM stays whole.

    The parts share no weights, so neither is held or trained twice, and LoRA finds no `q_proj` of the vision encoder.
    """
    base, decoder = model.base_model, model.get_decoder()
    if base is decoder:
        return Host(model, None)
    vision = copy.copy(base)
    vision._modules = {name: module for name, module in base._modules.items() if module is not decoder}
    base._modules = {name: module for name, module in base._modules.items() if module is decoder}
    return Host(model, vision)


def join(host: Host) -> Any:
    """The model whole again, to save it. `host` shares its modules."""
    model = copy.copy(host.language_model)
    if host.vision is None:
        return model
    base = copy.copy(model.base_model)
    base._modules = {**host.vision._modules, **base._modules}
    model._modules = {**model._modules, model.base_model_prefix: base}
    return model


def decoder_name(model: Any) -> str:
    """Where in the model its decoder is: `model`, `model.language_model`, …"""
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder)


def _auto_class(settings: Any, source: str | os.PathLike[str]) -> Any:
    # VLMs first: a few of them are registered as causal LMs as well.
    for auto_class in (AutoModelForImageTextToText, AutoModelForCausalLM):
        if type(settings) in auto_class._model_mapping:
            return auto_class
    raise ConfigError(
        f"language_model.name: {source} is a '{settings.model_type}', which transformers knows neither as a causal "
        "language model nor as a model of images and text"
    )


def _quantization(config: LanguageModelConfig, settings: Any, auto_class: Any) -> BitsAndBytesConfig | None:
    """What bitsandbytes does to the decoder's linear layers; the output head and all that sees are spared."""
    if config.quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"language_model.quantization is '{config.quantization}', which needs bitsandbytes: pip install "
            "bitsandbytes, or set it to 'none'"
        )
    with torch.device("meta"):
        skeleton = auto_class.from_config(settings)
    inside = decoder_name(skeleton) + "."
    spared = [
        name
        for name, module in skeleton.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inside)
    ]
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=spared)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
        llm_int8_skip_modules=spared,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
