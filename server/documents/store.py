"""Documents: the declared collections of MongoDB, read and written with revisions.

A write under a condition is guarded by the whole document as it was read, so that one made directly to MongoDB
meanwhile is never overwritten unseen. What is read is rendered.py's JSON.

    creations  {_id: {c: collection, u: user, k: key}, id, digest, t, tries, done}   for creates retried with their key
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import random
import re
import secrets
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final, NamedTuple

import bson
import jsonschema
from bson import Timestamp
from bson.raw_bson import RawBSONDocument
from jsonschema.protocols import Validator
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo import ReturnDocument
from pymongo.errors import (
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)
from referencing import Registry

from server.core.config import Collection, MongoDB
from server.core.errors import Error, StartError, bad_request
from server.core.names import MAX_NAME_BYTES
from server.documents import document_json as rendered
from server.documents.document_json import Json
from server.documents.views import Owner, View
from server.documents.where import Where, check_path, parse
from server.mongo.client import CURSOR_BATCH, brief, mapped, rows_up_to
from server.wire.codec import JSON
from server.wire.protocol import DocumentWrite, Find

logger = logging.getLogger(__name__)

PAGE_BYTES: Final = 4 << 20
"""A page of a listing may exceed this by one batch of the cursor."""
SNAPSHOT_PAGE: Final = 500
SNAPSHOT_BYTES: Final = 256 << 10
"""What a page of a snapshot aims at: it is one frame, and many clients take frames of up to 1 MiB only."""
LARGE: Final = 1 << 20
"""Documents over this are not in the log, so they are not in a snapshot either."""
CREATIONS_KEPT: Final = 7 * 86400
PUTS: Final = 200
PUT_BYTES: Final = 4 << 20
QUEUED: Final = 10_000
_CONCURRENT: Final = 8
"""Conditional writes of one batch under way at a time."""
_MAX_SORT: Final = 4
_ID: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]+")
_BAD_QUERY: Final = (2, 15)
"""BadValue (two lists to sort by), Overflow"""
_PASSING: Final = (91, 189, 10107, 11600, 11602)
"""Codes of a primary that is leaving."""


class Written(NamedTuple):
    document: Json | None
    """None: deleted."""
    created: bool
    duplicate: bool = False

    def fields(self) -> Json:
        """As a reply tells it."""
        if self.document is None:
            return {"deleted": True}
        return {"document": self.document, "created": self.created, "duplicate": self.duplicate}


_Put = tuple[str, bytes, asyncio.Future[Written | Error]]
_Queue = deque[_Put]


class Documents:
    def __init__(
        self,
        database: AsyncIOMotorDatabase[dict[str, Any]],
        collections: Mapping[str, Collection],
        options: MongoDB,
        limit: int,
    ) -> None:
        self._database = database
        self._declared = collections
        self._timeout = float(options.publish_timeout)
        self._limit = limit
        self._creations = database["creations"]
        self._schemas = {name: _validator(name, one.schema) for name, one in collections.items() if one.schema}
        self._puts: dict[str, _Queue] = {}
        """Plain puts that wait for the command under way, by collection."""
        self._putting: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self.reads = 0
        self.writes = 0

    async def drain(self) -> None:
        """Wait until what was accepted is answered: the connections are closed after that."""
        while self._under_way:
            await asyncio.sleep(0.01)

    @contextmanager
    def _work(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def open(self) -> None:
        """Make the declared collections and their indexes. StartError if MongoDB cannot have them."""
        if self._declared:
            with mapped():
                await self._creations.create_index("t", expireAfterSeconds=CREATIONS_KEPT)
        for name in self._declared:
            await self.prepare(name)

    async def prepare(self, name: str) -> None:
        """A collection with the images that its changes are made of, and its indexes."""
        with mapped():
            try:
                await self._make(name)
            except OperationFailure as error:
                if _is_passing(error):
                    raise
                raise StartError(
                    f"collections.{name}: MongoDB 6.0 or newer has to store the images of changed documents: "
                    f"{brief(error)}"
                ) from None
            await self._index(name)

    async def _make(self, name: str) -> None:
        """Only what has to be done: it takes a lock that waits for whoever is writing, and makes others wait."""
        images = {"changeStreamPreAndPostImages": {"enabled": True}}
        reply = await self._database.command({"listCollections": 1, "filter": {"name": name}})
        found = reply["cursor"]["firstBatch"]
        if not found:
            try:
                await self._database.command({"create": name, **images})
                return
            except OperationFailure as error:
                if error.code != 48:  # NamespaceExists: another node has made it
                    raise
        elif found[0]["type"] == "collection" and found[0]["options"].items() >= images.items():
            return
        await self._database.command({"collMod": name, **images})

    async def _index(self, name: str) -> None:
        declared = self._declared[name]
        wanted = {index.replace(" ", ""): (index, False) for index in declared.indexes}
        wanted |= {f"unique:{index.replace(' ', '')}": (index, True) for index in declared.unique}
        if declared.owner:
            wanted[f"owner:{declared.owner}"] = (declared.owner, False)
        there = await self._database[name].index_information()
        for called, (index, unique) in wanted.items():
            if called in there:
                continue
            key = dict(_sort(index)[: -1 if unique else None])
            try:
                await self._database.command(
                    {
                        "createIndexes": name,
                        # Unique among those that have the field at all.
                        "indexes": [{"key": key, "name": called, "unique": unique, "sparse": unique}],
                        # The vote of the members hangs over a socket in the file system (MongoDB 6.0.5).
                        "commitQuorum": 0,
                    }
                )
            except OperationFailure as error:
                if _is_passing(error):
                    raise
                raise StartError(f"collections.{name}: index {index}: {brief(error)}") from None

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, collection: str, identifier: str, owner: Owner | None) -> Json:
        self.reads += 1
        with self._work(), mapped():
            raw = await self._raw(collection).find_one({"$and": [_by_id(identifier), _owned(owner)]})
        if raw is None:
            raise _not_found(collection, identifier)
        return rendered.document(raw.raw)

    async def find(self, collection: str, query: Find, owner: Owner | None) -> Json:
        """{"documents": […], "page": token | None}, and "count" if asked for. Pages follow the sort keys of the last
        document, so that what changes meanwhile neither repeats nor hides another."""
        self.reads += 1
        where = parse(query.where) if query.where is not None else None
        sort = _sort(query.sort or "")
        if any(path == "_rev" for path, _ in sort):
            raise bad_request("sort: _rev is not stored in the document")
        fields = None if query.fields is None else _fields(query.fields)
        asked = hashlib.blake2b(repr((collection, where and where.key, sort)).encode(), digest_size=6).digest()
        matching = {"$and": [rendered.VISIBLE, _filter(where), _owned(owner)]}
        pipeline: list[Json] = [{"$match": matching}]
        if query.page is not None:
            pipeline.append({"$match": _after(sort, *_parse_page(query.page, asked, len(sort)))})
        keys = [_sort_key(path, direction) for path, direction in sort if path != "_id"]
        pipeline += [
            {"$sort": dict(sort)},
            {"$limit": query.limit + 1},
            {"$project": {"_id": 0, "d": "$$ROOT", "k": keys}},
        ]
        answer: Json = {}
        with self._work(), mapped(), _mapped_query():
            rows, more = await self._page(collection, pipeline, query.limit)
            if query.count:
                answer["count"] = await self._database[collection].count_documents(
                    matching, maxTimeMS=int(self._timeout * 500)
                )
        documents = [rendered.document(row["d"].raw) for row in rows]
        page = _page_token(rows[-1], asked) if more else None
        if fields is not None:
            documents = [{name: one[name] for name in one if name in fields} for one in documents]
        return {"documents": documents, "page": page, **answer}

    async def _page(self, collection: str, pipeline: list[Json], limit: int) -> tuple[list[Any], bool]:
        cursor = self._raw(collection).aggregate(pipeline, batchSize=CURSOR_BATCH, maxTimeMS=int(self._timeout * 500))
        rows, size = await rows_up_to(cursor, PAGE_BYTES)
        if len(rows) > limit:
            return rows[:limit], True
        return rows, size >= PAGE_BYTES

    async def snapshot(self, view: View, at: Timestamp) -> AsyncGenerator[tuple[list[Json], bool], None]:
        """(documents, whether there are more), page by page, all as of one moment; each page is a read of its own, so
        that nothing is held while a client is slow. `unavailable` if MongoDB cannot go back there (any more)."""
        self.reads += 1
        last: Any = None
        more, limit = True, SNAPSHOT_PAGE // 5
        which = [
            rendered.VISIBLE if view.id is None else _by_id(view.id),
            _filter(view.where),
            _owned(view.owner),
        ]
        async with await self._database.client.start_session() as session:
            while more:
                pipeline = [
                    {"$match": {"$and": [*which, *([] if last is None else [_beyond(last)])]}},
                    {"$sort": {"_id": 1}},
                    {"$limit": limit},
                    {"$project": {"_id": 1, "d": {"$cond": [{"$gt": [{"$bsonSize": "$$ROOT"}, LARGE]},
                                                            None, "$$ROOT"]}}},
                ]  # fmt: skip
                with mapped():
                    reply = await self._database.command(
                        {
                            "aggregate": view.collection,
                            "pipeline": pipeline,
                            "cursor": {"batchSize": limit},
                            "readConcern": {"level": "snapshot", "atClusterTime": at},
                        },
                        session=session,
                        codec_options=rendered.RAW,
                    )
                    cursor = reply["cursor"]
                    rows = cursor["firstBatch"]
                    if cursor["id"]:  # a reply ends at 16 MB
                        await self._database.command(
                            {"killCursors": view.collection, "cursors": [cursor["id"]]}, session=session
                        )
                sizes = list(accumulate(len(row.raw) for row in rows))
                # What does not fit is read again, rather than held while the client is slow.
                fitting = max(1, bisect_right(sizes, SNAPSHOT_BYTES))
                more = len(rows) == limit or len(rows) > fitting or bool(cursor["id"])
                rows = rows[:fitting]
                limit = max(1, min(SNAPSHOT_PAGE, limit * SNAPSHOT_BYTES // max([1, *sizes[-1:]])))
                if rows:
                    last = rows[-1]["_id"]
                documents = [
                    {"_id": str(row["_id"]), "_rev": None, "_truncated": True}
                    if row["d"] is None
                    else rendered.document(row["d"].raw)
                    for row in rows
                ]
                yield documents, more

    def _raw(self, collection: str) -> Any:
        return self._database[collection].with_options(codec_options=rendered.RAW)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(self, collection: str, write: DocumentWrite, user: str | None, owner: Owner | None) -> Written:
        """`conflict` (status 412, with the present revision) if a condition does not hold; `conflict` for a unique
        index or another document's key; `outcome_unknown` if MongoDB does not say."""
        self.writes += 1
        prepared = self._checked(collection, write, owner)
        try:
            async with asyncio.timeout(self._timeout):
                with self._work(), _mapped_write():
                    if write.op == "put" and write.key is not None:
                        return await self._create_once(collection, write, prepared, user, owner)
                    if write.document_id is None:
                        await self._database[collection].insert_one(prepared)
                        return Written(rendered.document(_encode(prepared)), True)
                    if _is_plain_put(write, owner):
                        return await self._put(collection, prepared)
                    return await self._change(collection, write, prepared, owner)
        except TimeoutError:
            raise _unknown() from None

    async def write_many(
        self, collection: str, writes: Sequence[DocumentWrite], user: str | None, owner: Owner | None
    ) -> list[Written | Error]:
        """Each with its own outcome; those of one document in their order. Plain puts go to MongoDB as one command."""
        results: list[Written | Error | None] = [None] * len(writes)
        same = Counter(write.document_id for write in writes)
        plain: dict[int, Json] = {}
        lanes: dict[str, list[int]] = {}
        for index, write in enumerate(writes):
            if _is_plain_put(write, owner) and write.key is None and same[write.document_id] == 1:
                try:
                    plain[index] = self._checked(collection, write, owner)
                    self.writes += 1
                except Error as error:
                    results[index] = error
            else:
                lanes.setdefault(write.document_id or f"\0{index}", []).append(index)
        room = asyncio.Semaphore(_CONCURRENT)

        async def lane(indexes: list[int]) -> None:
            async with room:
                for index in indexes:
                    try:
                        results[index] = await self.write(collection, writes[index], user, owner)
                    except Error as error:
                        results[index] = error

        async def put() -> None:
            if plain:
                done = await self._put_many(collection, [_encode(one) for one in plain.values()])
                for index, result in zip(plain, done, strict=True):
                    results[index] = result

        await asyncio.gather(put(), *map(lane, lanes.values()))
        return [one if one is not None else _unknown() for one in results]

    async def _put_many(self, collection: str, documents: Sequence[bytes]) -> list[Written | Error]:
        """Documents with different ids, as one command: a tenth of the work of one each."""
        puts = [RawBSONDocument(raw, rendered.RAW) for raw in documents]
        try:
            async with asyncio.timeout(self._timeout):
                with self._work(), _mapped_write():
                    reply = await self._database.command(
                        {
                            "update": collection,
                            "updates": [{"q": {"_id": one["_id"]}, "u": one, "upsert": True} for one in puts],
                            "ordered": False,
                            "writeConcern": {"w": "majority", "j": True, "wtimeout": int(self._timeout * 900)},
                        }
                    )
        except TimeoutError:
            return [_unknown() for _ in documents]
        except Error as error:
            return [error for _ in documents]
        if reply.get("writeConcernError"):
            return [_unknown() for _ in documents]
        created = {one["index"] for one in reply.get("upserted", ())}
        results: list[Written | Error] = [
            Written(rendered.document(raw), index in created) for index, raw in enumerate(documents)
        ]
        for failure in reply.get("writeErrors", ()):
            index = failure["index"]
            if failure.get("code") == 11000 and "_id" in failure.get("keyPattern", {}):
                # Put elsewhere at the same moment: now it is there.
                results[index] = (await self._put_many(collection, [documents[index]]))[0]
            else:
                results[index] = _refusal(OperationFailure(failure.get("errmsg", ""), failure.get("code"), failure))
        return results

    async def _put(self, collection: str, document: Json) -> Written:
        """Together with the others that come while a command is under way."""
        raw = _encode(document)
        queue = self._puts.get(collection)
        if queue is None:
            queue = self._puts[collection] = deque()
            task = asyncio.create_task(self._put_queued(collection, queue), name=f"put {collection}")
            self._putting.add(task)
            task.add_done_callback(self._putting.discard)
        elif len(queue) >= QUEUED:
            raise Error("unavailable", "too many documents are waiting to be stored", retry_after=1.0)
        future: asyncio.Future[Written | Error] = asyncio.get_running_loop().create_future()
        queue.append((document["_id"], raw, future))
        result = await future
        if isinstance(result, Error):
            raise result
        return result

    async def _put_queued(self, collection: str, queue: _Queue) -> None:
        try:
            while queue:
                batch, again = _next_puts(queue)
                queue.extendleft(reversed(again))
                results = await self._put_many(collection, [raw for _, raw, _ in batch])
                for (_, _, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        except Exception:
            logger.exception("documents of %s could not be written", collection)
            for _, _, future in (*batch, *queue):
                if not future.done():
                    future.set_result(_unknown())
        finally:
            del self._puts[collection]

    def _checked(self, collection: str, write: DocumentWrite, owner: Owner | None) -> Json:
        """What is to be stored (of a patch: what is to be merged), with its `_id` first."""
        fields = dict(write.document or {})
        identifier = fields.pop("_id", write.document_id)
        fields.pop("_rev", None)  # the server's: whoever sends back what was read need not take it out
        if write.document_id is not None and identifier != write.document_id:
            raise bad_request("document: _id is not the id of the document")
        if write.op != "put" and write.document_id is None:
            raise bad_request("document_id: which document is missing")
        if write.op != "delete" and write.document is None:
            raise bad_request("document: missing")
        if write.if_absent and (write.op != "put" or write.if_rev is not None):
            raise bad_request("if_absent: for a put alone, and without if_rev")
        if write.key is not None and (write.op != "put" or write.document_id is not None or write.if_rev is not None):
            raise bad_request("key: for a document whose id the server makes")
        if identifier is None:
            identifier = secrets.token_hex(10)
        if write.op == "put":
            check_id(collection, identifier)
        _check_names(fields)
        size = len(JSON.encode(fields))
        if self._limit and size > self._limit:
            raise Error("too_large", f"document: {size} bytes; document_bytes is {self._limit}")
        if owner is not None and write.op != "delete":
            given = fields.get(owner.field, owner.user if write.op == "patch" else None)
            if (given is not None and given != owner.user) or (write.op == "patch" and given is None):
                raise Error("permission_denied", f"{owner.field}: the owner is {owner.user}, and stays so")
            if write.op == "put":
                fields[owner.field] = owner.user
        if write.op == "put":
            self._validate(collection, fields)
        return {"_id": identifier, **fields}

    def _validate(self, collection: str, fields: Json) -> None:
        schema = self._schemas.get(collection)
        if schema is None:
            return
        error = jsonschema.exceptions.best_match(schema.iter_errors(fields))
        if error is not None:
            place = ".".join(map(str, error.absolute_path)) or "document"
            # Not the error's own words: they quote the value, which in a patched document may be another's.
            raise bad_request(f"{place}: the schema says {error.validator}: {str(error.validator_value)[:200]}")

    async def _change(self, collection: str, write: DocumentWrite, new: Json, owner: Owner | None) -> Written:
        """Read, check and write, guarded by the whole document as it was read; whoever was faster makes us look again.
        (Not a transaction: one that its server did not live to end would lock the document for a minute.)"""
        identifier = new["_id"]
        stored = self._database[collection]
        while True:
            raw = await self._raw(collection).find_one(_by_id(identifier))
            current = None if raw is None else rendered.document(raw.raw)
            if current is not None and owner is not None and not owner.owns(current):
                raise _not_found(collection, identifier)
            _check_condition(write, identifier, current)
            if raw is None or current is None:
                if write.op != "put":
                    raise _not_found(collection, identifier)
                try:
                    await stored.insert_one(new)
                except DuplicateKeyError as error:
                    if not _is_id(error):
                        raise
                    continue
                return Written(rendered.document(_encode(new)), True)
            guard = {"_id": raw["_id"], "$expr": {"$eq": ["$$ROOT", {"$literal": raw}]}}
            if write.op == "delete":
                if (await stored.delete_one(guard)).deleted_count:
                    return Written(None, False)
            else:
                document = {"_id": raw["_id"], **_without_id(self._next(collection, write, raw, new))}
                # As a literal: what another program has named with a $ or a dot stays as it is.
                result = await stored.update_one(guard, [{"$replaceWith": {"$literal": document}}])
                if result.matched_count:
                    return Written(rendered.document(_encode(document)), False)
            await asyncio.sleep(random.uniform(0, 0.01))

    def _next(self, collection: str, write: DocumentWrite, raw: Any, new: Json) -> Json:
        """What `raw` becomes."""
        if write.op == "put":
            return new
        merged: Json = _merged(bson.decode(raw.raw, rendered.OPTIONS), _without_id(new))
        bare = _without_id(rendered.document(_encode(merged)))
        del bare["_rev"]
        self._validate(collection, bare)
        if self._limit and len(JSON.encode(bare)) > self._limit:
            raise Error("too_large", f"document: document_bytes is {self._limit}")
        return merged

    async def _create_once(
        self, collection: str, write: DocumentWrite, new: Json, user: str | None, owner: Owner | None
    ) -> Written:
        """First a record of what the key is for, then the document, then that it is done: a retry goes on there."""
        record = {"_id": {"c": collection, "u": user, "k": write.key}}
        digest = hashlib.blake2b(JSON.encode(write.document), digest_size=16).hexdigest()
        first: Any = await self._creations.find_one_and_update(
            record,
            {"$setOnInsert": {"id": new["_id"], "digest": digest, "t": datetime.now(UTC)}, "$inc": {"tries": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        if first["digest"] != digest:
            raise Error("conflict", "key: another document was created with it")
        created = False
        if not first.get("done"):
            document = {"_id": first["id"], **_without_id(new)}
            try:
                await self._database[collection].insert_one(document)
                created = True
            except DuplicateKeyError as error:
                if not _is_id(error):
                    await self._creations.delete_one({**record, "done": {"$exists": False}})
                    raise
                if "_id" in (write.document or {}) and not await self._has_made(collection, record, document):
                    raise
            await self._creations.update_one(record, {"$set": {"done": True}})
        raw = await self._raw(collection).find_one({"$and": [{"_id": first["id"]}, _owned(owner)]})
        if raw is None:
            raise Error("conflict", "key: the document that was created with it is gone")
        return Written(rendered.document(raw.raw), created, duplicate=not created)

    async def _has_made(self, collection: str, record: Json, document: Json) -> bool:
        """Whether the document with an `_id` of the client's own that is there already comes from the key: its record
        says so, or another try of which nobody knows the end would have left just this content."""
        alone = await self._creations.delete_one({**record, "tries": 1, "done": {"$exists": False}})
        if alone.deleted_count:
            return False
        if await self._creations.find_one({**record, "done": True}):
            return True
        raw = await self._raw(collection).find_one({"_id": document["_id"]})
        return raw is not None and raw.raw == _encode(document)


# --- documents and ids ------------------------------------------------------------------------------------------------


def check_id(collection: str, identifier: Any) -> None:
    if not isinstance(identifier, str) or not _ID.fullmatch(identifier):
        raise bad_request("_id: text without white space or control characters")
    limit = MAX_NAME_BYTES - len(f"docs:{collection}/")
    if len(identifier.encode()) > limit:
        raise bad_request(f"_id: {limit} bytes at most")


def _check_names(fields: Json) -> None:
    todo: list[Any] = [fields]
    for item in todo:
        if isinstance(item, dict):
            for name in item:
                if name[:1] == "$" or "." in name or "\0" in name:
                    raise bad_request(f"document: {name[:100]!r}: a name has no $ in front, no dot and no NUL")
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result


def _without_id(document: Json) -> Json:
    return {name: value for name, value in document.items() if name != "_id"}


def _is_id(error: DuplicateKeyError) -> bool:
    return "_id" in (error.details or {}).get("keyPattern", {"_id": 1})


def _encode(document: Json) -> bytes:
    encoded: bytes = bson.encode(document, codec_options=rendered.OPTIONS)
    return encoded


def _next_puts(queue: _Queue) -> tuple[list[_Put], list[_Put]]:
    """What goes into the next command, and what has to wait for it: of one document one at a time, so that the last
    one said is the last one done."""
    batch: dict[str, _Put] = {}
    again: list[_Put] = []
    size = 0
    while queue and len(batch) + len(again) < PUTS and size < PUT_BYTES:
        put = queue.popleft()
        if put[0] in batch:
            again.append(put)
        else:
            batch[put[0]] = put
            size += len(put[1])
    return list(batch.values()), again


def _is_plain_put(write: DocumentWrite, owner: Owner | None) -> bool:
    """A put that neither asks what is there nor needs to know."""
    conditions = write.if_rev is not None or write.if_absent or owner is not None
    known = write.document_id is not None and len(rendered.ids(write.document_id)) == 1
    return write.op == "put" and known and not conditions


def _check_condition(write: DocumentWrite, identifier: str, current: Json | None) -> None:
    rev = current["_rev"] if current else None
    if write.if_absent and current is not None:
        raise Error("conflict", f"if_absent: {identifier} is there already", status=412, rev=rev)
    if write.if_rev is not None and (current is None or write.if_rev not in (rev, "*")):
        raise Error("conflict", f"if_rev: the revision is {rev or 'none: there is no such document'}",
                    status=412, rev=rev)  # fmt: skip


def _validator(name: str, schema: Json) -> Validator:
    try:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise StartError(f"configuration: collections.{name}.schema: {error.message}") from None
    validator: Validator = kind(schema, registry=Registry())  # an empty one: nothing is ever fetched
    return validator


# --- queries ----------------------------------------------------------------------------------------------------------


def _by_id(identifier: str) -> Json:
    return {"_id": {"$in": rendered.ids(identifier)}}


def _owned(owner: Owner | None) -> Json:
    return {owner.field: {"$eq": owner.user}} if owner else {}


def _filter(where: Where | None) -> Json:
    return where.filter(rendered.ids) if where else {}


def _beyond(identifier: Any) -> Json:
    """Ids behind this one. MongoDB compares within one type; all strings come before all ObjectIds."""
    later: list[Json] = [{"_id": {"$gt": identifier}}]
    if isinstance(identifier, str):
        later.append({"_id": {"$type": "objectId"}})
    return {"$or": later}


def _sort(text: str) -> list[tuple[str, int]]:
    """`-price,name` → [("price", -1), ("name", 1)], with `_id` at the end: every order is a total one."""
    keys: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        path = part.removeprefix("-")
        if path != "_id":
            check_path(path, "sort")
        keys[path] = -1 if part.startswith("-") else 1
        if path == "_id":
            break
    if len(keys) > _MAX_SORT:
        raise bad_request(f"sort: {_MAX_SORT} fields at most")
    keys.setdefault("_id", 1)
    return list(keys.items())


def _fields(text: str) -> set[str]:
    names = {name.strip() for name in text.split(",")}
    if any(not name or name[0] == "$" or "." in name for name in names):
        raise bad_request("fields: names of fields at top level, separated by commas")
    return names | {"_id", "_rev"}


def _sort_key(path: str, direction: int) -> Json:
    """What MongoDB sorts by: nothing is null, and a list counts by its least or greatest element."""
    extreme = "$min" if direction == 1 else "$max"
    return {"$cond": [{"$isArray": f"${path}"}, {extreme: f"${path}"}, {"$ifNull": [f"${path}", None]}]}


def _after(sort: list[tuple[str, int]], values: list[Any], identifier: Any) -> Json:
    """The documents behind the one with these sort keys. As expressions, whose order goes over all types; by `_id`
    alone as a plain query, which an index answers."""
    if sort == [("_id", 1)]:
        return _beyond(identifier)
    same: list[Json] = []
    behind: list[Json] = []
    known = iter(values)
    for path, direction in sort:
        key: Any = "$_id" if path == "_id" else _sort_key(path, direction)
        value = {"$literal": identifier if path == "_id" else next(known)}
        behind.append({"$and": [*same, {"$gt" if direction == 1 else "$lt": [key, value]}]})
        same.append({"$eq": [key, value]})
    return {"$expr": {"$or": behind}}


def _page_token(row: Any, asked: bytes) -> str:
    token = bson.encode({"k": row["k"], "i": row["d"]["_id"], "q": asked})
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def _parse_page(token: str, asked: bytes, keys: int) -> tuple[list[Any], Any]:
    try:
        content = bson.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), rendered.OPTIONS)
        values, identifier = content["k"], content["i"]
        good = isinstance(values, list) and rendered.is_visible(identifier)
    except (bson.errors.BSONError, binascii.Error, ValueError, KeyError, TypeError):
        raise bad_request("page: not a page token") from None
    if not good or content.get("q") != asked or len(values) != keys - 1:
        raise bad_request("page: a token of another query")
    return values, identifier


@contextmanager
def _mapped_query() -> Iterator[None]:
    """What MongoDB says of the query, and not of itself."""
    try:
        yield
    except OperationFailure as error:
        if error.code not in _BAD_QUERY:
            raise
        raise bad_request(f"query: {brief(error)}") from None


# --- errors -----------------------------------------------------------------------------------------------------------


def _not_found(collection: str, identifier: str) -> Error:
    return Error("not_found", f"document_id: there is no {identifier[:100]} in {collection}")


def _unknown() -> Error:
    return Error("outcome_unknown", "MongoDB did not say whether it is stored; look, or write again", retry_after=1.0)


@contextmanager
def _mapped_write() -> Iterator[None]:
    try:
        yield
    except PyMongoError as error:
        raise _refusal(error) from error


def _is_passing(error: OperationFailure) -> bool:
    """Of a server that is leaving, and not of what was asked."""
    return isinstance(error, ConnectionFailure) or error.code in _PASSING


def _refusal(error: PyMongoError) -> Error:
    details = error.details or {} if isinstance(error, OperationFailure) else {}
    if isinstance(error, DuplicateKeyError) or getattr(error, "code", None) == 11000:
        fields = ", ".join(details.get("keyPattern", {"_id": 1}))
        return Error("conflict", f"{fields}: another document has the same")
    if isinstance(error, ServerSelectionTimeoutError | InvalidOperation):
        return Error("unavailable", f"MongoDB: {brief(error)}", retry_after=1.0)
    if isinstance(error, WriteConcernError | WTimeoutError | ExecutionTimeout | ConnectionFailure):
        return _unknown()
    if not isinstance(error, OperationFailure):
        return Error("too_large" if isinstance(error, DocumentTooLarge) else "bad_request", f"document: {brief(error)}")
    if error.code in (13, 18, *_PASSING):
        return Error("unavailable", f"MongoDB: {brief(error)}", retry_after=0.1)
    if error.code in (10334, 17280, 17419, 17420):
        return Error("too_large", f"document: {brief(error)}")
    return bad_request(f"document: {brief(error)}")
