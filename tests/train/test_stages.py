"""What stages read of sources other than coco-mini, and what of the model they then change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor

from mllmseg.config import DataConfig, ModelConfig, SourceConfig, StageConfig, TrainConfig
from mllmseg.models.checkpoint import trained_state
from mllmseg.models.partition import to_superpixels
from mllmseg.structures import ImageFeatures, ImageInputs
from mllmseg.train.cache import FeatureCache
from mllmseg.train.trainer import Trainer

Settings = Callable[..., TrainConfig]
SIZE = (96, 128)
TALK = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "One."}]


class Halves:
    """Answers as the frozen stages would: a superpixel for each half of any picture."""

    tower_input: ClassVar[dict[str, Any]] = {"tower_size": 56, "patch_size": 14}

    def encode_image(self, inputs: ImageInputs) -> ImageFeatures:
        height, width = (side // 4 for side in inputs.input_size)
        labels = (torch.arange(width) >= width // 2).long().expand(height, width)
        generator = torch.Generator().manual_seed(int(inputs.sam_pixels.sum().abs()))
        return ImageFeatures(
            image_embeddings=torch.randn(1, 256, 64, 64, generator=generator),
            superpixels=to_superpixels(labels.numpy(), torch.ones(2).numpy()),
            patch_features=torch.randn(16, 3, 4, generator=generator),
            input_size=inputs.input_size,
            original_size=inputs.original_size,
        )


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    names = [f"{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        Image.new("RGB", SIZE[::-1], (60 * number, 90, 120)).save(tmp_path / name)
    return names


@pytest.fixture(autouse=True)
def no_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = FeatureCache.fill
    monkeypatch.setattr(
        FeatureCache, "fill", lambda self, *args, **rest: fill(self, *args, **rest | {"stack": Halves()})
    )


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def settings_of(run_settings: Settings, root: Path, *sources: str, **changes: Any) -> TrainConfig:
    data = DataConfig(
        root=str(root),
        sources=tuple(SourceConfig(name=name) for name in sources),
        on_bad_sample="skip",
        holdout_every=0,
    )
    return run_settings(changes.pop("out", root / "out"), data=data, cache=str(root / "cache"), **changes)


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trained_state(trainer.model).items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.split(".")[0] for name, tensor in after.items() if not tensor.equal(before[name])}


def test_align_teaches_the_projector_by_the_words_of_captions(
    run_settings: Settings, tmp_path: Path, images: list[str]
) -> None:
    captions = write(tmp_path / "c.jsonl", [{"image": name, "caption": f"This is {name}."} for name in images])
    talks = write(tmp_path / "v.jsonl", [{"image": name, "conversations": TALK} for name in images])
    nothing = StageConfig(steps=0)
    align = StageConfig(steps=3, batch_size=2, warmup_steps=1)
    trainer = Trainer(
        settings_of(run_settings, tmp_path, f"captions:{captions}", f"vqa:{talks}", align=align, instruct=nothing)
    )
    before = weights_of(trainer)
    trainer.run()
    assert changed(before, weights_of(trainer)) == {"projector"}, "and the language model stays as it is"


def test_a_stage_leaves_alone_what_is_frozen_for_it(run_settings: Settings, tmp_path: Path, images: list[str]) -> None:
    captions = write(tmp_path / "c.jsonl", [{"image": name, "caption": f"This is {name}."} for name in images])
    align = StageConfig(steps=2, batch_size=2, warmup_steps=1, freeze=("projector.input_projection.",))
    nothing = StageConfig(steps=0)
    trainer = Trainer(settings_of(run_settings, tmp_path, f"captions:{captions}", align=align, instruct=nothing))
    before = weights_of(trainer)
    trainer.run()
    moved = {name for name, tensor in weights_of(trainer).items() if not tensor.equal(before[name])}
    assert any(name.startswith("projector.output_projection.") for name in moved)
    assert not any(name.startswith("projector.input_projection.") for name in moved)


def test_a_run_on_a_mixture_from_a_checkpoint_leaves_out_what_is_bad(
    run_settings: Settings, tmp_path: Path, images: list[str], tiny_config: ModelConfig
) -> None:
    half = [[64, 0, 128, 0, 128, 96, 64, 96]]
    lines = [
        {"image": name, "text": text, "masks": masks} for name in images for text, masks in (("it", [half]), ("no", []))
    ]
    (tmp_path / "3.png").write_bytes(b"no picture")
    sources = (
        f"jsonl:{write(tmp_path / 'own.jsonl', lines)}",
        f"captions:{write(tmp_path / 'c.jsonl', [{'image': name, 'caption': 'x'} for name in images])}",
    )
    first = Trainer(settings_of(run_settings, tmp_path, *sources, align=StageConfig(steps=1)))
    trained = first.run()
    again = settings_of(
        run_settings, tmp_path, *sources, out=str(tmp_path / "again"), model=None, init=str(trained),
        align=StageConfig(steps=0), instruct=StageConfig(steps=4, batch_size=2, warmup_steps=1),
    )  # fmt: skip
    trainer = Trainer(again)
    assert trainer.model_config == first.model_config
    assert changed(weights_of(first), weights_of(trainer)) == set(), "it starts where the other ended"
    trainer.run()
    assert {"projector", "head", "mllm"} <= changed(weights_of(first), weights_of(trainer))
    bad = [json.loads(line)["id"] for line in (tmp_path / "again/bad_samples.jsonl").read_text().splitlines()]
    assert bad == sorted(f"{source}/3.png" for source in sources)
    told = [json.loads(line) for line in (tmp_path / "again/journal.jsonl").read_text().splitlines()]
    assert [len(line["samples"]) for line in told] == [2] * 4
