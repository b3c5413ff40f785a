from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from mllmseg.agent.loop import Agent
from mllmseg.demo.conversation import Talk, change
from mllmseg.demo.drawing import colours, data_uri, draw_looking, draw_stage
from mllmseg.demo.uploads import Upload

pytestmark = pytest.mark.weights
NASTY = '"><img src=x onerror=alert(1)> ${y} {{z}}'


def svg_of(html: str) -> ElementTree.Element:
    """The drawing, which must be well-formed for a browser to read it as meant."""
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def test_the_empty_page_says_what_to_do() -> None:
    assert "Choose a picture, or drop it here" in draw_stage(Talk())


def test_a_picture_is_shown_while_it_is_looked_at() -> None:
    html = draw_looking(Upload(Image.new("RGB", (8, 8)), NASTY))
    assert 'src="data:image/jpeg' in html
    assert "<img src=x" not in html


def test_regions_are_drawn_on_the_picture_that_was_cut(agent: Agent, cup: Talk, settled: Callable[[Any], Talk]) -> None:
    edited = settled(change(agent, cup, "recolour", "blue"))
    base = [
        svg_of(draw_stage(replace(edited, view=view))).find("image").attrib["href"]  # type: ignore[union-attr]
        for view in ("regions", "original", "masks")
    ]
    assert base[0] == base[1] != base[2]


def test_a_mask_is_a_path_that_tells_its_phrase(cup: Talk) -> None:
    drawing = svg_of(draw_stage(cup))
    (mask,) = drawing.findall("path")
    assert mask.attrib["aria-label"].startswith("the cup · ")
    assert mask.attrib["data-mask"] == cup.selected
    assert mask.attrib["tabindex"] == "0"
    assert drawing.attrib["viewBox"] == "0 0 600 400"
    assert "Marked: “the cup” (middle)" in drawing.attrib["aria-label"]


def test_hidden_masks_are_not_drawn(cup: Talk) -> None:
    assert svg_of(draw_stage(cup.toggle(cup.selected))).findall("path") == []


def test_names_of_strangers_stay_text(cup: Talk) -> None:
    picture = replace(cup.session.picture, name=NASTY)
    session = replace(cup.session, pictures=(picture, replace(picture, id="p2")))
    drawn = draw_stage(replace(cup, session=session).rename(cup.selected, NASTY))
    assert "<img src=x" not in drawn
    assert svg_of(drawn).find("path").attrib["data-tip"].startswith(NASTY)  # type: ignore[union-attr]


def test_superpixels_are_numbered_and_lit_by_their_scores(cup: Talk) -> None:
    count = len(cup.session.picture.segmenter.features.superpixels)  # type: ignore[attr-defined]
    drawing = svg_of(draw_stage(replace(cup, view="regions")))
    assert [item.text for item in drawing.findall("text")] == [str(number) for number in range(count)]
    classes = [item.attrib["class"] for item in drawing.findall("path")]
    assert set(classes) == {"region lit", "region dim"}
    tips = [item.attrib["data-tip"] for item in drawing.findall("path")]
    for name, tip in zip(classes, tips, strict=True):
        assert (float(re.sub(r".*P ", "", tip)) >= 0.5) == (name == "region lit")


def test_colours_stay_with_their_phrases(cup: Talk) -> None:
    session = cup.session.add_mask("another", cup.session.masks[0].mask).add_mask("the cup", cup.session.masks[0].mask)
    assert colours(session) == {"the cup": 0, "another": 1}


def test_transparency_survives(cup: Talk) -> None:
    assert data_uri(Image.new("RGBA", (9, 9))).startswith("data:image/webp;base64,")
