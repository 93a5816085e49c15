"""When people were last seen in a channel: `seen {_id: {c: channel, u: user}, t: time}` in MongoDB, for KEPT days.

It is worth a row that may be lost, so it is written in batches, behind the answer and without a majority.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import UpdateOne, WriteConcern

from server.mongo.client import mapped
from server.mongo.databases import Database

KEPT: Final = 30
"""Days."""
WAITING: Final = 20_000
"""Rows that wait for MongoDB; more are not kept."""


class LastSeen:
    def __init__(self, database: Database) -> None:
        self._rows = database.own("seen").with_options(write_concern=WriteConcern(w=1))
        self._waiting: dict[tuple[str, str], int] = {}

    async def open(self) -> None:
        with mapped():
            await self._rows.create_index("t", expireAfterSeconds=KEPT * 86400)
            await self._rows.create_index([("_id.c", 1), ("t", -1)])

    def note(self, departures: Iterable[tuple[str, str, int]]) -> None:
        """(channel, user, milliseconds since 1970)"""
        for channel, user, time in departures:
            if len(self._waiting) < WAITING:
                self._waiting[channel, user] = time

    async def write(self) -> None:
        """What was noted. What MongoDB does not take stays for the next time."""
        waiting, self._waiting = self._waiting, {}
        rows = [
            UpdateOne(
                {"_id": {"c": channel, "u": user}},
                {"$max": {"t": datetime.fromtimestamp(time / 1000, UTC)}},
                upsert=True,
            )
            for (channel, user), time in waiting.items()
        ]
        if not rows:
            return
        try:
            with mapped():
                await self._rows.bulk_write(rows, ordered=False)
        except BaseException:
            self._waiting = waiting | self._waiting
            raise

    async def latest(self, channel: str, limit: int, present: Iterable[str]) -> list[dict[str, Any]]:
        """[{"user", "last_seen"}], the latest first, without those who are present. `unavailable` without MongoDB."""
        left: list[dict[str, Any]] = []
        here = set(present)
        with mapped():
            async for row in self._rows.find({"_id.c": channel}).sort("t", -1).limit(limit + len(here)):
                if row["_id"]["u"] not in here and len(left) < limit:
                    seen = int(row["t"].replace(tzinfo=UTC).timestamp() * 1000)
                    left.append({"user": row["_id"]["u"], "last_seen": seen})
        return left
