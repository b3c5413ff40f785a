"""The segment command: input, output, exit codes. The model is a stand-in but for the last test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mllmseg import cli
from mllmseg.inference import pretrained
from mllmseg.inference.answers import compose_answer
from mllmseg.inference.segmenter import Segmenter
from mllmseg.models.postprocess import decode_rle
from mllmseg.structures import Segmentation, Superpixels

PHOTO = Path(__file__).parents[1] / "examples" / "cat.jpg"


class StandIn:
    """Finds everything but unicorns, with P 0.6, in the upper left corner."""

    def __init__(self) -> None:
        self.timings = {"image_encoder": 2000.0}

    def set_image(self, image: Image.Image) -> None:
        self.size = (image.height, image.width)

    def segment(self, queries: list[str], *, threshold: float) -> list[Segmentation]:
        return [self._one(query, threshold) for query in queries]

    def _one(self, query: str, threshold: float) -> Segmentation:
        score = 0.1 if "unicorn" in query else 0.6
        count = int(score >= threshold)
        masks = torch.zeros(count, *self.size, dtype=torch.bool)
        masks[:, :10, :20] = True
        label_map = torch.zeros(8, 8, dtype=torch.int64)
        return Segmentation(
            query=query,
            answer=compose_answer(query, exists=bool(count)),
            exists=bool(count),
            score=score,
            masks=masks,
            boxes=torch.tensor([[0, 0, 20, 10]])[:count],
            mask_scores=torch.tensor([0.9])[:count],
            superpixels=Superpixels(label_map, torch.zeros(1, 4), torch.tensor([64]), torch.ones(1)),
            superpixel_scores=torch.ones(count, 1),
            num_visual_tokens=1,
            timings=self.timings | {"language_model": 90.0},
        )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `from_pretrained` was asked for."""
    seen: dict[str, Any] = {}

    def load(name: Any, **options: Any) -> StandIn:
        seen.update(options, name=name)
        return StandIn()

    monkeypatch.setattr(Segmenter, "from_pretrained", load)
    monkeypatch.setattr(pretrained, "find_checkpoint", lambda name: tmp_path)
    return seen


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mllmseg", "segment", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.usefixtures("asked")
def test_people_read_answer_probability_and_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, PHOTO, "the [red] cat") == 0
    out = capsys.readouterr().out
    assert "This is what fits “the [red] cat”." in out
    assert "P(it exists) 0.60, 0.1% of the image, 90 ms" in out
    assert "1 visual tokens, 2.0 s once" in out


@pytest.mark.usefixtures("asked")
def test_what_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, PHOTO, "a unicorn") == 0
    assert "I see nothing here that fits “a unicorn”." in capsys.readouterr().out
    assert run(monkeypatch, PHOTO, "the cat", "--threshold", 0.7) == 0
    assert "I see nothing" in capsys.readouterr().out


@pytest.mark.usefixtures("asked")
def test_json_is_one_object_a_line_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, PHOTO, "the cat", "a unicorn", "--json", "--overlay", tmp_path / "out.png") == 0
    cat, unicorn = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (cat["image"], cat["query"], cat["exists"]) == (str(PHOTO), "the cat", True)
    assert decode_rle(cat["masks"][0]["rle"]).sum() == cat["masks"][0]["area"] == 200
    assert cat["masks"][0]["box"] == [0, 0, 20, 10]
    assert cat["image_size"] == list(Image.open(PHOTO).size[::-1])
    assert (unicorn["exists"], unicorn["masks"]) == (False, [])


@pytest.mark.usefixtures("asked")
def test_pictures_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = [f"--{kind}={tmp_path / kind}.png" for kind in ("overlay", "mask", "superpixels")]
    assert run(monkeypatch, PHOTO, "the cat", *options) == 0
    size = Image.open(PHOTO).size
    for kind in ("overlay", "mask", "superpixels"):
        assert Image.open(tmp_path / f"{kind}.png").size == size
        assert f"Wrote {tmp_path / kind}.png" in capsys.readouterr().out or kind != "overlay"
    mask = np.array(Image.open(tmp_path / "mask.png"))
    assert (mask == 255).sum() == 200


@pytest.mark.usefixtures("asked")
def test_several_queries_give_several_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, PHOTO, "the cat", "a unicorn", "--mask", tmp_path / "out.png") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-1.png", "out-2.png"]
    assert np.array(Image.open(tmp_path / "out-1.png")).any()
    assert not np.array(Image.open(tmp_path / "out-2.png")).any()


def test_options_reach_the_model(monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], tmp_path: Path) -> None:
    assert run(monkeypatch, PHOTO, "the cat", "--device", "cpu", "--dtype", "bfloat16", "--model", tmp_path) == 0
    assert {key: asked[key] for key in ("name", "device", "dtype")} == {
        "name": tmp_path,
        "device": "cpu",
        "dtype": "bfloat16",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg", "the cat"], "missing.jpg: no such image file"),
        ([__file__, "the cat"], "not an image"),
        ([PHOTO, " "], "the question is empty"),
        ([PHOTO, "the [SEG]"], "[SEG]"),
        ([PHOTO, "the cat", "--overlay", "/nowhere/at/all.png"], "/nowhere/at/all.png: cannot write there"),
        ([PHOTO, "the cat", "--mask", "mask.jpg"], "'.jpg'"),
        ([PHOTO, "the cat", "--model", "./missing"], "no such folder"),
    ],
)
def test_bad_input_is_one_line_before_any_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[object], message: str
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Segmenter, "from_pretrained", load)
    if "./missing" not in arguments:
        monkeypatch.setattr(pretrained, "find_checkpoint", lambda name: Path(name or "."))
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_missing_query_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, PHOTO) == 2


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif(not pretrained.embedded_checkpoint().is_dir(), reason="no trained parameters in this checkout yet")
def test_from_the_shell_with_the_embedded_model(tmp_path: Path) -> None:
    photo = PHOTO.with_name("astronaut.jpg")
    command = [sys.executable, "-m", "mllmseg.cli", "segment", str(photo), "the person", "--json", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--mask", str(tmp_path / "mask.png")], capture_output=True, text=True, check=True, timeout=300
    )
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert done.stderr == ""
    assert found["exists"]
    assert np.array(Image.open(tmp_path / "mask.png")).any()
