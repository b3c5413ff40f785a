"""`mllmseg predict`, `score`, `eval` as a user meets them, on every dataset in miniature. The model is a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from mllmseg import cli
from mllmseg.config import EvalConfig
from mllmseg.eval.metrics import SCORERS
from mllmseg.inference import pretrained
from mllmseg.inference.segmenter import Segmenter

ROOT = Path(__file__).parents[2]
KEYS = ["id", "image", "text", "exists", "score", "answer", "rle", "box", "mode"]
NAMES = (
    "refcoco", "refcoco+", "refcocog-umd", "refcocog-google", "refclef", "grefcoco", "rrefcoco", "rrefcoco+",
    "rrefcocog", "fprefcoco", "fprefcoco+", "fprefcocog", "refzom", "reasonseg", "riscq", "talk2car-regseg",
    "coco-mini",
)  # fmt: skip


class StandIn:
    """Finds everything of an even number of letters, in the left half."""

    def set_image(self, image: Path) -> None:
        with Image.open(image) as opened:
            self.union = torch.zeros(opened.height, opened.width, dtype=torch.bool)
        self.union[:, : opened.width // 2] = True

    def segment(self, texts: list[str], *, threshold: float) -> list[SimpleNamespace]:
        return [self._one(text, threshold) for text in texts]

    def chat(self, messages: list[dict[str, str]], *, threshold: float) -> SimpleNamespace:
        return self._one(messages[0]["content"], threshold)

    def _one(self, text: str, threshold: float) -> SimpleNamespace:
        score = 0.1 if len(text) % 2 else 0.9
        return SimpleNamespace(exists=score >= threshold, score=score, answer=f"“{text}”", union=self.union)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """`(word, …)` runs a command; returns the exit code, stdout and stderr."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.yaml").write_text("{}")
    monkeypatch.setattr(Segmenter, "from_pretrained", lambda *_, **__: StandIn())
    monkeypatch.setattr(pretrained, "find_checkpoint", lambda name: tmp_path / "model")
    monkeypatch.setattr("mllmseg.models.allocator.keep_freed_memory", lambda: True)
    monkeypatch.setattr("mllmseg.eval.evaluation.find_checkpoint", lambda name: tmp_path / "model")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mllmseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    return call


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_is_predicted_and_scored(
    name: str, run: Any, write_miniature: Callable[[str, Path], None], tmp_path: Path
) -> None:
    root, out = tmp_path / "data", tmp_path / "p.jsonl"
    write_miniature(name, root)
    code, stdout, stderr = run("predict", "--data", name, "--data-root", root, "--out", out)
    assert (code, stdout) == (0, ""), stderr
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines
    assert all(list(line) == KEYS and line["id"].startswith(f"{name}/") for line in lines)
    code, stdout, stderr = run("score", out, "--data", name, "--data-root", root, "--json")
    assert (code, stderr) == (0, "")
    scores = json.loads(stdout)
    assert set(scores) == set(SCORERS)
    assert len(scores) == 10
    assert all(number is None or 0 <= number <= 1 for number in scores["gres"].values())


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Four lines about two images, without ids; the ground truth of the first and the last is known."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    half = [[0, 0, 4, 0, 4, 6, 0, 6]]
    rows = [
        {"image": "a.png", "text": "even", "exists": True, "masks": [half]},
        {"image": "b.png", "text": "the odd"},
        {"image": "a.png", "text": "an odd1"},
        {"image": "b.png", "text": "odd", "exists": False},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_own_lines_without_ids(run: Any, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    arguments = ["predict", "--jsonl", questions, "--image-root", tmp_path, "--out", out]
    assert run(*arguments)[0] == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["image"], line["text"], line["exists"]) for line in lines] == [
        ("a.png", "even", True),
        ("b.png", "the odd", False),
        ("a.png", "an odd1", False),
        ("b.png", "odd", False),
    ]
    assert len({line["id"] for line in lines}) == 4
    code, stdout, _ = run("score", out, "--jsonl", questions, "--image-root", tmp_path, "--scorer", "gres", "--json")
    assert (code, json.loads(stdout)["gres"]["gIoU"]) == (0, 1.0)
    code, stdout, _ = run("score", out, "--jsonl", questions, "--scorer", "gres")
    assert "gres" in stdout
    assert "2 queries, 2 left out without ground truth" in stdout


