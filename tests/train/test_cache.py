"""The feature cache on a real photo and MobileSAM: what is written is what is read, and nothing stale ever is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mllmseg import weights
from mllmseg.config import ModelConfig, SamConfig
from mllmseg.data.datasets.coco_mini import Instance, Photo, instance_mask
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.errors import DataError
from mllmseg.models.build import build_vision_stack
from mllmseg.models.vision_stack import VisionStack
from mllmseg.structures import ImageFeatures
from mllmseg.train.cache import FeatureCache

pytestmark = pytest.mark.weights

EXAMPLES = Path(__file__).parents[2] / "examples"
WIDTH = 320
SAUCER, CROWD, CUP, SPECK = 11, 12, 13, 14


@pytest.fixture(scope="module")
def config(tiny_config: ModelConfig) -> ModelConfig:
    weights.fetch("mobile_sam")
    return tiny_config.model_copy(update={"sam": SamConfig(dtype="float32")})


@pytest.fixture(scope="module")
def stack(config: ModelConfig) -> VisionStack:
    return build_vision_stack(config)


def instance(ident: int, box: tuple[float, float, float, float], **changes: Any) -> Instance:
    settings: dict[str, Any] = {"mask_source": None, "segmentation": [], "is_crowd": False}
    return Instance(id=ident, category="cup", box=box, area=box[2] * box[3], **(settings | changes))


def photo_at(path: Path, instances: Sequence[Instance] = ()) -> Photo:
    with Image.open(path) as image:
        size = (image.height, image.width)
    return Photo(
        id=1, path=path, size=size, scope=frozenset(), scope_name="coco80", instances=tuple(instances), captions=()
    )


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Photo:
    """A cup of coffee, its labels as coco-mini has them: a polygon, a crowd's RLE, a box, and a box of a few pixels."""
    path = tmp_path_factory.mktemp("images") / "coffee.jpg"
    image = load_image(EXAMPLES / "coffee.jpg")
    image.resize((WIDTH, round(image.height * WIDTH / image.width))).save(path)
    height = photo_at(path).size[0]
    triangle = [[20.0, 20.0, 300.0, 20.0, 160.0, 200.0]]
    crowd = {"counts": [10 * height, 5 * height, (WIDTH - 15) * height], "size": [height, WIDTH]}
    cup = (104.0, 17.0, 116.0, 119.0)
    return photo_at(
        path,
        [
            instance(SAUCER, (20, 20, 280, 180), segmentation=triangle, mask_source="human"),
            instance(CROWD, (10, 0, 5, height), segmentation=crowd, mask_source="human", is_crowd=True),
            instance(CUP, cup),
            instance(SPECK, (5, 5, 3, 3)),
        ],
    )


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, config: ModelConfig, stack: VisionStack, photo: Photo
) -> FeatureCache:
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), config)
    cache.folder.mkdir()
    cache.write(photo, stack)
    return cache


def test_features_come_back_as_they_were(
    filled: FeatureCache, config: ModelConfig, stack: VisionStack, photo: Photo
) -> None:
    inputs = preprocess(load_image(photo.path), tower_size=config.vision_tower.image_size, patch_size=14)
    expected, found = stack.encode_image(inputs), filled.read(photo).features
    assert (found.input_size, found.original_size) == (expected.input_size, expected.original_size)
    assert found.superpixels.label_map.dtype == torch.int64
    assert len(found.superpixels) > 1
    for name in ("label_map", "boxes", "areas", "scores"):
        assert getattr(found.superpixels, name).equal(getattr(expected.superpixels, name)), name
    assert found.image_embeddings is not None
    assert expected.image_embeddings is not None
    assert found.image_embeddings.equal(expected.image_embeddings.half())
    assert found.patch_features.equal(expected.patch_features.half())


def test_masks_come_back_at_the_resolution_of_the_label_map(filled: FeatureCache, photo: Photo) -> None:
    cached = filled.read(photo)
    grid = cached.features.superpixels.label_map.shape
    assert cached.masks.keys() == {SAUCER, CROWD, CUP}, "a box of nine pixels is not worth a mask"
    assert cached.estimated == {CUP}
    for mask in cached.masks.values():
        assert mask.dtype == torch.bool
        assert mask.shape == grid
    for ident in (SAUCER, CROWD):
        drawn = instance_mask(photo, photo.instance(ident))
        low = np.asarray(Image.fromarray(drawn).resize((grid[1], grid[0]), Image.Resampling.NEAREST))
        # They round the border differently.
        assert (low != cached.masks[ident].numpy()).mean() < 0.01


def test_a_mask_estimated_from_a_box_fills_the_box(filled: FeatureCache, photo: Photo) -> None:
    mask = filled.read(photo).masks[CUP]
    scale = mask.shape[1] / WIDTH
    x, y, width, height = (round(value * scale) for value in photo.instance(CUP).box)
    inside = mask[y : y + height, x : x + width].sum()
    assert inside / mask.sum() > 0.85
    assert 0.5 < inside / (width * height) < 0.95, "a cup is round"


