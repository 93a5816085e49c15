"""Beginning, suspending and ending a subscription, in every order, without a socket."""

from __future__ import annotations

import asyncio

from server.core.cursors import Position
from server.delivery.hub import Delivery, Hub
from server.delivery.subscription import Subscription
from server.wire.codec import JSON
from server.wire.messages import Message, Page
from server.wire.pushes import GapPush, Push
from tests.support.streams import open_stream


def message(offset: int) -> Message:
    return Message("chat:a", "e", offset, f"k{offset}", None, 1, offset)


class Channel:
    """A channel with five messages, of which the first three are gone, and one subscriber who has had two."""

    id, codec, direct_write, topics, writable = "s1", JSON, None, 0, True

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.ends_at_a_gap = False
        self.hub = Hub()
        stream, self.sequencer = open_stream(self.hub, Position("e", 5), self.read, self.head)
        self.subscription = Subscription(stream, self.hub, self.read, self, Position("e", 2), release=lambda _: None)

    async def read(self, channel: str, after: Position, upto: int, limit: int = 500) -> Page:
        await asyncio.sleep(0)
        gap = (after.offset + 1, 3) if after.offset < 3 else None
        return Page([message(offset) for offset in range(max(after.offset, 3) + 1, upto + 1)], gap)

    async def head(self, channel: str) -> int:
        return self.sequencer.position.offset

    def send(self, delivery: Delivery) -> None:
        self.offsets += range(delivery.first, delivery.last + 1)

    def tell(self, push: Push, delivery: Delivery) -> None:
        if isinstance(push, GapPush) and self.ends_at_a_gap:
            self.subscription.close()

    def flush(self) -> None: ...

    async def drained(self) -> None: ...

    async def receive(self, offset: int) -> None:
        """From the broker; until everything that it brings about is done."""
        self.sequencer.offer([message(offset)])
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def test_who_ends_at_the_news_of_a_gap_is_sent_nothing_more() -> None:
    """A subscription that its subscriber ends from within its own catching up never becomes live."""

    async def run() -> None:
        channel = Channel()
        channel.ends_at_a_gap = True
        channel.subscription.start()
        await channel.settle()
        assert (channel.hub.count("chat:a"), channel.subscription.live, channel.offsets) == (0, False, [])

    asyncio.run(run())


def test_what_is_suspended_before_it_begins_begins_afterwards() -> None:
    """Nothing is delivered while it is suspended, and then everything once."""

    async def run() -> None:
        channel = Channel()
        channel.subscription.suspend(lambda: None)
        channel.subscription.start()
        await channel.receive(6)
        assert channel.offsets == []
        channel.subscription.unsuspend()
        await channel.settle()
        await channel.receive(7)
        assert channel.offsets == [4, 5, 6, 7]

    asyncio.run(run())


def test_what_was_suspended_for_a_moment_before_it_begins_does_not_begin_twice() -> None:
    """The end of a suspension begins nothing that nobody has begun."""

    async def run() -> None:
        channel = Channel()
        channel.subscription.suspend(lambda: None)
        channel.subscription.unsuspend()
        await channel.receive(6)
        assert channel.offsets == []
        channel.subscription.start()
        await channel.settle()
        await channel.receive(7)
        assert channel.offsets == [4, 5, 6, 7]

    asyncio.run(run())
