"""A planner that asks a language model by function calling, at any endpoint that speaks OpenAI's chat completions.

Only the conversation, the tools and their results in numbers are sent, never a picture.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from mllmseg.agent.execution import Final
from mllmseg.agent.planner import PlannerError
from mllmseg.agent.schemas import EditResult, Found, Result, Spoken
from mllmseg.agent.session import Session
from mllmseg.agent.tools import TOOLS, Call
from mllmseg.chat_endpoint import Endpoint, complete, text_of
from mllmseg.errors import EndpointError, MLLMSegError

MAX_ROUNDS = 12
HISTORY = 6  # messages of the conversation that are sent along

_SYSTEM = """You answer messages about one picture by calling tools; you cannot see the picture yourself.
Masks have ids (m1, m2, ...). Call `segment` for each thing that is meant, then `combine`, `measure`, `edit` or `where`
where the message asks for it. Where a thing is not found (exists is false), say so and what you found instead; never
claim to see what no tool reported. Finish with `show`: the ids of the masks to show and one short answer in the
language of the message. Call `show` at once for messages that need no tool.
{state}"""
_SHOW = {
    "type": "function",
    "function": {
        "name": "show",
        "description": "Ends the turn: which masks to show, and the answer to the user.",
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "required": ["masks", "answer"],
            "properties": {
                "masks": {"type": "array", "items": {"type": "string"}},
                "answer": {"type": "string"},
            },
        },
    },
}


class LlmPlanner:
    """Plans by asking a language model; a `PlannerError` where that cannot go on.

    Args:
        endpoint: where the model is.
        max_rounds: requests a message may take.
    """

    def __init__(self, endpoint: Endpoint, *, max_rounds: int = MAX_ROUNDS) -> None:
        self.endpoint = endpoint
        self.max_rounds = max_rounds
        self.name = endpoint.model

    def work(self, message: str, session: Session) -> Generator[Call, Result, Final]:
        """Works on a message."""
        messages = _opening(message, session)
        tools = [*(TOOLS.get(name).schema for name in TOOLS), _SHOW]
        edit, made, topic = "", [record.id for record in session.masks], session.topic
        new: list[str] = []
        for _ in range(self.max_rounds):
            answer = self._complete(messages, tools)
            calls = _calls_of(answer)
            if not calls:
                if not text_of(answer):
                    raise PlannerError("the model answered with neither words nor a call")
                return Final(text_of(answer), tuple(new[-1:]), topic, edit, keep=not new)
            messages.append({"role": "assistant", "content": answer.get("content"), "tool_calls": answer["tool_calls"]})
            for identity, name, arguments in calls:
                if name == "show":
                    return _show(arguments, [*made, *new], topic, edit)
                try:
                    result = yield Call(name, arguments)
                except MLLMSegError as error:
                    content = {"error": str(error)}  # the model may do better knowing why
                else:
                    content = result.model_dump(mode="json")
                    mask = result.mask if isinstance(result, Found | Spoken) else None
                    new += [mask] if mask and not (isinstance(result, Found) and not result.exists) else []
                    made += [mask] if mask else []
                    edit = result.edit if isinstance(result, EditResult) else edit
                    topic = str(arguments.get("query", topic)) if name == "segment" else topic
                messages.append({"role": "tool", "tool_call_id": identity, "content": json.dumps(content)})
        raise PlannerError(f"the model came to no end within {self.max_rounds} requests")

    def _complete(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            return complete(self.endpoint, messages, tools=tools)
        except EndpointError as error:
            raise PlannerError(str(error)) from error


def _calls_of(answer: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, tool, arguments) of each call in a message."""
    calls = []
    try:
        for call in answer.get("tool_calls") or []:
            function = call["function"]
            given = function["arguments"] or "{}"
            arguments = given if isinstance(given, dict) else json.loads(given)
            if not isinstance(arguments, dict):
                raise TypeError(f"arguments {arguments!r} are no object")
            calls.append((str(call.get("id", "")), str(function["name"]), arguments))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlannerError(f"the model's calls cannot be read ({error})") from error
    return calls


def _show(arguments: dict[str, Any], known: list[str], topic: str, edit: str) -> Final:
    masks, text = arguments.get("masks"), arguments.get("answer")
    if not isinstance(masks, list) or not isinstance(text, str):
        raise PlannerError(f"the model's last call cannot be read: {str(arguments)[:80]}")
    unknown = [name for name in masks if name not in known]
    if unknown:
        raise PlannerError(f"the model wants to show {unknown}, which do not exist")
    return Final(text.strip(), tuple(masks), topic, edit)


def _opening(message: str, session: Session) -> list[dict[str, Any]]:
    """What the model is told before its first decision."""
    width, height = session.picture.image.size
    own = [record for record in session.masks if record.picture == session.current and record.exists]
    state = [f"The picture has {width} x {height} pixels. Mode: {session.mode.value}."]
    if own:
        state.append("Masks so far: " + "; ".join(f"{record.id} = {record.phrase}" for record in own[-20:]))
    if session.focus:
        state.append(f"The user's 'it' means {', '.join(session.focus)}.")
    messages = [{"role": "system", "content": _SYSTEM.format(state=" ".join(state))}]
    for exchange in session.exchanges[-HISTORY // 2 :]:
        messages.append({"role": "user", "content": exchange.message})
        messages.append({"role": "assistant", "content": exchange.answer})
    return [*messages, {"role": "user", "content": message}]
