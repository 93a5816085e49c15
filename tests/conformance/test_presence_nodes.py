"""Presence is the same with every broker and on every node: whole nodes, on a real MongoDB and a real Redis."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.testing import bind_unused_port

import server.node
import server.presence.attendance
from handlers import make_app
from handlers.server import HTTPServer
from server.core import config
from server.core.principals import Principal
from server.node import Node
from tests.support.client import Client, make_token
from tests.support.processes import UNLIMITED, Mongod, Redis, Server
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
ROOM = "room:a"
numbers = itertools.count()


class House:
    """A node in this process and its door."""

    def __init__(self, settings: dict[str, Any], mongod: Mongod) -> None:
        self.node = Node(config.load(None, {}, settings.items()), mongod.uri)

    async def __aenter__(self) -> Self:
        listener, self.port = bind_unused_port()
        self.server = HTTPServer(make_app(self.node), [listener])
        await self.node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.stop()
        await self.node.close()
        await self.server.close_all_connections()

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    async def presence(self) -> Any:
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{self.port}/v1/channels/{ROOM}/presence")
        return json.loads(answer.body)

    def names(self) -> list[str]:
        return [row["user"] for row in self.node.attendance.show(ROOM)["users"]]


class World:
    """Nodes on one MongoDB, and on one Redis unless it is None."""

    def __init__(self, mongod: Mongod, redis: Redis | None) -> None:
        self.mongod = mongod
        self.redis = redis
        self.settings = {
            **UNLIMITED,
            "mongodb.database": f"test_{uuid.uuid4().hex[:12]}",
            "redis.prefix": f"presence{next(numbers)}",
            "auth.secret": SECRET,
            "limits.channels_per_connection": 0,
            "namespaces.room": {"presence": True, "ephemeral": True, "publish": "anyone", "subscribe": "anyone"},
        }
        self.stack = AsyncExitStack()
        self.houses: list[House] = []

    async def __aenter__(self) -> Self:
        for _ in range(3 if self.redis else 1):
            await self.add()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    async def add(self) -> House:
        redis = {"redis.url": self.redis.url} if self.redis else {}
        house = await self.stack.enter_async_context(House(self.settings | redis, self.mongod))
        self.houses.append(house)
        await until(lambda: house.node.broker.problem() is None, what="the link to the broker")
        return house

    async def person(self, name: str | None, house: House | Server | None = None, **claims: Any) -> Client:
        token = make_token(SECRET, name, **claims) if name else None
        client = Client([(house or self.houses[0]).ws], name=name or "a guest", token=token)
        return await self.stack.enter_async_context(client)

    async def agree(self, *names: str, within: float = 10.0, **more: Any) -> None:
        """All nodes say that these users are there, and the same of them."""

        async def agreed() -> bool:
            shown = [await house.presence() for house in self.houses]
            return (
                all(one == shown[0] for one in shown)
                and [row["user"] for row in shown[0]["users"]] == list(names)
                and more.items() <= shown[0].items()
            )

        try:
            await until(agreed, within, f"{names} everywhere")
        except TimeoutError:
            pytest.fail(f"expected {names} {more}, got {[await house.presence() for house in self.houses]}")


@pytest.fixture(params=["memory", "redis"])
def world(request: pytest.FixtureRequest, mongod: Mongod) -> World:
    return World(mongod, None if request.param == "memory" else request.getfixturevalue("shared_redis"))


@pytest.fixture
def redis_world(mongod: Mongod, shared_redis: Redis) -> World:
    return World(mongod, shared_redis)


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that takes its time takes less of it."""
    monkeypatch.setattr(server.node, "BEAT", 0.1)
    monkeypatch.setattr(server.presence.attendance, "GRACE", 0.5)
    monkeypatch.setattr(server.presence.attendance, "LEASE", 20)


def run(world: World, test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), world:
            await test(world)

    asyncio.run(main())


def test_the_same_answer_from_every_node(world: World) -> None:
    """Tabs on several nodes are one user; guests are counted; info is there; a newcomer knows it too."""

    async def test(world: World) -> None:
        first, last = world.houses[0], world.houses[-1]
        for name, house in (("ann", first), ("ann", last), ("bob", last), (None, first), (None, last)):
            client = await world.person(name, house, info={"of": name})
            await client.subscribe(ROOM)
        await world.agree("ann", "bob", count=2, guests=2)
        if world.redis:
            await world.add()
        await world.agree("ann", "bob", count=2, guests=2)
        (ann, bob) = (await last.presence())["users"]
        assert ann == {"user": "ann", "sessions": 2, "info": {"of": "ann"}}
        assert bob == {"user": "bob", "sessions": 1, "info": {"of": "bob"}}

    run(world, test)


