"""A client that subscribes, or is subscribed by the server: because its token says so, or because a back end wants it.

What the server makes needs no further right, and ends as every other subscription does. The client is told of it by a
push in the place of a reply, and may take it over with a `subscribe` of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

from msgspec import UNSET, structs

from server.access.admission import ConnectionSeats
from server.access.revocations import Revocation
from server.brokers.base import Directive
from server.channels.subscriptions import Answer
from server.channels.subscriptions import Outcome as Joining
from server.core.errors import Error, bad_request
from server.core.principals import Principal, Start
from server.delivery.subscription import Subscription
from server.node import Node
from server.sessions.client import ConnectedClient
from server.sessions.grants import Grant, Grants
from server.sessions.outbox import Connection
from server.wire.codec import Codec
from server.wire.commands import Command, Subscribe, Unsubscribe
from server.wire.pushes import GapPush, SubscribedPush, UnsubscribedPush

Work = Callable[[], Awaitable[None]]
"""What is left to be done for a command, by a task."""
Outcome = Error | Work | None
"""Of a command that is carried out without a task; None: it is over, and answered."""
AGAIN_AFTER: Final = 1.0
"""Seconds until what could not be begun for now is tried again, if the error does not say when."""


class Served(Subscribe):
    """A subscription that the client has not asked for."""

    right: Grant | None = None
    """None: the client's own rights are enough, as they come from whoever wants it."""


