"""What goes out to one connected client: a bounded queue of whole frames.

What the connection cannot take stays here. Over the bound, a durable subscription is set *behind*: its frames are
dropped from the queue and it is served from the log at the pace the client reads; ephemeral messages are lost, and the
client is told how many. Replies are never dropped. A client that takes nothing for STALLED_AFTER seconds is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from server.delivery.hub import Delivery, Hub
from server.delivery.subscription import Subscription
from server.wire.codec import Codec
from server.wire.pushes import DroppedPush, Push

STALLED_AFTER: Final = 10.0
WRITE_CHUNK: Final = 65536
TURN_BYTES: Final = 262144
"""Collected for one write; what comes on top of it in the same turn is written before."""


class Connection(Protocol):
    """What a client needs of its socket, which calls back `pause`, `resume` and `closed`."""

    def write(self, data: bytes) -> None: ...

    def buffered(self) -> int:
        """Bytes written that the client does not have yet."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, farewell: bytes) -> None:
        """Send a last frame, and close when the client has answered it, or after a while."""


class Owner(Protocol):
    """Whose outbox it is."""

    @property
    def subscriptions(self) -> dict[str, Subscription]: ...

    def queue_changed(self) -> None:
        """More waits for the client, or less."""


class Gone:
    """Stands for a client and for its connection when both have ended: what held them lets go of them, so that no
    circle of references is left for the garbage collector."""

    @property
    def subscriptions(self) -> dict[str, Subscription]:
        return {}

    def queue_changed(self) -> None: ...

    def write(self, data: bytes) -> None: ...

    def buffered(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, farewell: bytes) -> None: ...


