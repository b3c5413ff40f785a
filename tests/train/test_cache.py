"""The feature cache: what is written is what is read, nothing stale ever is, and nobody who dies takes much along."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

from mllmseg import weights
from mllmseg.config import ModelConfig, SamConfig
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.errors import DataError
from mllmseg.models.build import build_vision_stack
from mllmseg.models.sam import Sam
from mllmseg.models.vision_stack import VisionStack
from mllmseg.structures import ImageFeatures, ImageInputs
from mllmseg.train import cache_fill
from mllmseg.train.cache import CacheEntry, FeatureCache, config_digest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
WIDTH = 320
CUP, SPECK = 13, 14
CUP_BOX = (104.0, 17.0, 116.0, 119.0)


class CountingStack:
    """Answers at once, by what it sees, and counts."""

    tower_input: ClassVar[dict[str, Any]] = {"tower_size": 56, "patch_size": 14}

    def __init__(self, make_features: Callable[..., ImageFeatures], delay: float = 0.0) -> None:
        self.make, self.delay, self.seen = make_features, delay, 0
        self.sam: Sam | None = None

    def encode_image(self, inputs: ImageInputs) -> ImageFeatures:
        self.seen += 1
        seed = int(inputs.tower_pixels.double().sum().abs() * 1000)
        features = self.make(2 + seed % 5, seed)
        return ImageFeatures(
            features.image_embeddings,
            features.superpixels,
            features.patch_features,
            inputs.input_size,
            inputs.original_size,
        )


@pytest.fixture
def stack(make_features: Callable[..., ImageFeatures]) -> Any:
    return CountingStack(make_features)


def save_images(folder: Path, names: Sequence[str], start: int = 0) -> list[CacheEntry]:
    """Small images of different colours."""
    entries = []
    for number, name in enumerate(names, start=start):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (10 + number, 3 * number % 255, 99)).save(path)
        entries.append(CacheEntry(path, size=(48, 64)))
    return entries


def assert_equal(found: ImageFeatures, expected: ImageFeatures) -> None:
    """Features as they were, floats in half precision."""
    assert (found.input_size, found.original_size) == (expected.input_size, expected.original_size)
    for name in ("label_map", "boxes", "areas", "scores"):
        ours, theirs = getattr(found.superpixels, name), getattr(expected.superpixels, name)
        assert ours.equal(theirs), name
        assert ours.dtype == theirs.dtype, name
    assert found.patch_features.equal(expected.patch_features.half())
    assert found.image_embeddings is not None
    assert expected.image_embeddings is not None
    assert found.image_embeddings.equal(expected.image_embeddings.half())


def encode(path: Path, config: ModelConfig, stack: Any) -> ImageFeatures:
    tower = config.vision_tower
    return stack.encode_image(preprocess(load_image(path), tower_size=tower.image_size, patch_size=tower.patch_size))


def test_what_is_read_is_what_was_computed(tmp_path: Path, tiny_config: ModelConfig, stack: Any) -> None:
    entries = save_images(tmp_path, ["a.png", "b.png", "c.png"])
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    report = cache.fill(entries, stack=stack)
    assert (report.computed, report.present, report.bad) == (3, 0, ())
    assert len(list(cache.folder.glob("shard-*.safetensors"))) == 1
    for entry in entries:
        assert_equal(cache.read(entry).features, encode(entry.path, tiny_config, stack))
        assert cache.read(entry, embeddings=False).features.image_embeddings is None
    again = FeatureCache(tmp_path / "cache", tiny_config).fill(entries, stack=stack)
    assert (again.computed, again.present) == (0, 3)


def test_full_shards_are_closed(
    tmp_path: Path, tiny_config: ModelConfig, stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_fill, "MAX_IMAGES", 2)
    entries = save_images(tmp_path, [f"{number}.png" for number in range(5)])
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    cache.fill(entries, stack=stack)
    assert sorted(head.images for head in cache.index.shards.values()) == [1, 2, 2]
    for entry in entries:
        assert_equal(cache.read(entry).features, encode(entry.path, tiny_config, stack))


def test_equal_names_in_two_folders_are_two_images(tmp_path: Path, tiny_config: ModelConfig, stack: Any) -> None:
    entries = save_images(tmp_path, ["one/photo.png", "two/photo.png", "two/photo.jpg"])
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    assert cache.fill(entries, stack=stack).computed == 3
    for entry in entries:
        assert_equal(cache.read(entry).features, encode(entry.path, tiny_config, stack))


def test_the_same_photo_elsewhere_is_computed_once(tmp_path: Path, tiny_config: ModelConfig, stack: Any) -> None:
    (entry,) = save_images(tmp_path, ["one/photo.png"])
    moved = CacheEntry(tmp_path / "two" / "other.png")
    moved.path.parent.mkdir()
    shutil.copyfile(entry.path, moved.path)
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    cache.fill([entry, moved], stack=stack)
    streamed = CacheEntry(Path("shard-0.tar/photo.png"), data=entry.path.read_bytes())
    assert stack.seen == 1
    for other in (moved, streamed):
        assert other in cache
        assert_equal(cache.read(other).features, encode(entry.path, tiny_config, stack))


def test_a_cache_outlives_its_photos(tmp_path: Path, tiny_config: ModelConfig, stack: Any) -> None:
    (entry,) = save_images(tmp_path, ["a.png"])
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    cache.fill([entry], stack=stack)
    entry.path.unlink()
    cache.read(entry)
    with pytest.raises(DataError, match=r"nowhere\.png: cannot be read \(No such file"):
        cache.read(CacheEntry(tmp_path / "nowhere.png"))


@pytest.mark.parametrize("keep_size_and_time", [False, True])
def test_a_changed_photo_is_refused_and_computed_anew(
    tmp_path: Path, tiny_config: ModelConfig, stack: Any, keep_size_and_time: bool
) -> None:
    path = tmp_path / "a.bmp"  # as large whatever it shows
    Image.new("RGB", (64, 48), "red").save(path)
    data = path.read_bytes() if keep_size_and_time else None  # streamed data has no time: its bytes are looked at
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    cache.fill([CacheEntry(path, data=data)], stack=stack)
    Image.new("RGB", (64, 48), "blue").save(path)
    os.utime(path, ns=(0, 12345))
    changed = CacheEntry(path, data=path.read_bytes() if keep_size_and_time else None)
    for reader in (cache, FeatureCache(tmp_path / "cache", tiny_config)):
        assert changed not in reader
        with pytest.raises(DataError, match=r"a\.bmp has changed since it was cached; fill the cache first"):
            reader.read(changed)
    assert cache.fill([changed], stack=stack).computed == 1
    assert_equal(cache.read(changed).features, encode(path, tiny_config, stack))


def test_a_photo_with_a_new_time_only_is_the_same(tmp_path: Path, tiny_config: ModelConfig, stack: Any) -> None:
    (entry,) = save_images(tmp_path, ["a.png"])
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    cache.fill([entry], stack=stack)
    os.utime(entry.path)
    assert entry in FeatureCache(tmp_path / "cache", tiny_config)


@pytest.mark.parametrize("section", ["sam", "superpixels", "vision_tower"])
def test_other_settings_of_the_frozen_stages_have_another_folder(
    tmp_path: Path, tiny_config: ModelConfig, section: str
) -> None:
    changes = {"sam": {"dtype": "bfloat16"}, "superpixels": {"max_tokens": 63}, "vision_tower": {"image_size": 70}}
    part = getattr(tiny_config, section).model_copy(update=changes[section])
    other = FeatureCache(tmp_path, tiny_config.model_copy(update={section: part}))
    mine = FeatureCache(tmp_path, tiny_config)
    assert other.folder != mine.folder
    assert other.folder.parent == mine.folder.parent
    head = tiny_config.head.model_copy(update={"hidden_size": 64})
    assert FeatureCache(tmp_path, tiny_config.model_copy(update={"head": head})).folder == mine.folder


def test_other_weights_at_the_same_place_are_other_settings(tmp_path: Path, tiny_config: ModelConfig) -> None:
    path = tmp_path / "sam.pth"
    config = tiny_config.model_copy(update={"sam": SamConfig(checkpoint=str(path))})
    digests = {config_digest(config)}
    for seed in (0, 1):
        torch.save({"weight": torch.randn(600, 600, generator=torch.Generator().manual_seed(seed))}, path)
        digests.add(config_digest(config))
    assert len(digests) == 3


def test_what_is_not_there_is_named(tmp_path: Path, tiny_config: ModelConfig, stack: Any) -> None:
    cached, other = save_images(tmp_path, ["a.png", "b.png"])
    cache = FeatureCache(tmp_path / "cache", tiny_config, embeddings=False)
    cache.fill([cached], stack=stack)
    assert cache.read(cached, embeddings=False).features.image_embeddings is None
    boxed = CacheEntry(cached.path, {1: (0.0, 0.0, 9.0, 9.0)})
    resized = CacheEntry(cached.path, size=(48, 65))
    for entry, embeddings, problem in (
        (other, False, r"b\.png is not cached"),
        (cached, True, r"a\.png is cached without SAM's image embeddings"),
        (boxed, False, r"a\.png is cached for other boxes"),
        (resized, False, r"a\.png is \(48, 64\), its label says \(48, 65\)"),
    ):
        with pytest.raises(DataError, match=problem):
            cache.read(entry, embeddings=embeddings)
    with_embeddings = FeatureCache(tmp_path / "cache", tiny_config)
    assert with_embeddings.fill([cached], stack=stack).computed == 1
    assert with_embeddings.read(cached).features.image_embeddings is not None


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_bad_image_harms_no_other(tmp_path: Path, tiny_config: ModelConfig, stack: Any, skip_bad: bool) -> None:
    entries = save_images(tmp_path, ["a.png", "cut.png", "wrong.png", "b.png"])
    entries[1].path.write_bytes(entries[1].path.read_bytes()[:60])
    entries[2] = CacheEntry(entries[2].path, size=(1, 2))
    entries.append(CacheEntry(tmp_path / "gone.png"))
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    if skip_bad:
        report = cache.fill(entries, stack=stack, skip_bad=True)
        assert report.computed == 2
        problems = [problem for _, problem in report.bad]
        assert "cut.png" in problems[0]
        assert "wrong.png is (48, 64), its label says (1, 2)" in problems[1]
        assert "gone.png: cannot be read" in problems[2]
    else:
        with pytest.raises(DataError, match=r"3 of 5 images could not be cached, the first: .*cut\.png"):
            cache.fill(entries, stack=stack)
    assert [entry in cache for entry in (entries[0], entries[3])] == [True, True]


def test_an_image_that_breaks_the_models_harms_no_other(
    tmp_path: Path, tiny_config: ModelConfig, make_features: Callable[..., ImageFeatures]
) -> None:
    class Fragile(CountingStack):
        def encode_image(self, inputs: ImageInputs) -> ImageFeatures:
            features = super().encode_image(inputs)
            if self.seen == 1:
                raise RuntimeError("out of memory")
            if self.seen == 2:
                features.patch_features.fill_(1e6)
            return features

    entries = save_images(tmp_path, ["a.png", "b.png", "c.png"])
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    report = cache.fill(entries, stack=Fragile(make_features), skip_bad=True)  # type: ignore[arg-type]
    assert report.bad[0][1] == f"{entries[0].path}: RuntimeError: out of memory"
    assert report.bad[1][1] == f"{entries[1].path}: patch_features are not finite in float16"
    assert report.computed == 1


@pytest.mark.parametrize("where", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("suffix", [".safetensors", ".jsonl"])
def test_a_flipped_byte_is_found_named_and_only_its_shard_computed_anew(
    tmp_path: Path, tiny_config: ModelConfig, stack: Any, where: float, suffix: str
) -> None:
    first, second = save_images(tmp_path, ["a.png", "b.png"])
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    cache.fill([first], stack=stack)
    (path,) = cache.folder.glob(f"shard-*{suffix}")
    cache.fill([second], stack=stack)
    assert cache.verify() == {}
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)
    fresh = FeatureCache(tmp_path / "cache", tiny_config)
    problems = fresh.verify()
    assert list(problems) == [path.with_suffix(".safetensors").name]
    assert problems[path.with_suffix(".safetensors").name]
    assert (first in fresh, second in fresh) == (False, True)
    assert not path.exists(), "set aside"
    assert fresh.fill([first, second], stack=stack).computed == 1
    assert_equal(fresh.read(first).features, encode(first.path, tiny_config, stack))
    assert FeatureCache(tmp_path / "cache", tiny_config).verify() == {}


def test_a_cut_shard_counts_as_missing_at_once(
    tmp_path: Path, tiny_config: ModelConfig, stack: Any, caplog: pytest.LogCaptureFixture
) -> None:
    entries = save_images(tmp_path, ["a.png", "b.png"])
    FeatureCache(tmp_path / "cache", tiny_config).fill(entries, stack=stack)
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    (path,) = cache.folder.glob("shard-*.safetensors")
    os.truncate(path, path.stat().st_size - 1)
    assert entries[0] not in cache
    assert path.name in caplog.text
    assert "mllmseg cache verify" in caplog.text
    assert cache.fill(entries, stack=stack).computed == 2
    cache.read(entries[0])


FILLER = """
import sys, time
from pathlib import Path
import torch
from mllmseg.config import ModelConfig
from mllmseg.structures import ImageFeatures, Superpixels
from mllmseg.train.cache import CacheEntry, FeatureCache

