"""What a file of predictions rests on, and which images a shard holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllmseg.data.referring import Query
from mllmseg.errors import ConfigError, DataError
from mllmseg.eval.manifest import Manifest, Shard, describe, hash_queries, images_of, manifest_path, read_manifest, runs

MADE_BY: dict[str, Any] = {
    "mode": "scored",
    "threshold": 0.5,
    "checkpoint": "tiny",
    "weights_sha256": "abc",
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
}


@pytest.mark.parametrize("text", ["2/2", "3/2", "1", "1/", "/2", "a/b", "-1/2", "1/2/3", "", "1.0/2"])
def test_a_shard_counts_from_zero(text: str) -> None:
    assert Shard.parse("2/3") == Shard(2, 3)
    assert Shard.parse("0/1") == Shard()
    with pytest.raises(ConfigError, match="i from 0 to n"):
        Shard.parse(text)


@settings(deadline=None, derandomize=True)
@given(images=st.lists(st.sampled_from("abcdefg"), max_size=20), count=st.integers(1, 9))
def test_shards_split_by_image(images: list[str], count: int) -> None:
    queries = [Query(str(index), image, "x", "", None) for index, image in enumerate(images)]
    shards = [images_of(queries, Shard(index, count)) for index in range(count)]
    places = [place for shard in shards for item in shard.values() for place in item]
    assert sorted(places) == list(range(len(images))), "every query once"
    assert sum(len(shard) for shard in shards) == len(set(images)), "no image twice"
    assert max(map(len, shards)) - min(map(len, shards)) <= 1, "even"
    for shard in shards:
        held = sorted(place for item in shard.values() for place in item)
        assert [p for first, length in runs(held) for p in range(first, first + length)] == held


def test_runs_are_short() -> None:
    assert runs([0, 1, 2, 5, 7, 8]) == ((0, 3), (5, 1), (7, 2))
    assert runs([]) == ()


def test_it_is_read_back(made_up: Any, tmp_path: Path) -> None:
    manifest = describe(made_up, Shard(0, 2), **MADE_BY)
    assert manifest.positions == [0, 2, 3, 5]  # a.png and sub/c.png
    assert not manifest.complete
    manifest.finished().save(tmp_path / "p.jsonl")
    assert read_manifest(tmp_path / "p.jsonl") == dataclasses.replace(manifest, complete=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["p.jsonl.meta.json"]


@pytest.mark.parametrize(
    ("key", "value"), [("mode", "free"), ("threshold", 0.4), ("weights_sha256", "x"), ("dataset", "y"), ("dtype", "z")]
)
def test_another_run_is_told_apart(made_up: Any, key: str, value: object) -> None:
    manifest = describe(made_up, Shard(), **MADE_BY)
    manifest.check_same(dataclasses.replace(manifest, version="9", revision="other", shard="1/2"), Path("p.jsonl"))
    with pytest.raises(DataError, match=rf"p\.jsonl\.meta\.json: made by another run: {key} is '?{value}'?, not"):
        manifest.check_same(dataclasses.replace(manifest, **{key: value}), Path("p.jsonl"))


def test_the_order_and_words_of_queries_count(made_up: Any) -> None:
    queries = list(made_up.queries)
    changed = [dataclasses.replace(queries[0], text="the dogs"), *queries[1:]]
    assert len({hash_queries(q) for q in (queries, queries[::-1], queries[1:], changed)}) == 4


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"lines": 3}', '{"lines": [[0, 1]], "dataset": "x"}'])
def test_damage_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.jsonl"
    with pytest.raises(DataError, match=r"no such file, so nobody knows what made p\.jsonl"):
        read_manifest(path)
    manifest_path(path).write_text(content)
    with pytest.raises(DataError, match=r"p\.jsonl\.meta\.json: damaged"):
        read_manifest(path)


def test_a_later_versions_manifest_is_read(made_up: Any, tmp_path: Path) -> None:
    manifest = describe(made_up, Shard(), **MADE_BY)
    manifest.save(tmp_path / "p")
    path = manifest_path(tmp_path / "p")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1}))
    assert isinstance(read_manifest(tmp_path / "p"), Manifest)
