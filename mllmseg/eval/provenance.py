"""What a result rests on: protocol, weights, code, data. Saved beside it, and compared before a run is resumed."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
from collections.abc import Iterable
from typing import Any

import mllmseg
from mllmseg.errors import DataError

# Raise the number when the same predictions would get other numbers, or the same model other queries.
COCO_MINI_PROTOCOL = "coco-mini/1"


def describe_run(
    *, protocol: str, data: Iterable[pathlib.Path], checkpoint: pathlib.Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Protocol, hashes of data and weights, code revision and settings, as plain values."""
    return {
        "protocol": protocol,
        "data_sha256": hash_files(data),
        "weights_sha256": hash_files(sorted(path for path in checkpoint.rglob("*") if path.is_file())),
        "checkpoint": checkpoint.name,
        "settings": settings,
        "version": mllmseg.__version__,
        "revision": git_revision(),
    }


def hash_files(paths: Iterable[pathlib.Path]) -> str:
    """SHA-256 over the names and contents of some files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def git_revision() -> str | None:
    """The commit of the code that runs, with "+" where files differ from it; None outside a checkout."""
    folder = pathlib.Path(__file__).parent
    command = ("git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def claim_folder(folder: str | os.PathLike[str], run: dict[str, Any]) -> None:
    """Marks `folder` as this run's, or checks that it already is.

    Raises:
        DataError: it holds predictions of other weights, data, settings or another protocol. (Another code revision
            is allowed: a fix elsewhere should not throw hours away; the file keeps the revision that began it.)
    """
    path = pathlib.Path(folder) / "run.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for key in ("protocol", "data_sha256", "weights_sha256", "settings"):
            if before.get(key) != run[key]:
                raise DataError(f"{path}: {key} was {before.get(key)}, now {run[key]}; write to another folder")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
