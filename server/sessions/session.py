"""One client over WebSocket: its commands and their replies. What they look like on the wire is its dialect's.

Commands on one channel are carried out in order; those on different channels may overtake one another. Publishes do
not wait for each other (the log keeps their order), everything else waits for what is under way on its channel.
Commands are not read while too many replies wait.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from server.access.admission import ConnectionSeats
from server.core.errors import (
    FLOODED,
    NO_CONNECT,
    NO_PONG,
    NOTABLE,
    UNAVAILABLE,
    Disconnect,
    Error,
    bad_request,
    failed,
)
from server.core.principals import GUEST, Principal
from server.log.log import Receipt
from server.node import Node
from server.sessions.budget import CHANGE, FRAME, HEAVY, REFUSAL, Allowance
from server.sessions.lanes import LaneCommand
from server.sessions.ordered import OrderedClient
from server.sessions.outbox import Connection
from server.wire.commands import Command, Connect, Ping, Publish, Refresh, Subscribe, Unsubscribe
from server.wire.dialects import Dialect, Unreadable
from server.wire.frames import PONG, frame

logger = logging.getLogger(__name__)

CONNECT_WITHIN: Final = 10.0
PING_EVERY: Final = 25.0
PONG_WITHIN: Final = 8.0
"""Seconds, all three: from the upgrade to the first command, between pings, and from a ping to a sign of life."""

Uncounted = Subscribe | Unsubscribe
"""What `messages_per_second` does not count, so that it is drawn from the budget, and not only refusals of it."""
OWN_FAILURES: Final = frozenset(("unavailable", "outcome_unknown", "internal"))
"""Codes of errors that are this server's fault, so that they cost the client nothing."""


