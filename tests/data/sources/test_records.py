"""Own lines, conversations and captions: what they say, what is wrong with them, what each stage reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mllmseg.constants import REJ_TOKEN, SEG_TOKEN
from mllmseg.data.training import CAPTION_QUESTIONS, BadSamples, Sample, TrainingSource
from mllmseg.errors import ConfigError, DataError
from mllmseg.structures import Turn

Open = Callable[..., TrainingSource]
Draw = Callable[..., Sample]
Half = Callable[[str], torch.Tensor]

TALK = [
    {"from": "human", "value": "<image>\nWhat is red?"},
    {"from": "gpt", "value": "A block."},
    {"from": "human", "value": "And blue?"},
    {"from": "gpt", "value": "Another one."},
]


def write(path: Path, records: list[Any]) -> Path:
    lines = records if path.suffix == ".jsonl" else [records]
    path.write_text("".join(json.dumps(record) + "\n" for record in lines))
    return path


@pytest.fixture
def own(tmp_path: Path, write_miniature: Callable[[str, Path], None]) -> Path:
    """The miniature of own lines: two of its six say nothing about a target."""
    write_miniature("jsonl", tmp_path)
    return tmp_path / "data.jsonl"


def test_own_lines(own: Path, open_: Open, draw: Draw, half: Half, bad: BadSamples) -> None:
    source = open_(f"jsonl:{own}", root=str(own.parent / "images"))
    assert [image.path.relative_to(own.parent / "images").as_posix() for image in source.images] == [
        "one.jpg", "more/two.png",
    ]  # fmt: skip
    assert all(image.path.is_file() for image in source.images)
    assert {name.rpartition(": ")[2] for name in bad.found} == {"line 5", "line 6"}
    assert all("what the sentence means" in problem for problem in bad.found.values())
    sample = draw(source)
    texts = [turn.answer.partition("“")[2].partition("”")[0] for (turn,) in sample.branches]
    assert sorted(texts) == ["a zebra", "all", "red"]
    expected = {"red": half("left"), "all": half("left") | half("right") | half("small")}
    found = iter(sample.masks)
    for text, exists in zip(texts, sample.exists, strict=True):
        assert exists == (text in expected)
        assert not exists or next(found).equal(expected[text])
    rejected = draw(source, 1)
    assert rejected.exists == (False,)
    assert rejected.masks.shape == (0, *half("left").shape)
    with pytest.raises(DataError, match=r"line 5: .*what the sentence means.*on_bad_sample=skip"):
        open_(f"jsonl:{own}", bad=BadSamples(skip=False))


def test_an_answer_of_ones_own_follows_the_decision(tmp_path: Path, open_: Open, draw: Draw, miniatures: Any) -> None:
    line = {"image": "a.jpg", "text": "why?", "masks": [[miniatures.polygon("left")]], "answer": "Because it is red."}
    path = write(
        tmp_path / "own.jsonl", [line, {"image": "a.jpg", "text": "who?", "exists": False, "answer": "No one."}]
    )
    answers = {turn.question: turn.answer for (turn,) in draw(open_(f"jsonl:{path}")).branches}
    assert answers == {"why?": f"{SEG_TOKEN} Because it is red.", "who?": f"{REJ_TOKEN} No one."}


def test_conversations(tmp_path: Path, open_: Open, draw: Draw) -> None:
    """LLaVA's list; all conversations about an image are branches of one sample."""
    other = [{"from": "human", "value": "Count them.\n<image>"}, {"from": "gpt", "value": "Three."}]
    records = [
        {"id": "1", "image": "coco/a.jpg", "conversations": TALK},
        {"id": "2", "image": "b.jpg", "conversations": other},
        {"id": "3", "image": "coco/a.jpg", "conversations": other},
    ]
    source = open_(f"vqa:{write(tmp_path / 'llava.json', records)}")
    assert source.stages == {"align", "instruct"}
    assert [image.path for image in source.images] == [tmp_path / "coco/a.jpg", tmp_path / "b.jpg"]
    for stage in ("align", "instruct"):
        sample = draw(source, stage=stage)
        assert set(sample.branches) == {
            (Turn("What is red?", "A block."), Turn("And blue?", "Another one.")),
            (Turn("Count them.", "Three."),),
        }
        assert (sample.exists, len(sample.masks)) == ((), 0)
    assert len(draw(source, queries=1).branches) == 1


@pytest.mark.parametrize("kind", ["one a line", "a list a line", "COCO's"])
def test_captions(kind: str, tmp_path: Path, open_: Open, draw: Draw) -> None:
    texts = ["Three blocks.", "Blocks on green."]
    if kind == "COCO's":
        path = tmp_path / "captions.json"
        annotations = [{"id": number, "image_id": 7, "caption": text} for number, text in enumerate(texts)]
        path.write_text(json.dumps({"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": annotations}))
    else:
        records = [{"image": "a.jpg", "caption": text} for text in texts]
        path = write(tmp_path / "c.jsonl", records if kind == "one a line" else [records[0] | {"caption": texts}])
    source = open_(f"captions:{path}")
    assert source.stages == {"align", "instruct"}
    assert len(source.images) == 1
    sample = draw(source, captions=5)
    assert {turn.answer for (turn,) in sample.branches} == set(texts)
    assert {turn.question for (turn,) in sample.branches} <= set(CAPTION_QUESTIONS)
    assert len(draw(source, captions=1).branches) == 1


