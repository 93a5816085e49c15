"""Pages of a list: each document once, in MongoDB's own order, whatever it is sorted by; and none of them too large."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from server.core.config import MongoDB
from server.core.errors import Error
from server.core.worker import Worker
from server.documents.queries import Queries
from server.documents.views import Owner
from server.mongo import databases
from server.wire.commands import Find
from tests.support.processes import Mongod

SCALARS = st.sampled_from([
    None, True, False, 0, 1, -1, 1.0, 0.5, Int64(2**62), math.nan, math.inf, -math.inf, Decimal128("0.5"),
    Decimal128("NaN"), "", "a", "b", "\U0001f600", "\uffff", Binary(b""), Binary(b"x", 5), ObjectId("0" * 24),
    ObjectId("1" * 24), DatetimeMS(0), DatetimeMS(-5), Timestamp(1, 1), Regex("a"), Code("x"), Code("x", {"y": 1}),
    DBRef("a", "b"), MinKey(), MaxKey(), {}, {"a": 1}, {"b": 1},
])  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below, max_size=2),
    max_leaves=6,
)
DOCUMENTS = st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), min_size=1, max_size=14)
PATHS = st.sampled_from(["a", "b", "a.b", "a.c", "a.b.c", "b.a"])
SORTS = st.lists(st.tuples(st.sampled_from(["", "-"]), PATHS), min_size=1, max_size=3, unique_by=lambda one: one[1])


class Database:
    """A collection as another program sees it, and its lists as clients do."""

    def __init__(self, uri: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._client = MongoClient[Any](uri)
        self.direct: Collection[Any] = self._client["test_pages"]["documents"]
        runner.run(self._open(uri))

    async def _open(self, uri: str) -> None:
        self._motor: AsyncIOMotorClient[Any] = AsyncIOMotorClient(uri)
        self._queries = Queries(databases.Database(self._motor, MongoDB(database="test_pages")), 10, Worker("test"))

    def close(self) -> None:
        self._client.drop_database("test_pages")
        self._client.close()
        self._motor.close()

    def fill(self, documents: list[dict[str, Any]]) -> None:
        self.direct.delete_many({})
        stored = [{"_id": ObjectId() if n % 4 == 1 else f"d{n:02}", **one} for n, one in enumerate(documents)]
        self.direct.insert_many([RawBSONDocument(bson.encode(one)) for one in stored])

    def page(self, owner: Owner | None = None, **query: Any) -> Any:
        return self._runner.run(self._queries.find("documents", Find(id=1, collection="documents", **query), owner))

    def pages(self, **query: Any) -> list[str]:
        """The ids of all pages."""
        seen: list[str] = []
        token: str | None = None
        while True:
            answer = self.page(**query, page=token)
            seen += [one["_id"] for one in answer["documents"]]
            token = answer["page"]
            if token is None:
                return seen
            assert answer["documents"]
            assert len(token) <= 1000

    def sorted(self, sort: str) -> list[str]:
        order = [(part.lstrip("-"), -1 if part[0] == "-" else 1) for part in sort.split(",") if part]
        return [str(one["_id"]) for one in self.direct.find({}, ["_id"]).sort([*order, ("_id", 1)])]


@pytest.fixture(scope="module")
def database(mongod: Mongod) -> Iterator[Database]:
    with asyncio.Runner() as runner:
        one = Database(mongod.uri, runner)
        yield one
        one.close()
    asyncio.set_event_loop(None)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(documents=DOCUMENTS, sorts=st.lists(SORTS, min_size=3, max_size=3), limit=st.integers(1, 4))
def test_pages_are_mongodbs_own_order(
    database: Database, documents: list[dict[str, Any]], sorts: list[list[tuple[str, str]]], limit: int
) -> None:
    """For values of all types, lists, lists in lists, and what is missing, by up to three paths."""
    database.fill(documents)
    for parts in sorts:
        sort = ",".join(sign + path for sign, path in parts)
        try:
            expected = database.sorted(sort)
        except OperationFailure:  # two lists side by side have no order
            with pytest.raises(Error, match="query"):
                database.pages(sort=sort, limit=limit)
        else:
            assert database.pages(sort=sort, limit=limit) == expected, sort


@pytest.mark.parametrize("sort", ["p", "-p", "p.q", "-p.q", "_id", "-_id", "p,-_id", "-q,p"])
def test_empty_lists_and_what_is_undefined_have_their_place(database: Database, sort: str) -> None:
    """An empty list sorts before null in both directions' own way; `undefined` is what older programs have stored."""
    documents: list[dict[str, Any]] = [
        {"p": []}, {"p": ["x"]}, {"p": []}, {"p": ["y"]}, {}, {"p": None}, {"p": [None, 1]}, {"p": [[]]}, {"p": {}},
        {"p": [{"q": 1}, {}]}, {"p": [{"q": []}]}, {"p": [[{"q": 1}]]}, {"p": 5}, {"p": [5, [6]]}, {"p": [[4], 7]},
    ]  # fmt: skip
    database.fill(documents)
    undefined = bson.encode({"_id": "u1", "p": None}).replace(b"\x0ap\0", b"\x06p\0")
    inside = bson.encode({"_id": "u2", "p": [None]}).replace(b"\x0a0\0", b"\x060\0")
    database.direct.insert_many([RawBSONDocument(undefined), RawBSONDocument(inside)])
    order = database.sorted(sort) if not sort.endswith("_id") else None
    for limit in (1, 2, 5):
        seen = database.pages(sort=sort, limit=limit)
        assert len(seen) == len(set(seen)) == 17
        assert order is None or seen == order


