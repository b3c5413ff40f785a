"""`mllmseg data` as a user meets it: exit codes, what goes to which stream, what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmseg.cli import app
from mllmseg.data.published import PUBLISHED, Published
from mllmseg.errors import ConfigError

Writer = Callable[[str, Path], None]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.output


def test_check(tmp_path: Path, write_miniature: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    write_miniature("riscq", tmp_path)
    monkeypatch.setitem(PUBLISHED, ("riscq", "all"), Published(3, 3, 3))
    code, output = run("check", tmp_path, "--masks")
    assert code == 0
    assert "3 images       3 refs        3 sentences: 3 with a target, 0 without" in output
    assert "as published" in output
    assert "refcoco: put refs(unc).p and instances.json into refer_seg/refcoco/" in output
    assert "1 of 17 datasets found" in output
    assert run("check", "--data-root", tmp_path, "--masks") == (code, output)
    with pytest.raises(ConfigError, match="once"):
        run("check", tmp_path, "--data-root", tmp_path)
    (tmp_path / "coco/train2017/000000000073.jpg").unlink()
    code, output = run("check", tmp_path, "--dataset", "riscq")
    assert code == 1
    assert "1 image files are missing" in output
    code, output = run("check", tmp_path, "--json")
    assert code == 1
    (riscq,) = [report for report in json.loads(output) if not report["absent"]]
    assert riscq["wrong"]
    assert [split["sentences"] for split in riscq["splits"]] == [3, 2]


def test_leaks(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("refcoco", tmp_path)
    write_miniature("coco-mini", tmp_path)
    code, output = run("leaks", "coco-mini:train", "refcoco:val", "--data-root", tmp_path)
    assert code == 1
    assert "coco 9: 000000000009.webp | COCO_train2014_000000000009.jpg" in output
    assert "1 of 2 test images are in coco-mini:train" in output
    code, output = run("leaks", "coco-mini:train", "refcoco:val", "--data-root", tmp_path, "--json")
    assert [leak["photo"] for leak in json.loads(output)] == ["coco 9"]
    code, output = run("leaks", "coco-mini:train", "coco-mini:val", "--data-root", tmp_path)
    assert code == 0
    assert output == "0 of 1 test images are in coco-mini:train\n"


def test_convert(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("coco-mini", tmp_path)
    source, out = tmp_path / "coco-mini/instances_val.json", tmp_path / "own.jsonl"
    result = CliRunner().invoke(app, ["data", "convert", "coco", str(source), str(out)])
    assert result.stdout == f"{out}: 1 sentences about 1 images\n"
    assert result.stderr == "left out: 1 boxes without a mask\n"


def test_clean_riscq(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("riscq", tmp_path)
    source, out = tmp_path / "riscq/sub_ris.json", tmp_path / "clean.json"
    (tmp_path / "seen.txt").write_text("COCO_train2014_000000000075.jpg\n")
    code, output = run("clean-riscq", source, out, "--against", tmp_path / "seen.txt")
    assert code == 0
    before = json.loads(source.read_text())
    assert json.loads(out.read_text()) == [before[0], before[2]]
    assert "record 1: more than one paragraph: The blue block" in output
    assert "3 of 3 images are COCO training images" in output
    assert f"1 of 3 images are in {tmp_path / 'seen.txt'}" in output
    assert f"{out}: 2 of 3 sentences" in output


def test_augment(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("coco-mini", tmp_path)
    code, output = run("augment", tmp_path / "coco-mini", tmp_path / "out", "--split", "val", "--views", 2)
    assert code == 0
    assert f"{tmp_path / 'out'}: 1 photos and 2 views of them, which kept" in output
    names = {path.name for path in (tmp_path / "out/images").iterdir()}
    assert names == {"000000000285.jpg", "000000000285_view286.jpg", "000000000285_view287.jpg"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("check", "nowhere"), "nowhere: no such folder"),
        (("check", ".", "--dataset", "refcocoo"), "unknown dataset 'refcocoo': did you mean 'refcoco'"),
        (("leaks", "refcoco", "riscq"), "--data-root"),
        (("convert", "coco", "nowhere.json", "out.jsonl"), "nowhere.json: no such file"),
        (("paraphrase", "in", "out", "--llm-url", "localhost", "--llm-model", "m"), "no address of an endpoint"),
        (("augment", "nowhere", "out"), "nowhere/instances_train.json: no such file"),
        (("clean-riscq", "nowhere.json", "out.json"), "nowhere.json: no such file"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], problem: str) -> None:
    root = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-m", "mllmseg.cli", "data", *arguments],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.count("\n") == 1
    assert problem in answer.stderr


def test_synth(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (60, 40), (200, 20, 25)).save(tmp_path / "a.png")
    label = {"id": 1, "image_id": 5, "category_id": 1, "bbox": [10, 10, 40, 20], "area": 800, "iscrowd": 0}
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [label | {"segmentation": [[10, 10, 50, 10, 50, 30, 10, 30]]}],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "val").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "val" / "a.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    out, report, looks = (tmp_path / name for name in ("out.jsonl", "report.md", "looks.json"))
    options = ("--split", "val", "--out", out, "--report", report, "--looks", looks, "--per-image", 4)
    code, output = run("synth", tmp_path, *options)
    assert code == 0
    assert "sentences about 1 photos" in output
    first = out.read_bytes()
    assert b"car" in first
    assert report.read_text().startswith("# Generated sentences")
    assert run("synth", tmp_path, *options)[0] == 0
    assert out.read_bytes() == first, "the same seed, and looks read instead of measured"
