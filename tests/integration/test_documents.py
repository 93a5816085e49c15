"""Documents over REST and WebSocket: revisions, conditions, queries, rights; and their changes."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from bson import Binary, Decimal128, ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from server.core.principals import Principal
from server.node import Node
from server.tools.seed import Example
from tests.support.client import Client, Refused, make_token
from tests.support.documents import watch
from tests.support.processes import Mongod
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
ORDERS = {
    "read": "anyone",
    "write": "anyone",
    "indexes": ["status,-total"],
    "unique": ["serial"],
}
NOTES = {"read": "user", "write": "user", "owner": "owner"}
PRODUCTS = {
    "read": "anyone",
    "write": "anyone",
    "schema": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "price": {"type": "number", "minimum": 0}},
    },
}


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "collections.orders": ORDERS,
        "collections.notes": NOTES,
        "collections.products": PRODUCTS,
        "collections.secret": {},
        "collections.staff": {"read": "claim:staff", "write": "claim:staff"},
        "collections.asked": {"read": "anyone", "write": "anyone", "hook": "moderation"},
        "hooks.moderation": {"function": "tests.integration.test_documents:moderate"},
    }


def moderate(question: dict[str, Any]) -> dict[str, Any] | None:
    """A hook: who writes "bad" is refused, who writes "loud" is corrected; nobody reads at night."""
    if question["action"] == "subscribe":
        return {"allow": question["user"] != "owl"}
    text = (question["document"] or {}).get("text")
    if text == "bad":
        return {"allow": False, "reason": "mind your words"}
    return {"data": {"text": "quiet"}} if text == "loud" else None


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


class Rest:
    def __init__(self, base: str, token: str | None = None) -> None:
        self.base = base
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> HTTPResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = HTTPRequest(
            f"{self.base}/v1/documents/{path}", method, self.headers | named, raw, allow_nonstandard_methods=True
        )
        client = AsyncHTTPClient(force_instance=True)
        try:
            response = await client.fetch(request, raise_error=False)
        finally:
            client.close()
        assert response.code < 500, response.body
        return response

    async def json(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        response = await self(method, path, body, **headers)
        assert response.code < 400, response.body
        return json.loads(response.body)

    async def refused(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, str]:
        response = await self(method, path, body, **headers)
        assert response.code >= 400, response.body
        problem = json.loads(response.body)
        assert response.headers["Content-Type"] == "application/problem+json"
        return response.code, problem["code"], problem["reason"]


@pytest.fixture
def rest(base_url: str, http_server: object) -> Rest:
    return Rest(base_url)


@pytest.fixture
def direct(mongod: Mongod, node: Node) -> Any:
    """The database, as another program sees it."""
    with MongoClient[Any](mongod.uri) as client:
        yield client[node.config.mongodb.database]


def listing(**query: Any) -> str:
    return "?" + urlencode({name: json.dumps(v) if isinstance(v, dict) else v for name, v in query.items()})


# --- one document -----------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_documents_life(rest: Rest) -> None:
    created = await rest("PUT", "orders/1", {"status": "open", "total": 5})
    assert created.code == 201
    document = json.loads(created.body)
    assert list(document) == ["_id", "_rev", "status", "total"]
    assert created.headers["ETag"] == f'"{document["_rev"]}"'
    assert created.headers["Location"] == "/v1/documents/orders/1"
    assert await rest.json("GET", "orders/1") == document

    patched = await rest.json("PATCH", "orders/1", {"total": None, "note": {"a": 1}})
    assert patched == {"_id": "1", "_rev": patched["_rev"], "status": "open", "note": {"a": 1}}
    assert patched["_rev"] != document["_rev"]
    again = await rest.json("PATCH", "orders/1", {"note": {"b": 2}}, Content_Type="application/merge-patch+json")
    assert again["note"] == {"a": 1, "b": 2}

    replaced = await rest("PUT", "orders/1", {"status": "open", "total": 5})
    assert replaced.code == 200
    assert json.loads(replaced.body) == document  # the same content, the same revision
    assert (await rest("DELETE", "orders/1")).code == 204
    assert (await rest.refused("GET", "orders/1"))[:2] == (404, "not_found")
    assert (await rest.refused("DELETE", "orders/1"))[:2] == (404, "not_found")
    assert (await rest.refused("PATCH", "orders/1", {"a": 1}))[:2] == (404, "not_found")


@pytest.mark.gen_test
async def test_conditions(rest: Rest) -> None:
    """If-Match and If-None-Match guard a write; else 412, with the present revision."""
    first = await rest.json("PUT", "orders/1", {"n": 1}, If_None_Match="*")
    exists = await rest("PUT", "orders/1", {"n": 2}, If_None_Match="*")
    assert exists.code == 412
    assert exists.headers["ETag"] == f'"{first["_rev"]}"'
    assert json.loads(exists.body)["rev"] == first["_rev"]
    second = await rest.json("PUT", "orders/1", {"n": 2}, If_Match=f'"{first["_rev"]}"')
    for method, body in (("PUT", {"n": 3}), ("PATCH", {"n": 3}), ("DELETE", None)):
        stale = await rest(method, "orders/1", body, If_Match=f'"{first["_rev"]}"')
        assert stale.code == 412
        assert json.loads(stale.body)["rev"] == second["_rev"]
    assert (await rest("PUT", "orders/2", {"n": 3}, If_Match='"x"')).code == 412
    assert (await rest("PUT", "orders/2", {"n": 3}, If_Match="*")).code == 412
    assert (await rest("GET", "orders/1", If_None_Match=f'"{second["_rev"]}"')).code == 304
    assert (await rest("DELETE", "orders/1", If_Match=f'"{second["_rev"]}"')).code == 204
    assert (await rest.refused("PUT", "orders/1", {}, If_Match="unquoted"))[0] == 400


@pytest.mark.gen_test(timeout=60)
async def test_conditional_writers_lose_no_update(rest: Rest, direct: Any) -> None:
    """Many read, add one and write under the revision they read, while another program adds as well."""
    await rest.json("PUT", "orders/1", {"n": 0, "m": 0})

    async def add(times: int) -> None:
        for _ in range(times):
            while True:
                seen = await rest.json("GET", "orders/1")
                fields = {name: seen[name] for name in ("n", "m")}
                written = await rest("PUT", "orders/1", {**fields, "n": fields["n"] + 1}, If_Match=f'"{seen["_rev"]}"')
                if written.code == 200:
                    break
                assert written.code == 412

    def directly() -> None:
        for _ in range(50):
            direct.orders.update_one({"_id": "1"}, {"$inc": {"m": 1}})

    await asyncio.gather(asyncio.to_thread(directly), *(add(10) for _ in range(4)))
    final = await rest.json("GET", "orders/1")
    assert (final["n"], final["m"]) == (40, 50)


@pytest.mark.gen_test
async def test_creating_with_a_key_happens_once(rest: Rest) -> None:
    first = await rest("POST", "orders", {"a": 1}, Idempotency_Key="k")
    retries = await asyncio.gather(*(rest("POST", "orders", {"a": 1}, Idempotency_Key="k") for _ in range(5)))
    assert first.code == 201
    assert {retry.code for retry in retries} == {200}
    assert {json.loads(retry.body)["_id"] for retry in retries} == {json.loads(first.body)["_id"]}
    assert (await rest.refused("POST", "orders", {"a": 2}, Idempotency_Key="k"))[:2] == (409, "conflict")
    at_once = await asyncio.gather(*(rest("POST", "orders", {"b": 1}, Idempotency_Key="l") for _ in range(10)))
    assert sorted(response.code for response in at_once) == [200] * 9 + [201]
    assert len((await rest.json("GET", "orders"))["documents"]) == 2
    without = await rest.json("POST", "orders", {"_id": "mine", "c": 1})
    assert without["_id"] == "mine"
    assert (await rest.refused("POST", "orders", {"_id": "mine"}))[:2] == (409, "conflict")


@pytest.mark.gen_test
async def test_a_key_finds_only_what_it_has_made(rest: Rest, base_url: str, node: Node, direct: Any) -> None:
    """An `_id` of the client's own that is there already was made by the key only if its record says so."""
    ann, bob = (Rest(base_url, make_token(SECRET, name)) for name in ("ann", "bob"))
    await bob.json("PUT", "notes/n1", {"text": "secret"})
    for _ in range(2):
        assert (await ann.refused("POST", "notes", {"_id": "n1"}, Idempotency_Key="k"))[:2] == (409, "conflict")
    batch = {"writes": [{"op": "put", "document": {"_id": "n1"}, "key": "b"}]}
    assert (await ann.json("POST", "notes:batch", batch))["results"][0]["error"]["code"] == "conflict"
    await rest.json("PUT", "orders/1", {"a": 1})
    same = ("POST", "orders", {"_id": "1", "a": 1})
    assert (await rest.refused(*same, Idempotency_Key="k"))[:2] == (409, "conflict")

    mine = ("POST", "orders", {"_id": "mine", "a": 1})
    at_once = await asyncio.gather(*(rest(*mine, Idempotency_Key="l") for _ in range(10)))
    assert 201 in {response.code for response in at_once}
    assert (await rest(*mine, Idempotency_Key="l")).code == 200
    direct["waterspout.creations"].update_one({"_id.k": "l"}, {"$unset": {"done": 1}})  # its server died in between
    assert (await rest(*mine, Idempotency_Key="l")).code == 200

    note = await ann.json("POST", "notes", {"text": "a"}, Idempotency_Key="m")
    direct.notes.update_one({"_id": note["_id"]}, {"$set": {"owner": "bob"}})
    refused = await ann.refused("POST", "notes", {"text": "a"}, Idempotency_Key="m")
    assert refused[:2] == (409, "conflict")


