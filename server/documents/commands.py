"""The commands that write documents, each with a fence: after its deadline MongoDB itself carries it out no more.

Whoever is answered `outcome_unknown` goes on, and what they or others write next must stay. But a command that nobody
waits for any longer may still be on its way: in the driver's queue, in a socket, in a mongod that stands still. Neither
`maxTimeMS` (it counts from when mongod begins) nor the end of a session or a connection stops it there. So every
command says itself until when it is good:

- it compares MongoDB's clock ($$NOW, read when mongod begins with the command) with a time that lies halfway between
  the sending and the answer that its client gets if nothing is heard. What begins later matches nothing, and what would
  insert fails, since its document is an expression that has no value then;
- for what began in time and is slow, `maxTimeMS` is the other half.

So the last moment of a write comes before its client is told `outcome_unknown`, and every write that was accepted after
that answer, here or by another node, comes after it. What this stands on: MongoDB's clock goes forward and is the same
on its members to within half of `publish_timeout` (it is asked for again after each failure, deadlines.py); and a
mongod that was stopped between the last look at `maxTimeMS` and the commit, which are microseconds apart, commits
before it begins with anything new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import bson
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure, PyMongoError

from server.core.errors import Error
from server.documents import document_json
from server.documents.document_json import Json
from server.documents.failures import TOO_LATE, not_stored, refusal, unknown
from server.mongo.client import DUPLICATE_KEY
from server.mongo.databases import Database
from server.mongo.deadlines import Deadlines

Permit = Callable[[], None]
"""Raises what speaks against a write by now: it is asked for again after whatever waited."""

_SHORTEST: Final = 0.05
"""Seconds; with less than that left nothing is sent."""


class Result(NamedTuple):
    """Of one put among many."""

    created: bool
    error: Error | None = None


class Commands:
    def __init__(self, database: Database, deadlines: Deadlines) -> None:
        self._database = database
        self._deadlines = deadlines

    async def put_many(
        self, collection: str, documents: Sequence[bytes], permits: Sequence[Permit], deadline: float
    ) -> list[Result]:
        """Whole documents with different ids, as one command: a tenth of the work of one each. The `permits` of each
        are asked when nothing more is waited for. `deadline`, here and below, is the loop's time at which the client is
        answered in any case."""
        results: list[Result | None] = [None] * len(documents)
        todo = {index: RawBSONDocument(raw, document_json.RAW) for index, raw in enumerate(documents)}
        sent = False
        try:
            async with asyncio.timeout_at(deadline):
                while todo:
                    # Those that are there get a new content, and the others are inserted: one statement for both would
                    # make MongoDB compare old and new, and it ends if a name is twice in the old one (6.0).
                    ids = {one["_id"] for one in todo.values()}
                    there = {
                        one["_id"] async for one in self._database[collection].find({"_id": {"$in": [*ids]}}, ["_id"])
                    }
                    await self._deadlines.ready()
                    for index in tuple(todo):
                        try:
                            permits[index]()
                        except Error as error:
                            results[index] = Result(False, error)
                            del todo[index]
                    if not todo:
                        break
                    sent = True
                    todo = await self._put(collection, todo, there, deadline, results)
        except TimeoutError:
            rest = unknown() if sent else not_stored()
        except PyMongoError as failure:
            self._deadlines.doubt()
            rest = refusal(failure) if sent else not_stored()
        except Error as failure:
            rest = failure
        else:
            rest = unknown()
        return [Result(False, rest) if one is None else one for one in results]

    async def _put(
        self,
        collection: str,
        puts: Mapping[int, RawBSONDocument],
        there: set[Any],
        deadline: float,
        results: list[Result | None],
    ) -> dict[int, RawBSONDocument]:
        """Those that have to be put again: somebody has deleted or made the document in this moment."""
        in_time, milliseconds = self._fence(deadline)
        statements = [
            {"q": {"_id": one["_id"], "$expr": in_time}, "u": one}
            if one["_id"] in there
            else {"q": {"_id": one["_id"]}, "u": _if(in_time, one), "upsert": True}
            for one in puts.values()
        ]
        reply = await self._database.command(
            {
                "update": collection,
                "updates": statements,
                "ordered": False,
                "writeConcern": {"w": "majority", "j": True, "wtimeout": milliseconds * 2},
                "maxTimeMS": milliseconds,
            }
        )
        if reply.get("writeConcernError"):
            raise unknown()
        indexes = list(puts)
        created = {one["index"] for one in reply.get("upserted", ())}
        failures = {one["index"]: one for one in reply.get("writeErrors", ())}
        for at, failure in failures.items():
            if failure.get("code") == TOO_LATE:
                self._deadlines.doubt()
            if failure.get("code") != DUPLICATE_KEY or "_id" not in failure.get("keyPattern", {}):
                error = refusal(OperationFailure("", failure.get("code"), failure))
                results[indexes[at]] = Result(False, error)
        again = {at for at in failures if results[indexes[at]] is None}
        rest = set(range(len(indexes))) - failures.keys()
        if reply["n"] < len(rest):
            # Some that were there are not any more, or all came too late; MongoDB does not say which.
            again |= rest - created
            self._deadlines.doubt()
        for at in rest - again:
            results[indexes[at]] = Result(at in created)
        return {indexes[at]: puts[indexes[at]] for at in sorted(again)}

    async def insert(self, collection: str, document: Json, deadline: float) -> None:
        """DuplicateKeyError if there is one with this `_id` (a text), or with a value that is to be unique."""
        in_time, _ = await self._ready(deadline)
        never = {"_id": document["_id"], "$nor": [{}]}
        raw = RawBSONDocument(encode(document), document_json.RAW)
        await self._database[collection].update_one(never, _if(in_time, raw), upsert=True)

    async def replace(self, collection: str, seen: RawBSONDocument, document: Json, deadline: float) -> bool:
        """Whether the document was still as `seen`, to the last byte."""
        in_time, _ = await self._ready(deadline)
        guard = {"_id": seen["_id"], "$expr": {"$and": [in_time, {"$eq": ["$$ROOT", {"$literal": seen}]}]}}
        # As a literal: what another program has named with a $ or a dot stays as it is.
        result = await self._database[collection].update_one(guard, [{"$replaceWith": {"$literal": document}}])
        return result.matched_count > 0

    async def delete(
        self, collection: str, identifier: Any, deadline: float, *, seen: RawBSONDocument | None = None, owned: Json
    ) -> bool:
        """Whether it was there: still as `seen`, if that is given, and `owned` still."""
        in_time, _ = await self._ready(deadline)
        wanted = [in_time] if seen is None else [in_time, {"$eq": ["$$ROOT", {"$literal": seen}]}]
        guard = {"$and": [{"_id": identifier}, owned, {"$expr": {"$and": wanted}}]}
        return (await self._database[collection].delete_one(guard)).deleted_count > 0

    async def _ready(self, deadline: float) -> tuple[Json, int]:
        await self._deadlines.ready()
        return self._fence(deadline)

    def _fence(self, deadline: float) -> tuple[Json, int]:
        """An expression that is true until half of the time is over, and the other half in milliseconds."""
        now = asyncio.get_running_loop().time()
        if deadline - now < _SHORTEST:
            raise not_stored()
        half = (deadline - now) / 2
        return {"$lt": ["$$NOW", self._deadlines.at(now + half)]}, int(half * 1000)


def _if(in_time: Json, document: Any) -> list[Json]:
    """As an update: the document, or (in time no more) an error, for text like this is no number."""
    late = {"$toInt": {"$concat": ["too late for ", "$_id"]}}
    return [{"$replaceWith": {"$cond": [in_time, {"$literal": document}, late]}}]


def encode(document: Json) -> bytes:
    encoded: bytes = bson.encode(document, codec_options=document_json.OPTIONS)
    return encoded