def test_a_page_ends_at_its_bytes(database: Database) -> None:
    """4 MiB, whatever the driver's batches are; and one that is larger alone is a page of its own."""
    database.direct.delete_many({})
    database.direct.insert_many([{"_id": f"{n:02}", "n": n, "x": "x" * 1_000_000} for n in range(20)])
    database.direct.insert_one({"_id": "99", "n": 5, "x": "x" * 6_000_000})
    for sort in (None, "-_id", "n", "-n"):
        seen: list[str] = []
        token: str | None = None
        while True:
            answer = database.page(sort=sort, limit=100, page=token)
            assert len(answer["documents"]) == 1 or sum(len(one["x"]) for one in answer["documents"]) <= 4 << 20
            seen += [one["_id"] for one in answer["documents"]]
            if (token := answer["page"]) is None:
                break
        assert len(seen) == len(set(seen)) == 21


def test_a_token_is_short_whatever_is_sorted_by(database: Database) -> None:
    """Long texts, long lists; the same token twice is the same page, and it fits its own query only."""
    database.fill([{"title": "y" * 13_000 + str(n), "a": ["z" * 900_000], "b": n} for n in range(7)])
    for sort in ("title", "-title", "a,title", "-a,b"):
        assert database.pages(sort=sort, limit=2) == database.sorted(sort)
    token = database.page(sort="title", limit=2)["page"]
    again = [database.page(sort="title", limit=2, page=token) for _ in range(2)]
    assert again[0] == again[1]
    for other in ({"sort": "-title"}, {"sort": "title", "where": {"b": 1}}, {}):
        with pytest.raises(Error, match="another query"):
            database.page(limit=2, page=token, **other)
    for bad in ("", "x", "AAAA", token[:-4], token + "AAAA", "é"):
        with pytest.raises(Error) as refusal:
            database.page(sort="title", limit=2, page=bad)
        assert refusal.value.code == "bad_request"


def test_an_owners_pages_show_the_owners_rows(database: Database) -> None:
    """Also behind a token that somebody else was given."""
    database.fill([{"n": n // 3, "tags": [n], "owner": [["ann", "bob"], "bob", "ann"][n % 3]} for n in range(30)])
    ann, bob = Owner("owner", "ann"), Owner("owner", "bob")
    token = database.page(bob, sort="-tags", limit=5)["page"]
    page = database.page(ann, sort="-tags", limit=100, page=token)
    assert {"bob"}.isdisjoint(str(one["owner"]) for one in page["documents"])
    assert page["documents"]
