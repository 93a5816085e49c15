"""What is to be erased, so that it is whatever becomes of the node that has begun.

    erasures  {_id: user, by, asked, stage, after, erased: {name: number}, owner, until, done?, expires?}

Any node carries them on (server/mongo/held.py). Whatever is done again does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pymongo.errors import DuplicateKeyError

from server.core.clock import Clock
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.mongo.held import NOBODYS, HeldJobs

KEPT: Final = 86400.0
"""Seconds for which is known that one is done."""


class Job(NamedTuple):
    user: str
    by: str
    """Who has asked."""
    asked: int
    """When, in milliseconds since 1970."""
    stage: int
    after: str
    """How far the stage has come; empty: it is to begin."""
    erased: Mapping[str, int]
    done: bool
    held: bool
    """A node has taken it up."""

    def fields(self) -> dict[str, Any]:
        return {"user": self.user, "done": self.done, "erased": dict(self.erased)}


class Jobs:
    """`node`: who carries them on."""

    def __init__(self, database: Database, node: str, clock: Clock) -> None:
        self._rows = database.own("erasures")
        self._held = HeldJobs(self._rows, node, clock)
        self._clock = clock

    async def open(self) -> None:
        with mapped():
            await self._rows.create_index("expires", expireAfterSeconds=0)

    async def begin(self, user: str, by: str) -> None:
        """Unless it is under way: then that goes on."""
        new = {"by": by, "asked": self._clock.now_ms(), "stage": 0, "after": "", "erased": {}, **NOBODYS}
        with mapped():
            if not (await self._rows.replace_one({"_id": user, "done": {"$exists": True}}, new)).matched_count:
                try:
                    await self._rows.insert_one({"_id": user, **new})
                except DuplicateKeyError:
                    pass

    async def get(self, user: str) -> Job | None:
        with mapped():
            return _job(await self._rows.find_one({"_id": user}))

    async def take(self) -> Job | None:
        """One that nobody carries on, for this node."""
        return _job(await self._held.take({"done": {"$exists": False}}))

    async def keep(self, job: Job) -> bool:
        """How far it has come. False: another node carries it on by now."""
        changes: dict[str, Any] = {"stage": job.stage, "after": job.after, "erased": dict(job.erased)}
        if job.done:
            changes["done"] = self._clock.now_ms()
            changes["expires"] = datetime.fromtimestamp(self._clock.time() + KEPT, UTC)
        return await self._held.keep({"_id": job.user, "asked": job.asked}, changes)


def _job(row: Mapping[str, Any] | None) -> Job | None:
    if row is None:
        return None
    place = row["stage"], row["after"]
    return Job(row["_id"], row["by"], row["asked"], *place, row["erased"], "done" in row, row["owner"] != "")
