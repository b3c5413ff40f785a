from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmseg.agent.judge import masked_crop
from mllmseg.agent.schemas import EditResult, Found, Measurement, Place, Spoken, Verdict
from mllmseg.agent.session import Session
from mllmseg.agent.tools import TOOLS, Call, call_tool
from mllmseg.errors import ConfigError, DataError, MLLMSegError


def use(session: Session, tool: str, **arguments):
    return call_tool(session, Call(tool, arguments))


def test_every_tool_describes_itself_for_function_calling():
    assert set(TOOLS) == {"segment", "verify", "refine", "combine", "pick", "measure", "edit", "where", "talk"}
    for name in TOOLS:
        schema = json.loads(json.dumps(TOOLS.get(name).schema))
        assert schema["function"]["name"] == name
        assert len(schema["function"]["description"]) > 20
        parameters = schema["function"]["parameters"]
        assert parameters["type"] == "object"
        assert parameters["additionalProperties"] is False
        assert "$ref" not in json.dumps(parameters)


def test_the_documentation_knows_every_tool_and_argument():
    page = (Path(__file__).parents[2] / "docs" / "agent.md").read_text(encoding="utf-8")
    for name in TOOLS:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        for argument in TOOLS.get(name).schema["function"]["parameters"]["properties"]:
            assert f"`{argument}`" in row, f"docs/agent.md does not say that {name} takes {argument}"


def test_segment_makes_a_mask_of_exactly_what_was_found(session, region):
    session, result = use(session, "segment", query="the dogs")
    assert isinstance(result, Found)
    assert result.exists
    assert (session.mask(result.mask).mask == region(1, 2)).all()
    assert result.share == pytest.approx(region(1, 2).mean(), abs=1e-6)
    assert not session.mask(result.mask).mask.flags.writeable


def test_segment_of_a_missing_thing_is_an_empty_mask(session):
    session, result = use(session, "segment", query="the cat")
    assert not result.exists
    assert result.box == (0, 0, 0, 0)
    assert not session.mask(result.mask).mask.any()


def test_the_sessions_threshold_decides(session):
    from dataclasses import replace

    assert not use(replace(session, threshold=0.95), "segment", query="the car")[1].exists
    assert use(replace(session, threshold=0.01), "segment", query="the car on the left")[1].exists


def test_pick_takes_one_of_several(session, region):
    session, dogs = use(session, "segment", query="the dogs")
    for end, index in (("leftmost", 1), ("rightmost", 2), ("topmost", 2), ("lowest", 1)):
        session, one = use(session, "pick", mask=dogs.mask, end=end)
        assert (session.mask(one.mask).mask == region(index)).all()
    assert one.phrase == "the lowest of the dogs"
    session, car = use(session, "segment", query="the car")
    session, none = use(session, "pick", mask=car.mask, end="leftmost", query="the left car", apart=True)
    assert not none.exists
    assert none.phrase == "the left car"


def test_verify_looks_at_the_colours(session):
    session, found = use(session, "segment", query="the car")
    assert use(session, "verify", mask=found.mask, query="the red car", closely=False)[1].colour == "blue"
    assert use(session, "verify", mask=found.mask, query="the blue car", closely=False)[1].colour == ""


def test_verify_names_the_contrary_phrase_that_fits_better(session):
    session, found = use(session, "segment", query="the car")
    session, verdict = use(session, "verify", mask=found.mask, query="the red car", closely=False)
    assert isinstance(verdict, Verdict)
    assert not verdict.fits
    assert verdict.rival == "the blue car"
    assert verdict.probability is None
    assert use(session, "verify", mask=found.mask, query="the blue car")[1].fits


def test_verify_looks_at_the_masked_region_alone(session):
    session, car = use(session, "segment", query="the car")
    session, ball = use(session, "segment", query="the ball")
    sure = use(session, "verify", mask=car.mask)[1]
    assert (sure.query, sure.probability, sure.overlap, sure.fits) == ("the car", 0.9, 1.0, True)
    verdict = use(session, "verify", mask=ball.mask, query="a car")[1]
    assert (verdict.probability, verdict.overlap) == (0.05, 0.0)
    assert not verdict.fits


def test_a_masked_crop_shows_nothing_else(picture, region):
    crop = np.array(masked_crop(picture, region(0)))
    assert crop.shape == (48, 84, 3)
    assert {tuple(pixel) for pixel in crop.reshape(-1, 3).tolist()} == {(45, 95, 215), (128, 128, 128)}


