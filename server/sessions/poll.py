"""Long polls that wait: each ends with the first turn of the event loop that brings it something."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from server.access.admission import ConnectionSeats
from server.core.cursors import Position, join_cursors
from server.core.errors import Disconnect, Error, bad_request, failed
from server.core.principals import Principal
from server.delivery.hub import Delivery
from server.node import Node
from server.sessions.client import ConnectedClient
from server.sessions.listener import Listener, as_error
from server.sessions.outbox import Connection, Outbox
from server.wire.codec import Codec
from server.wire.poll_items import ITEMS
from server.wire.pushes import Push
from server.wire.rest import HistoryPage, PollPage

logger = logging.getLogger(__name__)


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

    __slots__ = ("_encoding", "_collector", "_wanted", "_limit", "_joined", "_timer", "_reading")

    _connection: Answering

    def __init__(
        self,
        node: Node,
        connection: Answering,
        codec: Codec,
        principal: Principal,
        seats: ConnectionSeats,
        *,
        limit: int,
        joined: bool,
    ) -> None:
        self._encoding = ITEMS[codec]
        super().__init__(node, connection, self._encoding, principal, seats)
        self._wanted: Mapping[str, str | None] = {}
        self._limit = limit
        """Messages of each channel."""
        self._joined = joined
        """Answer as for several channels, even if it is one."""
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None

    def _make_outbox(self, codec: Codec) -> Outbox:
        self._collector = _Collector(self.id, self, self._node.hub, self._connection, codec, 0)
        return self._collector

    async def idle(self, wanted: Mapping[str, str | None]) -> bool:
        """Subscribe; whether there is nothing to answer with yet."""
        self._wanted = wanted
        await self.subscribe(wanted)
        for channel, after in wanted.items():
            if channel not in self.subscriptions:
                return False  # ended meanwhile: the page says why
            if self._cursors[channel] is None:
                raise bad_request(f"channel: {channel} is ephemeral, it has no history")
            head = self.subscriptions[channel].head
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
                head=self.subscriptions[channel].head if channel in self.subscriptions else None,
            )
            for channel, after in self._wanted.items()
        }
        if not self._joined:
            return next(iter(pages.values()))
        answer: PollPage = {
            "messages": [message for page in pages.values() for message in page["messages"]],
            "cursor": join_cursors({channel: page["cursor"] for channel, page in pages.items()}),
            "more": any(page["more"] for page in pages.values()),
            "gaps": [{"channel": channel, **page["gap"]} for channel, page in pages.items() if page["gap"]],
        }
        if any("amends" in page for page in pages.values()):
            answer["amends"] = [amend for page in pages.values() for amend in page.get("amends", ())]
        return answer

    def wait(self, seconds: float) -> None:
        """Answer after so many seconds in any case."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_out)
        self._wanted = {channel: after or self._cursors[channel] for channel, after in self._wanted.items()}

    @property
    def waits(self) -> bool:
        """Whether it is to be answered later."""
        return self._timer is not None

    def collected(self) -> None:
        """The turn of the loop that has brought something is over."""
        if self._ended or self._reading is not None:
            return
        items, counts = self._collector.items, dict[str, int]()
        for item in items:
            counts[item.channel] = counts.get(item.channel, 0) + item.size
        if self._collector.odd or max(counts.values()) > self._limit:
            self._reading = self._node.keeper.spawn("long poll", self._read())
            return
        cursors = dict(self._wanted)
        for item in items:
            cursors[item.channel] = str(Position(self.subscriptions[item.channel].head.epoch, item.last))
        data = b"".join([item.data for item in items])
        self._answer(self._encoding.answer(data, sum(counts.values()), self._rest(cursors)))

    def _rest(self, cursors: Mapping[str, str | None]) -> dict[str, Any]:
        """What an answer has besides its messages, where nothing is missing between them and the head."""
        none: dict[str, Any] = (
            {"amends": []} if any(self._node.permissions.amends(channel) for channel in cursors) else {}
        )
        if not self._joined:
            ((channel, cursor),) = cursors.items()
            return {**none, "cursor": cursor, "head": str(self.subscriptions[channel].head), "more": False, "gap": None}
        return {**none, "cursor": join_cursors(cursors), "more": False, "gaps": []}

    def _time_out(self) -> None:
        self._answer(self._encoding.answer(b"", 0, self._rest(self._wanted)))

    async def _read(self) -> None:
        self._collector.odd = False
        self._collector.items.clear()  # the page has them
        try:
            page = await self.page()
            ended = len(self.subscriptions) < len(self._wanted)
            # `more` without messages: of a view, which has hidden a page's worth. The client goes on from there.
            if page["messages"] or page.get("amends") or page["more"] or page.get("gap") or page.get("gaps") or ended:
                self._answer(self._encoding.encode(page))
                return
            self._reading = None  # nothing that a poll waits for
            if self._collector.items or self._collector.odd:
                self.collected()
        except Error as error:
            self._refuse(error)
        except Exception:
            logger.exception("%r: a long poll failed", self)
            self._refuse(failed())

    def _answer(self, body: bytes) -> None:
        if not self._ended:
            connection = self._connection
            self._end()
            connection.answer(self._encoding.media_type, body)

    def _refuse(self, error: Error) -> None:
        if not self._ended:
            self._node.incidents.refused(error, self._principal, self.address)
            connection = self._connection
            self._end()
            connection.refuse(error)

    def _end_subscription(self, channel: str, code: str, reason: str) -> None:
        """The read will say it, in HTTP's words; so it does of the last one."""
        ConnectedClient._end_subscription(self, channel, code, reason)

    def disconnect(self, reason: Disconnect, delay: float | None = None) -> None:
        if not self._ended:
            self._node.incidents.disconnects[str(reason.code)] += 1
        self._refusal = self._refusal or as_error(reason, delay)
        self._refuse(self._refusal)

    def _end(self) -> None:
        super()._end()
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()


class _Collector(Outbox):
    """What one turn of the event loop brings, for one answer. Nothing waits in it longer."""

    __slots__ = ("items", "odd")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.items: list[Delivery] = []
        self.odd = False
        """Something came that is no message: the log has to be asked."""

    def _allow_direct_write(self) -> None:
        """Never."""

    def send(self, delivery: Delivery) -> None:
        if not delivery.ephemeral:  # which has no cursor: who polls would never know whether they had it
            self._wake()
            self.items.append(delivery)

    def tell(self, push: Push, delivery: Delivery) -> None:
        self._wake()
        self.odd = True

    def put(self, data: bytes) -> None:
        self._wake()
        self.odd = True

    def _wake(self) -> None:
        if not self.items and not self.odd:
            self._hub.wake(self)

    def flush(self) -> None:
        if isinstance(self._owner, Poll):
            self._owner.collected()
