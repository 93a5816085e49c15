"""REST: messages that wait until they are due."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.rest import ScheduledPage, ScheduledQuery


class ScheduledMessages(BaseHandler):
    @operation("List messages for later", {200: ScheduledPage, 304: None})
    async def get(self, query: ScheduledQuery) -> None:
        """Your own; all there are for API keys that are `admin`."""
        self.answer({"scheduled": await self.node.scheduler.waiting(self.principal, query.channel, query.limit)})


class ScheduledMessage(BaseHandler):
    @operation("Cancel a message for later", {204: None})
    async def delete(self, scheduled: str) -> None:
        """It will not be published. 404 if it is already, or is not yours."""
        await self.node.scheduler.cancel(self.principal, scheduled)
        self.set_status(204)
