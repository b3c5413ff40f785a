"""Every setting, as frozen pydantic models read from YAML with dotted overrides.

A fact has one home: what the model is lives in `ModelConfig` (saved beside each checkpoint), how it is trained in
`TrainConfig`. Unknown keys raise with the closest known one.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any, Literal, Self, get_args, get_origin

import pydantic
import yaml

from mllmseg.errors import ConfigError
from mllmseg.registry import did_you_mean

Dtype = Literal["float32", "bfloat16"]
Precision = Literal["float32", "bfloat16", "float16"]
Part = Literal["projector", "lora", "head", "mask_decoder"]


class Config(pydantic.BaseModel):
    """Base of all settings: frozen, no unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, source: str = "configuration") -> Self:
        """Validates `values`. Raises ConfigError naming `source`, the key and what was expected."""
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise ConfigError(_explain(error, cls, source)) from error

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], overrides: list[str] | None = None) -> Self:
        """Reads a YAML file, then applies `key.sub=value` overrides (values are YAML).

        Raises:
            ConfigError: the file is missing or no mapping, or a key or value does not fit.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise ConfigError(f"{path}: no such configuration file")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid YAML in UTF-8: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected a mapping at the top, found {type(values).__name__}")
        for override in overrides or []:
            _apply_override(values, override)
        return cls.from_dict(values, source=str(path))

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Writes the resolved settings; `from_yaml` reads them back equal."""
        path = pathlib.Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        temporary.replace(path)


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"override '{override}' is not of the form key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{override}': not a YAML value: {error}") from error
    node: Any = values
    *parents, last = key.split(".")
    for parent in parents:
        node = node[_place(node, parent, override)] if isinstance(node, list) else node.setdefault(parent, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"override '{override}': '{parent}' holds a value, not a section")
    node[_place(node, last, override) if isinstance(node, list) else last] = value


def _place(items: list[Any], part: str, override: str) -> int:
    """Which entry of a list an override means, as in `data.sources.0.root=DATA`."""
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(f"override '{override}': '{part}' is none of the list's {len(items)} entries, 0, 1, …")
    return int(part)


