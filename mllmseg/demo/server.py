"""Serves the page: where files lie, who may come in, how many at once."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllmseg.errors import ConfigError

if TYPE_CHECKING:
    from mllmseg.agent.loop import Agent

AUTH_VARIABLE = "MLLMSEG_DEMO_AUTH"
# Waiting questions; more are told to come back later.
MAX_QUEUE = 32
# Conversations kept at once; the one not used for longest goes first.
MAX_SESSIONS = 48


@dataclass(frozen=True)
class Address:
    """Where to serve, and for whom: `auth` is (user, password), None for everybody."""

    host: str = "127.0.0.1"
    port: int | None = 7860
    auth: tuple[str, str] | None = None
    root_path: str | None = None


def parse_auth(text: str | None) -> tuple[str, str] | None:
    """(user, password) of `user:password`, from the environment where it is not given.

    Raises:
        ConfigError: it is something else.
    """
    text = text or os.environ.get(AUTH_VARIABLE)
    if not text:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise ConfigError(f"--auth (or ${AUTH_VARIABLE}) takes user:password")
    return user, password


@contextmanager
def serving(load: Callable[[], Agent], address: Address, *, threshold: float, own_model: bool = True) -> Iterator[str]:
    """Serves the page until the block ends; all temporary files go with it.

    Args:
        load: gives the agent; called in a thread of its own, so that the page is there at once.
        address: where to serve; port None for any free one.
        threshold: of the slider at first.
        own_model: whether it is the model inside the package.

    Yields:
        The page's address.

    Raises:
        ConfigError: the port is taken.
    """
    folder = tempfile.mkdtemp(prefix="mllmseg-demo-")
    # Before gradio is imported: it reads them then. Nothing outside of this folder is ever served.
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from mllmseg.demo.loading import Loader
    from mllmseg.demo.page import build_page

    logging.getLogger("httpx").setLevel(logging.WARNING)
    loader = Loader(load, own_model=own_model)
    page = build_page(loader, threshold=threshold, exports=Path(folder) / "exports")
    page.queue(max_size=MAX_QUEUE, default_concurrency_limit=2)
    loader.start()
    try:
        _, url, _ = page.launch(**_launch_options(address))
        yield url
    except OSError as error:
        raise ConfigError(f"cannot serve at {address.host}:{address.port} ({error}); choose another --port") from error
    finally:
        page.close(verbose=False)
        shutil.rmtree(folder, ignore_errors=True)


def _launch_options(address: Address) -> dict[str, Any]:
    import gradio as gr

    from mllmseg.demo.uploads import MAX_BYTES

    here = Path(__file__).parent
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Soft(
        primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"]
    ).set(
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        # Quiet, but with the contrast of 4.5 to 1 that text needs.
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_title_text_weight="500",
        block_title_padding="0",
    )
    return {
        "server_name": address.host,
        "server_port": address.port,
        "auth": address.auth,
        "root_path": address.root_path,
        "max_file_size": MAX_BYTES,
        "state_session_capacity": MAX_SESSIONS,
        "theme": theme,
        "css": (here / "page.css").read_text(encoding="utf-8") + _colour_classes(),
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": True,
        "share": False,
        "ssr_mode": False,
        "quiet": True,
        "prevent_thread_lock": True,
        "show_error": False,
    }


def _colour_classes() -> str:
    """`color-0`, …: what the chat, whose markup may not carry styles, colours phrases with."""
    from mllmseg.demo.chat import NUM_COLOURS
    from mllmseg.demo.drawing import hex_colour

    return "\n".join(f".color-{index} {{ --c: {hex_colour(index)}; }}" for index in range(NUM_COLOURS))
