"""Opening datasets by name; what every dataset keeps to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmseg.data.referring import ReferringDataset, UnknownTargetError, known_datasets, open_dataset
from mllmseg.errors import ConfigError, DataError

NAMES = list(known_datasets())
# What the miniature's default split holds: sentences, of these with a target, referents.
EXPECTED = {
    "refcoco": (8, 8, 6), "refcoco+": (8, 8, 6), "refcocog-umd": (8, 8, 6), "refcocog-google": (8, 8, 6),
    "refclef": (1, 1, 1), "grefcoco": (8, 4, 6), "rrefcoco": (12, 6, 4), "rrefcoco+": (12, 6, 4),
    "rrefcocog": (12, 6, 4), "fprefcoco": (4, 2, 2), "fprefcoco+": (4, 2, 2), "fprefcocog": (4, 2, 2),
    "refzom": (3, 2, 3), "reasonseg": (2, 2, 2), "riscq": (3, 3, 3), "talk2car-regseg": (2, 2, 2),
    "coco-mini": (4, 3, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_miniature: Callable[[str, Path], None]) -> Path:
    """One folder with all datasets, as researchers have it."""
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        write_miniature(name, folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_keeps_the_interface(root: Path, name: str) -> None:
    dataset: ReferringDataset = open_dataset(name, data_root=root)
    assert (dataset.name, dataset.split) == (name, known_datasets().get(name).default_split)
    assert str(root) in dataset.source
    queries = dataset.queries
    counts = (len(queries), sum(query.has_target is True for query in queries), len({query.ref for query in queries}))
    assert counts == EXPECTED[name]
    assert len({query.id for query in queries}) == len(queries)
    for query in queries:
        assert query.id.startswith(f"{query.ref}/")
        assert query.id.startswith(f"{name}/")
        assert query.id.count("/") == 2
        path = dataset.image_path(query)
        assert path.as_posix().endswith(query.image)
        with Image.open(path) as image:
            try:
                target = dataset.target(query)
            except UnknownTargetError:
                continue
            assert target.shape == (image.height, image.width)
        assert target.dtype == np.uint8
        assert set(np.unique(target)) <= {0, 1, 255}
        assert (target == 1).any() == query.has_target


@pytest.mark.parametrize("name", NAMES)
def test_every_published_split_opens(root: Path, name: str) -> None:
    splits = [split for split in known_datasets().get(name).splits if (name, split) != ("refclef", "testB")]
    for split in splits:
        if name == "refclef" and split == "testC":
            continue
        assert open_dataset(f"{name}:{split}", data_root=root).queries


def test_splits_share_no_id(root: Path) -> None:
    ids = [query.id for split in ("train", "val") for query in open_dataset(f"refcoco:{split}", data_root=root).queries]
    assert len(set(ids)) == len(ids)


def test_errors_say_what_to_do(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown dataset 'refcocog': did you mean 'r?refcocog"):
        open_dataset("refcocog", data_root=root)
    with pytest.raises(DataError, match="no split 'testC': did you mean 'test"):
        open_dataset("refcoco:testC", data_root=root)
    with pytest.raises(DataError, match="--data-root"):
        open_dataset("refcoco", data_root=None)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_dataset("refcoco", data_root=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"looked for refcoco/refs\(unc\)\.p .*; put refs\(unc\)\.p and instances"):
        open_dataset("refcoco", data_root=tmp_path)
    with pytest.raises(DataError, match="jsonl:FILE"):
        open_dataset("jsonl", data_root=root)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_image_is_named(tmp_path: Path, name: str, write_miniature: Callable[[str, Path], None]) -> None:
    write_miniature(name, tmp_path)
    for path in [*tmp_path.rglob("*.jpg"), *tmp_path.rglob("*.webp")]:
        path.unlink()
    dataset = open_dataset(name, data_root=tmp_path)
    query = dataset.queries[0]
    with pytest.raises(DataError) as caught:
        dataset.image_path(query)
    assert query.image in str(caught.value)
    assert query.id in str(caught.value)
