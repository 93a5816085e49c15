"""static/waterspout.js on a real server: what a bad name, a bad token or the server's limits do, and to whom."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import pytest

from tests.browser.conftest import SECRET, SHOP
from tests.browser.node_client import Client, ClientError, client, post, room
from tests.support.client import make_token
from tests.support.processes import ROOT, Server
from tests.support.waiting import until

HALF = "\ud83d"
TRANSPORTS = ["websocket", "sse", "poll"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_name_that_cannot_be_written(node: list[str], running: Server, transport: str) -> None:
    """Half a surrogate pair in a name, a key or data refuses that call, and the connection goes on undisturbed."""

    async def run() -> None:
        channel, bad = room(), f"chat:{HALF}"
        calls: list[tuple[str, dict[str, Any]]] = [
            ("publish", {"name": bad, "data": 1}),
            ("history", {"name": bad}),
            ("subscribe", {"name": bad}),
            ("publish", {"name": channel, "data": {"text": HALF}}),
            ("publish", {"name": channel, "data": 1, "options": {"key": HALF}}),
            ("collection", {"name": "orders", "call": "get", "args": [HALF]}),
            ("collection", {"name": "orders", "call": "put", "args": ["x", {HALF: 1}]}),
            ("collection", {"name": HALF, "call": "find", "args": []}),
        ]
        async with client(node, running.ws, token=SHOP, transports=[transport]) as ann:
            await ann.do("subscribe", name=channel)
            for command, fields in calls:
                with pytest.raises(ClientError, match="bad_request"):
                    await ann.do(command, within=5, **fields)
            await ann.do("unsubscribe", name=bad)
            await ann.do("publish", name=channel, data="goes on")
            assert await ann.received(1) == ["goes on"]
            assert set(ann.states()) <= {"connecting", "open"}

    asyncio.run(run())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_copy_with_a_bad_token(node: list[str], running: Server, transport: str) -> None:
    """A copy and a channel say that, and why, nothing will come."""

    async def run() -> None:
        async with client(node, running.ws, token="garbage", transports=[transport]) as ann:
            ann.start("subscribe", name=room())
            ann.start("watch", name="orders", where={})
            await until(lambda: len(ann.told("ended")) == 2, 10, "both ends")
            assert {event["code"] for event in ann.told("ended")} == {"closed"}
            assert all("token" in event["reason"].lower() for event in ann.told("ended")), ann.told("ended")

    asyncio.run(run())


def test_a_program_with_a_bad_token_is_not_silent(node: list[str], running: Server) -> None:
    """A program that only watches, and listens for no ending, says on stderr why it does not go on."""
    program = f"""
        import {{ Waterspout }} from "{(ROOT / "static/waterspout.js").as_uri()}";
        new Waterspout("{running.ws}", {{ token: "garbage" }}).watch("orders").on("ready", () => console.log("ready"));
    """
    done = subprocess.run(
        [*node, "--input-type=module", "-e", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert "waterspout: closed: " in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_members_of_many_channels(node: list[str], running: Server, transport: str) -> None:
    """With the default limits everybody is there in each of 120 channels, and after a loss nobody who has left."""
    rooms = [room() for _ in range(120)]

    async def everywhere(one: Client, *users: str) -> bool:
        lists = await asyncio.gather(*(one.do("members", name=name) for name in rooms))
        return all(members["users"] == list(users) for members in lists)

    async def run() -> None:
        ann_token, bob_token = (make_token(SECRET, user) for user in ("ann", "bob"))
        async with (
            client(node, running.ws, token=bob_token) as bob,
            client(node, running.ws, token=ann_token, transports=[transport]) as ann,
        ):
            await asyncio.gather(*(bob.do("subscribe", name=name) for name in rooms))
            await asyncio.gather(*(ann.do("subscribe", name=name) for name in rooms))
            await until(lambda: everywhere(ann, "ann", "bob"), 20, "both in all of them")
            away = len(ann.told("state"))
            answer = await running.post("/v1/users/ann/disconnect", {"reconnect": True}, token=SHOP)
            assert answer.status == 200, answer
            await until(lambda: len(ann.told("state")) > away, 10, "the loss")
            await asyncio.gather(*(bob.do("unsubscribe", name=name) for name in rooms))
            await until(lambda: everywhere(ann, "ann"), 20, "ann alone in all of them")

    asyncio.run(run())


def test_waiting_for_the_rate_limit_is_told(node: list[str], running: Server) -> None:
    """Whoever publishes more than the server takes hears that it waits, and when nothing waits any more."""

    async def run() -> None:
        channel = room()
        async with client(node, running.ws) as ann:
            publishes = [ann.start("publish", name=channel, data=number) for number in range(150)]
            async with asyncio.timeout(30):
                await asyncio.gather(*publishes)
            told = ann.told("limited")
            assert told[0]["delay"] > 0
            assert told[0]["waiting"] >= 1
            assert told[-1]["waiting"] == 0

    asyncio.run(run())


@pytest.mark.parametrize("transport", ["sse", "poll"])
def test_many_long_names_over_plain_http(node: list[str], running: Server, transport: str) -> None:
    """A list of channels that fits no URL: all get their messages, and the connection is not lost."""

    async def run() -> None:
        rooms = [f"chat:{'я' * 110}-{number:02}" for number in range(64)]
        async with client(node, running.ws, transports=[transport]) as ann:
            await asyncio.gather(*(ann.do("subscribe", name=name) for name in rooms))
            for name in rooms:
                await post(running, name, name)
            assert sorted(await ann.received(64)) == rooms
            await ann.do("unsubscribe", name=rooms[0])
            await post(running, rooms[1], "again")
            assert (await ann.received(65))[-1] == "again"
            assert "waiting" not in ann.states()

    asyncio.run(run())
