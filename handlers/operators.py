"""REST for operators: the nodes, and the channels that have subscribers or messages. For API keys that are `admin`."""

from __future__ import annotations

import msgspec

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.rest import ChannelsPage, ChannelsQuery, NodesPage, RecentHour, StoredChannelsPage


class Nodes(BaseHandler):
    @operation("List the nodes", {200: NodesPage, 304: None})
    async def get(self) -> None:
        """What each node within hearing last said of itself, once a second. For API keys that are `admin`."""
        self.answer(self.node.directory.nodes(self.principal))


class Recent(BaseHandler):
    @operation("Look at the last hour", {200: RecentHour, 304: None})
    async def get(self) -> None:
        """Figures over all nodes, what went wrong, who met which limit, and which limits there are. For API keys that
        are `admin`."""
        recent = await self.node.directory.recent(self.principal)
        self.answer(recent | {"limits": msgspec.to_builtins(self.node.config.limits)})


class ChannelList(BaseHandler):
    @operation("List the channels that have subscribers", {200: ChannelsPage, 304: None})
    async def get(self, query: ChannelsQuery) -> None:
        """Of all nodes, by name. For API keys that are `admin`."""
        self.answer(await self.node.directory.channels(self.principal, query.prefix, query.after, query.limit))


class StoredChannels(BaseHandler):
    @operation("List the channels that have messages", {200: StoredChannelsPage, 304: None})
    async def get(self, query: ChannelsQuery) -> None:
        """By name, whether anybody listens or not, each with what is retained of it. For API keys that are `admin`."""
        self.answer(await self.node.history.stored(self.principal, query.prefix, query.after, query.limit))
