from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mllmseg.agent.session import MAX_PICTURES, Offer, Session
from mllmseg.errors import DataError


@pytest.fixture
def masked(session, region):
    return session.add_mask("the car", region(0)).add_mask("the ball", region(3)).show(["m1"])


def test_nothing_changes_in_place(masked, region):
    for other in (
        masked.add_mask("x", region(1)), masked.show(["m2"]), masked.toggle("m2"), masked.rename("m1", "mine"),
        masked.add_edit("blur", masked.picture.image),
    ):  # fmt: skip
        assert other != masked
    assert [record.phrase for record in masked.visible] == ["the car"]


def test_masks_are_shown_hidden_and_renamed(masked):
    assert masked.toggle("m2").shown == ("m1", "m2")
    assert masked.toggle("m1").shown == ()
    assert masked.rename("m1", "my car").mask("m1").phrase == "my car"
    with pytest.raises(DataError, match="no mask 'm7'; known: m1, m2"):
        masked.show(["m7"])


def test_each_picture_has_its_own_masks_and_edits(masked, segmenter, picture):
    masked = masked.add_edit("grey", picture.convert("L").convert("RGB"))
    second = masked.add_picture(picture, segmenter, "again")
    assert second.visible == ()
    assert second.canvas is picture
    assert second.turn_to("p1").visible == masked.visible
    assert second.turn_to("p1").canvas is masked.canvas
    assert second.turn_to("p1").without_edits().canvas is picture


def test_it_means_what_is_shown_on_the_picture_that_is_turned_to(masked, segmenter, picture):
    second = masked.add_picture(picture, segmenter, "again")
    assert (second.focus, second.topic) == ((), "")
    first = second.turn_to("p1")
    assert (first.focus, first.topic) == (("m1",), "the car")


def test_limits(session, segmenter, picture):
    for _ in range(MAX_PICTURES - 1):
        session = session.add_picture(picture, segmenter)
    with pytest.raises(DataError, match=f"holds {MAX_PICTURES} pictures"):
        session.add_picture(picture, segmenter)
    with pytest.raises(DataError, match="no picture to talk about"):
        _ = Session().picture
    with pytest.raises(DataError, match="no picture 'p99'"):
        session.turn_to("p99")


def test_a_mask_is_a_copy(session, region):
    mask = region(0)
    session = session.add_mask("the car", mask)
    mask[:] = True
    assert not np.array_equal(session.mask("m1").mask, mask)


def test_a_threshold_is_applied_anew_to_answers_that_were_given(session, segmenter):
    answer = segmenter.segment("the blue car", threshold=0.0)
    known = session.add_answer(answer, 0.5)
    record = known.masks[0]
    assert (record.exists, record.score) == (True, 0.9)
    known = known.show([record.id])
    gone = known.redecide(0.95)
    assert (gone.masks[0].exists, gone.masks[0].mask.any(), gone.visible, gone.threshold) == (False, False, (), 0.95)
    back = gone.redecide(0.5)
    assert back.visible == back.masks
    hidden = known.show([]).redecide(0.95).redecide(0.5)
    assert (hidden.visible, hidden.masks) == ((), known.masks), "what was hidden stays hidden"
    assert session.add_answer(answer, 0.95).redecide(0.5).shown == (record.id,), "what was not found is shown then"
    assert (back.masks[0].mask == record.mask).all()


def test_masks_made_of_others_stay_as_they_were_made(session, region):
    known = session.add_mask("both", region(0, 1), score=0.2).show(["m1"])
    assert known.redecide(0.9).shown == ("m1",)


def test_a_forgotten_mask_is_nowhere_and_its_id_is_not_given_again(session, region):
    known = session.add_mask("one", region(0)).add_mask("two", region(1)).show(["m1", "m2"])
    known = replace(known, focus=("m1",), offer=Offer("m1", "one")).remove_mask("m1")
    assert (known.shown, known.focus, known.offer) == (("m2",), (), None)
    assert known.add_mask("three", region(2)).masks[-1].id == "m3"
    with pytest.raises(DataError, match="no mask 'm1'"):
        known.remove_mask("m1")
