"""Names of things."""

from __future__ import annotations

import pytest

from mllmseg.errors import ConfigError
from mllmseg.registry import Registry, did_you_mean


@pytest.fixture
def fruits() -> Registry[str]:
    registry: Registry[str] = Registry("fruit")
    for name in ("apple", "banana"):
        registry.register(name)(name.upper())
    return registry


def test_get(fruits: Registry[str]) -> None:
    assert fruits.get("apple") == "APPLE"
    assert list(fruits) == ["apple", "banana"]


def test_a_name_is_taken_once(fruits: Registry[str]) -> None:
    with pytest.raises(ConfigError, match="fruit 'apple' is registered twice"):
        fruits.register("apple")("another")


@pytest.mark.parametrize(("name", "hint"), [("bananna", "did you mean 'banana'?"), ("xyz", "known: apple, banana")])
def test_an_unknown_name_gets_a_hint(fruits: Registry[str], name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fruits.get(name)
    assert str(caught.value) == f"unknown fruit '{name}': {hint}"


def test_nothing_is_known() -> None:
    assert did_you_mean("x", []) == "known: none"