class Session(OrderedClient):
    """`principal` is None until the client has said who it is."""

    transport = "websocket"
    __slots__ = (
        "_dialect", "_first", "_said", "_allowance", "_budget", "_pong", "_opened_at", "_ping_at", "_pong_due",
    )  # fmt: skip

    def __init__(
        self, node: Node, connection: Connection, dialect: Dialect, principal: Principal | None, seats: ConnectionSeats,
        origin: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(node, connection, dialect.codec, principal, seats, origin)
        self._dialect = dialect
        self._first = True
        self._said: tuple[str, ...] = ()
        """Codes of refusals that are in the log: one each."""
        now = asyncio.get_running_loop().time()
        self._allow(principal)
        self._pong: bytes | None = None
        self._opened_at = now
        self._ping_at = now + PING_EVERY
        self._pong_due = 0.0
        self.outbox.open()

    # --- inbound ------------------------------------------------------------------------------------------------------

    def receive(self, opcode: int, payload: bytes) -> None:
        """One message of the client. Never raises."""
        self._budget.left -= len(payload) // HEAVY
        if self._budget.left < 0 and (refusal := self._exhausted()) is not None:
            self._refuse(self._dialect.identify(opcode, payload), refusal)
            return
        try:
            commands = self._dialect.commands(opcode, payload)
        except Exception:
            self._failed(None)
            return
        for command in commands:
            if isinstance(command, Unreadable):
                self._unreadable(command)
            else:
                self._handle_in_turn(command)

    def _unreadable(self, command: Unreadable) -> None:
        self._refuse(*command)

    def count_frame(self) -> bool:
        """A frame that asks for nothing; whether there is budget for an answer to it."""
        self._budget.left -= FRAME
        return self._budget.left >= 0 or self._exhausted() is None

    def _exhausted(self) -> Error | None:
        """How to refuse what has come, if there is no budget. Who goes on regardless is closed, and may come back."""
        error = self._allowance.exhausted(asyncio.get_running_loop().time())
        if error is not None and self._budget.overdrawn:
            self.disconnect(Disconnect(FLOODED, "too much was sent after rate_limited"))
        return error

    def _allow(self, principal: Principal | None) -> None:
        self._allowance = Allowance(self._node.config.limits, principal, asyncio.get_running_loop().time())
        self._budget = self._allowance.budget

    def _handle(self, command: Command) -> None:
        if self._ended:  # by what stood before it in the same frame
            return
        try:
            if self._started or self._introduce(command):
                self._dispatch(command)
        except Error as error:
            self._refuse(command.id, error)
        except Disconnect as reason:
            self.disconnect(reason)
        except Exception:
            self._failed(command.id)

    def _failed(self, identifier: int | None) -> None:
        logger.exception("a command failed", extra=self.about())
        self._refuse(identifier, failed())

    # --- who the client is --------------------------------------------------------------------------------------------

    def _introduce(self, command: Command) -> bool:
        """The first command settles who the client is: whom its token or the upgrade's says, else a guest. False: it
        waits for the key of its token."""
        token = command.token if isinstance(command, Connect) else None
        try:
            if self._arrival is not None:
                pass  # the hook has answered
            elif token is not None or self._principal is None:
                if self._waits_for_key(command, token):
                    return False
                principal = self._authenticate(token)
                self._identify(principal)
                if principal.server:
                    self._allow(principal)
            else:
                self._node.identities.recognize(self._principal)  # it is a while since the upgrade
            if self._waits_for_hook(command):
                return False
            assert self._principal is not None
            self.check_served(self._principal.subscribe, command.after if isinstance(command, Connect) else ())
        except Error as error:
            self._refuse(command.id, error)
            raise _turned_away(error) from None
        self._welcome()
        if not isinstance(command, Connect):  # which is answered first
            self.serve_all({})
        return True

    def _welcome(self) -> None:
        """It is known who this is."""
        self._started = True
        logger.info("connected", extra=self.about())

    def _authenticate(self, token: str | None) -> Principal:
        """What proves nothing counts as a request of the address, as over REST: connections are cheap to make anew."""
        try:
            return self._node.identities.authenticate(token, self.address)
        except Error as error:
            if error.code in ("unauthenticated", "token_expired"):
                self._node.admission.count_request(GUEST, self.address)
            raise

    def _refresh(self, command: Refresh) -> None:
        """Another token of the same user: its end and its rights count from now on."""
        if self._waits_for_key(command, command.token):
            return
        assert self._principal is not None
        new = self._authenticate(command.token)
        if (new.user, new.server) != (self._principal.user, self._principal.server):
            raise Error("permission_denied", f"token: it is not {self._principal.name}'s")
        if self._arrival is not None:  # what the hook has given is the connection's
            new = self._arrival.admit(new)
        self.check_served(new.subscribe)
        old, self._principal = self._principal, new
        self._reply(command, user=new.user, expires=_whole(new.expires))
        self.check_subscriptions()
        self.serve({channel: new.subscribe[channel] for channel in new.subscribe.keys() - old.subscribe.keys()})

    # --- commands -----------------------------------------------------------------------------------------------------

    def _dispatch(self, command: Command) -> None:
        first, self._first = self._first, False
        if isinstance(command, Publish):
            if self._lanes.by_name and self._lanes.join(command):
                self._count(1)
            else:
                self._publish(command)
        elif isinstance(command, Uncounted):
            self._budget.left -= FRAME + CHANGE
            self._in_order(command)
        elif isinstance(command, LaneCommand):
            self._in_order(command)
        elif isinstance(command, Ping):
            self._budget.left -= FRAME
            self._reply(command)
        else:
            self._budget.left -= FRAME + CHANGE
            if isinstance(command, Refresh):
                self._refresh(command)
            else:
                assert isinstance(command, Connect)
                self._connect(command, first)

    def _connect(self, command: Connect, first: bool) -> None:
        if not first:
            raise bad_request("connect: only as the first command")
        assert self._principal is not None
        self._reply(
            command, session=self.id, user=self._principal.user, node=self._node.id, ping=int(PING_EVERY),
            expires=_whole(self._principal.expires), message_bytes=self._node.config.limits.message_bytes,
        )  # fmt: skip
        self.serve_all(command.after)

    def _publish(self, command: Publish) -> None:
        assert self._principal is not None
        self._spend()
        channel = command.channel
        future = self._node.publisher.publish(
            self._principal, channel, command.data, command.key, tag=command.tag, ephemeral=command.ephemeral,
            skip=None if command.echo else self.id, session=self.id, address=self._seats.address,
            mentions=command.mentions,
            broadcast=command.broadcast,
        )  # fmt: skip
        if future is None:
            if command.id is not None:
                self._reply(command, channel=channel)
            return
        self._lanes.publishing(channel, future)
        self._count(1)

        def done(future: asyncio.Future[Receipt | None]) -> None:
            self._lanes.published(channel, future)
            self._count(-1)
            if future.cancelled():
                return
            try:
                receipt = future.result()
                self._reply(command, channel=channel, **(receipt.fields() if receipt else {}))
            except Error as error:
                self._refuse(command.id, error)
            except Exception:
                self._failed(command.id)

        future.add_done_callback(done)

    def _spend(self) -> None:
        if self._allowance.limited:
            self._allowance.spend(asyncio.get_running_loop().time())

    # --- outbound -----------------------------------------------------------------------------------------------------

    def _reply(self, command: Command, **fields: Any) -> None:
        if command.id is not None and not self._ended:
            self.outbox.put(self._dialect.reply(command, fields))

    def _refuse(self, identifier: int | None, error: Error) -> None:
        error.__traceback__ = None  # or its frames, and what was sent, wait in a circle for the collector
        if self._ended:
            return
        if error.code not in OWN_FAILURES:
            self._budget.left -= FRAME + REFUSAL
        self.outbox.put(self._dialect.error(identifier, error))
        self._node.incidents.refused(error, self._principal, self.address)
        if error.code in NOTABLE and error.code not in self._said:
            self._said += (error.code,)
            logger.info("refused: %s", error.told, extra=self.about() | {"code": error.code})
        # (What comes behind a first command that waits for its key is not the first.)
        if not self._started and self._held is None and not self._node.authenticator.guests:
            self._turn_away(error)

    def _turn_away(self, error: Error) -> None:
        self.disconnect(_turned_away(error))

    def pong(self, payload: bytes) -> None:
        """Answer a ping. To a client that does not read, only the newest is answered (RFC 6455, 5.5.3)."""
        if not self.count_frame():
            return
        if self.outbox.writable:
            self.outbox.write(frame(PONG, payload))
        else:
            self._pong = payload

    def resume(self) -> None:
        if self._pong is not None:
            data, self._pong = frame(PONG, self._pong), None
            self.outbox.put_first(data)
        super().resume()

    # --- time and the end ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second: pings, pongs and patience."""
        super().tick(now)
        if self._ended or not self.outbox.writable:
            return
        unknown = not self._started and self._principal is None and not self._node.authenticator.guests
        if unknown and now - self._opened_at > CONNECT_WITHIN:
            self.disconnect(Disconnect(NO_CONNECT, f"no connect within {CONNECT_WITHIN:.0f} s"))
            return
        if self._pong_due and not self._reading:  # a pong that we do not read is not missing
            self._pong_due = now + PONG_WITHIN
        elif self._pong_due and now > self._pong_due:
            self.disconnect(Disconnect(NO_PONG, f"no pong within {PONG_WITHIN:.0f} s"))
        elif now >= self._ping_at:
            self._ping_at = now + PING_EVERY
            self._pong_due = now + PONG_WITHIN
            self.outbox.write(self._dialect.ping)

    def heard(self) -> None:
        """Something came from the client: a sign of life."""
        self._pong_due = 0.0

    def _farewell(self, reason: Disconnect, delay: float) -> bytes:
        return self._dialect.farewell(reason, delay)


def _turned_away(error: Error) -> Disconnect:
    """The first command has to be a good connect. If it is not by the client's fault, it may come back."""
    return Disconnect(UNAVAILABLE if error.retry else NO_CONNECT, error.reason)


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
