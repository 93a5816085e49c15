"""The outbox under everything at once: published is what was committed, each once, in the order of the commits."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from tests.chaos.world import World, span
from tests.support.processes import ReplicaSet
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=span(150, 900))

CHANNELS = [f"orders:{number}" for number in range(4)]
WRITERS = 3
PAUSE = span(0.03, 0)
"""Seconds after each transaction."""
SETTINGS = {"mongodb.outbox": True, "namespaces.orders": {"subscribe": "anyone", "history": {"size": 0, "ttl": 0}}}


class Products:
    """Back ends that write orders and messages about them in one transaction, and take every fourth back. A commit of
    which nobody knows the end is asked for again until it is known. Beside them a witness writes down the entries in
    the order in which MongoDB says that they were committed."""

    def __init__(self, mongodb_uri: str, database: str, seed: int) -> None:
        self._uri, self._database, self._seed = mongodb_uri, database, seed
        self._stop = threading.Event()
        self._seen_enough = threading.Event()
        self._tasks: list[asyncio.Future[None]] = []
        self.committed = 0
        self.aborted = 0
        self.witnessed: dict[str, list[str]] = defaultdict(list)

    async def __aenter__(self) -> Products:
        ready = threading.Event()
        self._witnessing = asyncio.ensure_future(asyncio.to_thread(self._witness, ready))
        await asyncio.to_thread(ready.wait, 20)
        self._tasks = [asyncio.ensure_future(asyncio.to_thread(self._write, number)) for number in range(WRITERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def until_committed(self, more: int) -> None:
        target = self.committed + more
        await until(lambda: self.committed >= target, 60, f"{more} transactions")

    async def witness(self) -> dict[str, list[str]]:
        """What was committed in each channel, in its order, once all writers have stopped."""
        await until(lambda: sum(map(len, self.witnessed.values())) >= self.committed, 60, "all commits witnessed")
        self._seen_enough.set()
        await self._witnessing
        return self.witnessed

    def _client(self) -> MongoClient[Any]:
        return MongoClient(self._uri, w="majority", serverSelectionTimeoutMS=15_000)

    def _write(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        with self._client() as client:
            database, count = client[self._database], 0
            while not self._stop.is_set():
                name = f"{number}-{count}"
                count += 1
                channels = chance.sample(CHANNELS, chance.choice([1, 1, 2]))
                try:
                    with client.start_session() as session:
                        session.start_transaction(ReadConcern("snapshot"), WriteConcern("majority"))
                        for channel in channels:
                            row = {"channel": channel, "data": name}
                            database.bookings.insert_one({"_id": f"{name} {channel}", **row}, session=session)
                            database.waterspout_outbox.insert_one({"_id": f"{name} {channel}", **row}, session=session)
                        if chance.random() < 0.25:
                            session.abort_transaction()
                            self.aborted += 1
                            continue
                        self._commit(session)
                        self.committed += len(channels)
                except PyMongoError:
                    pass  # not committed: an error before the commit, or one that says so
                time.sleep(PAUSE)

    def _commit(self, session: Any) -> None:
        while True:
            try:
                session.commit_transaction()
                return
            except PyMongoError as error:
                if not error.has_error_label("UnknownTransactionCommitResult"):
                    raise
                time.sleep(0.05)

    def _witness(self, ready: threading.Event) -> None:
        """Its stream goes on by itself behind elections."""
        only = [{"$match": {"operationType": "insert"}}]
        with self._client() as client, client[self._database].waterspout_outbox.watch(only) as stream:
            ready.set()
            while not self._seen_enough.is_set():
                try:
                    event = stream.try_next()
                except PyMongoError:
                    continue
                if event is not None:
                    entry = event["fullDocument"]
                    self.witnessed[entry["channel"]].append(entry["data"])


def published(mongodb_uri: str, database: str) -> dict[str, list[str]]:
    """What the log has of each channel, by a majority read."""
    with MongoClient[Any](mongodb_uri) as client:
        rows = client[database].get_collection("waterspout.messages", read_concern=ReadConcern("majority"))
        channels: dict[str, list[str]] = defaultdict(list)
        for row in rows.find({"_id.c": {"$in": CHANNELS}}).sort("_id", 1):
            channels[row["_id"]["c"]].append(row["d"])
        return channels


@pytest.mark.parametrize("seed", span([1], [1, 2, 3, 4, 5]))
async def test_23_published_is_what_was_committed(replicated_world: World, replica_set: ReplicaSet, seed: int) -> None:
    """Transactions that commit and abort; servers are killed and stopped, a primary stands down, another is killed. Of
    what was committed each message is there once, in the order of the commits in its channel, and of what was aborted
    none; nothing is among the dead, and the outbox is empty."""
    world = replicated_world
    world.settings |= SETTINGS
    async with world:
        redis = await world.redis()
        servers = await world.start_servers([redis.url] * 2)

        async def strike(kill: bool) -> None:
            """While messages are stored and their entries cannot be deleted."""
            struck = servers[next(turn) % 2]
            await replica_set.fail_command(
                {"failCommands": ["delete"], "closeConnection": True, "appName": "waterspout"}
            )
            await products.until_committed(20)
            await (struck.kill() if kill else struck.stop())
            await replica_set.clear_fail_points()
            await asyncio.sleep(0.2)
            await struck.start()

        async def kill_primary() -> None:
            killed = await replica_set.kill_primary()
            await replica_set.primary()
            await replica_set.restart(killed)
            await replica_set.all_in_step()

        turn = iter(range(10_000))
        faults: list[Callable[[], Awaitable[Any]]] = [
            lambda: strike(kill=True),
            lambda: strike(kill=True),
            replica_set.step_down,
            lambda: strike(kill=False),
            kill_primary,
        ]
        async with Products(world.mongodb_uri, world.name, seed) as products:
            for fault in faults * span(1, 5):
                await products.until_committed(40)
                await fault()
                await replica_set.primary()
            await products.until_committed(40)
        witnessed = await products.witness()
        with MongoClient[Any](world.mongodb_uri) as client:
            database = client[world.name]
            await until(lambda: database.waterspout_outbox.count_documents({}) == 0, 60, "an empty outbox")
            booked = {(one["channel"], one["data"]) for one in database.bookings.find()}
            dead = database["waterspout.messages"].count_documents({"_id.c": "dead:outbox"})
        there = published(world.mongodb_uri, world.name)
        for channel in CHANNELS:
            assert there[channel] == witnessed[channel], channel
            assert len(set(there[channel])) == len(there[channel]), channel
        assert {(channel, one) for channel in CHANNELS for one in there[channel]} == booked
        assert dead == 0
        assert products.aborted > 10
        print(f"23: {products.committed} messages committed, {products.aborted} transactions aborted")
