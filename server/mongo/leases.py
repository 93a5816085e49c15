"""Work that one node at a time does: a lease in a document of `meta`, which ends by MongoDB's clock.

    meta  {_id: name of the work, holder: node, until: end of the lease, … what the work remembers}

It is for economy: two nodes may believe for a moment that it is theirs, so the work itself has to stand that.
"""

from __future__ import annotations

from typing import Any, Final

from pymongo import ReturnDocument

from server.mongo.databases import DatabaseApart

LEASE: Final = 4000
"""Milliseconds without a sign of life, by MongoDB's clock, after which another node takes over."""
RENEW: Final = 0.5
"""Seconds between signs of life."""


class Lease:
    def __init__(self, database: DatabaseApart, work: str, node: str) -> None:
        self._meta = database.own("meta")
        self._work = work
        self._node = node

    async def take(self) -> dict[str, Any] | None:
        """The document, if the lease is ours, or is nobody's and now ours. None also if there is no such document."""
        found: dict[str, Any] | None = await self._meta.find_one_and_update(
            {
                "_id": self._work,
                "$or": [
                    {"holder": self._node},
                    {"until": {"$exists": False}},
                    {"$expr": {"$lt": ["$until", "$$NOW"]}},
                ],
            },
            self._lease({}),
            return_document=ReturnDocument.AFTER,
        )
        return found

    async def make(self) -> None:
        """The document, if it is not there."""
        await self._meta.update_one({"_id": self._work}, {"$setOnInsert": {"token": None}}, upsert=True)

    async def renew(self, fields: dict[str, Any]) -> bool:
        """Keep it, and set what the work remembers (expressions); False: it is somebody else's by now."""
        result = await self._meta.update_one({"_id": self._work, "holder": self._node}, self._lease(fields))
        return result.matched_count > 0

    async def leave(self) -> None:
        """Others need not wait for its end."""
        await self._meta.update_one({"_id": self._work, "holder": self._node}, {"$unset": {"until": 1}})

    def _lease(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"$set": {**fields, "holder": self._node, "until": {"$add": ["$$NOW", LEASE]}}}]
