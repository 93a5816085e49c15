"""Commands of the log: messages looked up by their offsets, and the states of channels.

A command is answered in one reply, since it says how much it may be at most: so many rows, and of rows larger than
LARGE only their sizes. The large ones follow by themselves, as many as may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from motor.motor_asyncio import AsyncIOMotorClientSession
from pymongo.errors import AutoReconnect

from server.log.folding import Overlays
from server.log.foundation import HEADS_INDEX, Foundation
from server.log.ranges import SMALL, Large, Offsets, State, parted
from server.log.rows import LINE, Line, Row, id_of
from server.mongo.databases import Database

SIZE: Final = {"$bsonSize": "$$ROOT"}


class Lookups:
    """`overlays` hears of channels in which something was amended."""

    def __init__(self, database: Database, foundation: Foundation, overlays: Overlays) -> None:
        self._database = database
        self._messages = database.own("messages").name
        self._channels = database.own("channels").name
        self._foundation = foundation
        self._overlays = overlays
        self.count = 0
        """Commands."""

    async def states(
        self, channels: Sequence[str], session: AsyncIOMotorClientSession | None = None
    ) -> dict[str, State]:
        command = {"find": self._channels, "filter": {"_id": {"$in": list(channels)}}, "batchSize": len(channels) + 1}
        return self.states_in(channels, await self.rows(command, session))

    def then_states(self, channels: Sequence[str]) -> Row:
        """The last stage of a pipeline over messages: after them, the states of these channels. It costs MongoDB less
        than a command does."""
        return {"$unionWith": {"coll": self._channels, "pipeline": [{"$match": {"_id": {"$in": list(channels)}}}]}}

    def states_in(self, channels: Iterable[str], rows: Iterable[Row]) -> dict[str, State]:
        states = dict.fromkeys(channels, State(0, self._foundation.base.epoch))
        for row in rows:
            epoch = row.get("epoch", self._foundation.base.epoch)
            states[row["_id"]] = State(row.get("floor", 0), epoch, "amended" in row)
            if "amended" in row:
                self._overlays.note(row["_id"])
        return states

    async def small(self, wanted: Mapping[str, Offsets]) -> tuple[dict[str, dict[int, Any]], dict[str, State]]:
        """By channel and offset the messages that are there, but for large ones; and the states of the channels."""
        there: dict[str, dict[int, Any]] = {channel: {} for channel in wanted}
        states: list[Row] = []
        for row in await self._small(wanted, [], sum(map(len, wanted.values()))):
            place = row["_id"]
            if isinstance(place, str):
                states.append(row)
            else:
                there[place["c"]][place["o"]] = row
        return there, self.states_in(wanted, states)

    async def lines(self, wanted: Mapping[str, Offsets]) -> tuple[dict[str, list[Line]], dict[str, State]]:
        """The same, of what clients are told: by channel, in any order."""
        lines: dict[str, list[Line]] = {channel: [] for channel in wanted}
        states: list[Row] = []
        by_channel = {"$group": {"_id": "$_id.c", "lines": {"$push": LINE}}}
        for row in await self._small(wanted, [by_channel], len(wanted)):
            if "lines" in row:
                lines[row["_id"]] = row["lines"]
            else:
                states.append(row)
        return lines, self.states_in(wanted, states)

    async def _small(self, wanted: Mapping[str, Offsets], made: Sequence[Row], most: int) -> list[Row]:
        """What these stages make of the messages that are there, at most so many rows; and behind them the states."""
        runs, ids = parted(wanted)
        between: list[Row] = [
            {"_id.c": {"$in": some}, "_id.o": {"$gte": run[0], "$lte": run[-1]}} for run, some in runs.items()
        ]
        by_id: Row = {"$match": {"_id": {"$in": ids}} | SMALL}
        stages: list[Row] = (
            [{"$match": (between[0] if len(between) == 1 else {"$or": between}) | SMALL}] if runs else [by_id]
        )
        if runs and ids:
            stages.append({"$unionWith": {"coll": self._messages, "pipeline": [by_id]}})
        command = {
            "aggregate": self._messages,
            "pipeline": [*stages, *made, self.then_states(list(wanted))],
            "cursor": {"batchSize": most + len(wanted) + 1},
        }
        # Else MongoDB tries other indexes that begin with the channel.
        return await self.rows(command | ({"hint": HEADS_INDEX} if runs else {}))

    async def small_or_sizes(
        self, wanted: Mapping[str, Offsets]
    ) -> tuple[dict[str, dict[int, Any]], dict[str, State] | None]:
        """By channel and offset the messages that are there, or of large ones their bytes; and the states of the
        channels if that was all there is to read. What the first look does not find is large, or is not there."""
        there, states = await self.small(wanted)
        places = ((channel, offset) for channel, offsets in wanted.items() for offset in offsets)
        missing = [id_of(channel, offset) for channel, offset in places if offset not in there[channel]]
        if not missing:
            return there, states
        command = {"filter": {"_id": {"$in": missing}}, "projection": {"_id": 1, "m": SIZE}}
        for row in await self.find(command, len(missing)):
            there[row["_id"]["c"]][row["_id"]["o"]] = row["m"]
        return there, None

    async def large(self, sizes: Large) -> dict[tuple[str, int], Row]:
        """The messages of which only the sizes were asked so far."""
        if not sizes:
            return {}
        query = {"_id": {"$in": [id_of(*key) for key in sizes]}}
        return {(row["_id"]["c"], row["_id"]["o"]): row for row in await self.find({"filter": query}, len(sizes))}

    async def find(self, command: dict[str, Any], most: int) -> list[Row]:
        return await self.rows({"find": self._messages, **command, "batchSize": most + 1})

    async def rows(self, command: dict[str, Any], session: AsyncIOMotorClientSession | None = None) -> list[Row]:
        """What one command finds, by the majority's word. The command itself takes half the time that the driver's
        cursor takes. Once more if the connection was lost, as the driver does it with its own."""
        concern: dict[str, Any] = {"level": "majority"}
        if session is not None and session.operation_time is not None:
            concern["afterClusterTime"] = session.operation_time
        command |= {"readConcern": concern}
        self.count += 1
        try:
            reply = await self._database.command(command, session=session)
        except AutoReconnect:
            self.count += 1
            reply = await self._database.command(command, session=session)
        rows: list[Row] = reply["cursor"]["firstBatch"]
        return rows
