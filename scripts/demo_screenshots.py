"""Makes the demo's screenshots under docs/demo/ in a real browser: `python scripts/demo_screenshots.py`.

Needs the extras demo and browser, a chromium, and the pre-trained weights. Only photos of examples/ are shown.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

ROOT = Path(__file__).parents[1]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
MAX_BYTES = 300_000
FIRST_SCREEN = ("desktop", "phone")  # what a visitor sees without scrolling; of the others the whole page


def main(
    out: Annotated[Path, typer.Option(help="Where they go.")] = ROOT / "docs" / "demo",
    url: Annotated[str | None, typer.Option(help="A demo that runs already; else one is started.")] = None,
    only: Annotated[str, typer.Option(help="The name of one of them.")] = "",
) -> None:
    """Makes them all."""
    if url is None:
        from mllmseg.agent.loop import Agent
        from mllmseg.demo.server import Address, serving
        from mllmseg.inference.segmenter import Segmenter

        with serving(lambda: Agent(Segmenter.from_pretrained()), Address(port=None), threshold=0.5) as started:
            shoot_all(started, out, only)
    else:
        shoot_all(url, out, only)


def shoot_all(url: str, out: Path, only: str) -> None:
    """Each in a browser context of its own."""
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    shots: dict[str, tuple[dict[str, Any], Callable[[Any], None]]] = {
        "desktop": ({"viewport": DESKTOP}, show_conversation),
        "absent": ({"viewport": DESKTOP}, show_absent),
        "superpixels": ({"viewport": DESKTOP}, show_superpixels),
        "dark": ({"viewport": DESKTOP, "color_scheme": "dark"}, show_edit),
        "phone": (
            {"viewport": PHONE, "is_mobile": True, "has_touch": True, "device_scale_factor": 2},
            show_conversation,
        ),
    }
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for name, (settings, show) in shots.items():
            if only in ("", name):
                context = browser.new_context(**settings)
                page = context.new_page()
                page.set_default_timeout(120_000)
                page.goto(url, wait_until="domcontentloaded")
                page.wait_for_selector("#banner .ready")
                show(page)
                page.mouse.move(0, 0)
                page.evaluate("window.scrollTo(0, 0)")
                page.wait_for_timeout(900)
                print(save(page.screenshot(full_page=name not in FIRST_SCREEN), out / f"{name}.jpg"))
                context.close()
        browser.close()


def save(screenshot: bytes, path: Path) -> str:
    """Writes a screenshot as JPEG with full colour resolution, so that text stays readable, no larger than allowed."""
    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    image.thumbnail((1280, 1500), Image.Resampling.LANCZOS)
    for quality in (88, 80, 70, 60):
        image.save(path, quality=quality, subsampling=0, optimize=True)
        size = path.stat().st_size
        if size < MAX_BYTES:
            return f"{path}: {image.width} x {image.height}, {size / 1e3:.0f} kB"
    raise SystemExit(f"{path}: {size} bytes are too many for the repository")


def send(page: Any, text: str, photo: str = "") -> None:
    """A message, with a photo of examples/ or without, and its answer."""
    before = page.locator("#chat .bot-row").count()
    if photo:
        page.locator("#message input[type=file]").set_input_files(str(ROOT / "examples" / photo))
        page.wait_for_selector("#message .thumbnails button")
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")
    page.wait_for_function(
        "before => { const rows = [...document.querySelectorAll('#chat .bot-row')];"
        " return rows.length > before && rows.at(-1).querySelector('.said'); }",
        arg=before,
    )


def show_conversation(page: Any) -> None:
    """Several things, and a follow-up."""
    send(page, "the cup and the spoon", "coffee.jpg")
    send(page, "how big is the cup?")
    send(page, "the cup and the spoon")


def show_absent(page: Any) -> None:
    """Something that is not there, and the closest thing offered."""
    send(page, "is there a bicycle?", "coffee.jpg")
    send(page, "the blue cup")


def show_superpixels(page: Any) -> None:
    """What the language model reads."""
    send(page, "the person", "astronaut.jpg")
    page.locator("#stage button[data-value=regions]").click()
    page.wait_for_selector("#stage .region.lit")
    page.get_by_role("tab", name="Superpixels").click()


def show_edit(page: Any) -> None:
    """An edit, and how it came about."""
    send(page, "the person", "officer.jpg")
    send(page, "blur everything except the person")
    page.get_by_role("tab", name="Why").click()


if __name__ == "__main__":
    typer.run(main)
