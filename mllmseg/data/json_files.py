"""JSON files of annotations, read whole; what is wrong with one is named with its path."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from mllmseg.errors import DataError


def read_json(path: pathlib.Path, keep: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """A JSON file's content, each object of it as `keep` gives it. Raises DataError where it is missing or damaged."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return json.loads(path.read_bytes(), object_hook=keep)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def read_json_object(path: pathlib.Path) -> dict[str, Any]:
    """The same for a file with an object at the top. Raises DataError where it holds something else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, found {type(content).__name__}")
    return content
