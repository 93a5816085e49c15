"""The doors for clients of Centrifugo's protocol."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.websocket import OpenSession, WebSocketHandler
from server.access.admission import ConnectionSeats
from server.core.config import Config


class CentrifugoWebSocket(WebSocketHandler):
    """GET /connection/websocket"""

    def bearer_token(self) -> str | None:
        """Their tokens come in the first command."""
        return None

    def choose(self, seats: ConnectionSeats, origin: str | None) -> tuple[str | None, OpenSession]:
        door = self.site.centrifugo
        assert door is not None
        dialect = door.json
        return None, lambda socket: door.session(dialect, socket, seats, origin)


def routes(config: Config) -> dict[str, type[BaseHandler]]:
    """Those that the configuration opens."""
    if not config.centrifugo.enabled:
        return {}
    return {"/connection/websocket": CentrifugoWebSocket}
