"""The real model that comes along, once a process; conversations are frozen, so that tests can share them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

if TYPE_CHECKING:
    from mllmseg.agent.loop import Agent
    from mllmseg.demo.conversation import Talk

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def agent() -> Agent:
    """Over the model inside the package."""
    from mllmseg.agent.loop import Agent
    from mllmseg.inference.segmenter import Segmenter

    return Agent(Segmenter.from_pretrained(device="cpu"))


@pytest.fixture(scope="session")
def loader(agent: Agent) -> Any:
    """A model that is loaded already."""
    from mllmseg.demo.loading import Loader

    made = Loader(lambda: agent)
    assert made.agent is agent
    return made


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of the example photos."""
    return EXAMPLES


@pytest.fixture(scope="session")
def settled() -> Callable[[Any], Talk]:
    """The conversation at the end of what an action yields."""

    def last(steps: Any) -> Talk:
        from mllmseg.demo.conversation import Talk

        found = [step for step in steps if isinstance(step, Talk)]
        assert found, "an action must end with a conversation"
        return found[-1]

    return last


@pytest.fixture(scope="session")
def coffee(agent: Agent) -> Talk:
    """A conversation about the cup of coffee, nothing said yet."""
    from mllmseg.demo.conversation import Talk
    from mllmseg.demo.uploads import read_upload

    return Talk().redecide(0.5).add_picture(agent, read_upload(EXAMPLES / "coffee.jpg"))


@pytest.fixture(scope="session")
def cup(agent: Agent, coffee: Talk, settled: Callable[[Any], Talk]) -> Talk:
    """The same, after the cup was asked for and found."""
    from mllmseg.demo.conversation import ask

    talk = settled(ask(agent, coffee, "the cup"))
    assert talk.chosen is not None
    assert talk.chosen.exists
    return talk


@pytest.fixture(scope="session")
def demo_url(agent: Agent) -> Iterator[str]:
    """The address of a demo that runs in this process."""
    from mllmseg.demo.server import Address, serving

    with serving(lambda: agent, Address(port=None), threshold=0.5) as url:
        yield url


@pytest.fixture
def download_folder() -> Iterator[str]:
    """Where `gradio_client` puts what it gets."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder
