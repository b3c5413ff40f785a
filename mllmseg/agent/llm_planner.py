"""A planner that asks a language model by function calling, at any endpoint that speaks OpenAI's chat completions.

Only the conversation, the tools and their results in numbers are sent, never a picture.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from mllmseg.agent.execution import Final
from mllmseg.agent.planner import PlannerError
from mllmseg.agent.schemas import EditResult, Found, Result, Spoken
from mllmseg.agent.session import Session
from mllmseg.agent.tools import TOOLS, Call
from mllmseg.errors import ConfigError, MLLMSegError

RETRIES = 1
RETRY_PAUSE = 0.5  # seconds
MAX_ROUNDS = 12
MAX_ANSWER_BYTES = 1 << 20
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


@dataclass(frozen=True)
class Endpoint:
    """Where the model is.

    Attributes:
        url: the base address, such as `http://localhost:8080/v1`.
        model: its name there.
        key: sent as a bearer token where it is not empty.
        timeout: seconds that one request may take, connecting, reading and all.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 20.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"'{self.url}' is no address of an endpoint; it looks like http://localhost:8080/v1")
        if self.timeout <= 0:
            raise ConfigError(f"a timeout of {self.timeout} seconds is none; give a positive number")


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
                if not _text_of(answer):
                    raise PlannerError("the model answered with neither words nor a call")
                return Final(_text_of(answer), tuple(new[-1:]), topic, edit, keep=not new)
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
        """The model's next message; one more try where the endpoint fails in a way that may pass."""
        body = {"model": self.endpoint.model, "messages": messages, "tools": tools, "temperature": 0}
        for attempt in range(RETRIES + 1):
            try:
                return self._post(body)
            except _Passing as error:
                if attempt == RETRIES:
                    raise PlannerError(str(error)) from error
                time.sleep(RETRY_PAUSE)
        raise AssertionError("unreachable")

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.endpoint.key:
            headers["Authorization"] = f"Bearer {self.endpoint.key}"
        address = self.endpoint.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")
        try:
            with _OPENER.open(request, timeout=self.endpoint.timeout) as response:
                text = _read(response, time.monotonic() + self.endpoint.timeout)
        except urllib.error.HTTPError as error:
            kind = _Passing if error.code >= 500 or error.code == 429 else PlannerError
            with error:
                raise kind(f"{address} answered {error.code} {error.reason}") from error
        except TimeoutError as error:
            raise _Passing(f"{address} gave no answer within {self.endpoint.timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise _Passing(f"{address} gave no answer within {self.endpoint.timeout:g} s") from error
            raise _Passing(f"{address} cannot be reached: {getattr(error, 'reason', error)}") from error
        return _message_of(text, address)


class _Passing(PlannerError):
    """A failure that may be gone at the next try."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to a place that nobody named."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body; a drop at a time would otherwise outlast any timeout, which counts from the last drop."""
    pieces: list[bytes] = []
    while piece := response.read1(1 << 16):
        pieces.append(piece)
        if time.monotonic() > deadline:
            raise TimeoutError
        if sum(map(len, pieces)) > MAX_ANSWER_BYTES:
            raise PlannerError(f"the answer is longer than {MAX_ANSWER_BYTES:,} bytes")
    return b"".join(pieces)


def _message_of(text: bytes, address: str) -> dict[str, Any]:
    try:
        message = json.loads(text)["choices"][0]["message"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise PlannerError(f"{address} gave no chat completion but {text[:80]!r}") from error
    if not isinstance(message, dict):
        raise PlannerError(f"{address} gave a message that is no object but {message!r}")
    return message


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


def _text_of(answer: dict[str, Any]) -> str:
    content = answer.get("content")
    return content.strip() if isinstance(content, str) else ""


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
