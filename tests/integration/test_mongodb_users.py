"""Users of MongoDB: one who may read and write is enough for everything, and one who was made anew is met again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.commands import called
from tests.support.documents import watch
from tests.support.processes import UNLIMITED, Mongod, Redis, Server
from tests.support.waiting import until

SETTINGS: dict[str, Any] = {
    **UNLIMITED,
    "auth.accounts": True,
    "mongodb.outbox": True,
    "namespaces.room": {"publish": "anyone", "subscribe": "anyone", "presence": True, "history": {"size": 5}},
    "collections.items": {"read": "anyone", "write": "anyone", "indexes": ["n"], "unique": ["serial"], "owner": None},
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """A MongoDB with users."""
    one = Mongod(tmp_path_factory.mktemp("guarded"), auth=True)
    asyncio.run(one.start())
    yield one
    asyncio.run(one.__aexit__(None, None, None))


async def servers(guarded: Mongod, directory: Path, name: str, count: int, redis: str | None = None) -> list[Server]:
    """So many at once, as a user with exactly the rights that docs/operations.md names."""
    uri = await guarded.add_user(name, name, "readWrite")
    settings = {**SETTINGS, "mongodb.database": name}
    made = [Server(directory, uri, redis, settings, name=f"{name}-{number}") for number in range(count)]
    for one in made:
        one.launch()
    return made


async def stop(some: list[Server]) -> None:
    for one in some:
        await one.stop()
        one.clean()


@pytest.mark.gen_test(timeout=120)
async def test_the_documented_rights_are_enough_for_everything(guarded: Mongod, tmp_path: Path) -> None:
    """Two servers that start at once on a new database: messages, history, presence, accounts, documents and their
    changes, revocations; and the doctor finds nothing broken."""
    redis = await Redis(tmp_path).start()
    two = await servers(guarded, tmp_path, "rights", 2, redis.url)
    try:
        await asyncio.gather(*(one.wait_ready() for one in two))
        one, other = two
        async with Client([one.ws]) as client:
            await client.subscribe("room:x", presence=True)
            await client.publish("room:x", 1)
            items, _ = await watch(client, "docs:items")
            for method, path, body, status in (
                ("PUT", "/v1/documents/items/a", {"n": 1, "serial": 1}, 201),
                ("PATCH", "/v1/documents/items/a", {"n": 2}, 200),
                ("POST", "/v1/documents/items", {"n": 3, "serial": 3}, 201),
                ("PUT", "/v1/documents/items/b", {"serial": 1}, 409),
                ("GET", "/v1/documents/items?sort=-n&count=1", None, 200),
                ("GET", "/v1/channels/room:x/messages", None, 200),
                ("GET", "/v1/channels/room:x/presence", None, 200),
                ("POST", "/v1/auth/register", {"user": "ann", "password": "correct-horse-battery"}, 201),
                ("POST", "/v1/auth/login", {"user": "ann", "password": "correct-horse-battery"}, 200),
                ("DELETE", "/v1/documents/items/a", None, 204),
                ("POST", "/v1/channels/room:later/messages", {"data": 1, "at": 1}, 201),
            ):
                answer = await other.request(method, path, body)
                assert answer.status == status, (method, path, answer)
            await until(lambda: "a" not in items.documents and len(items.documents) == 1, 10, "the changes")
        code, text = await called(*one.command()[2:], "doctor")
        assert code == 0, text
        for server in two:
            assert "Unauthorized" not in server.log.read_text()
            assert await server.terminate() == 0
    finally:
        await stop(two)
        await redis.stop()


@pytest.mark.gen_test(timeout=90)
async def test_a_user_that_was_made_anew_is_met_with_new_connections(guarded: Mongod, tmp_path: Path) -> None:
    """To the connections that are there he stays unknown, even with the same password."""
    (server,) = await servers(guarded, tmp_path, "anew", 1)
    try:
        await server.wait_ready()
        async with Client([server.ws]) as client:
            heard = await client.subscribe("chat:x")
            await client.publish("chat:x", 1)
            await guarded.admin("dropUser", "anew")
            await server.wait_status("down", 20)
            reasons = str((await server.readiness())["reasons"])
            assert "code 13" in reasons or "code 18" in reasons
            assert "not reached" not in reasons
            await guarded.add_user("anew", "anew", "readWrite")
            await client.publish_surely("chat:x", 2, key="two")
            await server.wait_ready(20)
            assert [push["data"] for push in await heard.messages(2)] == [1, 2]
    finally:
        await stop([server])
