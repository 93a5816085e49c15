"""What a client that cannot take more leaves behind when it goes, without a socket."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from server.core.cursors import Position
from server.delivery.hub import Hub
from server.delivery.subscription import Subscription
from server.sessions import outbox as outboxes
from server.sessions.outbox import Outbox
from server.wire.codec import JSON
from server.wire.messages import Message, Page
from tests.support.streams import open_stream


class Full:
    """A connection that takes nothing, until the outbox is told otherwise; `data` is what it was given."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def buffered(self) -> int:
        return 1

    def close(self, farewell: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Counting(Full):
    """One that takes all, and counts how often it is given something."""

    writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)


class Channel:
    """One subscriber of one channel, whose queue takes two messages."""

    def __init__(self, connection: Full | None = None) -> None:
        self.log: list[Message] = []
        self.hub = Hub()
        stream, self.sequencer = open_stream(self.hub, Position("e", 0), self.read, self.head)
        self.subscriptions: dict[str, Subscription] = {}
        self.connection = connection or Full()
        self.outbox = Outbox("s1", self, self.hub, self.connection, JSON, 1000)
        self.outbox.open()
        self.subscription = Subscription(
            stream, self.hub, self.read, self.outbox, Position("e", 0), release=lambda _: None
        )
        self.subscriptions["chat:a"] = self.subscription
        self.subscription.start()
        self.outbox.pause()

    def queue_changed(self) -> None:
        pass

    def lose(self) -> None:
        """What a client does whose connection is gone."""
        self.subscription.close()
        self.outbox.end()

    async def read(self, channel: str, after: Position, upto: int, limit: int = 500) -> Page:
        return Page([message for message in self.log if after.offset < message.offset <= upto], None)

    async def head(self, channel: str) -> int:
        return len(self.log)

    def publish(self) -> None:
        number = len(self.log) + 1
        self.log.append(Message("chat:a", "e", number, f"k{number}", None, 0, "x" * 300))
        self.sequencer.offer([self.log[-1]])


def test_nothing_overtakes_what_waits() -> None:
    """The hub may write straight only while nothing is in the turn or in the queue."""

    async def run() -> None:
        connection = Full()
        outbox = Channel(connection).outbox
        assert outbox.direct_write is None  # it is full
        outbox.resume()
        assert outbox.direct_write is not None
        outbox.direct_write(b"1")
        outbox.put(b"2")
        assert outbox.direct_write is None
        outbox.put(b"3")
        outbox.flush()
        assert outbox.direct_write is not None
        outbox.pause()
        outbox.put(b"4")
        assert outbox.direct_write is None
        outbox.resume()
        assert outbox.direct_write is not None
        outbox.direct_write(b"5")
        assert connection.data == b"12345"
        outbox.end()
        outbox.resume()  # of a transport that has drained
        assert outbox.direct_write is None

    asyncio.run(run())


def test_what_many_channels_bring_in_a_turn_costs_a_client_a_call_each_and_one_write() -> None:
    """A delivery to a client of many channels is one call of Python in its outbox, and all of a turn one write."""
    connection, hub, channels, calls = Counting(), Hub(), [f"chat:{number}" for number in range(50)], 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename == outboxes.__file__

    async def run() -> None:
        outbox = Outbox("s1", Channel(), hub, connection, JSON, 0)
        outbox.open()
        for channel in channels:
            hub.add(channel, outbox)
        for channel in channels:
            hub.deliver([Message(channel, "", 0, "", None, 0, channel)])
        sys.setprofile(count)
        try:
            await asyncio.sleep(0)
        finally:
            sys.setprofile(None)

    asyncio.run(run())
    assert connection.writes == 1
    assert connection.data.count(b'"message"') == 50
    assert calls <= 50 + 2


async def _full() -> Channel:
    """Two messages wait, and two more come in this turn of the loop."""
    channel = Channel()
    for _ in range(2):
        channel.publish()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert channel.outbox.queued
    for _ in range(2):
        channel.publish()
    return channel


def test_a_connection_lost_in_a_full_turn_leaves_nothing_in_the_hub() -> None:
    """What the last messages of the turn set behind is not brought back to life."""

    async def run() -> None:
        channel = await _full()
        channel.lose()
        for _ in range(3):  # turns in which it could come back
            await asyncio.sleep(0)
            assert channel.hub.count("chat:a") == 0

    asyncio.run(run())


@pytest.mark.parametrize("for_good", [True, False])
def test_a_closed_subscription_knows_what_was_not_sent(for_good: bool) -> None:
    """Its position is the last message that was queued, not the last there is: it is the cursor to resume from."""

    async def run() -> None:
        channel = await _full()
        channel.subscription.close(for_good)
        assert channel.subscription.position is not None
        channel.outbox.resume()
        assert channel.subscription.position.offset == channel.connection.data.count(b'"type":"message"') < 4

    asyncio.run(run())
