"""Reactions as MongoDB has them: a row for each, so that the same one twice is one.

reactions  {_id: {c: channel, o: offset, k: kind, u: user}, t: when}         (of an API key _id has s: 1 as well)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from bson import Timestamp
from pymongo import ASCENDING

from server.core.clock import Clock
from server.core.errors import Error
from server.mongo.client import DUPLICATE_KEY, brief_refusal, mapped
from server.mongo.databases import Database

Row = dict[str, Any]

KINDS: Final = 50
"""Kinds of reactions that are shown of a message."""
NAMES: Final = 20
"""Users who are named of each kind."""
ALL_NAMES: Final = 400
"""Of all kinds together."""
MANY: Final = 500
"""Of one user that are looked for at a time."""
WRITTEN_WITHIN: Final = 3000
"""Milliseconds. What is not written then never is: it would be missed by who counts (log/summaries.py)."""


class Reaction(NamedTuple):
    channel: str
    offset: int
    kind: str
    user: str
    by_server: bool


class Change(NamedTuple):
    """That there is such a reaction, or none any more."""

    reaction: Reaction
    on: bool


class Written(NamedTuple):
    """`changed`: it was not so before. `at`: the cluster time by which it is so."""

    changed: bool
    at: Timestamp


class ReactionRows:
    """`unavailable` if MongoDB is not there."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._rows = database.own("reactions")
        self._clock = clock

    async def open(self) -> None:
        """Make the index of each user's reactions."""
        with mapped():
            await self._rows.create_index([("_id.u", ASCENDING), ("_id.c", ASCENDING), ("_id.o", ASCENDING)])

    async def write(self, changes: Sequence[Change]) -> Mapping[Change, Written]:
        """Each by itself, in one command for those that come and one for those that go."""
        written: dict[Change, Written] = {}
        coming = [change for change in changes if change.on]
        going = [change for change in changes if not change.on]
        now = self._clock.now_ms()
        with mapped():
            work = []
            if coming:
                documents = [{"_id": _id_of(change.reaction), "t": now} for change in coming]
                work.append(self._command({"insert": self._rows.name, "documents": documents}))
            if going:
                deletes = [{"q": {"_id": _id_of(change.reaction)}, "limit": 1} for change in going]
                work.append(self._command({"delete": self._rows.name, "deletes": deletes}))
            replies = await asyncio.gather(*work)
        if coming:
            reply = replies[0]
            refused = {error["index"]: error for error in reply.get("writeErrors", ())}
            for index, change in enumerate(coming):
                error = refused.get(index)
                if error is None or error["code"] == DUPLICATE_KEY:
                    written[change] = Written(error is None, reply["operationTime"])
                else:
                    raise _unconfirmed(error)
        if going:
            reply = replies[-1]
            for error in reply.get("writeErrors", ()):
                raise _unconfirmed(error)
            written |= {change: Written(reply["n"] > 0, reply["operationTime"]) for change in going}
        return written

    async def _command(self, command: Row) -> Row:
        concern = {"w": "majority", "j": True, "wtimeout": WRITTEN_WITHIN}
        reply: Row = await self._database.command(
            command | {"ordered": False, "writeConcern": concern, "maxTimeMS": WRITTEN_WITHIN}
        )
        if reply.get("writeConcernError"):
            raise _unconfirmed(reply["writeConcernError"])
        return reply

    async def count(self, channel: str, offset: int, since: Timestamp) -> list[Row]:
        """[{k, n, u}] of a message, the kind that came first in front, with all that was written up to `since`."""
        first = {"t": ASCENDING, "_id.u": ASCENDING}
        pipeline: list[Row] = [
            {"$match": _between(channel, offset, offset + 1)},
            {
                "$group": {
                    "_id": "$_id.k",
                    "n": {"$sum": 1},
                    "t": {"$min": "$t"},
                    "u": {"$topN": {"n": NAMES, "sortBy": first, "output": "$_id.u"}},
                }
            },
            {"$sort": {"t": ASCENDING, "_id": ASCENDING}},
            {"$limit": KINDS},
        ]
        command = {
            "aggregate": self._rows.name,
            "pipeline": pipeline,
            "cursor": {"batchSize": KINDS + 1},
            "readConcern": {"level": "majority", "afterClusterTime": since},
        }
        with mapped():
            reply = await self._database.command(command)
        rows = reply["cursor"]["firstBatch"]
        names = min(NAMES, ALL_NAMES // max(1, len(rows)))
        return [{"k": row["_id"], "n": row["n"], "u": row["u"][:names]} for row in rows]

    async def number_of_kinds(self, channel: str, offset: int) -> int:
        """How many kinds of reactions a message has, counted up to one more than may be shown."""
        pipeline: list[Row] = [
            {"$match": _between(channel, offset, offset + 1)},
            {"$group": {"_id": "$_id.k"}},
            {"$limit": KINDS + 1},
        ]
        with mapped():
            return len(await self._rows.aggregate(pipeline).to_list(KINDS + 1))

    async def kinds_of(self, user: str, by_server: bool, channel: str, first: int, last: int) -> dict[int, list[str]]:
        """How the user has reacted to these messages, by their offsets."""
        query = {"_id.u": user, "_id.c": channel, "_id.o": {"$gte": first, "$lte": last}, "_id.s": _mark(by_server)}
        kinds: dict[int, list[str]] = {}
        with mapped():
            async for row in self._rows.find(query, {"t": 1}).sort([("_id.o", ASCENDING), ("t", ASCENDING)]):
                kinds.setdefault(row["_id"]["o"], []).append(row["_id"]["k"])
        return kinds

    async def of_user(self, user: str) -> list[Reaction]:
        """All that a user has said, up to MANY."""
        with mapped():
            rows = await self._rows.find({"_id.u": user, "_id.s": None}, {"_id": 1}).limit(MANY).to_list(MANY)
        return [Reaction(one["c"], one["o"], one["k"], one["u"], False) for one in (row["_id"] for row in rows)]

    async def forget(self, channel: str, offset: int) -> None:
        """All of a message."""
        with mapped():
            await self._rows.delete_many(_between(channel, offset, offset + 1))

    async def forget_up_to(self, channel: str, offset: int) -> None:
        """All of the messages up to there."""
        with mapped():
            await self._rows.delete_many(_between(channel, 0, offset + 1))


def _id_of(reaction: Reaction) -> Row:
    place = {"c": reaction.channel, "o": reaction.offset, "k": reaction.kind, "u": reaction.user}
    return place | {"s": 1} if reaction.by_server else place


def _mark(by_server: bool) -> int | None:
    return 1 if by_server else None


def _between(channel: str, first: int, end: int) -> Row:
    return {"_id": {"$gte": {"c": channel, "o": first}, "$lt": {"c": channel, "o": end}}}


def _unconfirmed(error: Mapping[str, Any]) -> Error:
    return Error("unavailable", f"MongoDB: {brief_refusal(error)}", retry_after=1.0)