def test_embeddings_can_stay_on_disk(filled: FeatureCache, photo: Photo) -> None:
    assert filled.read(photo, embeddings=False).features.image_embeddings is None


def test_a_photo_without_labels(
    tmp_path: Path, config: ModelConfig, photo: Photo, make_features: Callable[..., ImageFeatures]
) -> None:
    cache = FeatureCache(tmp_path, config)
    cache.folder.mkdir()
    cache.write(photo_at(photo.path), FakeStack(make_features(3)))
    cached = cache.read(photo)
    assert (cached.masks, cached.estimated) == ({}, frozenset())


class FakeStack:
    """Answers at once."""

    def __init__(self, features: ImageFeatures) -> None:
        self.features = features

    def encode_image(self, inputs: object) -> ImageFeatures:
        return self.features


def test_what_is_not_cached_is_named(filled: FeatureCache) -> None:
    other = photo_at(EXAMPLES / "cat.jpg")
    assert other not in filled
    with pytest.raises(DataError, match=r"cat\.safetensors: this photo is not cached"):
        filled.read(other)


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.5, 0.999])
def test_a_damaged_file_is_named(tmp_path: Path, filled: FeatureCache, photo: Photo, kept: float) -> None:
    damaged = FeatureCache(tmp_path, filled.config)
    shutil.copytree(filled.folder, damaged.folder)
    path = damaged.folder / "coffee.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=r"coffee\.safetensors is damaged .*delete it"):
        damaged.read(photo)


@pytest.mark.parametrize("section", ["sam", "superpixels", "vision_tower"])
def test_other_settings_of_the_frozen_stages_have_another_folder(filled: FeatureCache, section: str) -> None:
    changes = {"sam": {"dtype": "bfloat16"}, "superpixels": {"max_tokens": 63}, "vision_tower": {"image_size": 70}}
    part = getattr(filled.config, section).model_copy(update=changes[section])
    other = FeatureCache(filled.folder.parent, filled.config.model_copy(update={section: part}))
    assert other.folder != filled.folder
    assert other.folder.parent == filled.folder.parent


def test_settings_of_the_trained_stages_share_it(filled: FeatureCache) -> None:
    head = filled.config.head.model_copy(update={"hidden_size": 64})
    other = FeatureCache(filled.folder.parent, filled.config.model_copy(update={"head": head}))
    assert other.folder == filled.folder


def test_a_photo_of_another_size_than_its_label_says_is_refused(
    filled: FeatureCache, stack: VisionStack, photo: Photo
) -> None:
    wrong = Photo(**{**vars(photo), "size": (photo.size[0], photo.size[1] + 1)})
    with pytest.raises(DataError, match=r"coffee\.jpg is .* its label says"):
        filled.write(wrong, stack)


def test_an_interrupted_write_leaves_no_photo_behind(
    tmp_path: Path,
    config: ModelConfig,
    photo: Photo,
    make_features: Callable[..., ImageFeatures],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = FeatureCache(tmp_path, config)
    cache.folder.mkdir()

    def interrupt(tensors: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("mllmseg.train.cache.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.write(photo_at(photo.path), FakeStack(make_features(3)))
    assert photo not in cache


@pytest.mark.slow
def test_two_processes_compute_what_is_missing_and_nothing_else(
    tmp_path: Path, filled: FeatureCache, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", filled.config)
    shutil.copytree(filled.folder, cache.folder)
    others = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.jpg"
        Image.open(photo.path).crop((0, 0, 64, 48)).save(path)
        others.append(photo_at(path))
    before = (cache.folder / "coffee.safetensors").stat().st_mtime_ns
    cache.fill([photo, *others], workers=2)
    assert (cache.folder / "coffee.safetensors").stat().st_mtime_ns == before
    assert sorted(os.listdir(cache.folder)) == ["coffee.safetensors", "one.safetensors", "two.safetensors"]
    one, two = (cache.read(other).features for other in others)
    assert one.superpixels.label_map.equal(two.superpixels.label_map)
    monkeypatch.setattr("mllmseg.train.cache.multiprocessing", None)
    cache.fill([photo, *others], workers=2)  # nothing to do, so no process is started


def test_photos_that_cannot_be_cached_are_named(
    tmp_path: Path, filled: FeatureCache, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InThisProcess:
        """multiprocessing's context, without the processes."""

        class Process:
            def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
                self.target, self.args = target, args

            def start(self) -> None:
                with pytest.raises(DataError):
                    self.target(*self.args)

            def join(self) -> None: ...

    monkeypatch.setattr("mllmseg.train.cache.multiprocessing.get_context", lambda method: InThisProcess)
    monkeypatch.setattr("mllmseg.train.cache.build_vision_stack", lambda config: None)
    monkeypatch.setattr("mllmseg.train.cache.torch.set_num_threads", lambda count: None)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.path.read_bytes()[:2000])
    bad = Photo(**{**vars(photo), "path": broken})
    with pytest.raises(DataError, match=r"1 photos could not be cached, first broken\.jpg"):
        FeatureCache(tmp_path, filled.config).fill([bad])
