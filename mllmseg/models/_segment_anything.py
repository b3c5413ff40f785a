"""Imports segment_anything where torchvision cannot be imported.

`segment_anything/__init__` imports four functions of torchvision that only its mask generator and its image resizing
call. CPU builds of torch 2.13 have no torchvision that imports beside them, so stand-ins take its place during the
import (the names bind at import time) and leave `sys.modules` again, lest another library believe in them. Where
torchvision imports, it is used.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

_NEEDED = {
    "torchvision.ops.boxes": ("batched_nms", "box_area"),
    "torchvision.transforms.functional": ("resize", "to_pil_image"),
}


def import_segment_anything() -> types.ModuleType:
    """The segment_anything package, with stand-ins for torchvision's four functions where it does not import."""
    if "segment_anything" in sys.modules or _torchvision_imports():
        return importlib.import_module("segment_anything")
    stand_ins = _stand_ins()
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("segment_anything")
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def _torchvision_imports() -> bool:
    try:
        for name in _NEEDED:
            importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):  # a build for another torch fails with any of the three
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return False
    return True


def _stand_ins() -> dict[str, types.ModuleType]:
    modules: dict[str, types.ModuleType] = {}
    for name, functions in _NEEDED.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        for function in functions:
            setattr(modules[name], function, _missing(f"{name}.{function}"))
    return modules


def _missing(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise ImportError(f"{name} is needed here, but torchvision cannot be imported in this environment")

    return call
