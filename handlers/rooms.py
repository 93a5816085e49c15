"""REST: the rooms of a user, and how far they have read."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.rooms import BlockSet, BlocksPage, ReadRequest, ReadResult, RoomsPage, RoomsQuery


class MyRooms(BaseHandler):
    @operation("Read which channels you are a member of", {200: RoomsPage, 304: None})
    async def get(self, query: RoomsQuery) -> None:
        """The one with the newest message first, each with how many messages you have not read."""
        page = await self.node.rooms.mine.page(
            self.principal, query.after, query.limit, query.threads, address=self.client_address()
        )
        self.answer(page)


class MyBlocks(BaseHandler):
    @operation("Read whom you take no messages of", {200: BlocksPage, 304: None})
    async def get(self) -> None:
        """In direct channels. Elsewhere what such a user says is for your client to hide."""
        blocked = await self.node.rooms.blocks.list(self.principal, address=self.client_address())
        self.answer(BlocksPage(blocked=blocked))


class MyBlock(BaseHandler):
    @operation("Take no messages of a user", {200: BlockSet})
    async def put(self, user: str) -> None:
        """In direct channels, on every node within a second."""
        await self.node.rooms.blocks.set(self.principal, user, True, address=self.client_address())
        self.answer(BlockSet(user=user, blocked=True))

    @operation("Take messages of a user again", {204: None})
    async def delete(self, user: str) -> None:
        """Those that were refused do not come."""
        await self.node.rooms.blocks.set(self.principal, user, False, address=self.client_address())
        self.set_status(204)


class Marker(BaseHandler):
    @operation("Say how far you have read", {200: ReadResult})
    async def post(self, channel: str, body: ReadRequest) -> None:
        """The marker only moves on; with `set` also back, so that messages are unread again. Answers where it is."""
        cursor = await self.node.rooms.markers.read(
            self.principal, channel, body.cursor, back=body.set, address=self.client_address()
        )
        self.answer(ReadResult(channel=channel, cursor=str(cursor)))
