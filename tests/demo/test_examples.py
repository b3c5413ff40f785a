from __future__ import annotations

import tomllib
from pathlib import Path

from mllmseg.demo.examples import EXAMPLES, available, examples_html

ROOT = Path(__file__).parents[2]


def test_every_photo_is_there() -> None:
    assert len(available()) == len(EXAMPLES)
    assert examples_html().count("<button") == len(EXAMPLES)


def test_wheels_carry_the_photos() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    carried = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for example in EXAMPLES:
        assert carried[f"examples/{example.photo}"] == f"mllmseg/demo/examples/{example.photo}"
