"""Documents over REST against a model in Python: random writes, batches and lists, one after the other and in between.

What is compared: every answer with what the model says (status, content, revision), every list page by page (complete,
in order, each document once, though others come and go between the pages), and what each of several users may see.
The model knows nothing of MongoDB: a dict of documents, an order and a filter of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import cmp_to_key
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.chaos.world import span
from tests.support.client import make_token
from tests.support.plain_http import plain
from tests.support.processes import UNLIMITED, Mongod, Server

pytestmark = pytest.mark.gen_test(timeout=span(120, 2400))

KEY = "the key of the shop, which sees all"
SECRET = "a secret of at least thirty-two bytes"
SETTINGS = {
    "auth.secret": SECRET,
    "auth.api_keys": {"shop": {"sha256": hashlib.sha256(KEY.encode()).hexdigest()}},
    "limits.requests_per_second": 0,
    "collections.free": {"read": "anyone", "write": "anyone"},
    "collections.owned": {"read": "user", "write": "user", "owner": "by"},
}
SHOP = "shop"
USERS = ["ann", "bob", "eve"]
IDS = [f"d{n:02}" for n in range(25)] + ["0123456789abcdef01234567", "é", "\U0001f600", "￿", "Z", "a/b"]
SCALARS: list[Any] = [
    None, True, False, 0, 1, 2, -1, 0.5, 1e300, 2**53 + 1, "", "a", "b", "ab", "é", "￿", "\U0001f600",
]  # fmt: skip
Document = dict[str, Any]


# --- the model --------------------------------------------------------------------------------------------------------


def rank(value: Any) -> tuple[int, Any]:
    """The order of single values: nothing (an empty list), null, numbers, texts, objects, lists, truth."""
    if value is UNDEFINED:
        return 0, 0
    if value is None:
        return 1, 0
    if isinstance(value, bool):
        return 6, value
    if isinstance(value, int | float):
        return 2, value
    if isinstance(value, str):
        return 3, value.encode()
    if isinstance(value, dict):
        return 4, [(rank(one)[0], name.encode(), rank(one)) for name, one in value.items()]
    return 5, [rank(one) for one in value]


UNDEFINED = object()


def sort_key(document: Document, path: str, direction: int) -> tuple[int, Any]:
    """Of a list the least or the greatest of what it has."""
    values = found_at(document, path.split("."))
    return (min if direction == 1 else max)(rank(value) for value in values)


def found_at(value: Any, path: list[str]) -> list[Any]:
    """What a path leads to for sorting; never nothing."""
    if not path:
        return (value or [UNDEFINED]) if isinstance(value, list) else [value]
    if isinstance(value, dict):
        return found_at(value.get(path[0]), path[1:])
    if isinstance(value, list) and value:
        return [each for one in value for each in (found_at(one, path) if isinstance(one, dict) else [None])]
    return [None]


def has_list(document: Document, path: str) -> bool:
    value: Any = document
    for part in path.split("."):
        if isinstance(value, list):
            return True
        value = value.get(part) if isinstance(value, dict) else None
    return isinstance(value, list)


def matches(document: Document, where: Document) -> bool:
    for path, wanted in where.items():
        if path == "$and":
            if not all(matches(document, one) for one in wanted):
                return False
            continue
        conditions = wanted if isinstance(wanted, dict) else {"$eq": wanted}
        values = offered(document, path.split("."))
        if not all(holds(values, operator, operand) for operator, operand in conditions.items()):
            return False
    return True


def offered(value: Any, path: list[str]) -> list[Any]:
    """What a path leads to for a `where`."""
    if not path:
        return value if isinstance(value, list) else [value]
    if isinstance(value, list):
        return [each for one in value if isinstance(one, dict) for each in offered(one, path)]
    if isinstance(value, dict) and path[0] in value:
        return offered(value[path[0]], path[1:])
    return [None]


def holds(values: list[Any], operator: str, operand: Any) -> bool:
    if operator == "$in":
        return any(holds(values, "$eq", one) for one in operand)
    if operator == "$ne":
        return not holds(values, "$eq", operand)
    kind, wanted = rank(operand)
    same = [one for one in map(rank, values) if one[0] == kind]
    compare: dict[str, Callable[[Any], bool]] = {
        "$eq": lambda one: one == wanted,
        "$gt": lambda one: one > wanted,
        "$gte": lambda one: one >= wanted,
        "$lt": lambda one: one < wanted,
        "$lte": lambda one: one <= wanted,
    }
    return any(compare[operator](one) for _, one in same)


def merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


class Model:
    """One collection. `write` says what a write is answered, and does it."""

    def __init__(self, owner: str | None) -> None:
        self.owner = owner
        self.documents: dict[str, Document] = {}
        self.revs: dict[str, str] = {}
        """As the server has told them."""
        self.touched: set[str] = set()
        """Since the list under way began."""

    def may_see(self, user: str, document: Document) -> bool:
        if self.owner is None or user == SHOP:
            return True
        by = document.get(self.owner)
        return by == user or (isinstance(by, list) and user in by)

    def rows(self, user: str) -> dict[str, Document]:
        return {name: one for name, one in self.documents.items() if self.may_see(user, one)}

    def write(self, user: str, write: Document) -> tuple[int, str | None]:
        """(status, id). The id of a create is the document's own."""
        op, fields = write["op"], dict(write.get("document") or {})
        create = "document_id" not in write
        name: str = fields["_id"] if create else write["document_id"]
        fields.pop("_id", None)
        current = self.documents.get(name)
        if current is not None and not self.may_see(user, current):
            if create and fields.get(self.owner or "") not in (None, user):
                return 403, name
            return (409 if create else 404), name
        if create and self.owner is not None and user != SHOP and fields.get(self.owner) not in (None, user):
            return 403, name
        if create and current is not None:
            return 409, name
        if write.get("if_absent") and current is not None:
            return 412, name
        rev = write.get("if_rev")
        if rev is not None and (current is None or rev not in ("*", self.revs.get(name))):
            return 412, name
        if current is None and op != "put":
            return 404, name
        if self.owner is not None and user != SHOP and op != "delete":
            kept = user if current is None else current.get(self.owner)
            given = fields.get(self.owner, kept)
            if given is None and op == "put":
                given = kept
            if given != kept:
                return 403, name
            fields[self.owner] = kept
        if op == "delete":
            del self.documents[name]
            self.revs.pop(name, None)
            self.touched.add(name)
            return 204, name
        after = merged(current, fields) if op == "patch" else fields
        if current != after or [*current] != [*after]:
            self.touched.add(name)
        self.documents[name] = after
        return (201 if current is None else 200), name


