"""Looking through many channels at once: which there are, how far each reaches, and since when.

Whoever asks does not know their names: these are read from the index of heads, where MongoDB goes from one channel to
the next without looking at what lies between (a thousand channels in 8 ms).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, NamedTuple

from pymongo import ASCENDING, DESCENDING

from server.core.cursors import MAX_OFFSET, Position
from server.log.endings import Head
from server.log.reader import GROUP, Reader
from server.log.rows import between, id_of
from server.mongo.client import mapped
from server.mongo.databases import Database

HEADS: Final = [("_id.c", ASCENDING), ("_id.o", DESCENDING)]
"""The index of heads."""
_LAST: Final = "\U0010ffff"
"""Behind every character that a name can have."""


class Newest(NamedTuple):
    """Of a channel: how far it reaches, what is not retained any more, and the time of its last message."""

    position: Position
    floor: int
    time: int
    """Milliseconds since 1970, UTC."""


class Survey:
    def __init__(self, database: Database, reader: Reader) -> None:
        self._messages = database.own("messages")
        self._reader = reader

    async def newest(self, prefixes: Iterable[str], names: Sequence[str]) -> AsyncIterator[dict[str, Newest]]:
        """All channels that have messages and whose name begins with one of these prefixes or is one of these names, up
        to a thousand at a time."""
        for prefix in prefixes:
            async for found in self._some({"_id.c": {"$gte": prefix, "$lt": prefix + _LAST}}):
                yield found
        for index in range(0, len(names), GROUP):
            async for found in self._some({"_id.c": {"$in": list(names[index : index + GROUP])}}):
                yield found

    async def _some(self, wanted: dict[str, Any]) -> AsyncIterator[dict[str, Newest]]:
        pipeline: list[dict[str, Any]] = [
            {"$match": wanted},
            {"$sort": {"_id.c": 1, "_id.o": -1}},
            {"$group": {"_id": "$_id.c", "o": {"$first": "$_id.o"}, "t": {"$first": "$t"}}},
        ]
        with mapped():
            async with self._messages.aggregate(pipeline, batchSize=GROUP) as cursor:
                rows: dict[str, dict[str, Any]] = {}
                async for row in cursor:
                    rows[row["_id"]] = row
                    if len(rows) == GROUP:
                        yield await self._with_states(rows)
                        rows = {}
                if rows:
                    yield await self._with_states(rows)

    async def _with_states(self, rows: dict[str, dict[str, Any]]) -> dict[str, Newest]:
        states = await self._reader.states(list(rows))
        return {
            channel: Newest(Position(states[channel].epoch, row["o"]), states[channel].floor, int(row["t"]))
            for channel, row in rows.items()
        }

    async def names(self, prefix: str, after: str, limit: int) -> list[str]:
        """The first `limit` channels that have messages, by name, of those that begin with `prefix` and come behind
        `after`: a step of the index each, however many messages lie between."""
        names: list[str] = []
        behind = {"$gt": after} if after >= prefix else {"$gte": prefix}
        with mapped():
            while len(names) < limit:
                found = await self._messages.find_one(
                    {"_id.c": behind | {"$lt": prefix + _LAST}}, {"_id.c": 1}, sort=HEADS, hint=HEADS
                )
                if found is None:
                    break
                names.append(found["_id"]["c"])
                behind = {"$gt": names[-1]}
        return names

    async def heads(self, channels: Sequence[str]) -> dict[str, Head]:
        """Of up to GROUP channels, in a command of their own."""
        with mapped():
            return await self._reader.heads(channels)

    async def before(self, channel: str, time: int) -> int | None:
        """The offset in front of the first message that is not older than `time` (milliseconds since 1970); None: all
        are older, or there are none."""
        with mapped():
            found = await self._messages.find_one(
                {**between(channel), "t": {"$gte": time}}, {"_id": 1}, sort=[("_id", ASCENDING)]
            )
        return found["_id"]["o"] - 1 if found else None

    async def times(self, places: dict[str, int]) -> dict[str, int]:
        """When these messages (channel → offset) were published; without those that are gone. Any number of them."""
        found: dict[str, int] = {}
        items = [(channel, offset) for channel, offset in places.items() if offset <= MAX_OFFSET]
        with mapped():
            for index in range(0, len(items), GROUP):
                some = [id_of(channel, offset) for channel, offset in items[index : index + GROUP]]
                async for row in self._messages.find({"_id": {"$in": some}}, {"t": 1}):
                    found[row["_id"]["c"]] = int(row["t"])
        return found
