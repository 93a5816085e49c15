"""REST for operators: the nodes, and the channels that have subscribers. For API keys that are `admin`."""

from __future__ import annotations

from handlers.base import BaseHandler
from server.protocol import DEFAULT_PAGE, MAX_PAGE


class Nodes(BaseHandler):
    """/v1/nodes"""

    def get(self) -> None:
        self.answer(self.node.nodes(self.principal))


class ChannelList(BaseHandler):
    """/v1/channels"""

    async def get(self) -> None:
        self.answer(
            await self.node.channels(
                self.principal,
                self.get_query_argument("prefix", ""),
                self.get_query_argument("after", ""),
                self.number("limit", DEFAULT_PAGE, 1, MAX_PAGE),
            )
        )
