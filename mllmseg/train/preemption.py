"""A polite end: SIGTERM (a cluster wants its machine back) and SIGINT (Ctrl-C) wait for the end of a step."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

log = logging.getLogger(__name__)
POLITE = (signal.SIGTERM, signal.SIGINT)
# A launcher passes on what its processes got from the terminal already: that is not a second wish.
ECHO_SECONDS = 3.0


class StopRequest:
    """Within this context the first SIGTERM or SIGINT is noted, and the second acts as it always does.

    Attributes:
        signal: its number, 0 as long as there was none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            self._before = {number: signal.signal(number, self._note) for number in POLITE}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and time.monotonic() - self._since > ECHO_SECONDS:
            self._restore()
            signal.raise_signal(number)
        elif not self.signal:
            self.signal, self._since = number, time.monotonic()
            log.warning("%s: saving after this step; once more to stop at once", signal.Signals(number).name)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