BAD_DOCUMENTS: list[Any] = [
    {"$where": "1"},
    {"$set": {"a": 1}},
    {"a.b": 1},
    {"a\0b": 1},
    {"a": {"$gt": 1}},
    {"a": [{"b": {"c.d": 1}}]},
    {"a": {"$ref": "x", "$id": 1}},
    {"_id": {"$ne": 1}},
    {"_id": "another"},
    {"_id": 5},
    [],
    "text",
    None,
    b'{"a": NaN}',
    b'{"a": 18446744073709551616}',
    b'{"a": 1, "a": 2}',
    b'{"a": "\\ud800"}',
    b"[" * 180 + b"]" * 180,
    b'{"a":' * 180 + b"1" + b"}" * 180,
    b"\xff",
    b"",
]


@pytest.mark.gen_test
async def test_what_is_not_a_document_is_refused(rest: Rest, direct: Any) -> None:
    """Never an operator, never a 500, nothing stored half."""
    await rest.json("PUT", "orders/1", {"a": 1})
    for body in BAD_DOCUMENTS:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        for method in ("PUT", "PATCH"):
            assert (await rest.refused(method, "orders/1", raw))[1] == "bad_request", body
        if body not in ({"_id": "another"},):
            assert (await rest.refused("POST", "orders", raw))[1] == "bad_request", body
        entry = body if isinstance(body, dict | list | str) else None
        batch = {"writes": [{"op": "put", "document_id": "1", "document": entry}]}
        answer = await rest("POST", "orders:batch", batch)
        assert answer.code == 400 or "error" in json.loads(answer.body)["results"][0]
    assert list(direct.orders.find()) == [{"_id": "1", "a": 1}]
    for name in ("a b", "a\0b", "a\nb", "x" * 300):
        assert (await rest.refused("PUT", f"orders/{quote(name, safe='')}", {}))[1] == "bad_request"
        assert (await rest("GET", f"orders/{quote(name, safe='')}")).code == 404
    for name in ('{"$ne":1}', "$where", "a/b", "é", "..%2f", "null"):
        assert (await rest.json("PUT", f"orders/{quote(name, safe='')}", {"x": 1}))["_id"] == name
        assert (await rest.json("GET", f"orders/{quote(name, safe='')}"))["_id"] == name
    large = await rest("PUT", "orders/large", {"a": "x" * 1_048_500})
    assert large.code == 201
    assert (await rest.refused("POST", "nothing", {}))[:2] == (404, "not_found")
    assert (await rest.refused("GET", "messages"))[:2] == (404, "not_found")
    assert (await rest.refused("GET", "secret/1"))[:2] == (403, "permission_denied")


