"""REST: who is in a channel."""

from __future__ import annotations

from handlers.base import BaseHandler
from server.protocol import MAX_PAGE


class Presence(BaseHandler):
    """/v1/channels/{channel}/presence"""

    async def get(self, channel: str) -> None:
        self.answer(await self.node.presence(self.principal, channel, self.number("left", 0, 0, MAX_PAGE)))
