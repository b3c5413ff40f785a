from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mllmseg.agent.loop import Agent
from mllmseg.agent.trace import Trace
from mllmseg.demo.conversation import Talk, ask
from mllmseg.demo.panels import edit_panel, masks_panel, regions_panel, why_panel

pytestmark = pytest.mark.weights
NASTY = '"><script>alert(1)</script>'


def test_before_anything_was_said_each_panel_says_what_it_is_for() -> None:
    for panel in (masks_panel, edit_panel, regions_panel, why_panel):
        assert 'class="nothing"' in panel(Talk())


def test_the_list_has_a_row_a_mask(cup: Talk) -> None:
    assert masks_panel(cup).count("<li") == 1
    assert 'aria-checked="true"' in masks_panel(cup)
    assert 'aria-checked="false"' in masks_panel(cup.toggle(cup.selected))
    assert "below the threshold" in masks_panel(cup.redecide(0.999))


def test_what_was_not_found_stands_apart(agent: Agent, cup: Talk, settled: Callable[[Any], Talk]) -> None:
    html = masks_panel(settled(ask(agent, cup, "the zeppelin")))
    found, missed = html.split("<details")
    assert found.count("<li") == 1
    assert "1 not found at this threshold" in missed
    assert missed.count("<li") == 1


def test_what_strangers_write_stays_text(agent: Agent, coffee: Talk, settled: Callable[[Any], Talk], cup: Talk) -> None:
    named = cup.rename(cup.selected, NASTY)
    asked = settled(ask(agent, coffee, NASTY))
    for html in (masks_panel(named), edit_panel(named), regions_panel(named), why_panel(asked), masks_panel(asked)):
        assert "<script" not in html


def test_only_a_selected_mask_can_be_edited(cup: Talk) -> None:
    assert 'data-value="cut_out"' in edit_panel(cup)
    assert "data-work" not in edit_panel(replace(cup, selected=""))


def test_superpixels_are_counted_against_patches(cup: Talk) -> None:
    html = regions_panel(cup)
    tokens, patches = (int(value.replace(",", "")) for value in re.findall(r"<div><b>([\d,]+)</b>", html)[:2])
    assert tokens == len(cup.session.picture.segmenter.features.superpixels)  # type: ignore[attr-defined]
    assert patches == 24 * 16  # 336 pixels on the long side of 600 x 400, a patch 14
    assert "SAM's image encoder" in html.replace("&#x27;", "'")


def test_the_trace_can_be_saved_and_read_again(cup: Talk) -> None:
    html = why_panel(cup)
    assert "segment" in html
    assert "1 step," in html
    packed = re.search(r"base64,([^\"]+)\">Save as JSON", html)
    assert packed is not None
    assert Trace.from_json(base64.b64decode(packed[1]).decode()) == cup.session.exchanges[-1].trace