@pytest.mark.gen_test
async def test_a_schema_and_a_unique_index_are_kept(rest: Rest, direct: Any) -> None:
    assert (await rest.refused("PUT", "products/1", {"price": 1}))[1] == "bad_request"
    assert (await rest.refused("PUT", "products/1", {"name": "a", "price": -1}))[2].startswith("price: ")
    await rest.json("PUT", "products/1", {"name": "a"})
    assert (await rest.refused("PATCH", "products/1", {"name": 5}))[2].startswith("name: ")
    assert (await rest.refused("PATCH", "products/1", {"name": None}))[1] == "bad_request"
    await rest.json("PUT", "orders/1", {"serial": 1})
    assert (await rest.refused("PUT", "orders/2", {"serial": 1}))[1:] == (
        "conflict",
        "serial: another document has the same",
    )
    assert "status-total" not in direct.orders.index_information()
    assert {"status,-total", "unique:serial"} <= set(direct.orders.index_information())


@pytest.mark.gen_test
async def test_foreign_documents_are_shown_as_they_are(rest: Rest, direct: Any) -> None:
    """What JSON does not have appears as extended JSON, and survives a patch of something else."""
    oid = ObjectId()
    direct.orders.insert_one({
        "_id": oid, "at": DatetimeMS(2**60), "price": Decimal128("1.10"), "n": float("nan"), "b": Binary(b"x"),
        "deep": json.loads("[" * 150 + "]" * 150), "$odd": {"a.b": 1}, "_rev": "theirs", "i": oid,
    })  # fmt: skip
    direct.orders.insert_one({"_id": 5})
    document = await rest.json("GET", f"orders/{oid}")
    assert document["_id"] == str(oid)
    assert document["price"] == {"$numberDecimal": "1.10"}
    assert document["n"] == {"$numberDouble": "NaN"}
    assert document["i"] == {"$oid": str(oid)}
    assert document["$odd"] == {"a.b": 1}
    assert document["_rev"] != "theirs"
    await rest.json("PATCH", f"orders/{oid}", {"status": "seen", "deep": None}, If_Match=f'"{document["_rev"]}"')
    stored = direct.orders.find_one({"_id": oid}, {"price": 1, "status": 1, "i": 1})
    assert stored == {"_id": oid, "price": Decimal128("1.10"), "status": "seen", "i": oid}
    assert [one["_id"] for one in (await rest.json("GET", "orders"))["documents"]] == [str(oid)]
    assert (await rest("DELETE", f"orders/{oid}")).code == 204


