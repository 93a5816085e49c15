"""Lists of documents: what they are sorted by, and pages of them.

A page begins behind the last document of the one before: its token has the values by which MongoDB itself sorted that
document (`{$meta: "sortKey"}`), and the next page are the documents whose values lie behind them, compared by MongoDB
as it sorts. So it does not matter what is in the lists and nested documents that a path leads through, and what comes
or goes meanwhile neither repeats nor hides another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime
from typing import Any, Final

import bson
from bson.raw_bson import RawBSONDocument

from server.core.errors import bad_request
from server.core.worker import Worker
from server.documents import document_json
from server.documents.document_json import Json
from server.documents.failures import mapped_query
from server.documents.views import Owner
from server.documents.where import Where, check_path, parse
from server.mongo.client import CURSOR_BATCH, mapped, rows_up_to
from server.mongo.databases import Database
from server.wire.commands import Find

PAGE_BYTES: Final = 4 << 20
"""A page has one document more than fits at most."""
MIN_BATCH: Final = 4
MAX_SORT: Final = 4
TOKEN_BYTES: Final = 600
"""A token with more than that would be too long for a URL; its values are kept in `creations`."""
_NAMES: Final = "abcde"
"""What the values of a sort key are called, in their order; the last one is the `_id`."""

Sort = list[tuple[str, int]]
"""Paths and directions; the last one is `_id`, so that every order is a total one."""


class Queries:
    def __init__(self, database: Database, timeout: float, worker: Worker) -> None:
        self._database = database
        self._milliseconds = int(timeout * 500)
        self._worker = worker
        self._weights: dict[str, int] = {}
        """Collection → bytes of a document on its last page: MongoDB is asked for about as many as a page takes, since
        a batch is held whole, twice, and may have 16 MiB."""
        self._kept = database.own("creations").with_options(codec_options=document_json.RAW)

    async def find(self, collection: str, query: Find, owner: Owner | None) -> Json:
        """{"documents": […], "page": token | None}, and "count" if asked for."""
        where = parse(query.where) if query.where is not None else None
        sort = parse_sort(query.sort or "")
        fields = None if query.fields is None else _fields(query.fields)
        asked = hashlib.blake2b(repr((collection, where and where.key, sort)).encode(), digest_size=6).digest()
        matching = {"$and": [document_json.VISIBLE, filter_of(where), owned(owner)]}
        answer: Json = {}
        with mapped(), mapped_query():
            last = None if query.page is None else await self._parse_page(query.page, asked, sort)
            rows, more = await self._page(collection, matching, sort, last, query.limit)
            page = await self._page_token(rows[-1]["k"], asked) if more else None
            if query.count:
                answer["count"] = await self._database[collection].count_documents(
                    matching, maxTimeMS=self._milliseconds
                )

        def shown() -> list[Json]:
            documents = [document_json.document(row["d"].raw) for row in rows]
            if fields is None:
                return documents
            return [{name: one[name] for name in one if name in fields} for one in documents]

        documents = await self._worker.run(sum(len(row.raw) for row in rows), shown)
        return {"documents": documents, "page": page, **answer}

    async def _page(
        self, collection: str, matching: Json, sort: Sort, last: RawBSONDocument | None, limit: int
    ) -> tuple[list[RawBSONDocument], bool]:
        """Rows {d: document, k: its sort key}, and whether there are more behind them."""
        wanted = limit + 1
        while True:
            pipeline = _pipeline(matching, sort, last, wanted)
            rows_of = self._database[collection].with_options(codec_options=document_json.RAW)
            batch = max(MIN_BATCH, min(CURSOR_BATCH, PAGE_BYTES // self._weights.get(collection, 1)))
            found, whole = await rows_up_to(
                rows_of.aggregate(pipeline, batchSize=batch, maxTimeMS=self._milliseconds), PAGE_BYTES
            )
            if found:
                self._weights[collection] = sum(len(row.raw) for row in found) // len(found) + 1
            rows = [row for row in found if row["d"] is not None]
            if len(rows) > limit or not whole:
                return rows[:limit], True
            if len(found) < wanted:
                return rows, False
            wanted *= 4  # lists, whose place MongoDB knew only after sorting, have taken the room of others

    async def _page_token(self, key: RawBSONDocument, asked: bytes) -> str:
        content: Json = {"q": asked, "k": key}
        if len(key.raw) > TOKEN_BYTES:
            name = hashlib.blake2b(key.raw, digest_size=20).digest()
            content = {"q": asked, "n": name}
            # As long as the records of creations, and at a place that no other record has.
            await self._kept.update_one(
                {"_id": {"page": name}}, {"$set": {"k": key, "t": datetime.now(UTC)}}, upsert=True
            )
        return base64.urlsafe_b64encode(bson.encode(content)).rstrip(b"=").decode()

    async def _parse_page(self, token: str, asked: bytes, sort: Sort) -> RawBSONDocument:
        try:
            content = RawBSONDocument(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), document_json.RAW)
            key, name, query = content.get("k"), content.get("n"), content.get("q")
        except (
            bson.errors.BSONError,
            binascii.Error,
            ValueError,
            LookupError,
            TypeError,
        ):  # LookupError: no bytes at all
            raise bad_request("page: not a page token") from None
        if isinstance(name, bytes):
            kept: Any = await self._kept.find_one({"_id": {"page": name}})
            if kept is None:
                raise bad_request("page: this token is too old")
            key = kept["k"]
        if query != asked or not isinstance(key, RawBSONDocument) or not _fits(key, sort):
            raise bad_request("page: a token of another query")
        return key


def _fits(key: RawBSONDocument, sort: Sort) -> bool:
    try:
        names = list(key)
        return names == list(_NAMES[: len(sort)]) and document_json.is_visible(key[names[-1]])
    except bson.errors.BSONError:
        return False


def _pipeline(matching: Json, sort: Sort, last: RawBSONDocument | None, wanted: int) -> list[Json]:
    """Rows {d, k}; with `last` the first `wanted` documents that may lie behind it, `d` being null in those that do
    not."""
    stages: list[Json] = [{"$match": matching}]
    by_id = len(sort) == 1
    if last is not None:
        # By `_id` alone as a plain query, which an index answers.
        stages.append({"$match": beyond(last["a"], sort[0][1]) if by_id else _perhaps_behind(sort, last)})
    stages += [
        {"$sort": dict(sort)},
        {"$limit": wanted},
        {"$project": {"_id": 0, "d": "$$ROOT", "s": {"$meta": "sortKey"}}},
        {"$project": {"d": 1, "k": {_NAMES[at]: {"$arrayElemAt": ["$s", at]} for at in range(len(sort))}}},
    ]
    if last is not None and not by_id:
        stages += [
            {"$set": {"t": {"$literal": last}}},
            {"$set": {"b": _behind(sort, [f"$k.{name}" for name in _NAMES], "$t")}},
            {"$project": {"d": {"$cond": ["$b", "$d", None]}, "k": {"$cond": ["$b", "$k", None]}}},
        ]
    return stages


def _perhaps_behind(sort: Sort, last: RawBSONDocument) -> Json:
    """All documents behind `last`, and of the others only such as have a list in the way: then MongoDB takes the least
    or greatest of many values, which no expression says."""
    keys = ["$_id" if path == "_id" else {"$ifNull": [f"${path}", None]} for path, _ in sort]
    many = [{"$in": [{"$type": f"${path}"}, ["array", "undefined"]]} for path, _ in sort if path != "_id"]
    behind = {"$let": {"vars": {"t": {"$literal": last}}, "in": _behind(sort, keys, "$$t")}}
    return {"$expr": {"$or": [*many, behind]}}


def _behind(sort: Sort, keys: list[Any], last: str) -> Json:
    """Whether `keys` lie behind those of the document `last`. Such expressions compare values of all types, in the
    order in which MongoDB sorts."""
    same: list[Json] = []
    behind: list[Json] = []
    for (_, direction), key, name in zip(sort, keys, _NAMES, strict=False):
        behind.append({"$and": [*same, {"$gt" if direction == 1 else "$lt": [key, f"{last}.{name}"]}]})
        same.append({"$eq": [key, f"{last}.{name}"]})
    return {"$or": behind}


def by_id(identifier: str) -> Json:
    return {"_id": {"$in": document_json.ids(identifier)}}


def owned(owner: Owner | None) -> Json:
    return {owner.field: {"$eq": owner.user}} if owner else {}


def filter_of(where: Where | None) -> Json:
    return where.filter(document_json.ids) if where else {}


def beyond(identifier: Any, direction: int = 1) -> Json:
    """Ids behind this one. MongoDB compares within one type; all strings come before all ObjectIds."""
    beyond: list[Json] = [{"_id": {"$gt" if direction == 1 else "$lt": identifier}}]
    if isinstance(identifier, str) == (direction == 1):
        beyond.append({"_id": {"$type": "objectId" if direction == 1 else "string"}})
    return {"$or": beyond}


def parse_sort(text: str) -> Sort:
    """`-price,name` → [("price", -1), ("name", 1), ("_id", 1)]."""
    keys: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        path = part.removeprefix("-")
        if path != "_id":
            check_path(path, "sort")
        keys[path] = -1 if part.startswith("-") else 1
        if path == "_id":
            break
    if len(keys) > MAX_SORT:
        raise bad_request(f"sort: {MAX_SORT} fields at most")
    keys.setdefault("_id", 1)
    return list(keys.items())


def _fields(text: str) -> set[str]:
    names = {name.strip() for name in text.split(",")}
    if any(not name or name[0] == "$" or "." in name for name in names):
        raise bad_request("fields: names of fields at top level, separated by commas")
    return names | {"_id", "_rev"}