def test_scorers_are_named_in_any_way(run: Any, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    run("predict", "--jsonl", questions, "--out", out)
    for words in (["--scorer", "lisa", "gres"], ["--scorer", "lisa,gres"], ["--scorer", "lisa", "--scorer", "gres"]):
        code, stdout, stderr = run("score", out, "--jsonl", questions, *words, "--json")
        assert (code, set(json.loads(stdout))) == (0, {"lisa", "gres"}), stderr


def test_shards_on_the_command_line(run: Any, questions: Path, tmp_path: Path) -> None:
    run("predict", "--jsonl", questions, "--out", tmp_path / "whole.jsonl")
    shards = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for index, path in enumerate(shards):
        assert run("predict", "--jsonl", questions, "--out", path, "--shard", f"{index}/2")[0] == 0
    assert run("predict", "merge", tmp_path / "p.jsonl", *shards)[0] == 0
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    outputs = [run("score", *paths, "--jsonl", questions, "--json") for paths in (shards, [tmp_path / "whole.jsonl"])]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(("mode", "found"), [("scored", 1), ("free", 1), ("teacher", 4)])
def test_modes(run: Any, questions: Path, tmp_path: Path, mode: str, found: int) -> None:
    out = tmp_path / "p.jsonl"
    assert run("predict", "--jsonl", questions, "--out", out, "--mode", mode)[0] == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum(line["exists"] for line in lines) == found
    assert {line["mode"] for line in lines} == {mode}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--out", "p"], "either --data DATASET[:SPLIT] or --jsonl FILE"),
        (["predict", "--jsonl", "{questions}"], "name the file of predictions by --out"),
        (["predict", "--jsonl", "{questions}", "--data", "refcoco", "--out", "p"], "either --data"),
        (["predict", "--data", "refcocoo", "--data-root", ".", "--out", "p"], "did you mean 'refcoco"),
        (["predict", "--data", "refcoco", "--out", "p"], "--data-root"),
        (["predict", "--jsonl", "no.jsonl", "--out", "p"], "no.jsonl: no such file"),
        (["predict", "--jsonl", "{questions}", "--out", "p", "--shard", "2/2"], "write i/n with i from 0 to n - 1"),
        (["predict", "--jsonl", "{questions}", "--out", "p", "--image-root", "elsewhere"], "a.png"),
        (["predict", "--jsonl", "{questions}", "--out", "p", "--device", "tpu"], "device 'tpu'"),
        (["predict", "--jsonl", "{questions}", "--out", "{questions}"], "questions.jsonl: exists"),
        (["predict", "merge", "p", "no.jsonl"], "no.jsonl.meta.json: no such file"),
        (["score", "no.jsonl", "--jsonl", "{questions}"], "no.jsonl: cannot be read"),
        (["score", "{questions}", "--jsonl", "{questions}"], "line 1: no 'id', 'score', 'rle'"),
        (["score", "{questions}", "--jsonl", "{questions}", "--scorer", "liza"], "did you mean 'lisa'"),
        (["eval", "no.yaml"], "no.yaml: no such configuration file"),
        (["eval", "{config}", "mode=[free]"], "unknown key 'mode': did you mean 'modes'"),
        (["eval", "{config}", "scorers=[liza]"], "did you mean 'lisa'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(
    run: Any, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "eval.yaml"
    config.write_text(yaml.safe_dump({"dataset": f"jsonl:{questions}", "out": str(tmp_path / "out")}))
    before = sorted(path.name for path in tmp_path.iterdir())
    code, stdout, stderr = run(*(word.format(questions=questions, config=config) for word in arguments))
    assert (code, stdout) == (2, "")
    assert stderr.startswith("mllmseg: ")
    assert stderr.count("\n") == 1
    assert message in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is left behind"


def test_an_evaluation_in_one_go(run: Any, questions: Path, tmp_path: Path) -> None:
    config = tmp_path / "eval.yaml"
    config.write_text(yaml.safe_dump({"dataset": f"jsonl:{questions}", "out": str(tmp_path / "out")}))
    code, stdout, stderr = run("eval", config, "scorers=[gres, sesame]")
    assert (code, stdout) == (0, f"{tmp_path / 'out'}\n"), stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["scores"]["scored"]["gres"]["gIoU"] == 1.0
    assert results["scores"]["teacher"]["gres"]["gIoU"] == 0.5, "teacher-forcing cannot reject"
    assert results["intervals"]["scored"]["gres"]["gIoU"] == [1.0, 1.0]
    provenance = results["provenance"]
    assert provenance["threshold"] == {"scored": 0.5}
    assert len(provenance["weights_sha256"]) == len(provenance["data_sha256"]) == 64
    page = (tmp_path / "out" / "report.html").read_text()
    assert provenance["weights_sha256"] in page
    assert page.count("data:image/jpeg") >= 3, "a gallery"
    assert f"mllmseg eval {config} 'scorers=[gres, sesame]'" in (tmp_path / "out" / "report.md").read_text()
    for mode in ("scored", "teacher"):
        assert (tmp_path / "out" / f"{mode}.jsonl").is_file()
    assert EvalConfig.from_yaml(tmp_path / "out" / "config.yaml").scorers == ("gres", "sesame")
    assert run("eval", "run", config, "scorers=[gres]")[0] == 0, "again, with what is there"
    code, _, stderr = run("eval", config, "threshold=0.7")
    assert (code, "threshold is 0.5, not 0.7" in stderr) == (2, True)


def test_kinds_and_baselines_of_an_evaluation(
    run: Any, write_miniature: Callable[[str, Path], None], tmp_path: Path
) -> None:
    root, config = tmp_path / "data: mine", tmp_path / "eval.yaml"
    write_miniature("coco-mini", root)
    settings = {"dataset": "coco-mini", "out": str(tmp_path / "out"), "baselines": ["whole-image"], "scorers": ["gres"]}
    config.write_text(yaml.safe_dump(settings))
    code, stdout, stderr = run("eval", config, "--data-root", root)
    assert (code, stdout) == (0, f"{tmp_path / 'out'}\n"), stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    kinds = ["all sentences", "human", "template", "template/all", "targets known by a box"]
    assert list(results["kinds"]) == kinds
    assert list(results["kinds"]["human"]) == ["scored", "teacher", "whole-image"]
    assert (tmp_path / "out" / "whole-image.jsonl").read_text().count("\n") == 4
    text = (tmp_path / "out" / "report.md").read_text()
    assert "1 sentences whose target is known by its box only" in text
    assert "| annotations | `coco-mini/instances_val.json, coco-mini/expressions_val.jsonl` |" in text


def test_two_evaluations_side_by_side(run: Any, questions: Path, tmp_path: Path) -> None:
    config = tmp_path / "eval.yaml"
    config.write_text(yaml.safe_dump({"dataset": f"jsonl:{questions}", "out": "x", "modes": ["scored"]}))
    for name, threshold in (("a", 0.5), ("b", 0.05)):
        assert run("eval", config, f"out={tmp_path / name}", f"threshold={threshold}")[0] == 0
    code, stdout, stderr = run("eval", "compare", tmp_path / "a", tmp_path / "b", "--scorer", "gres", "--json")
    assert code == 0, stderr
    figures = {item["figure"]: item for item in json.loads(stdout)["differences"]}
    assert (figures["gIoU"]["first"], figures["gIoU"]["second"]) == (1.0, 0.5)
    page = tmp_path / "compare.html"
    code, stdout, _ = run("eval", "compare", tmp_path / "a", tmp_path / "b", "--scorer", "gres", "--html", page)
    assert code == 0
    assert "50.0" in stdout
    assert "<table>" in page.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "eval").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_projects_own_configurations_are_valid(path: Path) -> None:
    from mllmseg.data.referring import known_datasets
    from mllmseg.eval.scoring import find_scorers

    settings = EvalConfig.from_yaml(path)
    kind = settings.dataset.partition(":")[0]
    if kind != "jsonl":  # own lines
        known_datasets().get(kind)
    find_scorers(settings.scorers)
