"""What the doors for Centrifugo's clients share: one object a node."""

from __future__ import annotations

from server.access.admission import ConnectionSeats
from server.centrifugo.dialects import CentrifugoDialect, websocket
from server.centrifugo.directives import Directives
from server.centrifugo.encodings import Json, protobuf
from server.centrifugo.names import Names
from server.centrifugo.session import CentrifugoSession
from server.centrifugo.tokens import Tokens
from server.node import Node
from server.sessions.outbox import Connection


class Centrifugo:
    def __init__(self, node: Node) -> None:
        options, auth = node.config.centrifugo, node.config.auth
        self.names = Names(options.namespace)
        self.tokens = Tokens(
            node.authenticator, node.identities, without_exp=options.tokens_without_exp, max_ttl=auth.max_token_ttl
        )
        binary = protobuf()
        self.json = websocket(self.names, Json())
        self.protobuf = None if binary is None else websocket(self.names, binary)
        """Where its library is installed."""
        self.directives = Directives(node)
        self._node = node

    def session(
        self, dialect: CentrifugoDialect, connection: Connection, seats: ConnectionSeats, origin: str | None
    ) -> CentrifugoSession:
        """A client that has still to say who it is."""
        return CentrifugoSession(self._node, connection, dialect, self.names, self.tokens, seats, origin)
