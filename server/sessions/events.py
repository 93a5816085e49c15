"""Clients that only listen, over plain HTTP: event streams (SSE), and long polls that wait.

Both are outboxes: sinks of the hub with subscriptions of their own, so they resume, fall behind, stall and end as a
WebSocket does. Only the encoding is another one, made once per message like every other.

    EventStream          each push is an event: `event: <type>`, `id: <cursor>`, `data: <json>`
    JoinedEventStream    of several channels: each `id` is a joined cursor
    Poll                 ends with the first turn of the event loop that brings it something
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from msgspec import Struct

from server.access.admission import Entry
from server.core.cursors import Position, join_cursors
from server.core.errors import DISCONNECTED, REVOKED, SHUT_OUT, TOKEN_EXPIRED, Disconnect, Error, bad_request
from server.core.principals import Principal
from server.delivery.hub import Delivery
from server.node import Node
from server.sessions.outbox import TURN_BYTES, Connection, Outbox
from server.wire.codec import JSON, MSGPACK, Codec
from server.wire.frames import TEXT
from server.wire.protocol import HistoryPage, PollPage, Push, Subscribe

logger = logging.getLogger(__name__)

HEARTBEAT_EVERY: Final = 25.0
"""Proxies cut what is silent for a minute."""
RETRY: Final = (1.0, 3.0)
"""Seconds an EventSource waits before it comes back, drawn per stream so that a herd spreads."""

REFUSALS: Final = {TOKEN_EXPIRED: "token_expired", REVOKED: "unauthenticated", SHUT_OUT: "permission_denied"}
"""How a poll says what would end a connection for good."""


# --- encodings --------------------------------------------------------------------------------------------------------


class EventCodec(Codec):
    def frame(self, push: Any) -> bytes:
        """An event. JSON has no bare newline in it, so an empty line ends the event and nothing else."""
        if isinstance(push, Struct):
            kind, cursor = "message", getattr(push, "cursor", None)
        else:
            kind, cursor = push["type"], push.get("cursor")
        place = f"id: {cursor}\n" if cursor else ""
        return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), place.encode(), self.encode(push))


class ItemCodec(Codec):
    """A push as one item of an answer's list of messages; `base` is the encoding."""

    __slots__ = ("base",)

    def __init__(self, base: Codec) -> None:
        super().__init__(f"items of {base.name}", base.media_type, base.opcode, base.encode, base.decode)
        self.base = base

    def frame(self, push: Any) -> bytes:
        return self.encode(push) + (b"," if self.base is JSON else b"")

    def answer(self, items: bytes, count: int, rest: Push) -> bytes:
        """{"messages": [the items], **rest}, from items that are encoded already. `rest`: 1 to 14 fields."""
        encoded = self.encode(rest)
        if self.base is JSON:
            return b'{"messages":[' + items[:-1] + b"]," + encoded[1:]
        # A map's header holds its size, an array's its length (fixmap, fixarray, array 16 of the specification).
        array = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
        return bytes((0x80 | (len(rest) + 1),)) + self.encode("messages") + array + items + encoded[1:]


EVENTS: Final = EventCodec("events", "text/event-stream", TEXT, JSON.encode, JSON.decode)
ITEMS: Final = {base: ItemCodec(base) for base in (JSON, MSGPACK)}


# --- listening --------------------------------------------------------------------------------------------------------


