"""REST: messages by their words."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.search import FoundPage, SearchQuery


class Found(BaseHandler):
    @operation("Search messages", {200: FoundPage, 304: None})
    async def get(self, query: SearchQuery) -> None:
        """The newest that have all words, in the channels that are named or in those that the user is a member of. For
        who may read them, where the namespace has `search: true`. A page may be short though there are `more`."""
        page = await self.node.search.find(
            self.principal, query.q, query.channels, query.after, query.limit, address=self.client_address()
        )
        self.answer(page)
