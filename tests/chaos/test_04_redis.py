"""Cases 4 to 6: Redis dies, hangs, forgets, cuts its links, fails over, or vanishes behind a silent network. The log is
enough."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.crc import key_slot

from tests.chaos.world import CALM, HOT, PATIENCE, RATE, World, span
from tests.support.ledger import PublisherLedger
from tests.support.processes import RedisCluster, SentinelSet, Server
from tests.support.proxy import Proxy
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=span(120, 600))


async def _status(servers: list[Server], status: str, within: float) -> float:
    """Seconds until the slowest of these servers says so."""
    return max(await asyncio.gather(*(server.wait_status(status, within) for server in servers)))


@pytest.mark.parametrize("fault", ["killed", "stopped", "restarted empty"])
async def test_4_without_redis_messages_are_acknowledged_and_arrive_by_polling(world: World, fault: str) -> None:
    """Publishers and subscribers on different instances do not notice but for a second's delay; readiness says it."""
    async with world:
        redis = await world.redis()
        one, two = servers = await world.start_servers([redis.url] * 2)
        await world.watch(span(5, 50), one)
        await world.watch(span(5, 50), two)
        publishers = [await world.publisher(server, rate=RATE) for server in servers]
        resident = await world.resident(one)
        remarks = []
        async with await world.bystanders(one, two), publishers[0], publishers[1], resident:
            await publishers[0].until_acknowledged(RATE // 2)
            world.remember_memory()
            if fault == "restarted empty":
                await redis.restart()
            else:
                if fault == "killed":
                    await redis.kill()
                else:
                    redis.pause()
                remarks.append(f"degraded after {await _status(servers, 'degraded', 15):.1f} s")
                for server in servers:
                    answer = await server.get("/readyz")
                    assert answer.status == 200
                    assert answer.body["reasons"]
                    assert (await server.get("/readyz?strict=1")).status == 503
                # Counted in messages, so that a pause in the acknowledgements fails here: so many seconds of load, with
                # as much again for the deadline.
                seconds = span(2, 60 if fault == "killed" else 30)
                await publishers[0].until_acknowledged(RATE * seconds, within=2 * seconds)
                if fault == "killed":
                    await redis.start()
                else:
                    redis.resume()
            remarks.append(f"ready again after {await _status(servers, 'ready', 30):.1f} s")
            await publishers[1].until_acknowledged(RATE)
        verdict = await world.verdict(f"4 Redis {fault}", *remarks)
    assert verdict.ok, str(verdict)


# Clusters start slowly; in `make test` one loses a node in tests/conformance.
@pytest.mark.parametrize("kind", span(["sentinel"], ["sentinel", "cluster", "sharded cluster"]))
async def test_4_a_master_dies_and_a_replica_takes_its_place(world: World, kind: str) -> None:
    """The master that carries the announcements is killed under load, and the servers find its successor by themselves;
    in the long version it comes back, and the successor is next."""
    async with world:
        redis = await world.start(
            SentinelSet(world.directory) if kind == "sentinel" else RedisCluster(world.directory, True)
        )
        world.settings["redis.sharded"] = "sharded" in kind
        one, two = servers = await world.start_servers([redis.url] * 2)
        await world.watch(span(5, 50), one)
        await world.watch(span(5, 50), two)
        publishers = [await world.publisher(server, rate=RATE) for server in servers]
        remarks = []
        topic = "waterspout:nodes"
        async with await world.bystanders(one, two), publishers[0], publishers[1]:
            await publishers[0].until_acknowledged(RATE // 2)
            world.remember_memory()
            for more in reversed(range(span(1, 3))):
                if isinstance(redis, SentinelSet):
                    master = await redis.master()
                elif kind == "cluster":
                    running = [node for node in redis.nodes if node.running]
                    master, *_ = [node for node in running if dict(await node.ask("PUBSUB NUMSUB", topic))[topic]]
                else:
                    master = await redis.owner(key_slot(topic.encode()))
                await master.kill()
                began = time.monotonic()
                if kind != "cluster":  # there it may be over before one can look
                    await _status(servers, "degraded", 15)
                await _status(servers, "ready", 30)
                remarks.append(f"ready again {time.monotonic() - began:.1f} s after the kill")
                await publishers[1].until_acknowledged(RATE)
                if more:
                    await master.start()
                    await redis.whole()
                    await publishers[0].until_acknowledged(RATE)
        verdict = await world.verdict(f"4 {kind}: master killed", *remarks)
    assert verdict.ok, str(verdict)


@pytest.mark.parametrize("links", ["pub/sub", "all"])
async def test_5_links_killed_every_second_lose_and_double_nothing(world: World, links: str) -> None:
    """`CLIENT KILL` again and again, under load from both sides: of the listening links, or of the publishing ones as
    well. When it ends, nothing of it remains."""
    async with world:
        redis = await world.redis()
        one, two = await world.start_servers([redis.url] * 2)
        await world.watch(span(5, 50), one)
        await world.watch(span(5, 50), two)
        publishers = [await world.publisher(server, rate=RATE) for server in (one, two)]
        resident = await world.resident(one)
        killed = 0
        async with await world.bystanders(one, two), publishers[0], publishers[1], resident:
            await publishers[0].until_acknowledged(RATE // 2)
            world.remember_memory()
            for _ in range(span(3, 60)):
                killed += await redis.client_kill_pubsub()
                if links == "all":
                    killed += int((await redis.call("CLIENT KILL TYPE normal")).removeprefix(":"))
                await publishers[0].until_acknowledged(RATE)  # a second of load
            ready = await _status([one, two], "ready", 30)
        verdict = await world.verdict(
            f"5 {links} links killed every second", f"{killed} links killed; ready {ready:.1f} s after the last"
        )
    assert verdict.ok, str(verdict)
    assert killed >= span(3, 60)


async def test_5_a_publication_lost_on_its_way_is_found_on_every_instance(world: World) -> None:
    """The link that publishes is cut under one message, and works again before anybody looks. No later message in that
    channel shows the hole, and no link is down: only the log knows. The publisher's own instance has to find it too."""
    async with world:
        redis = await world.redis()
        near, far = await world.start_servers([redis.url] * 2)
        await world.watch(5, near)
        await world.watch(5, far)
        publisher = await world.publisher(near, rate=RATE)
        async with await world.bystanders(near, far), publisher:
            await publisher.until_acknowledged(2 * RATE)  # what a server compares when it has just started is over
            world.remember_memory()
        lost = PublisherLedger("lost on the way")
        world.ledgers.append(lost)
        client = await world.client(near, name="lost on the way")
        assert await redis.call("CLIENT KILL TYPE normal") != ":0"
        for channel in (HOT, CALM):  # the second one proves the link anew
            lost.sent(f"lost in {channel}", channel, None)
            reply = await client.publish_surely(channel, None, f"lost in {channel}")
            lost.acknowledged(f"lost in {channel}", reply["offset"])
        watchers = [watcher.ledger for watcher in world.watchers if watcher.ledger.channel == HOT]
        began = time.monotonic()
        await until(lambda: all(one.last >= lost.highest(HOT) for one in watchers), 40, "the lost publication")
        took = time.monotonic() - began
        verdict = await world.verdict("5 one publication lost", f"found after {took:.1f} s")
    assert verdict.ok, str(verdict)
    assert took <= PATIENCE


async def test_6_a_link_into_a_black_hole_is_noticed(world: World) -> None:
    """Nothing comes back from Redis any more, and no FIN or RST says so: only the canary can tell. The server knows
    within three seconds, keeps acknowledging, and both sides get each other's messages from the log."""
    async with world:
        redis = await world.redis()
        async with Proxy(redis.port) as proxy:
            alone, other = await world.start_servers([f"redis://127.0.0.1:{proxy.port}/0", redis.url])
            await world.watch(span(5, 50), alone)
            await world.watch(span(5, 50), other)
            publishers = [await world.publisher(server, rate=RATE) for server in (alone, other)]
            resident = await world.resident(alone)
            async with await world.bystanders(other), publishers[0], publishers[1], resident:
                await publishers[0].until_acknowledged(RATE // 2)
                world.remember_memory()
                proxy.black_hole()
                began = time.monotonic()
                await alone.wait_status("degraded", 15)
                noticed = time.monotonic() - began
                await publishers[0].until_acknowledged(RATE * span(2, 30))
                await proxy.heal()
                healed = await alone.wait_status("ready", 30)
                await publishers[1].until_acknowledged(RATE)
            verdict = await world.verdict(
                "6 link to Redis black-holed", f"noticed after {noticed:.1f} s, ready {healed:.1f} s after its end"
            )
    assert verdict.ok, str(verdict)
    # The promise is 3 s from the last sign of life; the canary (1 s apart) may just have come.
    assert noticed <= 4.0
