"""Documents: the declared collections of MongoDB, read and written with revisions.

A write under a condition is guarded by the whole document as it was read, so that one made directly to MongoDB
meanwhile is never overwritten unseen. What is read is document_json.py's JSON.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import bson
from bson import Timestamp
from pymongo.errors import DuplicateKeyError

from server.core.config import Collection, MongoDB
from server.core.errors import Error
from server.core.tasks import Keeper
from server.core.worker import Worker
from server.documents import document_json
from server.documents.commands import Commands, Permit, encode
from server.documents.creations import Creations
from server.documents.declared import Declared
from server.documents.document_json import Json
from server.documents.failures import is_about_id, mapped_write, not_found, unknown
from server.documents.patches import (
    check_condition,
    check_once,
    check_size,
    check_values,
    keep_owners,
    merged,
    prepared,
    without_id,
)
from server.documents.puts import Puts, Written
from server.documents.queries import Queries, by_id, owned
from server.documents.schemas import Schemas
from server.documents.snapshots import snapshot
from server.documents.views import Owner, View
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.mongo.deadlines import Deadlines
from server.wire.codec import JSON
from server.wire.commands import Find, Write

__all__ = ["Documents", "Written"]

_CONCURRENT: Final = 8
"""Conditional writes of one batch under way at a time."""
CHECKED: Final = 20.0
"""Seconds between looks whether the collections and their indexes are still what they are declared to be."""


def _permitted() -> None:
    """Nothing speaks against it."""


class Documents:
    def __init__(
        self,
        database: Database,
        collections: Mapping[str, Collection],
        options: MongoDB,
        limit: int,
    ) -> None:
        self._database = database
        self._collections = collections
        self._timeout = float(options.publish_timeout)
        self._limit = limit
        self._keeper = Keeper()
        self._worker = Worker("documents")
        self._schemas = Schemas(collections)
        self._declared = Declared(database, collections)
        self._commands = Commands(database, Deadlines(database, self._keeper))
        self._creations = Creations(database, self._commands)
        self._puts = Puts(self._commands, self._worker, self._keeper)
        self._queries = Queries(database, self._timeout, self._worker)
        self._under_way = 0
        self.reads = 0
        self.writes = 0

    async def open(self) -> None:
        """Make the declared collections and their indexes, and look after them. StartError if MongoDB cannot have
        them."""
        await self._declared.open()
        if self._collections:
            self._keeper.every("documents: collections", CHECKED, self.check)

    async def check(self) -> None:
        """Make again what somebody has dropped of the collections and their indexes. Error if MongoDB cannot."""
        await self._declared.check()

    async def prepare(self, name: str) -> None:
        """A collection with the images that its changes are made of, and its indexes."""
        await self._declared.prepare(name)

    def problem(self) -> str | None:
        """What of it has ended in the background, by name; or what is wrong with a declared collection."""
        return self._keeper.problem() or self._declared.problem()

    async def drain(self) -> None:
        """Wait until what was accepted is answered: the connections are closed after that."""
        while self._under_way:
            await asyncio.sleep(0.01)
        await self._keeper.close()

    @contextmanager
    def _work(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, collection: str, identifier: str, owner: Owner | None) -> Json:
        self.reads += 1
        with self._work(), mapped():
            raw = await self._raw(collection).find_one({"$and": [by_id(identifier), owned(owner)]})
            if raw is None:
                raise not_found(collection, identifier)
            return await self._worker.run(len(raw.raw), lambda: document_json.document(raw.raw))

    async def find(self, collection: str, query: Find, owner: Owner | None) -> Json:
        """{"documents": […], "page": token | None}, and "count" if asked for."""
        self.reads += 1
        with self._work():
            return await self._queries.find(collection, query, owner)

    def snapshot(self, view: View, at: Timestamp) -> AsyncGenerator[tuple[list[Json], bool], None]:
        """What the view shows as of one moment: (documents, whether there are more), page by page."""
        self.reads += 1
        return snapshot(self._database, self._worker, view, at)

    def _raw(self, collection: str) -> Any:
        return self._database[collection].with_options(codec_options=document_json.RAW)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(
        self, collection: str, write: Write, user: str | None, owner: Owner | None, permit: Permit = _permitted
    ) -> Written:
        """`conflict` (status 412, with the present revision) if a condition does not hold; `conflict` for a unique
        index or another document's key; `outcome_unknown` if MongoDB does not say, and then nothing of it happens after
        the answer (commands.py). `permit` is asked after whatever waited, before anything is written."""
        self.writes += 1
        new = prepared(collection, write, self._limit)
        deadline = asyncio.get_running_loop().time() + self._timeout
        with self._work():
            if _is_plain_put(write, owner):
                new = await self._checked(collection, new, owner)
                return await self._puts.put(collection, new["_id"], _encoded(new), deadline, permit)
            try:
                async with asyncio.timeout_at(deadline):
                    with mapped_write():
                        if write.op == "put" and write.document_id is None:
                            new = await self._checked(collection, new, owner)
                            return await self._creations.create(collection, write, new, user, owner, deadline, permit)
                        return await self._change(collection, write, new, owner, deadline, permit)
            except TimeoutError:
                raise unknown() from None

    async def write_many(
        self,
        collection: str,
        writes: Sequence[Write],
        user: str | None,
        owner: Owner | None,
        permit: Permit = _permitted,
    ) -> list[Written | Error]:
        """Each with its own outcome; those of one document in their order. Plain puts go to MongoDB as one command."""
        results: list[Written | Error | None] = [None] * len(writes)
        same = Counter(write.about for write in writes)
        plain: dict[int, bytes] = {}
        lanes: dict[str, list[int]] = {}
        for index, write in enumerate(writes):
            about = write.about
            if _is_plain_put(write, owner) and write.key is None and same[about] == 1:
                try:
                    new = await self._checked(collection, prepared(collection, write, self._limit), owner)
                    plain[index] = _encoded(new)
                    self.writes += 1
                except Error as error:
                    results[index] = error
            else:
                lanes.setdefault(f"\0{index}" if about is None else about, []).append(index)
        room = asyncio.Semaphore(_CONCURRENT)
        deadline = asyncio.get_running_loop().time() + self._timeout

        async def lane(indexes: list[int]) -> None:
            async with room:
                for index in indexes:
                    try:
                        results[index] = await self.write(collection, writes[index], user, owner, permit)
                    except Error as error:
                        results[index] = error

        async def put() -> None:
            if plain:
                with self._work():
                    permits = [permit] * len(plain)
                    done = await self._puts.put_many(collection, list(plain.values()), permits, deadline)
                for index, result in zip(plain, done, strict=True):
                    results[index] = result

        await asyncio.gather(put(), *map(lane, lanes.values()))
        return [one if one is not None else unknown() for one in results]

    async def _checked(self, collection: str, new: Json, owner: Owner | None) -> Json:
        """A new document with its owner, if the schema has nothing against it."""
        fields = keep_owners(owner, "put", without_id(new), None, None)
        if collection in self._schemas:
            check = functools.partial(self._schemas.check, collection, fields)
            await self._worker.run(len(JSON.encode(fields)), check)
        return {"_id": new["_id"], **fields}

    async def _change(
        self, collection: str, write: Write, new: Json, owner: Owner | None, deadline: float, permit: Permit
    ) -> Written:
        """Read, check and write, guarded by the whole document as it was read; whoever was faster makes us look again.
        (Not a transaction: one that its server did not live to end would lock the document for a minute.)"""
        identifier = new["_id"]
        size = len(JSON.encode(write.document))
        while True:
            raw = await self._raw(collection).find_one(by_id(identifier))
            permit()
            if raw is None:
                check_condition(write, identifier, None)
                if write.op != "put":
                    raise not_found(collection, identifier)
                document = await self._checked(collection, new, owner)
                try:
                    await self._creations.insert(collection, document, deadline, permit)
                except DuplicateKeyError as error:
                    if not is_about_id(error):
                        raise
                    continue
                return Written(document_json.document(encode(document)), True)
            if write.op == "delete" and write.if_rev is None:
                if owner is not None and not owner.owns(document_json.document(raw.raw)):
                    raise not_found(collection, identifier)
                if await self._commands.delete(collection, raw["_id"], deadline, owned=owned(owner)):
                    return Written(None, False)
            else:
                work = functools.partial(self._changed, collection, write, new, owner, raw)
                made = await self._worker.run(len(raw.raw) + size, work)
                permit()
                if made is None:
                    if await self._commands.delete(collection, raw["_id"], deadline, seen=raw, owned=owned(owner)):
                        return Written(None, False)
                elif await self._commands.replace(collection, raw, made[0], deadline):
                    return Written(made[1], False)
            await asyncio.sleep(random.uniform(0, 0.01))

    def _changed(
        self, collection: str, write: Write, new: Json, owner: Owner | None, raw: Any
    ) -> tuple[Json, Json] | None:
        """What the document `raw` becomes by the write, as it is stored and as it is shown; None: it is deleted."""
        current = document_json.document(raw.raw)
        if owner is not None and not owner.owns(current):
            raise not_found(collection, new["_id"])
        check_condition(write, new["_id"], current)
        stored = bson.decode(raw.raw, document_json.OPTIONS)
        check_once(raw, stored)
        if write.op == "delete":
            return None
        fields = keep_owners(owner, write.op, without_id(new), current, stored)
        if write.op == "patch":
            fields = without_id(merged(stored, fields))
        document = {"_id": raw["_id"], **fields}
        shown = document_json.document(encode(document))
        bare = {name: value for name, value in shown.items() if name not in ("_id", "_rev")}
        self._schemas.check(collection, bare)
        check_values(check_size(bare, self._limit))
        return document, shown


def _is_plain_put(write: Write, owner: Owner | None) -> bool:
    """A put that neither asks what is there nor needs to know."""
    conditions = write.if_rev is not None or write.if_absent or owner is not None
    known = write.document_id is not None and len(document_json.ids(write.document_id)) == 1
    return write.op == "put" and known and not conditions


def _encoded(document: Json) -> bytes:
    with mapped_write():
        return encode(document)
