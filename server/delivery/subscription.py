"""A subscription: one subscriber's place in one channel. Joining, resuming and being behind are the same thing here.

It has a position of its own. While that is not the sequencer's, it reads the log at the pace its subscriber takes;
when the two are equal it registers at the hub, without an `await` in between, and from then on is live: nothing can
come between the last message read and the first one delivered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, Protocol

from server.core.cursors import Position
from server.core.errors import Error
from server.core.seats import Seat
from server.core.worker import Pace
from server.delivery.amended import runs
from server.delivery.hub import PROGRESS_MESSAGES, Delivery, Sink
from server.delivery.sequencer import PHANTOM_READS, Sequencer
from server.delivery.streams import Stream
from server.documents.views import Owner, View
from server.wire.amendments import Amendment, Counted
from server.wire.messages import Message, Page
from server.wire.pushes import DroppedPush, GapPush, MessagePush, ProgressPush, Push, SnapshotPush

logger = logging.getLogger(__name__)

CHUNK: Final = 65536
"""Bytes handed to a subscriber at once while it catches up."""

AtHand = list[Message] | list[MessagePush]
"""Messages that have been read already; of those that nobody else may want, no more than what is told of them."""


Snapshot = Callable[[], Awaitable[tuple[Position, AsyncGenerator[tuple[list[Any], bool], None]]]]
"""Answers a position, and the pages of what there was at it: (documents, whether there are more)."""


class Subscriber(Sink, Protocol):
    """A sink that says when it has room again."""

    @property
    def writable(self) -> bool:
        """Whether what is sent to it now need not wait."""

    async def drained(self) -> None: ...


class Fanout(Protocol):
    """What a subscription needs of a hub."""

    dropped: int
    fallen_behind: int
    messages: int
    bytes: int

    def add(self, channel: str, sink: Sink, conflate: float = 0.0, view: View | None = None) -> None: ...

    def remove(self, channel: str, sink: Sink, view: View | None = None) -> None: ...

    def send_held_back(self, channel: str, view: View | None) -> None: ...


class Subscription:
    """Made by `Subscriptions.subscribe`, begun with `start`, and ended with `close`."""

    __slots__ = (
        "channel",
        "_stream",
        "_hub",
        "_read",
        "_at_hand",
        "_subscriber",
        "_position",
        "_release",
        "_leave",
        "_missed_until",
        "_task",
        "_begun",
        "_closed",
        "_suspended",
        "_view",
        "_snapshot",
        "_snapshot_due",
        "_hidden",
        "live",
        "seat",
    )

    def __init__(
        self,
        stream: Stream,
        hub: Fanout,
        read: Callable[[str, Position, int], Awaitable[Page]],
        subscriber: Subscriber,
        position: Position,
        *,
        release: Callable[[Stream], None],
        at_hand: AtHand | None = None,
        leave: Callable[[bool], None] | None = None,
        view: View | None = None,
        snapshot: Snapshot | None = None,
        snapshot_due: bool = False,
    ) -> None:
        """`position`: up to where the subscriber has everything. `read(channel, after, upto)`: a page of the log.
        `at_hand`: what comes next, as far as it has been read already. `release`: gives the stream back. `leave`: tells
        presence that the subscriber is gone; whether for good."""
        self.channel = stream.channel if view is None else view.channel
        self.live = False
        """Registered at the hub. Else it reads the log, is suspended, or is closed."""
        self.seat: Seat | None = None
        """Among its connection's channels, given back when it is closed."""
        self._view = None if view is None or (view.shows_all and not view.conflate) else view
        self._snapshot = snapshot
        self._snapshot_due = snapshot_due
        """The subscriber has no copy to go on from: before all else it gets a new one."""
        if snapshot is not None:
            if stream.copies is None:
                stream.copies = set()
            stream.copies.add(self)
        self._hidden = 0
        self._stream = stream
        self._hub = hub
        self._read = read
        self._at_hand = at_hand
        self._subscriber = subscriber
        self._position = position
        self._release = release
        self._leave = leave
        self._missed_until = stream.ephemeral
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self._closed = False
        self._suspended = False

    @property
    def owner(self) -> Owner | None:
        """Whose documents are all that it shows; None: all that match."""
        return None if self._view is None else self._view.owner

    @property
    def durable(self) -> bool:
        return self._stream.sequencer is not None

    @property
    def position(self) -> Position | None:
        """Up to where the subscriber has been served; None for an ephemeral channel, and while a snapshot is due."""
        if self._stream.sequencer is None or self._snapshot_due:
            return None
        return self._stream.sequencer.position if self.live else self._position

    @property
    def head(self) -> Position:
        """The newest position that this node knows of."""
        assert self._stream.sequencer is not None
        return self._stream.sequencer.position

    def start(self) -> None:
        """Mostly what is missing was read just now, and there is room for it: then it takes no task. What is suspended
        begins when that is over."""
        self._begun = True
        if self._suspended or self._task is not None:
            return
        if not self._go_live() and not (self._replay_at_hand() and self._go_live()):
            self._task = self._stream.keeper.spawn(f"catch up {self.channel}", self._catch_up())

    def skip(self) -> Position:
        """Before `start`: begin with what comes from now on, whatever there was; the position of that."""
        self._position = self.head
        return self._position

    def fall_behind(self, first: int) -> None:
        """The subscriber could not take what began with the offset `first`: serve it from the log, at its own pace. 0:
        what stood before any message, see `_go_back`."""
        assert self._stream.sequencer is not None
        if not self.live:
            return
        self._hub.remove(self._stream.channel, self._subscriber, self._view)
        self._hub.fallen_behind += 1
        self.live = False
        self._missed_until = self._stream.ephemeral
        self._go_back(self._stream.sequencer.position.epoch, first)
        if self._closed:  # by what it was sent last; where it was is all that is wanted of it
            return
        self._task = self._stream.keeper.spawn(f"catch up {self.channel}", self._catch_up())

    def copy_again(self) -> None:
        """The subscriber has been told that messages are gone: its copy is worth nothing any more."""
        self.fall_behind(0)  # if it is not live, it finds out by itself

    def _go_back(self, epoch: str, first: int) -> None:
        """To before the message `first`; 0: to before a snapshot, or the news of another history."""
        if first:
            self._position = Position(epoch, first - 1)
        elif self._snapshot is not None:
            self._snapshot_due = True
        else:
            self._position = Position("", 0)

    def suspend(self, take_back: Callable[[], int | None]) -> None:
        """Deliver nothing until `unsuspend`. `take_back` drops what waits for the subscriber and says which offset is
        the first of that in the log; None: nothing of it."""
        if self._suspended:
            return
        self._suspended = True
        if self.live:
            self._hub.send_held_back(self._stream.channel, self._view)
            self._hub.remove(self._stream.channel, self._subscriber, self._view)
        sequencer = self._stream.sequencer
        if self.live:  # still: else the last of it was too much, and it has fallen behind
            self._missed_until = self._stream.ephemeral
            if sequencer is not None:
                self._position = sequencer.position
        self.live = False
        if self._task is not None:
            self._task.cancel()
            self._task = None
        first = take_back()
        if first is not None and sequencer is not None:
            self._go_back(self._position.epoch, first)

    def unsuspend(self) -> None:
        """Continue where the subscriber was: what it has missed comes from the log, or is counted."""
        if self._suspended:
            self._suspended = False
            if self._begun:
                self.start()

    def close(self, for_good: bool = False) -> None:
        """The subscriber has got all that it will get, and if not `for_good`, may soon be back. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._stream.copies is not None:
            self._stream.copies.discard(self)
        if self.live:
            self._hub.send_held_back(self._stream.channel, self._view)
            self._hub.remove(self._stream.channel, self._subscriber, self._view)
        if self.live:  # still: else the last of it was too much, and it has fallen behind
            self._position = self.position or self._position
            self.live = False
        self._release(self._stream)
        if self.seat is not None:
            self.seat.give_back()
        if self._leave is not None:
            self._leave(for_good)

    def _go_live(self) -> bool:
        """Whether nothing is to be caught up with any more."""
        if self.live or self._closed:  # closed perhaps by what it was sent last, from its own task
            return True
        sequencer = self._stream.sequencer
        if self._snapshot_due or (sequencer is not None and sequencer.position != self._position):
            return False
        if sequencer is not None:
            self._position = sequencer.position  # the same object: there are many
        missed = self._stream.ephemeral - self._missed_until
        if missed:
            self._hub.dropped += missed
            self._tell(DroppedPush(self.channel, missed), 0, 0)
        conflate = self._stream.conflate if self._view is None else self._view.conflate
        self._hub.add(self._stream.channel, self._subscriber, conflate, self._view)
        self.live = True
        return True

    def _replay_at_hand(self) -> bool:
        """Whether something could be sent. (Who has a view is never served so: views may take their time.)"""
        messages, self._at_hand = self._at_hand, None
        if not messages or self._view is not None or self._snapshot_due or not self._subscriber.writable:
            return False
        sequencer = self._stream.sequencer
        if sequencer is None or sequencer.position.epoch != self._position.epoch:
            return False
        first, last = messages[0].offset, messages[-1].offset
        if first != self._position.offset + 1 or last > sequencer.position.offset:
            return False
        codec = self._subscriber.codec
        if isinstance(messages[0], MessagePush):
            data = codec.frames(messages)
        else:
            data = b"".join([message.frame(codec) for message in messages])
        if len(data) > CHUNK:
            return False
        if not isinstance(messages[0], Counted):
            self._send(messages, data)
            return True
        for amendment, run in runs(messages):
            if amendment is None:
                self._send(run, b"".join([message.frame(self._subscriber.codec) for message in run]))
            else:
                self._tell_amendment(amendment, last=amendment is messages[-1])
        return True

    async def _catch_up(self) -> None:
        sequencer = self._stream.sequencer
        assert sequencer is not None
        restarted = False
        in_vain = 0
        while True:
            await self._subscriber.drained()
            if self._go_live():
                return
            if self._snapshot_due:
                await self._send_snapshot()
                continue
            if sequencer.position.epoch != self._position.epoch:
                self._tell(GapPush.reset(self.channel, sequencer.position.epoch), 0, 0)
                self._position = Position(sequencer.position.epoch, 0)
                self._snapshot_due = self._snapshot is not None
                restarted = True
                continue
            before = self._position
            try:
                page = await self._read(self._stream.channel, before, sequencer.position.offset)
            except Error as error:
                logger.warning("%s: cannot replay yet: %s", self.channel, error.reason)
                await asyncio.sleep(0.5)
                continue
            if page.gap is not None:
                if not restarted:  # else nothing of this history is known to the subscriber anyway
                    self._tell(GapPush.trimmed(self.channel, before.epoch, *page.gap), *page.gap)
                    if self._closed:
                        return
                restarted = False
                self._position = Position(before.epoch, page.gap[1])
                if self._snapshot is not None:
                    self._snapshot_due = True
                    continue
            if page.messages and isinstance(page.messages[0], Counted):
                await self._replay_amended(page.messages)
            else:
                await self._replay(page.messages)
            if self._position != before:
                in_vain = 0
                continue
            in_vain += 1  # a majority read may lag behind right after an election
            if in_vain >= PHANTOM_READS:
                in_vain = 0
                await self._give_up(sequencer, before)
            await asyncio.sleep(min(1.0, 0.05 * 2**in_vain))

    async def _give_up(self, sequencer: Sequencer, before: Position) -> None:
        """What was there when the channel was opened may be gone altogether, with what said so: as a thread is when it
        ends. Then that is a gap."""
        upto = sequencer.position
        try:
            gone = await sequencer.confirmed_head() <= before.offset
        except Error as error:
            logger.warning("%s: cannot replay yet: %s", self.channel, error.reason)
            return
        if gone and upto.epoch == before.epoch == sequencer.position.epoch:
            first, last = before.offset + 1, upto.offset
            self._tell(GapPush.trimmed(self.channel, before.epoch, first, last), first, last)
            self._position = upto

    async def _send_snapshot(self) -> None:
        """All pages, at the subscriber's pace; a snapshot that cannot be finished starts over."""
        assert self._snapshot is not None
        first = True
        try:
            position, pages = await self._snapshot()
            async with aclosing(pages):
                async for documents, more in pages:
                    await self._subscriber.drained()
                    page = SnapshotPush(self.channel, documents, more)
                    if first:
                        page.start = True
                    if not more:
                        page.cursor = str(position)
                    self._tell(page, 0, 0)
                    first = False
            self._position = position
            self._snapshot_due = False
        except Error as error:
            logger.warning("%s: no snapshot yet: %s", self.channel, error.reason)
            await asyncio.sleep(0.3)

    async def _replay(self, messages: list[Message]) -> None:
        chunk: list[Message] = []
        frames: list[bytes] = []
        size = 0
        pace = Pace()
        for message in messages:
            shown: Message | None = message
            if self._view is not None:
                shown = self._view.show(message)
                message.facts = None
                await pace.rest()
            if shown is None:
                self._hide(message, chunk)
                continue
            framed = shown.frame(self._subscriber.codec)
            if chunk and size + len(framed) > CHUNK:
                await self._subscriber.drained()
                self._send(chunk, b"".join(frames))
                chunk, frames, size = [], [], 0
            chunk.append(shown)
            frames.append(framed)
            size += len(framed)
        if chunk:
            await self._subscriber.drained()
            self._send(chunk, b"".join(frames))
        if messages:
            self._position = messages[-1].position

    async def _replay_amended(self, messages: list[Message]) -> None:
        """As `_replay`, with amendments in their places; what is hidden at the end is at least a position."""
        for amendment, run in runs(messages):
            if amendment is None:
                await self._replay(run)
                continue
            await self._subscriber.drained()
            self._tell_amendment(amendment, last=amendment is messages[-1])

    def _tell_amendment(self, amendment: Amendment, last: bool) -> None:
        offset = amendment.offset
        self._position = amendment.position
        if not amendment.hidden:
            framed = amendment.frame(self._subscriber.codec)
            self._subscriber.tell(amendment.push(), Delivery(self.channel, framed, offset, offset, 0))
        elif last:
            self._tell(ProgressPush(self.channel, str(amendment.position)), offset, offset)

    def _hide(self, message: Message, chunk: list[Message]) -> None:
        self._hidden += 1
        if self._hidden >= PROGRESS_MESSAGES and not chunk:
            self._hidden = 0
            self._tell(ProgressPush(self.channel, str(message.position)), message.offset, message.offset)

    def _send(self, messages: AtHand, data: bytes) -> None:
        first, last = messages[0].offset, messages[-1].offset
        self._position = Position(self._position.epoch, last)
        self._hub.messages += len(messages)
        self._hub.bytes += len(data)
        self._hidden = 0
        self._subscriber.send(Delivery(self.channel, data, first, last, len(messages)))

    def _tell(self, push: Push, first: int, last: int) -> None:
        delivery = Delivery(self.channel, self._subscriber.codec.frame(push), first, last, 0)
        self._subscriber.tell(push, delivery)
