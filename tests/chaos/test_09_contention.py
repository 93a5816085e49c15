"""Cases 9 to 11: many instances on one channel, one key on two instances, and everybody back at once."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid

import pytest

from tests.chaos.world import HOT, World, span
from tests.support.client import Client
from tests.support.ledger import PublisherLedger
from tests.support.processes import Mongod

pytestmark = pytest.mark.gen_test(timeout=span(120, 600))


async def test_9_four_instances_share_a_hot_channel_without_gaps(world: World) -> None:
    """All of them number the same channel at the same time; each publisher's own order is kept."""
    async with world:
        redis = await world.redis()
        servers = await world.start_servers([redis.url] * 4)
        for server in servers:
            await world.watch(span(3, 2), server)
        publishers = [await world.publisher(server, window=100, rate=150) for server in servers]
        async with await world.bystanders(*servers), publishers[0], publishers[1], publishers[2], publishers[3]:
            await publishers[0].until_acknowledged(50)
            world.remember_memory()
            began = time.monotonic()
            before = [publisher.acknowledged for publisher in publishers]
            await asyncio.gather(*(one.until_acknowledged(span(200, 9000), within=300) for one in publishers))
            took = time.monotonic() - began
            shares = [one.acknowledged - was for one, was in zip(publishers, before, strict=True)]
        verdict = await world.verdict(
            "9 four instances, one hot channel",
            f"{sum(shares) / took:.0f} messages/s; per instance {', '.join(f'{n / took:.0f}' for n in shares)}",
        )
    assert verdict.ok, str(verdict)


async def test_10_a_key_sent_to_two_instances_at_once_is_stored_once(world: World) -> None:
    """A retry that overtakes its first attempt, over and over: both answers name the same offset."""
    async with world:
        redis = await world.redis()
        one, two = await world.start_servers([redis.url] * 2)
        await world.watch(5, one)
        await world.watch(5, two)
        clients = [await world.client(one, name="first"), await world.client(two, name="second")]
        ledger = PublisherLedger("twins")
        world.ledgers.append(ledger)
        world.remember_memory()
        firsts: list[int] = []
        rounds = span(150, 1000)

        async def twice(number: int) -> None:
            key, data = uuid.uuid4().hex, {"n": number}

            async def attempt(client: Client) -> bool:
                ledger.sent(key, HOT, data)
                reply = await client.publish_surely(HOT, data, key)
                ledger.acknowledged(key, reply["offset"])
                return not reply["duplicate"]

            firsts.append(sum(await asyncio.gather(*(attempt(client) for client in clients))))

        async with await world.bystanders(one, two):
            for start in range(0, rounds, 10):  # ten keys at a time, so that they also meet in one batch
                await asyncio.gather(*(twice(number) for number in range(start, start + 10)))
        both, none = firsts.count(2), firsts.count(0)
        verdict = await world.verdict(
            "10 same key on two instances", f"of {rounds}: {both} times both said they were first, {none} times neither"
        )
    assert verdict.ok, str(verdict)
    assert verdict.sent == verdict.acknowledged


async def test_11_everybody_comes_back_at_once_and_resumes_whole(world: World, mongod: Mongod) -> None:
    """All sockets break in the same moment while publishing goes on: everyone gets what it has missed, and the log is
    not read once for each of them."""
    async with world:
        redis = await world.redis()
        one, two = await world.start_servers([redis.url] * 2)
        half = span(75, 1000)
        herd = [*await world.watch(half, one, two), *await world.watch(half, two, one)]
        publisher = await world.publisher(one, rate=span(20, 1))
        bystanders = await world.bystanders(one, two)
        async with bystanders, publisher:
            await publisher.until_acknowledged(20)
            world.remember_memory()
            queries = await _queries(mongod)
            began = time.monotonic()
            back: list[float] = []

            async def returned(client: Client) -> None:
                client.abort()
                async with asyncio.timeout(60):
                    await client.connected.wait()
                back.append(time.monotonic() - began)

            await asyncio.gather(*(returned(watcher.client) for watcher in herd))
            queries = await _queries(mongod) - queries
            await publisher.until_acknowledged(20)
        p99 = statistics.quantiles(back, n=100)[98]
        verdict = await world.verdict(
            f"11 {len(herd)} clients return at once",
            f"resumed: median {statistics.median(back):.2f} s, p99 {p99:.2f} s; {queries} queries of MongoDB",
        )
    assert verdict.ok, str(verdict)
    assert queries < len(herd) / 2


async def _queries(mongod: Mongod) -> int:
    """Reads that MongoDB has executed since it started."""
    counters = (await mongod.admin("serverStatus"))["opcounters"]
    return int(counters["query"]) + int(counters["getmore"])
