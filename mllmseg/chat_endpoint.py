"""Asking a language model at any endpoint that speaks OpenAI's chat completions: hosted, or vLLM, llama.cpp, Ollama."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from mllmseg.errors import ConfigError, EndpointError

RETRIES = 1
RETRY_PAUSE = 0.5  # seconds
MAX_ANSWER_BYTES = 1 << 20


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


def complete(endpoint: Endpoint, messages: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """The model's next message, as surely the same for the same request as it can; one more try where the endpoint
    fails in a way that may pass.

    Args:
        endpoint: where the model is.
        messages: the conversation so far.
        settings: more of the request, such as `tools`.

    Raises:
        RefusedError: it refuses this request; another may not be.
        EndpointError: it is down, slow, or answers what cannot be read.
    """
    body = {"model": endpoint.model, "messages": messages, "temperature": 0, **settings}
    for attempt in range(RETRIES + 1):
        try:
            return _post(endpoint, body)
        except _PassingError:
            if attempt == RETRIES:
                raise
            time.sleep(RETRY_PAUSE)
    raise AssertionError("unreachable")


def text_of(message: dict[str, Any]) -> str:
    """The words of a message, empty where there are none."""
    content = message.get("content")
    return content.strip() if isinstance(content, str) else ""


def _post(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    address = endpoint.url.rstrip("/") + "/chat/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")
    try:
        with _OPENER.open(request, timeout=endpoint.timeout) as response:
            text = _read(response, time.monotonic() + endpoint.timeout)
    except urllib.error.HTTPError as error:
        passing = error.code >= 500 or error.code == 429
        kind = _PassingError if passing else RefusedError if error.code in (400, 413, 422) else EndpointError
        with error:
            raise kind(f"{address} answered {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise _PassingError(f"{address} gave no answer within {endpoint.timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise _PassingError(f"{address} gave no answer within {endpoint.timeout:g} s") from error
        raise _PassingError(f"{address} cannot be reached: {getattr(error, 'reason', error)}") from error
    return _message_of(text, address)


class RefusedError(EndpointError):
    """The endpoint works, but does not take this request: too long for it, or against its rules."""


class _PassingError(EndpointError):
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
            raise EndpointError(f"the answer is longer than {MAX_ANSWER_BYTES:,} bytes")
    return b"".join(pieces)


def _message_of(text: bytes, address: str) -> dict[str, Any]:
    try:
        message = json.loads(text)["choices"][0]["message"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EndpointError(f"{address} gave no chat completion but {text[:80]!r}") from error
    if not isinstance(message, dict):
        raise EndpointError(f"{address} gave a message that is no object but {message!r}")
    return message
