"""Cases 1 to 3: a server is killed, dies between the commit and Redis, or is asked to leave, all under load."""

from __future__ import annotations

import time

import pytest

from tests.chaos.world import HOT, PATIENCE, World, span
from tests.support.proxy import Proxy
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=span(120, 600))


async def test_1_a_server_killed_in_the_middle_of_a_burst_loses_nothing(world: World) -> None:
    """`kill -9` while hundreds of publishes are under way, restart, several times over: what was acknowledged is
    stored, and clients that come back to the restarted server go on exactly where they were, the Python client of this
    repository among them."""
    async with world:
        redis = await world.redis()
        struck, other, calm = await world.start_servers([redis.url] * 3)
        await world.watch(span(3, 10), struck)
        await world.watch(span(3, 10), other)
        burst = [await world.publisher(struck, window=200, rate=span(0, 150)) for _ in range(2)]
        steady = await world.publisher(other, rate=50)
        resident = await world.resident(struck, rate=100, window=32)
        async with await world.bystanders(other, calm), steady, burst[0], burst[1], resident:
            await burst[0].until_acknowledged(100)
            world.remember_memory()
            for _ in range(span(2, 20)):
                await burst[0].until_acknowledged(100)
                await struck.kill()
                await steady.until_acknowledged(20)
                await struck.start()
                await burst[1].until_acknowledged(100)
        verdict = await world.verdict("1 server killed in a burst")
    assert verdict.ok, str(verdict)


async def test_2_a_crash_between_the_commit_and_redis_is_made_good_by_others(world: World) -> None:
    """What a server sends to Redis is swallowed on the way; it acknowledges (the log has it), and is killed. The other
    instance never heard of those messages and still delivers them within five seconds."""
    async with world:
        redis = await world.redis()
        async with Proxy(redis.port) as proxy:
            dying, other = await world.start_servers([f"redis://127.0.0.1:{proxy.port}/0", redis.url])
            watchers = await world.watch(span(5, 20), other)
            publisher = await world.publisher(dying, rate=200)
            world.remember_memory()
            async with await world.bystanders(other), publisher:
                # Three seconds of load: a server that has just started compares everything with the log anyway.
                await publisher.until_acknowledged(600)
                proxy.black_hole("up")
                await publisher.until_acknowledged(50)
                await dying.kill()
                killed = time.monotonic()
                await publisher.stop(0)  # its server will not come back: what was under way stays unanswered
                for one in publisher.ledger.publications.values():
                    if one.outcome == "pending":
                        publisher.ledger.unknown(one.key)
                target = publisher.ledger.highest(HOT)
                await until(lambda: all(one.ledger.last >= target for one in watchers), 30, "delivery of the tail")
                took = time.monotonic() - killed
        verdict = await world.verdict("2 crash between commit and Redis", f"tail delivered after {took:.1f} s")
    assert verdict.ok, str(verdict)
    assert took <= PATIENCE


async def test_3_a_server_asked_to_leave_answers_what_it_accepted_and_sends_its_clients_on(world: World) -> None:
    """SIGTERM under load: every publish that was read is answered on the same connection, clients are told when to come
    back (spread, not all at once) and do so elsewhere, and the process is gone within its deadline."""
    deadline = 10.0
    async with world:
        world.settings["server.shutdown_timeout"] = f"{deadline:g}s"
        redis = await world.redis()
        leaving, staying = await world.start_servers([redis.url] * 2)
        moving = await world.watch(span(10, 200), leaving, staying)
        publishers = [await world.publisher(leaving, staying, rate=span(200, 20)) for _ in range(2)]
        async with await world.bystanders(staying), publishers[0], publishers[1]:
            await publishers[0].until_acknowledged(100)
            world.remember_memory()
            asked = time.monotonic()
            code = await leaving.terminate(within=deadline + 5)
            left = time.monotonic() - asked
            moved = [*(watcher.client for watcher in moving), *(publisher.client for publisher in publishers)]
            await until(lambda: all(one.connected.is_set() for one in moved), 20, "arrival elsewhere")
            await publishers[0].until_acknowledged(100)
        losses = [loss for client in moved for loss in client.losses]
        delays = [float(loss.disconnect["delay"]) for loss in losses if loss.disconnect]
        verdict = await world.verdict(
            "3 SIGTERM under load",
            f"left after {left:.1f} s; to come back in {min(delays, default=0):.1f}–{max(delays, default=0):.1f} s",
        )
    assert verdict.ok, str(verdict)
    assert code == 0
    assert left <= deadline
    for publisher in publishers:
        sent = [one for one in publisher.ledger.publications.values() if one.link == 1]
        unanswered = [one.doubtful for one in sent]
        # Commands are read in order: what has no answer is what was still in the socket at the end, and nothing else.
        assert unanswered == sorted(unanswered)
        assert all(one.sent_at > asked - 0.1 for one in sent if one.doubtful)
    assert [loss.code for loss in losses] == [4000] * len(moved)
    assert all(loss.disconnect and loss.disconnect["reconnect"] for loss in losses)
    assert len(set(delays)) > 1
