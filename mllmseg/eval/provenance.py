"""Which weights and which code made a result, in a form that can be compared."""

from __future__ import annotations

import hashlib
import pathlib
import subprocess
from collections.abc import Iterable

from mllmseg.models.checkpoint import TRAINING_FILE


def hash_files(paths: Iterable[pathlib.Path]) -> str:
    """SHA-256 over the names and contents of some files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def hash_checkpoint(folder: pathlib.Path) -> str:
    """SHA-256 over the files of a checkpoint that answers depend on: not its `training.json`, not a README."""
    read = (path for path in folder.rglob("*") if path.is_file())
    return hash_files(sorted(path for path in read if path.name != TRAINING_FILE and path.suffix != ".md"))


def git_revision() -> str | None:
    """The commit of the code that runs, with "+" where files differ from it; None outside a checkout."""
    folder = pathlib.Path(__file__).parent
    command = ("git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
