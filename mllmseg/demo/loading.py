"""The model, loaded beside the page: visitors see at once what they wait for, or what is missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mllmseg import weights
from mllmseg.agent.loop import Agent
from mllmseg.errors import MLLMSegError


@dataclass(frozen=True)
class Status:
    """How far loading has come.

    Attributes:
        ready: questions can be answered.
        words: what to tell a visitor meanwhile, or why there is no model.
        failed: it will not become ready by itself.
        tries: how often loading was begun.
    """

    ready: bool
    words: str
    failed: bool = False
    tries: int = 1


class Loader:
    """Loads an agent in a thread of its own.

    Args:
        load: gives the agent; its `MLLMSegError` is what visitors read.
        own_model: whether it is the model inside this package, whose weights may have to be fetched first.
    """

    def __init__(self, load: Callable[[], Agent], *, own_model: bool = True) -> None:
        self._load = load
        self._own_model = own_model
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._agent: Agent | None = None
        self._failure = ""
        self._since = 0.0
        self._tries = 0

    def start(self) -> None:
        """Begins to load; once more after a failure, and not at all where it is done or under way."""
        with self._lock:
            if self._agent is not None or (self._thread is not None and self._thread.is_alive()):
                return
            self._failure = ""
            self._tries += 1
            self._since = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="load-model", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._agent = self._load()
        except MLLMSegError as error:
            self._failure = str(error)
        except Exception as error:  # whatever a library raises, the page must not wait for ever
            self._failure = f"{type(error).__name__}: {error}"

    def wait(self, seconds: float) -> None:
        """Waits so long at most for loading to end."""
        if self._thread is not None:
            self._thread.join(seconds)

    @property
    def agent(self) -> Agent:
        """The agent, waited for. Raises MLLMSegError where it cannot be loaded."""
        self.start()
        thread = self._thread
        if thread is not None:
            thread.join()
        if self._agent is None:
            raise MLLMSegError(self._failure)
        return self._agent

    @property
    def status(self) -> Status:
        """Asked every second by every page that waits."""
        if self._agent is not None:
            return Status(True, "ready")
        if self._failure:
            return Status(False, self._failure, failed=True, tries=self._tries)
        seconds = time.monotonic() - self._since if self._since else 0.0
        return Status(False, f"{self._doing()} ({seconds:.0f} s)")

    def _doing(self) -> str:
        if self._own_model:
            known = weights.list_weights()
            missing = [item.weights for item in known if not item.present]
            if missing:
                size = sum(item.num_bytes for item in missing) / 1e6
                here = f"{len(known) - len(missing)} of {len(known)} here"
                return f"Fetching pre-trained weights, {here}, {size:.0f} MB to go"
        return "Loading the model"
