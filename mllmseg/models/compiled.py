"""`torch.compile` where it works: what it cannot compile runs as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Compiled(Generic[Result]):
    """A function that is compiled when it is first called, and from then on runs plainly where that fails.

    No C++ compiler, no Triton, an operation that Inductor lacks: none of it is worth losing an answer for. The reason
    is logged once, as a warning.

    Args:
        function: without side effects on what it is given, since it may be started twice.
        name: what the warning calls it.
        dynamic: whether to compile for sizes that vary; None: once they do.
    """

    def __init__(self, function: Callable[..., Result], name: str, *, dynamic: bool | None = None) -> None:
        self.function = function
        self.name = name
        self.dynamic = dynamic
        self._run: Callable[..., Result] | None = None

    @property
    def failed(self) -> bool:
        """Whether it runs plainly."""
        return self._run is self.function

    def __call__(self, *args: Any) -> Result:
        """What the function gives."""
        try:
            if self._run is None:
                self._run = torch.compile(self.function, dynamic=self.dynamic)
            return self._run(*args)
        except Exception as error:  # compilers fail with many kinds; the function's own come again below
            if self.failed:
                raise
            result = self.function(*args)
            reason = " ".join(str(error).split("\n")[:2])  # the first may say only which backend raised
            log.warning("%s runs without torch.compile: %s: %s", self.name, type(error).__name__, reason)
            self._run = self.function
            return result
