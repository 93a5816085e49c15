"""One client of Centrifugo's protocol: its commands, carried out by the same use cases as everybody's.

It differs from ours in who may say what: `connect` has to come first, tokens may be for one channel, the server may
subscribe it, and what cannot be recovered ends a subscription, which the client then makes anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import UNSET, structs

from server import __version__
from server.access.admission import ConnectionSeats
from server.brokers.base import Directive
from server.centrifugo import requests
from server.centrifugo.codes import unrecoverable
from server.centrifugo.common import Common
from server.centrifugo.dialects import CentrifugoDialect
from server.centrifugo.reading import Asked, answer, position_fields
from server.centrifugo.replies import (
    BAD_REQUEST,
    INVALID_TOKEN,
    LOST_POSITION,
    STALE,
    end_of,
)
from server.centrifugo.watching import Watching
from server.core.config import Namespace
from server.core.cursors import parse_cursor
from server.core.errors import TOKEN_EXPIRED, Disconnect, Error
from server.core.names import namespace_of
from server.core.principals import GUEST, Principal
from server.delivery.hub import Delivery
from server.delivery.subscription import Subscription
from server.node import Node
from server.sessions.budget import CHANGE, FRAME, REFUSAL
from server.sessions.client import EXPIRY_GRACE
from server.sessions.grants import Grant
from server.sessions.ordered import Ordered
from server.sessions.outbox import Connection, Outbox
from server.sessions.requests import call
from server.sessions.session import CONNECT_WITHIN, PING_EVERY, Session
from server.sessions.waiting import LOT
from server.wire import commands
from server.wire.amendments import AmendPush
from server.wire.codec import Codec
from server.wire.commands import Command
from server.wire.dialects import Unreadable
from server.wire.pushes import Fields, GapPush, Push, UnsubscribedPush

MAX_TTL: Final = 2**31 - 1
"""Seconds that can be written down: clients ask for a new token so long before the end as that is a number."""
LEFT_OUT: Final = frozenset(("permission_denied", "unknown_channel", "bad_request"))
"""Errors of a subscription that the client has asked for in `connect`: it goes without it."""
_APART: Final = (requests.SubRefresh, requests.Send)
"""Commands that are none of ours."""


class CentrifugoSession(Session):
    knows_patterns = False
    __slots__ = ("_common", "_names", "_published", "_watching", "_push_shape", "_in_a_row")

    def __init__(
        self, node: Node, connection: Connection, dialect: CentrifugoDialect, common: Common, seats: ConnectionSeats,
        origin: str | None = None,
    ) -> None:  # fmt: skip
        self._common = common
        self._names = common.names
        self._published = 0
        self._in_a_row = 0
        """Commands of the frame that is being worked on."""
        self._push_shape = dialect.push
        super().__init__(node, connection, dialect, None, seats, origin)
        self._watching = Watching(node.hub, self.outbox)

    def _make_outbox(self, codec: Codec) -> Outbox:
        node = self._node
        return _Outbox(self.id, self, node.hub, self._connection, codec, node.config.limits.queue_bytes)

    # --- inbound ------------------------------------------------------------------------------------------------------

    def receive(self, opcode: int, payload: bytes) -> None:
        self._in_a_row = 0
        super().receive(opcode, payload)

    def _handle_in_turn(self, command: Command) -> None:
        """One frame may hold thousands of commands: after a LOT of them somebody else's are due."""
        self._in_a_row += 1
        if self._in_a_row <= LOT or self._held is not None:
            super()._handle_in_turn(command)
        else:
            self._hold(self._node.loop_share.turn(), command)

    def _unreadable(self, command: Unreadable) -> None:
        if command.id is None and self._held is not None:  # behind what waits
            self._handle_in_turn(requests.Malformed(reason=command.error.reason))
        elif command.id is None or not (self._started or self._held is not None):
            self.disconnect(Disconnect(BAD_REQUEST, command.error.reason))
        else:
            self._refuse(*command)

    def _handle(self, command: Command) -> None:
        if isinstance(command, requests.Malformed):
            self.disconnect(Disconnect(BAD_REQUEST, command.reason))
            return
        if self._budget.left < 0 and not _served(command):  # since the frame was let in
            refusal = self._exhausted()
            if refusal is not None:
                self._refuse(command.id, refusal)
                return
        super()._handle(command)

    def _dispatch(self, command: Command) -> None:
        if isinstance(command, requests.Publish):  # the usual case
            super()._dispatch(command)
            return
        if _served(command):
            self._budget.left += FRAME + CHANGE  # which it takes, and the client has not asked for
        if not isinstance(command, _APART):
            super()._dispatch(command)
            return
        self._budget.left -= FRAME + CHANGE
        if isinstance(command, requests.SubRefresh):
            self._count(1)
            self._spawn(self._refresh_subscription(command))

    async def _carry_out(self, command: Ordered) -> None:
        if isinstance(command, requests.Subscribe):
            if command.served is None:
                await self._subscribe_anew(command, None)
            else:
                await self._subscribe_for_server(command, command.served)
        elif isinstance(command, requests.Unsubscribe):
            self._unsubscribe(command)
        elif isinstance(command, Asked):
            await self._read(command)
        elif isinstance(command, requests.Rpc):
            self._spend()
            assert self._principal is not None
            self._reply(command, **await call(self._node, self._principal, command, self))

    # --- who the client is --------------------------------------------------------------------------------------------

    def _introduce(self, command: Command) -> bool:
        if not isinstance(command, requests.Connect):
            raise Disconnect(BAD_REQUEST, "the first command is connect")
        if self._arrival is None:
            if self._waits_for_key(command, command.token):
                return False
            principal, grants = self._prove(command.token)
            self._identify(principal)
            self.grants.of_connection = grants
        try:
            if self._waits_for_hook(command):
                return False
        except Error as error:
            self._refuse_connect(command, error)
            return False
        self._welcome()
        return True

    def _prove(self, token: str | None) -> tuple[Principal, dict[str, Grant]]:
        """Who it is, and what the token gives it by channel."""
        try:
            principal, grants = self._common.tokens.connection(token, self.address)
            return principal, {self._names.ours(name): grant for name, grant in grants.items()}
        except Error as error:
            if error.code in ("unauthenticated", "token_expired"):
                self._node.admission.count_request(GUEST, self.address)
            if error.code == "unauthenticated" and token is not None:
                raise Disconnect(INVALID_TOKEN, "invalid token") from None
            raise

    def _turn_away(self, error: Error) -> None:
        """It may look at the error, and goes by itself."""

    def _connect(self, command: commands.Connect, first: bool) -> None:
        assert isinstance(command, requests.Connect)
        if not first:
            raise Disconnect(BAD_REQUEST, "connect: only as the first command")
        limit = self._node.config.limits.channels_per_connection
        if limit and len(command.subs) > limit:
            reason = f"subs: {len(command.subs)} channels; channels_per_connection is {limit}"
            self._refuse_connect(command, Error("limit_exceeded", reason, limit="channels_per_connection"))
        elif self._served_at_once() or command.subs:
            self._hold(self._connect_with_subscriptions(command))
        else:
            self._greet(command, {})

    def _greet(self, command: requests.Connect, subs: Mapping[str, Fields]) -> None:
        fields = self._told_of_token() | self._told_of_transport()
        if subs:
            fields["subs"] = subs
        self._reply(command, **fields)
        if self._node.directives.any and self._principal is not None:
            for directive in self._node.directives.recent(self._principal):
                self.obey(directive)

    def _told_of_transport(self) -> Fields:
        return {"ping": int(PING_EVERY), "pong": True}

    def _told_of_token(self) -> Fields:
        assert self._principal is not None
        return {"client": self.id, "version": __version__} | self._ttl(self._principal.expires)

    def _ttl(self, expires: float | None) -> Fields:
        if expires is None:
            return {}
        left = math.ceil(expires - self._node.clock.time())
        return {"expires": True, "ttl": min(max(1, left), MAX_TTL)}

    async def _connect_with_subscriptions(self, command: requests.Connect) -> None:
        """All that its token names, or none; of what it asks for besides, what it has a right to."""
        begun: dict[str, tuple[requests.Subscribe, Subscription, Fields]] = {}
        own = {self._names.theirs(channel): requests.SubscribeRequest() for channel in self._served_at_once()}
        try:
            for number, (name, wanted) in enumerate((own | command.subs).items(), 1):
                self._budget.left -= FRAME + CHANGE
                try:
                    request = requests.subscribing(name, wanted, self._names)
                    self._place(request)
                    begun[name] = request, *await self._begin(request)
                except Error as error:
                    if error.code not in LEFT_OUT or (name in own and error.code == "unknown_channel"):
                        raise
                    self._budget.left -= REFUSAL
                else:
                    self.grants.served.add(request.channel)
                if not number % LOT:
                    await self._node.loop_share.turn()
                if self._ended:
                    return
            present = {name: of for name, of in begun.items() if of[0].channel in self.subscriptions}
            self._greet(command, {name: fields for name, (_, _, fields) in present.items()})
        except Error as error:
            self._refuse_connect(command, error)
        except Exception:
            self._failed(command.id)
        else:
            for request, subscription, _ in present.values():
                self._start(subscription, request)

    def _served_at_once(self) -> set[str]:
        """The channels that its token names, or the hook that was asked about it."""
        assert self._principal is not None
        return {*self.grants.of_connection, *self._principal.subscribe}

    def _place(self, request: requests.Subscribe) -> None:
        """Where the hook has it begin, if the client was not there before."""
        assert self._principal is not None
        start = self._principal.subscribe.get(request.channel)
        if start is not None and not request.recover:
            request.after, request.last = start.after, None if start.after else start.last

    def _refuse_connect(self, command: requests.Connect, error: Error) -> None:
        self._refuse(command.id, error)
        self.disconnect(end_of(error))

    def _refresh(self, command: commands.Refresh) -> None:
        if self._waits_for_key(command, command.token):
            return
        assert self._principal is not None
        new, grants = self._prove(command.token or None)
        if new.user != self._principal.user or not command.token:
            raise Disconnect(INVALID_TOKEN, "invalid token")
        if self._arrival is not None:
            new = self._arrival.admit(new)
        self._principal, self.grants.of_connection = new, grants
        if new.user is None:
            self._node.admission.bearers.add(self)
        self._reply(command, **self._told_of_token())
        self.check_subscriptions()

    def tick(self, now: float) -> None:
        if not self._started and self._held is None and now - self._opened_at > CONNECT_WITHIN:
            self.disconnect(Disconnect(STALE, f"no connect within {CONNECT_WITHIN:.0f} s"))
        if not self._ended:
            for channel in self.grants.drop_expired(self._node.clock.time() - EXPIRY_GRACE):
                if channel in self.subscriptions:
                    self._end_subscription(channel, "token_expired", "the subscription has expired")
        super().tick(now)

    # --- what back ends ask for it ------------------------------------------------------------------------------------

    def obey(self, directive: Directive) -> None:
        """A subscription comes with the right to it, as long as it is there."""
        channel = directive.channel
        if directive.action == "refresh":
            if directive.expired:
                self.disconnect(Disconnect(TOKEN_EXPIRED, "the back end says that it has expired"))
            else:
                self.prolong(directive.expires)
        elif self._started and not self._ended and channel not in self.subscriptions:
            data = UNSET if directive.data is None else directive.data
            served = requests.Served(Grant(info=directive.info, issued=directive.issued), data)
            self._handle_in_turn(requests.Subscribe(channel=channel, last=directive.last, served=served))

    def prolong(self, expires: float | None) -> None:
        """It may stay until then (seconds since 1970), or for ever."""
        if self._principal is not None and not self._ended:
            self._principal = structs.replace(self._principal, expires=expires)
            self.outbox.put(self._push_shape({"refresh": self._ttl(expires)}))

    # --- subscriptions ------------------------------------------------------------------------------------------------

    async def _subscribe_for_server(self, command: requests.Subscribe, served: requests.Served) -> None:
        """Whether there is a subscription then is nothing that the client would wait for."""
        try:
            await self._subscribe_anew(command, served.grant)
        except Error as error:
            self._node.incidents.refused(error, self._principal, self.address)

    async def _subscribe_anew(self, command: requests.Subscribe, grant: Grant | None) -> None:
        channel = command.channel
        if channel in self.subscriptions:
            raise Error("conflict", f"channel: already subscribed to {self._names.theirs(channel)}")
        if command.token:
            grant = await self._grant(channel, command.token)
        if grant is not None:
            self._accept(channel, grant)
        before = self._principal
        try:
            subscription, fields = await self._begin(command)
        finally:
            if channel not in self.subscriptions:
                self.grants.drop(channel)
        if self._ended:
            return
        if command.served is not None:
            self.grants.served.add(channel)
            told = fields if command.served.data is UNSET else fields | {"data": command.served.data}
            self.outbox.put(self._push_shape({"channel": self._names.theirs(channel), "subscribe": told}))
        else:
            self.grants.served.discard(channel)
            self._reply(command, **fields, **({} if grant is None else self._ttl(grant.expires)))
        if self._principal is not before or self.grants.held(channel) is not grant:  # fewer rights since, perhaps
            self.check_subscriptions()
        self._start(subscription, command)

    async def _grant(self, channel: str, token: str) -> Grant:
        """What a subscription token gives it."""
        fetching = self._node.authenticator.fetching(token)
        if fetching is not None:
            await fetching
        assert self._principal is not None
        return self._common.tokens.subscription(token, self._names.theirs(channel), self._principal, self.id)

    def _accept(self, channel: str, grant: Grant) -> None:
        self.grants.hold(channel, grant)
        if grant.token is not None and self.principal_in(channel).user is None:
            self._node.admission.bearers.add(self)

    async def _begin(self, request: requests.Subscribe) -> tuple[Subscription, Fields]:
        """A subscription that is not started yet, and what the client is told of it."""
        if self._is_ephemeral(request.channel):  # there are no positions
            request.after = request.offset = None
        subscription, begun, gap = await self.join(self.principal_in(request.channel), request)
        fields: Fields = {}
        if self._ended or not subscription.durable:
            return subscription, {"was_recovering": True} if request.recover else fields
        known = request.position() is not None
        if request.error_unrecovered and (gap is not None or (request.recover and not known)):
            self._drop(request.channel)
            raise unrecoverable("the position is not in the history any more")
        position = parse_cursor(begun["cursor"]) if gap is None else subscription.skip()
        fields = {"recoverable": True, "positioned": True} | position_fields(position)
        if request.recover:
            fields["was_recovering"] = True
        if known and gap is None:
            fields["recovered"] = True
        return subscription, fields

    def _start(self, subscription: Subscription, request: requests.Subscribe) -> None:
        if self.subscriptions.get(request.channel) is not subscription:
            return
        namespace = self._namespace(request.channel)
        if request.join_leave and namespace is not None and namespace.presence and namespace.join_leave:
            self._watching.begin(request.channel)
        subscription.start()

    def _namespace(self, channel: str) -> Namespace | None:
        return self._node.config.namespaces.get(namespace_of(channel))

    def _is_ephemeral(self, channel: str) -> bool:
        namespace = self._namespace(channel)
        return namespace is not None and not namespace.durable

    def _forget(self, channel: str) -> None:
        self._watching.end(channel)
        super()._forget(channel)

    def _drop(self, channel: str) -> None:
        """End a subscription, of which the client is told in another way or knows nothing."""
        self._forget(channel)
        subscription = self.subscriptions.pop(channel, None)
        if subscription is not None:
            subscription.close(for_good=True)

    def _unsubscribe(self, command: commands.Unsubscribe) -> None:
        subscription = self.subscriptions.get(command.channel)
        if subscription is not None:
            self._forget(command.channel)
            subscription.close(for_good=True)  # its last messages may be too much, so it must still be found
            del self.subscriptions[command.channel]
        self._reply(command)

    def lost(self, channel: str) -> None:
        """Messages between the last one sent and the next are gone: the client has to know, and does when it asks to go
        on from where it is."""
        if channel in self.grants.served:  # of which it makes no new one by itself, but a connection
            self.disconnect(Disconnect(LOST_POSITION, "messages are gone"))
        elif channel in self.subscriptions:
            self._drop(channel)
            self._push(UnsubscribedPush(channel, "unrecoverable", "messages are gone"))

    def suspend(self, concerned: Callable[[str], bool]) -> None:
        super().suspend(concerned)
        self._watching.suspend(concerned)

    def unsuspend(self) -> None:
        self._watching.unsuspend()
        super().unsuspend()

    def _end(self) -> None:
        self._watching.end_all()
        super()._end()

    async def _refresh_subscription(self, command: requests.SubRefresh) -> None:
        try:
            if command.channel not in self.subscriptions:
                raise Error("permission_denied", "channel: not subscribed to it")
            grant = await self._grant(command.channel, command.token)
            if command.channel not in self.subscriptions:  # any more
                raise Error("permission_denied", "channel: not subscribed to it")
            self._accept(command.channel, grant)
            self._reply(command, **self._ttl(grant.expires))
        except Error as error:
            self._refuse(command.id, error)
        except Exception:
            self._failed(command.id)
        self._count(-1)

    # --- publishing and reading ---------------------------------------------------------------------------------------

    def _publish(self, command: commands.Publish) -> None:
        self._published += 1
        assert self._principal is not None
        publishers = self._common.publishers
        command.key = publishers.key(command.channel, self._principal.user, self.id, self._published)
        super()._publish(command)

    async def _read(self, command: Asked) -> None:
        self._spend()
        async with self._paging:
            principal = self.principal_in(command.channel)
            self._reply(command, **await answer(self._node, self._common.publishers, principal, command, self.address))


def _served(command: Command) -> bool:
    """Whether a back end has asked for it."""
    return isinstance(command, requests.Subscribe) and command.served is not None


class _Outbox(Outbox):
    """To which a gap is an event: these clients are not told what is missing, but to ask anew."""

    __slots__ = ()

    def tell(self, push: Push, delivery: Delivery) -> None:
        if isinstance(push, GapPush) and isinstance(self._owner, CentrifugoSession):
            self._owner.lost(delivery.channel)
        elif isinstance(push, AmendPush):
            self.send(delivery)