class Outbox:
    """A sink of the hub, and a subscriber. `limit`: bytes in the queue; 0: no bound."""

    __slots__ = (
        "id", "codec", "direct_write", "topics", "queued", "_owner", "_hub", "_limit", "_connection", "_write",
        "_ended", "_writable", "_turn", "_turn_bytes", "_queue", "_waiting", "dropped", "_progress_at", "_progress",
    )  # fmt: skip

    def __init__(
        self, identifier: str, owner: Owner, hub: Hub, connection: Connection, codec: Codec, limit: int
    ) -> None:
        self.id = identifier
        self.codec = codec
        self.direct_write: Callable[[bytes], None] | None = None
        self.topics = 0  # counted by the hub, see Sink.topics
        self.queued = 0
        """Bytes that wait for the client."""
        self._owner: Owner = owner
        self._hub = hub
        self._limit = limit
        self._connection: Connection = connection
        self._write: Callable[[bytes], None]
        self._ended = False
        self._writable = True
        """The connection takes more, and nothing in the queue has to go before: what is sent goes out at the end of
        the turn. (While `resume` empties the queue, only the former.)"""
        self._turn: list[bytes] = []
        self._turn_bytes = 0
        self._queue: deque[Delivery | bytes] | None = None
        self._waiting: list[asyncio.Future[None]] | None = None
        self.dropped: dict[str, int] | None = None
        """Ephemeral messages lost of each channel, which the client is not told of yet."""
        self._progress_at = 0.0
        self._progress = -1

    def open(self) -> None:
        """The connection takes bytes from now on."""
        self._write = self._connection.write
        self._allow_direct_write()

    def _allow_direct_write(self) -> None:
        self.direct_write = self._write if self._writable and not self._turn else None

    @property
    def writable(self) -> bool:
        """Nothing waits, and the connection takes more."""
        return self._writable

    @property
    def unread(self) -> int:
        """Bytes written to the connection that the client does not have yet."""
        return self._connection.buffered()

    def __repr__(self) -> str:
        return f"<outbox of {self._owner!r}>"

    # --- in -----------------------------------------------------------------------------------------------------------

    def send(self, delivery: Delivery) -> None:
        """From the hub, or from a subscription that catches up."""
        if self._writable and self._turn_bytes < TURN_BYTES:
            # As `write` does it: a call for each delivery less.
            data = delivery.data
            if not self._turn:
                self._hub.wake(self)
                self.direct_write = None
            self._turn.append(data)
            self._turn_bytes += len(data)
        else:
            self.flush()
            if self._writable:
                self.write(delivery.data)
            else:
                self._enqueue(delivery)

    def tell(self, push: Push, delivery: Delivery) -> None:
        self.send(delivery)

    def write(self, data: bytes) -> None:
        """Have it written at the end of this turn. Only while `writable`; what may have to wait goes by `put`."""
        if not self._turn:
            self._hub.wake(self)
            self.direct_write = None
        self._turn.append(data)
        self._turn_bytes += len(data)

    def put(self, data: bytes) -> None:
        """A reply or a push that must not be dropped."""
        if self._ended:
            return
        self._hub.bytes += len(data)
        if self._writable:
            self.write(data)
        else:
            self._put(data, len(data))
            self._owner.queue_changed()

    def put_first(self, data: bytes) -> None:
        """Before whatever waits."""
        if self._queue is None:
            self._queue = deque()
        self._queue.appendleft(data)
        self.queued += len(data)

    def _put(self, item: Delivery | bytes, size: int) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(item)
        self.queued += size

    def _enqueue(self, delivery: Delivery) -> None:
        size = len(delivery.data)
        if not self._limit or self.queued + size <= self._limit:
            self._put(delivery, size)
            return
        subscription = self._owner.subscriptions.get(delivery.channel)
        if subscription is None:
            return
        if delivery.ephemeral:
            self._displace(delivery, size)
        elif not subscription.live:
            self._put(delivery, size)  # a replayed chunk, asked for when there was room
        else:
            first = self.drop(delivery.channel)
            subscription.fall_behind(delivery.first if first is None else min(delivery.first, first))

    def _displace(self, delivery: Delivery, size: int) -> None:
        """Make room for an ephemeral delivery by dropping the channel's oldest: of live values the newest count."""
        queue = self._queue if self._queue is not None else deque()
        lost, index = 0, 0
        while self.queued + size > self._limit and index < len(queue):
            item = queue[index]
            if isinstance(item, Delivery) and item.channel == delivery.channel and item.ephemeral:
                del queue[index]
                self.queued -= len(item.data)
                lost += item.size
            else:
                index += 1
        if self.queued + size <= self._limit:
            self._put(delivery, size)
        else:
            lost += delivery.size
        self._count_dropped(delivery.channel, lost)

    def _count_dropped(self, channel: str, lost: int) -> None:
        self._hub.dropped += lost
        if self.dropped is None:
            self.dropped = {}
        self.dropped[channel] = self.dropped.get(channel, 0) + lost

    def drop(self, channel: str) -> int | None:
        """Take the frames of a channel out of the queue; the first offset that the client has not been sent, or None if
        none of the log waited."""
        first, lost = None, 0
        kept: deque[Delivery | bytes] = deque()
        for item in self._queue or ():
            if isinstance(item, Delivery) and item.channel == channel:
                self.queued -= len(item.data)
                if item.ephemeral:
                    lost += item.size
                else:
                    first = item.first if first is None else min(item.first, first)
            else:
                kept.append(item)
        if self._queue is not None:
            self._queue = kept
        if lost:
            self._count_dropped(channel, lost)
        return first

    def forget(self, channel: str) -> None:
        """The subscription has ended: nothing that waits of it is sent, and nobody is told what was lost."""
        self.drop(channel)
        if self.dropped is not None:
            self.dropped.pop(channel, None)

    # --- out ----------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what this turn has brought, in one go."""
        turn = self._turn
        if turn:
            data = turn[0] if len(turn) == 1 else b"".join(turn)
            turn.clear()
            self._turn_bytes = 0
            self._write(data)
            self._allow_direct_write()

    def pause(self) -> None:
        """The connection's buffer is full. Only `flush` and `resume` write, so nothing of this turn is left behind."""
        self._writable = False
        self.direct_write = None
        self._progress_at = asyncio.get_running_loop().time()
        self._progress = self.unread

    def resume(self) -> None:
        """The connection takes more: hand on what has waited, until it is full again or all is gone."""
        if self._ended:
            return
        self._writable = True
        self._progress = -1
        while self._queue and self._writable:
            chunk: list[bytes] = []
            size = 0
            while self._queue and size < WRITE_CHUNK:
                item = self._queue.popleft()
                chunk.append(self._bytes(item) if isinstance(item, Delivery) else item)
                size += len(item.data if isinstance(item, Delivery) else item)
            self.queued -= size
            self._write(b"".join(chunk))  # may call `pause`
        if self._queue:
            self._writable = False
            return
        self._owner.queue_changed()
        if self._writable:
            self._queue = None
            self._tell_dropped()
        self._allow_direct_write()
        if self._writable and self._waiting:
            waiting, self._waiting = self._waiting, None
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _bytes(self, delivery: Delivery) -> bytes:
        """What is written of a delivery that has waited, now that nothing can drop it any more."""
        return delivery.data

    def _tell_dropped(self) -> None:
        dropped, self.dropped = self.dropped, None
        for channel, count in (dropped or {}).items():
            self.put(self.codec.frame(DroppedPush(channel, count)))

    async def drained(self) -> None:
        """Return when nothing waits in the queue."""
        while not self._ended:
            if self._writable:
                if not self._turn:
                    return
                await asyncio.sleep(0)  # somebody else has had the room; see what this turn's write leaves of it
                continue
            if self._waiting is None:
                self._waiting = []
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def stalled(self, now: float) -> bool:
        """Whether the client has taken nothing for too long. Looked at once a second."""
        if self._ended or self._writable:
            return False
        unread = self.unread
        if unread != self._progress:
            self._progress, self._progress_at = unread, now
        return now - self._progress_at > STALLED_AFTER

    def end(self) -> None:
        """Nothing goes out any more, and nobody waits for it."""
        self._ended = True
        self._queue = None
        self._turn.clear()
        self._writable = False
        self.direct_write = None
        for future in self._waiting or ():
            if not future.done():
                future.set_result(None)
        self._waiting = None
        self._owner = self._connection = Gone()
