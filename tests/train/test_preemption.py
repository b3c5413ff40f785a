"""The first signal waits for the end of a step."""

from __future__ import annotations

import os
import signal

import pytest

from mllmseg.train import preemption
from mllmseg.train.preemption import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert request.signal == 0
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # a launcher's echo
        assert request.signal == number
    assert signal.getsignal(number) is before


def test_the_second_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "ECHO_SECONDS", -1.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
    with StopRequest(), pytest.raises(KeyboardInterrupt):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.getpid()  # Python runs handlers between instructions
    signal.signal(signal.SIGINT, before)
