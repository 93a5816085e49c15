"""Clients that stop reading: what they cost, what they lose, and that nobody else notices."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections import defaultdict
from types import TracebackType
from typing import Any, Self

import pytest

import handlers.sockets
import server.sessions.outbox
from server.core.cursors import BEGINNING
from server.node import Node
from server.sessions.outbox import Outbox
from server.sessions.session import Session
from tests.support.client import Client, Push, make_token
from tests.support.processes import LOOPBACK
from tests.support.sockets import abort, connect
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
LIMIT = 65536
BIG = "x" * 8000
"""Data of a message: the kernel's buffers take megabytes before the server notices anything."""


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "limits.queue_bytes": LIMIT,
        "namespaces.tile": {"durable": False, "conflate": 0.05, "publish": "anyone", "subscribe": "anyone"},
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Per session id, the most bytes that have ever waited in its queue."""
    most: dict[str, int] = defaultdict(int)
    for name in ("send", "put"):
        method = getattr(Outbox, name)

        def watched(self: Outbox, item: Any, method: Any = method) -> None:
            method(self, item)
            most[self.id] = max(most[self.id], self.queued)

        monkeypatch.setattr(Outbox, name, watched)
    return most


class Raw:
    """A client of a few kilobytes of buffers, which reads only when it is asked to."""

    def __init__(self, node: Node, port: int, token: str | None = None) -> None:
        self.node = node
        self.port = port
        self.token = token
        self.close_code: int | None = None

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await connect(LOOPBACK, self.port, buffer=4096, limit=4096)
        key = base64.b64encode(os.urandom(16)).decode()
        self._writer.write(
            f"GET /v1/ws HTTP/1.1\r\nHost: localhost:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert b" 101 " in await self._reader.readuntil(b"\r\n\r\n")
        self.send(type="connect", id=0, **({"token": self.token} if self.token else {}))
        greeting = await self.next()
        (self.session,) = (
            one for one in self.node.admission.clients if isinstance(one, Session) and one.id == greeting["session"]
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await abort(self._writer)
        await until(lambda: self.session.ended, 10, "end of the session")

    def send(self, **command: Any) -> None:
        """A command in a frame masked with zeros."""
        payload = json.dumps(command).encode()
        assert len(payload) < 65536
        length = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        self._writer.write(b"\x81" + length + b"\0\0\0\0" + payload)

    async def next(self) -> Push:
        """The next push; EOFError after a close frame."""
        while True:
            async with asyncio.timeout(10):
                first, length = await self._reader.readexactly(2)
                if length == 126:
                    length = int.from_bytes(await self._reader.readexactly(2), "big")
                elif length == 127:
                    length = int.from_bytes(await self._reader.readexactly(8), "big")
                payload = await self._reader.readexactly(length)
            if first == 0x81:
                return json.loads(payload)  # type: ignore[no-any-return]
            if first == 0x88:
                self.close_code = int.from_bytes(payload[:2], "big")
                raise EOFError
            assert first == 0x89  # a ping; an unread client owes no pong

    async def subscribe(self, channel: str, **options: Any) -> Push:
        self.send(type="subscribe", id=1, channel=channel, **options)
        return await self.next()

    def subscription(self, channel: str) -> Any:
        return self.session.subscriptions[channel]


@pytest.fixture
def port(http_port: int, http_server: object) -> int:
    return http_port


async def publish(node: Node, channel: str, count: int, first: int = 1) -> None:
    """`count` messages [n, BIG], each delivered (or not) before this returns."""
    guest = node.authenticator.authenticate(None)
    for start in range(first, first + count, 20):
        futures = [
            node.publisher.publish(guest, channel, [n, BIG]) for n in range(start, min(start + 20, first + count))
        ]
        await asyncio.gather(*filter(None, futures))
        await asyncio.sleep(0)


async def publish_until(node: Node, channel: str, condition: Any, chunk: int = 100) -> int:
    """Publish until the condition holds; how many messages that took."""
    sent = 0
    while not condition():
        assert sent < 20_000, "the client never became slow"
        await publish(node, channel, chunk, sent + 1)
        sent += chunk
    return sent


# --- durable channels -------------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=60)
async def test_a_durable_subscriber_goes_behind_and_comes_back(
    node: Node, port: int, url: str, peaks: dict[str, int]
) -> None:
    """Who stops reading costs no more than the queue, delays nobody, and later gets everything once, in order."""
    async with Client(url) as other, Raw(node, port) as slow:
        prompt = await other.subscribe("chat:a")
        await slow.subscribe("chat:a")
        subscription = slow.subscription("chat:a")
        sent = await publish_until(node, "chat:a", lambda: not subscription.live)
        await publish(node, "chat:a", 300, sent + 1)
        sent += 300
        pushes = await prompt.messages(sent, within=20)
        assert [push["offset"] for push in pushes] == list(range(1, sent + 1))
        assert not subscription.live
        assert node.hub.count("chat:a") == 1

        for offset in range(1, sent + 1):
            push = await slow.next()
            assert (push["type"], push.get("offset")) == ("message", offset)
            assert push["data"] == [offset, BIG]
        await until(lambda: subscription.live, 10, "live subscription")
        await publish(node, "chat:a", 1, sent + 1)
        assert (await slow.next())["offset"] == sent + 1
        assert peaks[slow.session.id] <= LIMIT


@pytest.mark.gen_test(timeout=60)
async def test_falling_behind_again_and_again(node: Node, port: int, peaks: dict[str, int]) -> None:
    """A client that reads in fits gets every message once, in order, however often it falls behind."""
    async with Raw(node, port) as slow:
        await slow.subscribe("chat:a")
        subscription = slow.subscription("chat:a")
        sent = read = 0
        for _ in range(3):
            while subscription.live:
                await publish(node, "chat:a", 100, sent + 1)
                sent += 100
            publishing = asyncio.ensure_future(publish(node, "chat:a", 100, sent + 1))
            sent += 100
            while read < sent - 50:
                read += 1
                assert (await slow.next())["offset"] == read
            await publishing
        while read < sent:
            read += 1
            assert (await slow.next())["offset"] == read
        slow.send(type="ping", id=9)
        assert (await slow.next())["id"] == 9
        assert peaks[slow.session.id] <= LIMIT


@pytest.mark.gen_test(timeout=60)
async def test_unsubscribing_while_behind(node: Node, port: int) -> None:
    """The cursor of the reply continues exactly behind the last message that was sent before it."""
    async with Raw(node, port) as slow:
        await slow.subscribe("chat:a")
        subscription = slow.subscription("chat:a")
        sent = await publish_until(node, "chat:a", lambda: not subscription.live)
        slow.send(type="unsubscribe", id=2, channel="chat:a")
        offsets = []
        while (push := await slow.next())["type"] == "message":
            offsets.append(push["offset"])
        assert push["id"] == 2
        assert offsets == list(range(1, len(offsets) + 1))
        assert push["cursor"].endswith(f":{len(offsets)}")
        await slow.subscribe("chat:a", after=push["cursor"])
        for offset in range(len(offsets) + 1, sent + 1):
            assert (await slow.next())["offset"] == offset


@pytest.mark.gen_test(timeout=60)
async def test_many_channels_behind_share_one_bound(node: Node, port: int, peaks: dict[str, int]) -> None:
    """However many of its channels are behind, what waits for one client stays within a small multiple of the bound."""
    channels = [f"chat:{n}" for n in range(30)]
    async with Raw(node, port) as slow:
        for channel in channels:
            await publish(node, channel, 20)
            await slow.subscribe(channel)
        subscriptions = [slow.subscription(channel) for channel in channels]
        await publish_until(node, channels[0], lambda: not slow.session.outbox.writable)
        for channel in channels[1:]:
            await publish(node, channel, 20, 21)
        assert sum(not one.live for one in subscriptions) > 20
        seen: dict[str, int] = defaultdict(int)
        while any(seen[channel] < 20 for channel in channels[1:]):
            push = await slow.next()
            assert push["type"] == "message"
            seen[push["channel"]] += 1
            assert push["offset"] == 20 + seen[push["channel"]]
        # The bound, and one replayed chunk that was asked for when there was room.
        assert peaks[slow.session.id] <= 2 * LIMIT + 16384


# --- ephemeral channels -----------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=60)
async def test_an_ephemeral_subscriber_is_told_how_many_it_lost(
    node: Node, port: int, url: str, peaks: dict[str, int]
) -> None:
    """What was received and what was reported as dropped add up to what was sent; the others get everything."""
    async with Client(url) as other, Raw(node, port) as slow:
        got: list[int] = []
        await other.subscribe("live:a", on_push=lambda push: got.append(push["data"][0]))
        await slow.subscribe("live:a")
        sent, enough = 0, 0
        while not enough or sent < enough:
            await publish(node, "live:a", 5, sent + 1)
            sent += 5
            # Ephemeral messages wait for nobody: even a prompt client needs the time to read them.
            await until(lambda: len(got) == sent, 10, "everything at the other client", every=0.001)  # noqa: B023
            enough = enough or (sent + 300 if slow.session.outbox.dropped else 0)
        assert got == list(range(1, sent + 1))

        received: list[int] = []
        dropped = 0
        while len(received) + dropped < sent:
            push = await slow.next()
            if push["type"] == "dropped":
                assert push == {"type": "dropped", "channel": "live:a", "count": push["count"]}
                dropped += push["count"]
            else:
                assert push["type"] == "message"
                received.append(push["data"][0])
        assert len(received) + dropped == sent
        assert dropped >= 300
        assert received == sorted(received)
        assert received[-1] == sent  # of live values the newest count
        await publish(node, "live:a", 1, sent + 1)
        assert (await slow.next())["data"][0] == sent + 1
        assert peaks[slow.session.id] <= LIMIT


@pytest.mark.gen_test(timeout=60)
async def test_each_ephemeral_channel_is_counted_by_itself(node: Node, port: int) -> None:
    """A client that loses messages of two channels is told of each."""
    async with Raw(node, port) as slow:
        await slow.subscribe("live:a")
        await slow.subscribe("live:b")
        sent = {"live:a": await publish_until(node, "live:a", lambda: slow.session.outbox.dropped), "live:b": 40}
        await publish(node, "live:b", 40)
        accounted: dict[str, int] = defaultdict(int)
        while accounted != sent:
            push = await slow.next()
            accounted[push["channel"]] += push["count"] if push["type"] == "dropped" else 1
            assert all(accounted[channel] <= sent[channel] for channel in sent)


@pytest.mark.gen_test(timeout=30)
async def test_a_conflating_channel_shows_the_newest_of_each_tag(node: Node, port: int) -> None:
    """Whoever reads sees the last value of each tag; those in between need not come, and never after a newer one."""
    guest = node.authenticator.authenticate(None)
    async with Raw(node, port) as reader:
        await reader.subscribe("tile:a")
        for n in range(1, 201):
            for tag in ("cpu", "disk"):
                node.publisher.publish(guest, "tile:a", n, tag=tag)
            await asyncio.sleep(0)
        seen: dict[str, list[int]] = {"cpu": [], "disk": []}
        while any(values[-1:] != [200] for values in seen.values()):
            push = await reader.next()
            assert push["type"] == "message"
            seen[push["tag"]].append(push["data"])
        for values in seen.values():
            assert values == sorted(set(values))
            assert len(values) < 200


@pytest.mark.gen_test(timeout=60)
async def test_a_conflating_channel_after_a_stall(node: Node, port: int) -> None:
    """A dashboard that did not read for a while shows the newest of each tag once it reads again, not an old one."""
    guest = node.authenticator.authenticate(None)
    async with Raw(node, port) as slow:
        await slow.subscribe("live:noise")
        await slow.subscribe("tile:a")
        await publish_until(node, "live:noise", lambda: slow.session.outbox.dropped)
        for n in range(1, 41):
            before = node.hub.messages
            node.publisher.publish(guest, "tile:a", [n, BIG], tag="cpu")
            await until(lambda: node.hub.messages > before, 5, "end of the interval")  # noqa: B023  # called at once
        seen = []
        slow.send(type="ping", id=9)
        while (push := await slow.next()).get("id") != 9 or slow.session.outbox.dropped:
            if push.get("channel") == "tile:a" and push["type"] == "message":
                seen.append(push["data"][0])
        assert seen == sorted(set(seen))
        assert seen[-1:] == [40]


# --- replies ----------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=60)
async def test_unread_replies_stop_the_reading_of_commands(node: Node, port: int) -> None:
    """No reply is dropped; while too many are unread nothing is read from the client, and later everything is done."""
    await publish(node, "chat:a", 50)
    async with Raw(node, port) as slow:
        asked = 1
        while slow.session.reading:
            assert asked < 200, "the client never became slow"
            asked += 1
            slow.send(type="history", id=asked, channel="chat:a")
            reads = node.log.reads
            await until(lambda before=reads: node.log.reads > before and not slow.session.under_way, 10, "an answer")
        assert slow.session.queued > LIMIT
        slow.send(type="publish", id=1000, channel="chat:b", data="unread")
        # Another one's command, sent later on a quiet connection, is carried out; this one isn't.
        async with Raw(node, port) as other:
            other.send(type="publish", id=1, channel="chat:c", data="read")
            assert (await other.next())["offset"] == 1
        assert (await node.log.heads(["chat:b"]))["chat:b"].offset == 0

        for number in range(2, asked + 1):
            reply = await slow.next()
            assert reply["id"] == number
            assert len(reply["messages"]) == 50
        assert await slow.next() == {
            **{"type": "reply", "id": 1000, "channel": "chat:b", "offset": 1, "duplicate": False},
            **{"cursor": f"{node.log.epoch}:1", "key": (await node.log.read("chat:b", BEGINNING)).messages[0].key},
        }
        assert slow.session.reading


@pytest.mark.gen_test(timeout=60)
async def test_pipelined_reads_do_not_fill_the_memory(node: Node, port: int, peaks: dict[str, int]) -> None:
    """Commands that were taken in before the client became slow wait for it, too: their replies stay bounded."""
    await publish(node, "chat:a", 50)
    reply_size = 50 * (len(BIG) + 200)
    async with Raw(node, port) as slow:
        for number in range(2, 102):
            slow.send(type="history", id=number, channel="chat:a")
        looks = [0]

        def at_rest() -> bool:
            """Nothing is read from the log any more: all is answered, or the session waits for its client."""
            looks.append(node.log.reads)
            return slow.session.queued > LIMIT and len(looks) > 10 and looks[-10] == looks[-1]

        await until(at_rest, 20, "end of the reading")
        for number in range(2, 102):
            assert (await slow.next())["id"] == number
        assert peaks[slow.session.id] <= LIMIT + 2 * reply_size


@pytest.mark.gen_test(timeout=60)
async def test_replies_are_not_dropped_with_messages(node: Node, port: int) -> None:
    """A full queue loses messages of ephemeral channels and defers durable ones, but every reply arrives."""
    async with Raw(node, port) as slow:
        await slow.subscribe("live:a")
        await slow.subscribe("chat:a")
        await publish_until(node, "live:a", lambda: slow.session.outbox.dropped)
        await publish_until(node, "chat:a", lambda: not slow.subscription("chat:a").live)
        for number in range(10, 60):
            slow.send(type="ping", id=number)
        slow.send(type="nonsense", id=60)
        answers = []
        while len(answers) < 51:
            push = await slow.next()
            if push["type"] in ("reply", "error"):
                answers.append(push["id"])
        assert answers == list(range(10, 61))


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=60)
async def test_a_stalled_client_is_told_to_come_back(
    node: Node, port: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing read for too long: disconnect 4001, close 4001; its cursor continues without loss."""
    monkeypatch.setattr(server.sessions.outbox, "STALLED_AFTER", 0.5)
    async with Client(url) as other, Raw(node, port) as slow:
        prompt = await other.subscribe("chat:a")
        await slow.subscribe("chat:a")
        sent = await publish_until(node, "chat:a", lambda: slow.session.ended or not slow.session.outbox.writable)
        await until(lambda: slow.session.ended, 10, "end of patience")
        assert slow.session not in node.admission.clients
        assert len(await prompt.messages(sent, within=20)) == sent

        last = 0
        while (push := await slow.next())["type"] == "message":
            last += 1
            assert push["offset"] == last
        assert (push["type"], push["code"], push["reconnect"]) == ("disconnect", 4001, True)
        assert push["delay"] >= 0
        with pytest.raises(EOFError):
            await slow.next()
        assert slow.close_code == 4001
        async with Raw(node, port) as again:
            await again.subscribe("chat:a", after=f"{node.log.epoch}:{last}")
            for offset in range(last + 1, sent + 1):
                assert (await again.next())["offset"] == offset


