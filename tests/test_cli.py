"""The command line as a user meets it: exit codes, one-line errors, what goes to which stream."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mllmseg import __version__, doctor, weights
from mllmseg.cli import app


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mllmseg.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"mllmseg {__version__}\n"


def test_an_error_is_one_line_on_stderr_and_exit_code_2(tmp_path) -> None:
    answer = call("weights", "verify", "mobile_sam", MLLMSEG_CACHE=str(tmp_path))
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("mllmseg: ")
    assert answer.stderr.count("\n") == 1
    assert "mllmseg weights fetch mobile_sam" in answer.stderr


def test_no_network_is_one_line_too(tmp_path) -> None:
    environment = {"MLLMSEG_CACHE": str(tmp_path), "MLLMSEG_INDEX_URL": "http://127.0.0.1:9/simple"}
    answer = call("weights", "fetch", "dinov2s", no_proxy="127.0.0.1", **environment)
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "dinov2s.pt (88.3 MB" in answer.stderr


def test_weights_list_names_every_file() -> None:
    output = CliRunner().invoke(app, ["weights", "list"]).output
    assert all(name in output for name in weights.WEIGHTS)


class TestDoctor:
    """Each check, on a machine made ill in one way."""

    def test_a_crashing_check_is_a_finding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def check_nothing() -> list[doctor.Finding]:
            raise RuntimeError("odd machine")

        for name in ("packages", "torchvision", "devices", "memory", "disk", "weights"):
            monkeypatch.setattr(doctor, f"check_{name}", list)
        monkeypatch.setattr(doctor, "check_memory", check_nothing)
        problems = [finding for finding in doctor.examine() if finding.level is doctor.Level.PROBLEM]
        assert [finding.subject for finding in problems] == ["nothing"]
        assert "odd machine" in problems[0].detail

    @pytest.mark.parametrize(("level", "code"), [("OK", 0), ("NOTE", 0), ("PROBLEM", 1)])
    def test_exit_code(self, monkeypatch: pytest.MonkeyPatch, level: str, code: int) -> None:
        finding = doctor.Finding("thing", doctor.Level[level], "found", "do this")
        monkeypatch.setattr(doctor, "examine", lambda: [finding])
        result = CliRunner().invoke(app, ["doctor"])
        assert result.exit_code == code
        assert "-> do this" in result.output

    def test_missing_weights(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setenv("MLLMSEG_CACHE", str(tmp_path))
        findings = doctor.check_weights()
        assert {finding.level for finding in findings} == {doctor.Level.PROBLEM}
        assert findings[0].remedy == "mllmseg weights fetch dinov2s"

    def test_damaged_weights(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setenv("MLLMSEG_CACHE", str(tmp_path))
        (tmp_path / "dinov2s.pt").write_bytes(b"damaged")
        finding = doctor.check_weights()[0]
        assert finding.level is doctor.Level.PROBLEM
        assert "SHA-256" in finding.detail
        assert finding.remedy.startswith("delete")

    def test_unusable_torchvision(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
        metadata = tmp_path / "torchvision-0.99.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        (finding,) = doctor.check_torchvision()
        assert finding.level is doctor.Level.PROBLEM
        assert "0.99" in finding.detail
        assert "libcudart" in finding.detail
        assert "uninstall torchvision" in finding.remedy

    def test_a_full_disk(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setenv("MLLMSEG_CACHE", str(tmp_path / "not" / "there"))
        monkeypatch.setattr(doctor, "DISK_BYTES", 10**18)
        (finding,) = doctor.check_disk()
        assert finding.level is doctor.Level.PROBLEM
        assert "MLLMSEG_CACHE" in finding.remedy

    def test_little_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "MEMORY_BYTES", 10**18)
        (finding,) = doctor.check_memory()
        assert finding.level is doctor.Level.PROBLEM

    def test_a_version_out_of_range(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: ["typer>=999", "no-such-thing>=1"])
        findings = doctor.check_packages()
        assert [(finding.subject, finding.level) for finding in findings[:2]] == [
            ("typer", doctor.Level.PROBLEM),
            ("no-such-thing", doctor.Level.PROBLEM),
        ]