# --- who tries it -----------------------------------------------------------------------------------------------------


class Trial:
    def __init__(self, http: httpx.AsyncClient, seed: str) -> None:
        self.http = http
        self.seed = seed
        self.chance = random.Random(seed)
        self.models = {"free": Model(None), "owned": Model("by")}
        tokens = {user: make_token(SECRET, user) for user in USERS} | {SHOP: KEY}
        self.headers = {user: {"Authorization": f"Bearer {token}"} for user, token in tokens.items()}
        self.done: Counter[str] = Counter()
        self.log: list[Any] = []
        """The last steps, for whoever looks for the fault."""

    def note(self, *step: Any) -> None:
        self.log = [*self.log[-60:], step]

    def check(self, holds: bool, *about: Any) -> None:
        if not holds:
            steps = "\n".join(repr(step)[:400] for step in self.log)
            raise AssertionError(f"seed {self.seed!r}, after {sum(self.done.values())} steps: {about!r:.3000}\n{steps}")

    async def step(self) -> None:
        chance = self.chance
        collection = chance.choice(["free", "owned"])
        await chance.choices([self.write, self.batch, self.read, self.at_once, self.pages], [10, 3, 3, 1, 4])[0](
            collection
        )

    def value(self, depth: int = 2) -> Any:
        chance = self.chance
        if not depth or chance.random() < 0.6:
            return chance.choice(SCALARS)
        if chance.random() < 0.5:
            return [self.value(depth - 1) for _ in range(chance.randrange(4))]
        return {name: self.value(depth - 1) for name in chance.sample("xyz", chance.randrange(3))}

    def some_write(self, collection: str, user: str) -> Document:
        chance, model = self.chance, self.models[collection]
        name = chance.choice(IDS)
        op = chance.choices(["put", "patch", "delete"], [5, 3, 2])[0]
        write: Document = {"op": op, "document_id": name}
        if op != "delete":
            fields = {field: self.value() for field in chance.sample(["n", "m", "tags", "o"], chance.randrange(5))}
            if collection == "owned":
                if user == SHOP:
                    owners = [*USERS, chance.sample(USERS, 2), [], None, 5]
                    fields["by"] = chance.choice(owners)
                    if op == "patch" and fields["by"] is None:
                        del fields["by"]
                elif chance.random() < 0.5:
                    seen = model.documents.get(name, {}).get("by")
                    fields["by"] = chance.choice([user, user, seen, chance.choice(USERS), [user]])
                    if op == "patch" and fields["by"] is None:
                        del fields["by"]
            write["document"] = fields
        if chance.random() < 0.25:
            write["if_rev"] = chance.choice([model.revs.get(name, "none"), "*", "other"])
        elif op == "put" and chance.random() < 0.2:
            write["if_absent"] = True
        elif op == "put" and chance.random() < 0.15:
            write = {"op": "put", "document": {"_id": name, **write["document"]}}
        return write

    async def request(self, method: str, path: str, user: str, body: Any = None, **headers: str) -> httpx.Response:
        content = None if body is None else json.dumps(body).encode()
        response = await self.http.request(method, path, content=content, headers=self.headers[user] | headers)
        self.check(response.status_code < 500, method, path, body, response.text)
        return response

    def path(self, collection: str, name: str) -> str:
        return f"/v1/documents/{collection}/{quote(name, safe='')}"

    def learn(self, collection: str, user: str, write: Document, status: int, name: str, shown: Any) -> None:
        """What a write was answered; the model has done it already."""
        model = self.models[collection]
        if status in (200, 201):
            fields = {field: value for field, value in shown.items() if field not in ("_id", "_rev")}
            self.check(shown["_id"] == name, write, shown)
            self.check(fields == model.documents[name], user, write, shown, model.documents[name])
            model.revs[name] = shown["_rev"]

    async def write(self, collection: str) -> None:
        user = self.chance.choice([*USERS, SHOP])
        write = self.some_write(collection, user)
        model = self.models[collection]
        self.note("write", collection, user, write)
        expected, name = model.write(user, write)
        assert name is not None
        headers: dict[str, str] = {}
        if "if_rev" in write:
            headers["If-Match"] = "*" if write["if_rev"] == "*" else f'"{write["if_rev"]}"'
        if write.get("if_absent"):
            headers["If-None-Match"] = "*"
        if "document_id" in write:
            path, method = self.path(collection, name), write["op"].upper()
        else:
            path, method = f"/v1/documents/{collection}", "POST"
        response = await self.request(method, path, user, write.get("document"), **headers)
        self.check(response.status_code == expected, expected, response.status_code, response.text)
        body = response.json() if response.content else None
        self.learn(collection, user, write, expected, name, body)
        if expected == 412 and "rev" in body:
            self.check(body["rev"] == model.revs.get(name), body)
        self.done["writes"] += 1

    async def batch(self, collection: str) -> None:
        user = self.chance.choice([*USERS, SHOP])
        writes: list[Document] = []
        for _ in range(self.chance.randrange(1, 12)):
            write = self.some_write(collection, user)
            if write.get("if_rev") not in (None, "*", "other"):
                del write["if_rev"]  # of a revision that an earlier one of the batch may have ended
            writes.append(write)
        self.note("batch", collection, user, writes)
        model = self.models[collection]
        expected = [model.write(user, write) for write in writes]
        response = await self.request("POST", f"/v1/documents/{collection}:batch", user, {"writes": writes})
        self.check(response.status_code == 200, response.text)
        results = response.json()["results"]
        last: dict[str, Any] = {}
        for write, (status, name), result in zip(writes, expected, results, strict=True):
            error = (result.get("error") or {}).get("code")
            codes = {403: "permission_denied", 404: "not_found", 409: "conflict", 412: "conflict"}
            self.check(error == codes.get(status), write, status, result)
            if status == 204:
                self.check(result == {"deleted": True}, write, result)
                last.pop(name or "", None)
            elif error is None:
                self.check(result["created"] == (status == 201), write, result)
                last[name or ""] = result["document"]
        for name, shown in last.items():
            self.learn(collection, user, {}, 200, name, shown)
        self.done["batches"] += 1

    async def read(self, collection: str) -> None:
        user, name = self.chance.choice([*USERS, SHOP]), self.chance.choice(IDS)
        self.note("read", collection, user, name)
        response = await self.request("GET", self.path(collection, name), user)
        seen = self.models[collection].rows(user).get(name)
        if seen is None:
            self.check(response.status_code == 404, name, response.text)
        else:
            rev = self.models[collection].revs[name]
            self.check(response.json() == {"_id": name, "_rev": rev, **seen}, seen, rev, response.text)
        self.done["reads"] += 1

    async def at_once(self, collection: str) -> None:
        """Several puts and deletes of one document at the same time: one of them is the last, and all agree which
        could be."""
        model = self.models[collection]
        name = self.chance.choice(IDS)
        contents = [{"n": f"{time.monotonic_ns()}-{number}"} for number in range(self.chance.randrange(2, 8))]
        self.note("at once", collection, name, contents)
        was_there = name in model.documents
        deletes = self.chance.randrange(3)
        path = self.path(collection, name)
        responses = await asyncio.gather(
            *(self.request("PUT", path, SHOP, one) for one in contents),
            *(self.request("DELETE", path, SHOP) for _ in range(deletes)),
        )
        self.check(
            {one.status_code for one in responses} <= {200, 201, 204, 404}, [one.status_code for one in responses]
        )
        created = sum(one.status_code == 201 for one in responses)
        deleted = sum(one.status_code == 204 for one in responses)
        final = await self.request("GET", path, SHOP)
        there = final.status_code == 200
        self.check(was_there + created - deleted == there, was_there, created, deleted, there)
        model.touched.add(name)
        if there:
            shown = final.json()
            self.check({"n": shown["n"]} in contents, shown)
            model.documents[name], model.revs[name] = {"n": shown["n"]}, shown["_rev"]
        else:
            model.documents.pop(name, None)
            model.revs.pop(name, None)
        self.done["at once"] += 1

    def some_where(self) -> Document | None:
        chance = self.chance
        if chance.random() < 0.4:
            return None

        def condition() -> Any:
            if chance.random() < 0.4:
                return chance.choice(SCALARS)
            if chance.random() < 0.3:
                return {"$in": [chance.choice(SCALARS) for _ in range(chance.randrange(4))]}
            operators = chance.sample(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"], chance.randrange(1, 3))
            return {operator: chance.choice(SCALARS) for operator in operators}

        paths = chance.sample(["n", "m", "tags", "o.x", "o.x.y", "tags.x"], chance.randrange(1, 3))
        where: Document = {path: condition() for path in paths}
        return {"$and": [where, {chance.choice(paths): condition()}]} if chance.random() < 0.2 else where

    async def pages(self, collection: str) -> None:
        """Page by page, and between the pages others write."""
        chance, model = self.chance, self.models[collection]
        user = chance.choice([*USERS, SHOP])
        where = self.some_where()
        paths = chance.sample(["n", "m", "tags", "o.x"], chance.randrange(3))
        order = [(path, chance.choice([1, -1])) for path in paths] + [("_id", chance.choice([1, -1]))]
        sort = ",".join(("-" if direction < 0 else "") + path for path, direction in order)
        limit = chance.choice([1, 2, 3, 7, 100])
        fields = chance.choice([None, None, "n,by"])
        query: dict[str, Any] = {"limit": limit, "count": 1}
        if sort != "_id" or chance.random() < 0.5:
            query["sort"] = sort
        if where is not None:
            query["where"] = json.dumps(where)
        if fields is not None:
            query["fields"] = fields
        self.note("list", collection, user, query)
        model.touched.clear()

        def chosen() -> dict[str, Document]:
            return {name: one for name, one in model.rows(user).items() if where is None or matches(one, where)}

        before = {name: json.loads(json.dumps(one)) for name, one in chosen().items()}
        two_lists = False
        seen: list[str] = []
        page: str | None = None
        quiet = chance.random() < 0.4
        while True:
            now = chosen()
            where_to = f"/v1/documents/{collection}?{httpx.QueryParams(query | ({'page': page} if page else {}))}"
            response = await self.request("GET", where_to, user)
            two_lists = two_lists or any(sum(has_list(one, path) for path in paths) > 1 for one in now.values())
            if response.status_code == 400 and two_lists:
                self.done["lists without an order"] += 1
                return
            self.check(response.status_code == 200, response.status_code, response.text)
            answer = response.json()
            self.check(answer["count"] == len(now), answer["count"], len(now))
            for shown in answer["documents"]:
                name = shown["_id"]
                self.check(name in now, "not among what this user may see and has asked for", shown)
                whole = {"_id": name, "_rev": model.revs[name], **now[name]}
                if fields is not None:
                    whole = {field: value for field, value in whole.items() if field in ("_id", "_rev", "n", "by")}
                self.check(shown == whole, shown, whole)
                seen.append(name)
            self.check(len(answer["documents"]) <= limit, len(answer["documents"]))
            page = answer["page"]
            if page is None:
                break
            self.check(len(answer["documents"]) == limit, "a short page that is not the last", answer)
            self.check(len(page) <= 1000, page)
            for _ in range(0 if quiet else chance.randrange(3)):
                await chance.choice([self.write, self.write, self.batch, self.at_once])(collection)
        twice = [name for name, times in Counter(seen).items() if times > 1 and name not in model.touched]
        self.check(not twice, "twice", twice, seen)
        kept = [name for name in seen if name not in model.touched]
        missing = before.keys() - model.touched - set(seen)
        self.check(not missing, "never shown", missing, seen)

        def compare(one: str, other: str) -> int:
            for path, direction in order:
                if path == "_id":
                    a, b = id_key(one), id_key(other)
                else:
                    a, b = (sort_key(before[name], path, direction) for name in (one, other))
                if a != b:
                    return direction if a > b else -direction
            return 0

        if not two_lists:
            expected = sorted(kept, key=cmp_to_key(compare))
            self.check(kept == expected, "order", kept, expected)
        self.done["lists"] += 1


def id_key(name: str) -> bytes:
    return name.encode()


# --- the test ---------------------------------------------------------------------------------------------------------


async def test_21_documents_are_what_a_model_says(
    tmp_path: Path, mongod: Mongod, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is written, in whatever order and however many at once: answers, lists and owners are the model's."""
    seed = os.environ.get("WATERSPOUT_SEED") or str(random.SystemRandom().randrange(10**9))
    steps, seconds = span(200, 10**9), span(60.0, float(os.environ.get("WATERSPOUT_SECONDS") or 600))
    with capsys.disabled():
        print(f"\n21: documents against a model, WATERSPOUT_SEED={seed}")
    settings = {**UNLIMITED, **SETTINGS, "mongodb.database": f"model_{uuid.uuid4().hex[:12]}"}
    async with (
        Server(tmp_path, mongod.uri, settings=settings) as server,
        plain(base_url=server.base, timeout=30) as http,
    ):
        trial = Trial(http, seed)
        until = time.monotonic() + seconds
        number = 0
        while number < steps and time.monotonic() < until:
            number += 1
            await trial.step()
    with capsys.disabled():
        print(f"21: {dict(trial.done)}")
    assert trial.done["lists"] > 10


def test_the_model_notices_what_is_wrong() -> None:
    """A checker that cannot fail proves nothing."""
    assert sort_key({"t": []}, "t", 1) < sort_key({"t": [None, 5]}, "t", 1) < sort_key({"t": 5}, "t", 1)
    assert sort_key({"t": [None, 5]}, "t", -1) == sort_key({"t": 5}, "t", -1)
    assert matches({"a": [1, 2]}, {"a": {"$gt": 1}})
    assert not matches({"a": [1, 2]}, {"a": {"$ne": 1}})
    model = Model("by")
    assert model.write("ann", {"op": "put", "document_id": "1", "document": {}}) == (201, "1")
    assert model.write("bob", {"op": "delete", "document_id": "1"}) == (404, "1")
    assert model.rows("bob") == {}
