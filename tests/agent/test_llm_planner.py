"""Against a real HTTP server on this machine that answers as the tests script it."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import pytest

from mllmseg import chat_endpoint
from mllmseg.agent.llm_planner import LlmPlanner
from mllmseg.agent.loop import Agent
from mllmseg.agent.trace import replay
from mllmseg.chat_endpoint import Endpoint
from mllmseg.errors import ConfigError


@pytest.fixture
def server(chat_server):
    return chat_server


def says(text: str | None, *calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    listed = [
        {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for index, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text, **({"tool_calls": listed} if listed else {})}
    return {"choices": [{"message": message}]}


def calls(*broken: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"tool_calls": list(broken)}}]}


def show(answer: str, *masks: str) -> dict[str, Any]:
    return says(None, ("show", {"masks": list(masks), "answer": answer}))


@pytest.fixture
def agent(server, segmenter) -> Agent:
    planner = LlmPlanner(Endpoint(server.url, "some-model", key="secret", timeout=2.0))
    return Agent(segmenter, planner=planner)


def test_the_model_calls_tools_and_sees_their_results(server, agent, picture, region):
    server.answers = [
        says(None, ("segment", {"query": "the dogs"}), ("segment", {"query": "the left dog"})),
        says(None, ("combine", {"op": "difference", "masks": ["m1", "m2"]})),
        show("Voilà, der andere Hund.", "m3"),
    ]
    session = agent.open(picture)
    reply = agent.ask(session, "zeig mir den anderen Hund")
    assert reply.text == "Voilà, der andere Hund."
    assert (reply.masks[0].mask == region(2)).all()
    assert reply.trace.planner == "some-model"
    assert [step.tool for step in reply.trace.steps] == ["segment", "segment", "combine"]
    assert replay(reply.trace, session)[1] == []
    first, last = server.requests[0], server.requests[-1]
    assert first["model"] == "some-model"
    assert {tool["function"]["name"] for tool in first["tools"]} >= {"segment", "combine", "edit", "show"}
    told = [json.loads(item["content"]) for item in last["messages"] if item["role"] == "tool"]
    assert [item["mask"] for item in told] == ["m1", "m2", "m3"]
    assert "image" not in json.dumps(first["messages"]), "pictures stay here"
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert server.headers[0]["path"] == "/v1/chat/completions"


def test_the_next_message_knows_what_was_said_and_found(server, agent, picture):
    server.answers = [says(None, ("segment", {"query": "the car"})), show("The car.", "m1"), show("Bye.")]
    reply = agent.ask(agent.open(picture), "the car")
    agent.ask(reply.session, "thanks")
    system, *rest = server.requests[-1]["messages"]
    assert "m1 = the car" in system["content"]
    assert [item["content"] for item in rest] == ["the car", "The car.", "thanks"]


def test_edits_come_back_and_plain_words_end_a_turn(server, agent, picture, region):
    server.answers = [
        says(None, ("segment", {"query": "the car"})),
        says(None, ("edit", {"mask": "m1", "op": "recolour", "colour": "red"})),
        says("It is red now."),
    ]
    reply = agent.ask(agent.open(picture), "make the car red")
    assert reply.text == "It is red now."
    assert ((np.array(reply.image) != np.array(picture)).any(-1) == region(0)).all()


def test_a_tools_error_goes_back_to_the_model(server, agent, picture):
    server.answers = [
        says(None, ("measure", {"mask": "m7"})),
        says(None, ("paint", {})),
        show("I cannot."),
    ]
    reply = agent.ask(agent.open(picture), "how big?")
    assert reply.text == "I cannot."
    told = [json.loads(item["content"]) for item in server.requests[-1]["messages"] if item["role"] == "tool"]
    assert "no mask 'm7'" in told[0]["error"]
    assert "unknown tool 'paint'" in told[1]["error"]
    assert [bool(step.error) for step in reply.trace.steps] == [True, True]


def hang(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.0)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A drop at a time: no single read is slow."""
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(40):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


def elsewhere(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "http://127.0.0.1:9/elsewhere")
    handler.end_headers()


@pytest.mark.parametrize(
    ("answers", "reason", "requests"),
    [
        ([500], "answered 500", 2),
        ([429], "answered 429", 2),
        ([401], "answered 401", 1),
        ([b"<html>"], "gave no chat completion", 1),
        ([{"choices": []}], "gave no chat completion", 1),
        ([{"choices": [{"message": "hi"}]}], "no object", 1),
        ([says("")], "neither words nor a call", 1),
        ([says(None, ("segment", []))], "cannot be read", 1),
        (
            [{"choices": [{"message": {"tool_calls": [{"function": {"name": "segment", "arguments": "{"}}]}}]}],
            "calls",
            1,
        ),
        ([calls(7)], "calls", 1),
        ([show("here", "m5")], "do not exist", 1),
        ([says(None, ("show", {"masks": "m1"}))], "cannot be read", 1),
        ([hang], "gave no answer within 0.3 s", 2),
        ([drip], "gave no answer within 0.3 s", 2),
        ([elsewhere], "answered 302", 1),
        ([says(None, ("segment", {"query": "the car"}))], "no end within 3 requests", 3),
    ],
)
def test_failures_fall_back_visibly(server, segmenter, picture, region, answers, reason, requests):
    server.answers = list(answers)
    planner = LlmPlanner(Endpoint(server.url, "some-model", timeout=0.3), max_rounds=3)
    agent = Agent(segmenter, planner=planner)
    session = agent.open(picture)
    reply = agent.ask(session, "the ball")
    assert (reply.masks[0].mask == region(3)).all()
    assert reply.text.startswith("some-model failed (")
    assert reason in reply.text
    assert "the local rules answered instead" in reply.trace.notes[0]
    assert reply.trace.planner == "rules"
    assert len(server.requests) == requests
    assert replay(reply.trace, session)[1] == []


def test_one_failure_is_tried_again(server, agent, picture):
    server.answers = [503, show("Hello.")]
    reply = agent.ask(agent.open(picture), "hi there, model")
    assert (reply.text, reply.trace.notes) == ("Hello.", ())


def test_nobody_listens(segmenter, picture, region, monkeypatch):
    monkeypatch.setattr(chat_endpoint, "RETRY_PAUSE", 0.01)
    agent = Agent(segmenter, planner=LlmPlanner(Endpoint("http://127.0.0.1:9/v1", "some-model")))
    reply = agent.ask(agent.open(picture), "the ball")
    assert (reply.masks[0].mask == region(3)).all()
    assert "cannot be reached" in reply.text


def test_commands_to_the_session_need_no_model(server, agent, picture):
    server.answers = [says(None, ("segment", {"query": "the car"})), show("The car.", "m1")]
    reply = agent.ask(agent.open(picture), "the car")
    count = len(server.requests)
    assert agent.ask(reply.session, "undo").masks == ()
    assert len(server.requests) == count


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host/v1", "http:///v1"])
def test_bad_addresses_are_refused_at_once(url):
    with pytest.raises(ConfigError, match="no address"):
        Endpoint(url, "some-model")


def test_the_key_is_in_no_message():
    assert "secret" not in repr(Endpoint("http://localhost/v1", "some-model", key="secret"))
