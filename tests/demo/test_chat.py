from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from mllmseg.agent.session import Offer
from mllmseg.demo.chat import messages, pending, plain
from mllmseg.demo.conversation import Line, Talk

pytestmark = pytest.mark.weights
NASTY = "<script>alert(1)</script> **bold** [x](javascript:y) `code` {{z}} ${a} 杯子 ☕ ا"


def test_plain_text_is_neither_html_nor_markdown() -> None:
    written = plain(NASTY)
    assert html.unescape(written) == NASTY
    assert not set("<>*[]()`{}$") & set(written)


def test_each_phrase_has_the_colour_of_its_mask(cup: Talk) -> None:
    said = messages(cup)[-1]["content"]
    assert '<b class="phrase color-0">the cup</b>' in said
    assert re.search(r'<span class="chip color-0"><b>the cup</b> <span class="facts">P 0&#46;\d\d · \d', said)


def test_below_the_threshold_the_chip_says_so(cup: Talk) -> None:
    said = html.unescape(messages(cup.redecide(0.999))[-1]["content"])
    assert "below the threshold" in said


def test_pictures_are_shown_by_name(coffee: Talk) -> None:
    message = messages(coffee)[0]
    assert message["role"] == "user"
    assert 'alt="coffee&#46;jpg" src="data:image/jpeg;base64,' in message["content"].value


def test_names_and_messages_of_strangers_stay_text(cup: Talk) -> None:
    talk = cup.rename(cup.selected, NASTY).say("user", NASTY).say("assistant", NASTY)
    for message in messages(talk)[1:]:
        assert "<script" not in message["content"]
        assert "**bold" not in message["content"]


def test_the_closest_thing_is_offered_in_one_click(cup: Talk) -> None:
    offered = replace(cup, session=replace(cup.session, offer=Offer("m1", "the red cup")))
    assert messages(offered)[-1]["options"] == [{"value": "yes", "label": "Show “the red cup” instead"}]
    later = replace(offered, lines=(*offered.lines, Line("assistant", "something else")))
    assert not any("options" in message for message in messages(later))


def test_while_it_works_the_question_and_the_step_are_there(coffee: Talk) -> None:
    *_, asked, working = pending(coffee, "the <b>cup</b>", "Looking for “the cup”")
    assert "the &#60;b&#62;cup" in asked["content"]
    assert working["metadata"]["status"] == "pending"
    assert "Looking for" in working["metadata"]["title"]