def test_combine_names_what_it_makes(session, region):
    for query in ("the dogs", "the left dog", "the car"):
        session, _ = use(session, "segment", query=query)
    session, less = use(session, "combine", op="difference", masks=["m1", "m2"])
    assert less.phrase == "the dogs except the left dog"
    assert (session.mask(less.mask).mask == region(2)).all()
    session, rest = use(session, "combine", op="complement", masks=["m1", "m3"])
    assert rest.phrase == "everything except the dogs and the car"
    assert (session.mask(rest.mask).mask == ~region(0, 1, 2)).all()


def test_measure(session, region):
    session, _ = use(session, "segment", query="the dogs")
    session, _ = use(session, "segment", query="the car")
    session, dogs = use(session, "measure", mask="m1")
    assert isinstance(dogs, Measurement)
    assert dogs.parts == (2000, 1200)
    assert dogs.area == 3200
    assert dogs.distance is None
    session, car = use(session, "measure", mask="m2", to="m1")
    assert (car.box, car.colour, car.place, car.distance) == ((200, 110, 70, 40), "blue", "right", 31.0)


def test_edits_add_up_but_for_cut_outs(session, picture, region):
    session, _ = use(session, "segment", query="the car")
    session, _ = use(session, "segment", query="the ball")
    session, first = use(session, "edit", mask="m1", op="recolour", colour="red")
    session, _ = use(session, "edit", mask="m1", op="cut_out")
    session, last = use(session, "edit", mask="m2", op="grey")
    assert isinstance(first, EditResult)
    assert first.changed == 2800
    changed = (np.array(session.canvas) != np.array(picture)).any(-1)
    assert (changed == region(0, 3)).all()
    assert last.edit == "e3"
    assert session.edits[1].image.mode == "RGBA"


def test_where_gives_free_space_and_a_point_in_it(session, region):
    session, place = use(session, "where", query="the free space left of the car")
    assert isinstance(place, Place)
    mask = session.mask(place.mask).mask
    assert place.box[0] + place.box[2] <= 200
    assert mask[place.point[1], place.point[0]]
    assert not (mask & region(0)).any()
    _, thing = use(session, "where", query="the ball")
    assert thing.box == (70, 130, 20, 20)
    _, nowhere = use(session, "where", query="the space left of the cat")
    assert (nowhere.point, nowhere.missing, nowhere.exists) == (None, "the cat", False)


def test_where_leaves_out_what_is_shown(session, region):
    session, dogs = use(session, "segment", query="the dogs")
    session = session.show([dogs.mask])
    session, place = use(session, "where", query="left of the car")
    assert not (session.mask(place.mask).mask & region(1, 2)).any()


def test_talk_reads_the_conversation(session):
    _, said = use(session, "talk", message="what is this?")
    assert isinstance(said, Spoken)
    assert said.text == "1 messages, the last: what is this?"


@pytest.mark.parametrize(
    ("tool", "arguments", "error", "message"),
    [
        ("segmnt", {}, ConfigError, "did you mean 'segment'"),
        ("segment", {}, ConfigError, "query: Field required"),
        ("segment", {"query": ""}, ConfigError, "query"),
        ("segment", {"query": "a", "colour": "red"}, ConfigError, "colour"),
        ("segment", {"query": "[SEG]"}, DataError, "meaning of its own"),
        ("combine", {"op": "xor", "masks": ["m1"]}, ConfigError, "op"),
        ("combine", {"op": "union", "masks": []}, ConfigError, "masks"),
        ("measure", {"mask": "m9"}, DataError, "known: m1, m2"),
        ("measure", {"mask": "m1", "to": "m2"}, DataError, "empty"),
        ("verify", {"mask": "m2", "query": "a cat"}, DataError, "empty"),
        ("edit", {"mask": "m2", "op": "blur"}, DataError, "empty"),
        ("edit", {"mask": "m1", "op": "recolour"}, DataError, "which colour"),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(session, tool, arguments, error, message):
    session, _ = use(session, "segment", query="the car")
    session, _ = use(session, "segment", query="the cat")
    with pytest.raises(error, match=message):
        use(session, tool, **arguments)


def test_masks_of_another_picture_are_refused(session, segmenter):
    session, _ = use(session, "segment", query="the car")
    other = segmenter.fork()
    other.set_image(Image.new("RGB", (50, 40)))
    session = session.add_picture(other.image, other)
    with pytest.raises(MLLMSegError, match="belongs to picture 'p1', not to 'p2'"):
        use(session, "measure", mask="m1")
