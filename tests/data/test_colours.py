"""Names of colours, on patches whose colour nobody would argue about, and on some that everybody would."""

from __future__ import annotations

import numpy as np
import pytest

from mllmseg.data import colours


def name_of(*rgb: int) -> str | None:
    index = int(colours.name_pixels(colours.to_lab(np.array([rgb], dtype=np.uint8)))[0])
    return None if index == colours.NAMELESS else colours.NAMES[index]


def test_lab_of_known_colours() -> None:
    lab = colours.to_lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], dtype=np.uint8))
    # The published values have one decimal.
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0], [53.2, 80.1, 67.2]], atol=0.1)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 255, 255), "white"),
        ((10, 10, 12), "black"),
        ((128, 128, 128), "gray"),
        ((200, 20, 25), "red"),
        ((230, 120, 20), "orange"),
        ((101, 67, 33), "brown"),
        ((250, 220, 20), "yellow"),
        ((40, 140, 50), "green"),
        ((30, 80, 200), "blue"),
        ((120, 40, 140), "purple"),
        ((255, 150, 180), "pink"),
        ((210, 180, 140), None),  # skin, sand, wood
        ((64, 160, 160), None),  # between green and blue
    ],
)
def test_names(rgb: tuple[int, int, int], name: str | None) -> None:
    assert name_of(*rgb) == name


def test_a_region_has_a_name_only_where_one_is_clear() -> None:
    assert colours.clear_name({"red": 0.8, "white": 0.1}) == "red"
    assert colours.clear_name({"red": 0.5, "white": 0.4}) is None, "two colours"
    assert colours.clear_name({"red": 0.4}) is None, "mostly without a name"
    assert colours.clear_name({}) is None


@pytest.mark.parametrize("name", colours.NAMES)
@pytest.mark.parametrize("other", colours.NAMES)
def test_what_has_a_name_is_never_certainly_not_so(name: str, other: str) -> None:
    parts = {name: 0.8, other: 0.2} if name != other else {name: 1.0}
    assert not colours.certainly_not(name, parts)
    if colours.certainly_not(other, {name: 1.0}):
        assert colours.certainly_not(name, {other: 1.0}), "likeness goes both ways"


def test_unlike_colours_rule_each_other_out() -> None:
    assert colours.certainly_not("red", {"white": 0.9})
    assert not colours.certainly_not("red", {"orange": 0.9})
    assert colours.certainly_not("red", {"white": 0.4, "gray": 0.4}), "nothing red at all"
    assert not colours.certainly_not("black", {}), "not measured"