class Listener(Outbox):
    """`subscribe` says whether it may; `begin` follows when the connection is ours."""

    __slots__ = ("_begun", "_cursors", "_gaps")

    def __init__(self, node: Node, connection: Connection, codec: Codec, principal: Principal, entry: Entry) -> None:
        super().__init__(node, connection, codec, principal, entry)
        self._begun = False
        self._cursors: dict[str, str | None] = {}
        """Where each channel's delivery starts; None for an ephemeral one."""
        self._gaps: list[Push] = []

    async def subscribe(self, wanted: Mapping[str, str | None], last: int | None = None) -> None:
        """`wanted`: channel → cursor, or None for `last` messages or from now on. All of them, or the first Error."""
        assert self._principal is not None
        self._cursors = dict.fromkeys(wanted)  # in the order that was asked for
        results = await asyncio.gather(
            *(self._join(channel, after, last) for channel, after in wanted.items()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if self._ended:
            raise Error("unavailable", "the server is leaving", retry_after=1.0)

    async def _join(self, channel: str, after: str | None, last: int | None) -> None:
        """One by one, so that a right that is revoked while another channel's hook thinks finds what it has given."""
        assert self._principal is not None
        seat = self._node.admission.channels.take(self.id)
        try:
            subscription, fields, gap = await self._node.subscriptions.subscribe(
                self._principal, self, Subscribe(channel=channel, after=after, last=None if after else last)
            )
        except BaseException:
            seat.give_back()
            raise
        subscription.seat = seat
        if self._ended:
            subscription.close()
            return
        self._subscriptions[channel] = subscription
        self._cursors[channel] = fields.get("cursor")
        if gap is not None:
            self._gaps.append(gap)

    def begin(self) -> None:
        self.open()
        self._begun = True
        for subscription in tuple(self._subscriptions.values()):
            subscription.start()
        if self._principal is not None and not self._node.revocations.confirmed:
            self.suspend(partial(self._node.permissions.held, self._principal))

    def suspend(self, concerned: Callable[[str], bool]) -> None:
        if self._begun:
            super().suspend(concerned)

    def unsuspend(self) -> None:
        if self._begun:
            super().unsuspend()

    def _end_subscription(self, channel: str, code: str, reason: str) -> None:
        """Who listens cannot subscribe again: with the last channel it ends."""
        if self._begun:
            super()._end_subscription(channel, code, reason)
        else:
            self._subscriptions.pop(channel).close(for_good=True)
        if not self._subscriptions:
            self.disconnect(Disconnect(DISCONNECTED, reason))


class EventStream(Listener):
    __slots__ = ("_beat_at",)

    def __init__(self, node: Node, connection: Connection, principal: Principal, entry: Entry) -> None:
        super().__init__(node, connection, EVENTS, principal, entry)
        self._beat_at = float("inf")

    def begin(self) -> None:
        """The first cursor opens the stream, so that who is cut off before the first message misses nothing."""
        self._beat_at = asyncio.get_running_loop().time() + HEARTBEAT_EVERY
        place = self._place()
        opening = f"retry: {random.uniform(*RETRY) * 1000:.0f}\n" + (f"id: {place}\n" if place else "") + "\n"
        self._out(opening.encode())
        for gap in self._gaps:
            self.send(Delivery(gap["channel"], EVENTS.frame(gap), 0, 0, 0))
        self._gaps.clear()
        super().begin()

    def _place(self) -> str | None:
        return next(iter(self._cursors.values()))

    def tick(self, now: float) -> None:
        super().tick(now)
        if now >= self._beat_at and self._clear and not self._ended:
            self._beat_at = now + HEARTBEAT_EVERY
            self._out(b":\n\n")

    def _farewell(self, reason: Disconnect, delay: float) -> bytes:
        return f"retry: {delay * 1000:.0f}\n".encode() + super()._farewell(reason, delay)


class JoinedEventStream(EventStream):
    """Each event gets the joined cursor when it is written, and not before: what is dropped from the queue later must
    not stand in the cursor of an event that is sent."""

    __slots__ = ()

    def _allow_direct_write(self) -> None:
        """Never written to directly: `send` has something to do with each delivery."""

    def send(self, delivery: Delivery) -> None:
        if not self._clear or self._turn_bytes >= TURN_BYTES:
            self.flush()
        if self._clear:
            self._out(self._bytes(delivery))
        else:
            self._enqueue(delivery)

    def _place(self) -> str:
        return join_cursors(self._cursors)

    def _bytes(self, delivery: Delivery) -> bytes:
        events: list[bytes] = []
        for event in delivery.data.split(b"\n\n")[:-1]:
            kind, place, *data = event.split(b"\n", 2)
            if place.startswith(b"id: "):
                self._cursors[delivery.channel] = place[4:].decode()
                event = b"\n".join((kind, b"id: " + self._place().encode(), *data))
            events.append(event + b"\n\n")
        return b"".join(events)


# --- waiting ----------------------------------------------------------------------------------------------------------


class Answering(Connection, Protocol):
    """A connection on which nothing but one response is still to be written."""

    def answer(self, media_type: str, body: bytes) -> None: ...

    def refuse(self, error: Error) -> None: ...


class Poll(Listener):
    """Waits until a message comes, and answers with all that its turn of the event loop has brought.

    Ten thousand that wait for one message share its encoding and no read at all. Anything out of the ordinary (a gap,
    more than was asked for) is answered by the same read of the log as a poll that need not wait.
    """

    transport = "poll"

    __slots__ = ("_encoding", "_wanted", "_limit", "_joined", "_items", "_odd", "_timer", "_reading")

    _connection: Answering

    def __init__(
        self,
        node: Node,
        connection: Answering,
        codec: Codec,
        principal: Principal,
        entry: Entry,
        *,
        limit: int,
        joined: bool,
    ) -> None:
        self._encoding = ITEMS[codec]
        super().__init__(node, connection, self._encoding, principal, entry)
        self._wanted: Mapping[str, str | None] = {}
        self._limit = limit
        """Messages of each channel."""
        self._joined = joined
        """Answer as for several channels, even if it is one."""
        self._items: list[Delivery] = []
        self._odd = False
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None

    async def idle(self, wanted: Mapping[str, str | None]) -> bool:
        """Subscribe; whether there is nothing to answer with yet."""
        self._wanted = wanted
        await self.subscribe(wanted)
        for channel, after in wanted.items():
            if self._cursors[channel] is None:
                raise bad_request(f"channel: {channel} is ephemeral, it has no history")
            head = self._subscriptions[channel].head
            behind = self._cursors[channel] != str(head) if after is not None else head.offset > 0
            if self._gaps or behind:
                return False
        return True

    async def page(self) -> HistoryPage | PollPage:
        """What the log has behind the cursors."""
        assert self._principal is not None
        pages = {
            channel: await self._node.history.page(
                self._principal,
                channel,
                after=after,
                before=None,
                limit=self._limit,
                address=self.address,
                head=self._subscriptions[channel].head if channel in self._subscriptions else None,
            )
            for channel, after in self._wanted.items()
        }
        if not self._joined:
            return next(iter(pages.values()))
        return {
            "messages": [message for page in pages.values() for message in page["messages"]],
            "cursor": join_cursors({channel: page["cursor"] for channel, page in pages.items()}),
            "more": any(page["more"] for page in pages.values()),
            "gaps": [{"channel": channel, **page["gap"]} for channel, page in pages.items() if page["gap"]],
        }

    def wait(self, seconds: float) -> None:
        """Answer after so many seconds in any case."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_out)
        self._wanted = {channel: after or self._cursors[channel] for channel, after in self._wanted.items()}

    def _allow_direct_write(self) -> None:
        """Never written to directly: it collects an answer."""

    def send(self, delivery: Delivery) -> None:
        if delivery.ephemeral:
            return  # it has no cursor: who polls would never know whether they had it
        if not self._items and not self._odd:
            self._node.hub.wake(self)
        if delivery.size:
            self._items.append(delivery)
        else:
            self._odd = True

    def flush(self) -> None:
        if self._ended or self._reading is not None:
            return
        counts: dict[str, int] = {}
        for item in self._items:
            counts[item.channel] = counts.get(item.channel, 0) + item.size
        if self._odd or max(counts.values()) > self._limit:
            self._reading = asyncio.create_task(self._read(), name="long poll")
            return
        cursors = dict(self._wanted)
        for item in self._items:
            cursors[item.channel] = str(Position(self._subscriptions[item.channel].head.epoch, item.last))
        data = b"".join([item.data for item in self._items])
        self._answer(self._encoding.answer(data, sum(counts.values()), self._rest(cursors)))

    def _rest(self, cursors: Mapping[str, str | None]) -> Push:
        """What an answer has besides its messages, where nothing is missing between them and the head."""
        if not self._joined:
            ((channel, cursor),) = cursors.items()
            return {"cursor": cursor, "head": str(self._subscriptions[channel].head), "more": False, "gap": None}
        return {"cursor": join_cursors(cursors), "more": False, "gaps": []}

    def _time_out(self) -> None:
        self._answer(self._encoding.answer(b"", 0, self._rest(self._wanted)))

    async def _read(self) -> None:
        self._odd = False
        self._items.clear()  # the page has them
        try:
            page = await self.page()
            ended = len(self._subscriptions) < len(self._wanted)
            # `more` without messages: of a view, which has passed over a page's worth. The client goes on from there.
            if page["messages"] or page["more"] or page.get("gap") or page.get("gaps") or ended:
                self._answer(self._encoding.encode(page))
                return
            self._reading = None  # nothing that a poll waits for
            if self._items or self._odd:
                self.flush()
        except Error as error:
            self._refuse(error)
        except Exception:
            logger.exception("%r: a long poll failed", self)
            self._refuse(Error("internal", "the server failed; its log says why"))

    def _answer(self, body: bytes) -> None:
        if not self._ended:
            self._end()
            self._connection.answer(self._encoding.media_type, body)

    def _refuse(self, error: Error) -> None:
        if not self._ended:
            self._node.incidents.refused(error, self._principal, self.address)
            self._end()
            self._connection.refuse(error)

    def _end_subscription(self, channel: str, code: str, reason: str) -> None:
        Outbox._end_subscription(self, channel, code, reason)

    def _push(self, push: Push) -> None:
        """Whatever it says, the read will say it in HTTP's words."""
        self._odd = True
        self._node.hub.wake(self)

    def disconnect(self, reason: Disconnect, delay: float | None = None) -> None:
        if not self._ended:
            self._node.incidents.disconnects[str(reason.code)] += 1
        code = REFUSALS.get(reason.code, "unavailable")
        self._refuse(Error(code, reason.reason, retry_after=delay if code == "unavailable" else None))

    def _end(self) -> None:
        super()._end()
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()
