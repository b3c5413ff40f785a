"""Whole, interrupted, sharded: the same bytes. The answers are a stand-in's; the real model is in tests/integration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllmseg.errors import AlignmentError, DataError
from mllmseg.eval.manifest import Manifest, Shard, describe, manifest_path, read_manifest
from mllmseg.eval.prediction_run import (
    check_queries,
    claim,
    merge_predictions,
    predict,
    remove_shards,
    shard_path,
    wait_for_shards,
)

MADE_BY: dict[str, Any] = {
    "mode": "scored",
    "threshold": 0.5,
    "checkpoint": "tiny",
    "weights_sha256": "abc",
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
}


def run(dataset: Any, answerer: Any, out: Path, shard: Shard | None = None, *, resume: bool = False) -> Manifest:
    manifest = describe(dataset, shard or Shard(), **MADE_BY)
    if claim(out, manifest, resume=resume):
        predict(dataset, answerer, out, manifest)
    return read_manifest(out)


@pytest.fixture
def whole(made_up: Any, fake: Any, tmp_path: Path) -> Path:
    run(made_up, fake(), tmp_path / "whole.jsonl")
    return tmp_path / "whole.jsonl"


def test_a_line_a_query_in_order(made_up: Any, fake: Any, tmp_path: Path) -> None:
    answerer = fake()
    manifest = run(made_up, answerer, tmp_path / "p.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["id"], line["image"], line["text"]) for line in lines] == [
        (query.id, query.image, query.text) for query in made_up.queries
    ]
    assert [name for name, _ in answerer.asked] == ["a.png", "b.png", "c.png", "d.png"], "each image once"
    assert answerer.asked[0][1] == ["the dog", "the cat", "both dogs"]
    assert {line["mode"] for line in lines} == {"scored"}
    for line in lines:
        assert line["exists"] == (line["rle"] is not None) == (line["box"] is not None)
    assert any(line["exists"] for line in lines)
    assert not all(line["exists"] for line in lines)
    assert manifest.complete
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "p.jsonl", "p.jsonl.meta.json"]


@pytest.mark.parametrize("stops", [[0], [1], [2], [3], [1, 1], [1, 2]], ids=str)
def test_interrupted_runs_go_on(made_up: Any, fake: Any, tmp_path: Path, whole: Path, stops: list[int]) -> None:
    out = tmp_path / "p.jsonl"
    computed = 0
    for patience in stops:
        answerer = fake(patience)
        with pytest.raises(KeyboardInterrupt):
            run(made_up, answerer, out, resume=True)
        computed += len(answerer.asked)
        assert not read_manifest(out).complete
    answerer = fake()
    run(made_up, answerer, out, resume=True)
    assert out.read_bytes() == whole.read_bytes()
    assert computed + len(answerer.asked) == 4, "nothing is computed twice"
    again = fake()
    assert run(made_up, again, out, resume=True).complete
    assert again.asked == []


def test_an_image_half_done_is_asked_all_its_sentences(made_up: Any, fake: Any, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "p.jsonl"
    run(made_up, fake(), out)
    out.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:2]))
    manifest = read_manifest(out)
    dataclasses.replace(manifest, complete=False).save(out)
    answerer = fake()
    run(made_up, answerer, out, resume=True)
    assert answerer.asked[0] == ("a.png", ["the dog", "the cat", "both dogs"])
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_merged_shards_are_the_whole(made_up: Any, fake: Any, tmp_path: Path, whole: Path, count: int) -> None:
    shards = [Shard(index, count) for index in reversed(range(count))]
    paths = [shard_path(tmp_path / "p.jsonl", shard) for shard in shards]
    for path, shard in zip(paths, shards, strict=True):
        run(made_up, fake(), path, shard)
    merged = merge_predictions(tmp_path / "p.jsonl", paths)
    assert (tmp_path / "p.jsonl").read_bytes() == whole.read_bytes()
    assert merged == read_manifest(tmp_path / "p.jsonl") == read_manifest(whole)
    remove_shards(paths)
    left = {path.name for path in tmp_path.iterdir()} - {"images"}
    assert left == {f"{name}.jsonl{kind}" for name in ("p", "whole") for kind in ("", ".meta.json")}


def test_what_cannot_be_merged(made_up: Any, fake: Any, tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("1", "2", "3"))
    for path, shard in ((first, Shard(0, 2)), (second, Shard(1, 2)), (other, Shard(0, 2))):
        run(made_up, fake(), path, shard)
    for paths, message in (
        ([first], "shards 0/2 hold 4 lines, 4 different ones, of 7"),
        ([first, first], "hold 8 lines, 4 different ones, of 7"),
        ([first, tmp_path / "no"], "no.meta.json: no such file"),
    ):
        with pytest.raises(DataError, match=message):
            merge_predictions(tmp_path / "out", paths)
    dataclasses.replace(read_manifest(other), mode="free").save(other)
    with pytest.raises(DataError, match=r"3\.meta\.json: made by another run: mode is 'free', not 'scored'"):
        merge_predictions(tmp_path / "out", [second, other])
    content = second.read_bytes()
    second.write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(DataError, match="2: 2 lines, but shard 1/2 has 3"):
        merge_predictions(tmp_path / "out", [first, second])
    second.write_bytes(content * 2)
    with pytest.raises(DataError, match="one line more than the 3"):
        merge_predictions(tmp_path / "out", [first, second])
    assert not list(tmp_path.glob("*out*")), "whole or not at all"
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="out: exists"):
        merge_predictions(tmp_path / "out", [first, second])


def test_unfinished_shards_are_not_merged(made_up: Any, fake: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(made_up, fake(1), tmp_path / "1")
    with pytest.raises(DataError, match="1: shard 0/1 is not finished"):
        merge_predictions(tmp_path / "out", [tmp_path / "1"])


def test_an_existing_file_is_refused(made_up: Any, fake: Any, tmp_path: Path, whole: Path) -> None:
    with pytest.raises(DataError, match=r"whole\.jsonl: exists; go on with it by --resume"):
        run(made_up, fake(), whole)
    manifest = describe(made_up, Shard(), **MADE_BY | {"mode": "free"})
    with pytest.raises(DataError, match="mode is 'scored', not 'free'"):
        claim(whole, manifest, resume=True)
    with pytest.raises(DataError, match="shard is 0/1, not 1/2"):
        run(made_up, fake(), whole, Shard(1, 2), resume=True)
    (tmp_path / "theirs.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"theirs\.jsonl\.meta\.json: no such file, so nobody knows what made"):
        run(made_up, fake(), tmp_path / "theirs.jsonl", resume=True)
    with pytest.raises(DataError, match="is a folder"):
        run(made_up, fake(), tmp_path)


def test_a_removed_file_starts_anew(made_up: Any, fake: Any, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(made_up, fake(1), out)
    assert (tmp_path / "p.jsonl.ahead").is_file()
    out.unlink()
    answerer = fake()
    run(made_up, answerer, out)
    assert len(answerer.asked) == 4
    assert out.read_bytes() == whole.read_bytes()


def test_other_data_is_refused(made_up: Any, make_dataset: Callable[..., Any], fake: Any, whole: Path) -> None:
    other = make_dataset([("a.png", "something else", True)])
    with pytest.raises(DataError, match="queries_sha256 is"):
        run(other, fake(), whole, resume=True)
    assert made_up.queries


def test_what_would_stop_a_run_is_found_at_once(make_dataset: Callable[..., Any], tmp_path: Path) -> None:
    dataset = make_dataset([("a.png", "the dog", True), ("b.png", " ", True)])
    with pytest.raises(DataError, match=r"made-up\.json: query 'made-up/0/1': the question is empty"):
        check_queries(dataset, Shard())
    check_queries(dataset, Shard(0, 2))  # what other processes ask is theirs to check
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no such image"):
        check_queries(dataset, Shard())
    dataset.queries[1] = dataset.queries[0]
    with pytest.raises(DataError, match="two queries have the id 'made-up/0/0'"):
        check_queries(dataset, Shard())


@pytest.mark.parametrize("change", [-1, 1])
def test_too_few_or_many_answers(made_up: Any, fake: Any, tmp_path: Path, change: int) -> None:
    class Odd(fake):
        def answer(self, image: Path, texts: Any) -> Any:
            return super().answer(image, texts[:-1] if change < 0 else [*texts, "more"])

    with pytest.raises(AlignmentError, match=rf"a\.png: 3 sentences, {3 + change} answers"):
        run(made_up, Odd(), tmp_path / "p.jsonl")


def test_waiting_ends(made_up: Any, fake: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(made_up, fake(1), path)
    with pytest.raises(DataError, match=r"p\.jsonl: nothing written for 0 s"):
        wait_for_shards([path], patience=0)
    run(made_up, fake(), path, resume=True)
    wait_for_shards([path], patience=0)
    assert manifest_path(path).is_file()
