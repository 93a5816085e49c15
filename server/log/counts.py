"""How many messages a channel has: what unread counts are made of.

The entries themselves say it (rows.py), so it is exact: an entry at the offset o with m amendments up to it is, or
comes behind, the message number o − m.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pymongo import ASCENDING, DESCENDING

from server.core.cursors import Position
from server.core.tasks import Keeper
from server.log.foundation import Foundation
from server.log.groups import GroupReader
from server.log.rows import Row, id_of
from server.mongo.client import mapped
from server.mongo.databases import Database

GROUP: Final = 1000


class Count(NamedTuple):
    """Of a channel, up to its head."""

    head: Position
    amendments: int
    newest: int
    """The offset of the newest message; 0: there is none."""
    time: int
    """When that was published, in milliseconds since 1970, UTC."""
    floor: int
    """The highest offset that is gone."""
    amended_floor: int
    """How many amendments there are up to that."""

    @property
    def messages(self) -> int:
        return self.head.offset - self.amendments

    @property
    def newest_cursor(self) -> str | None:
        return str(Position(self.head.epoch, self.newest)) if self.newest else None


class Behind(NamedTuple):
    """What is behind `start` in a channel, as it was when that reached `head`."""

    channel: str
    start: int
    head: int


class Counts:
    """What is asked for at the same time is read together."""

    def __init__(self, database: Database, foundation: Foundation, keeper: Keeper) -> None:
        self._database = database
        self._messages = database.own("messages")
        self._channels = database.own("channels").name
        self._foundation = foundation
        self._counts = GroupReader(keeper, "counts", self._read_counts, GROUP)
        self._amendments: GroupReader[tuple[str, int], int | None] = GroupReader(
            keeper, "amendments up to", self._read_amendments, GROUP
        )
        self.reads = 0
        """Commands."""

    async def of(self, channel: str) -> Count:
        """Now."""
        return await self._counts.ask(channel)

    async def of_all(self, channels: Sequence[str]) -> dict[str, Count]:
        """Of many channels, in commands of their own."""
        counts: dict[str, Count] = {}
        for index in range(0, len(channels), GROUP):
            counts |= await self._read_counts(channels[index : index + GROUP])
        return counts

    async def amendments(self, channel: str, offset: int) -> int | None:
        """How many there are up to the entry at `offset`; None: that is not there (any more)."""
        return await self._amendments.ask((channel, offset))

    async def erased(self, behind: Collection[Behind]) -> Counter[Behind]:
        """How many messages of each were erased, however often each was. MongoDB counts; where several ask about one
        channel, it names the messages, and they are counted as they come."""
        channels: dict[str, list[Behind]] = {}
        for one in set(behind):
            channels.setdefault(one.channel, []).append(one)
        found: Counter[Behind] = Counter()
        for alone in (True, False):
            wanted = {channel: some for channel, some in channels.items() if (len(some) == 1) == alone}
            names = list(wanted)
            for index in range(0, len(names), GROUP):
                some = {channel: wanted[channel] for channel in names[index : index + GROUP]}
                async for row in self._erasures(some, alone):
                    if alone:
                        found[some[row["_id"]][0]] = row["n"]
                        continue
                    for one in some[row["_id"]["c"]]:
                        if row["_id"]["z"] > one.start and row["at"] <= one.head:
                            found[one] += 1
        return found

    async def _erasures(self, behind: Mapping[str, Sequence[Behind]], alone: bool) -> AsyncIterator[Row]:
        """`alone`: {_id: channel, n: how many}; else {_id: {c: channel, z: a message}, at: when it was erased}."""
        ranges = [
            {
                "_id.c": channel,
                "z": {"$gt": min(one.start for one in some)},
                "_id.o": {"$lte": max(one.head for one in some)},
                "op": "delete",
            }
            for channel, some in behind.items()
        ]
        pipeline: list[Row] = [
            {"$match": {"$or": ranges}},
            {"$group": {"_id": {"c": "$_id.c", "z": "$z"}, "at": {"$min": "$_id.o"}}},
        ]
        if alone:
            pipeline.append({"$group": {"_id": "$_id.c", "n": {"$sum": 1}}})
        self.reads += 1
        with mapped():
            async for row in self._messages.aggregate(pipeline, allowDiskUse=True):
                yield row

    async def erased_by(self, entries: Mapping[str, tuple[int, int]]) -> dict[str, list[int]]:
        """Of each channel the messages that were erased by entries behind the first, up to the second offset."""
        found: dict[str, list[int]] = {channel: [] for channel in entries}
        if entries:
            ranges = [
                {"_id": {"$gt": id_of(channel, first), "$lte": id_of(channel, last)}, "op": "delete"}
                for channel, (first, last) in entries.items()
            ]
            for row in await self._find({"$or": ranges}, {"z": 1}):
                found[row["_id"]["c"]].append(row["z"])
        return found

    async def _read_counts(self, channels: Sequence[str]) -> dict[str, Count]:
        first = {name: {"$first": f"${field}"} for name, field in (("o", "_id.o"), ("m", "m"), ("l", "l"), ("t", "t"))}
        pipeline: list[Row] = [
            {"$match": {"_id.c": {"$in": list(channels)}}},
            {"$sort": {"_id.c": ASCENDING, "_id.o": DESCENDING}},
            {"$group": {"_id": "$_id.c", **first}},
            {"$unionWith": {"coll": self._channels, "pipeline": [{"$match": {"_id": {"$in": list(channels)}}}]}},
        ]
        heads: dict[str, Row] = {}
        states: dict[str, Row] = {}
        with mapped():
            self.reads += 1
            async for row in self._messages.aggregate(pipeline, batchSize=2 * len(channels) + 1):
                (heads if "o" in row else states)[row["_id"]] = row
        counts = {channel: self._count(channel, heads.get(channel), states.get(channel, {})) for channel in channels}
        # Where the head is no message, the time is that of another entry.
        wanted = [id_of(channel, count.newest) for channel, count in counts.items() if count.newest and not count.time]
        if wanted:
            for row in await self._find({"_id": {"$in": wanted}}, {"t": 1}):
                channel = row["_id"]["c"]
                counts[channel] = counts[channel]._replace(time=int(row["t"]))
        return counts

    def _count(self, channel: str, head: Row | None, state: Row) -> Count:
        epoch = state.get("epoch", self._foundation.base.epoch)
        floor = state.get("floor", 0), state.get("m", 0)
        if head is None:
            return Count(Position(epoch, 0), 0, 0, 0, *floor)
        newest = head["o"] if head.get("l") is None else head["l"]
        time = int(head["t"]) if newest == head["o"] else 0
        return Count(Position(epoch, head["o"]), head.get("m") or 0, newest, time, *floor)

    async def _read_amendments(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int | None]:
        found: dict[tuple[str, int], int | None] = dict.fromkeys(places)
        rows = await self._find({"_id": {"$in": [id_of(*place) for place in places]}}, {"m": 1})
        return found | {(row["_id"]["c"], row["_id"]["o"]): row.get("m", 0) for row in rows}

    async def _find(self, query: Row, fields: Mapping[str, int]) -> list[Any]:
        self.reads += 1
        with mapped():
            return await self._messages.find(query, fields).to_list(None)