def test_joins_and_leaves_reach_everybody_once(world: World) -> None:
    """Per user and not per tab, on whichever nodes they are; for who unsubscribes at once."""

    async def test(world: World) -> None:
        ann = await world.person("ann")
        subscription = await ann.subscribe(ROOM)
        bobs = [await world.person("bob", house) for house in (world.houses[0], world.houses[-1])]
        for bob in bobs:
            await bob.subscribe(ROOM)
        await world.agree("ann", "bob")
        assert await subscription.next() == {"type": "join", "channel": ROOM, "user": "bob"}
        for bob in bobs:
            await bob.unsubscribe(ROOM)
        await world.agree("ann")
        assert await subscription.next() == {"type": "leave", "channel": ROOM, "user": "bob"}
        assert subscription.waiting() == []

    run(world, test)


def test_a_reload_is_not_a_leave(world: World, brisk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on the same node nor on another one. Who stays away leaves, once."""
    monkeypatch.setattr(server.presence.attendance, "GRACE", 3.0)

    async def test(world: World) -> None:
        ann = await world.person("ann")
        subscription = await ann.subscribe(ROOM)
        bob = await world.person("bob", world.houses[-1])
        await bob.subscribe(ROOM)
        assert (await subscription.next())["type"] == "join"
        for house in (world.houses[-1], world.houses[0]):
            bob.abort()
            await until(lambda: _sessions(world, "bob") == 0, what="bob's connection to be gone everywhere")
            bob = await world.person("bob", house)
            await bob.subscribe(ROOM)
            await until(lambda: _sessions(world, "bob") == 1, what="bob to be back everywhere")
        assert subscription.waiting() == []
        bob.abort()
        assert (await subscription.next())["type"] == "leave"
        await world.agree("ann")
        assert subscription.waiting() == []

    run(world, test)


def _sessions(world: World, user: str) -> int | None:
    """Of a user, if all nodes say the same."""
    shown = [house.node.attendance.show(ROOM) for house in world.houses]
    if any(one != shown[0] for one in shown):
        return None
    return next((row["sessions"] for row in shown[0]["users"] if row["user"] == user), None)


def test_ephemeral_messages_reach_every_node(world: World) -> None:
    """In a durable channel as well, and only those who are there; the stored ones stay in order."""

    async def test(world: World) -> None:
        reader = await world.person(None, world.houses[-1])
        writer = await world.person(None, world.houses[0])
        subscription = await reader.subscribe(ROOM)
        for n in range(30):
            await writer.publish(ROOM, n, ephemeral=n % 3 == 0)
        pushes = await subscription.messages(30)
        assert sorted(push["data"] for push in pushes) == list(range(30))
        stored = [push for push in pushes if "offset" in push]
        assert [push["offset"] for push in stored] == list(range(1, 21))
        assert [push["data"] for push in pushes if "offset" not in push] == list(range(0, 30, 3))

    run(world, test)


def test_a_storm(world: World) -> None:
    """A thousand users who come and go within a moment: all nodes agree, in few announcements."""

    async def test(world: World) -> None:
        announced = 0
        for house in world.houses:
            announce = house.node.broker.announce

            def counting(announcement: Any, announce: Any = announce) -> None:
                nonlocal announced
                announced += announcement.attendance is not None
                announce(announcement)

            house.node.broker.announce = counting  # type: ignore[method-assign]
        leaves = [
            house.node.attendance.enter(ROOM, f"user{n:04}", None, "")
            for n, house in zip(range(1000), itertools.cycle(world.houses), strict=False)
        ]
        names = [f"user{n:04}" for n in range(1000)]
        await until(lambda: all(house.names() == names for house in world.houses), what="everybody everywhere")
        for leave in leaves:
            leave(True)
        await until(lambda: not any(house.names() for house in world.houses), what="nobody anywhere")
        # The rows of 1,000 changes fit into one announcement a node; a few more if the machine is slow.
        assert announced <= 12 * len(world.houses)

    run(world, test)


def test_redis_restarted_empty(mongod: Mongod, tmp_path: Path, brisk: None) -> None:
    """While it is away everybody says what they know; afterwards all agree on what has happened meanwhile."""
    redis = Redis(tmp_path)

    async def test(world: World) -> None:
        ann = await world.person("ann")
        subscription = await ann.subscribe(ROOM)
        bob, cid = await world.person("bob", world.houses[1]), await world.person("cid", world.houses[2])
        await bob.subscribe(ROOM)
        await cid.subscribe(ROOM)
        await world.agree("ann", "bob", "cid")
        await redis.kill()
        await until(lambda: all(house.node.broker.problem() for house in world.houses), what="the loss of Redis")
        await bob.unsubscribe(ROOM)
        dan = await world.person("dan", world.houses[2])
        await dan.subscribe(ROOM)
        assert (await ann.presence(ROOM))["count"] == 3  # what node 0 knows
        await redis.start()
        await world.agree("ann", "cid", "dan", within=20)
        told = [(push["type"], push["user"]) for push in [await subscription.next() for _ in range(4)]]
        assert sorted(told) == [("join", "bob"), ("join", "cid"), ("join", "dan"), ("leave", "bob")]

    async def main() -> None:
        async with redis, asyncio.timeout(60), World(mongod, redis) as world:
            await test(world)

    asyncio.run(main())


def test_a_killed_node_leaves_no_ghosts(redis_world: World, tmp_path: Path, brisk: None) -> None:
    """`kill -9` of one of three processes: its users are gone everywhere when the lease is over, in one leave each;
    who has come back elsewhere meanwhile has not left."""

    async def test(world: World) -> None:
        await world.houses.pop().node.broker.close()  # two in this process, and a real one
        assert world.redis is not None
        third = Server(tmp_path, world.mongod.uri, world.redis.url, world.settings, name="third")
        await third.start()
        try:
            ann = await world.person("ann")
            subscription = await ann.subscribe(ROOM)
            for name in ("bob", "cid"):
                client = await world.person(name, third)
                await client.subscribe(ROOM)
            await world.agree("ann", "bob", "cid")
            assert {(await subscription.next())["user"] for _ in range(2)} == {"bob", "cid"}
            await third.kill()
            cid = await world.person("cid", world.houses[1])
            await cid.subscribe(ROOM)
            await world.agree("ann", "cid", within=20)
            assert await subscription.next() == {"type": "leave", "channel": ROOM, "user": "bob"}
            assert subscription.waiting() == []
        finally:
            await third.stop()
            third.clean()

    run(redis_world, test)


def test_channels_and_nodes_of_all(redis_world: World) -> None:
    """The list of channels sums up over the nodes and its pages lead through all; a node's silence is named."""
    redis_world.settings["auth.api_keys"] = {"operator": {"sha256": "0" * 64, "admin": True}}

    async def test(world: World) -> None:
        admin = Principal("operator", server=True, admin=True)
        for n, house in enumerate(world.houses):
            client = await world.person("ann", house)
            await client.subscribe("room:all")
            await client.subscribe(f"room:{n}")
        first = world.houses[0].node
        await until(lambda: len(first.directory.nodes(admin)["nodes"]) == 3, what="word of all nodes")
        await until(lambda: first.attendance.count("room:2")[0] == 1, what="word of room:2")
        page = await first.directory.channels(admin, "room:", "", 3)
        assert [(row["channel"], row["subscribers"], row["users"]) for row in page["channels"]] == [
            ("room:0", 1, 1), ("room:1", 1, 1), ("room:2", 1, 1),
        ]  # fmt: skip
        page = await first.directory.channels(admin, "room:", page["next"], 3)
        assert [(row["channel"], row["subscribers"], row["users"]) for row in page["channels"]] == [("room:all", 3, 1)]
        assert (page["next"], page["missing"]) == (None, [])
        world.houses[1].node.incidents.note("repair")
        await until(lambda: _told(first, admin), what="what has happened at another node")
        silent = world.houses[2].node
        await silent.broker.close()
        page = await first.directory.channels(admin, "room:", "", 10)
        assert page["missing"] == [silent.id]
        assert [row["subscribers"] for row in page["channels"]] == [1, 1, 2]

    run(redis_world, test)


async def _told(node: Node, admin: Principal) -> bool:
    return "repair" in [event["event"] for event in (await node.directory.recent(admin))["events"]]