class SubscribingClient(ConnectedClient):
    __slots__ = ("_grants", "_started")

    def __init__(
        self, node: Node, connection: Connection, codec: Codec, principal: Principal | None, seats: ConnectionSeats,
        origin: str | None = None,
    ) -> None:  # fmt: skip
        self._started = False
        """Whether it is known who it is, and that it may come in. What is wanted of it before, it gets then."""
        self._grants: Grants | None = None
        """None until the server has subscribed it to something, or it has shown a grant."""
        super().__init__(node, connection, codec, principal, seats, origin)

    def _in_order(self, command: Any) -> None:
        """Have a command carried out behind those that are under way on its channel."""
        raise NotImplementedError

    def _reply(self, command: Command, **fields: Any) -> None:
        raise NotImplementedError

    def _failed(self, identifier: int | None) -> None:
        """Refuse a command that has met a bug, with a traceback in the log."""
        raise NotImplementedError

    @property
    def grants(self) -> Grants:
        if self._grants is None:
            self._grants = Grants()
        return self._grants

    # --- what it is given ---------------------------------------------------------------------------------------------

    def principal_in(self, channel: str) -> Principal:
        assert self._principal is not None
        return self._principal if self._grants is None else self._grants.of(self._principal, channel)

    def lose(self, revocation: Revocation) -> None:
        for channel in () if self._grants is None else self._grants.drop_revoked(revocation):
            if channel in self.subscriptions:
                self._end_subscription(channel, "permission_denied", "the right was revoked")

    def redeem(self, channel: str, grant: str) -> None:
        """Hold what a `subscribed` push has given it on another connection; `permission_denied` if that is not good
        (any more)."""
        assert self._principal is not None
        user = self._principal.user
        issued = None if user is None else self._node.directives.redeem(grant, user, channel)
        if issued is None:
            raise Error("permission_denied", f"grant: it gives no right to {channel} (any more)")
        self.grants.hold(channel, Grant(issued=issued))

    def _forget(self, channel: str) -> None:
        """What goes with a subscription, however it ends."""
        if self._grants is not None:
            self._grants.drop(channel)

    def _end_subscription(self, channel: str, code: str, reason: str) -> None:
        self._forget(channel)
        super()._end_subscription(channel, code, reason)

    # --- what the server wants it to have -----------------------------------------------------------------------------

    def serve(self, starts: Mapping[str, Start], after: Mapping[str, str] | None = None) -> None:
        """Subscribe it to what its token names. `after`: cursors of where the client was on an earlier connection."""
        for channel, start in starts.items():
            place = (after or {}).get(channel) or start.after
            self._serve(Served(channel=channel, after=place, last=None if place else start.last))

    def serve_all(self, after: Mapping[str, str]) -> None:
        """The same, and to what a back end has wanted a moment ago. Where the client was and is not subscribed any
        more, it is told so."""
        principal, directives = self._principal, self._node.directives
        assert principal is not None
        if principal.subscribe:
            self.serve(principal.subscribe, after)
        recent = directives.recent(principal) if directives.any else []
        for directive in recent:
            self._serve(served(directive, after.get(directive.channel)))
        for channel in after.keys() - principal.subscribe.keys() - {directive.channel for directive in recent}:
            reason = "the server does not subscribe this user to it any more"
            self._push(UnsubscribedPush(channel, "permission_denied", reason))

    def check_served(self, *several: Collection[str]) -> None:
        """`limit_exceeded` if one of these has more channels than a connection may have."""
        for channels in several:
            self._node.admission.check_served(channels)

    def obey(self, directive: Directive) -> None:
        if directive.action == "subscribe" and self._started:
            self._serve(served(directive))

    def _serve(self, command: Served) -> None:
        if not self._ended and command.channel not in self.subscriptions:
            self._in_order(command)

    async def _subscribe_served(self, command: Served) -> None:
        """Whether there is a subscription then is nothing that the client would wait for."""
        channel, principal = command.channel, self._principal
        assert principal is not None
        if channel in self.subscriptions or self._is_over(command):
            return
        self.grants.served.add(channel)
        if command.right is not None:
            self.grants.hold(channel, command.right)
        try:
            subscription, fields, gap = await self.join(self.principal_in(channel), command)
        except Error as error:
            self._forget(channel)
            self._not_served(command, error)
            return
        if self._ended:
            return
        if self._is_over(command):
            self._forget(channel)
            self.subscriptions.pop(channel).close(for_good=True)
            return
        self._push(self._told(command, fields))
        lost = command.right is not None and self.grants.held(channel) is not command.right
        self._go_on(channel, subscription, gap, unsure=lost or self._principal is not principal)

    def _is_over(self, command: Served) -> bool:
        """Whether a back end has taken back meanwhile what one had wanted."""
        user = self._principal.user if self._principal is not None else None
        if user is None or command.right is None:
            return False
        return self._node.directives.is_over(user, command.channel, command.right.issued)

    def _not_served(self, command: Served, error: Error) -> None:
        """It is for the server to try again; for the client only to hear that it will not happen."""
        if self._ended:
            return
        self._node.incidents.refused(error, self._principal, self.address)
        if error.retry:
            wait = error.retry_after or AGAIN_AFTER
            asyncio.get_running_loop().call_later(wait, self._serve, structs.replace(command))
        else:
            self._push(UnsubscribedPush(command.channel, error.code, error.reason))

    def _told(self, command: Served, fields: Mapping[str, Any]) -> SubscribedPush:
        user = self._principal.user if self._principal is not None else None
        grant = None
        if command.right is not None and user is not None:
            grant = self._node.directives.grant(user, command.channel, command.right.issued)
        return SubscribedPush(
            command.channel,
            fields.get("cursor", UNSET),
            fields.get("head", UNSET),
            fields.get("recovered", UNSET),
            UNSET if grant is None else grant,
        )

    # --- what it wants itself -----------------------------------------------------------------------------------------

    async def _subscribe(self, principal: Principal, command: Subscribe) -> None:
        channel = command.channel
        served = None
        if channel in self.subscriptions and (served := self._take_over(channel)) is None:
            raise Error("conflict", f"channel: already subscribed to {channel}")
        try:
            if command.grant is not None:
                self.redeem(channel, command.grant)
            answer = await self.join(self.principal_in(channel), command)
        except Error:
            self._forget(channel)
            if served is not None:
                self._serve(served)
            raise
        self._joined(command, principal, answer)

    def _subscribe_soon(self, command: Subscribe, done: Callable[[Outcome], None]) -> bool:
        """The same without a task, as `join_soon` says it."""
        channel, principal = command.channel, self._principal
        assert principal is not None
        if channel in self.subscriptions or command.grant is not None:
            return False
        joined = partial(self._joined_soon, command, principal, done)
        return self.join_soon(self.principal_in(channel), command, joined)

    def _joined_soon(
        self, command: Subscribe, principal: Principal, done: Callable[[Outcome], None], joining: Joining
    ) -> None:
        if isinstance(joining, Error):
            done(joining)
            return
        if joining is None:  # there is more to wait for, so it begins anew
            assert self._principal is not None
            done(partial(self._subscribe, self._principal, command))
            return
        try:
            self._joined(command, principal, joining)
        except Exception:  # a bug, but this command's alone
            self._failed(command.id)
        done(None)

    def _joined(self, command: Subscribe, principal: Principal, answer: Answer) -> None:
        """Tell it so, and begin. `principal`: who has asked."""
        if self._ended:
            return
        subscription, fields, gap = answer
        self._reply(command, **fields)
        self._go_on(command.channel, subscription, gap, unsure=self._principal is not principal)

    def _go_on(self, channel: str, subscription: Subscription, gap: GapPush | None, *, unsure: bool) -> None:
        """Behind the word that it is subscribed. `unsure`: refreshed meanwhile, or revoked, so perhaps there are fewer
        rights."""
        if unsure:
            self.check_subscriptions()
            if channel not in self.subscriptions:
                return
        if gap is not None:
            self._push(gap)
        subscription.start()

    def _unsubscribe(self, command: Unsubscribe) -> None:
        subscription = self.subscriptions.get(command.channel)
        if subscription is None:
            raise bad_request(f"channel: not subscribed to {command.channel}")
        subscription.close(for_good=True)  # its last messages may be too much, so it must still be found
        del self.subscriptions[command.channel]
        self._forget(command.channel)
        position = subscription.position
        fields = {} if position is None else {"cursor": str(position)}
        self._reply(command, channel=command.channel, **fields)

    def _take_over(self, channel: str) -> Served | None:
        """The client subscribes by itself to what the server has subscribed it to: that ends, without a word. What
        makes it again, should the client be refused; None: that was the client's own."""
        if self._grants is None or channel not in self._grants.served:
            return None
        subscription = self.subscriptions.pop(channel)
        position = subscription.position
        subscription.close()
        self.outbox.forget(channel)
        self._grants.served.discard(channel)
        return Served(
            channel=channel, after=None if position is None else str(position), right=self._grants.held(channel)
        )


def served(directive: Directive, after: str | None = None) -> Served:
    """What a back end wants, as a command; `after`: where the client was before."""
    right = Grant(info=directive.info, issued=directive.issued)
    return Served(channel=directive.channel, after=after, last=None if after else directive.last, right=right)
