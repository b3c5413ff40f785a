"""A real HTTP server on this machine that answers chat completions as a test says. Tests reach it by the fixture
`chat_server` in tests/conftest.py.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# A completion, raw bytes, an HTTP status, or what to do with the handler.
Answer = dict[str, Any] | bytes | int | Callable[[BaseHTTPRequestHandler], None]


class ChatServer:
    """Gives the scripted `answers` one after another, the last one for ever, or what `answer_to` makes of a request;
    keeps what it was asked.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.answer_to: Callable[[dict[str, Any]], Answer] = self._next
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(body)
                server.headers.append({"path": self.path, **dict(self.headers)})
                with contextlib.suppress(ConnectionError):  # one who left would be told of in a later test's stderr
                    self._say(server.answer_to(body))

            def _say(self, answer: Answer) -> None:
                if callable(answer):
                    answer(self)
                elif isinstance(answer, int):
                    self.send_error(answer)
                else:
                    text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def _next(self, _: dict[str, Any]) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
