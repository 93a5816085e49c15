"""The wire scripts of tests/shared/wire.json, which the clients' tests run as well, by the server."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import msgpack
import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

SCRIPTS = json.loads((Path(__file__).parents[1] / "shared" / "wire.json").read_text())["scripts"]
ANY = "…"


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "namespaces.room": {
            **{"publish": "anyone", "subscribe": "anyone", "presence": True, "join_leave": False, "ephemeral": True}
        },
        "collections.notes": {"read": "anyone", "write": "anyone"},
    }


class Script:
    """The names that are bound so far, and what they mean in commands and answers."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {"{run}": secrets.token_hex(6)}

    def filled(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.bound[value] if value.startswith("$") else value.replace("{run}", self.bound["{run}"])
        if isinstance(value, dict):
            return {key: self.filled(item) for key, item in value.items()}
        return [self.filled(item) for item in value] if isinstance(value, list) else value

    def matches(self, expected: Any, value: Any) -> bool:
        if isinstance(expected, str):
            if expected.startswith("$"):
                return bool(self.bound.setdefault(expected, value) == value)
            text = expected.replace("{run}", self.bound["{run}"])
            return text in (ANY, value) or (text.endswith(ANY) and str(value).startswith(text[:-1]))
        if isinstance(expected, dict):
            same = isinstance(value, dict) and expected.keys() == value.keys()
            return same and all(self.matches(item, value[key]) for key, item in expected.items())
        if isinstance(expected, list):
            same = isinstance(value, list) and len(expected) == len(value)
            return same and all(self.matches(*pair) for pair in zip(expected, value, strict=True))
        return type(expected) is type(value) and bool(expected == value)


class Speaker:
    def __init__(self, connection: WebSocketClientConnection, packed: bool) -> None:
        self.connection = connection
        self.packed = packed

    async def say(self, command: Any) -> None:
        data = msgpack.packb(command) if self.packed else json.dumps(command)
        await self.connection.write_message(data, binary=self.packed)

    async def hear(self) -> Any:
        async with asyncio.timeout(10):
            frame = await self.connection.read_message()
        assert frame is not None, f"closed with {self.connection.close_code}"
        return msgpack.unpackb(frame) if isinstance(frame, bytes) else json.loads(frame)


@pytest.mark.gen_test(timeout=30)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script["name"])
async def test_a_script(base_url: str, http_server: object, script: Any, codec: str) -> None:
    """The server answers what the table says, to the letter, in both encodings."""
    if codec == "msgpack" and any("client_text" in step for step in script["steps"]):
        pytest.skip("text frames")

    async def speaker() -> Speaker:
        url = base_url.replace("http", "ws") + "/v1/ws"
        headers = {"Sec-WebSocket-Protocol": f"waterspout.{codec}"}
        return Speaker(await websocket_connect(HTTPRequest(url, headers=headers)), codec == "msgpack")

    state, one, other = Script(), await speaker(), await speaker()
    for step in script["steps"]:
        ((kind, value),) = step.items()
        if kind == "client":
            await one.say(state.filled(value))
        elif kind == "client_text":
            await one.connection.write_message(value)
        elif kind == "other":
            await other.say(state.filled(value))
            assert (await other.hear())["type"] == "reply"
        elif kind == "server":
            heard = await one.hear()
            assert state.matches(value, heard), (value, heard, state.bound)
        else:
            assert kind == "any_order"
            left = list(value)
            for _ in value:
                heard = await one.hear()
                fitting = [expected for expected in left if expected["type"] == heard["type"]]
                assert any(state.matches(expected, heard) for expected in fitting), (left, heard, state.bound)
                left.remove(fitting[0])
    await one.say({"type": "ping", "id": 999_999})
    assert await one.hear() == {"type": "reply", "id": 999_999}, "something that the script does not have"
    for speaking in (one, other):
        speaking.connection.close()
        assert await speaking.connection.read_message() is None
