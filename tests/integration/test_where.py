"""The `where` language means in Python what it means in MongoDB: the two must choose the same documents."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex, json_util
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.collection import Collection

from server.core.errors import Error
from server.documents import document_json
from server.documents.where import parse
from tests.support.processes import Mongod

NUMBERS = [0, 1, -1, 2, 1.0, 0.5, -0.0, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, 1e300, 0.1]
SCALARS = st.sampled_from([None, True, False, "", "a", "b", "é", "\U0001f600", "￿", *NUMBERS])
FOREIGN = st.sampled_from([
    math.nan, math.inf, -math.inf, Int64(1), Decimal128("1"), Decimal128("0.1"), Decimal128(Decimal("0.5")),
    Decimal128("NaN"), Decimal128("Infinity"), DatetimeMS(0), DatetimeMS(2**60), ObjectId("0" * 24), Binary(b"x"),
    Regex("a"), {},
])  # fmt: skip
VALUES = st.recursive(
    SCALARS | FOREIGN,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below, max_size=2),
    max_leaves=5,
)
DOCUMENTS = st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), min_size=1, max_size=8)
PATHS = st.sampled_from(["a", "b", "a.b", "a.b.c", "a.a"])
CONDITIONS = (
    SCALARS
    | st.dictionaries(st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), SCALARS, min_size=1, max_size=2)
    | st.fixed_dictionaries({"$in": st.lists(SCALARS, max_size=3)})
)
SIMPLE = st.dictionaries(PATHS, CONDITIONS, max_size=2)
WHERES = SIMPLE | st.fixed_dictionaries({"$and": st.lists(SIMPLE, min_size=1, max_size=2)})


@pytest.fixture(scope="module")
def collection(mongod: Mongod) -> Iterator[Collection[Any]]:
    with MongoClient[Any](mongod.uri, document_class=RawBSONDocument) as client:
        yield client["test_where"].get_collection("documents", codec_options=document_json.RAW)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents=DOCUMENTS, wheres=st.lists(WHERES, min_size=5, max_size=5))
def test_python_chooses_what_mongodb_chooses(
    collection: Collection[Any], documents: list[dict[str, Any]], wheres: list[dict[str, Any]]
) -> None:
    collection.delete_many({})
    stored = [{"_id": str(number), **document} for number, document in enumerate(documents)]
    collection.insert_many([RawBSONDocument(bson.encode(one)) for one in stored])
    seen = [document_json.document(one.raw) for one in collection.find()]
    for value in wheres:
        where = parse(value)
        expected = {one["_id"] for one in collection.find(where.filter(document_json.ids))}
        assert {one["_id"] for one in seen if where.matches(one)} == expected, value


SHARED = json.loads((Path(__file__).parents[1] / "shared" / "where.json").read_text())


def test_the_shared_cases_are_as_mongodb_has_it(collection: Collection[Any]) -> None:
    """The table that the server and its clients answer alike."""
    told = [case for case in SHARED if "matches" in case]
    assert len(told) > 100
    for case in told:
        where = parse(case["where"])
        collection.delete_many({})
        stored = json_util.loads(json.dumps({"_id": "x", **case["document"]}))
        collection.insert_one(RawBSONDocument(bson.encode(stored)))
        seen = document_json.document(next(collection.find()).raw)
        found = bool(list(collection.find(where.filter(document_json.ids))))
        assert (where.matches(case["document"]), where.matches(seen), found) == (case["matches"],) * 3, case


@pytest.mark.parametrize("case", [case for case in SHARED if "error" in case], ids=lambda case: str(case["where"])[:40])
def test_the_shared_cases_that_are_refused(case: dict[str, Any]) -> None:
    """With an error that names where it is."""
    with pytest.raises(Error) as refusal:
        parse(case["where"])
    assert refusal.value.code == case["error"]


@pytest.mark.parametrize(
    "value",
    [
        {"$where": "1"},
        {"$or": [{"a": 1}]},
        {"$expr": {}},
        {"$and": []},
        {"$and": {"a": 1}},
        {"a": {"$regex": "x"}},
        {"a": {"b": 1}},
        {"a": {}},
        {"a": [1]},
        {"a": {"$in": 1}},
        {"a": {"$in": [{"$gt": 1}]}},
        {"a": {"$gt": {"$gt": 1}}},
        {"a": {"$not": {"$gt": 1}}},
        {"$a": 1},
        {"a.$b": 1},
        {"a..b": 1},
        {"a.0": 1},
        {"": 1},
        {"a\0b": 1},
        {"_rev": "x"},
        {"_id": {"$gt": "x"}},
        {"_id.a": 1},
        [],
        "a",
        {"a": {"$in": list(range(1000))}},
        {f"a{n}": 1 for n in range(100)},
    ],
)
def test_what_is_not_in_the_language_is_refused(value: Any) -> None:
    with pytest.raises(Error) as refusal:
        parse(value)
    assert refusal.value.code == "bad_request"
    assert refusal.value.reason.startswith("where")


def test_a_view_is_known_by_its_conditions() -> None:
    """The order does not matter; true, 1 and "1" are different values."""
    assert parse({"a": 1, "b": 2}).key == parse({"$and": [{"b": 2}, {"a": {"$eq": 1}}]}).key
    assert len({parse({"a": value}).key for value in (1, True, "1", None)}) == 4


@pytest.mark.parametrize("name", ["$numberDouble", "$numberDecimal"])
@pytest.mark.parametrize("value", ["abc", "sNaN", "", None, 1, [1], {}])
def test_what_only_looks_like_a_number_is_an_object(name: str, value: Any) -> None:
    """As another program may store it: it compares with nothing, and is no error."""
    document = {"a": {name: value}, "b": [{name: value}]}
    for path in document:
        for operator in ("$eq", "$gt", "$gte", "$lt", "$lte"):
            assert not parse({path: {operator: 1}}).matches(document)
        assert parse({path: {"$ne": 1}}).matches(document)
