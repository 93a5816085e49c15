"""Case 22: consumers while everything fails that they stand on: the receiving end keeps the ledger."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.chaos.world import LONG, World, span
from tests.support.ledger import read_log
from tests.support.load import Publisher
from tests.support.processes import Redis, ReplicaSet, Server
from tests.support.receiver import SECRET, Receiver
from tests.support.waiting import until
from tests.support.workers import Ledger, Worker

pytestmark = pytest.mark.gen_test(timeout=span(150, 1200))

CHANNELS = [f"chat:c{number}" for number in range(span(6, 24))]
LEASE = span(1.0, 2.0)
KEY = "the key of all workers"
ROUNDS = span(1, int(os.environ.get("WATERSPOUT_CONSUMER_ROUNDS") or 4))
RATE = span(20, 10)
SETTINGS = {
    "namespaces.chat": {"publish": "anyone", "subscribe": "anyone", "history": {"size": 0, "ttl": 0}},
    "mongodb.publish_timeout": "5s",
}


def consumer(receiver: Receiver, **options: Any) -> dict[str, Any]:
    retries = {"first": "50ms", "most": "500ms"}
    push = {"url": receiver.url, "secret": SECRET, "channels": ["chat:*"], "timeout": "1s", "retries": retries}
    return {"consumers": {"ledger": push | options}}


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()


def moody(seed: int) -> Any:
    """A back end that fails in every way: errors, redirects, answers that come too late or not at all."""
    chance = random.Random(seed)

    async def rule(request: dict[str, Any]) -> int:
        mood = chance.random()
        if mood < 0.10:
            return chance.choice([500, 502, 404, 302])
        if mood < 0.12:
            await asyncio.sleep(1.5)  # taken, but nobody hears of it: it comes again
        elif mood < 0.3:
            await asyncio.sleep(chance.random() * 0.05)
        return 204

    return rule


async def kill(world: World, number: int) -> None:
    """A node dies while it delivers, and comes back when others have taken over."""
    server = world.servers[number]
    await server.kill()
    await asyncio.sleep(0.2)
    server.launch()
    await server.wait_ready()


async def freeze(server: Server, seconds: float) -> None:
    """It stands still for longer than its leases, and goes on as if nothing had been."""
    server.pause()
    await asyncio.sleep(seconds)
    server.resume()


async def away(receiver: Receiver, seconds: float) -> None:
    receiver.refuse_connections()
    await asyncio.sleep(seconds)
    receiver.listen_again()


async def without_redis(redis: Redis, seconds: float) -> None:
    await redis.stop()
    await asyncio.sleep(seconds)
    await redis.start()


async def strike(world: World, servers: list[Server], redis: Redis, publisher: Publisher) -> None:
    """In the long runs: a node stands still, Redis is away, and all other nodes die at once."""
    if LONG:
        await freeze(servers[1], 9.0)
        await without_redis(redis, 5.0)
        await asyncio.gather(kill(world, 1), kill(world, 2))
        await publisher.until_acknowledged(RATE * 5)


async def caught_up(world: World, receiver: Receiver, within: float = 60.0) -> dict[str, int]:
    """Wait until all that is stored has been taken; how far each channel reaches."""
    log = await read_log(world.mongodb_uri, world.name, CHANNELS)
    heads = {channel: log.head(channel) for channel in CHANNELS}

    def reached(channel: str) -> int:
        return max((message["offset"] for message in receiver.taken[channel][-1:]), default=0)

    try:
        await until(
            lambda: all(reached(channel) >= head for channel, head in heads.items()),
            within,
            "all that is stored",
            every=0.2,
        )
    except TimeoutError:
        pass  # what is missing is named by who asks
    return heads


def told(world: World, receiver: Receiver, heads: dict[str, int]) -> str:
    taken = sum(map(len, receiver.taken.values()))
    gaps = sum(map(len, receiver.gaps.values()))
    return (
        f"{sum(heads.values())} messages in {len(heads)} channels, {taken} taken in {len(receiver.requests)} requests, "
        f"{receiver.duplicates.total()} came again, {gaps} gaps, {receiver.overlaps} requests over another one's end"
    )


async def test_22_everything_arrives_in_order(replicated_world: World, replica_set: ReplicaSet) -> None:
    """Nodes are killed and stand still, the back end answers with errors, too late, and is away, MongoDB's primary
    steps down, Redis is away: all that was acknowledged is taken, in order per channel, and what came again is
    counted."""
    async with receiving() as receiver, replicated_world as world:
        world.settings |= SETTINGS | consumer(receiver)
        receiver.rule = moody(22)
        redis = await world.redis()
        servers = await world.start_servers([redis.url] * span(2, 3))
        publishers: list[Publisher] = [
            await world.publisher(*(servers[number % 2 :] + servers[: number % 2]), channel=channel, rate=RATE)
            for number, channel in enumerate(CHANNELS)
        ]
        for publisher in publishers:
            await publisher.__aenter__()
        try:
            await publishers[0].until_acknowledged(RATE)
            for _ in range(ROUNDS):
                await asyncio.gather(kill(world, 0), away(receiver, span(1.0, 5.0)))
                await replica_set.step_down()
                await replica_set.primary()
                await publishers[0].until_acknowledged(RATE)
                await strike(world, servers, redis, publishers[0])
        finally:
            await asyncio.gather(*(publisher.stop() for publisher in publishers))
        heads = await caught_up(world, receiver)
    print(f"\n22 consumers: {told(world, receiver, heads)}")
    acknowledged = {
        (one.channel, one.offsets[0])
        for ledger in world.ledgers
        for one in ledger.publications.values()
        if one.outcome == "acknowledged"
    }
    assert all(offset <= heads[channel] for channel, offset in acknowledged)
    assert {channel: missing for channel in CHANNELS if (missing := receiver.missing(channel, heads[channel]))} == {}
    assert receiver.faults == []
    assert not any(receiver.gaps.values())


async def test_22_what_retention_takes_is_told(world: World) -> None:
    """The back end is away for longer than messages are retained: what is retained arrives, and a gap says what not."""
    async with receiving() as receiver, world:
        size = span(30, 200)
        world.settings |= SETTINGS | consumer(receiver, batch=7) | {
            "namespaces.chat": {"publish": "anyone", "subscribe": "anyone", "history": {"size": size, "ttl": 0}},
            "mongodb.dedupe_window": 0, "mongodb.trim_interval": "200ms",
        }  # fmt: skip
        redis = await world.redis()
        servers = await world.start_servers([redis.url] * 2)
        # With a cursor in each channel: where nothing is kept to know keys by, retention could take the first messages
        # before there is one.
        for channel in CHANNELS[:4]:
            async with await world.publisher(*servers, channel=channel, rate=1) as first:
                await first.until_acknowledged(1)
            await receiver.until_taken(channel, 1)
        publishers = [await world.publisher(*servers, channel=channel, rate=0, window=20) for channel in CHANNELS[:4]]
        for publisher in publishers:
            await publisher.__aenter__()
        try:
            await publishers[0].until_acknowledged(size // 2)
            receiver.refuse_connections()
            await asyncio.gather(*(publisher.until_acknowledged(size * 4) for publisher in publishers))
            await kill(world, 0)  # what has been delivered is not in the memory of who goes on
        finally:
            await asyncio.gather(*(publisher.stop() for publisher in publishers))
        receiver.listen_again()
        heads = await caught_up(world, receiver)
    print(f"\n22 retention: {told(world, receiver, heads)}")
    assert {channel: missing for channel in CHANNELS if (missing := receiver.missing(channel, heads[channel]))} == {}
    assert receiver.faults == []
    assert any(receiver.gaps.values())


async def test_22_workers_do_everything(replicated_world: World, replica_set: ReplicaSet) -> None:
    """Workers are killed with jobs in hand, are slower than their leases and give back; nodes are killed, MongoDB's
    primary steps down: each message that was acknowledged is done, with `ordered` in the order of its channel, and what
    was done twice is counted."""
    async with replicated_world as world:
        key = {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "consumers": ["ordered", "heap"]}
        options = {"channels": ["chat:*"], "lease": f"{LEASE}s", "from": "beginning"}
        world.settings |= SETTINGS | {
            "consumers": {"ordered": options, "heap": options | {"ordered": False}},
            "auth.api_keys": {"worker": key},
        }
        redis = await world.redis()
        servers = await world.start_servers([redis.url] * span(2, 3))
        channels = CHANNELS[: span(4, 12)]
        publishers = [
            await world.publisher(*(servers[number % 2 :] + servers[: number % 2]), channel=channel, rate=RATE)
            for number, channel in enumerate(channels)
        ]
        ledgers = {"ordered": Ledger(), "heap": Ledger()}
        urls = [server.ws for server in servers]
        workers = [
            Worker(urls, KEY, name, ledger, f"{name} {number}", LEASE)
            for name, ledger in ledgers.items()
            for number in range(span(3, 6))
        ]
        for publisher in publishers:
            await publisher.__aenter__()
        try:
            for _ in range(ROUNDS):
                await ledgers["ordered"].until_done(RATE * len(channels))
                await asyncio.gather(kill(world, 0), replica_set.step_down())
                await replica_set.primary()
                await publishers[0].until_acknowledged(RATE)
                await strike(world, servers, redis, publishers[0])
        finally:
            await asyncio.gather(*(publisher.stop() for publisher in publishers))
        try:
            log = await read_log(world.mongodb_uri, world.name, channels)
            heads = {channel: log.head(channel) for channel in channels}
            for ledger in ledgers.values():
                await ledger.until_all_done(heads, span(20.0, 60.0))
        finally:
            await asyncio.gather(*(worker.stop() for worker in workers))
    for name, ledger in ledgers.items():
        fates = ", ".join(f"{count} {fate}" for fate, count in sorted(ledger.fates.items()))
        print(
            f"\n22 workers, {name}: {sum(heads.values())} messages in {len(heads)} channels, {ledger.again} handed out "
            f"again, {ledger.repeated} done twice; of the workers {fates}"
        )
        assert ledger.missing(heads) == {}
    assert ledgers["ordered"].out_of_order() == {}