GOOD = {"image": "a.jpg", "conversations": TALK}


@pytest.mark.parametrize(
    ("kind", "record", "problem"),
    [
        ("vqa", {"conversations": TALK}, "'image' must be a text"),
        ("vqa", GOOD | {"conversations": TALK[:3]}, "questions and answers in turns"),
        ("vqa", GOOD | {"conversations": TALK[1:3]}, "message 0 must be from human"),
        ("vqa", GOOD | {"conversations": [TALK[0], TALK[1] | {"value": " "}]}, "message 1 must be a text"),
        ("vqa", GOOD | {"conversations": [TALK[0], TALK[1] | {"value": "[SEG]"}]}, r"holds \[SEG\]"),
        ("vqa", GOOD | {"conversations": [TALK[2] | {"value": "<image> <image>"}, TALK[1]]}, "another image"),
        ("vqa", {"image": "a.jpg", "caption": "x"}, "this is a caption, not a conversation"),
        ("captions", {"image": "a.jpg", "caption": []}, "'caption' must be"),
        ("captions", {"image": "a.jpg", "caption": [""]}, "the caption must be a text"),
        ("captions", {"image": "a.jpg", "text": "x"}, "this is a line, not a caption"),
        ("jsonl", {"image": "a.jpg", "text": "[REJ]", "masks": []}, r"holds \[REJ\]"),
        ("jsonl", {"image": "a.jpg", "text": "a", "mask": []}, "did you mean 'masks'"),
        ("jsonl", {"image": "a.jpg", "text": "a", "masks": [], "answer": 5}, "'answer' must be a text"),
        ("jsonl", ["a.jpg"], "expected an object"),
    ],
)
def test_bad_records_are_left_out_by_name_or_fatal(
    kind: str, record: Any, problem: str, tmp_path: Path, open_: Open, bad: BadSamples
) -> None:
    good = {"vqa": GOOD, "captions": {"image": "a.jpg", "caption": "x"}}.get(
        kind, {"image": "a.jpg", "text": "x", "masks": []}
    )
    path = write(tmp_path / "records.jsonl", [good, record])
    assert len(open_(f"{kind}:{path}").images) == 1
    assert list(bad.found) == [f"{path}: line 2"]
    with pytest.raises(DataError, match=rf"line 2: .*{problem}"):
        open_(f"{kind}:{path}", bad=BadSamples(skip=False))


def test_labels_that_cannot_be_drawn_are_found_at_the_visit(
    tmp_path: Path, open_: Open, draw: Draw, bad: BadSamples, miniatures: Any
) -> None:
    lines = [
        {"image": "a.jpg", "text": "nothing", "masks": [[[1, 1, 2, 2]]]},
        {"image": "a.jpg", "text": "red", "masks": [[miniatures.polygon("left")]]},
        {"image": "b.jpg", "text": "lost", "masks": ["lost.png"]},
    ]
    path = write(tmp_path / "own.jsonl", lines)
    source = open_(f"jsonl:{path}")
    assert draw(source).exists == (True,)
    with pytest.raises(DataError, match="nothing that is said about it can be used"):
        draw(source, 1)
    assert {name.rpartition(": ")[2]: problem for name, problem in bad.found.items()} == {
        "line 1": "the target has no pixel",
        "line 3": f"{tmp_path / 'lost.png'}: no such file",
    }
    assert bad.report().startswith("2 bad samples were left out: ")


def test_files_that_are_none(tmp_path: Path, open_: Open) -> None:
    with pytest.raises(ConfigError, match="'vqa' needs a file, as in vqa:FILE"):
        open_("vqa")
    with pytest.raises(DataError, match=r"none.jsonl: no such file"):
        open_(f"jsonl:{tmp_path / 'none.jsonl'}")
    (tmp_path / "c.json").write_text('{"images": []}')
    with pytest.raises(DataError, match=r"c.json: not COCO's captions"):
        open_(f"captions:{tmp_path / 'c.json'}")
    (tmp_path / "c.json").write_text("3")
    with pytest.raises(DataError, match=r"c.json: expected a list of records"):
        open_(f"captions:{tmp_path / 'c.json'}")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no image is left"):
        open_(f"jsonl:{tmp_path / 'empty.jsonl'}")


def test_at_most_so_many_photos(own: Path, open_: Open) -> None:
    assert len(open_(f"jsonl:{own}", photos=1).images) == 1


def test_a_bad_sample_is_named_once() -> None:
    bad = BadSamples(skip=False)
    with pytest.raises(DataError) as first:
        bad.add("own.jsonl: line 1", DataError("own.jsonl: line 1: mask of size 3"))
    with pytest.raises(DataError) as again:
        bad.add("own.jsonl: line 1", first.value)
    assert str(again.value) == str(first.value)
    assert str(first.value).count("line 1") == str(first.value).count("on_bad_sample") == 1
