"""With a real MCP client over HTTP, as another agent would."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image

from mllmseg.agent.tools import TOOLS
from mllmseg.models.postprocess import decode_rle

pytestmark = pytest.mark.weights


@pytest.fixture
def visit(demo_url: str) -> Callable[..., Any]:
    """Runs a coroutine with a connected client."""

    def run(errand: Callable[[ClientSession], Awaitable[Any]]) -> Any:
        async def connected() -> Any:
            async with (
                streamablehttp_client(f"{demo_url}gradio_api/mcp/") as (read, write, _),
                ClientSession(read, write) as client,
            ):
                await client.initialize()
                return await errand(client)

        return asyncio.run(connected())

    return run


@pytest.fixture(scope="session")
def photo(examples: Path) -> str:
    code = base64.b64encode((examples / "coffee.jpg").read_bytes()).decode("ascii")
    return f"data:image/jpeg;base64,{code}"


async def ask(client: ClientSession, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.isError, answer.content
    return json.loads(answer.content[0].text)


def test_the_tools_are_the_agents_own(visit: Callable[..., Any]) -> None:
    tools = {tool.name: tool for tool in visit(lambda client: client.list_tools()).tools}
    assert set(tools) == {"ask", *TOOLS} - {"talk"}
    for tool in tools.values():
        assert tool.description
        assert all("description" in value for value in tool.inputSchema["properties"].values()), tool.name


def test_one_tools_mask_is_anothers_input(visit: Callable[..., Any], photo: str, examples: Path) -> None:
    async def errand(client: ClientSession) -> dict[str, Any]:
        found = await ask(client, "segment", image=photo, query="the cup")
        code = json.dumps(found["masks"][0]["rle"])
        edited = await client.call_tool("edit", {"image": photo, "mask": code, "op": "grey"})
        point = json.dumps([{"x": 290, "y": 120, "inside": False}])
        return {
            "mask": found["masks"][0]["rle"],
            "measured": await ask(client, "measure", image=photo, mask=code),
            "rest": await ask(client, "combine", op="complement", masks=f"[{code}]"),
            "judged": await ask(client, "verify", image=photo, mask=code, query="the cup"),
            "corrected": await ask(client, "refine", image=photo, mask=code, points=point),
            "edited": edited.content[0],
        }

    got = visit(errand)
    mask = decode_rle(got["mask"]).numpy()
    assert got["measured"]["area"] == mask.sum()
    assert np.array_equal(decode_rle(got["rest"]["mask"]).numpy(), ~mask)
    assert got["judged"]["score"] > 0.5
    assert got["corrected"]["exists"]
    before = np.array(Image.open(examples / "coffee.jpg"))
    after = np.array(Image.open(io.BytesIO(base64.b64decode(got["edited"].data))).convert("RGB"))
    assert np.array_equal(before[~mask], after[~mask])
    assert (before[mask] != after[mask]).any()


def test_a_whole_message_can_be_asked(visit: Callable[..., Any], photo: str) -> None:
    got = visit(lambda client: ask(client, "ask", image=photo, message="everything except the cup"))
    assert [step["tool"] for step in got["steps"]] == ["segment", "combine"]
    assert len(got["masks"]) == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("measure", {"mask": "nonsense"}, "not JSON"),
        ("measure", {"mask": '{"size": [3, 3], "counts": "9"}'}, "the picture"),
        ("measure", {"mask": '{"size": [99999, 99999], "counts": "0"}'}, "pixels"),
        ("measure", {"mask": "[1]"}, "run-length code"),
        ("edit", {"mask": '{"size": [400, 600], "counts": "PP\\\\72"}', "op": "explode"}, ""),
        ("refine", {}, "points or a box"),
        ("refine", {"box": "[1, 2]"}, "box"),
    ],
)
def test_bad_input_is_said_in_words(
    visit: Callable[..., Any], photo: str, tool: str, arguments: dict[str, str], said: str
) -> None:
    answer = visit(lambda client: client.call_tool(tool, {"image": photo, **arguments}))
    assert answer.isError
    assert said in answer.content[0].text


def test_files_of_the_server_are_no_pictures_to_send(visit: Callable[..., Any], examples: Path) -> None:
    answer = visit(lambda client: client.call_tool("segment", {"image": str(examples / "coffee.jpg"), "query": "x"}))
    assert answer.isError