@pytest.mark.gen_test(timeout=60)
async def test_reading_slowly_is_progress(node: Node, port: int) -> None:
    """What a client reads is seen at once, though the kernel still has so much that we need not write."""
    async with Raw(node, port) as slow:
        await slow.subscribe("live:a")
        await publish_until(node, "live:a", lambda: slow.session.outbox.dropped)
        queued, unread = slow.session.queued, slow.session.outbox.unread
        for _ in range(10):
            await slow.next()
        assert slow.session.queued == queued
        assert slow.session.outbox.unread < unread


@pytest.mark.gen_test(timeout=60)
async def test_a_dead_client_is_let_go(node: Node, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not even read the goodbye is cut off after a moment: nothing of it stays behind."""
    monkeypatch.setattr(server.sessions.outbox, "STALLED_AFTER", 0.5)
    monkeypatch.setattr(handlers.sockets, "CLOSE_WITHIN", 0.2)
    async with Raw(node, port) as slow:
        await slow.subscribe("chat:a")
        await publish_until(node, "chat:a", lambda: slow.session.ended or not slow.session.outbox.writable)
        await until(lambda: not node.admission.connections.total, 10, "end of the connection")
        assert not node.admission.clients
        assert node.hub.count("chat:a") == 0


@pytest.mark.gen_test(timeout=60)
async def test_an_expired_token_ends_a_slow_client_as_well(
    node: Node, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading slowly isn't a way to keep a connection beyond its token."""
    async with Raw(node, port, make_token(SECRET, "ann")) as slow:
        await slow.subscribe("chat:a")
        await publish_until(node, "chat:a", lambda: not slow.session.outbox.writable)
        node.clock.skew += 3700
        slow.session.tick(asyncio.get_running_loop().time())
        assert slow.session.ended
