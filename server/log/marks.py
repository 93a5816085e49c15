"""Marks: of which messages something is to be counted, and who counts it.

    rd: [{op, k: token, t: when}], sums: {op: {t: when it was counted last}}     in the message (rows.py)

Whoever changes something that is counted marks the message first, and takes the mark away when what was changed has
been counted. So whatever a node leaves behind that dies in between is known, and counted by any other.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from bson import Timestamp

from server.core.clock import Clock
from server.log.foundation import MARKED_INDEX
from server.log.rows import id_of
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.wire.amendments import Op

AT_ONCE: Final = 500


class Claim(NamedTuple):
    """`wait`: seconds until it is time to count; 0: whoever has asked counts now, and nobody else does."""

    wait: float
    at: Timestamp
    """All that was written up to this cluster time is to be in the count."""
    tokens: frozenset[str]
    """The marks that there are."""


class Marked(NamedTuple):
    channel: str
    offset: int
    tokens: list[str]


class Marks:
    """Of one operation; `unavailable` if MongoDB is not there."""

    def __init__(self, database: Database, clock: Clock, op: Op) -> None:
        self._database = database
        self._messages = database.own("messages")
        self._clock = clock
        self._op = op

    async def add(self, channel: str, offset: int) -> str | None:
        """The token of a new mark; None: there is no such message (any more)."""
        mark = {"op": self._op, "k": secrets.token_hex(8), "t": self._clock.now_ms()}
        query = {"_id": id_of(channel, offset), "z": None, "gone": None}
        with mapped():
            found = await self._messages.update_one(query, {"$push": {"rd": mark}})
        return str(mark["k"]) if found.matched_count else None

    async def remove(self, channel: str, offset: int, tokens: Collection[str]) -> None:
        taken = {"$pull": {"rd": {"op": self._op, "k": {"$in": list(tokens)}}}}
        with mapped():
            await self._messages.update_one({"_id": id_of(channel, offset)}, taken)

    async def claim(self, channel: str, offset: int, every: float) -> Claim | None:
        """The turn to count, which is given once in `every` seconds; None: there is no such message (any more)."""
        now, last = self._clock.now_ms(), f"sums.{self._op}.t"
        soonest = {"$add": [{"$ifNull": [f"${last}", 0]}, int(every * 1000)]}
        turn = {"$cond": [{"$lte": [soonest, now]}, now, f"${last}"]}
        command: dict[str, Any] = {
            "findAndModify": self._messages.name,
            "query": {"_id": id_of(channel, offset), "z": None, "gone": None},
            "update": [{"$set": {last: turn}}],
            "fields": {last: 1, "rd": 1},
        }
        with mapped():
            reply = await self._database.command(command)
        row = reply["value"]
        if row is None:
            return None
        counted = row.get("sums", {}).get(self._op, {}).get("t", 0)
        wait = max(0.0, counted / 1000 + every - now / 1000)
        return Claim(wait, reply["operationTime"], frozenset(mark["k"] for mark in row.get("rd", ())))

    async def now(self) -> Timestamp:
        """A cluster time by which everything is so that was acknowledged before."""
        with mapped():
            reply = await self._database.command({"ping": 1})
        time: Timestamp = reply["operationTime"]
        return time

    async def left(self, seconds: float) -> list[Marked]:
        """What was marked so many seconds ago, or earlier."""
        old = self._clock.now_ms() - int(seconds * 1000)
        query = {"rd.t": {"$gt": 0, "$lte": old}, "rd.op": self._op}
        with mapped():
            rows = await self._messages.find(query, {"rd": 1}).hint(MARKED_INDEX).limit(AT_ONCE).to_list(AT_ONCE)
        marked = [
            Marked(
                row["_id"]["c"],
                row["_id"]["o"],
                [mark["k"] for mark in row["rd"] if mark["op"] == self._op and mark["t"] <= old],
            )
            for row in rows
        ]
        return [one for one in marked if one.tokens]