class Slow:
    tower_input = {"tower_size": 56, "patch_size": 14}

    def encode_image(self, inputs):
        time.sleep(float(sys.argv[4]))
        side = torch.ones(1)
        box = torch.tensor([[0, 0, 256, 192]])
        superpixels = Superpixels(torch.zeros(192, 256).long(), box, torch.tensor([49152]), side)
        embeddings = inputs.tower_pixels.mean() * torch.ones(1, 256, 64, 64)
        return ImageFeatures(embeddings, superpixels, torch.ones(4, 3, 4), inputs.input_size, inputs.original_size)

cache = FeatureCache(sys.argv[1], ModelConfig.from_yaml(sys.argv[2]))
report = cache.fill([CacheEntry(path) for path in sorted(Path(sys.argv[3]).iterdir())], stack=Slow())
print(report.computed, report.present)
"""


@pytest.fixture
def filler(tmp_path: Path, tiny_config: ModelConfig) -> Callable[..., subprocess.Popen[str]]:
    """Starts a process that fills a cache below `cache` with the images of `images`."""
    tiny_config.to_yaml(tmp_path / "model.yaml")
    (tmp_path / "filler.py").write_text(FILLER)

    def start(delay: float = 0.0) -> subprocess.Popen[str]:
        arguments = ["filler.py", "cache", "model.yaml", "images", str(delay)]
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return start


def journal_lines(root: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in root.glob("*/journal-*/index.jsonl"))


def test_kill_9_loses_the_image_in_flight_only(
    tmp_path: Path, tiny_config: ModelConfig, filler: Callable[..., subprocess.Popen[str]]
) -> None:
    entries = save_images(tmp_path / "images", [f"{number}.png" for number in range(8)])
    process = filler(0.2)
    deadline = time.monotonic() + 300
    while journal_lines(tmp_path / "cache") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = journal_lines(tmp_path / "cache")
    (journal,) = (tmp_path / "cache").glob("*/journal-*")
    with (journal / "index.jsonl").open("ab") as file:  # cut off in the middle of a line, its data behind it
        file.write(b'{"name": "half a rec')
    with (journal / "label_map").open("ab") as file:
        file.write(b"\0" * 1000)
    output, errors = filler().communicate(timeout=300)
    assert output.split() == [str(8 - done), str(done)], errors
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    assert all(entry in cache for entry in entries)
    assert cache.verify() == {}
    assert not list(cache.folder.glob("journal-*"))
    assert not list(cache.folder.glob(".*")), "no temporary files or locks"


def test_an_image_whose_data_never_reached_the_disk_is_left_out(
    tmp_path: Path, tiny_config: ModelConfig, stack: Any
) -> None:
    entries = save_images(tmp_path, ["a.png", "b.png", "c.png"])
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    writer = cache_fill.Writer(cache, stack)
    for entry in entries:
        assert writer.add(entry) is None
    (journal,) = cache.folder.glob("journal-*")
    os.truncate(journal / "image_embeddings", (journal / "image_embeddings").stat().st_size - 1)
    writer.close()
    cache.index.refresh()
    assert [entry in cache for entry in entries] == [True, True, False]


def test_two_fill_at_once(
    tmp_path: Path, tiny_config: ModelConfig, filler: Callable[..., subprocess.Popen[str]]
) -> None:
    entries = save_images(tmp_path / "images", [f"{number}.png" for number in range(12)])
    fillers = [filler(0.3), filler(0.3)]
    outputs = [process.communicate(timeout=300) for process in fillers]
    assert [process.returncode for process in fillers] == [0, 0], outputs
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    assert cache.verify() == {}
    for entry in entries:
        found = cache.read(entry).features
        assert found.image_embeddings is not None
        tower = tiny_config.vision_tower
        inputs = preprocess(load_image(entry.path), tower_size=tower.image_size, patch_size=tower.patch_size)
        assert found.image_embeddings[0, 0, 0, 0] == inputs.tower_pixels.mean().half()
    computed = sum(int(output.split()[0]) for output, _ in outputs)
    assert 12 <= computed <= 24


def test_processes_of_one_launch_share_what_is_missing(
    tmp_path: Path, tiny_config: ModelConfig, stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it lies: a run had filled the first images, and every process went on from the same one."""
    entries = save_images(tmp_path, [f"{number}.png" for number in range(12)])
    cache = FeatureCache(tmp_path / "cache", tiny_config)
    cache.fill(entries[:6], stack=stack)
    orders = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        orders.append([entry.name for entry in cache_fill.Filling(cache, entries).missing()])
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(entry.name for entry in entries[6:])
    assert set(orders[0][:3]).isdisjoint(orders[1][:3])


