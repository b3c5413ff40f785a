"""A typed name → thing table that refuses duplicates and says what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from mllmseg.errors import ConfigError


def did_you_mean(name: str, known: list[str]) -> str:
    """A sentence that names the closest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing ("projector", "dataset") and what they stand for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that files its object under `name`. Raises ConfigError where the name is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ConfigError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """What `name` stands for. Raises ConfigError with the closest name where there is none."""
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} '{name}': {did_you_mean(name, list(self._entries))}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
