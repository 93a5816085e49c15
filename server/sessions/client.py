"""A connected client, however it is connected: who it is, what it is subscribed to, and how both end."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar, cast

from server.access.admission import ConnectionSeats
from server.access.memberships import Unloaded
from server.access.permissions import revocable
from server.access.revocations import Revocation
from server.brokers.base import Directive
from server.channels.subscriptions import Answer, Outcome
from server.core.errors import STALLED, TOKEN_EXPIRED, Disconnect, Error, bad_request
from server.core.names import ROOMS, parent_of
from server.core.principals import Principal
from server.core.seats import Seat
from server.delivery.subscription import Subscription
from server.node import Node
from server.rooms.view import View
from server.sessions.outbox import STALLED_AFTER, Connection, Gone, Outbox
from server.wire.codec import Codec
from server.wire.commands import Subscribe
from server.wire.pushes import DisconnectPush, Fields, GapPush, Push, UnsubscribedPush

logger = logging.getLogger(__name__)

T = TypeVar("T")

EXPIRY_GRACE: Final = 10.0
"""Seconds after a token has expired within which its client may still bring a new one."""


class ConnectedClient:
    """What clients over WebSocket, event stream and long poll have in common: a *session*, in the protocol's words.
    What goes out to it is its outbox's."""

    transport = "stream"
    knows_patterns = True
    """Whether its protocol has subscriptions by pattern."""

    __slots__ = (
        "id", "origin", "subscriptions", "outbox", "_node", "_connection", "_seats", "_principal", "_ended", "_bound",
        "_offline",
    )  # fmt: skip

    def __init__(
        self, node: Node, connection: Connection, codec: Codec, principal: Principal | None, seats: ConnectionSeats,
        origin: str | None = None,
    ) -> None:  # fmt: skip
        self.id = "s" + secrets.token_hex(6)
        self.origin = origin
        self.subscriptions: dict[str, Subscription] = {}
        self._node = node
        self._connection: Connection = connection
        self._seats = seats
        self._principal: Principal | None = None
        self._ended = False
        self._bound: set[asyncio.Task[Any]] | None = None
        """What ends with it."""
        self._offline: Callable[[bool], None] | None = None
        """Says that the user has one connection less."""
        self.outbox = self._make_outbox(codec)
        node.admission.clients.add(self)
        if principal is not None:
            self._identify(principal)

    def _make_outbox(self, codec: Codec) -> Outbox:
        node = self._node
        return Outbox(self.id, self, node.hub, self._connection, codec, node.config.limits.queue_bytes)

    @property
    def principal(self) -> Principal | None:
        """Who this is; None until that is known."""
        return self._principal

    @property
    def address(self) -> str:
        return self._seats.address

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def queued(self) -> int:
        """Bytes that wait for the client."""
        return self.outbox.queued

    async def while_connected(self, work: Awaitable[T]) -> T:
        """What `work` gives. The task that awaits it is cancelled when the connection ends."""
        task = asyncio.current_task()
        assert task is not None
        if self._bound is None:
            self._bound = set()
        self._bound.add(task)
        try:
            return await work
        finally:
            self._bound.discard(task)

    def about(self) -> dict[str, Any]:
        """For the log."""
        user = self._principal.user if self._principal else None
        return {"session": self.id, "user": user, "ip": self.address, "origin": self.origin}

    async def join(self, principal: Principal, request: Subscribe) -> Answer:
        """What `Subscriptions.subscribe` answers, with a seat among the connection's channels, and among its
        subscriptions; closed already if the connection has ended meanwhile."""
        seat = self._node.admission.channel_seats.take(self.id)
        try:
            if request.channel == ROOMS:
                subscription, fields, gap = await self._join_rooms(request), {"channel": ROOMS}, None
            elif request.threads:
                raise bad_request(f"threads: of {ROOMS}, and of no other channel")
            elif "*" in request.channel and self.knows_patterns:
                subscription, fields, gap = await self._join_pattern(request)
            else:
                subscription, fields, gap = await self._node.subscriptions.subscribe(principal, self.outbox, request)
        except BaseException:
            seat.give_back()
            raise
        self._have(request.channel, seat, subscription)
        return subscription, fields, gap

    def join_soon(self, principal: Principal, request: Subscribe, done: Callable[[Outcome], None]) -> bool:
        """The same without a task, as `Subscriptions.subscribe_soon` says it."""
        if request.channel == ROOMS or request.threads or "*" in request.channel:
            return False
        seat = self._node.admission.channel_seats.take(self.id)
        began = False
        try:
            seated = partial(self._seated, request.channel, seat, done)
            began = self._node.subscriptions.subscribe_soon(principal, self.outbox, request, seated)
        finally:
            if not began:
                seat.give_back()
        return began

    def _seated(self, channel: str, seat: Seat, done: Callable[[Outcome], None], outcome: Outcome) -> None:
        if isinstance(outcome, tuple):
            self._have(channel, seat, outcome[0])
        else:
            seat.give_back()
        done(outcome)

    def _have(self, channel: str, seat: Seat, subscription: Subscription) -> None:
        subscription.seat = seat
        if self._ended:
            subscription.close()
        else:
            self.subscriptions[channel] = subscription

    async def _join_pattern(self, request: Subscribe) -> tuple[Subscription, Fields, GapPush | None]:
        who = partial(self.principal_in, request.channel)
        return await self._node.pattern_subscriptions.subscribe(who, self.outbox, request)

    async def _join_rooms(self, request: Subscribe) -> Subscription:
        """A view, which is one as far as anybody here has to know."""
        if request.after is not None or request.last is not None:
            raise bad_request(f"after, last: {ROOMS} is told anew each time")
        who = partial(self.principal_in, ROOMS)
        return cast(Subscription, await self._node.rooms.mine.subscribe(who, self.outbox, request.threads))

    def __repr__(self) -> str:
        return f"<session {self.id} {self._principal.name if self._principal else '?'} {self.address}>"

    def _push(self, push: Push) -> None:
        """One that must not be dropped."""
        self.outbox.put(self.outbox.codec.frame(push))

    # --- what its connection tells ------------------------------------------------------------------------------------

    def pause(self) -> None:
        """The connection takes no more for now."""
        self.outbox.pause()

    def resume(self) -> None:
        """The connection takes more again."""
        self.outbox.resume()

    def closed(self) -> None:
        """The connection is gone. Calling it twice is fine."""
        if not self._ended:
            self._node.incidents.disconnects["client"] += 1
        self._end()

    def queue_changed(self) -> None:
        """More waits for the client, or less: a client that sends commands may have to wait with them."""

    # --- who it is ----------------------------------------------------------------------------------------------------

    def _identify(self, principal: Principal) -> None:
        """`limit_exceeded` if this user has too many connections."""
        self._forget_user()
        self._seats.sit_as(principal)
        self._principal = principal
        if revocable(principal):
            if principal.user is not None:
                self._node.admission.users.setdefault(principal.user, set()).add(self)
                self._offline = self._node.presence.online(principal.user, self.id)
            else:
                self._node.admission.bearers.add(self)

    def _forget_user(self) -> None:
        if self._offline is not None:
            self._offline(False)
            self._offline = None
        self._node.admission.bearers.discard(self)
        user = self._principal.user if self._principal is not None else None
        sessions = self._node.admission.users.get(user) if user is not None else None
        if user is not None and sessions is not None:
            sessions.discard(self)
            if not sessions:
                del self._node.admission.users[user]

    def principal_in(self, channel: str) -> Principal:
        """Who it is in this channel: rights may be of one channel only."""
        assert self._principal is not None
        return self._principal

    def listens(self, channel: str) -> bool:
        """Whether it is subscribed to the channel, or to a thread of it."""
        return channel in self.subscriptions or any(parent_of(one) == channel for one in self.subscriptions)

    # --- rights that end or are in doubt ------------------------------------------------------------------------------

    def end(self, concerned: Callable[[str], bool], code: str, reason: str) -> None:
        """End the subscriptions to the channels that are `concerned`. What waits of them is not sent any more."""
        for channel in [channel for channel in self.subscriptions if concerned(channel)]:
            self._end_subscription(channel, code, reason)
        self._check_rooms()

    def _check_rooms(self) -> None:
        if ROOMS in self.subscriptions:
            cast(View, self.subscriptions[ROOMS]).check()

    def obey(self, directive: Directive) -> None:
        """What a back end wants done with it: nothing, for who only listens to what it has asked for."""

    def lose(self, revocation: Revocation) -> None:
        """It takes none of what the principal may do, but perhaps a right of one channel, that has a token of its own:
        then the subscription ends."""

    def check_subscriptions(self) -> None:
        """End the subscriptions that the principal has no right to any more."""
        assert self._principal is not None
        self._check_rooms()
        for channel, subscription in tuple(self.subscriptions.items()):
            principal = self.principal_in(channel)
            try:
                self._node.permissions.check_subscription(principal, channel)
                self._node.documents.check_view(principal, channel, subscription.owner)
                if "*" in channel:
                    self._node.patterns.forget(self.outbox)
            except Unloaded:
                self._node.keeper.spawn("a membership", self._check_when_known(channel))
            except Error as error:
                if not error.retry:  # else nobody knows: then it is held
                    self._end_subscription(channel, error.code, error.reason)

    async def _check_when_known(self, channel: str) -> None:
        """While MongoDB is away, nothing that needs a right is delivered (`suspend`), so this may take its time."""
        while channel in self.subscriptions:
            try:
                await self._node.rights.check_reading(self.principal_in(channel), channel)
                return
            except Error as error:
                if not error.retry:
                    self.end(channel.__eq__, error.code, error.reason)
                    return
                await asyncio.sleep(error.retry_after or 1.0)

    def _end_subscription(self, channel: str, code: str, reason: str) -> None:
        self.subscriptions.pop(channel).close(for_good=True)
        self.outbox.forget(channel)
        self._push(UnsubscribedPush(channel, code, reason))

    def suspend(self, concerned: Callable[[str], bool]) -> None:
        """Deliver nothing of the channels that are `concerned` until `unsuspend`, not even what waits already."""
        for channel, subscription in self.subscriptions.items():
            if concerned(channel):
                subscription.suspend(lambda: self.outbox.drop(channel))  # noqa: B023  # called at once

    def unsuspend(self) -> None:
        """Continue where the client was: the log has it. Of ephemeral channels it is told how much it missed."""
        for subscription in self.subscriptions.values():
            subscription.unsuspend()

    # --- time and the end ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second: tokens that expire, and patience with a client that does not read."""
        if self._principal is not None and self._principal.expires is not None:
            self._check_expiry(self._principal.expires)
        if self.outbox.stalled(now):
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
        self.outbox.flush()
        connection = self._connection
        self._end()
        connection.close(farewell)

    def _farewell(self, reason: Disconnect, delay: float) -> bytes:
        return self.outbox.codec.frame(DisconnectPush.of(reason, delay))

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._node.admission.clients.discard(self)
        self._forget_user()
        self._seats.stand_up()
        self.outbox.end()
        for subscription in self.subscriptions.values():  # there may be many, and many clients that leave at once
            self._node.loop_share.do(subscription.close)
        self.subscriptions.clear()
        self._connection = Gone()
        for task in self._bound or ():
            task.cancel()
