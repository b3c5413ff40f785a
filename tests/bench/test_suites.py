"""Every suite runs on the real model; how fast is not asked here."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmseg.bench import suites
from mllmseg.cli import app
from mllmseg.errors import ConfigError
from mllmseg.inference.segmenter import Segmenter

PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_pretrained(image_cache_bytes=1 << 26)


@pytest.mark.weights
def test_questions_projectors_and_tokens(segmenter: Segmenter) -> None:
    for suite in (
        suites.answering(segmenter, [PHOTO]),
        suites.projectors(segmenter, [PHOTO]),
        suites.language_model(segmenter, tokens=(9, 3)),
    ):
        for case in suite.cases:
            assert case.run(0) is not None


@pytest.mark.weights
def test_photos_are_encoded_at_once(segmenter: Segmenter) -> None:
    curves = suites.growth(segmenter, [PHOTO], megapixels=(0.3,))
    amount, case = curves["photos encoded at once"][1]
    found = case.run(0)
    assert isinstance(found, list)
    assert len(found) == amount == 2


@pytest.mark.weights
def test_a_peer_is_called_with_the_same_photos(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suites.peer(segmenter, [PHOTO], "builtins:max")
    assert suite.cases[1].run(0)
    with pytest.raises(ConfigError, match="no_such_module"):
        suites.peer(segmenter, [PHOTO], "no_such_module:segment")


@pytest.mark.weights
def test_training_wants_a_model_that_can_be_trained(segmenter: Segmenter) -> None:
    with pytest.raises(ConfigError, match="merged"):
        suites.training(segmenter)


def test_unknown_suites_and_sizes_are_refused() -> None:
    runner = CliRunner()
    for arguments, words in ((["--suite", "speed"], "no such suite"), (["--megapixels", "big"], "numbers")):
        result = runner.invoke(app, ["bench", *arguments])
        assert isinstance(result.exception, ConfigError)
        assert words in str(result.exception)


def test_questions_differ() -> None:
    assert len(set(suites.queries(64))) == 64
