"""Live documents under everything at once: whoever watches ends with exactly what MongoDB has."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.chaos.world import World, span
from tests.support.client import UNREACHABLE
from tests.support.documents import Copy, watch
from tests.support.processes import ReplicaSet, Server
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=span(150, 900))

PAUSE = span(0.03, 0)
"""Seconds after each write."""
IDS = [f"d{number}" for number in range(60)]
SETTINGS = {"collections.items": {"read": "anyone", "write": "anyone", "history": {"size": 0, "ttl": 0}}}


class Writers:
    """Random puts, patches and deletes, with and without conditions, through servers and past them."""

    def __init__(self, servers: list[Server], mongodb_uri: str, database: str, seed: int) -> None:
        self._servers = servers
        self._uri, self._database = mongodb_uri, database
        self._random = random.Random(seed)
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []
        self.written = 0

    async def __aenter__(self) -> Writers:
        self._tasks = [asyncio.create_task(self._through(server)) for server in self._servers * 2]
        self._tasks.append(asyncio.create_task(asyncio.to_thread(self._directly)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def until_written(self, more: int) -> None:
        target = self.written + more
        await until(lambda: self.written >= target, 60, f"{more} writes")

    def _fields(self) -> dict[str, Any]:
        chance = self._random
        return {"kind": chance.choice("abc"), "n": chance.randrange(1000), "text": "x" * chance.randrange(200)}

    async def _through(self, server: Server) -> None:
        chance = self._random
        while not self._stop:
            path = f"/v1/documents/items/{chance.choice(IDS)}"
            method = chance.choice(["PUT", "PUT", "PATCH", "DELETE"])
            fields = self._fields()
            body = None if method == "DELETE" else fields if method == "PUT" else {"n": fields["n"], "kind": None}
            headers = {}
            try:
                if chance.random() < 0.3:
                    seen = await server.get(path, timeout=15)
                    headers = {"If-Match": seen.headers["ETag"]} if seen.status == 200 else {"If-Match": '"none"'}
                answer = await server.request(method, path, body, headers=headers, timeout=15)
                assert answer.status in (200, 201, 204, 404, 412, 503), answer
                self.written += answer.status < 300
                await asyncio.sleep(PAUSE)
            except UNREACHABLE:
                await asyncio.sleep(0.1)

    def _directly(self) -> None:
        chance = self._random
        with MongoClient[Any](self._uri, w="majority", serverSelectionTimeoutMS=15_000) as client:
            items = client[self._database]["items"]
            while not self._stop:
                one = {"_id": chance.choice(IDS)}
                try:
                    if chance.random() < 0.2:
                        items.delete_one(one)
                    elif chance.random() < 0.2:
                        with client.start_session() as session, session.start_transaction():
                            for other in chance.sample(IDS, 3):
                                items.update_one({"_id": other}, {"$set": {"n": -1}}, upsert=True, session=session)
                    else:
                        items.update_one(one, {"$set": self._fields(), "$inc": {"direct": 1}}, upsert=True)
                    self.written += 1
                    time.sleep(PAUSE)
                except PyMongoError:
                    pass


async def holder(mongodb_uri: str, database: str) -> str | None:
    """The node that tails."""

    def find() -> str | None:
        with MongoClient[Any](mongodb_uri, serverSelectionTimeoutMS=10_000) as client:
            return ((client[database]["waterspout.meta"].find_one({"_id": "tailer"})) or {}).get("holder")

    return await asyncio.to_thread(find)


async def tailing(world: World, servers: list[Server]) -> Server:
    """The server that tails."""
    names = {}
    for server in servers:
        client = await world.client(server, stay=False)
        names[client.session["node"]] = server
        await client.close()

    async def known() -> Server | None:
        return names.get(await holder(world.mongodb_uri, world.name) or "")

    return await until(known, 20, "tailer", every=0.1)


def same(copy: Copy, expected: dict[str, Any]) -> Callable[[], bool]:
    return lambda: copy.whole.is_set() and copy.documents == expected


async def everything(server: Server, where: dict[str, Any] | None = None) -> dict[str, Any]:
    query = "" if where is None else f"&where={quote(json.dumps(where))}"
    answer = await server.get(f"/v1/documents/items?limit=1000{query}")
    assert answer.status == 200, answer
    return {one["_id"]: one for one in answer.body["documents"]}


@pytest.mark.parametrize("seed", span([1], [1, 2, 3, 4, 5]))
async def test_19_a_watchers_copy_is_what_mongodb_has(
    replicated_world: World, replica_set: ReplicaSet, seed: int
) -> None:
    """Writers on two instances and past them; the tailing server is killed, a primary stands down, a server is
    restarted, clients are cut. Watchers from before and from the middle, of all and of views, by cursor and with
    snapshots, all end with the same documents and revisions as MongoDB, and no offset came twice or out of order."""
    world = replicated_world
    world.settings |= SETTINGS
    views: list[dict[str, Any]] = [{}, {"where": {"kind": "a"}}, {"where": {"n": {"$gte": 500}}}, {"conflate": 0.2}]
    async with world:
        redis = await world.redis()
        servers = await world.start_servers([redis.url] * 2)
        copies: list[tuple[Copy, dict[str, Any]]] = []
        clients = []

        async def join() -> None:
            for number, view in enumerate(views):
                first, second = servers if number % 2 else servers[::-1]
                client = await world.client(first, second, name=f"watcher-{len(copies)}")
                clients.append(client)
                copies.append(((await watch(client, "docs:items", **view))[0], view))

        await join()
        faults: list[Callable[[], Awaitable[Any]]] = [
            lambda: strike(kill=True),
            replica_set.step_down,
            lambda: strike(kill=False),
        ]

        async def strike(kill: bool) -> None:
            struck = await tailing(world, servers)
            await (struck.kill() if kill else struck.stop())
            await struck.start()

        async with Writers(servers, world.mongodb_uri, world.name, seed) as writers:
            for fault in faults * span(1, 5):
                await writers.until_written(100)
                await fault()
                await replica_set.primary()
                clients[0].abort()
                await writers.until_written(100)
                await join()
        for server in servers:
            await server.wait_status("ready", 30)
        for copy, view in copies:
            expected = await everything(servers[0], view.get("where"))
            try:
                await until(same(copy, expected), 20)
            except TimeoutError:
                differing = {one for one in IDS if copy.documents.get(one) != expected.get(one)}
                pytest.fail(f"{view} differs in {differing}; last {copy.pushes[-1]}")
            assert copy.errors == []
            assert not [push for push in copy.pushes if push["type"] == "gap"], "nothing was lost, nobody is told so"
        print(f"19: {writers.written} writes, {len(copies)} watchers, {sum(len(c.pushes) for c, _ in copies)} pushes")
