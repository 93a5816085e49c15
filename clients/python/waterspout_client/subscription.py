"""One channel's stream: what the server pushes, bounded, through losses, to the loop that reads it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from waterspout_client.cursors import Cursors
from waterspout_client.errors import Unsubscribed, WaterspoutError
from waterspout_client.events import Amend, Dropped, Event, Gap, Join, Leave, Live, Message, Occupancy, Push, Receipt
from waterspout_client.link import Link
from waterspout_client.outbox import jitter

logger = logging.getLogger("waterspout_client")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole of a collection's view, of all its pages."""

    documents: list[Push]


Item = Event | Snapshot
T = TypeVar("T")


class Stage(Enum):
    JOINING = auto()
    """To be asked for, or asked for and not answered."""
    REPLAYING = auto()
    """On the way from the cursor to what was the head."""
    LIVE = auto()
    FULL = auto()
    """Left for a while: the loop that reads is slower than the channel. What it has not read stays in the log."""


class Home(Protocol):
    """What a stream needs of its client."""

    def join(self, stream: Stream[Any]) -> Link | None:
        """Hand on the channel's pushes from now on; the link, if there is one."""

    def leave(self, stream: Stream[Any]) -> None: ...


class Stream(Generic[T]):
    """An asynchronous iterator and context manager; leaving it unsubscribes."""

    labelled = False
    """Whether the client may subscribe to the channel under another name, if it is subscribed to it already."""

    def __init__(
        self,
        home: Home,
        channel: str,
        options: Push,
        *,
        max_pending: int,
        after: str | None = None,
        kept: bool = False,
        cursors: Cursors | None = None,
    ) -> None:
        """`kept`: `after` is what `cursors` had, and the server may know better."""
        self.channel = channel
        self.cursor: str | None = None
        """Behind the last event that the loop has finished with (it has asked for the next, or left the block without
        an exception): opaque, good on every transport, the one to come back with."""
        self._options = options
        self._cursors = cursors
        self._max_pending = max_pending
        self._home = home
        self._link: Link | None = None
        self._stage = Stage.JOINING
        self._kept = kept
        self._received = after
        """Behind the last push that has come; where the server is asked to go on."""
        self._durable = False
        self._head: str | None = None
        self._resumed = False
        self._pages: list[Push] = []
        self._items: deque[tuple[Item | None, str | None]] = deque()
        """Each with the cursor that stands behind it; None: nothing but the cursor."""
        self._dropped = 0
        self._something = asyncio.Event()
        self._error: WaterspoutError | None = None
        self._over = False
        self._in_hand: str | None = None
        self._first: asyncio.Future[str | None] | None = None
        self._attempt = 0
        self._timer: asyncio.TimerHandle | None = None
        self.offered = False
        """The server has made it, and nobody has entered it yet."""
        self._began: str | None = None
        self._served = False
        """The server makes it by itself on each connection."""

    def _make(self, item: Item) -> T | None:
        """What is handed on for what has come; None for nothing."""
        raise NotImplementedError

    # --- for the one who reads ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Return when the server has answered; WaterspoutError if it refuses."""
        if self.offered:
            self.offered = False
            self._finished()
            return self
        if self._first is not None:
            raise RuntimeError("a subscription is entered once")
        link = self._home.join(self)
        self._first = asyncio.get_running_loop().create_future()
        try:
            if link is not None:
                self.opened(link)
            self._in_hand = await self._first
            self._finished()
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finished()
        finally:
            self._end()

    @property
    def behind(self) -> int:
        """Events that have come, and that the loop has not asked for yet; what of an ephemeral channel was dropped
        meanwhile counts as well."""
        return len(self._items) + self._dropped

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """Unsubscribed when the server has ended the subscription, WaterspoutError when the client is closed."""
        if self._first is None:
            raise RuntimeError("use `async with`: it subscribes, and unsubscribes")
        while True:
            self._finished()
            while not (self._items or self._dropped or self._over):
                self._something.clear()
                await self._something.wait()
            item: Item | None
            if self._dropped:
                item, self._dropped = Dropped(self.channel, self._dropped), 0
            elif not self._items:
                if self._error is not None:
                    raise self._error.with_traceback(None)
                raise StopAsyncIteration
            else:
                item, self._in_hand = self._items.popleft()
                if self._stage is Stage.FULL and len(self._items) <= self._max_pending // 2:
                    self._stage = Stage.JOINING
                    self._ask()
            if item is not None and (made := self._make(item)) is not None:
                return made

    def _finished(self) -> None:
        if self._in_hand is None:
            return
        self.cursor, self._in_hand = self._in_hand, None
        if self._cursors is not None:
            self._cursors.save(self.channel, self.cursor)

    def _end(self) -> None:
        if not self._over and self._link is not None:
            self._link.send("unsubscribe", {"channel": self.channel}, lambda error, reply: None)
        self.ended(None)
        self._items.clear()
        self._home.leave(self)

    # --- for the client -----------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        if self._stage is not Stage.FULL and not self._served:
            self._ask()

    def serve(self, push: Push, link: Link) -> None:
        """The server has made the subscription. That counts for nothing where this program has."""
        if self._first is None:
            self.offered = True
            self._first = asyncio.get_running_loop().create_future()
            self._began = push.get("cursor")
        elif not self._served:
            return
        self._link = link
        self._options = {"grant": push["grant"]} if "grant" in push else {}
        self._served = "grant" not in push
        if self._stage is Stage.FULL:
            link.send("unsubscribe", {"channel": self.channel}, lambda error, reply: None)
        else:
            self._answered(None, push)

    @property
    def place(self) -> str | None:
        """Where it is, if the server is to make it again; "" in an ephemeral channel."""
        return (self._received or "") if self._served and self._stage is not Stage.FULL else None

    def yields_to(self, other: Stream[Any]) -> bool:
        """Whether `other` may take its place, as nobody has entered it: from where this one has begun, if that does not
        say where."""
        if not self.offered:
            return False
        self.offered = False
        self.ended(None)
        if other._received is None and "last" not in other._options:
            other._received = self._began
        return True

    def lost(self) -> None:
        self._link = None
        if self._stage is not Stage.FULL:
            self._stage = Stage.JOINING

    def ended(self, error: WaterspoutError | None) -> None:
        """What has come is still handed on; then the error, or the end of the loop."""
        if self._over:
            return
        self._over = True
        self._error = error
        if self._timer is not None:
            self._timer.cancel()
        if self._first is not None and not self._first.done():
            if error is not None:
                self._first.set_exception(error)
            else:
                self._first.cancel()
        self._something.set()

    def take(self, push: Push) -> None:
        kind = push["type"]
        # Before the reply to `subscribe` it belongs to a former subscription, which was left.
        if self._over or (self._stage is Stage.JOINING and not (self._served and kind == "unsubscribed")):
            return
        if kind == "unsubscribed":
            return self.ended(Unsubscribed(str(push.get("code")), str(push.get("reason", ""))))
        if self._stage is Stage.FULL:
            return
        if len(self._items) >= self._max_pending and not self._make_room():
            return
        cursor = push.get("cursor")
        if kind == "message":
            self._put(Message.of(push), cursor)
        elif kind == "amend":
            self._put(Amend.from_push(push), cursor)
        elif kind == "gap":
            self._put(Gap.of(push, self.channel), cursor)
            if "snapshot" in self._options:
                self._received = None  # a new copy follows, and until it is there, there is none to go on from
        elif kind == "progress":
            self._put(None, cursor)
        elif kind == "snapshot":
            if push.get("start"):  # over again, if one could not be finished
                self._pages = []
            self._pages += push["documents"]
            if not push.get("more"):
                documents, self._pages = self._pages, []
                self._put(Snapshot(documents), cursor)
        elif kind == "dropped":
            self._dropped += push["count"]
            self._something.set()
        elif kind == "join":
            self._put(Join(self.channel, push.get("user"), push.get("info")), None)
        elif kind == "leave":
            self._put(Leave(self.channel, push.get("user"), push.get("info")), None)
        elif kind == "read":
            self._put(Receipt(self.channel, push["user"], push["offset"]), None)
        elif kind == "occupancy":
            self._put(Occupancy(self.channel, push["count"], push.get("guests", 0)), None)
        self._arrive()

    def _put(self, item: Item | None, cursor: str | None) -> None:
        self._received = cursor or self._received
        self._items.append((item, cursor))
        self._something.set()

    def _make_room(self) -> bool:
        """Of an ephemeral channel the oldest is dropped. A durable one is left, until half of what waits is read: what
        comes meanwhile is in the log, and the connection stays free for the others."""
        if not self._durable:
            item, _ = self._items.popleft()
            self._dropped += not isinstance(item, Live)
            return True
        self._stage = Stage.FULL
        if self._link is not None:
            self._link.send("unsubscribe", {"channel": self.channel}, lambda error, reply: None)
        return False

    def _ask(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        link = self._link
        if link is None or self._over:
            return
        self._stage = Stage.JOINING
        self._pages = []
        fields = {"channel": self.channel, **self._options}
        if self._received is not None:
            fields.pop("last", None)
            fields["after"] = self._received
        link.send("subscribe", fields, self._answered, lambda: not self._over and self._stage is Stage.JOINING)

    def _answered(self, error: WaterspoutError | None, reply: Push) -> None:
        if self._over:
            return
        if error is not None:
            if error.code == "disconnected":
                return  # asked again by `opened`
            if self._kept and error.code == "bad_request":
                logger.warning("%s: from now on, since what was kept is no cursor: %s", self.channel, error.reason)
                self._kept, self._received = False, None
                return self._ask()
            if not error.retry:
                begun = self._first is not None and self._first.done()
                return self.ended(Unsubscribed(error.code, error.reason) if begun else error)
            self._attempt += 1
            pause = error.retry_after or jitter(self._attempt, 0.2, 5)
            self._timer = asyncio.get_running_loop().call_later(pause, self._ask)
            return
        self._attempt = 0
        self._kept = False
        self._stage = Stage.REPLAYING
        # What is only a view of a log need not come to its head: it is live at once.
        view = "where" in self._options or (self.channel.startswith("docs:") and "/" in self.channel)
        self._head = None if view else reply.get("head")
        self._durable = "cursor" in reply
        if reply.get("recovered") is not False and "snapshot" not in self._options:
            # Otherwise a gap or a snapshot is still to come, and the cursor moves together with it.
            self._received = reply.get("cursor")
        if self._first is not None and not self._first.done():
            self._first.set_result(self._received)
        self._arrive()

    def _arrive(self) -> None:
        if self._stage is Stage.REPLAYING and (self._head is None or self._received == self._head):
            self._stage = Stage.LIVE
            self._put(Live(self.channel, self._resumed), None)
            self._resumed = True


class Subscription(Stream[Event]):
    """`async with client.subscribe("chat:lobby") as events: async for event in events: …`"""

    def _make(self, item: Item) -> Event | None:
        return None if isinstance(item, Snapshot) else item
