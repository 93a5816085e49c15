"""Errors of MongoDB are told by name and code: what was published or written, and refused, is told to nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from tornado.httpclient import HTTPClientError

from tests.support.client import Client, Subscription
from tests.support.processes import UNLIMITED, Mongod, Redis, Response, Server
from tests.support.waiting import until

MARK = "the-pin-of-ann"
KEY = "key-of-the-operator"
ANYONE = {"read": "anyone", "write": "anyone"}
SETTINGS = {
    **UNLIMITED,
    "log.level": "debug",
    "log.format": "json",
    "mongodb.database": "shop",
    "mongodb.publish_timeout": 2,
    "auth.api_keys": {"ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True}},
    "collections": {
        "items": {**ANYONE, "unique": ["pin"]},
        "checked": {**ANYONE, "schema": {"properties": {"n": {"type": "integer"}}}},
    },
}
CODES = (2, 13, 18, 20, 50, 64, 89, 91, 112, 121, 189, 251, 334, 10107, 10334, 11600, 11602, 17420)


class Told:
    """A server, and all that it tells others than who has sent it the mark."""

    def __init__(self, server: Server, operator: Client, heard: list[Subscription]) -> None:
        self.server = server
        self.operator = operator
        self.heard = heard
        self.refused = 0
        self._bodies: list[str] = []

    async def attempt(self) -> list[Response | None]:
        """Everything that a client can do, with the mark in all that it sends; what is refused is kept."""
        data = {"pin": MARK, "deep": [{"er": MARK}]}
        answers = await asyncio.gather(
            self._ask("POST", "/v1/channels/chat:x/messages", {"data": data}),
            self._ask("POST", "/v1/channels/chat:x/messages", {"data": data, "key": "the same"}),
            self._ask("POST", "/v1/channels/chat:x/messages", {"data": {"other": MARK}, "key": "the same"}),
            self._ask("PUT", "/v1/documents/items/a", data),
            self._ask("PUT", "/v1/documents/items/b", data),
            self._ask("PATCH", "/v1/documents/items/a", {"pin": MARK, "n": MARK}),
            self._ask("POST", "/v1/documents/items", data),
            self._ask("PUT", "/v1/documents/checked/a", {"n": MARK}),
            self._ask("PUT", "/v1/documents/checked/b", {"n": 1, "pin": MARK, "large": MARK * 10_000}),
            self._ask("DELETE", "/v1/documents/checked/b", None),
        )
        for path in (
            "/v1/documents/items?sort=pin,deep",
            f"/v1/documents/items?where={json.dumps({'pin': MARK})}&count=1",
            "/v1/channels/chat:x/messages",
            "/v1/documents/items/a",
        ):
            await self._ask("GET", path.replace(" ", "").replace('"', "%22"), None)
        return list(answers)

    async def _ask(self, method: str, path: str, body: Any) -> Response | None:
        try:
            answer = await self.server.request(method, path, body, timeout=20)
        except (OSError, HTTPClientError):
            return None
        if answer.status >= 400:
            self.refused += 1
            self._bodies.append(json.dumps(answer.body))
        return answer

    async def everything(self) -> Mapping[str, str]:
        for path in ("/readyz", "/healthz", "/metrics", "/v1/nodes"):
            answer = await self.server.get(path, token=None if path == "/readyz" else KEY)
            self._bodies.append(str(answer.body))
        return {
            "answers": "\n".join(self._bodies),
            "log": self.server.log.read_text(),
            "$sys:": "\n".join(json.dumps(push) for one in self.heard for push in one.waiting()),
        }


@asynccontextmanager
async def told(directory: Path, uri: str, redis: str | None = None) -> AsyncIterator[Told]:
    async with (
        Server(directory, uri, redis, SETTINGS) as server,
        Client([server.ws], token=KEY) as operator,
    ):
        yield Told(server, operator, [await operator.subscribe(f"$sys:{name}") for name in ("nodes", "events")])


async def assert_untold(one: Told) -> None:
    for place, text in (await one.everything()).items():
        found = [line[:500] for line in text.splitlines() if MARK in line]
        assert not found, f"{place}: {found[:3]}"


@pytest.mark.gen_test(timeout=120)
async def test_what_mongodb_refuses_is_told_by_name_and_code(tmp_path: Path, mongod: Mongod) -> None:
    """Duplicate keys, validators, schemas, lists that cannot be sorted by, and every code that a command can fail
    with; write concerns that fail, and connections that end."""
    with closing(AsyncIOMotorClient(mongod.uri)) as client:
        await client.drop_database("shop")
        await _refusals(tmp_path, mongod, client["shop"])


async def _refusals(directory: Path, mongod: Mongod, database: Any) -> None:
    async with told(directory, mongod.uri) as one:
        first = await one.attempt()
        assert {answer.status for answer in first if answer} >= {201, 400, 409}
        strict = {"$jsonSchema": {"bsonType": "object", "required": ["never"], "title": "strict"}}
        again = {"validationLevel": "strict", "validationAction": "error"}
        for name in ("items", "checked", "waterspout.messages"):
            await database.command({"collMod": name, "validator": strict, **again})
        refused = await one.attempt()
        assert [answer.status for answer in refused if answer].count(201) == 0
        for name in ("items", "checked", "waterspout.messages"):
            await database.command({"collMod": name, "validator": {}})
        commands = ["insert", "update", "delete", "findAndModify", "find", "aggregate", "distinct"]
        try:
            for code in CODES:
                fault = {"failCommands": commands, "errorCode": code, "appName": "waterspout"}
                await mongod.fail_command(fault, {"times": 8})
                await one.attempt()
            fault = {"failCommands": commands, "closeConnection": True, "appName": "waterspout"}
            await mongod.fail_command(fault, {"times": 8})
            await one.attempt()
            concern = {"code": 64, "errmsg": f"waiting for {MARK}", "errInfo": {"document": MARK}}
            fault = {"failCommands": commands, "writeConcernError": concern, "appName": "waterspout"}
            await mongod.fail_command(fault, {"times": 8})
            await one.attempt()
        finally:
            await mongod.disarm()
        assert one.refused > 100
        await assert_untold(one)


@pytest.mark.gen_test(timeout=120)
async def test_a_right_that_was_taken_is_told_without_the_command(tmp_path: Path) -> None:
    """MongoDB's words for it are the whole command, with all documents of a batch in it."""
    async with Mongod(tmp_path, auth=True) as mongod:
        uri = await mongod.add_user("shop", "shop", "readWrite")
        async with told(tmp_path, uri) as one:
            await one.attempt()
            right = [{"role": "readWrite", "db": "shop"}]
            await mongod.admin("revokeRolesFromUser", "shop", roles=right)
            await one.attempt()
            answer = await one.server.get("/readyz")
            assert "Unauthorized (code 13)" in str(answer.body)
            await mongod.admin("grantRolesToUser", "shop", roles=right)
            await one.server.wait_ready()
            await assert_untold(one)


@pytest.mark.gen_test(timeout=60)
async def test_a_redis_that_refuses_publishes_is_told_without_them(tmp_path: Path, mongod: Mongod) -> None:
    """An ACL without PUBLISH: messages come from MongoDB, and `/readyz`, which anybody may ask, says no more."""
    async with Redis(tmp_path) as redis, told(tmp_path, mongod.uri, redis.url) as one:
        await redis.ask("ACL SETUSER", "default", "-publish")

        async def degraded() -> bool:
            await one.attempt()
            return "NOPERM" in str((await one.server.get("/readyz")).body)

        await until(degraded, 20, "a reason")
        await assert_untold(one)
