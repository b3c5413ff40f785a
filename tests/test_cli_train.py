"""`mllmseg train` and `mllmseg cache`: what is wrong with a configuration is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mllmseg import cli
from mllmseg.config import TrainConfig
from mllmseg.errors import MLLMSegError
from mllmseg.train.cache import FillReport

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    values = {"model": "model.yaml", "data": {"root": "photos"}, "cache": "cache", "out": "out"}
    path.write_text(yaml.safe_dump(values | {"align": {"steps": 1}, "instruct": {"steps": 2}}))
    return path


class FakeTrainer:
    """Remembers what it was asked for."""

    asked: tuple[TrainConfig, bool] | None = None

    def __init__(self, config: TrainConfig, *, resume: bool) -> None:
        FakeTrainer.asked = config, resume

    def run(self) -> Path:
        return Path("out/final")


@pytest.mark.parametrize("resume", [False, True])
def test_train_passes_settings_on(config: Path, monkeypatch: pytest.MonkeyPatch, resume: bool) -> None:
    monkeypatch.setattr("mllmseg.train.trainer.Trainer", FakeTrainer)
    arguments = ["train", str(config), "instruct.steps=7", "data.flip=0.25", *["--resume"][: int(resume)]]
    result = CliRunner().invoke(cli.app, arguments)
    assert (result.exit_code, result.stdout) == (0, "out/final\n"), result.output
    assert FakeTrainer.asked is not None
    settings, resumed = FakeTrainer.asked
    assert (settings.instruct.steps, settings.data.flip, settings.align.steps) == (7, 0.25, 1)
    assert resumed is resume


def test_cache_fills_and_names_the_folder(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[TrainConfig] = []

    class Filled:
        folder = Path("cache/0123")

    def fill(settings: TrainConfig, *, skip_bad: bool, progress: bool) -> Any:
        asked.append(settings)
        return Filled, FillReport(computed=3, present=1, bad=(("a.png", "a.png: damaged"),) if skip_bad else ())

    monkeypatch.setattr("mllmseg.train.trainer.fill_cache", fill)
    result = CliRunner().invoke(cli.app, ["cache", str(config), "cache_workers=3"])
    assert (result.exit_code, result.stdout) == (0, "cache/0123\n"), result.output
    assert result.stderr == "3 computed, 1 there, 0 bad\n"
    result = CliRunner().invoke(cli.app, ["cache", "--skip-bad", "--no-embeddings", str(config)])
    assert result.stderr == "bad: a.png: damaged\n3 computed, 1 there, 1 bad\n"
    assert (asked[0].cache_workers, asked[0].cache_embeddings, asked[1].cache_embeddings) == (3, True, False)


@pytest.mark.parametrize("command", ["train", "cache"])
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        (["{config}", "instruct.stepz=3"], "unknown key 'instruct.stepz': did you mean 'steps'?"),
        (["{config}", "instruct.steps=many"], "'instruct.steps' = 'many': Input should be a valid integer"),
        (["{config}", "instruct.steps"], "override 'instruct.steps' is not of the form key.sub=value"),
        (["{config}", "out=["], "override 'out=[': not a YAML value"),
        (["{config}", "out.folder=x"], "'out' holds a value, not a section"),
        (["{config}"], "model.yaml: no such configuration file"),
    ],
)
def test_a_bad_configuration_is_one_line(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(config.parent)
    monkeypatch.setattr(sys, "argv", ["mllmseg", command, *(part.format(config=config) for part in arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    output = capsys.readouterr()
    assert (stop.value.code, output.out) == (2, "")
    assert output.err.startswith("mllmseg: ")
    assert problem in output.err
    assert output.err.count("\n") == 1
    assert sorted(path.name for path in config.parent.iterdir()) == ["train.yaml"]


def test_a_settings_error_is_found_before_anything_slow_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mllmseg import cli\n"
        "sys.argv = ['mllmseg', 'train', 'nowhere.yaml']\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert stop.code == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "train").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_projects_own_configurations_are_valid(path: Path) -> None:
    try:
        settings = TrainConfig.from_yaml(path)
    except MLLMSegError as error:
        pytest.fail(str(error))
    assert settings.model is None or (ROOT / settings.model).is_file()
