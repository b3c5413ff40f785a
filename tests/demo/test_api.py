from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from mllmseg.models.postprocess import decode_rle

pytestmark = pytest.mark.weights


@pytest.fixture
def connect(demo_url: str, download_folder: str) -> Any:
    """`connect()` is a client with a conversation of its own."""
    return lambda: Client(demo_url, verbose=False, download_files=download_folder, analytics_enabled=False)


def test_segment_gives_mask_and_overlay(connect: Any, examples: Path) -> None:
    result, drawn = connect().predict(
        image=handle_file(examples / "coffee.jpg"), query="the cup", threshold=0.5, api_name="/segment"
    )
    assert result["exists"] is True
    assert result["image_size"] == [400, 600]
    assert decode_rle(result["masks"][0]["rle"]).sum() == result["masks"][0]["area"]
    assert Image.open(drawn).size == (600, 400)


def test_segment_says_no(connect: Any, examples: Path) -> None:
    result, _ = connect().predict(
        image=handle_file(examples / "coffee.jpg"), query="大象 🐘", threshold=0.99, api_name="/segment"
    )
    assert (result["exists"], result["masks"]) == (False, [])


def test_chat_goes_on_from_what_was_said_and_nobody_else_hears_it(connect: Any, examples: Path) -> None:
    one, other = connect(), connect()
    first, _ = one.predict("the cup", handle_file(examples / "coffee.jpg"), api_name="/chat")
    assert [mask["phrase"] for mask in first["masks"]] == ["the cup"]
    assert [step["tool"] for step in first["steps"]] == ["segment"]
    with pytest.raises(AppError, match="no picture"):
        other.predict("how big is it?", api_name="/chat")
    second, edited = one.predict("blur it", api_name="/chat")
    assert "Blurred" in second["answer"]
    mask = decode_rle(first["masks"][0]["rle"]).numpy()
    before, after = (np.array(Image.open(path).convert("RGB")) for path in (examples / "coffee.jpg", edited))
    assert np.array_equal(before[~mask], after[~mask])
    undone, _ = one.predict("undo", api_name="/chat")
    assert undone["answer"] == first["answer"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"message": "x", "mode": "sloppy"}, "strict or lenient"), ({"message": "x" * 2000}, "up to 1000 are read")],
)
def test_bad_input_is_said_in_words(connect: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(AppError, match=said):
        connect().predict(**arguments, api_name="/chat")


def test_a_file_that_is_no_picture_is_refused(connect: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(AppError, match=r"broken\.png: not an image"):
        connect().predict(image=handle_file(tmp_path / "broken.png"), query="x", threshold=0.5, api_name="/segment")


def test_the_endpoints_are_the_documented_ones(connect: Any) -> None:
    named = connect().view_api(return_format="dict", print_info=False)["named_endpoints"]
    page = (Path(__file__).parents[2] / "docs" / "demo.md").read_text(encoding="utf-8")
    assert {"/segment", "/chat"} < set(named)
    assert all(f"`{name}`" in page or name.startswith("/tool_") for name in named)
    names = {name: [item["parameter_name"] for item in named[name]["parameters"]] for name in ("/segment", "/chat")}
    assert names == {"/segment": ["image", "query", "threshold"], "/chat": ["message", "image", "mode", "threshold"]}
