"""REST: who is in a channel."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.rest import PresencePage, PresenceQuery


class Presence(BaseHandler):
    @operation("Who is in a channel", {200: PresencePage, 304: None})
    async def get(self, channel: str, query: PresenceQuery) -> None:
        """Each user once, with the number of their sessions. Where the namespace keeps presence."""
        self.answer(await self.node.presence.show(self.principal, channel, query.left, address=self.client_address()))
