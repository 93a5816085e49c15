"""Clients of Centrifugo's protocol without WebSocket: an endless response brings them what they are sent.

Their commands come with requests of their own, to any node (`Letters`); or with the first request, and never more.
"""

from __future__ import annotations

import secrets
from typing import Any

from server.access.admission import ConnectionSeats
from server.centrifugo import requests
from server.centrifugo.common import Common
from server.centrifugo.dialects import CentrifugoDialect
from server.centrifugo.replies import BAD_REQUEST, end_of
from server.centrifugo.session import CentrifugoSession
from server.core.errors import STALLED, Disconnect, Error
from server.node import Node
from server.sessions.outbox import Connection
from server.sessions.session import PING_EVERY
from server.wire.commands import Command
from server.wire.pushes import Fields


class EmulatedSession(CentrifugoSession):
    """`_secret` is for who sends it commands from now on, and for nobody else."""

    transport = "stream"

    __slots__ = ("_secret", "_sign_of_life")

    def __init__(
        self, node: Node, connection: Connection, dialect: CentrifugoDialect, common: Common, seats: ConnectionSeats,
        origin: str | None = None,
    ) -> None:  # fmt: skip
        self._secret = ""
        self._sign_of_life = dialect.encoding.ping
        super().__init__(node, connection, dialect, common, seats, origin)

    def begin(self, payload: bytes) -> None:
        """What came with the request."""
        self.receive(self._dialect.codec.opcode, payload)

    def _introduce(self, command: Command) -> bool:
        if not self._secret:  # sealed, so that any node can tell it from a guess
            name = secrets.token_urlsafe(18)
            self._secret = f"{name}.{self._common.boxes.seal(self._node.id, name)}"
            self._node.letters.open(self._secret, self._take)
        return super()._introduce(command)

    def _take(self, payload: bytes) -> None:
        """From whatever node. Nobody can be made to wait with what comes this way."""
        if self._ended:
            return
        self.heard()
        if self.reading:
            self.receive(self._dialect.codec.opcode, payload)
        elif payload.strip() != self._sign_of_life:
            self.disconnect(Disconnect(STALLED, "commands came faster than their answers were read"))

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
            command = requests.connecting(payload)
        except (ValueError, RecursionError):
            self.disconnect(Disconnect(BAD_REQUEST, "not a connect request"))
        else:
            self._handle_in_turn(command)

    def _told_of_transport(self) -> Fields:
        return {"ping": int(PING_EVERY)}

    def _refuse(self, identifier: int | None, error: Error) -> None:
        super()._refuse(identifier, error)
        if identifier is not None:  # its only command: what else there is is a back end's
            self.disconnect(end_of(error))

    def _reply(self, command: Command, **fields: Any) -> None:
        """It is pushed, as all that it gets."""
        if not self._ended:
            self.outbox.put(self._push_shape({"connect": fields}))

    def tick(self, now: float) -> None:
        super().tick(now)
        self.heard()  # it says nothing
