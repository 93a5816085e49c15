"""A start that cannot succeed says in one line what is wrong and how it is mended; one that may yet succeed says what
it waits for, and goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.support.commands import refused
from tests.support.mongod import ROOT_USER
from tests.support.processes import Mongod, Server, free_port
from tests.support.proxy import Proxy
from tests.support.waiting import until

ITEMS = "collections.items={read: anyone, unique: [serial]}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """A MongoDB with users."""
    one = Mongod(tmp_path_factory.mktemp("guarded"), auth=True)
    asyncio.run(one.start())
    yield one
    asyncio.run(one.__aexit__(None, None, None))


# --- what can never succeed -------------------------------------------------------------------------------------------


def flags(uri: str, database: str, *more: str) -> list[str]:
    given = ["--port", str(free_port()), "--mongodb-uri", uri, "--set", f"mongodb.database={database}"]
    return [*given, *(part for one in more for part in ("--set", one))]


async def wrong_password(mongod: Mongod, _: Any) -> list[str]:
    await mongod.add_user("ann", "starts", "readWrite")
    return flags(mongod.uri_of("ann", "another"), "starts")


async def unknown_user(mongod: Mongod, _: Any) -> list[str]:
    return flags(mongod.uri_of("nobody"), "starts")


async def no_rights(mongod: Mongod, _: Any) -> list[str]:
    return flags(await mongod.add_user("bob", "elsewhere", "readWrite"), "starts")


async def only_read(mongod: Mongod, _: Any) -> list[str]:
    return flags(await mongod.add_user("cid", "starts", "read"), "starts")


async def no_user(mongod: Mongod, _: Any) -> list[str]:
    return flags(mongod.uri, "starts")


async def doubles(mongod: Mongod, client: Any) -> list[str]:
    client.doubles.items.insert_many([{"serial": 1}, {"serial": 1}])
    return flags(mongod.uri_of(ROOT_USER), "doubles", ITEMS)


async def a_view(mongod: Mongod, client: Any) -> list[str]:
    client.views.create_collection("items", viewOn="other", pipeline=[])
    return flags(mongod.uri_of(ROOT_USER), "views", ITEMS)


async def an_index_of_another(mongod: Mongod, client: Any) -> list[str]:
    client.indexed["waterspout.messages"].create_index("other", name="key")
    return flags(mongod.uri_of(ROOT_USER), "indexed")


async def a_bad_name(mongod: Mongod, _: Any) -> list[str]:
    return flags(mongod.uri_of(ROOT_USER), "'my database'")


async def a_password_not_encoded(_: Mongod, __: Any) -> list[str]:
    return flags("mongodb://ann:pass/word@127.0.0.1:1/", "starts")


async def no_certificates(_: Mongod, __: Any) -> list[str]:
    return flags("mongodb://127.0.0.1:1/?tls=true&tlsCAFile=/nowhere.pem", "starts")


async def a_redis_url(mongod: Mongod, _: Any) -> list[str]:
    return [*flags(mongod.uri_of(ROOT_USER), "starts"), "--redis-url", "redis://ann:pass/word@127.0.0.1"]


NEVER: dict[str, tuple[Callable[[Mongod, Any], Awaitable[list[str]]], tuple[str, ...]]] = {
    "wrong password": (wrong_password, ("mongodb.uri", "password is wrong", "code 18")),
    "unknown user": (unknown_user, ("mongodb.uri", "password is wrong", "code 18")),
    "no rights": (no_rights, ("mongodb.uri", "readWrite on the database starts", "code 13")),
    "only read": (only_read, ("mongodb.uri", "readWrite on the database starts", "code 13")),
    "no user": (no_user, ("mongodb.uri", "readWrite on the database starts", "code 13")),
    "doubles": (doubles, ("collections.items", "serial", "code 11000", "delete the doubles")),
    "a view": (a_view, ("collections.items", "it is a view")),
    "an index of another": (an_index_of_another, ("index", "dropIndex")),
    "a bad name": (a_bad_name, ("mongodb.database", "a space")),
    "a password not encoded": (a_password_not_encoded, ("mongodb.uri",)),
    "no certificates": (no_certificates, ("mongodb.uri", "/nowhere.pem", "No such file")),
    "a bad Redis URL": (a_redis_url, ("redis.url", "percent-encoded")),
}


@pytest.mark.gen_test(timeout=90)
@pytest.mark.parametrize("name", NEVER)
async def test_what_cannot_change_is_said_once(guarded: Mongod, name: str) -> None:
    """One line, exit code 1, and nothing of a password in it."""
    prepare, words = NEVER[name]
    with MongoClient[Any](guarded.uri_of(ROOT_USER)) as client:
        said = await refused(*await prepare(guarded, client))
    assert all(word in said for word in words), said
    assert not any(part in said for part in ("one-password", "pass/word", "another@", "word@"))


@pytest.mark.gen_test(timeout=90)
async def test_an_old_mongodb_is_named(tmp_path: Path) -> None:
    """Documents need version 6.0; one that is told to be 5.0 refuses what they need."""
    async with Mongod(tmp_path) as mongod:
        await mongod.admin("setFeatureCompatibilityVersion", "5.0")
        said = await refused(*flags(mongod.uri, "old", ITEMS))
        assert "collections." in said
        assert "MongoDB 6.0 or newer" in said


# --- what may yet succeed ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def waiting(directory: Path, uri: str, *words: str) -> AsyncIterator[Server]:
    """A server that starts, and says in `/readyz` that it waits for this."""
    server = Server(directory, uri)
    server.launch()
    seen: set[str] = set()

    async def says() -> bool:
        assert server.running, server.log_tail()
        body = await server.readiness()
        seen.update(body["reasons"] if body else ())
        return any(all(word in reason for word in words) for reason in seen)

    try:
        try:
            await until(says, 30, f"{words}")
        except TimeoutError:
            raise AssertionError(f"it said {seen}\n{server.log_tail()}") from None
        assert not any("not reached" in one for one in seen)
        answer = await server.post("/v1/channels/chat:x/messages", {"data": 1})
        assert answer.status == 503
        assert all(word in answer.body["reason"] for word in words)
        yield server
    finally:
        await server.stop()
        server.clean()


@pytest.mark.gen_test(timeout=60)
async def test_an_unknown_host_is_named(tmp_path: Path) -> None:
    """Names may come later, as those of containers do; until then it says which one is not known."""
    async with waiting(tmp_path, "mongodb://nowhere.invalid:27017/?replicaSet=rs", "nowhere.invalid:27017") as server:
        assert await server.terminate() == 0


@pytest.mark.gen_test(timeout=60)
async def test_a_mongodb_that_starts_later_is_waited_for(tmp_path: Path) -> None:
    """Refused connections are told as such, and the server is ready once MongoDB is."""
    mongod = Mongod(tmp_path)
    async with waiting(tmp_path, mongod.uri, mongod.address, "Errno 111") as server, mongod:
        await server.wait_ready()
        assert await server.terminate() == 0


@pytest.mark.gen_test(timeout=60)
async def test_a_replica_set_that_is_initiated_later(tmp_path: Path) -> None:
    """It says how to initiate it."""
    mongod = Mongod(tmp_path)
    mongod.launch()
    try:
        await mongod.wait_answering()
        async with waiting(
            tmp_path, f"mongodb://{mongod.address}/?directConnection=true", "not initiated", "rs.initiate()"
        ) as server:
            await mongod.wait_ready()
            await server.wait_ready()
            assert await server.terminate() == 0
    finally:
        await mongod.stop()
        mongod.clean()


@pytest.mark.gen_test(timeout=60)
async def test_a_replica_set_of_another_name(tmp_path: Path, mongod: Mongod) -> None:
    """The name in the URI stands in the reason."""
    uri = f"mongodb://{mongod.address}/?replicaSet=another"
    async with waiting(tmp_path, uri, "another") as server:
        assert await server.terminate() == 0


@pytest.mark.gen_test(timeout=60)
async def test_tls_where_there_is_none(tmp_path: Path, mongod: Mongod) -> None:
    """The reason is of TLS."""
    uri = f"mongodb://{mongod.address}/?tls=true&directConnection=true"
    async with waiting(tmp_path, uri, "SSL") as server:
        assert await server.terminate() == 0


@pytest.mark.gen_test(timeout=60)
async def test_a_network_that_swallows_everything(tmp_path: Path, mongod: Mongod) -> None:
    """It is the time-out that is told, and the way is taken as soon as it is open."""
    async with Proxy(mongod.port) as proxy:
        proxy.black_hole()
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        async with waiting(tmp_path, uri, f"127.0.0.1:{proxy.port}", "timed out") as server:
            await proxy.heal()
            await server.wait_ready()
            assert await server.terminate() == 0
