from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mllmseg.agent.loop import Agent
from mllmseg.agent.session import Mode
from mllmseg.demo.conversation import MAX_MESSAGE, MAX_TURNS, Talk, ask, change, refine
from mllmseg.errors import DataError

pytestmark = pytest.mark.weights
Settled = Callable[[Any], Talk]


def test_tells_of_its_steps_and_ends_with_the_answer(agent: Agent, coffee: Talk) -> None:
    steps = list(ask(agent, coffee, "the cup"))
    assert "Looking for “the cup”" in steps
    assert [isinstance(step, Talk) for step in steps] == [False] * (len(steps) - 1) + [True]
    talk = steps[-1]
    assert isinstance(talk, Talk)
    assert [line.role for line in talk.lines] == ["user", "user", "assistant"]
    assert talk.selected == talk.session.visible[0].id


def test_undo_takes_back_the_last_thing_and_typing_it_does_the_same(agent: Agent, cup: Talk, settled: Settled) -> None:
    assert cup.undo().session.masks == ()
    assert len(cup.undo().lines) == 1
    assert settled(ask(agent, cup, "undo")) == cup.undo()
    everything = cup.undo().undo()
    assert everything.session.pictures == ()
    assert everything.undo() == everything


def test_undo_keeps_the_settings(cup: Talk) -> None:
    undone = cup.with_mode(Mode.LENIENT).redecide(0.7).undo()
    assert (undone.session.mode, undone.session.threshold) == (Mode.LENIENT, 0.7)


def test_a_moved_threshold_decides_anew_and_computes_nothing(
    cup: Talk, monkeypatch: pytest.MonkeyPatch, agent: Agent
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(type(agent.segmenter), "segment", never)
    record = cup.session.masks[0]
    gone = cup.redecide(0.999).session
    assert not gone.masks[0].exists
    assert not gone.masks[0].mask.any()
    assert gone.visible == ()
    back = cup.redecide(0.999).redecide(0.5).session
    assert back.shown == (record.id,)
    assert np.array_equal(back.masks[0].mask, record.mask)


def test_what_was_not_found_appears_below_its_score(agent: Agent, coffee: Talk, settled: Settled) -> None:
    talk = settled(ask(agent, coffee, "the laptop"))
    assert talk.session.visible == ()
    score = talk.session.masks[0].score
    assert [item.phrase for item in talk.redecide(score - 0.01).session.visible] == ["the laptop"]
    assert talk.redecide(score + 0.01).session.visible == ()


def test_masks_are_hidden_renamed_and_forgotten(cup: Talk) -> None:
    name = cup.selected
    assert cup.toggle(name).session.visible == ()
    assert cup.toggle(name).toggle(name).session.visible == cup.session.visible
    assert cup.rename(name, "  die\n Tasse ☕ ").session.masks[0].phrase == "die Tasse ☕"
    assert cup.rename(name, "   ") is cup
    removed = cup.remove(name)
    assert removed.session.masks == ()
    assert removed.selected == ""
    assert removed.undo().session.masks == cup.session.masks


def test_a_mask_that_was_forgotten_leaves_its_id_to_nobody(cup: Talk) -> None:
    session = cup.session.add_mask("another", cup.session.masks[0].mask).remove_mask("m1")
    assert [item.id for item in session.add_mask("third", session.masks[0].mask).masks] == ["m2", "m3"]


def test_a_click_corrects_the_selected_mask(agent: Agent, cup: Talk, settled: Settled) -> None:
    talk = settled(refine(agent, replace(cup, pointer="take"), points=[{"x": 290, "y": 120, "inside": False}]))
    assert talk.chosen is not None
    assert talk.chosen.id != cup.selected
    assert talk.chosen.phrase == "the cup"
    assert talk.session.shown == (talk.chosen.id,)
    assert talk.pointer == "take"
    assert not np.array_equal(talk.chosen.mask, cup.session.masks[0].mask)
    assert [step.tool for step in talk.session.exchanges[-1].trace.steps] == ["refine"]


def test_a_box_makes_a_new_mask_where_none_is_selected(agent: Agent, cup: Talk, settled: Settled) -> None:
    talk = settled(refine(agent, replace(cup, selected=""), box=[320, 225, 92, 104]))
    assert len(talk.session.shown) == 2
    assert talk.chosen is not None
    x, y, width, height = 320, 225, 92, 104
    inside = talk.chosen.mask[y : y + height, x : x + width].sum() / talk.chosen.mask.sum()
    assert inside > 0.9


@pytest.mark.parametrize(("op", "colour"), [("blur", None), ("recolour", "blue"), ("remove", None)])
def test_an_edit_changes_the_region_alone(
    agent: Agent, cup: Talk, settled: Settled, op: str, colour: str | None
) -> None:
    talk = settled(change(agent, cup, op, colour))
    assert talk.view == "result"
    before, after = np.array(cup.session.picture.image), np.array(talk.session.edits[-1].image)
    mask = cup.session.masks[0].mask
    assert np.array_equal(before[~mask], after[~mask])
    assert (before[mask] != after[mask]).any()


def test_nothing_hidden_is_selected(agent: Agent, cup: Talk, settled: Settled) -> None:
    assert settled(ask(agent, cup, "the zeppelin")).selected == ""


def test_an_edit_wants_a_mask(agent: Agent, coffee: Talk) -> None:
    with pytest.raises(DataError, match="choose a mask"):
        list(change(agent, coffee, "blur"))


def test_a_bad_edit_is_an_answer(agent: Agent, cup: Talk, settled: Settled) -> None:
    talk = settled(change(agent, cup, "explode"))
    assert talk.session.exchanges[-1].answer.startswith("That did not work")


@pytest.mark.parametrize(
    "message", ["杯子", "☕🐈", "الكوب", "12345", "<img src=x onerror=alert(1)>", "{{x}} ${y} `z`"]
)
def test_any_characters_are_accepted(agent: Agent, coffee: Talk, settled: Settled, message: str) -> None:
    talk = settled(ask(agent, coffee, message))
    assert talk.lines[-2].text == message
    assert talk.session.exchanges[-1].answer


def test_conversations_end_somewhere(cup: Talk) -> None:
    with pytest.raises(DataError, match="up to 1000"):
        cup.check_room("x" * (MAX_MESSAGE + 1))
    long = replace(cup, session=replace(cup.session, exchanges=cup.session.exchanges * MAX_TURNS))
    with pytest.raises(DataError, match="start a new one"):
        long.check_room("the cup")
