"""Instructions as people type them, and the plan each must give."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllmseg.agent.grammar import Context
from mllmseg.agent.planner import make_plan
from mllmseg.agent.tools import TOOLS

AFTER = Context(focus=("m1",), topic="the dog on the left")
TWO = Context(focus=("m1", "m2"), topic="cars")

FIRST = {
    # one target, however it is asked for
    "the dog": "show: segment(the dog) -> $1",
    "Please find the dog on the left.": "show: segment(the dog on the left) -> $1",
    "Can you show me the biggest dog?": "show: segment(the biggest dog) -> $1",
    "where is the red cup": "show: segment(the red cup) -> $1",
    "I'm looking for the spoon": "show: segment(the spoon) -> $1",
    "what about the man with the hat?": "show: segment(the man with the hat) -> $1",
    "☕️ the cup 👍🏽": "show: segment(the cup) -> $1",
    "the man and": "show: segment(the man) -> $1",
    "2 dogs": "show: segment(2 dogs) -> $1",
    "the player with number 23": "show: segment(the player with number 23) -> $1",
    "the black and white cat": "show: segment(the black and white cat) -> $1",
    "the cup between the plate and the glass": "show: segment(the cup between the plate and the glass) -> $1",
    "the man who is sitting on the chair": "show: segment(the man who is sitting on the chair) -> $1",
    # several
    "the dog and the ball": "show: segment(the dog); segment(the ball) -> $1 $2",
    "dogs, cats and birds": "show: segment(dogs); segment(cats); segment(birds) -> $1 $2 $3",
    "both the cup and the saucer": "show: segment(the cup); segment(the saucer) -> $1 $2",
    "the dog as well as the cat": "show: segment(the dog); segment(the cat) -> $1 $2",
    "where are the cars & the bikes?": "show: segment(the cars); segment(the bikes) -> $1 $2",
    "the cup on the left and the cup on the right": (
        "show: segment(the cup on the left); segment(the cup on the right) -> $1 $2"
    ),
    "where the road and the shadow overlap": (
        "show: segment(the road); segment(the shadow); combine(intersection, $1, $2) -> $3"
    ),
    # exclusion
    "everything except the people": "show: segment(the people); combine(complement, $1) -> $2",
    "everything but the dog and the cat": (
        "show: segment(the dog); segment(the cat); combine(complement, $1, $2) -> $3"
    ),
    "the whole picture without the sky": "show: segment(the sky); combine(complement, $1) -> $2",
    "cars but not the red one": "show: segment(cars); segment(the red car); combine(difference, $1, $2) -> $3",
    "all the cups except for the small ones": (
        "show: segment(all the cups); segment(the small cups); combine(difference, $1, $2) -> $3"
    ),
    "the cat without its tail": (
        "show: segment(the cat); segment(the tail of the cat); combine(difference, $1, $2) -> $3"
    ),
    "the man without a hat": "show: segment(the man without a hat) -> $1",
    "anything that is not the car": "show: segment(the car); combine(complement, $1) -> $2",
    "what isn't part of the car": "show: segment(the car); combine(complement, $1) -> $2",
    "all of the cat": "show: segment(the cat) -> $1",
    "Find the dog. Also find the cat!": "show: segment(the dog); segment(the cat) -> $1 $2",
    "the player with the no. 7": "show: segment(the player with the no. 7) -> $1",
    "the dog and then, if possible, the cat": "show: segment(the dog); segment(the cat) -> $1 $2",
    "the people, not the children": (
        "show: segment(the people); segment(the children); combine(difference, $1, $2) -> $3"
    ),
    # presence and number
    "is there a cat?": "exists: segment(a cat) -> $1",
    "Do you see any birds anywhere?": "exists: segment(any birds) -> $1",
    "does the picture show a boat": "exists: segment(a boat) -> $1",
    "how many dogs are there?": "count: segment(the dogs); measure($1) -> $1",
    "count the red cars": "count: segment(the red cars); measure($1) -> $1",
    "how many dogs are in this picture?": "count: segment(the dogs); measure($1) -> $1",
    "how many legs does the table have?": "count: segment(the legs of the table); measure($1) -> $1",
    "number of cars": "count: segment(the cars); measure($1) -> $1",
    "there is no cat, right?": "exists: segment(cat) -> $1",
    "how many people have a hat?": "count: segment(the people with a hat); measure($1) -> $1",
    "does the man wear a hat?": "exists: segment(the man with a hat) -> $1",
    "is the dog bigger than the cat?": "compare: segment(the dog); segment(the cat); measure($1); measure($2) -> $1 $2",
    "neither the dog nor the cat": "show: segment(the dog); segment(the cat); combine(complement, $1, $2) -> $3",
    "dogs, but only the black ones": "show: segment(the black dogs) -> $1",
    "which one is the oldest dog?": "show: segment(the oldest dog) -> $1",
    "there's a dog somewhere, cut it out": "edit: segment(a dog); edit($1, cut_out) -> $1",
    "cut the dog out of the picture": "edit: segment(the dog); edit($1, cut_out) -> $1",
    "mark the dog in red": "edit: segment(the dog); edit($1, highlight, red) -> $1",
    "show only the dog, hide the rest": "show: segment(the dog) -> $1",
    "find the dog, then invert the selection": "show: segment(the dog); combine(complement, $1) -> $2",
    "how many people": "count: segment(the people); measure($1) -> $1",
    "how many cups and plates can you see?": (
        "count: segment(the cups); segment(the plates); measure($1); measure($2) -> $1 $2"
    ),
    "are there more dogs than cats?": "count: segment(the dogs); segment(the cats); measure($1); measure($2) -> $1 $2",
    # measures
    "how big is the dog?": "measure: segment(the dog); measure($1) -> $1",
    "what colour is the car?": "measure: segment(the car); measure($1) -> $1",
    "how much of the picture does the sky cover?": "measure: segment(the sky); measure($1) -> $1",
    "how far is the dog from the ball?": "distance: segment(the dog); segment(the ball); measure($1, $2) -> $1 $2",
    "the distance between the cup and the spoon": (
        "distance: segment(the cup); segment(the spoon); measure($1, $2) -> $1 $2"
    ),
    # edits
    "blur the background": "edit: segment(the background); edit($1, blur) -> $1",
    "find the dog and blur the background": "edit: segment(the dog); edit($1, blur_rest) -> $1",
    "blur everything except the dog": "edit: segment(the dog); edit($1, blur_rest) -> $1",
    "make everything except the red car black and white": "edit: segment(the red car); edit($1, grey_rest) -> $1",
    "gray out the people": "edit: segment(the people); edit($1, grey) -> $1",
    "make the car blue": "edit: segment(the car); edit($1, recolour, blue) -> $1",
    "change the color of the door to #30a060": "edit: segment(the door); edit($1, recolour, #30a060) -> $1",
    "Remove the bottle, please": "edit: segment(the bottle); edit($1, remove) -> $1",
    "cut out the dog and the cat": (
        "edit: segment(the dog); segment(the cat); combine(union, $1, $2); edit($3, cut_out) -> $3"
    ),
    "keep only the dog": "edit: segment(the dog); edit($1, cut_out) -> $1",
    "highlight the car in red": "edit: segment(the car); edit($1, highlight, red) -> $1",
    "find the dog, then make it red": "edit: segment(the dog); edit($1, recolour, red) -> $1",
    # places
    "the free space left of the red car": "where: where(the free space left of the red car) -> $1",
    "where can I put a chair left of the table?": "where: where(the place left of the table) -> $1",
    "put a lamp left of the table": "where: where(the place left of the table) -> $1",
    "go to the door": "where: where(the door) -> $1",
    # words
    "what is the man doing?": "talk: talk(what is the man doing) -> $1",
    "describe this picture": "talk: talk(describe this picture) -> $1",
    "hello": "say:",
    "what can you do?": "say:",
    "...": "say:",
    "are you sure?": "say:",
    "save it": "say:",
    "zoom in": "say:",
    "and then?": "say:",
    "remove": "say:",
    "I don't see any dog here": "exists: segment(dog) -> $1",
    "blur the rest": "say:",
    "count": "say:",
    "how many are there?": "say:",
    "show me everything": "say:",
    "undo": "undo:",
    "why?": "why:",
    "thanks, that's great": "say:",
    "wo ist der Hund?": "show: segment(der Hund) -> $1",
    "¿dónde está el perro?": "show: segment(el perro) -> $1",
    "start over": "reset:",
    # any language, any characters
    "日本語の猫": "show: segment(日本語の猫) -> $1",
    "der Hund links": "show: segment(der Hund links) -> $1",
    "🐶": "show: segment(🐶) -> $1",
}
FOLLOW_UPS = {
    "now the one behind it": "show: segment(the dog behind the dog on the left) -> $1",
    "only the left one": "show: segment(the left dog) -> $1",
    "the red ones": "show: segment(the red dogs) -> $1",
    "the left": "show: segment(the left dog) -> $1",
    "the car next to it": "show: segment(the car next to the dog on the left) -> $1",
    "not that one": "others: segment(the dogs); combine(difference, $1, m1) -> $2",
    "no, the other one": "others: segment(the dogs); combine(difference, $1, m1) -> $2",
    "that's wrong, I mean the other dog": "others: segment(the dogs); combine(difference, $1, m1) -> $2",
    "that's wrong": "others: segment(the dogs); combine(difference, $1, m1) -> $2",
    "sorry, I meant the cat": "show: segment(the cat) -> $1",
    "switch to the right one": "show: segment(the right dog) -> $1",
    "not this one but the right one": "show: segment(the right dog) -> $1",
    "its tail": "show: segment(the tail of the dog on the left) -> $1",
    "invert it again": "show: combine(complement, m1) -> $1",
    "put a bowl left of it": "where: where(the place left of the dog on the left) -> $1",
    "and the cat": "show: segment(the cat) -> m1 $1",
    "the red one too": "show: segment(the red dog) -> m1 $1",
    "also the ball, please": "show: segment(the ball) -> m1 $1",
    "now the cat": "show: segment(the cat) -> $1",
    "except the small one": "show: segment(the small dog); combine(difference, m1, $1) -> $2",
    "without the tail": "show: segment(the tail); combine(difference, m1, $1) -> $2",
    "everything else": "show: combine(complement, m1) -> $1",
    "invert": "show: combine(complement, m1) -> $1",
    "blur the background": "edit: edit(m1, blur_rest) -> m1",
    "remove it": "edit: edit(m1, remove) -> m1",
    "now make it red": "edit: edit(m1, recolour, red) -> m1",
    "remove the background": "edit: edit(m1, cut_out) -> m1",
    "make the rest grey": "edit: edit(m1, grey_rest) -> m1",
    "blur": "edit: edit(m1, blur) -> m1",
    "cut out": "edit: edit(m1, cut_out) -> m1",
    "is it a cat or a fox?": "verify: verify(m1, a cat); verify(m1, a fox) -> m1",
    "how big is it?": "measure: measure(m1) -> m1",
    "count": "count: measure(m1) -> m1",
    "how many are there?": "count: measure(m1) -> m1",
    "how big?": "measure: measure(m1) -> m1",
    "count them": "count: measure(m1) -> m1",
    "are you sure?": "verify: verify(m1) -> m1",
    "is that a cat?": "verify: verify(m1, a cat) -> m1",
    "the free space right of it": "where: where(the free space right of the dog on the left) -> $1",
}
WITH_TWO = {
    "but not the red one": ("show: combine(union, m1, m2); segment(the red car); combine(difference, $1, $2) -> $3"),
    "cut them out": "edit: combine(union, m1, m2); edit($1, cut_out) -> $1",
    "the ones on the right": "show: segment(the cars on the right) -> $1",
    "only the left one": "show: combine(union, m1, m2); pick($1, leftmost, the left car) -> $2",
    "the one on the right": "show: combine(union, m1, m2); pick($1, rightmost, the car on the right) -> $2",
    "which of them is on the left?": "show: combine(union, m1, m2); pick($1, leftmost, the car on the left) -> $2",
    "the others": "others: segment(the cars); combine(difference, $1, m1, m2) -> $2",
}


@pytest.mark.parametrize(("message", "plan"), FIRST.items(), ids=FIRST.keys())
def test_first_messages(message: str, plan: str) -> None:
    assert str(make_plan(message)) == plan


@pytest.mark.parametrize(("message", "plan"), FOLLOW_UPS.items(), ids=FOLLOW_UPS.keys())
def test_follow_ups(message: str, plan: str) -> None:
    assert str(make_plan(message, AFTER)) == plan


@pytest.mark.parametrize(("message", "plan"), WITH_TWO.items(), ids=WITH_TWO.keys())
def test_follow_ups_on_several(message: str, plan: str) -> None:
    assert str(make_plan(message, TWO)) == plan


def test_one_colour_does_not_answer_for_two() -> None:
    assert make_plan("is the dog black?").intent == "colour"
    assert make_plan("is the dog black and white?").intent == "talk"


def test_it_is_looked_for_again_where_it_was_not_found() -> None:
    plan = make_plan("how big is it?", Context(topic="a dog"))
    assert str(plan) == "measure: segment(the dog); measure($1) -> $1"


def test_both_are_what_was_meant_before_and_now() -> None:
    assert str(make_plan("both", Context(("m2",), "the cat", before=("m1",)))) == "show:  -> m1 m2"


def test_an_offer_is_accepted_only_where_there_is_one() -> None:
    assert make_plan("yes please", Context(offered=True)).intent == "accept"
    assert make_plan("yes").intent == "say"


def test_the_topic_is_what_was_last_asked_for_in_full() -> None:
    assert make_plan("only the left one", AFTER).topic == "the left dog"
    assert make_plan("how big is it?", AFTER).topic == "the dog on the left"


_VOCABULARY = (
    *("the", "a", "dog", "cats", "it", "one", "and", ",", "but", "not", "except", "everything", "left", "of", "behind"),
    *("between", "red", "blur", "make", "how", "many", "is", "there", "now", "only", "where", "can", "i", "remove"),
    *("undo", "[SEG]", "猫", "7", "?", ".", "“", "'", "&", "#"),
)
_WORDS = st.lists(st.sampled_from(_VOCABULARY), max_size=12).map(" ".join)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=60), _WORDS), st.sampled_from([Context(), AFTER, TWO]))
def test_any_text_gives_a_plan_that_its_tools_accept(message: str, context: Context) -> None:
    plan = make_plan(message, context)
    assert plan == make_plan(message, context)
    for number, call in enumerate(plan.steps, 1):
        TOOLS.get(call.tool).arguments.model_validate(call.arguments)
        names = [call.arguments.get("mask"), call.arguments.get("to"), *call.arguments.get("masks", ())]
        assert all(int(name[1:]) < number for name in names if name and name.startswith("$"))
    assert all(int(name[1:]) <= len(plan.steps) for name in plan.show if name.startswith("$"))
    assert plan.intent != "say" or plan.text
