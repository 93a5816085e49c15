"""What goes out to one connected client: a bounded queue of whole frames.

What the connection cannot take stays here. Over the bound, a durable subscription is set *behind*: its frames are
dropped from the queue and it is served from the log at the pace the client reads; ephemeral messages are lost, and the
client is told how many. Replies are never dropped. A client that takes nothing for STALLED_AFTER seconds is closed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from server.access.admission import Entry
from server.access.permissions import revocable
from server.core.errors import STALLED, TOKEN_EXPIRED, Disconnect, Error
from server.core.principals import Principal
from server.delivery.hub import Delivery
from server.delivery.subscription import Subscription
from server.node import Node
from server.wire.codec import Codec
from server.wire.protocol import Push, disconnect_push, dropped_push, unsubscribed_push

logger = logging.getLogger(__name__)

STALLED_AFTER: Final = 10.0
EXPIRY_GRACE: Final = 10.0
WRITE_CHUNK: Final = 65536
TURN_BYTES: Final = 262144
"""Collected for one write; what comes on top of it in the same turn is written before."""


class Connection(Protocol):
    """What an outbox needs of its socket. It calls back `pause`, `resume` and `closed`."""

    def write(self, data: bytes) -> None: ...

    def buffered(self) -> int:
        """Bytes written that the client does not have yet."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, farewell: bytes) -> None:
        """Send a last frame, and close when the client has answered it, or after a while."""