@pytest.mark.gen_test(timeout=30)
async def test_rules_hooks_and_revocations_count_for_documents_too(url: str, base_url: str, node: Node) -> None:
    guest, owl = Rest(base_url), Rest(base_url, make_token(SECRET, "owl"))
    staff = Rest(base_url, make_token(SECRET, "ann", staff=True))
    assert (await staff("PUT", "staff/1", {"a": 1})).code == 201
    assert (await owl.refused("GET", "staff/1"))[:2] == (403, "permission_denied")
    assert (await guest.refused("PUT", "asked/1", {"text": "bad"}))[2] == "mind your words"
    assert (await guest.json("PUT", "asked/1", {"text": "loud"}))["text"] == "quiet"
    writes = [{"op": "put", "document_id": text, "document": {"text": text}} for text in ("bad", "loud", "good")]
    results = (await guest.json("POST", "asked:batch", {"writes": writes}))["results"]
    assert results[0]["error"]["reason"] == "mind your words"
    assert [one["document"]["text"] for one in results[1:]] == ["quiet", "good"]
    assert (await owl.refused("GET", "asked/1"))[:2] == (403, "permission_denied")
    async with Client([url], token=make_token(SECRET, "owl")) as client:
        with pytest.raises(Refused, match="permission_denied"):
            await client.subscribe("docs:asked")
    async with Client([url], token=make_token(SECRET, "ann", staff=True)) as client:
        copy, subscription = await watch(client, "docs:staff")
        assert set(copy.documents) == {"1"}
        await node.moderation.revoke(Principal(user="shop", server=True, admin=True), "ann", channels=["docs:staff"])
        await until(lambda: subscription.ended, 3)
        assert (await staff.refused("GET", "staff/1"))[:2] == (403, "permission_denied")
        assert (await staff.refused("PUT", "staff/1", {}))[:2] == (403, "permission_denied")


