"""Subscribing: from where a subscription begins, what was missed before that, and a ticket to do it with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Final

from server.access.rights import Rights
from server.access.tickets import Tickets
from server.cluster.peers import Peers
from server.core.config import Namespace
from server.core.cursors import BEGINNING, Position
from server.core.errors import Error, bad_request, failed
from server.core.lifecycle import Lifecycle
from server.core.principals import Principal
from server.delivery.hub import Hub
from server.delivery.streams import Stream, Streams
from server.delivery.subscription import AtHand, Subscriber, Subscription
from server.documents.service import DocumentService
from server.documents.views import View
from server.log.endings import NEXT, Ending, Near
from server.log.log import Log
from server.log.ranges import SHORT
from server.presence.attendance import Attendance
from server.wire.commands import Subscribe
from server.wire.messages import Message
from server.wire.pushes import Fields, GapPush

logger = logging.getLogger(__name__)

Answer = tuple[Subscription, Fields, GapPush | None]
"""A subscription that is to be started once its reply is sent, the fields of that reply, and the gap that comes before
its messages, if there is one."""
Outcome = Answer | Error | None
"""None: there is more to wait for than was thought."""
Start = tuple[Position, GapPush | None, AtHand | None]
CATCH_UP_WITHIN: Final = 1.0
"""Seconds the broker or the log has to bring what was acknowledged here, before a subscription begins without it."""


class Subscriptions:
    def __init__(
        self,
        *,
        rights: Rights,
        streams: Streams,
        peers: Peers,
        hub: Hub,
        log: Log,
        documents: DocumentService,
        attendance: Attendance,
        tickets: Tickets,
        lifecycle: Lifecycle,
        tell: Callable[[str, str, str | None, str], None] | None = None,
    ) -> None:
        """`tell("subscribed" or "unsubscribed", channel, user, session)`: for back ends that want to know; None: none
        does."""
        self._tell = tell
        self._rights = rights
        self._streams = streams
        self._peers = peers
        self._hub = hub
        self._log = log
        self._documents = documents
        self._attendance = attendance
        self._tickets = tickets
        self._lifecycle = lifecycle
        # Methods that each subscription has are the same objects for all.
        self._read = log.read
        self._release = streams.release

    async def subscribe(self, principal: Principal, subscriber: Subscriber, request: Subscribe) -> Answer:
        stream: Stream | None = None
        try:
            async with self._rights.reading(principal, request.channel) as namespace:
                after, view = self._understand(principal, namespace, request)
                name = request.channel if view is None else view.log_channel
                stream, ending = await self._streams.acquire(name, namespace, _near(after, request.last))
                start = self._start(stream, after, request.last, ending)
                if start is None:
                    start = await self._find_start(stream, request.channel, after, request.last)
        except BaseException:
            if stream is not None:
                self._streams.release(stream)
            raise
        return self._answer(principal, subscriber, request, namespace, stream, after, view, start)

    def subscribe_soon(
        self, principal: Principal, subscriber: Subscriber, request: Subscribe, done: Callable[[Outcome], None]
    ) -> bool:
        """The same without a task, where there is nothing to wait for but the end of the log of a channel that nobody
        here has open; so it is for nearly all when everybody comes back. `done` is called with what comes of it. False:
        there is more to wait for, so nothing was begun."""
        if request.channel in self._streams:
            return False
        namespace = self._rights.to_read(principal, request.channel)
        if namespace is None or not namespace.durable:
            return False
        after, view = self._understand(principal, namespace, request)
        if view is not None:
            return False
        stream = self._streams.take(request.channel, namespace)
        asked = self._streams.open_soon(stream, _near(after, request.last))
        assert asked is not None  # it is durable
        asked.add_done_callback(partial(self._opened, principal, subscriber, request, stream, after, done))
        return True

    def _opened(
        self,
        principal: Principal,
        subscriber: Subscriber,
        request: Subscribe,
        stream: Stream,
        after: Position | None,
        done: Callable[[Outcome], None],
        asked: asyncio.Future[Ending] | asyncio.Future[None],
    ) -> None:
        outcome: Outcome = None
        try:
            start = self._start(stream, after, request.last, self._streams.opened(stream, asked))
            namespace = self._rights.to_read(principal, request.channel)
            if start is not None and namespace is not None:
                outcome = self._answer(principal, subscriber, request, namespace, stream, after, None, start)
        except asyncio.CancelledError:
            pass  # the server is leaving
        except Error as error:
            outcome = error
        except Exception:
            logger.exception("subscribing failed")
            outcome = failed()
        if not isinstance(outcome, tuple):
            self._streams.release(stream)
        done(outcome)

    def _answer(
        self,
        principal: Principal,
        subscriber: Subscriber,
        request: Subscribe,
        namespace: Namespace,
        stream: Stream,
        after: Position | None,
        view: View | None,
        start: Start,
    ) -> Answer:
        """Nothing waits between asking for the right and this, nor from here on."""
        position, gap, at_hand = start
        fields: Fields = {"channel": request.channel}
        due = False
        if stream.sequencer is not None:
            fields["cursor"], fields["head"] = str(position), str(stream.sequencer.position)
            fields["recovered"] = gap is None
            if request.snapshot:
                due = after is None or gap is not None
                fields["snapshot"] = due
            if due:  # instead of the gap; and until it is there, there is nothing to resume from
                fields["cursor"], gap = None, None
        leave = None
        if namespace.presence and not principal.server:  # a back end is not a person
            leave = self._attendance.enter(
                stream.channel, principal.user, principal.info, subscriber.id, principal.channel_info
            )
        if self._tell is not None and not principal.server:
            leave = self._told(stream.channel, principal.user, subscriber.id, leave)
        subscription = Subscription(
            stream,
            self._hub,
            self._read,
            subscriber,
            position,
            release=self._release,
            at_hand=at_hand,
            leave=leave,
            view=view,
            snapshot=partial(self._snapshot, stream, view) if view is not None and request.snapshot else None,
            snapshot_due=due,
        )
        return subscription, fields, gap

    async def ticket(self, principal: Principal, channels: list[str]) -> tuple[str, float]:
        """For listening to `channels` without a token (see tickets.py), and the seconds it is good for."""
        async with contextlib.AsyncExitStack() as rights:  # all of them are asked for again when the last hook is heard
            for channel in channels:
                await rights.enter_async_context(self._rights.reading(principal, channel))
        return self._tickets.issue(principal, channels)

    def _understand(
        self, principal: Principal, namespace: Namespace, request: Subscribe
    ) -> tuple[Position | None, View | None]:
        """The position to go on from, and what of the documents is to be shown; `bad_request` for what has no
        meaning in such a channel."""
        channel, last = request.channel, request.last
        if request.after is not None and last is not None:
            raise bad_request("after, last: one of them")
        after = request.position()
        view = self._documents.view(principal, channel, request.where, request.conflate)
        if view is None and (request.snapshot or request.conflate):
            raise bad_request(f"snapshot, conflate: {channel} has no documents")
        if request.snapshot and last is not None:
            raise bad_request("last, snapshot: one of them")
        if namespace.durable:
            self._lifecycle.check()
        elif after is not None or last is not None:
            raise bad_request(f"{'last' if after is None else 'after'}: {channel} is ephemeral, it has no history")
        return after, view

    def _told(
        self, channel: str, user: str | None, session: str, leave: Callable[[bool], None] | None
    ) -> Callable[[bool], None]:
        """Tell that there is a subscription; what is returned tells that there is none any more, beside what `leave`
        does."""
        tell = self._tell
        assert tell is not None
        tell("subscribed", channel, user, session)

        def told(at_once: bool) -> None:
            if leave is not None:
                leave(at_once)
            tell("unsubscribed", channel, user, session)

        return told

    # --- where it begins ----------------------------------------------------------------------------------------------

    def _start(self, stream: Stream, after: Position | None, last: int | None, ending: Ending | None) -> Start | None:
        """Where a subscription starts to read, the gap before that, and what was read already of what comes behind it.
        `ending`: what the stream was opened with just now, and what of that is near the head, as `_near` says it. None:
        there is more to be read for it."""
        if stream.sequencer is None:
            return BEGINNING, None, None
        head = stream.sequencer.position
        if self._coming(stream, head) is not None:
            return None
        if after is None:
            if not last:
                return head, None, None
        elif after.epoch not in ("", head.epoch):
            return None
        elif not after.epoch:
            after = Position(head.epoch, after.offset)
        if after == head:
            return head, None, None
        if ending is None or ending.lines is None or ending.head.position != head:
            return None
        if after is None:
            return Position(head.epoch, ending.first - 1), None, ending.pushes()
        return (after, None, ending.pushes()) if ending.lines and ending.last == head.offset else None

    async def _find_start(self, stream: Stream, channel: str, after: Position | None, last: int | None) -> Start:
        """The same, by reading; `channel` is the name it was asked for by."""
        head = await self._own_head(stream)
        if after is None:
            if not last:
                return head, None, None
            position, at_hand = await self._before(stream, head, last)
            return position, None, at_hand
        if not after.epoch:
            after = Position(head.epoch, after.offset)
        same_history = after.epoch == head.epoch
        if same_history and after.offset > head.offset:
            same_history = await self._wait_for(stream, after)
            if same_history:
                return after, None, None
        if not same_history:
            start = Position(head.epoch, await self._log.floor(stream.channel))
            return start, GapPush.reset(channel, head.epoch, start.offset), None
        if after.offset < head.offset:
            page = await self._log.read(stream.channel, after, head.offset)
            if page.gap is not None:
                gap = GapPush.trimmed(channel, head.epoch, *page.gap)
                return Position(head.epoch, page.gap[1]), gap, page.messages
            return after, None, page.messages
        return after, None, None

    async def _before(self, stream: Stream, head: Position, last: int) -> tuple[Position, list[Message] | None]:
        """`last` messages before the head, or as many as there are. A few are read at once, so that they are at hand
        when the subscription starts; where the log begins comes with them."""
        floor = stream.floor.offset if stream.floor.epoch == head.epoch else 0
        wanted = await self._log.before_last(stream.channel, head.offset, last)
        start = Position(head.epoch, max(wanted, floor, 0))
        if start.offset >= head.offset:
            return start, None
        if max(last, head.offset - start.offset) > SHORT:
            return Position(head.epoch, max(start.offset, await self._log.floor(stream.channel))), None
        page = await self._log.read(stream.channel, start, head.offset)
        return (start if page.gap is None else Position(head.epoch, page.gap[1])), page.messages

    def _coming(self, stream: Stream, head: Position) -> Position | None:
        """The head of what was acknowledged here, if that is not back through the broker yet."""
        known = self._log.known_head(stream.channel)
        return known if known is not None and known.epoch == head.epoch and known.offset > head.offset else None

    async def _own_head(self, stream: Stream) -> Position:
        """Up to where the channel has been delivered here. What was acknowledged here belongs to it: it is not news to
        who has been told of it."""
        sequencer = stream.sequencer
        assert sequencer is not None
        known = self._coming(stream, sequencer.position)
        if known is not None:
            sequencer.note_head(known)
            with contextlib.suppress(TimeoutError):  # MongoDB is away as well
                async with asyncio.timeout(CATCH_UP_WITHIN):
                    await sequencer.wait_until_delivered(known.offset)
        return sequencer.position

    async def _wait_for(self, stream: Stream, after: Position) -> bool:
        """A cursor ahead of us: wait for what was acknowledged elsewhere and is not here yet. False: the log does not
        have it, so it is of a history that was lost."""
        assert stream.sequencer is not None
        confirmed = await self._log.confirmed_head(stream.channel)
        if after.offset > confirmed:
            return False
        stream.sequencer.note_head(Position(after.epoch, confirmed), at_once=True)
        await stream.sequencer.wait_until_delivered(after.offset)
        return True

    async def _snapshot(
        self, stream: Stream, view: View
    ) -> tuple[Position, AsyncGenerator[tuple[list[Any], bool], None]]:
        """What there was at a moment up to which the log has every change, and the position behind the last of them."""
        position, at = await self._documents.settled(view, stream.channel)
        assert stream.sequencer is not None
        if position is None or position.epoch != stream.sequencer.position.epoch:
            if position is not None:
                self._peers.sweep()
            raise Error("unavailable", f"{stream.channel} has just started over", retry_after=0.5)
        return position, self._documents.snapshot(view, at)


def _near(after: Position | None, last: int | None) -> Near | None:
    """What of the log a subscription begins with, if that is near the head."""
    if after is not None:
        return Near(NEXT, after.offset)
    return Near(last) if last else None