class Outbox:
    """A sink of the hub, a client of the node; the base of whatever is connected."""

    __slots__ = (
        "id", "codec", "origin", "direct_write", "topics", "_node", "_connection", "_entry", "_write",
        "_principal", "_ended", "_subscriptions", "_clear", "_turn", "_turn_bytes", "_queue", "_queued", "_waiting",
        "_dropped", "_progress_at", "_progress",
    )  # fmt: skip

    def __init__(
        self, node: Node, connection: Connection, codec: Codec, principal: Principal | None, entry: Entry,
        origin: str | None = None,
    ) -> None:  # fmt: skip
        self.id = "s" + secrets.token_hex(6)
        self.codec = codec
        self.origin = origin
        self._node = node
        self._connection = connection
        self._entry = entry
        self._write: Callable[[bytes], None]
        self.direct_write: Callable[[bytes], None] | None = None
        self.topics = 0
        self._principal: Principal | None = None
        self._ended = False
        self._subscriptions: dict[str, Subscription] = {}
        self._clear = True
        """Nothing is queued and the connection takes more: what is sent goes out at the end of the turn."""
        self._turn: list[bytes] = []
        self._turn_bytes = 0
        self._queue: deque[Delivery | bytes] | None = None
        self._queued = 0
        self._waiting: list[asyncio.Future[None]] | None = None
        self._dropped: dict[str, int] | None = None
        self._progress_at = 0.0
        self._progress = -1
        node.admission.clients.add(self)
        if principal is not None:
            self._identify(principal)

    transport = "stream"

    def open(self) -> None:
        """The connection takes bytes from now on."""
        self._write = self._connection.write
        self._allow_direct_write()

    def _allow_direct_write(self) -> None:
        self.direct_write = self._write if self._clear and not self._turn else None

    @property
    def principal(self) -> Principal | None:
        """Who this is; None until that is known."""
        return self._principal

    @property
    def address(self) -> str:
        return self._entry.address

    def _identify(self, principal: Principal) -> None:
        """`limit_exceeded` if this user has too many connections."""
        self._forget_user()
        self._entry.sit_as(principal)
        self._principal = principal
        if revocable(principal) and principal.user is not None:
            self._node.admission.users.setdefault(principal.user, set()).add(self)

    @property
    def queued(self) -> int:
        """Bytes that wait for the client."""
        return self._queued

    def about(self) -> dict[str, Any]:
        """For the log."""
        user = self._principal.user if self._principal else None
        return {"session": self.id, "user": user, "ip": self.address, "origin": self.origin}

    def __repr__(self) -> str:
        return f"<session {self.id} {self._principal.name if self._principal else '?'} {self.address}>"

    def send(self, delivery: Delivery) -> None:
        """From the hub, or from a subscription that catches up."""
        if self._clear and self._turn_bytes < TURN_BYTES:
            self._out(delivery.data)
        else:
            self.flush()
            if self._clear:
                self._out(delivery.data)
            else:
                self._enqueue(delivery)

    def _out(self, data: bytes) -> None:
        if not self._turn:
            self._node.hub.wake(self)
            self.direct_write = None
        self._turn.append(data)
        self._turn_bytes += len(data)

    def flush(self) -> None:
        """Write what this turn has brought, in one go."""
        turn = self._turn
        if turn:
            data = turn[0] if len(turn) == 1 else b"".join(turn)
            turn.clear()
            self._turn_bytes = 0
            self._write(data)
            self._allow_direct_write()

    def _push(self, push: Push) -> None:
        """A reply or a push that must not be dropped."""
        if self._ended:
            return
        data = self.codec.frame(push)
        self._node.hub.bytes += len(data)
        if self._clear:
            self._out(data)
        else:
            self._put(data, len(data))
            self._mind_reading()

    def _put(self, item: Delivery | bytes, size: int) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(item)
        self._queued += size

    def _enqueue(self, delivery: Delivery) -> None:
        size = len(delivery.data)
        limit = self._node.config.limits.queue_bytes
        if not limit or self._queued + size <= limit:
            self._put(delivery, size)
            return
        subscription = self._subscriptions.get(delivery.channel)
        if subscription is None:
            return
        if delivery.ephemeral:
            self._displace(delivery, size, limit)
        elif not subscription.live:
            self._put(delivery, size)  # a replayed chunk, asked for when there was room
        else:
            first = self._drop_queued(delivery.channel)
            subscription.fall_behind(delivery.first if first is None else min(delivery.first, first))

    def _displace(self, delivery: Delivery, size: int, limit: int) -> None:
        """Make room for an ephemeral delivery by dropping the channel's oldest: of live values the newest count."""
        queue = self._queue if self._queue is not None else deque()
        lost, index = 0, 0
        while self._queued + size > limit and index < len(queue):
            item = queue[index]
            if isinstance(item, Delivery) and item.channel == delivery.channel and item.ephemeral:
                del queue[index]
                self._queued -= len(item.data)
                lost += item.size
            else:
                index += 1
        if self._queued + size <= limit:
            self._put(delivery, size)
        else:
            lost += delivery.size
        self._count_dropped(delivery.channel, lost)

    def _count_dropped(self, channel: str, lost: int) -> None:
        self._node.hub.dropped += lost
        if self._dropped is None:
            self._dropped = {}
        self._dropped[channel] = self._dropped.get(channel, 0) + lost

    def _drop_queued(self, channel: str) -> int | None:
        """Take the frames of a channel out of the queue; the first offset that the client has not been sent, or None if
        none of the log waited."""
        first, lost = None, 0
        kept: deque[Delivery | bytes] = deque()
        for item in self._queue or ():
            if isinstance(item, Delivery) and item.channel == channel:
                self._queued -= len(item.data)
                if item.ephemeral:
                    lost += item.size
                else:
                    first = item.first if first is None else min(first, item.first)
            else:
                kept.append(item)
        if self._queue is not None:
            self._queue = kept
        if lost:
            self._count_dropped(channel, lost)
        return first

    # --- rights that end or are in doubt ------------------------------------------------------------------------------

    def end(self, concerned: Callable[[str], bool], code: str, reason: str) -> None:
        """End the subscriptions to the channels that are `concerned`. What waits of them is not sent any more."""
        for channel in [channel for channel in self._subscriptions if concerned(channel)]:
            self._end_subscription(channel, code, reason)

    def check_subscriptions(self) -> None:
        """End the subscriptions that the principal has no right to any more."""
        assert self._principal is not None
        for channel in tuple(self._subscriptions):
            try:
                self._node.permissions.check(self._principal, "subscribe", channel)
            except Error as error:
                if not error.retry:  # else nobody knows: then it is held
                    self._end_subscription(channel, error.code, error.reason)

    def _end_subscription(self, channel: str, code: str, reason: str) -> None:
        self._subscriptions.pop(channel).close(for_good=True)
        self._drop_queued(channel)
        if self._dropped is not None:
            self._dropped.pop(channel, None)
        self._push(unsubscribed_push(channel, code, reason))

    def suspend(self, concerned: Callable[[str], bool]) -> None:
        """Deliver nothing of the channels that are `concerned` until `unsuspend`, not even what waits already."""
        for channel, subscription in self._subscriptions.items():
            if concerned(channel):
                subscription.suspend(lambda: self._drop_queued(channel))  # noqa: B023  # called at once

    def unsuspend(self) -> None:
        """Continue where the client was: the log has it. Of ephemeral channels it is told how much it missed."""
        for subscription in self._subscriptions.values():
            subscription.unsuspend()

    def pause(self) -> None:
        """The connection's buffer is full. Only `flush` and `resume` write, so nothing of this turn is left behind."""
        self._clear = False
        self.direct_write = None
        self._progress_at = asyncio.get_running_loop().time()
        self._progress = self._connection.buffered()

    def resume(self) -> None:
        """The connection takes more: hand on what has waited, until it is full again or all is gone."""
        if self._ended:
            return
        self._clear = True
        self._progress = -1
        while self._queue and self._clear:
            chunk: list[bytes] = []
            size = 0
            while self._queue and size < WRITE_CHUNK:
                item = self._queue.popleft()
                chunk.append(self._bytes(item) if isinstance(item, Delivery) else item)
                size += len(item.data if isinstance(item, Delivery) else item)
            self._queued -= size
            self._write(b"".join(chunk))  # may call `pause`
        if self._queue:
            # Not empty, so not clear: what comes now must stand behind it.
            self._clear = False
            return
        self._mind_reading()
        if self._clear:
            self._queue = None
            self._tell_dropped()
        self._allow_direct_write()
        if self._clear and self._waiting:
            waiting, self._waiting = self._waiting, None
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _bytes(self, delivery: Delivery) -> bytes:
        """What is written of a delivery that has waited, now that nothing can drop it any more."""
        return delivery.data

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, None
        for channel, count in (dropped or {}).items():
            self._push(dropped_push(channel, count))

    async def drained(self) -> None:
        """Return when nothing waits in the queue."""
        while not self._ended:
            if self._clear:
                if not self._turn:
                    return
                await asyncio.sleep(0)  # somebody else has had the room; see what this turn's write leaves of it
                continue
            if self._waiting is None:
                self._waiting = []
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def _mind_reading(self) -> None:
        """The queue has grown or shrunk: where commands come in, they may have to wait."""

    @property
    def ended(self) -> bool:
        return self._ended

    # --- time and the end ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second: tokens that expire, and patience with a client that does not read."""
        if self._principal is not None and self._principal.expires is not None:
            self._check_expiry(self._principal.expires)
        if self._ended or self._clear:
            return
        buffered = self._connection.buffered()
        if buffered != self._progress:
            self._progress, self._progress_at = buffered, now
        elif now - self._progress_at > STALLED_AFTER:
            self.disconnect(Disconnect(STALLED, f"nothing was read for {STALLED_AFTER:.0f} s"))

    def _check_expiry(self, expires: float) -> None:
        if self._node.clock.time() > expires + EXPIRY_GRACE:
            self.disconnect(Disconnect(TOKEN_EXPIRED, "the token has expired"))

    def disconnect(self, reason: Disconnect, delay: float | None = None) -> None:
        """Tell the client why, and whether and when (in `delay` seconds) to come back; then close."""
        if self._ended:
            return
        if delay is None:
            delay = random.uniform(0.1, 1.0)  # whatever happens to many at once must not bring them back at once
        self._node.incidents.disconnects[str(reason.code)] += 1
        logger.info("disconnected: %s", reason.reason, extra=self.about() | {"code": reason.code})
        farewell = self._farewell(reason, delay)
        self.flush()
        self._end()
        self._connection.close(farewell)

    def _farewell(self, reason: Disconnect, delay: float) -> bytes:
        return self.codec.frame(disconnect_push(reason, delay))

    def closed(self) -> None:
        """The connection is gone. Calling it twice is fine."""
        if not self._ended:
            self._node.incidents.disconnects["client"] += 1
        self._end()

    def _forget_user(self) -> None:
        user = self._principal.user if self._principal is not None else None
        sessions = self._node.admission.users.get(user) if user is not None else None
        if user is not None and sessions is not None:
            sessions.discard(self)
            if not sessions:
                del self._node.admission.users[user]

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._node.admission.clients.discard(self)
        self._forget_user()
        self._entry.stand_up()
        for subscription in self._subscriptions.values():
            subscription.close()
        self._subscriptions.clear()
        self._queue = None
        self._turn.clear()
        self._clear = False
        self.direct_write = None
        for future in self._waiting or ():
            if not future.done():
                future.set_result(None)
        self._waiting = None
