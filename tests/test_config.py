"""Settings: files, overrides, and errors that say which key and what was meant."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from mllmseg.config import ModelConfig, SuperpixelConfig, TrainConfig
from mllmseg.errors import ConfigError

TRAIN = "model: m.yaml\ndata: {root: d}\ncache: c\nout: o\nalign: {steps: 1}\ninstruct: {steps: 2}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "settings.yaml"
    file.write_text(TRAIN)
    return file


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = ModelConfig(superpixels=SuperpixelConfig(max_tokens=9, max_covering_fraction=None))
    config.to_yaml(tmp_path / "config.yaml")
    assert ModelConfig.from_yaml(tmp_path / "config.yaml") == config


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    assert ModelConfig.from_yaml(tmp_path / "config.yaml") == ModelConfig()


def test_overrides_are_yaml_values_and_the_last_one_counts(path: Path) -> None:
    config = TrainConfig.from_yaml(
        path, ["seed=3", "seed=4", "data.root=null", "align.learning_rate=1e-2", "losses.text=0.5", "out=a=b"]
    )
    assert (config.seed, config.data.root, config.align.learning_rate, config.losses.text) == (4, None, 0.01, 0.5)
    assert config.out == "a=b"
    assert config.losses.mask_bce == TrainConfig.from_yaml(path).losses.mask_bce


def test_an_override_reaches_into_a_list(path: Path) -> None:
    path.write_text(TRAIN.replace("{root: d}", "{sources: [{name: coco-mini}, {name: 'vqa:a.json'}]}"))
    config = TrainConfig.from_yaml(path, ["data.sources.1.root=images", "data.sources.1.weight=2.5"])
    assert [(item.root, item.weight) for item in config.data.sources] == [(None, 1.0), ("images", 2.5)]


def test_an_override_may_hold_a_whole_section(path: Path) -> None:
    assert TrainConfig.from_yaml(path, ["align={steps: 5, batch_size: 3}"]).align.batch_size == 3


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("data.roott=x", "unknown key 'data.roott': did you mean 'root'?"),
        ("sed=1", "unknown key 'sed': did you mean 'seed'?"),
        ("data.flip=2", "'data.flip' = 2: Input should be less than or equal to 1"),
        ("precision=float64", "'precision' = 'float64': Input should be 'float32', 'bfloat16' or 'float16'"),
        ("seed", "override 'seed' is not of the form key.sub=value"),
        ("seed.more=1", "'seed' holds a value, not a section"),
        ("seed={", "not a YAML value"),
        ("data.sources.1.name=x", "'1' is none of the list's 1 entries"),
        ("data.sources.name=x", "'name' is none of the list's 1 entries"),
        ("data.sources.0.weigth=2", "unknown key 'data.sources.0.weigth': did you mean 'weight'?"),
        ("data.sources=[]", "'data.sources' = []: Tuple should have at least 1 item"),
    ],
)
def test_a_bad_override_is_explained(path: Path, override: str, problem: str) -> None:
    path.write_text(TRAIN.replace("{root: d}", "{root: d, sources: [{name: coco-mini}]}") + "seed: 0\n")
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_yaml(path, [override])
    assert problem in str(caught.value)


@pytest.mark.parametrize(("content", "problem"), [("a: [", "not valid YAML"), ("- 1", "expected a mapping .* list")])
def test_a_bad_file_is_named(path: Path, content: str, problem: str) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"{path}: {problem}"):
        TrainConfig.from_yaml(path)


def test_a_file_that_is_no_text_is_named(path: Path) -> None:
    path.write_bytes(b"caption: caf\xe9\n")
    with pytest.raises(ConfigError, match=f"{path}: not valid YAML in UTF-8"):
        TrainConfig.from_yaml(path)


def test_a_missing_key_is_named(path: Path) -> None:
    path.write_text("model: m.yaml\n")
    with pytest.raises(ConfigError, match=f"{path}: .*'cache'.*required"):
        TrainConfig.from_yaml(path)


def test_settings_do_not_change() -> None:
    with pytest.raises(pydantic.ValidationError):
        ModelConfig().sam = None  # type: ignore[misc,assignment]


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[1] / "configs" / "model").glob("*.yaml")))
def test_the_projects_own_models_are_valid(file: Path) -> None:
    ModelConfig.from_yaml(file)
