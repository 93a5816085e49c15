"""Jobs that any node carries on, each a document of a collection: who does so holds it, and says so with every step.

    {_id, owner: node, until: milliseconds since 1970, … how far it has come}

Whatever was done behind the last step that is known is done again by the next one: the work has to stand that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ReturnDocument

from server.core.clock import Clock
from server.mongo.client import mapped

LEASE: Final = 10.0
"""Seconds without a step after which another node goes on."""
NOBODYS: Final = {"owner": "", "until": 0}


class HeldJobs:
    """`node`: who carries them on here."""

    def __init__(self, rows: AsyncIOMotorCollection[dict[str, Any]], node: str, clock: Clock) -> None:
        self._rows = rows
        self._node = node
        self._clock = clock

    async def take(self, which: Mapping[str, Any]) -> dict[str, Any] | None:
        """One of these that nobody holds, for this node."""
        free = {**which, "until": {"$lt": self._clock.now_ms()}}
        with mapped():
            row: dict[str, Any] | None = await self._rows.find_one_and_update(
                free, {"$set": self._held()}, return_document=ReturnDocument.AFTER
            )
        return row

    async def keep(self, which: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
        """How far this one has come. False: it is another node's by now, or not of this kind any more."""
        ours = {**which, "owner": self._node}
        with mapped():
            return (await self._rows.update_one(ours, {"$set": {**self._held(), **changes}})).matched_count > 0

    def _held(self) -> dict[str, Any]:
        return {"owner": self._node, "until": self._clock.now_ms() + int(1000 * LEASE)}
