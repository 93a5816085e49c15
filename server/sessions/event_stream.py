"""Event streams (SSE): each push is an event, whose id is the cursor to resume from."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from server.access.admission import ConnectionSeats
from server.core.cursors import join_cursors
from server.core.errors import Disconnect
from server.core.principals import Principal
from server.delivery.hub import Delivery, Hub
from server.node import Node
from server.sessions.listener import Listener
from server.sessions.outbox import TURN_BYTES, Connection, Outbox, Owner
from server.wire.codec import Codec
from server.wire.sse import EVENT_STREAM

HEARTBEAT_EVERY: Final = 25.0
"""Proxies cut what is silent for a minute."""
RETRY: Final = (1.0, 3.0)
"""Seconds an EventSource waits before it comes back, drawn per stream so that a herd spreads."""


class EventStream(Listener):
    __slots__ = ("_beat_at",)

    def __init__(self, node: Node, connection: Connection, principal: Principal, seats: ConnectionSeats) -> None:
        super().__init__(node, connection, EVENT_STREAM, principal, seats)
        self._beat_at = float("inf")

    def begin(self) -> None:
        """The first cursor opens the stream, so that who is cut off before the first message misses nothing."""
        self._beat_at = asyncio.get_running_loop().time() + HEARTBEAT_EVERY
        place = self._place()
        opening = f"retry: {random.uniform(*RETRY) * 1000:.0f}\n" + (f"id: {place}\n" if place else "") + "\n"
        self.outbox.write(opening.encode())
        for gap in self._gaps:
            self.outbox.tell(gap, Delivery(gap.channel, EVENT_STREAM.frame(gap), 0, 0, 0))
        self._gaps.clear()
        super().begin()

    def _place(self) -> str | None:
        return next(iter(self._cursors.values()))

    def tick(self, now: float) -> None:
        super().tick(now)
        if now >= self._beat_at and self.outbox.writable and not self._ended:
            self._beat_at = now + HEARTBEAT_EVERY
            self.outbox.write(b":\n\n")

    def _farewell(self, reason: Disconnect, delay: float) -> bytes:
        return f"retry: {delay * 1000:.0f}\n".encode() + super()._farewell(reason, delay)


class JoinedEventStream(EventStream):
    """Of several channels: each id is a joined cursor."""

    __slots__ = ()

    def _make_outbox(self, codec: Codec) -> Outbox:
        node = self._node
        limit = node.config.limits.queue_bytes
        return _JoinedOutbox(self.id, self, node.hub, self._connection, codec, limit, self._cursors)

    def _place(self) -> str:
        return join_cursors(self._cursors)


class _JoinedOutbox(Outbox):
    """Each event gets the joined cursor when it is written, and not before: what is dropped from the queue later must
    not stand in the cursor of an event that is sent."""

    __slots__ = ("_cursors",)

    def __init__(
        self, identifier: str, owner: Owner, hub: Hub, connection: Connection, codec: Codec, limit: int,
        cursors: dict[str, str | None],
    ) -> None:  # fmt: skip
        super().__init__(identifier, owner, hub, connection, codec, limit)
        self._cursors = cursors

    def _allow_direct_write(self) -> None:
        """Never: `send` has something to do with each delivery."""

    def send(self, delivery: Delivery) -> None:
        if not self._writable or self._turn_bytes >= TURN_BYTES:
            self.flush()
        if self._writable:
            self.write(self._bytes(delivery))
        else:
            self._enqueue(delivery)

    def _bytes(self, delivery: Delivery) -> bytes:
        events: list[bytes] = []
        for event in delivery.data.split(b"\n\n")[:-1]:
            kind, place, *data = event.split(b"\n", 2)
            if place.startswith(b"id: "):
                self._cursors[delivery.channel] = place[4:].decode()
                event = b"\n".join((kind, b"id: " + join_cursors(self._cursors).encode(), *data))
            events.append(event + b"\n\n")
        return b"".join(events)
