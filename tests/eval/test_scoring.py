"""Predictions against their targets: what is counted, and what others' files get wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllmseg.data.referring import UnknownTargetError
from mllmseg.errors import ConfigError, DataError
from mllmseg.eval.manifest import Shard, images_of
from mllmseg.eval.scoring import find_scorers, plain_scores, read_answers, score_answers
from mllmseg.models.postprocess import encode_rle


def lines_of(dataset: Any) -> list[dict[str, Any]]:
    """Everything accepted but "the cat"; painted are the left two columns."""
    mask = np.zeros((6, 8), dtype=bool)
    mask[:, :2] = True
    return [
        {"id": query.id, "image": query.image, "text": query.text, "exists": "cat" not in query.text, "score": 0.5}
        | {"rle": None if "cat" in query.text else encode_rle(mask), "method": "theirs"}
        for query in dataset.queries
    ]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_counts_by_hand(made_up: Any, tmp_path: Path) -> None:
    answers = read_answers(made_up, [write(tmp_path / "p.jsonl", lines_of(made_up))])
    samples = list(answers.samples.values())
    assert list(answers.samples) == [query.id for query in made_up.queries]
    assert [(s.intersection, s.union, s.predicted) for s in samples] == [
        (12, 18, 12) if has_target else (0, 12, 12) if exists else (0, 0, 0)
        for has_target, exists in ((q.has_target, "cat" not in q.text) for q in made_up.queries)
    ]
    assert samples[3].image == "sub/c.png"
    assert samples[3].ref == made_up.queries[3].ref
    assert [s.index for s in samples] == list(range(7))
    scores = plain_scores(score_answers(answers, ["gres", "classic"]))
    assert scores["gres"]["gIoU"] == pytest.approx((5 * 2 / 3 + 1) / 7)
    assert scores["gres"]["N-acc"] == 0.5
    assert (answers.num_missing, answers.num_unknown) == (0, 0)


def test_shards_and_another_order_score_the_same(made_up: Any, tmp_path: Path) -> None:
    lines = lines_of(made_up)
    whole = read_answers(made_up, [write(tmp_path / "p", lines[::-1])])
    paths = []
    for index in (1, 0, 2):
        places = [place for item in images_of(made_up.queries, Shard(index, 3)).values() for place in item]
        paths.append(write(tmp_path / str(index), [lines[place] for place in places]))
    sharded = read_answers(made_up, paths)
    assert sharded == whole
    assert list(sharded.samples) == list(whole.samples)
    every = json.dumps(plain_scores(score_answers(whole)))
    assert json.dumps(plain_scores(score_answers(sharded))) == every
    assert "NaN" not in every


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "refcoco/1/0"}, r"p\.jsonl: line 2: query 'refcoco/1/0' is not in made-up val, whose ids look like"),
        ({"id": "made-up/0/0"}, r"p\.jsonl: line 2: query 'made-up/0/0' has a prediction already"),
        ({"text": "the bull"}, r"p\.jsonl: line 2: query 'made-up/0/1' asks 'the dog', the line says 'the bull'"),
        ({"rle": encode_rle(np.ones((8, 6)))}, r"p\.jsonl: line 2: query 'made-up/0/1' has a mask of .* 8 x 6, its"),
        ({"rle": {"size": [6, 8], "counts": "5"}}, r"p\.jsonl: line 2: query 'made-up/0/1': not a COCO run-length"),
    ],
)
def test_what_does_not_fit_is_named(made_up: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    lines = lines_of(made_up)
    lines[1] |= change
    with pytest.raises(DataError, match=message):
        read_answers(made_up, [write(tmp_path / "p.jsonl", lines)])


def test_missing_predictions(made_up: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", lines_of(made_up)[2:])
    with pytest.raises(DataError, match="2 of the 7 queries of made-up val have no prediction, the first is 'made"):
        read_answers(made_up, [path])
    answers = read_answers(made_up, [path], partial=True)
    assert (len(answers.samples), answers.num_missing) == (5, 2)
    with pytest.raises(DataError, match="none of the 7 queries"):
        read_answers(made_up, [write(tmp_path / "empty", [])], partial=True)


def test_queries_without_ground_truth_are_left_out_and_counted(
    made_up: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.queries[0] = dataclasses.replace(made_up.queries[0], has_target=None)
    known = made_up.target

    def target(query: Any) -> Any:
        if query is made_up.queries[1]:
            raise UnknownTargetError("only a box")
        return known(query)

    monkeypatch.setattr(made_up, "target", target)
    answers = read_answers(made_up, [write(tmp_path / "p.jsonl", lines_of(made_up))])
    assert (len(answers.samples), answers.num_unknown, answers.num_missing) == (5, 2, 0)


def test_the_data_hash_is_of_the_data(made_up: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "p.jsonl", lines_of(made_up))
    before = read_answers(made_up, [path]).data_sha256
    made_up.source = "elsewhere"
    assert read_answers(made_up, [path]).data_sha256 == before
    monkeypatch.setattr(made_up, "target", lambda query: np.ones((6, 8), dtype=np.uint8))
    assert read_answers(made_up, [path]).data_sha256 != before


def test_void_pixels_count_nowhere(made_up: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = np.zeros((6, 8), dtype=np.uint8)
    target[:, 0], target[:, 1] = 1, 255
    monkeypatch.setattr(made_up, "target", lambda query: target)
    sample = read_answers(made_up, [write(tmp_path / "p", lines_of(made_up))]).samples["made-up/0/0"]
    assert (sample.intersection, sample.union, sample.predicted) == (6, 6, 6)


def test_scorers_by_name() -> None:
    assert list(find_scorers(["lisa", "gres"])) == ["lisa", "gres"]
    assert {"classic", "lisa", "gres", "gsva", "rris", "sesame", "riscq", "calibration"} <= set(find_scorers())
    with pytest.raises(ConfigError, match="unknown scorer 'liza': did you mean 'lisa'"):
        find_scorers(["liza"])