def random_config(config: ModelConfig) -> ModelConfig:
    """Random weights: dear enough with SAM's encoder, so a process is started with few images."""
    return config.model_copy(update={"sam": SamConfig(checkpoint=None, dtype="float32")})


@pytest.mark.slow
def test_processes_share_the_work_and_one_that_dies_is_told_of(tmp_path: Path, tiny_config: ModelConfig) -> None:
    config = random_config(tiny_config)
    entries = save_images(tmp_path, ["a.png", "b.png", "c.png"])
    entries[1].path.write_bytes(b"no image")
    cache = FeatureCache(tmp_path / "cache", config)
    report = cache.fill(entries, workers=2, skip_bad=True)
    assert (report.computed, len(report.bad)) == (2, 1)
    assert [entry in cache for entry in entries] == [True, False, True]
    assert not list(cache.folder.glob("journal-*"))


@pytest.fixture(scope="module")
def real_config(tiny_config: ModelConfig) -> ModelConfig:
    weights.fetch("mobile_sam")
    return tiny_config.model_copy(update={"sam": SamConfig(dtype="float32")})


@pytest.fixture(scope="module")
def real_stack(real_config: ModelConfig) -> VisionStack:
    return build_vision_stack(real_config)


@pytest.mark.weights
def test_a_mask_estimated_from_a_box_fills_the_box(
    tmp_path: Path, real_config: ModelConfig, real_stack: VisionStack
) -> None:
    path = tmp_path / "coffee.jpg"
    image = load_image(EXAMPLES / "coffee.jpg")
    image.resize((WIDTH, round(image.height * WIDTH / image.width))).save(path)
    entry = CacheEntry(path, {CUP: CUP_BOX, SPECK: (5.0, 5.0, 3.0, 3.0)})
    cache = FeatureCache(tmp_path / "cache", real_config)
    cache.fill([entry], stack=real_stack)
    cached = cache.read(entry)
    assert_equal(cached.features, encode(path, real_config, real_stack))
    assert len(cached.features.superpixels) > 1
    assert cached.estimated.keys() == {CUP}, "a box of nine pixels is not worth a mask"
    mask = cached.estimated[CUP]
    assert mask.dtype == torch.bool
    assert mask.shape == cached.features.superpixels.label_map.shape
    scale = mask.shape[1] / WIDTH
    x, y, width, height = (round(value * scale) for value in CUP_BOX)
    inside = mask[y : y + height, x : x + width].sum()
    assert inside / mask.sum() > 0.85
    assert 0.5 < inside / (width * height) < 0.95, "a cup is round"
    assert cache.read(CacheEntry(path)).estimated == {}, "who asks for no boxes gets none"
