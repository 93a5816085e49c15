"""Deadlines that MongoDB itself keeps, by its own clock as far as it is known here."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from server.core.tasks import Keeper
from server.mongo.databases import Database

FRESH: Final = 10.0
"""Seconds after which it is asked again what time it is."""


class Deadlines:
    """The primary's clock. What it says is never later than the truth: it counts from when the answer had come, with
    the time that MongoDB had written into it before."""

    def __init__(self, database: Database, keeper: Keeper) -> None:
        self._database = database
        self._keeper = keeper
        self._read: tuple[datetime, float] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Return when `at` may be asked, before anything else is awaited: that may bring doubt. PyMongoError if MongoDB
        does not answer."""
        while self._read is None or asyncio.get_running_loop().time() - self._read[1] > FRESH:
            if self._reading is None or self._reading.done():
                self._reading = self._keeper.spawn("MongoDB's clock", self._ask(), awaited=True)
            await asyncio.shield(self._reading)

    def doubt(self) -> None:
        """Ask again before the next use: another member may be the primary now."""
        self._read = None

    def at(self, moment: float) -> datetime:
        """MongoDB's time at `moment` of the loop's clock, or a little before."""
        assert self._read is not None, "await ready() first"
        time, when = self._read
        return time + timedelta(seconds=moment - when)

    async def _ask(self) -> None:
        reply = await self._database.command("hello")
        self._read = reply["localTime"], asyncio.get_running_loop().time()
