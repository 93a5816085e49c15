"""Case 20: two nodes, and everything that they stand on fails by chance, all at once, while clients come and go on.

A run prints its seed; `WATERSPOUT_SEED=…` runs it again. `make chaos` takes a seed by chance and strikes more."""

from __future__ import annotations

import asyncio
import json
import os
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.chaos.fuzzer import Fuzzer
from tests.chaos.report import Report
from tests.chaos.world import CALM, HOT, World, span
from tests.support.processes import LOOPBACK, Mongod, Server
from tests.support.proxy import Proxy
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=span(240, 1200))

SEED = os.environ.get("WATERSPOUT_SEED") or str(span(7, random.SystemRandom().randrange(10**6)))
STRIKES = int(os.environ.get("WATERSPOUT_FUZZ_STRIKES") or span(3, 30))
"""Of each kind."""


def tracebacks(server: Server) -> list[str]:
    """Of the server's log: what nobody has foreseen."""
    entries = [json.loads(line) for line in server.log.read_text().splitlines() if "Traceback" in line]
    return [f"{entry['time']} {entry['message']}\n{entry['error'][-3000:]}" for entry in entries]


async def test_20_faults_by_chance_lose_double_and_disorder_nothing(tmp_path: Path, report: Report) -> None:
    """What was acknowledged is stored and arrives once and in order, what was refused is not stored, no task of a node
    ends, and all are ready again when it is over."""
    print(f"\nseed {SEED}, {STRIKES} strikes of each kind")
    async with AsyncExitStack() as stack:
        mongod = await stack.enter_async_context(Mongod(tmp_path))
        world = await stack.enter_async_context(World(tmp_path, mongod.uri, report))
        world.settings["mongodb.publish_timeout"] = "3s"
        redis = await world.redis()
        to_redis = [await stack.enter_async_context(Proxy(redis.port)) for _ in range(2)]
        to_mongodb = [await stack.enter_async_context(Proxy(mongod.port)) for _ in range(2)]
        servers = await world.start_servers(
            [f"redis://{LOOPBACK}:{proxy.port}/0" for proxy in to_redis],
            [f"mongodb://{LOOPBACK}:{proxy.port}/?directConnection=true" for proxy in to_mongodb],
        )
        one, two = servers
        for channel in (HOT, CALM):
            await world.watch(3, one, two, channel=channel)
            await world.watch(3, two, one, channel=channel)
        publishers = [
            await world.publisher(*order, channel=channel, rate=20, again=again)
            for order in ((one, two), (two, one))
            for channel, again in ((HOT, True), (HOT, False), (CALM, True))
        ]
        fuzzer = Fuzzer(SEED, servers, redis, mongod, to_redis, to_mongodb)
        async with AsyncExitStack() as load:
            for publisher in publishers:
                await load.enter_async_context(publisher)
            await publishers[0].until_acknowledged(10)
            await fuzzer.strike(STRIKES)
            await asyncio.gather(*(server.wait_ready(60) for server in servers))
            clients = [*(one.client for one in publishers), *(one.client for one in world.watchers)]
            await until(lambda: all(client.connected.is_set() for client in clients), 60, "all clients")
            await asyncio.gather(*(publisher.until_acknowledged(5) for publisher in publishers))
        verdict = await world.verdict(f"20 fuzz, seed {SEED}", growth_limit=1 << 40)
        unforeseen = [line for server in servers for line in tracebacks(server)]
        if not verdict.ok or unforeseen:
            print("\n".join(fuzzer.history))
    assert verdict.ok, f"seed {SEED}: {verdict}"
    assert not unforeseen, f"seed {SEED}: " + "\n".join(unforeseen[:5])
