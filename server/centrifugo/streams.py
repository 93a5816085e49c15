"""Clients of Centrifugo's protocol without WebSocket: an endless response brings them what they are sent.

Their commands come with requests of their own, to any node (`Letters`); or with the first request, and never more.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from server.centrifugo import requests
from server.centrifugo.replies import BAD_REQUEST, CONNECTION_LIMIT, NO_PERMISSION
from server.centrifugo.session import CentrifugoSession
from server.core.errors import TOKEN_EXPIRED, UNAVAILABLE, Disconnect, Error
from server.sessions.session import PING_EVERY
from server.wire.commands import Command
from server.wire.pushes import Fields

_ENDS: Final = {
    "token_expired": TOKEN_EXPIRED,
    "limit_exceeded": CONNECTION_LIMIT,
    "permission_denied": NO_PERMISSION,
    "unauthenticated": NO_PERMISSION,
}
"""How a connection ends whose only command is refused; unless it is worth another try."""


class EmulatedSession(CentrifugoSession):
    """`_secret` is for who sends it commands from now on, and for nobody else."""

    transport = "stream"

    __slots__ = ("_secret",)

    def __init__(self, *arguments: Any) -> None:
        self._secret = secrets.token_urlsafe(18)
        super().__init__(*arguments)
        self._node.letters.open(self._secret, self._take)

    def begin(self, payload: bytes) -> None:
        """What came with the request."""
        self.receive(self._dialect.codec.opcode, payload)

    def _take(self, payload: bytes) -> None:
        """From whatever node. Too much at a time is lost, as the client would not wait for an answer."""
        if not self._ended and self.reading:
            self.heard()
            self.receive(self._dialect.codec.opcode, payload)

    def _told_of_transport(self) -> Fields:
        return super()._told_of_transport() | {"session": self._secret, "node": self._node.id}

    def _end(self) -> None:
        self._node.letters.close(self._secret)
        super()._end()


class ListeningSession(CentrifugoSession):
    """One who only listens: connected by its request, subscribed by its token, and by what it asks for then."""

    transport = "stream"

    __slots__ = ()

    def begin(self, payload: bytes) -> None:
        """What came with the request: what would be under `connect` in a command."""
        try:
            command = requests.connecting(payload, self._names)
        except (ValueError, RecursionError):
            self.disconnect(Disconnect(BAD_REQUEST, "not a connect request"))
        except Error as error:
            self._refuse(1, error)
        else:
            self._handle_in_turn(command)

    def _told_of_transport(self) -> Fields:
        return {"ping": int(PING_EVERY)}

    def _refuse(self, identifier: int | None, error: Error) -> None:
        super()._refuse(identifier, error)
        code = UNAVAILABLE if error.retry else _ENDS.get(error.code, BAD_REQUEST)
        self.disconnect(Disconnect(code, error.reason))

    def _reply(self, command: Command, **fields: Any) -> None:
        """It is pushed, as all that it gets."""
        if not self._ended:
            self.outbox.put(self._push_shape({"connect": fields}))

    def tick(self, now: float) -> None:
        super().tick(now)
        self.heard()  # it says nothing
