from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmseg.cli import app
from mllmseg.errors import ConfigError

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--auth", "ada"], "user:password"), (["--llm-url", "http://localhost:1/v1"], "both --llm-url and --llm-model")],
)
def test_bad_options_are_said_before_anything_is_served(options: list[str], said: str) -> None:
    answer = CliRunner().invoke(app, ["demo", *options])
    assert isinstance(answer.exception, ConfigError)
    assert said in str(answer.exception)


@pytest.mark.slow
def test_a_terminated_server_leaves_no_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mllmseg.cli", "demo", "--port", "0", "--model", str(tmp_path / "none")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        assert any(" is open" in line for line in server.stdout)
        assert len(list(tmp_path.glob("mllmseg-demo-*"))) == 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert list(tmp_path.glob("mllmseg-demo-*")) == []
