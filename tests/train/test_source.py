"""A run's data: every source through the cache, order and chance by number, bad samples, what each stage reads."""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor

from mllmseg.config import DataConfig, ModelConfig, SourceConfig, StageConfig, TrainConfig, ValidationConfig
from mllmseg.data.augment import augment
from mllmseg.data.training import Sample, TrainingImage
from mllmseg.errors import ConfigError, DataError
from mllmseg.models.partition import to_superpixels
from mllmseg.structures import ImageFeatures, ImageInputs
from mllmseg.train.cache import CacheEntry, FillReport
from mllmseg.train.source import TrainingData

Settings = Callable[..., TrainConfig]
Write = Callable[[str, Path], None]


class OneRegion:
    """Answers as the frozen stages would: one superpixel, whatever the picture, and no mask for any box."""

    tower_input: ClassVar[dict[str, Any]] = {"tower_size": 56, "patch_size": 14}

    def predict_boxes(self, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(boxes), 1, 256, 256), torch.zeros(len(boxes), 1)

    def encode_image(self, inputs: ImageInputs) -> ImageFeatures:
        height, width = (side // 4 for side in inputs.input_size)
        return ImageFeatures(
            image_embeddings=torch.zeros(1, 256, 64, 64),
            superpixels=to_superpixels(torch.zeros(height, width, dtype=torch.int64).numpy(), torch.ones(1).numpy()),
            patch_features=torch.zeros(16, 3, 4),
            input_size=inputs.input_size,
            original_size=inputs.original_size,
        )


def filled(data: TrainingData) -> TrainingData:
    """With its cache filled by `OneRegion` in this process."""
    fill = data.cache.fill
    data.cache.fill = lambda entries, **options: fill(  # type: ignore[method-assign]
        entries, **(options | {"stack": OneRegion(), "workers": 1})
    )
    data.fill_cache()
    return data


@pytest.fixture
def open_data(run_settings: Settings, tiny_config: ModelConfig, tmp_path: Path) -> Callable[..., TrainingData]:
    """`(*sources, **data)` opens the data of a run below `tmp_path`."""

    def open_it(*sources: str | SourceConfig, seed: int = 0, workers: int = 2, **data: Any) -> TrainingData:
        listed = tuple(item if isinstance(item, SourceConfig) else SourceConfig(name=item) for item in sources)
        settings = DataConfig(**({"root": str(tmp_path), "holdout_every": 0} | data), sources=listed)
        changes = {
            "data": settings,
            "cache": str(tmp_path / "cache"),
            "seed": seed,
            "data_workers": workers,
            "align": StageConfig(steps=0),
        }
        return TrainingData(run_settings(tmp_path / "out", **changes), tiny_config)

    return open_it


def questions(data: TrainingData, stage: str = "instruct") -> Callable[[TrainingImage, random.Random], Any]:
    """Reads a sample as a step would: features and questions."""

    def read(image: TrainingImage, rng: random.Random) -> tuple[str, Sample]:
        cached = data.read(image, embeddings=False)
        return image.id, data.sample(image, cached, rng, stage=stage)

    return read


def write_captions(folder: Path, count: int) -> Path:
    for number in range(count):
        Image.new("RGB", (64, 48), (40 * number, 80, 120)).save(folder / f"{number}.png")
    lines = [{"image": f"{number}.png", "caption": f"Number {number}."} for number in range(count)]
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_mixture_of_every_kind_reads_through_the_cache(
    tmp_path: Path, write_miniature: Write, open_data: Callable[..., TrainingData]
) -> None:
    names = ["refcoco:train", "grefcoco:train", "reasonseg:train", "riscq:clean", "talk2car-regseg:train"]
    for name in names:
        write_miniature(name.partition(":")[0], tmp_path)
    write_miniature("coco-mini", tmp_path)
    captions = write_captions(tmp_path, 3)
    coco = SourceConfig(name="coco-mini", root=str(tmp_path / "coco-mini"), weight=2)
    data = filled(open_data(coco, *names, f"captions:{captions}", on_bad_sample="skip"))
    cycle = 2 + len(names) + 1
    items = list(data.stream("instruct", range(3 * cycle), questions(data)))
    for name in ("coco-mini", *names, f"captions:{captions}"):
        mine = [(ident, sample) for ident, sample in items if ident.startswith(f"{name}/")]
        assert len(mine) == 3 * (2 if name == "coco-mini" else 1)
        assert all(sample.branches for _, sample in mine)
        assert any(len(sample.masks) for _, sample in mine) == (not name.startswith("captions"))
    labels = [data.labels(image, data.read(image)) for image in data.photos]
    assert all(item.names.shape[1] == 1 for item in labels), "the vocabulary is coco-mini's: book"
    assert not any(item.told.any() for item in labels[1:])


def test_images_in_shards_are_cached_by_their_path(tmp_path: Path, open_data: Callable[..., TrainingData]) -> None:
    write_captions(tmp_path, 3)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(3):
            (tmp_path / f"{number}.json").write_text(json.dumps({"caption": f"Number {number}."}))
            archive.add(tmp_path / f"{number}.png", f"{number}.png")
            archive.add(tmp_path / f"{number}.json", f"{number}.json")
    data = filled(open_data("webdataset:a.tar"))
    found = dict(data.stream("instruct", range(3), questions(data)))
    assert {ident[-5]: sample.branches[0][0].answer for ident, sample in found.items()} == {
        str(number): f"Number {number}." for number in range(3)
    }
    assert data.read(data.photos[0]).features.original_size == (48, 64)


def test_samples_do_not_depend_on_workers_processes_or_resumes(
    tmp_path: Path, open_data: Callable[..., TrainingData], write_miniature: Write
) -> None:
    write_miniature("grefcoco", tmp_path)
    captions = SourceConfig(name=f"captions:{write_captions(tmp_path, 5)}", weight=1.5)
    sources = ("grefcoco:train", captions)
    first = filled(open_data(*sources, flip=0.5))
    whole = list(first.stream("instruct", range(24), questions(first)))
    # On two processes for 12 samples, then, after a resume, on three of other numbers of threads.
    found: dict[int, Any] = {}
    for start, processes in ((0, 2), (12, 3)):
        for rank in range(processes):
            data = open_data(*sources, flip=0.5, workers=rank)
            numbers = range(start + rank, start + 12, processes)
            found |= dict(zip(numbers, data.stream("instruct", numbers, questions(data)), strict=True))
    for number, (ident, sample) in enumerate(whole):
        other_ident, other = found[number]
        assert (ident, sample.branches, sample.flipped) == (other_ident, other.branches, other.flipped)
        assert sample.masks.equal(other.masks)
    assert len({sample.flipped for _, sample in whole}) == 2
    other = open_data(*sources, seed=1)
    assert [ident for ident, _ in other.stream("instruct", range(24), questions(other))] != [
        ident for ident, _ in whole
    ]


def test_the_chance_of_a_sample_follows_from_seed_stage_and_number(
    tmp_path: Path, open_data: Callable[..., TrainingData]
) -> None:
    captions = f"captions:{write_captions(tmp_path, 1)}"
    first, other = open_data(captions), open_data(captions, seed=1)
    drawn = first.rng("align", 7).random()
    assert first.rng("align", 7).random() == drawn
    assert drawn not in (
        first.rng("align", 8).random(), first.rng("instruct", 7).random(), other.rng("align", 7).random()
    )  # fmt: skip


def test_every_epoch_has_every_image_once(tmp_path: Path, open_data: Callable[..., TrainingData]) -> None:
    data = open_data(f"captions:{write_captions(tmp_path, 6)}")
    stage = StageConfig(steps=99, batch_size=2)
    flat = [image.path.stem for step in range(12) for image in data.photos_of("instruct", stage, step)]
    epochs = [flat[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == ["0", "1", "2", "3", "4", "5"] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_bad_image_is_replaced_by_the_next_good_one_and_reported(
    tmp_path: Path, open_data: Callable[..., TrainingData]
) -> None:
    source = f"captions:{write_captions(tmp_path, 5)}"
    (tmp_path / "3.png").write_bytes(b"no picture")
    (tmp_path / "1.png").unlink()
    data = filled(open_data(source, on_bad_sample="skip"))
    assert set(data.bad.found) == {f"{source}/1.png", f"{source}/3.png"}
    order = [data.image("instruct", number).path.stem for number in range(5)]
    ids = [ident.rpartition("/")[2][0] for ident, _ in data.stream("instruct", range(5), questions(data))]
    assert "1" not in ids
    assert "3" not in ids
    assert [found for found, meant in zip(ids, order, strict=True) if meant not in "13"] == [
        meant for meant in order if meant not in "13"
    ], "all others stay where they are"
    again = open_data(source, on_bad_sample="skip", workers=0)
    assert ids == [ident.rpartition("/")[2][0] for ident, _ in again.stream("instruct", range(5), questions(again))]
    assert [image.path.stem for image in data.images_of("instruct")] == ["0", "2", "4"]
    assert data.bad.report() == f"2 bad samples were left out: {source}/1.png, {source}/3.png"
    data.bad.save(tmp_path / "bad.jsonl")
    assert json.loads((tmp_path / "bad.jsonl").read_text().splitlines()[1])["id"] == f"{source}/3.png"


def test_a_bad_image_ends_the_run_by_name_where_asked(tmp_path: Path, open_data: Callable[..., TrainingData]) -> None:
    source = f"captions:{write_captions(tmp_path, 2)}"
    data = filled(open_data(source))
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png"):
        filled(open_data(source))
    with pytest.raises(DataError, match=r"captions.jsonl/1\.png: .*on_bad_sample=skip"):
        list(data.stream("instruct", range(2), questions(data)))


def test_nothing_good_left_is_an_end(tmp_path: Path, open_data: Callable[..., TrainingData]) -> None:
    source = f"captions:{write_captions(tmp_path, 2)}"
    data = open_data(source, on_bad_sample="skip")  # never cached
    with pytest.raises(DataError, match=r"every image is bad, the last: .* is not cached"):
        next(data.stream("instruct", [0], questions(data)))


def test_stages_read_what_they_have_a_use_for(
    tmp_path: Path, write_miniature: Write, open_data: Callable[..., TrainingData]
) -> None:
    write_miniature("refcoco", tmp_path)
    captions = f"captions:{write_captions(tmp_path, 3)}"
    data = open_data("refcoco:train", captions, holdout_every=2)
    for stage, names in (
        ("align", {captions}), ("instruct", {captions, "refcoco:train"}), ("point", {"refcoco:train"})
    ):  # fmt: skip
        assert {image.id.rpartition("/")[0] for image in data.images_of(stage)} == names
        assert {data.image(stage, number).id.rpartition("/")[0] for number in range(4)} == names
    only = open_data("refcoco:train", SourceConfig(name=captions, stages=("align",)))
    assert {image.source for image in only.images_of("instruct")} == {0}


def test_a_stage_with_nothing_to_read_is_found_at_once(
    tmp_path: Path, write_miniature: Write, run_settings: Settings, tiny_config: ModelConfig
) -> None:
    write_miniature("refcoco", tmp_path)
    data = DataConfig(root=str(tmp_path), sources=(SourceConfig(name="refcoco:train"),))
    with pytest.raises(ConfigError, match=r"none of refcoco:train has anything for 'align': set align.steps=0"):
        TrainingData(run_settings(tmp_path / "out", data=data), tiny_config)


def test_images_held_out_are_read_alike_every_time(
    tmp_path: Path, write_miniature: Write, open_data: Callable[..., TrainingData]
) -> None:
    write_miniature("grefcoco", tmp_path)
    data = filled(open_data("grefcoco:val", holdout_every=2, queries=2))
    assert [image.path.stem[-2:] for image in data.holdout] == ["25"]
    assert [image.path.stem[-2:] for image in data.photos] == ["09"]
    (first, own), (second, again) = (data.held_out(0, questions(data)) for _ in range(2))
    assert first[1].branches == second[1].branches
    assert own is again is True


def test_views_of_images_held_out_are_not_trained_on(
    tmp_path: Path, write_miniature: Write, open_data: Callable[..., TrainingData]
) -> None:
    write_miniature("coco-mini", tmp_path)
    augment(tmp_path / "coco-mini", tmp_path / "more", views=3)
    source = SourceConfig(name="coco-mini", root=str(tmp_path / "more"))
    data = open_data(source, holdout_every=2)
    assert (len(data.photos), data.holdout) == (4, []), "only photos themselves are held out"
    with pytest.raises(ConfigError, match="4 photos, 1 of them held out: none is left"):
        open_data(source, holdout_every=1)


def test_one_dataset_in_two_folders_is_two_sources(
    tmp_path: Path, write_miniature: Write, open_data: Callable[..., TrainingData]
) -> None:
    write_miniature("refcoco", tmp_path)
    write_miniature("refcoco", tmp_path / "copy")
    data = open_data("refcoco:val", SourceConfig(name="refcoco:val", root=str(tmp_path / "copy")))
    ids = [image.id for image in data.photos]
    assert ids[len(ids) // 2 :] == [ident.replace("refcoco:val/", "refcoco:val (2)/") for ident in ids[: len(ids) // 2]]


def test_a_bad_image_held_out_is_replaced_and_known_as_such(
    tmp_path: Path, write_miniature: Write, open_data: Callable[..., TrainingData]
) -> None:
    write_miniature("refcoco", tmp_path)
    data = filled(open_data("refcoco:val", "refcoco:train", SourceConfig(name="refcoco:testA"), holdout_every=2))
    data.holdout = [data.photos[0], data.photos[1]]

    def read(image: TrainingImage, rng: random.Random) -> str:
        if image == data.holdout[0]:
            raise DataError("broken")
        return image.id

    data.bad.skip = True
    assert data.held_out(0, read) == (data.holdout[1].id, False)
    assert data.held_out(1, read) == (data.holdout[1].id, True)
    assert data.bad.found == {data.holdout[0].id: "broken"}


def test_what_is_validated_on_is_cached_too(
    tmp_path: Path, write_miniature: Write, run_settings: Settings, tiny_config: ModelConfig
) -> None:
    write_miniature("refcoco", tmp_path)
    data = DataConfig(
        root=str(tmp_path),
        sources=(SourceConfig(name="refcoco:train"),),
        validation=ValidationConfig(name="refcoco:val"),
    )
    changes = {"data": data, "cache": str(tmp_path / "cache"), "align": StageConfig(steps=0), "val_photos": 1}
    source = filled(TrainingData(run_settings(tmp_path / "out", **changes), tiny_config))
    assert source.validation is not None
    (path,) = source.validation.images()
    assert path.stem.endswith("09")
    assert source.features_of(path).image_embeddings is not None


def test_equal_names_in_two_sources_are_two_images(
    tmp_path: Path, open_data: Callable[..., TrainingData], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    sources = [
        SourceConfig(name=f"captions:{write_captions(tmp_path / name, 2)}", root=str(tmp_path / name))
        for name in ("a", "b")
    ]
    data = open_data(*sources)
    assert len({image.id for image in data.photos}) == len({image.file_name for image in data.photos}) == 4
    asked: list[CacheEntry] = []
    monkeypatch.setattr(data.cache, "fill", lambda entries, **_: asked.extend(entries) or FillReport(0, 0, ()))
    data.fill_cache()
    assert len({entry.path for entry in asked}) == 4
