"""What the doors for Centrifugo's clients share: one object a node."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from server.access.admission import ConnectionSeats
from server.access.seals import Seals
from server.brokers.base import Letter
from server.centrifugo.common import Common
from server.centrifugo.dialects import CentrifugoDialect, events, stream, websocket
from server.centrifugo.encodings import Json, protobuf
from server.centrifugo.names import Names
from server.centrifugo.publishers import Publishers
from server.centrifugo.requests import Emulated
from server.centrifugo.session import CentrifugoSession
from server.centrifugo.tokens import Tokens
from server.core.config import MAX_STORED
from server.core.errors import Error, bad_request
from server.core.principals import GUEST
from server.node import Node
from server.sessions.outbox import Connection

AnySession = TypeVar("AnySession", bound=CentrifugoSession)


class Centrifugo:
    def __init__(self, node: Node) -> None:
        options, auth = node.config.centrifugo, node.config.auth
        json, binary = Json(), protobuf()
        names = Names(options.namespace)
        self._node = node
        self.names = names
        self.publishers = publishers = Publishers(Seals(node.tickets.derive, "publishers"), auth.api_keys)
        tokens = Tokens(
            node.authenticator, node.identities, without_exp=options.tokens_without_exp, max_ttl=auth.max_token_ttl
        )
        self._common = Common(names, tokens, publishers, Seals(node.tickets.derive, "boxes"))
        self.json = websocket(names, publishers, json)
        self.json_stream = stream(names, publishers, json)
        self.json_events = events(names, publishers, json)
        self.bare_stream = stream(names, publishers, json, bare=True)
        self.bare_events = events(names, publishers, json, bare=True)
        self._protobuf = None if binary is None else websocket(names, publishers, binary)
        self._protobuf_stream = None if binary is None else stream(names, publishers, binary)

    @property
    def protobuf(self) -> CentrifugoDialect:
        """As `protobuf_stream`."""
        return _installed(self._protobuf)

    @property
    def protobuf_stream(self) -> CentrifugoDialect:
        """Error where its library is not installed."""
        return _installed(self._protobuf_stream)

    def session(
        self, kind: type[AnySession], dialect: CentrifugoDialect, connection: Connection, seats: ConnectionSeats,
        origin: str | None,
    ) -> AnySession:  # fmt: skip
        """A client that has still to say who it is."""
        return kind(self._node, connection, dialect, self._common, seats, origin)

    def check_size(self, field: str, commands: bytes) -> None:
        """`too_large` for more than one message of a WebSocket may be."""
        limit = 2 * (self._node.config.limits.message_bytes or MAX_STORED)
        if len(commands) > limit:
            raise Error("too_large", f"{field}: {len(commands)} bytes; {limit} at most")

    def emulate(self, body: bytes, address: str, *, binary: bool) -> None:
        """Pass on what a client without WebSocket has to say; `not_found`: no such session, or no such node.
        `rate_limited`: too many requests of this session or, where there is none, of guests of this address."""
        try:
            if binary:
                _installed(self._protobuf)
                from server.centrifugo.protobuf import emulated

                node, session, data = emulated(body)
            else:
                request = msgspec.json.decode(body, type=Emulated)
                node, session, data = request.node, request.session, request.data.encode()
        except (ValueError, RecursionError):  # of msgspec, too
            raise bad_request("body: expected node, session and data") from None
        self.check_size("data", data)
        name, _, seal = session.rpartition(".")
        known = self._common.boxes.holds(seal, node, name)
        self._node.admission.count_request(GUEST, address, session if known else None)
        if not known or not self._node.letters.post(Letter(node, session, data)):
            raise Error("not_found", "session: there is none of this name on that node")


def _installed(dialect: CentrifugoDialect | None) -> CentrifugoDialect:
    if dialect is None:
        raise Error("bad_request", "Protobuf: not installed here (the extra `protobuf`)", status=501)
    return dialect
