"""Every referring dataset as training data: all sentences of an image in one sample, each with its own target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mllmseg.constants import REJ_TOKEN, SEG_TOKEN
from mllmseg.data.referring import open_dataset
from mllmseg.data.training import BadSamples, Sample, TrainingSource, View
from mllmseg.errors import ConfigError, DataError

Open = Callable[..., TrainingSource]
Draw = Callable[..., Sample]
Half = Callable[[str], torch.Tensor]

SETS = [
    "refcoco:train", "refcoco+:train", "refcocog-umd:train", "refcocog-google:train", "refclef:train",
    "grefcoco:train", "rrefcoco:train", "fprefcoco:train", "refzom:train", "reasonseg:train", "riscq:clean",
    "talk2car-regseg:train",
]  # fmt: skip


def asked(sample: Sample) -> dict[str, str]:
    """Question without what may stand around it → answer."""
    found = {}
    for (turn,) in sample.branches:
        text = turn.question
        for before in ("Segment ", "Find ", "Point at ", "Show me ", "Please mark "):
            text = text.removeprefix(before)
        found[text.removesuffix(", please.").removesuffix(".") if text != turn.question else text] = turn.answer
    return found


@pytest.mark.parametrize("name", SETS)
def test_a_sample_holds_every_sentence_about_its_image(
    name: str, tmp_path: Path, write_miniature: Callable[[str, Path], None], open_: Open, draw: Draw
) -> None:
    write_miniature(name.partition(":")[0], tmp_path)
    source, dataset = open_(name), open_dataset(name, data_root=tmp_path)
    assert source.stages == {"instruct", "point", "refine"}
    assert [image.path.name for image in source.images] == list(
        dict.fromkeys(Path(query.image).name for query in dataset.queries)
    )
    for image in source.images:
        assert image.path.is_file()
        queries = [query for query in dataset.queries if image.id == f"{name}/{query.image}"]
        drawable = [query for query in queries if not query.has_target or (dataset.target(query) == 1).any()]
        sample = draw(source, image.index, queries=99)
        assert len(sample.branches) == len(sample.exists) == len(drawable)
        assert sorted(sample.exists) == sorted(bool(query.has_target) for query in drawable)
        assert len(sample.masks) == sum(sample.exists)
        assert sample.masks.flatten(1).any(1).all()
        for (turn,), exists in zip(sample.branches, sample.exists, strict=True):
            assert turn.answer.startswith(SEG_TOKEN if exists else REJ_TOKEN)
        assert len(draw(source, image.index, queries=1).branches) == 1


def test_each_sentence_has_its_own_target(
    tmp_path: Path, write_miniature: Callable[[str, Path], None], open_: Open, draw: Draw, half: Half
) -> None:
    write_miniature("grefcoco", tmp_path)
    source = open_("grefcoco:train")
    expected = {
        "blue": half("right"),
        "blue and yellow": half("right") | half("small"),
        "the zebra": None,
        "a green dog": None,
    }
    for seed in range(10):
        sample = draw(source, seed=seed)
        masks = iter(sample.masks)
        answers = asked(sample)
        assert answers.keys() == expected.keys()
        for text, exists in zip(answers, sample.exists, strict=True):
            target = expected[text]
            assert exists == (target is not None)
            assert target is None or next(masks).equal(target)
            assert text in answers[text]


def test_void_is_no_target(
    tmp_path: Path, write_miniature: Callable[[str, Path], None], open_: Open, draw: Draw, half: Half
) -> None:
    write_miniature("reasonseg", tmp_path)
    sample = draw(open_("reasonseg:train"))
    assert len(sample.masks) == 2
    assert all(mask.equal(half("left")) for mask in sample.masks)
    assert {turn.question for (turn,) in sample.branches} == {
        "What would a bull run at?",
        "Which of them is said to anger a bull — and why?",
    }, "a question is asked as it stands"


def test_what_names_a_side_is_never_mirrored(
    tmp_path: Path, write_miniature: Callable[[str, Path], None], open_: Open, draw: Draw, half: Half
) -> None:
    write_miniature("refcoco", tmp_path)
    source = open_("refcoco:train")
    mirrored = 0
    for seed in range(40):
        sample, upright = draw(source, seed=seed, queries=2, flip=1.0), draw(source, seed=seed, queries=2)
        texts = [turn.question for (turn,) in sample.branches]
        assert sample.branches == upright.branches
        assert sample.flipped == (not any("left" in text for text in texts))
        assert sample.masks.equal(upright.masks.flip(-1) if sample.flipped else upright.masks)
        mirrored += sample.flipped
    assert 0 < mirrored < 40


def test_bad_sentences_are_left_out_by_name_or_fatal(
    tmp_path: Path, write_miniature: Callable[[str, Path], None], open_: Open, draw: Draw, bad: BadSamples, view: View
) -> None:
    """The fourth reference of this miniature is a polygon of two points, which encloses nothing."""
    write_miniature("refcoco", tmp_path)
    path = tmp_path / "refer_seg/refcoco/instances.json"
    path.write_text(path.read_text().replace('"id": 422', '"id": 999422'))  # the label of "blue"
    source = open_("refcoco:train")
    sample = draw(source)
    assert "blue" not in asked(sample)
    assert len(sample.branches) == 3
    (name,) = bad.found
    assert name.startswith("refcoco/")
    assert "no annotation 422" in bad.found[name]
    strict = open_("refcoco:train", bad=BadSamples(skip=False))
    with pytest.raises(DataError, match=rf"^{name}: .*no annotation 422.*on_bad_sample=skip"):
        draw(strict)


def test_missing_images_are_left_out_by_name_or_fatal(
    tmp_path: Path, write_miniature: Callable[[str, Path], None], open_: Open, bad: BadSamples, miniatures: Any
) -> None:
    write_miniature("refcoco", tmp_path)
    (tmp_path / miniatures.COCO_2014 / miniatures.coco_name(9)).unlink()
    source = open_("refcoco:val")
    assert [image.path.name for image in source.images] == [miniatures.coco_name(25)]
    assert list(bad.found) == [f"refcoco:val/{miniatures.coco_name(9)}"]
    with pytest.raises(DataError, match=r"refcoco:val/COCO_train2014_000000000009.jpg: .*no image"):
        open_("refcoco:val", bad=BadSamples(skip=False))


def test_an_unknown_source_is_named(tmp_path: Path, open_: Open) -> None:
    with pytest.raises(ConfigError, match=r"unknown 'refcocoo:train': did you mean 'refcoco"):
        open_("refcocoo:train")
    with pytest.raises(ConfigError, match=r"unknown 'jsonll:a': did you mean 'jsonl'"):
        open_("jsonll:a")


def test_stages_it_has_nothing_for_are_refused(
    tmp_path: Path, write_miniature: Callable[[str, Path], None], open_: Open
) -> None:
    write_miniature("refcoco", tmp_path)
    with pytest.raises(ConfigError, match=r"'refcoco:train' has nothing for \['align'\]"):
        open_("refcoco:train", stages=["align", "instruct"])
