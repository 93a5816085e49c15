"""The doors for clients of Centrifugo's protocol."""

from __future__ import annotations

from typing import Final

from handlers.base import BaseHandler
from handlers.websocket import OpenSession, WebSocketHandler
from server.access.admission import ConnectionSeats
from server.core.config import Config
from server.core.errors import Error

SUBPROTOCOL: Final = "centrifuge-protobuf"


class CentrifugoWebSocket(WebSocketHandler):
    """GET /connection/websocket"""

    def bearer_token(self) -> str | None:
        """Their tokens come in the first command."""
        return None

    def choose(self, seats: ConnectionSeats, origin: str | None) -> tuple[str | None, OpenSession]:
        door = self.site.centrifugo
        assert door is not None
        chosen = SUBPROTOCOL if SUBPROTOCOL in self.offered() else None
        asked = [self.get_query_argument(name) for name in ("format", "cf_protocol")]
        dialect = door.protobuf if chosen or "protobuf" in asked else door.json
        if dialect is None:
            raise Error("bad_request", "Protobuf: not installed here (the extra `protobuf`)", status=501)
        return chosen, lambda socket: door.session(dialect, socket, seats, origin)


def routes(config: Config) -> dict[str, type[BaseHandler]]:
    """Those that the configuration opens."""
    if not config.centrifugo.enabled:
        return {}
    return {"/connection/websocket": CentrifugoWebSocket}
