"""Creates that may be retried: a key makes one document.

creations  {_id: {c: collection, u: user, k: key}, id, digest, t, tries, done}
           {_id: {page: digest}, k: values, t}    what page tokens stand for that would be too long (queries.py)
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from server.core.errors import Error
from server.documents import document_json
from server.documents.commands import Commands, Permit, encode
from server.documents.document_json import Json
from server.documents.failures import is_about_id, taken
from server.documents.patches import without_id
from server.documents.puts import Written
from server.documents.queries import owned
from server.documents.views import Owner
from server.mongo.databases import Database
from server.wire.codec import JSON
from server.wire.commands import Write


class Creations:
    def __init__(self, database: Database, commands: Commands) -> None:
        self._database = database
        self._records = database.own("creations")
        self._commands = commands

    async def create(
        self, collection: str, write: Write, new: Json, user: str | None, owner: Owner | None, deadline: float,
        permit: Permit,
    ) -> Written:  # fmt: skip
        """Insert `new`; with a key only once. `conflict` if a document with its `_id` is there."""
        if write.key is not None:
            return await self._create_once(collection, write, new, user, owner, deadline, permit)
        await self.insert(collection, new, deadline, permit)
        return Written(document_json.document(encode(new)), True)

    async def insert(self, collection: str, document: Json, deadline: float, permit: Permit) -> None:
        """Also `conflict` if its `_id` are the digits of an ObjectId that is there: the two would be one id here."""
        others = document_json.ids(document["_id"])[1:]
        if others and await self._database[collection].find_one({"_id": {"$in": others}}, ["_id"]) is not None:
            raise taken("_id")
        permit()
        await self._commands.insert(collection, document, deadline)

    async def _create_once(
        self, collection: str, write: Write, new: Json, user: str | None, owner: Owner | None, deadline: float,
        permit: Permit,
    ) -> Written:  # fmt: skip
        """First a record of what the key is for, then the document, then that it is done: a retry goes on there."""
        record = {"_id": {"c": collection, "u": user, "k": write.key}}
        digest = hashlib.blake2b(JSON.encode(write.document), digest_size=16).hexdigest()
        first: Any = await self._records.find_one_and_update(
            record,
            {"$setOnInsert": {"id": new["_id"], "digest": digest, "t": datetime.now(UTC)}, "$inc": {"tries": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        if first["digest"] != digest:
            raise Error("conflict", "key: another document was created with it")
        created = False
        if not first.get("done"):
            document = {"_id": first["id"], **without_id(new)}
            try:
                await self.insert(collection, document, deadline, permit)
                created = True
            except DuplicateKeyError as error:
                if not is_about_id(error):
                    await self._forget(record)
                    raise
                if "_id" in (write.document or {}) and not await self._has_made(collection, record, document):
                    raise
            except Error:
                await self._forget(record)
                raise
            await self._records.update_one(record, {"$set": {"done": True}})
        raw: Any = await self._raw(collection).find_one({"$and": [{"_id": first["id"]}, owned(owner)]})
        if raw is None:
            raise Error("conflict", "key: the document that was created with it is gone")
        return Written(document_json.document(raw.raw), created, duplicate=not created)

    async def _forget(self, record: Json) -> None:
        await self._records.delete_one({**record, "done": {"$exists": False}})

    async def _has_made(self, collection: str, record: Json, document: Json) -> bool:
        """Whether the document with an `_id` of the client's own that is there already comes from the key: its record
        says so, or another try of which nobody knows the end would have left just this content."""
        alone = await self._records.delete_one({**record, "tries": 1, "done": {"$exists": False}})
        if alone.deleted_count:
            return False
        if await self._records.find_one({**record, "done": True}):
            return True
        raw: Any = await self._raw(collection).find_one({"_id": document["_id"]})
        return raw is not None and raw.raw == encode(document)

    def _raw(self, collection: str) -> Any:
        return self._database[collection].with_options(codec_options=document_json.RAW)
