"""The page in a real browser: Chromium by Playwright, with the real model behind it."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.weights, pytest.mark.slow]
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[browser]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium on this machine", allow_module_level=True)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PATIENCE = 60_000  # ms, for machines that have other things to do


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any, demo_url: str) -> Iterator[Any]:
    """`visit()` is the page for a new visitor; no page may have logged an error in the end."""
    contexts, errors = [], []

    def new(**settings: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, **settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(demo_url, wait_until="domcontentloaded")
        page.wait_for_selector("#examples button")
        page.wait_for_selector("#banner .ready")
        return page

    yield new
    for context in contexts:
        context.close()
    assert errors == []


def say(page: Any, text: str, *files: Path) -> None:
    """Sends a message and waits for the answer."""
    before = page.locator("#chat .bot-row").count()
    if files:
        page.locator("#message input[type=file]").set_input_files([str(path) for path in files])
        page.wait_for_selector("#message .thumbnails button")
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")
    answered(page, before)


def answered(page: Any, before: int) -> None:
    page.wait_for_function(
        "before => { const rows = [...document.querySelectorAll('#chat .bot-row')];"
        " return rows.length > before && rows.at(-1).querySelector('.said'); }",
        arg=before,
    )


def marked(page: Any) -> list[str]:
    """What the masks on the picture say."""
    return [item.get_attribute("data-tip").split(" · ")[0] for item in page.locator("#stage path.mask").all()]


INSIDE = """path => {
    path.scrollIntoView({ block: "center" });
    const { x, y, width, height } = path.getBBox();
    for (let i = 1; i < 20; i++) for (let j = 1; j < 20; j++) {
        const point = new DOMPoint(x + width * i / 20, y + height * j / 20);
        if (!path.isPointInFill(point)) continue;
        const { x: left, y: top } = point.matrixTransform(path.getScreenCTM());
        return [left, top];
    }
}"""


def test_a_whole_conversation(visit: Any, examples: Path, tmp_path: Path) -> None:
    page = visit()
    say(page, "the cup", examples / "coffee.jpg")
    assert marked(page) == ["the cup"]
    page.mouse.move(*page.locator("#stage path.mask").evaluate(INSIDE))  # its middle may be a hole
    assert page.locator("#stage .tip").inner_text().startswith("the cup · ")

    say(page, "everything except the cup")
    assert marked(page) == ["everything except the cup"]

    say(page, "the zebra")
    assert "I see no zebra" in page.locator("#chat .bot-row").last.inner_text()
    assert marked(page) == []

    say(page, "the spoon")
    assert marked(page) == ["the spoon"]
    old = page.locator("#stage path.mask").get_attribute("d")
    page.get_by_role("button", name="+ Point").click()
    page.wait_for_selector("svg.pointer-add")
    page.locator("svg.picture").click(position={"x": 250, "y": 100})
    page.wait_for_function("old => document.querySelector('#stage path.mask')?.getAttribute('d') != old", arg=old)
    assert marked(page) == ["the spoon"]

    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("button", name="Grey the rest").click()
    page.wait_for_selector("#stage button[data-value=result][aria-pressed=true]")
    assert page.locator("#stage path.mask").count() == 0

    page.locator("#stage button[data-value=masks]").click()
    page.wait_for_selector("#stage path.mask")
    page.get_by_role("tab", name="Export").click()
    page.locator("#export").click()
    page.wait_for_selector("#files .file-preview")
    with page.expect_download() as download:
        page.locator("#files a[download*='-mask-1-']").click()
    download.value.save_as(tmp_path / "mask.png")
    assert np.array(Image.open(tmp_path / "mask.png")).any()

    page.get_by_role("tab", name="Why").click()
    assert page.locator("#why > div details[open] .steps li").count() >= 1


def test_the_threshold_decides_anew(visit: Any, examples: Path) -> None:
    page = visit()
    say(page, "the cup", examples / "coffee.jpg")
    number = page.locator("#threshold input[type=number]")
    number.fill("1")
    number.press("Tab")
    page.wait_for_selector("#chat .chip.gone")
    assert marked(page) == []
    number.fill("0.4")
    number.press("Tab")
    page.wait_for_selector("#stage path.mask")
    assert page.locator("#chat .chip.gone").count() == 0


def test_the_list_of_masks(visit: Any, examples: Path) -> None:
    page = visit()
    say(page, "the cup", examples / "coffee.jpg")
    page.locator("#masks .eye").click()
    page.wait_for_selector("#stage path.mask", state="detached")
    page.locator("#masks .eye").click()
    page.wait_for_selector("#stage path.mask")
    page.locator("#masks input").fill("<b>杯子</b> ☕")
    page.locator("#masks input").press("Enter")
    page.wait_for_selector("#stage path.mask[data-tip^='<b>杯子</b> ☕']")
    page.locator("#undo").click()
    page.wait_for_selector("#stage path.mask", state="detached")
    assert page.locator("#masks .nothing").count() == 1


def test_visitors_do_not_see_each_others_pictures(visit: Any, examples: Path) -> None:
    one, other = visit(), visit()
    say(one, "the cup", examples / "coffee.jpg")
    say(other, "the man", examples / "photographer.jpg")
    assert (marked(one), marked(other)) == (["the cup"], ["the man"])
    say(one, "how big is it?")
    assert "the cup" in one.locator("#chat .bot-row").last.inner_text()
    for part in ("#chat", "#stage", "#masks"):
        assert "photographer" not in one.locator(part).first.inner_html()
        assert "coffee" not in other.locator(part).first.inner_html()


def test_what_strangers_write_stays_text(visit: Any, examples: Path, tmp_path: Path) -> None:
    page = visit()
    nasty = "<img src=x onerror=document.title='hacked'> **b** {{7*7}} ${7*7}"
    name = tmp_path / "<b>nasty<b> 图.png"
    Image.open(examples / "tower.jpg").save(name)
    say(page, nasty, name)
    assert nasty in page.locator("#chat .user-row").last.inner_text()
    assert page.title() != "hacked"
    assert page.locator("#chat img[src=x], #stage img[src=x], #masks img[src=x], #why img[src=x]").count() == 0


def test_without_a_mouse(visit: Any, examples: Path) -> None:
    page = visit()
    say(page, "the cup", examples / "coffee.jpg")
    page.locator("#stage path.mask").focus()
    assert page.locator("#stage .tip").inner_text().startswith("the cup")
    button = page.get_by_role("button", name="+ Point")
    button.focus()
    button.press("Enter")
    page.wait_for_selector("svg.pointer-add")
    before = page.locator("#chat .bot-row").count()
    page.locator("svg.picture").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    answered(page, before)
    assert "Corrected" in page.locator("#chat .bot-row").last.inner_text()


DROP = """([name, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], name, { type: "image/jpeg" }));
    document.querySelector("#stage .empty").dispatchEvent(
        new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
}"""


def test_a_picture_may_be_dropped_or_chosen_where_it_will_stand(visit: Any, examples: Path) -> None:
    page = visit()
    with page.expect_file_chooser() as chooser:
        page.locator("#stage .empty").press("Enter")
    assert chooser.value.is_multiple()
    page.evaluate(DROP, ["coffee.jpg", base64.b64encode((examples / "coffee.jpg").read_bytes()).decode()])
    page.wait_for_selector("#message .thumbnails button")
    page.keyboard.type("the cup")  # the message box has the focus
    page.keyboard.press("Enter")
    answered(page, 0)
    assert marked(page) == ["the cup"]


def test_on_a_phone_nothing_sticks_out(browser: Any, demo_url: str, examples: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(demo_url, wait_until="domcontentloaded")
    page.wait_for_selector("#banner .ready")
    say(page, "the cup and the spoon", examples / "coffee.jpg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("scrollTo(0, 0)")
    for part in ("#stage svg", "#chat", "#message"):
        box = page.locator(part).bounding_box()
        assert 0 <= box["y"] <= box["y"] + box["height"] <= 844, f"{part} is not on the first screen"
    assert [tab.inner_text() for tab in page.get_by_role("tab").all() if tab.is_visible()] == [
        "Masks", "Edit", "Superpixels", "Why", "Export",
    ]  # fmt: skip
    context.close()
