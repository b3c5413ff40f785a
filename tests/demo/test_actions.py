from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllmseg.agent.loop import Agent
from mllmseg.demo.actions import Progress, act, send, settle, try_example, work
from mllmseg.demo.conversation import Talk
from mllmseg.demo.examples import EXAMPLES
from mllmseg.demo.loading import Loader
from mllmseg.errors import WeightsError

pytestmark = pytest.mark.weights
Settled = Callable[[Any], Talk]


def test_without_a_picture_it_asks_for_one(loader: Loader, settled: Settled) -> None:
    talk = settled(send(loader, Talk(), "the cup", []))
    assert "Drop a picture" in talk.lines[-1].text
    assert "Write what to look for" in settled(send(loader, Talk(), "  \n ", [])).lines[-1].text


def test_several_pictures_in_one_message(loader: Loader, settled: Settled, examples: Path) -> None:
    files = [str(examples / "coffee.jpg"), str(examples / "tower.jpg")]
    talk = settled(send(loader, Talk(), "", files))
    assert [picture.name for picture in talk.session.pictures] == ["coffee.jpg", "tower.jpg"]
    assert talk.session.current == "p2"
    assert "regions" in talk.lines[-1].text
    assert act(talk, {"do": "picture", "value": "p1"}).session.current == "p1"


def test_a_picture_is_there_to_see_before_the_model_has_seen_it(loader: Loader, examples: Path) -> None:
    step = next(iter(send(loader, Talk(), "the tower", [str(examples / "tower.jpg")])))
    assert isinstance(step, Progress)
    assert step.picture is not None
    assert step.words == "Looking at tower.jpg"


def test_a_broken_picture_is_an_answer(loader: Loader, settled: Settled, cup: Talk, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    talk = settled(send(loader, cup, "the cup", [str(tmp_path / "broken.png")]))
    assert talk.lines[-1].text.startswith("That did not work: broken.png: not an image")
    assert talk.session == cup.session


def test_an_example_looks_at_its_photo_once(loader: Loader, settled: Settled, coffee: Talk) -> None:
    number = next(index for index, item in enumerate(EXAMPLES) if item.photo == "coffee.jpg")
    talk = settled(try_example(loader, coffee, number))
    assert len(talk.session.pictures) == 1
    assert talk.session.exchanges[-1].trace.message == EXAMPLES[number].message
    assert settled(try_example(loader, coffee, 999)) is coffee


@pytest.mark.parametrize(
    "what",
    [{}, {"work": "explode"}, {"work": "point"}, {"work": "point", "x": "a", "y": 1, "inside": 1}, {"work": "box"},
     {"work": "example", "value": "x"}, {"work": "example"}, {"work": None}],
)  # fmt: skip
def test_what_no_page_sends_changes_nothing(loader: Loader, settled: Settled, cup: Talk, what: dict[str, Any]) -> None:
    assert settled(work(loader, cup, what)) == cup


@pytest.mark.parametrize("point", [{"x": -5, "y": 3}, {"x": 1e9, "y": 3}, {"x": float("nan"), "y": 3}])
def test_points_outside_are_an_answer(loader: Loader, settled: Settled, cup: Talk, point: dict[str, float]) -> None:
    talk = settled(work(loader, cup, {"work": "point", "inside": True, **point}))
    assert talk.session.exchanges[-1].answer.startswith("That did not work")
    assert talk.session.shown == cup.session.shown


@pytest.mark.parametrize(
    "what",
    [{}, {"do": "explode"}, {"do": "toggle", "value": "m99"}, {"do": "remove"}, {"do": "picture", "value": "p9"},
     {"do": "select", "value": "m9"}, {"do": "rename", "value": "m9", "name": "x"}, {"do": "view", "value": "x"},
     {"do": "pointer", "value": "x"}],
)  # fmt: skip
def test_deeds_on_what_is_not_there_change_nothing(cup: Talk, what: dict[str, Any]) -> None:
    assert act(cup, what) == cup


def test_settings_hold_for_a_new_conversation() -> None:
    talk = settle(None, "lenient", 0.3)
    assert (talk.session.mode.value, talk.session.threshold) == ("lenient", 0.3)


def test_a_model_that_cannot_be_had_is_an_answer(settled: Settled) -> None:
    def load() -> Agent:
        raise WeightsError("the weights are missing")

    talk = settled(send(Loader(load), Talk(), "the cup", []))
    assert "there is no model: the weights are missing" in talk.lines[-1].text
