from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from mllmseg.agent.loop import Agent
from mllmseg.demo.server import AUTH_VARIABLE, Address, parse_auth, serving
from mllmseg.demo.uploads import MAX_BYTES
from mllmseg.errors import ConfigError, WeightsError

ROOT = Path(__file__).parents[2]


def no_model() -> Agent:
    raise WeightsError("no weights here")


@pytest.fixture(scope="module")
def bare_url() -> Any:
    """A demo without a model."""
    with serving(no_model, Address(port=None), threshold=0.5) as url:
        yield url


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ROOT / "README.md"), "README.md", "../README.md", str(ROOT / "examples" / "cat.jpg")]
)
def test_files_outside_its_own_folder_are_not_served(bare_url: str, path: str) -> None:
    for address in (f"gradio_api/file={path}", f"file={path}"):
        assert httpx.get(bare_url + address).status_code in (403, 404)


def test_uploads_beyond_the_limit_are_refused(bare_url: str) -> None:
    upload = {"files": ("big.png", b"\0" * (MAX_BYTES + 1), "image/png")}
    assert httpx.post(bare_url + "gradio_api/upload", files=upload, timeout=60).status_code == 413
    upload = {"files": ("small.png", b"\0" * 100, "image/png")}
    assert httpx.post(bare_url + "gradio_api/upload", files=upload, timeout=60).status_code == 200


def test_the_page_is_there_before_the_model_and_calls_nobody(bare_url: str) -> None:
    page = httpx.get(bare_url).text
    assert "Drop a picture" in page
    assert "fonts.googleapis" not in httpx.get(bare_url + "theme.css").text


def test_its_folder_goes_with_it() -> None:
    with serving(no_model, Address(port=None), threshold=0.5):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.is_dir()
    assert not folder.exists()


def test_a_password_keeps_others_out() -> None:
    with serving(no_model, Address(port=None, auth=("ada", "secret")), threshold=0.5) as url:
        assert httpx.get(url + "config").status_code == 401
        assert httpx.post(url + "gradio_api/upload", files={"files": b"x"}).status_code == 401
        with httpx.Client() as visitor:
            wrong = visitor.post(url + "login", data={"username": "ada", "password": "guess"})
            assert wrong.status_code == 400
            assert visitor.post(url + "login", data={"username": "ada", "password": "secret"}).status_code == 200
            assert visitor.get(url + "config").status_code == 200


def test_a_taken_port_is_said_in_words(bare_url: str) -> None:
    port = httpx.URL(bare_url).port
    with (
        pytest.raises(ConfigError, match="choose another --port"),
        serving(no_model, Address(port=port), threshold=0.5),
    ):
        pass


@pytest.mark.parametrize("text", ["ada", ":secret", "ada:"])
def test_auth_is_a_name_and_a_password(text: str) -> None:
    with pytest.raises(ConfigError, match="user:password"):
        parse_auth(text)


def test_auth_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(AUTH_VARIABLE, raising=False)
    assert parse_auth(None) is None
    monkeypatch.setenv(AUTH_VARIABLE, "ada:a:b")
    assert parse_auth(None) == ("ada", "a:b")
    assert parse_auth("bob:x") == ("bob", "x")