# --- many documents ---------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_listing(rest: Rest) -> None:
    for number in range(10):
        await rest.json("PUT", f"orders/{number}", {"n": number, "even": number % 2 == 0, "a": {"b": number // 5}})
    whole = await rest.json("GET", "orders")
    assert [one["_id"] for one in whole["documents"]] == [str(number) for number in range(10)]
    assert whole["page"] is None
    where = {"even": True, "n": {"$gte": 2, "$lt": 8}, "$and": [{"a.b": {"$in": [0, 1]}}]}
    chosen = await rest.json("GET", "orders" + listing(where=where, sort="-n", fields="n", count=1))
    assert [one["n"] for one in chosen["documents"]] == [6, 4, 2]
    assert set(chosen["documents"][0]) == {"_id", "_rev", "n"}
    assert chosen["count"] == 3
    for query in ({"where": {"$where": "1"}}, {"where": "["}, {"sort": "$a"}, {"page": "x"}, {"limit": 0},
                  {"limit": 5000}, {"fields": "a.b"}, {"sort": "_rev"}):  # fmt: skip
        assert (await rest.refused("GET", "orders" + listing(**query)))[1] == "bad_request", query


@pytest.mark.gen_test
@pytest.mark.parametrize("sort", ["", "-_id", "n", "-n", "kind,-n", "-a.b,kind"])
async def test_pages_stay_right_while_documents_change(rest: Rest, direct: Any, sort: str) -> None:
    """Documents come and go between the pages, of all types and of none: what was there all the time is on exactly one
    page, in order."""
    values: list[Any] = [None, 1, 2.5, "x", True, DatetimeMS(5), float("nan"), Decimal128("2"), ...]
    for number in range(60):
        value = values[number % len(values)]
        fields: dict[str, Any] = {"kind": number % 3, "a": [{"b": number % 7}]}
        if value is not ...:
            fields["n"] = value
        direct.orders.insert_one({"_id": ObjectId() if number % 5 == 0 else f"keep-{number:02}", **fields})
    order = [(part.lstrip("-"), -1 if part[0] == "-" else 1) for part in sort.split(",") if part]
    if not any(path == "_id" for path, _ in order):
        order.append(("_id", 1))
    expected = [str(one["_id"]) for one in direct.orders.find().sort(order)]
    seen: list[str] = []
    page: str | None = None
    while True:
        query = {"limit": 7, **({"sort": sort} if sort else {}), **({"page": page} if page else {})}
        answer = await rest.json("GET", "orders" + listing(**query))
        seen += [one["_id"] for one in answer["documents"]]
        page = answer["page"]
        if page is None:
            break
        direct.orders.insert_one({"_id": f"new-{len(seen)}", "n": 2, "kind": 1})
        direct.orders.delete_one({"_id": f"new-{len(seen) - 14}"})
    assert [one for one in seen if not one.startswith("new-")] == expected
    assert len(seen) == len(set(seen))
    other = await rest.json("GET", "orders" + listing(limit=1))
    if sort:
        assert (await rest.refused("GET", "orders" + listing(limit=1, sort=sort, page=other["page"])))[0] == 400


@pytest.mark.gen_test
async def test_a_batch_has_a_result_for_each(rest: Rest) -> None:
    first = await rest.json("PUT", "orders/1", {"n": 1})
    writes: list[dict[str, Any]] = [
        {"op": "put", "document_id": "2", "document": {"n": 2}},
        {"op": "patch", "document_id": "1", "document": {"m": 1}, "if_rev": first["_rev"]},
        {"op": "patch", "document_id": "1", "document": {"m": 2}, "if_rev": first["_rev"]},
        {"op": "put", "document_id": "3", "document": {"a.b": 2}},
        {"op": "delete", "document_id": "4"},
        {"op": "put", "document": {"n": 5}, "key": "k"},
        {"op": "put", "document_id": "6", "document": {"serial": 1}},
        {"op": "put", "document_id": "7", "document": {"serial": 1}},
        {"op": "put", "document_id": "2", "document": {"n": 3}},
        {"op": "put", "document_id": "1", "document": {"n": 2}, "if_absent": True},
    ]
    results = (await rest.json("POST", "orders:batch", {"writes": writes}))["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [None, None, "conflict", "bad_request", "not_found", None, None, "conflict", None, "conflict"]
    assert results[2]["error"]["rev"] == results[1]["document"]["_rev"]
    assert [results[0]["created"], results[8]["created"]] == [True, False]
    assert (await rest.json("GET", "orders/2"))["n"] == 3
    many = [{"op": "put", "document_id": f"m{n}", "document": {"n": n}} for n in range(500)]
    assert all(one["created"] for one in (await rest.json("POST", "orders:batch", {"writes": many}))["results"])
    assert (await rest.refused("POST", "orders:batch", {"writes": [*many, many[0]]}))[0] == 400
    assert (await rest.json("GET", "orders" + listing(limit=1, count=1)))["count"] == 504


# --- over WebSocket, and changes --------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=30)
async def test_documents_over_websocket(url: str) -> None:
    async with Client([url]) as client:
        put = await client.request("put", collection="orders", document_id="1", document={"n": 1})
        assert put["created"] is True
        got = await client.request("get", collection="orders", document_id="1")
        assert got["document"] == put["document"]
        patched = await client.request(
            "patch", collection="orders", document_id="1", document={"n": 2}, if_rev=put["document"]["_rev"]
        )
        with pytest.raises(Refused) as stale:
            await client.request("delete", collection="orders", document_id="1", if_rev=put["document"]["_rev"])
        assert stale.value.code == "conflict"
        assert stale.value.error["rev"] == patched["document"]["_rev"]
        found = await client.request("find", collection="orders", where={"n": {"$gt": 1}}, count=True)
        assert found["documents"] == [patched["document"]]
        assert (found["page"], found["count"]) == (None, 1)
        assert (await client.request("delete", collection="orders", document_id="1"))["deleted"] is True
        with pytest.raises(Refused, match="not_found"):
            await client.request("get", collection="orders", document_id="1")
        made = await client.request("put", collection="orders", document={"n": 1}, key="k")
        again = await client.request("put", collection="orders", document={"n": 1}, key="k")
        assert (again["duplicate"], again["document"]) == (True, made["document"])
        with pytest.raises(Refused, match="permission_denied"):
            await client.publish("docs:orders", {"op": "put"})


@pytest.mark.gen_test(timeout=30)
async def test_commands_on_one_document_are_carried_out_in_order(url: str) -> None:
    """Sent one behind the other, wherever the id stands."""
    async with Client([url]) as client:
        for n in range(20):
            about = {"collection": "orders", "document_id": f"x{n}"}
            created, patched, deleted = await asyncio.gather(
                client.request("put", collection="orders", document={"_id": f"x{n}", "n": "n" * 50_000}),
                client.request("patch", **about, document={"m": 1}),
                client.request("delete", **about),
            )
            assert (created["created"], patched["document"]["m"], deleted["deleted"]) == (True, 1, True)
        assert (await client.request("find", collection="orders"))["documents"] == []


@pytest.mark.gen_test(timeout=30)
async def test_changes_however_they_are_made(url: str, direct: Any) -> None:
    """A snapshot, then every change, made through us or by another program; each once and in order."""
    direct.orders.insert_one({"_id": "before", "n": 0})
    async with Client([url]) as client:
        copy, subscription = await watch(client, "docs:orders")
        assert set(copy.documents) == {"before"}
        put = await client.request("put", collection="orders", document_id="1", document={"n": 1})
        direct.orders.update_one({"_id": "1"}, {"$set": {"n": 2}})
        direct.orders.insert_one({"_id": "2", "at": DatetimeMS(5)})
        direct.orders.delete_one({"_id": "1"})
        oid = direct.orders.insert_one({"n": 3}).inserted_id
        direct.orders.insert_one({"_id": 7})
        direct.orders.insert_one({"_id": "last"})
        await until(lambda: "last" in copy.documents)
        changes = [push for push in copy.pushes if push["type"] == "message"][-6:]
        assert [(one["data"]["op"], one["data"]["id"]) for one in changes] == [
            ("put", "1"), ("put", "1"), ("put", "2"), ("delete", "1"), ("put", str(oid)), ("put", "last")
        ]  # fmt: skip
        assert changes[0]["data"] == {
            "op": "put",
            "id": "1",
            "rev": put["document"]["_rev"],
            "document": put["document"],
        }
        assert changes[3]["data"] == {"op": "delete", "id": "1", "rev": None, "document": None}
        assert copy.documents["2"]["at"] == {"$date": "1970-01-01T00:00:00.005Z"}
        assert changes[0]["user"] is None
        found = await client.request("find", collection="orders")
        assert {one["_id"]: one for one in found["documents"]} == copy.documents
        page = await client.history("docs:orders", limit=1000)
        assert "token" not in json.dumps(page)
        assert page["messages"][-1]["data"]["id"] == "last"
        cursor = subscription.cursor
        await client.unsubscribe("docs:orders")
        direct.orders.delete_one({"_id": "2"})
        resumed = await client.subscribe("docs:orders", after=cursor, snapshot=True)
        assert (resumed.reply["recovered"], resumed.reply["snapshot"]) == (True, False)
        assert (await resumed.message())["data"]["op"] == "delete"


@pytest.mark.gen_test(timeout=30)
async def test_views(url: str, direct: Any) -> None:
    """Of `where` and of one document: what starts to match is put, what stops is deleted, the rest is not seen."""
    direct.orders.insert_many([{"_id": "a", "status": "open"}, {"_id": "b", "status": "shut"}])
    async with Client([url]) as client, Client([url]) as other:
        opened, _ = await watch(client, "docs:orders", where={"status": "open"})
        one, _ = await watch(other, "docs:orders/b")
        everything, _ = await watch(other, "docs:orders")
        assert set(opened.documents) == {"a"}
        assert set(one.documents) == {"b"}
        direct.orders.update_one({"_id": "b"}, {"$set": {"status": "open"}})
        direct.orders.update_one({"_id": "a"}, {"$set": {"n": 1}})
        direct.orders.update_one({"_id": "a"}, {"$set": {"status": "shut"}})
        direct.orders.update_one({"_id": "a"}, {"$set": {"n": 2}})
        direct.orders.delete_one({"_id": "a"})
        direct.orders.delete_one({"_id": "b"})
        direct.orders.insert_one({"_id": "end", "status": "open"})
        await until(lambda: "end" in opened.documents and "end" in everything.documents)
        await until(lambda: len(one.changes) == 2)  # each view shows what has come in its own turn
        assert opened.changes == [("put", "b"), ("put", "a"), ("delete", "a"), ("delete", "b"), ("put", "end")]
        assert one.changes == [("put", "b"), ("delete", "b")]
        assert one.pushes[-1]["channel"] == "docs:orders/b"
        assert len(everything.changes) == 7
        page = await client.history("docs:orders", where={"status": "open"}, after="0")
        assert [message["data"]["id"] for message in page["messages"]][-5:] == ["b", "a", "a", "b", "end"]
        await client.unsubscribe("docs:orders")
        again = await client.subscribe("docs:orders", where={"status": "open"}, after=opened.pushes[1]["cursor"])
        replay = await again.messages(4)
        assert [message["data"]["id"] for message in replay] == ["a", "a", "b", "end"]
        for bad in ({"where": {"$where": 1}}, {"where": {"a": {"$regex": "x"}}}):
            with pytest.raises(Refused, match="bad_request"):
                await client.subscribe("docs:products", **bad)
        with pytest.raises(Refused, match="bad_request"):
            await client.subscribe("chat:a", where={"a": 1})
        with pytest.raises(Refused, match="bad_request"):
            await client.subscribe("chat:a", snapshot=True)
        with pytest.raises(Refused, match="unknown_channel"):
            await client.subscribe("docs:nothing")
        with pytest.raises(Refused, match="permission_denied"):
            await client.subscribe("docs:secret")


@pytest.mark.gen_test(timeout=30)
async def test_one_client_watches_a_collection_several_times(url: str, base_url: str, direct: Any) -> None:
    """Under labels of its own; each is a view, with rights and rows as without a label."""
    direct.orders.insert_many([{"_id": "a", "status": "open"}, {"_id": "b", "status": "shut"}])
    async with Client([url]) as client, Client([url], token=make_token(SECRET, "ann")) as ann:
        everything, _ = await watch(client, "docs:orders")
        opened, _ = await watch(client, "docs:orders#open", where={"status": "open"})
        shut, _ = await watch(client, "docs:orders#shut", where={"status": "shut"})
        again, _ = await watch(client, "docs:orders#again")
        assert [set(copy.documents) for copy in (everything, opened, shut)] == [{"a", "b"}, {"a"}, {"b"}]
        direct.orders.update_one({"_id": "a"}, {"$set": {"status": "shut"}})
        await until(lambda: opened.changes == [("delete", "a")] and shut.changes == [("put", "a")])
        await until(lambda: again.changes == everything.changes == [("put", "a")])
        assert [one.pushes[-1]["channel"] for one in (everything, opened, again)] == [
            "docs:orders", "docs:orders#open", "docs:orders#again",
        ]  # fmt: skip
        assert opened.pushes[-1]["cursor"] == everything.pushes[-1]["cursor"]
        await client.unsubscribe("docs:orders#shut")
        for name, code in (("docs:secret#x", "permission_denied"), ("docs:nothing#x", "unknown_channel")):
            with pytest.raises(Refused, match=code):
                await client.subscribe(name)
        direct.notes.insert_one({"_id": "bobs", "owner": "bob"})
        mine, _ = await watch(ann, "docs:notes#mine")
        direct.notes.insert_many([{"_id": "bobs too", "owner": "bob"}, {"_id": "anns", "owner": "ann"}])
        await until(lambda: set(mine.documents) == {"anns"})
        assert mine.changes == [("put", "anns")]


@pytest.mark.gen_test
async def test_a_ticket_for_a_label_has_the_collections_right(node: Node) -> None:
    principal = Principal(user="ann", channels={"docs:secret": ["subscribe"]})
    ticket, _ = await node.subscriptions.ticket(principal, ["docs:secret#2"])
    redeemed = node.identities.redeem(ticket, ["docs:secret#2"])
    async with node.rights.reading(redeemed, "docs:secret#2") as options:
        assert options.durable


@pytest.mark.gen_test(timeout=30)
async def test_rows_have_owners(url: str, base_url: str, direct: Any) -> None:
    """Everybody sees and writes their own rows, and nothing else of the collection, by whatever way."""
    ann, bob = (make_token(SECRET, name) for name in ("ann", "bob"))
    as_ann, as_bob, guest = Rest(base_url, ann), Rest(base_url, bob), Rest(base_url)
    async with Client([url], token=ann) as one, Client([url], token=bob) as two, Client([url]) as nobody:
        anns, _ = await watch(one, "docs:notes")
        bobs, _ = await watch(two, "docs:notes")
        assert (await as_ann.json("PUT", "notes/1", {"text": "a"}))["owner"] == "ann"
        assert (await as_ann.refused("PUT", "notes/2", {"owner": "bob"}))[:2] == (403, "permission_denied")
        assert (await as_ann.refused("PATCH", "notes/1", {"owner": "bob"}))[:2] == (403, "permission_denied")
        assert (await as_ann.refused("PATCH", "notes/1", {"owner": None}))[:2] == (403, "permission_denied")
        for method, body in (("GET", None), ("PUT", {}), ("PATCH", {"a": 1}), ("DELETE", None)):
            assert (await as_bob.refused(method, "notes/1", body))[:2] == (404, "not_found")
        assert (await as_bob.json("GET", "notes" + listing(count=1))) == {"documents": [], "page": None, "count": 0}
        for query in ({"where": {"owner": "ann"}}, {"where": {"owner": {"$ne": "bob"}}}):
            assert (await as_bob.json("GET", "notes" + listing(**query)))["documents"] == []
        assert (await guest.refused("GET", "notes"))[:2] == (403, "permission_denied")
        with pytest.raises(Refused, match="permission_denied"):
            await nobody.subscribe("docs:notes")

        await until(lambda: "1" in anns.documents)
        direct.notes.update_one({"_id": "1"}, {"$set": {"owner": "bob"}})
        await until(lambda: "1" in bobs.documents and "1" not in anns.documents)
        direct.notes.update_one({"_id": "1"}, {"$set": {"text": "b"}})
        await until(lambda: len(bobs.changes) == 2)
        assert anns.changes == [("put", "1"), ("delete", "1")]
        assert "document" not in str(anns.pushes[-1]["data"]["document"])
        history = await one.history("docs:notes", after="0")
        assert [message["data"]["op"] for message in history["messages"]] == ["put", "delete"]
        await one.unsubscribe("docs:notes")
        again = await one.subscribe("docs:notes", after="0", where={"owner": "bob"})
        await two.subscribe("docs:notes/1")
        direct.notes.insert_one({"_id": "2", "owner": "bob", "text": "secret"})
        await until(lambda: "2" in bobs.documents)
        assert again.waiting() == []


@pytest.mark.gen_test(timeout=60)
async def test_a_large_document_is_announced_without_its_content(url: str, direct: Any) -> None:
    async with Client([url]) as client:
        copy, _ = await watch(client, "docs:orders", where={"status": "open"})
        direct.orders.insert_one({"_id": "big", "status": "shut", "x": "x" * (9 << 20)})
        direct.orders.update_one({"_id": "big"}, {"$set": {"y": "y" * (6 << 20)}})
        direct.orders.delete_one({"_id": "big"})
        direct.orders.insert_one({"_id": "end", "status": "open"})
        await until(lambda: "end" in copy.documents, 20)
        first = next(push["data"] for push in copy.pushes if push["type"] == "message")
        assert first == {"op": "put", "id": "big", "rev": None, "document": None, "truncated": True}
        assert copy.changes == [("put", "big"), ("put", "big"), ("delete", "big"), ("put", "end")]


@pytest.mark.gen_test(timeout=30)
async def test_pages_of_a_snapshot_fit_into_a_frame(url: str, direct: Any) -> None:
    direct.orders.insert_many([{"_id": f"{n:03}", "x": "x" * 12_000} for n in range(120)])
    async with Client([url]) as client:
        copy, _ = await watch(client, "docs:orders")
        assert len(copy.documents) == 120
        pages = [push["documents"] for push in copy.pushes if push["type"] == "snapshot"]
        assert max(len(json.dumps(page)) for page in pages) < 300_000
        assert sum(map(len, pages)) == 120


@pytest.mark.gen_test
async def test_a_query_that_mongodb_refuses_is_a_bad_request(rest: Rest, direct: Any) -> None:
    direct.orders.insert_one({"_id": "1", "a": [1, 2], "b": [1, 2]})
    assert (await rest.refused("GET", "orders?sort=a,b"))[:2] == (400, "bad_request")
    deep = ".".join("a" * 210)
    assert (await rest.refused("GET", f"orders?sort={deep}"))[:2] == (400, "bad_request")
    assert (await rest.refused("GET", "orders" + listing(where={deep: 1})))[:2] == (400, "bad_request")


@pytest.mark.gen_test(timeout=30)
async def test_a_value_that_only_looks_like_a_number_stops_nothing(url: str, direct: Any) -> None:
    async with Client([url]) as client:
        copy, _ = await watch(client, "docs:orders", where={"total": {"$gt": 1}})
        for total in ({"$numberDouble": "abc"}, {"$numberDecimal": "sNaN"}, {"$numberDouble": None}):
            direct.command("insert", "orders", documents=[{"_id": str(total), "total": total}])
        direct.orders.insert_one({"_id": "end", "total": 2})
        await until(lambda: "end" in copy.documents)
        assert copy.changes == [("put", "end")]


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("how", ["drop", "rename", "images off", "token lost"])
async def test_lost_changes_end_in_a_gap_and_a_fresh_snapshot(url: str, direct: Any, node: Node, how: str) -> None:
    """Never in silence: whoever watches is told, and gets what there is now."""
    direct.orders.insert_many([{"_id": str(number), "status": "open"} for number in range(5)])
    async with Client([url]) as client, Client([url]) as other:
        copy, _ = await watch(client, "docs:orders", where={"status": "open"})
        plain = await other.subscribe("docs:orders", after="0")
        await plain.messages(5)
        if how == "drop":
            direct.orders.drop()
        elif how == "rename":
            direct.orders.rename("elsewhere")
        elif how == "images off":
            direct.command({"collMod": "orders", "changeStreamPreAndPostImages": {"enabled": False}})
            direct.orders.update_one({"_id": "1"}, {"$set": {"n": 1}})
        else:
            await node.tailer.close()
            # Of an event that is not there (any more): not even MongoDB could say what came after it.
            token = direct["waterspout.messages"].find_one({"_id.c": "docs:orders"})["x"]["k"]
            token = f"{token[:2]}{int(token[2:10], 16) - 1:08X}{token[10:]}"
            direct["waterspout.meta"].update_one({"_id": "tailer"}, {"$set": {"token": token}})
            direct.orders.delete_many({})
            await node.tailer.open()
        await until(lambda: copy.snapshots == 2, 20)
        gap = next(push for push in copy.pushes if push["type"] == "gap")
        assert (gap["from"], gap["to"], gap["reason"]) == (None, None, "epoch")
        if how == "images off":
            assert copy.documents["1"]["n"] == 1
        else:
            await until(lambda: not copy.documents)
        assert (await plain.next())["type"] == "gap"
        direct.orders.insert_one({"_id": "after", "status": "open"})
        await until(lambda: "after" in copy.documents)
        assert (await plain.message())["data"]["id"] == "after"


@pytest.mark.gen_test(timeout=30)
async def test_the_example_market_forgets_its_old_trades(node: Node, direct: Any) -> None:
    example = Example(node.database, frozenset(("products", "orders", "instruments", "trades")), random.Random(7))
    await example.fill()
    direct.trades.insert_many([{"_id": str(n), "time": n} for n in range(300)])
    for _ in range(50):
        await example.trade()
        await example.order()
    assert direct.trades.count_documents({}) == 200
