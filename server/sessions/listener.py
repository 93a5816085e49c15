"""Clients that only listen, over plain HTTP: what event streams and long polls have in common.

They are clients like a WebSocket's, with subscriptions of their own, so they resume, fall behind, stall and end as it
does. Only the encoding is another one, made once per message like every other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from server.access.admission import ConnectionSeats
from server.core.errors import DISCONNECTED, ERRORS, REVOKED, SHUT_OUT, TOKEN_EXPIRED, Disconnect, Error
from server.core.names import ROOMS
from server.core.principals import Principal, Start
from server.node import Node
from server.sessions.client import ConnectedClient
from server.sessions.outbox import Connection
from server.wire.codec import Codec
from server.wire.commands import Subscribe
from server.wire.pushes import GapPush

_ENDS: Final = {TOKEN_EXPIRED: "token_expired", REVOKED: "unauthenticated", SHUT_OUT: "permission_denied"}
"""How an answer says what would end a connection for good."""


def as_error(reason: Disconnect, delay: float | None) -> Error:
    """What ends a connection, as the answer to a request."""
    code = _ENDS.get(reason.code, "unavailable")
    return Error(code, reason.reason, retry_after=delay if code == "unavailable" else None)


class Listener(ConnectedClient):
    """`subscribe` comes first, while the request can still be refused; `begin` when the socket has been handed over:
    from then on messages are written to it."""

    __slots__ = ("_begun", "_cursors", "_gaps", "_refusal")

    def __init__(
        self, node: Node, connection: Connection, codec: Codec, principal: Principal, seats: ConnectionSeats
    ) -> None:
        self._begun = False
        self._cursors: dict[str, str | None] = {}
        """Where each channel's delivery starts; None for an ephemeral one."""
        self._gaps: list[GapPush] = []
        self._refusal: Error | None = None
        """Why it ended before it had begun: the request's answer."""
        super().__init__(node, connection, codec, principal, seats)

    async def subscribe(
        self, wanted: Mapping[str, str | None], last: int | None = None, starts: Mapping[str, Start] | None = None,
        *, threads: bool = False,
    ) -> None:  # fmt: skip
        """`wanted`: channel → cursor; or None for `last` messages, for what `starts` says of it, or from now on. All of
        them, or the first Error. `threads`: of `$rooms`, with the threads that the user follows."""
        self._cursors.update(dict.fromkeys(wanted))  # in the order that was asked for
        results = await asyncio.gather(
            *(
                self._join(channel, after, last, (starts or {}).get(channel), threads)
                for channel, after in wanted.items()
            ),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if self._refusal is not None:
            raise self._refusal

    async def _join(
        self, channel: str, after: str | None, last: int | None, start: Start | None, threads: bool
    ) -> None:
        """One by one, so that a right that is revoked while another channel's hook thinks finds what it has given."""
        assert self._principal is not None
        await self._node.loop_share.turn()
        if start is not None and not after and last is None:
            after, last = start.after, start.last
        request = Subscribe(
            channel=channel, after=after, last=None if after else last, threads=threads and channel == ROOMS
        )
        _, fields, gap = await self.join(self._principal, request)
        self._cursors[channel] = fields.get("cursor")
        if gap is not None:
            self._gaps.append(gap)

    def begin(self) -> None:
        self.outbox.open()
        self._begun = True
        for subscription in tuple(self.subscriptions.values()):
            subscription.start()

    def _end_subscription(self, channel: str, code: str, reason: str) -> None:
        """Who listens cannot subscribe again: with the last channel it ends, and before it has begun with any."""
        if self._begun:
            super()._end_subscription(channel, code, reason)
        else:
            self.subscriptions.pop(channel).close(for_good=True)
            self._refusal = self._refusal or Error(code if code in ERRORS else "unavailable", f"{channel}: {reason}")
        if not self.subscriptions:
            self.disconnect(Disconnect(DISCONNECTED, reason))

    def disconnect(self, reason: Disconnect, delay: float | None = None) -> None:
        self._refusal = self._refusal or as_error(reason, delay)
        super().disconnect(reason, delay)