def _explain(error: pydantic.ValidationError, cls: type[Config], source: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key '{key}': {did_you_mean(str(item['loc'][-1]), _keys_at(cls, item['loc'][:-1]))}")
        elif not key:  # about several settings together, which the message names
            lines.append(item["msg"].removeprefix("Value error, "))
        else:
            lines.append(f"'{key}' = {item.get('input')!r}: {item['msg']}")
    return f"{source}: " + "; ".join(lines)


def _keys_at(cls: type[Config], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        if isinstance(part, int):  # an entry of a list of sections
            continue
        inner: Any = cls.model_fields[part].annotation if part in cls.model_fields else None
        if get_origin(inner) is tuple:
            inner = get_args(inner)[0]
        if not (isinstance(inner, type) and issubclass(inner, Config)):
            break
        cls = inner
    return list(cls.model_fields)


class SamConfig(Config):
    """Which SAM. `checkpoint`: `mllmseg:<name>`, a path, or None for random weights (tests); `dtype` of the encoder."""

    encoder: Literal["tiny_vit", "vit_b", "vit_l", "vit_h"] = "tiny_vit"
    checkpoint: str | None = "mllmseg:mobile_sam"
    dtype: Dtype = "bfloat16"


class SuperpixelConfig(Config):
    """How SAM's masks become a partition (design: points → masks → filter → NMS → partition → budget)."""

    points_per_side: int = pydantic.Field(16, ge=1, le=64)
    # A point on a mask of at most this share of the image is not decoded any more; None decodes the whole grid.
    max_covering_fraction: float | None = pydantic.Field(0.1, ge=0, le=1)
    # Nor is one on a larger mask on which so many points have given nothing new; None decodes them all.
    max_barren_points: int | None = pydantic.Field(6, ge=1)
    coarse_points: int = pydantic.Field(64, ge=0)  # but not of the grid's first so many points: 64 are every second one
    pred_iou_threshold: float = 0.80
    stability_threshold: float = 0.80
    nms_threshold: float = 0.70
    partition: Literal["carve", "coarse_first"] = "carve"
    min_region_fraction: float = pydantic.Field(0.003, ge=0, lt=1)  # of the image: smaller masks are not painted
    min_visible_fraction: float = pydantic.Field(0.002, ge=0, lt=1)  # what shows of a region; less joins a neighbour
    min_fragment_fraction: float = pydantic.Field(0.001, ge=0, lt=1)  # a region's loose bits below it join a neighbour
    max_overlap: float = 0.3
    min_tokens: int = pydantic.Field(1, ge=1)
    max_tokens: int = pydantic.Field(64, ge=1)
    dtype: Dtype = "bfloat16"
    points_per_batch: int = pydantic.Field(8, ge=1)


class VisionTowerConfig(Config):
    """Which patch features. `checkpoint`: `mllmseg:<name>`, a folder or hub id, or None for random weights (tests).

    `host` takes those of a language model that sees (a VLM), whose folder or hub id `checkpoint` repeats: features are
    cached by this section alone. `patch_size` is then pixels a visual token, after whatever the VLM merges.
    """

    name: Literal["dinov2", "sam", "host"] = "dinov2"
    checkpoint: str | None = "mllmseg:dinov2s"
    image_size: int = pydantic.Field(518, ge=14)
    patch_size: int = 14
    hidden_size: int = 384
    dtype: Dtype = "bfloat16"
    overrides: dict[str, Any] = {}


class ProjectorConfig(Config):
    """How patch features become visual tokens; `pooled` is for the `host` tower, whose features need no translation."""

    name: Literal["semantic", "mlp", "average", "resampler", "pooled"] = "semantic"
    hidden_size: int = 512
    sspe: bool = True
    ssa: bool = True
    num_heads: int = 8
    num_tokens: int = 36  # `average` and `resampler`: how many tokens (a square for `average`)


class LoraConfig(Config):
    """Low-rank adapters on the language model; `r` 0 switches them off."""

    r: int = pydantic.Field(8, ge=0)
    alpha: int = 16
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")


class LanguageModelConfig(Config):
    """Which language model: a causal LM or a VLM. `name`: `mllmseg:<name>`, a folder or a hub id.

    `dtype`: of its frozen weights as they are loaded. `quantization`: of its linear layers, by bitsandbytes.
    `chat_template`: in the place of the tokenizer's own (Jinja).
    """

    name: str = "mllmseg:smollm2"
    dtype: Dtype = "float32"
    quantization: Literal["none", "nf4", "int8"] = "none"
    chat_template: str | None = None
    lora: LoraConfig = LoraConfig()
    system_prompt: str = "You answer questions about a picture and point at things in it."


class HeadConfig(Config):
    """From the [SEG] hidden state to SAM's prompts.

    `vocabulary`: the names that compete for each superpixel; training fills it with its categories where it is empty.
    """

    hidden_size: int = 256
    vocabulary: tuple[str, ...] = ()
    dropout: float = pydantic.Field(0.1, ge=0, lt=1)  # in the lexicon
    num_layers: int = 2
    num_heads: int = 8
    sentence: bool = True  # whether the pointer reads the question word by word, beside the hidden state
    balanced: bool = True  # whether each part of a region and of a question has a norm of its own
    pointer: bool = True
    dense_prior: bool = True


class ModelConfig(Config):
    """The whole model; saved as `config.yaml` beside each checkpoint.

    `trainable`: the parts that training may change, which are what a checkpoint holds (`lora` with the rows of the new
    tokens). With `mask_decoder`, answers are decoded by a copy of SAM's; superpixels keep the original.
    """

    sam: SamConfig = SamConfig()
    superpixels: SuperpixelConfig = SuperpixelConfig()
    vision_tower: VisionTowerConfig = VisionTowerConfig()
    projector: ProjectorConfig = ProjectorConfig()
    language_model: LanguageModelConfig = LanguageModelConfig()
    head: HeadConfig = HeadConfig()
    trainable: tuple[Part, ...] = ("projector", "lora", "head")

    @pydantic.model_validator(mode="after")
    def _parts_go_together(self) -> Self:
        tower, name = self.vision_tower, self.language_model.name
        if tower.name == "host" and tower.checkpoint != name:
            raise ValueError(
                f"vision_tower.checkpoint is {tower.checkpoint!r}, but the 'host' tower is that of "
                f"language_model.name, {name!r}: write the same in both"
            )
        if self.projector.name == "pooled" and tower.name != "host":
            raise ValueError(
                "projector.name is 'pooled', which needs features in the language model's own space: "
                f"vision_tower.name must be 'host', not '{tower.name}'"
            )
        return self


class SourceConfig(Config):
    """One source of training data.

    Attributes:
        name: `coco-mini`; a referring dataset as `NAME:SPLIT`, such as `refcoco:train`; `jsonl:FILE`, `vqa:FILE`,
            `captions:FILE`, or `webdataset:FILES` (docs/training.md).
        root: where it lies; None for `data.root`.
        weight: how often it is drawn, relative to the other sources.
        photos: at most so many of its images, views among them; None for all.
        stages: which stages draw from it; empty for all that it has something for.
    """

    name: str
    root: str | None = None
    weight: float = pydantic.Field(1.0, gt=0)
    photos: int | None = pydantic.Field(None, ge=1)
    stages: tuple[Literal["align", "instruct", "point", "refine"], ...] = ()


class ValidationConfig(Config):
    """What is validated on: a dataset by name, as `mllmseg predict --data` takes it, and the folder it lies in."""

    name: str
    root: str | None = None


class DataConfig(Config):
    """What training reads: `sources`, in proportion to their weights, `root` for those that name no folder.

    How many questions an image gets at a visit: of coco-mini `positives`, `negatives` and `human_queries`; of other
    data at most `queries` sentences or conversations; at most `captions` of either. With `hard_negatives` coco-mini's
    negatives are also about things that are there, with the wrong place, attribute, relation or number. `flip` is the
    chance that an image is mirrored, features and masks alike; then nothing is said that names a side.

    Every `holdout_every`-th image of a source with sentences is kept out of training, to fit the calibration on (0:
    none). `on_bad_sample`: whether a damaged image or label ends the run, or is left out, counted and reported.

    `validation` is a dataset with sentences to validate on, such as `refcoco:val`, `jsonl:FILE` or `coco-mini:val`.
    """

    sources: tuple[SourceConfig, ...] = pydantic.Field((SourceConfig(name="coco-mini"),), min_length=1)
    root: str | None = None
    holdout_every: int = pydantic.Field(20, ge=0)
    queries: int = pydantic.Field(8, ge=1)
    positives: int = 6
    negatives: int = 4
    hard_negatives: bool = True
    human_queries: int = 3
    captions: int = 1
    flip: float = pydantic.Field(0.0, ge=0, le=1)
    on_bad_sample: Literal["raise", "skip"] = "raise"
    validation: ValidationConfig | None = None


class LearningRateScale(Config):
    """Factors on a stage's learning rate by part; `language_model` is LoRA and the rows of the new tokens."""

    language_model: float = pydantic.Field(1.0, ge=0)
    projector: float = pydantic.Field(1.0, ge=0)
    head: float = pydantic.Field(1.0, ge=0)


class StageConfig(Config):
    """One training stage: how long and how fast. A step is one optimizer update of `batch_size` photos.

    `batch_size` is that of all processes together. `weight_decay` spares norms, biases and other vectors. `freeze`: how
    the names of parameters begin that the stage leaves as they are, such as `head.lexicon.`.
    """

    steps: int = pydantic.Field(ge=0)
    batch_size: int = pydantic.Field(1, ge=1)
    learning_rate: float = 3e-4
    learning_rate_scale: LearningRateScale = LearningRateScale()
    warmup_steps: int = 100
    weight_decay: float = 0.0
    max_grad_norm: float = pydantic.Field(1.0, gt=0)
    freeze: tuple[str, ...] = ()


class PointConfig(StageConfig):
    """The stage of the head alone, on recorded hidden states. `rounds`: readings of each photo, odd ones mirrored."""

    rounds: int = pydantic.Field(2, ge=1)


class LossConfig(Config):
    """Weights of the losses (text, mask BCE, mask Dice as in LISA and GLaMM)."""

    text: float = 1.0
    mask_bce: float = 2.0
    mask_dice: float = 0.5
    pointer_bce: float = 1.0
    pointer_dice: float = 1.0
    existence: float = 1.0
    decision_pointer: float = 1.0
    naming: float = 0.2


class EngineConfig(Config):
    """How a step is computed; nothing here changes what is learned, so a run may be resumed with other values.

    Attributes:
        strategy: `auto` is `deepspeed` where `deepspeed` names a file, `ddp` under a launcher, else `single`.
        deepspeed: a file such as `configs/deepspeed/zero2.json`: ZeRO's stage and offloading have their home there.
        accumulate: micro-batches a step, one after the other, for memory's sake.
        gradient_checkpointing: recompute the language model's activations in the backward pass.
        device: `auto` is cuda where there is one, else cpu.
    """

    strategy: Literal["auto", "single", "ddp", "deepspeed"] = "auto"
    deepspeed: str | None = None
    accumulate: int = pydantic.Field(1, ge=1)
    gradient_checkpointing: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"


class TrainConfig(Config):
    """A training run. `model` is a `ModelConfig` file, `cache` and `out` are folders.

    `init` is a trained checkpoint to start from: a folder, a hub id, or `mllmseg:tiny`, the model inside the package.
    Its own settings are the model's, so `model` is left out then. With `init_parts`, how the names of tensors begin,
    only those are taken from it; the others start afresh, and the settings are those of `model`.

    Stages: `align` (visual tokens and lexicon to words), `instruct` (everything), `point` (the head, on what the
    language model says by then), `refine` (SAM's prompt). `masks_per_photo`: how many [SEG] of a photo go through SAM's
    mask decoder in a step of `instruct` (0: none) and `refine` (at least one); all train the pointer.
    """

    model: str | None = None
    init: str | None = None
    init_parts: tuple[str, ...] = ()
    data: DataConfig
    cache: str
    out: str
    align: StageConfig
    instruct: StageConfig
    point: PointConfig = PointConfig(steps=0)
    refine: StageConfig = StageConfig(steps=0)
    losses: LossConfig = LossConfig()
    masks_per_photo: int = pydantic.Field(2, ge=0)
    precision: Precision = "bfloat16"
    engine: EngineConfig = EngineConfig()
    seed: int = 0
    loggers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ("tensorboard",)
    max_loss: float = pydantic.Field(1e4, gt=0)  # above it, or where it is not finite, the run stops
    log_every: int = pydantic.Field(20, ge=1)
    val_every: int = pydantic.Field(500, ge=1)
    val_photos: int = pydantic.Field(40, ge=0)
    checkpoint_every: int = pydantic.Field(250, ge=1)
    keep_checkpoints: int = pydantic.Field(2, ge=1)
    cache_workers: int = pydantic.Field(2, ge=1)
    data_workers: int = pydantic.Field(2, ge=0)  # threads that read samples ahead; 0: each when it is needed
    cache_embeddings: bool = True  # masks and validation read SAM's image embeddings; the cache is a third without

    @pydantic.model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.init_parts and (self.model is None or self.init is None):
            raise ValueError("'init_parts' are parts of 'init' for the settings in 'model': give both")
        if not self.init_parts and (self.model is None) == (self.init is None):
            raise ValueError("give either 'model', settings to train from scratch, or 'init', a trained checkpoint")
        return self


class EvalConfig(Config):
    """One evaluation: predictions of each mode, their scores, and a report, in the folder `out`.

    `dataset` is NAME or NAME:SPLIT below `data_root`, or `jsonl:FILE` with images below `image_root`; `checkpoint` a
    folder or hub id, None for the model inside the package; `scorers` names, none for all; `baselines` answer without
    a model, to be held against it.
    """

    dataset: str
    data_root: str | None = None
    image_root: str | None = None
    checkpoint: str | None = None
    out: str
    modes: tuple[Literal["scored", "free", "teacher"], ...] = pydantic.Field(("scored", "teacher"), min_length=1)
    baselines: tuple[Literal["whole-image", "largest-superpixel"], ...] = ()
    scorers: tuple[str, ...] = ()
    threshold: float = pydantic.Field(0.5, ge=0, le=1)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = pydantic.Field(None, ge=1)
