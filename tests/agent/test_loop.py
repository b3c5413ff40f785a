"""Conversations about the drawn picture: what is shown, what is said, which pixels change."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mllmseg.agent.execution import Final
from mllmseg.agent.loop import Agent, Reply
from mllmseg.agent.session import Mode, Session
from mllmseg.agent.tools import Call
from mllmseg.agent.trace import Trace, replay
from mllmseg.errors import DataError
from mllmseg.inference.pretrained import embedded_checkpoint


@pytest.fixture
def agent(segmenter) -> Agent:
    return Agent(segmenter)


@pytest.fixture
def session(agent, picture) -> Session:
    return agent.open(picture)


def talk(agent: Agent, session: Session, *messages: str) -> Reply:
    for message in messages:
        reply = agent.ask(session, message)
        session = reply.session
    return reply


def shown(reply: Reply) -> np.ndarray:
    height, width = np.array(reply.session.picture.image).shape[:2]
    return np.logical_or.reduce([np.zeros((height, width), bool), *(record.mask for record in reply.masks)])


@pytest.mark.parametrize(
    ("messages", "things"),
    [
        (["the car"], [0]),
        (["the dog on the left and the ball"], [1, 3]),
        (["the dogs but not the black one"], [1]),
        (["the dogs", "only the left one"], [1]),
        (["the left dog", "not that one"], [2]),
        (["the dogs", "except the left one"], [1 + 1]),
        (["the car", "and the ball"], [0, 3]),
        (["the car", "and the ball", "undo"], [0]),
        (["the car", "what is this?"], [0]),
        (["the ball", "the one left of it"], []),
        (["the car", "the dogs left of it"], [1, 2]),
        (["the dog on the left and the cat"], [1]),
        (["the car", "hide"], []),
        (["is there a person?"], [4]),
    ],
)
def test_what_is_shown(agent, session, region, messages, things):
    assert (shown(talk(agent, session, *messages)) == region(*things)).all()


@pytest.mark.parametrize(
    ("messages", "things", "said"),
    [
        (["the car", "where is it?"], [0], "Here is “the car”"),
        (["the car", "hide the rest"], [0], "Here is “the car”"),
        (["the car", "the ball", "both"], [0, 3], "Here are “the car” and “the ball”"),
        (["the car and the ball", "the left one"], [3], "Here is “the left one”"),  # nor the left ball nor car
        (["the car", "is there a cat?", "are you sure?"], [], "No. I see no cat here."),
        (["the car", "is there a cat?", "blur it"], [], "I do not know yet what you mean by that"),
        (["is there no car?"], [0], "Here is “the car”"),
        (["isn't there a cat?"], [], "I see no cat here."),
        (["is there a car and a cat?"], [0], "Here is “a car”, 4.4% of the picture, right. I see no cat here."),
        (["is the car red?"], [0], "No, most of “the car” is blue, not red."),
        (["the car", "is it blue?"], [0], "Yes, most of “the car” is blue."),
        (["make the car green", "is it green?"], [0], "Yes, most of “the car” is green."),
        (["are there no more cars?"], [0], "Here are “the cars”"),
        (["is it blue?"], [], "I do not know yet what you mean by that"),
        (["are there more than three dogs?"], [1, 2], "I count 2 for “the dogs”"),
        (["are there fewer dogs than balls?"], [1, 2, 3], "I count 2 for “the dogs” and 1 for “the balls”"),
        (["the dogs", "are there others?"], [], "I see no other one."),
        (["the left dog", "is there another one?"], [2], "Here is “the dogs except the left dog”"),
        (["where is it?"], [], "I do not know yet what you mean by that"),
        (["how many of them are there?"], [], "I do not know yet what you mean by that"),
        (["the car " * 300], [], "That message has 2,399 characters: say it in 2,000 at most."),
    ],
)
def test_words_and_masks_agree(agent, session, region, messages, things, said):
    reply = talk(agent, session, *messages)
    assert reply.text.startswith(said)
    assert (shown(reply) == region(*things)).all()


@pytest.mark.parametrize("message", ["not the car", "don't show the car"])
def test_what_is_left_out_of_nothing_is_left_out_of_everything(agent, session, region, message):
    assert (shown(talk(agent, session, message)) == ~region(0)).all()


@pytest.mark.parametrize("message", ["yes", "how big is it?", "everything else"])
def test_what_another_threshold_took_away_is_not_meant(agent, session, message):
    offered = talk(agent, session, "the red car" if message == "yes" else "the car").session
    reply = agent.ask(offered.redecide(0.99), message)
    assert not reply.masks
    assert "Here" not in reply.text
    assert "0 pixels" not in reply.text


def test_what_stands_in_is_called_what_it_is(agent, picture, region):
    reply = talk(agent, agent.open(picture, mode=Mode.LENIENT), "how many red cars are there?")
    assert reply.text.startswith("I count 1 for “the cars”")
    assert "they are blue, not red" in reply.text


def test_a_rejection_in_words_leaves_nothing_marked(agent, session, segmenter, monkeypatch):
    before = talk(agent, session, "the car").session
    for score, marked in ((0.0, 1), (0.3, 0)):  # an answer that decides nothing keeps what was marked
        said = replace(session.picture.segmenter.segment("the cat"), answer="I see no cat here.", score=score)
        monkeypatch.setattr(type(segmenter), "chat", lambda *_, said=said, **__: said)
        assert len(agent.ask(before, "what is the cat doing?").masks) == marked


def test_the_language_model_is_told_what_it_decided_before(agent, session, segmenter, monkeypatch):
    heard = []
    said = replace(session.picture.segmenter.segment("the cat"), answer="I see no cat here.", score=0.3)
    monkeypatch.setattr(type(segmenter), "chat", lambda _, messages, **__: heard.append(messages) or said)
    talk(agent, session, "what is the cat doing?", "what is the dog doing?")
    assert heard[-1][1] == {"role": "assistant", "content": "I see no cat here.", "exists": False}


def test_everything_except(agent, session, region):
    assert (shown(talk(agent, session, "everything except the people and the dogs")) == ~region(1, 2, 4)).all()


def test_everything_except_what_is_not_there_is_everything(agent, session, region):
    reply = talk(agent, session, "everything except the cats")
    assert shown(reply).all()
    assert "I see no cats here." in reply.text
    assert talk(agent, session, "blur everything except the cats").image is None


def test_both_and_why(agent, session, region):
    reply = talk(agent, session, "the car", "the ball", "both")
    assert (shown(reply) == region(0, 3)).all()
    why = talk(agent, session, "the red car", "why?")
    assert "P 0.05 that there is “the red car”, too little" in why.text
    assert "“the car” is blue, right" in why.text
    assert "Mode: strict" in why.text
    assert why.offer is not None
    assert "P 0.05 that there is “the red car”" in talk(agent, session, "the red car", "yes", "why?").text, "before yes"
    assert "nothing to explain" in talk(agent, session, "why").text


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("the cat", "I see no cat here."),
        ("die Katze", "I see nothing that is “die Katze” here."),
        ("<b>cat</b>", "I see nothing that is “<b>cat</b>” here."),
        ("the car on the left", "There is a car, but none on the left: it is on the right."),
        ("the red car", "There is a car, but it is blue, not red."),
        ("the dog left of the cat", "There is a dog, but no cat."),
        ("the person left of the car", "There is a person, but none left of the car."),
        ("is there a cat?", "No. I see no cat here."),
        ("how many dogs are there?", "I count 2 for “the dogs” (things that touch count as one)."),
        ("how far is the car from the ball?", "They are 111 pixels apart."),
        ("猫", "I see nothing that is “猫” here."),
        ("[SEG]", "That did not work: the question '[SEG]' holds [SEG], which has a meaning of its own here."),
    ],
)
def test_what_is_said(agent, session, message, said):
    assert talk(agent, session, message).text.removesuffix(" Shall I show that instead?") == said


def test_the_closest_candidate_is_offered_and_shown_only_when_asked_for(agent, session, region):
    reply = talk(agent, session, "the red car")
    assert reply.masks == ()
    assert reply.offer is not None
    assert reply.offer.phrase == "the car"
    assert reply.session.mask(reply.offer.mask).phrase == "the car"  # not "the red car": it is none
    assert (shown(talk(agent, reply.session, "yes please")) == region(0)).all()
    assert talk(agent, reply.session, "the ball").offer is None


def test_lenient_shows_the_closest_and_says_so(agent, picture, region):
    reply = talk(agent, agent.open(picture, mode=Mode.LENIENT), "the red car")
    assert (shown(reply) == region(0)).all()
    assert "it is blue, not red" in reply.text
    assert reply.offer is None


@pytest.mark.parametrize(
    ("query", "contrary", "said"),
    [
        ("the red car", "the blue car", "There is a car, but it is blue, not red."),  # told by its pixels
        ("the open car", "the closed car", "There is a car, but it looks closed, not open."),
    ],
)
def test_what_looks_like_the_contrary(agent, session, segmenter, region, query, contrary, said):
    """A model that takes a closed, blue car for an open or red one at 0.6, and for what it is at 0.9."""
    picture = session.picture
    honest = picture.segmenter.segment

    def gullible(asked, *, threshold=None):
        if isinstance(asked, list):
            return [gullible(text, threshold=threshold) for text in asked]
        if asked not in (query, contrary):
            return honest(asked, threshold=threshold)
        return replace(honest("the car", threshold=threshold), query=asked, score=0.6 if asked == query else 0.9)

    picture.segmenter.segment = gullible
    strict = talk(agent, session, query)
    assert strict.masks == ()
    assert strict.text == f"{said} Shall I show that instead?"
    assert (shown(talk(agent, strict.session, "yes")) == region(0)).all()
    lenient = talk(agent, replace(session, mode=Mode.LENIENT), query)
    assert (shown(lenient) == region(0)).all()
    assert said in lenient.text
    assert "“the red car”" not in lenient.text
    assert lenient.masks[0].phrase == talk(agent, strict.session, "yes").masks[0].phrase != query
    assert lenient.offer is None


def test_sides_are_looked_up_in_the_mask_of_all(agent, session, segmenter, region):
    """A model that marks both dogs whichever it is asked for."""
    picture = session.picture
    honest = picture.segmenter.segment

    def coarse(asked, *, threshold=None):
        if isinstance(asked, list):
            return [coarse(text, threshold=threshold) for text in asked]
        return replace(honest("the dogs" if "dog" in asked else asked, threshold=threshold), query=asked)

    picture.segmenter.segment = coarse
    assert (shown(talk(agent, session, "the dog on the right")) == region(2)).all()
    assert (shown(talk(agent, session, "the dogs except the leftmost one")) == region(2)).all()
    assert (shown(talk(agent, session, "the dogs", "only the left one")) == region(1)).all()
    assert (shown(talk(agent, session, "the dogs", "the one on the right")) == region(2)).all()


def test_the_only_one_is_on_the_other_side(agent, session, segmenter, region):
    """A model that does not care for sides: the car is on the right."""
    picture = session.picture
    honest = picture.segmenter.segment

    def careless(asked, *, threshold=None):
        if isinstance(asked, list):
            return [careless(text, threshold=threshold) for text in asked]
        return replace(honest("the car" if "car" in asked else asked, threshold=threshold), query=asked)

    picture.segmenter.segment = careless
    reply = talk(agent, session, "the car on the left")
    assert reply.masks == ()
    assert reply.text.startswith("There is a car, but none on the left: it is on the right.")
    assert (shown(talk(agent, session, "the leftmost car")) == region(0)).all()
    reply = talk(agent, session, "the cars except the leftmost one")
    assert (shown(reply) == region(0)).all(), "leaving out what may be all of them would leave nothing"
    assert reply.text.endswith("I cannot tell the leftmost car from the others.")


@pytest.mark.parametrize(
    ("messages", "things", "inside"),
    [
        (["make the car red"], [0], True),
        (["remove the ball"], [3], True),
        (["the dogs", "grey them"], [1, 2], True),
        (["find the car and blur the background"], [0], False),
        (["make everything except the dogs black and white"], [1, 2], False),
    ],
)
def test_edits_change_only_their_region(agent, session, region, messages, things, inside):
    reply = talk(agent, session, *messages)
    assert reply.image is not None
    changed = (np.array(reply.image) != np.array(session.picture.image)).any(-1)
    allowed = region(*things) if inside else ~region(*things)
    assert changed.any()
    assert not (changed & ~allowed).any()


def test_edits_of_missing_things_are_not_made(agent, session):
    reply = talk(agent, session, "remove the cat")
    assert reply.image is None
    assert reply.text == "I see no cat here."


def test_edits_add_up_and_are_undone(agent, session, region):
    both = talk(agent, session, "make the car red", "make the ball blue")
    changed = (np.array(both.session.canvas) != np.array(session.picture.image)).any(-1)
    assert (changed == region(0, 3)).all()
    undone = talk(agent, both.session, "undo")
    assert ((np.array(undone.session.canvas) != np.array(session.picture.image)).any(-1) == region(0)).all()
    assert talk(agent, both.session, "start over").session.canvas is session.picture.image


def test_sessions_do_not_see_each_other(agent, picture):
    first, second = agent.open(picture), agent.open(picture.transpose(0))
    one, _ = agent.ask(first, "the car"), agent.ask(second, "the ball")
    assert [record.phrase for record in agent.ask(one.session, "and the ball").masks] == ["the car", "the ball"]
    assert first.masks == ()
    assert first.picture.segmenter is not second.picture.segmenter


def test_undo_at_the_start_and_a_session_without_a_picture(agent, session):
    assert talk(agent, session, "undo").text == "There is nothing to undo."
    with pytest.raises(DataError, match="no picture"):
        agent.ask(Session(), "the car")


class Endless:
    name = "endless"

    def work(self, message, session):
        while True:
            yield Call("segment", {"query": "the car"})
        return Final("never")


@pytest.mark.parametrize(("limits", "said"), [({"max_steps": 5}, "5 steps"), ({"max_seconds": 0.0}, "too long")])
def test_steps_and_time_are_bounded(segmenter, picture, limits, said):
    agent = Agent(segmenter, planner=Endless(), **limits)
    reply = agent.ask(agent.open(picture), "go")
    assert said in reply.text
    assert len(reply.trace.steps) <= 5


CONVERSATION = (
    "the dogs", "only the left one", "the red car", "yes", "make it green", "the free space left of the car",
    "how many people are there?", "measure the cat", "are you sure?", "[REJ]", "everything except the ball",
)  # fmt: skip


def test_a_trace_tells_every_step_and_replays_to_the_same(agent, session):
    for message in CONVERSATION:
        reply = agent.ask(session, message)
        text = reply.trace.to_json()
        trace = Trace.from_json(text)
        assert trace == reply.trace
        assert json.loads(text)["message"] == message
        again, differences = replay(trace, session)
        assert differences == []
        for name in trace.shown:
            assert (again.mask(name).mask == reply.session.mask(name).mask).all()
        assert [(item.id, item.op) for item in again.edits] == [(item.id, item.op) for item in reply.session.edits]
        for step in trace.steps:
            assert step.error or step.result
            assert step.milliseconds >= 0
            assert not step.result.get("mask") or step.thumbnail.startswith("data:image/png;base64,")
        session = reply.session
    assert [exchange.message for exchange in session.exchanges] == list(CONVERSATION)


def test_replay_says_what_came_out_otherwise(agent, session):
    trace = agent.ask(session, "the car").trace
    step = trace.steps[0].model_copy(update={"result": {**trace.steps[0].result, "score": 0.1}})
    _, differences = replay(trace.model_copy(update={"steps": (step,)}), session)
    assert differences == ["step 1 (segment): score 0.9 instead of 0.1"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"message": 3}'])
def test_what_is_no_trace_is_refused(text):
    with pytest.raises(DataError, match="not a trace"):
        Trace.from_json(text)


@pytest.mark.weights
@pytest.mark.slow
def test_with_the_model_that_comes_along():
    from pathlib import Path

    from mllmseg.inference.segmenter import Segmenter

    if not embedded_checkpoint().is_dir():
        pytest.skip("this checkout carries no trained model")
    agent = Agent(Segmenter.from_pretrained(None))
    session = agent.open(Path(__file__).parents[2] / "examples" / "astronaut.jpg")
    found = agent.ask(session, "the person")
    assert [record.phrase for record in found.masks] == ["the person"]
    assert found.masks[0].mask.mean() > 0.05
    assert replay(found.trace, session)[1] == []
    blurred = agent.ask(found.session, "blur the background")
    assert blurred.image is not None
    kept = found.masks[0].mask
    assert (np.array(blurred.image)[kept] == np.array(session.picture.image)[kept]).all()
    again, one = agent_pick(found.session, found.masks[0].id)
    assert not (again.mask(one.mask).mask & ~kept).any()
    x, y, width, height = (int(side) for side in found.trace.steps[0].result["box"])
    refined, result = agent_refine(blurred.session, found.masks[0].id, (x, y, width, height))
    assert refined.mask(result.mask).mask.any()


def agent_pick(session, mask):
    from mllmseg.agent.tools import call_tool

    return call_tool(session, Call("pick", {"mask": mask, "end": "leftmost"}))


def agent_refine(session, mask, box):
    from mllmseg.agent.tools import call_tool

    return call_tool(session, Call("refine", {"mask": mask, "box": list(box)}))
