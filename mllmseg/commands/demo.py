"""`mllmseg demo`: the web page."""

from __future__ import annotations

import signal
import time
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from mllmseg.commands.options import (
    DeviceOption,
    DtypeOption,
    LlmModelOption,
    LlmUrlOption,
    ModelOption,
    ThresholdOption,
)
from mllmseg.errors import ConfigError

if TYPE_CHECKING:
    from mllmseg.agent.loop import Agent


def demo(
    host: Annotated[str, typer.Option(help="Address to serve at; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 7860,
    auth: Annotated[
        str | None, typer.Option(help="user:password that visitors need; also from $MLLMSEG_DEMO_AUTH.")
    ] = None,
    root_path: Annotated[str | None, typer.Option(help="The path that a proxy serves the page under.")] = None,
    threshold: ThresholdOption = 0.5,
    llm_url: LlmUrlOption = None,
    llm_model: LlmModelOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    model: ModelOption = None,
) -> None:
    """Talk about pictures in the browser; also for programs (gradio_client) and other agents (MCP)."""
    warnings.simplefilter("ignore")  # the libraries' deprecations are no news to a user
    from mllmseg.commands.chat import make_planner
    from mllmseg.demo.server import Address, parse_auth, serving

    planner = make_planner(llm_url, llm_model)
    address = Address(host, port or None, parse_auth(auth), root_path)
    _check_gradio()

    def load() -> Agent:
        from mllmseg.agent.loop import Agent
        from mllmseg.inference.segmenter import Segmenter
        from mllmseg.models.allocator import keep_freed_memory

        keep_freed_memory()
        return Agent(Segmenter.from_pretrained(model, device=device, dtype=dtype), planner=planner)

    signal.signal(signal.SIGTERM, _interrupt)
    typer.echo("Opening the page; that takes some seconds.")
    try:
        with serving(load, address, threshold=threshold, own_model=model is None) as url:
            typer.echo(f"{url} is open; other agents connect to {url}gradio_api/mcp/. Ctrl+C ends it.")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        typer.echo("closed")


def _interrupt(*_: object) -> None:
    """What a service manager sends ends it as Ctrl+C does: temporary files are deleted."""
    raise KeyboardInterrupt


def _check_gradio() -> None:
    from importlib.util import find_spec

    if find_spec("gradio") is None or find_spec("mcp") is None:
        raise ConfigError("the demo needs gradio: pip install 'mllmseg[demo]'")
