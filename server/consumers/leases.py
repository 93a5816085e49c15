"""Which node does the work for which channels.

Every channel belongs to one of GROUPS groups, and each group is one node's at a time, for all consumers. One document
says who has what, so an idle node costs one small write every LOOK_EVERY seconds, however many consumers there are:

    meta  {_id: "consumers", n: how often the shares have changed, told: how often something else has (states.py),
           members: {node: until when it has all that is its}, groups: [[node or null, fence], …]}

Time is MongoDB's. A node says that it is alive, and sees from the answer what it has: until then, and not a moment
longer by its own steady clock, it delivers. Who finds a member that has run out takes its groups, all in one
compare-and-set that fails if that member has been heard of after all; and with each change of hands the group's fence
goes up, under which cursors are moved (cursors.py). A node that has more than its share lets go of what it has no work
under way for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from zlib import crc32

from pymongo import ReturnDocument

from server.core.tasks import Keeper
from server.mongo.client import mapped
from server.mongo.databases import DatabaseApart

GROUPS: Final = 64
LOOK_EVERY: Final = 1.5
LEASE: Final = 5.5
"""Seconds without a sign of life after which a node's groups are taken by others."""
MARGIN: Final = 0.5
"""Seconds before the end of its lease from which on a node begins nothing any more."""
RECORD: Final = "consumers"


def group_of(channel: str) -> int:
    return crc32(channel.encode()) % GROUPS


class Leases:
    """`busy(group)`: whether work for its channels is under way here; `changed()` is called when this node has other
    groups than before, `told()` when a node has had something to say to all."""

    def __init__(
        self,
        database: DatabaseApart,
        node: str,
        *,
        busy: Callable[[int], bool],
        changed: Callable[[], None],
        told: Callable[[], None],
    ) -> None:
        self._meta = database.own("meta")
        self._node = node
        self._busy = busy
        self._changed = changed
        self._told = told
        self._fences: dict[int, int] = {}
        self._leaving: set[int] = set()
        self._until = 0.0
        """By the event loop's time."""
        self._tellings: int | None = None
        self.members = 0

    def start(self, keeper: Keeper) -> None:
        keeper.every("consumers' leases", LOOK_EVERY, self.look)

    def fence(self, group: int) -> int | None:
        """Under which a cursor of this group is moved; None: new work for it is not this node's."""
        if asyncio.get_running_loop().time() >= self._until or group in self._leaving:
            return None
        return self._fences.get(group)

    @property
    def held(self) -> int:
        """How many groups are this node's at the moment."""
        return len(self._fences) if asyncio.get_running_loop().time() < self._until else 0

    # --- looking ------------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Say that this node is alive, see what it has, and balance that with the others; `unavailable` without
        MongoDB."""
        before = dict(self._fences) if self.held else {}
        with mapped():
            asked = asyncio.get_running_loop().time()
            record = await self._renew()
            self._take_over(record, asked)
            if (change := self._balanced(record)) is not None:
                groups, known = change
                if await self._exchange(record, groups, known):
                    record["groups"] = groups
                    self._take_over(record, asked)
        tellings, self._tellings = self._tellings, record.get("told", 0)
        if self._fences != before:
            self._changed()
        if tellings is not None and tellings != self._tellings:
            self._told()

    async def _renew(self) -> dict[str, Any]:
        until = {"$add": ["$$NOW", int(LEASE * 1000)]}
        record: Any = await self._meta.find_one_and_update(
            {"_id": RECORD},
            [{"$set": {f"members.{self._node}": until, "now": "$$NOW", "n": {"$ifNull": ["$n", 0]}}}],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return dict(record)

    def _take_over(self, record: dict[str, Any], asked: float) -> None:
        self.members = len(_alive(record))
        self._fences = {
            group: fence for group, (holder, fence) in enumerate(record.get("groups", ())) if holder == self._node
        }
        self._leaving &= self._fences.keys()
        self._until = asked + LEASE - MARGIN

    def _balanced(self, record: dict[str, Any]) -> tuple[list[list[Any]], dict[str, Any]] | None:
        """The groups as they are to be; and what must still be true then. None: they are well as they are."""
        alive = _alive(record)
        groups: list[list[Any]] = [list(one) for one in record.get("groups", ())]
        groups += [[None, 0] for _ in range(len(groups), GROUPS)]
        share = -(-GROUPS // len(alive))
        mine = [group for group, (holder, _) in enumerate(groups) if holder == self._node]
        free = [group for group, (holder, _) in enumerate(groups) if holder not in alive]
        self._leaving = set(mine[share:]) if len(mine) > share else set()
        let_go = [group for group in self._leaving if not self._busy(group)]
        take = random.sample(free, min(len(free), max(share - len(mine), 0)))
        if not let_go and not take:
            return None
        known: dict[str, Any] = {}
        for group in take:
            holder, fence = groups[group]
            if holder is not None:
                known[f"members.{holder}"] = record["members"].get(holder, {"$exists": False})
            # As a time it goes up also where MongoDB has been set back to an older state.
            groups[group] = [self._node, max(fence + 1, _milliseconds(record["now"]))]
        for group in let_go:
            groups[group][0] = None
        return groups, known

    async def _exchange(self, record: dict[str, Any], groups: list[list[Any]], known: dict[str, Any]) -> bool:
        gone = {f"members.{name}": "" for name in record["members"] if name not in _alive(record)}
        known |= {name: record["members"][name.partition(".")[2]] for name in gone}
        update: dict[str, Any] = {"$set": {"groups": groups}, "$inc": {"n": 1}}
        if gone:
            update["$unset"] = gone
        result = await self._meta.update_one({"_id": RECORD, "n": record["n"], **known}, update)
        return result.modified_count > 0

    async def tell(self) -> None:
        """Have every node look at what may have changed."""
        with mapped():
            await self._meta.update_one({"_id": RECORD}, {"$inc": {"told": 1}})

    async def leave(self) -> None:
        """Others may take over at once."""
        self._until = 0.0
        self._fences = {}
        with mapped():
            await self._meta.update_one({"_id": RECORD}, {"$unset": {f"members.{self._node}": ""}})


def _alive(record: dict[str, Any]) -> set[str]:
    return {name for name, until in record["members"].items() if until > record["now"]}


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
