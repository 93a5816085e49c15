"""Direct channels: both users become members with the first message; and who takes no messages of whom.

blocks  {_id: {u: user, b: whom it takes none of}, t: when}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from bson import MaxKey, MinKey

from server.access.admission import Admission
from server.access.directs import Block, Directs
from server.access.memberships import READ_TOGETHER, Membership
from server.access.rights import Rights
from server.core.clock import Clock
from server.core.cursors import Position
from server.core.errors import Error
from server.core.lifecycle import Lifecycle
from server.core.names import ROOMS, pair_of
from server.core.principals import Principal
from server.core.rules import MEMBER
from server.core.tasks import Keeper
from server.log.counts import Counts
from server.log.groups import GroupReader
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.rooms.doubts import Doubts
from server.rooms.members import checked_user
from server.rooms.rows import STRANGER, Change, Marker, MemberRows, Row, Standing, new_row

MAX_BLOCKS: Final = 1000
"""Of one user."""


class Conversations:
    """`tell(changes)`: who has become a member, for all nodes, this one too."""

    def __init__(
        self,
        *,
        keeper: Keeper,
        rows: MemberRows,
        counts: Counts,
        clock: Clock,
        doubts: Doubts,
        tell: Callable[[Sequence[Change]], None],
    ) -> None:
        self._rows = rows
        self._doubts = doubts
        self._counts = counts
        self._clock = clock
        self._tell = tell
        self._reader: GroupReader[Membership, Standing] = GroupReader(keeper, "the two", self._standings, READ_TOGETHER)

    async def published(self, channel: str, position: Position) -> None:
        """There is a message: both are members, and who was none has read what is before it. A retry of the publish
        makes up for what a node has left undone that died in between."""
        strangers = [
            (user, standing)
            for user in pair_of(channel)
            if (standing := await self._reader.ask((user, channel))).role is None
        ]
        amendments = await self._counts.amendments(channel, position.offset) if strangers else None
        if amendments is None:
            return
        before = Marker(position.epoch, position.offset - 1, amendments)
        for user, standing in strangers:
            row = new_row(user, channel, MEMBER, before, self._clock.now_ms(), None)
            with self._doubts.about([(user, channel)]):
                if await (self._rows.replace(row) if standing.there else self._rows.add([row])):
                    self._tell([(user, channel, MEMBER)])

    async def _standings(self, memberships: Sequence[Membership]) -> dict[Membership, Standing]:
        return dict.fromkeys(memberships, STRANGER) | await self._rows.standings(memberships)


class Blocks:
    def __init__(
        self, database: Database, *, directs: Directs, rights: Rights, admission: Admission, lifecycle: Lifecycle,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._blocks = database.own("blocks")
        self._directs = directs
        self._rights = rights
        self._admission = admission
        self._lifecycle = lifecycle
        self._clock = clock
        directs.read = self._read

    async def set(self, principal: Principal, user: str, on: bool, *, address: str = "") -> None:
        """Take no messages of `user` in direct channels, or take them again. `limit_exceeded`: there are too many."""
        own = self._begin(principal, address)
        checked_user(user)
        block = {"_id": {"u": own, "b": user}}
        async with self._rights.reading(principal, ROOMS):
            try:
                with mapped():
                    if on:
                        new = {"$setOnInsert": {"t": self._clock.now_ms()}}
                        added = (await self._blocks.update_one(block, new, upsert=True)).upserted_id is not None
                        # Counted when it is there: others may come at the same time, by any node.
                        if added and await self._blocks.count_documents(_of(own), limit=MAX_BLOCKS + 1) > MAX_BLOCKS:
                            await self._blocks.delete_one(block)
                            raise Error("limit_exceeded", f"user: {own} blocks {MAX_BLOCKS} already")
                    else:
                        await self._blocks.delete_one(block)
            finally:  # also of what was stored without an answer
                self._directs.forget((own, user))

    async def list(self, principal: Principal, *, address: str = "") -> list[str]:
        """Whom the user takes no messages of, by name."""
        own = self._begin(principal, address)
        async with self._rights.reading(principal, ROOMS):
            with mapped():
                return [row["_id"]["b"] async for row in self._blocks.find(_of(own), {"_id": 1}).sort("_id", 1)]

    def _begin(self, principal: Principal, address: str) -> str:
        self._admission.spend(principal, address)
        self._lifecycle.check()
        if principal.server or principal.user is None:
            raise Error("permission_denied", f"{principal.name} blocks nobody")
        return principal.user

    async def _read(self, blocks: Collection[Block]) -> Collection[Block]:
        ids = [{"u": user, "b": other} for user, other in blocks]
        with mapped():
            rows = await self._blocks.find({"_id": {"$in": ids}}, {"_id": 1}).to_list(len(ids))
        return {(row["_id"]["u"], row["_id"]["b"]) for row in rows}


def _of(user: str) -> Row:
    return {"_id": {"$gt": {"u": user, "b": MinKey()}, "$lt": {"u": user, "b": MaxKey()}}}
