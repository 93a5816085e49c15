"""REST: what a channel can do, and what one may do there."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.rest import ChannelCapabilities


class Capabilities(BaseHandler):
    @operation("What one may do in a channel", {200: ChannelCapabilities, 304: None})
    async def get(self, channel: str) -> None:
        """For pages, so that they offer nothing that would be refused. Hooks are not asked, and nothing is said of what
        the channel holds."""
        self.answer(await self.node.capabilities.of(self.principal, channel, address=self.client_address()))
