"""Clients that send more than is good for the others: they wait, are told so, and are closed if they do not listen."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import json
import os
from types import TracebackType
from typing import Any, Self

import pytest

import server.core.loop_share
import server.sessions.ordered
from server.node import Node
from server.sessions.session import Session
from server.wire.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from tests.support.client import Client, Push, Refused
from tests.support.processes import LOOPBACK
from tests.support.sockets import abort
from tests.support.waiting import until

KEY = "the key of the shop"


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "auth.api_keys": {
            "shop": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "channels": {"chat:*": ["publish"]}}
        },
        "limits.messages_per_second": 50,
        "limits.burst": 100,
        "limits.cost_per_second": 10,
        "limits.cost_burst": 1000,
        "limits.channels_per_connection": 5,
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


@pytest.fixture
def port(http_port: int, http_server: object) -> int:
    return http_port


def frame(opcode: int, payload: bytes = b"", final: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes((final << 7 | opcode,)) + length + bytes(4) + payload


def command(**fields: Any) -> bytes:
    return frame(TEXT, json.dumps(fields).encode())


class Flooder:
    """A guest that sends whatever bytes it likes, and reads all that comes back."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pushes: list[Push] = []
        self.pongs = 0
        self.closed: int | None = None
        """The code of the close frame."""

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(LOOPBACK, self.port)
        key = base64.b64encode(os.urandom(16)).decode()
        self._writer.write(
            f"GET /v1/ws HTTP/1.1\r\nHost: localhost:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert b" 101 " in await self._reader.readuntil(b"\r\n\r\n")
        self._reading = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.write(frame(CLOSE))
        async with asyncio.timeout(20):
            await self._reading  # until the server has closed
        await abort(self._writer)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def of(self, kind: str) -> list[Push]:
        return [push for push in self.pushes if push["type"] == kind]

    async def _read(self) -> None:
        try:
            while True:
                first, length = await self._reader.readexactly(2)
                if length == 126:
                    length = int.from_bytes(await self._reader.readexactly(2), "big")
                payload = await self._reader.readexactly(length)
                if first & 0x0F == CLOSE:
                    self.closed = int.from_bytes(payload[:2], "big")
                elif first & 0x0F == PONG:
                    self.pongs += 1
                elif first & 0x0F in (TEXT, BINARY):
                    self.pushes.append(json.loads(payload))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass


FLOODS = {
    "no JSON": (frame(TEXT, b"0"), True),
    "frames of the other kind": (frame(BINARY, b"0"), True),
    "refused commands": (command(type="subscribe", id=1, channel="nowhere:1"), True),
    "refused publishes": (command(type="publish", id=1, channel="feed:news", data=1), True),
    "commands that cannot be here": (command(type="connect", id=1) * 2, True),
    "ping commands": (command(type="ping", id=1), True),
    "unsubscribes": (command(type="unsubscribe", channel="chat:x"), True),
    "subscribes again and again": (
        command(type="subscribe", id=1, channel="chat:x") + command(type="unsubscribe", id=2, channel="chat:x"), True,
    ),
    "refreshes": (command(type="refresh", id=1, token="no token"), True),
    "large frames": (command(type="ping", id=1, padding="x" * 60_000), True),
    "pings": (frame(PING, b"?"), False),
    "pongs": (frame(PONG), False),
    "empty fragments": (frame(TEXT, b"0", final=False) + frame(CONTINUATION), False),
}  # fmt: skip


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("flood", FLOODS)
async def test_whoever_goes_on_over_the_budget_is_told_and_closed(port: int, url: str, flood: str) -> None:
    """Whatever a connection floods the server with, it is told to wait, then closed with a code after which it may come
    back; and nobody else notices."""
    data, told = FLOODS[flood]
    async with Client(url) as other, Flooder(port) as flooder:
        flooder.send(data * 3000)
        await until(lambda: flooder.closed is not None, 30, "the close")
        assert flooder.closed == 4006
        (goodbye,) = flooder.of("disconnect")
        assert (goodbye["code"], goodbye["reconnect"]) == (4006, True)
        assert goodbye["delay"] >= 0
        limited = [push for push in flooder.of("error") if push["code"] == "rate_limited"]
        if told:
            assert 0 < len(limited) <= 100
            assert {push["reason"].split()[0] for push in limited} & {"cost_per_second"}
            assert all(push["retry"] and push["retry_after"] > 0 for push in limited)
        assert len(flooder.pushes) + flooder.pongs < 3000
        await other.ping()
        assert not other.losses


@pytest.mark.gen_test
async def test_whoever_waits_as_told_is_served_again(port: int, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has used up its budget and listens keeps its connection, and the ids of what was refused."""
    node.config.limits.cost_per_second = 1000
    async with Flooder(port) as client:
        client.send(b"".join(command(type="ping", id=n) for n in range(1050)))
        await until(lambda: len(client.pushes) == 1050, 10, "an answer to everything")
        refused = client.of("error")
        assert {push["code"] for push in refused} <= {"rate_limited"}
        assert sorted(push["id"] for push in client.pushes) == list(range(1050))
        client.pushes.clear()

        async def served() -> bool:
            client.send(command(type="ping", id=2000))
            await until(lambda: client.pushes, 5, "an answer")
            return bool(client.pushes.pop()["type"] == "reply")

        await until(served, 10, "budget", every=0.1)
        assert client.closed is None


@pytest.mark.gen_test
@pytest.mark.parametrize("flood", ["no JSON", "refused commands", "unsubscribes", "refreshes"])
async def test_what_was_refused_is_let_go_at_once(port: int, node: Node, flood: str) -> None:
    """An error keeps nothing of what was sent: no circle waits for the collector, which would stop everything for long
    when it comes."""
    node.config.limits.cost_per_second = 0
    data, _ = FLOODS[flood]
    async with Flooder(port) as client:
        client.send(data * 10)
        await until(lambda: len(client.of("error")) == 10, 10, "the first answers")
        gc.collect()
        client.send(data * 1000)
        await until(lambda: len(client.of("error")) == 1010, 20, "all answers")
        assert gc.collect() < 1000


@pytest.mark.gen_test
async def test_who_leaves_is_let_go_in_portions(port: int, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's subscriptions end in several turns of the loop if there are more than there is time for; nothing of
    them is left."""
    async with Flooder(port) as client:
        client.send(b"".join(command(type="subscribe", id=n, channel=f"chat:{n}") for n in range(5)))
        await until(lambda: len(client.of("reply")) == 5, 10, "all subscriptions")
        monkeypatch.setattr(server.core.loop_share, "SLICE", 0.0)
        client.send(frame(CLOSE))
        seen = set()

        def left() -> bool:
            seen.add(node.hub.subscriptions())
            return not node.hub.subscriptions() and not node.admission.channel_seats.total

        await until(left, 10, "the end", every=0)
    assert len(seen) > 2


class TestFairness:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"limits.cost_per_second": 0}

    @pytest.mark.gen_test(timeout=60)
    @pytest.mark.parametrize("kind", ["nonsense", "fragments", "large"])
    async def test_others_have_their_turn_in_a_flood(self, port: int, url: str, node: Node, kind: str) -> None:
        """What comes from another connection behind a flood is answered before the flood is worked off."""
        data = {
            "nonsense": frame(TEXT, b"0") * 30_000,
            "fragments": (frame(TEXT, b"0", final=False) + frame(CONTINUATION) * 100) * 300,
            "large": frame(TEXT, b"[" + b"0," * 9000 + b"0]") * 100,
        }[kind]
        count = {"nonsense": 30_000, "fragments": 300, "large": 100}[kind]
        if kind == "fragments":
            data = (frame(TEXT, b"0", final=False) + frame(CONTINUATION, final=False) * 100
                    + frame(CONTINUATION)) * 300  # fmt: skip
        async with Client(url) as other, Flooder(port) as flooder:
            flooder.send(data)
            await until(lambda: node.incidents.refusals["bad_request"], 10, "the flood's beginning", every=0)
            await other.ping()
            assert node.incidents.refusals["bad_request"] < count
            await until(lambda: node.incidents.refusals["bad_request"] == count, 30, "the flood's end")
            assert len(flooder.of("error")) <= count


# --- channels_per_connection ------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_pipelined_subscribes_meet_the_limit(port: int) -> None:
    """Of subscribes sent at once only as many are accepted as may be there at a time; who leaves makes room."""
    async with Flooder(port) as client:
        for round in range(2):
            client.pushes.clear()
            client.send(b"".join(command(type="subscribe", id=n, channel=f"chat:{round}-{n}") for n in range(20)))
            await until(lambda: len(client.pushes) == 20, 10, "all answers")
            assert len(client.of("reply")) == 5
            assert {(push["code"], push["reason"]) for push in client.of("error")} == {
                ("limit_exceeded", "channels_per_connection is 5")
            }
            for push in client.of("reply"):
                client.send(command(type="unsubscribe", channel=push["channel"]))
            client.send(command(type="subscribe", id=99, channel="nowhere:1"))  # does not keep a seat
            await until(lambda: client.pushes[-1].get("id") == 99, 10, "the last answer")


# --- API keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("bearer", [True, False], ids=["in the header", "in connect"])
async def test_a_back_end_is_not_held_to_a_users_rate(url: str, bearer: bool) -> None:
    """An API key publishes and errs over WebSocket as much as it likes."""
    async with Client(url, token=KEY, bearer=bearer) as shop:
        replies = await asyncio.gather(*(shop.publish("chat:x", n) for n in range(300)))
        assert len({reply["offset"] for reply in replies}) == 300
        for _ in range(300):
            with pytest.raises(Refused, match="bad_request"):
                await shop.request("nonsense")


@pytest.mark.gen_test
async def test_a_back_end_has_a_rate_of_its_own(url: str, node: Node) -> None:
    """`key_messages_per_second` is told by its name."""
    node.config.limits.key_messages_per_second = 0.5
    node.config.limits.key_burst = 3
    async with Client(url, token=KEY) as shop:
        for n in range(3):
            await shop.publish("chat:x", n)
        with pytest.raises(Refused, match=r"rate_limited: key_messages_per_second is 0\.5") as refused:
            await shop.publish("chat:x", 3)
        assert 0 < refused.value.retry_after <= 2


# --- pongs ------------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_pong_that_is_not_read_is_not_missing(port: int, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is read from a client, because its commands take long, it is not closed for want of a pong; once
    its commands are read again, it is."""
    monkeypatch.setattr(server.sessions.ordered, "PIPELINED", 3)
    go_on = asyncio.Event()
    page = node.history.page

    async def slow(*args: Any, **kwargs: Any) -> Any:
        await go_on.wait()
        return await page(*args, **kwargs)

    monkeypatch.setattr(node.history, "page", slow)
    async with Flooder(port) as client:
        client.send(command(type="connect", id=0))
        await until(lambda: client.pushes, 5, "the greeting")
        (session,) = (one for one in node.admission.clients if isinstance(one, Session))
        client.send(b"".join(command(type="history", id=n, channel=f"chat:{n}") for n in range(1, 9)))
        await until(lambda: not session.reading, 5, "end of the reading")
        now = asyncio.get_running_loop().time()
        for seconds in range(0, 120, 5):
            session.tick(now + seconds)
        assert not session.ended
        go_on.set()
        await until(lambda: len(client.pushes) == 9, 5, "all answers")
        for seconds in range(120, 200, 5):
            session.tick(now + seconds)
        await until(lambda: client.closed, 5, "the close")
        assert client.closed == 4003
