"""Case 12: a crowd stops reading in the middle of a fast channel."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable

import pytest

from tests.chaos.world import HOT, World, span
from tests.support.ledger import MIB
from tests.support.load import Publisher, Watcher
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=span(120, 600))


async def test_12_readers_that_stop_cost_bounded_memory_and_delay_nobody(world: World) -> None:
    """They are owed far more than the kernel's buffers and their queues hold. The server keeps no more than a queue for
    each, everybody else is served as before, and when they read again they get every message, in order."""
    async with world:
        redis = await world.redis()
        (server,) = await world.start_servers([redis.url])
        stalled = await world.watch(span(12, 100), server, punctual=False)
        prompt = await world.watch(span(12, 200), server, control=True)
        publisher = await world.publisher(server, rate=span(50, 10), size=span(32, 16) * 1024)
        # A queue for each; where other work may hold up this process, the others may need theirs as well.
        limit = (len(stalled) + span(len(prompt), 0)) * MIB + 32 * MIB
        async with publisher:
            await publisher.until_acknowledged(span(50, 100))
            world.remember_memory()
            stopped = time.monotonic()
            for watcher in stalled:
                watcher.client.pause_reading()
            await publisher.until_acknowledged(span(250, 450), within=span(30, 120))
            grown, resumed = world.growth(), time.monotonic()
            for watcher in stalled:
                watcher.client.resume_reading()
            target = publisher.ledger.highest(HOT)
            await until(lambda: all(one.ledger.last >= target for one in stalled), 60, "the stalled to catch up")
            caught_up = time.monotonic() - resumed
        before = _p99(publisher, prompt, 0, stopped)
        during = _p99(publisher, prompt, stopped, resumed)
        verdict = await world.verdict(
            f"12 {len(stalled)} readers stop reading",
            f"p99 of the others {before * 1000:.0f} ms before, {during * 1000:.0f} ms meanwhile; "
            f"memory {grown / MIB:+.0f} MiB; caught up in {caught_up:.1f} s",
            growth_limit=limit,
        )
    assert verdict.ok, str(verdict)
    assert grown <= limit
    if span(False, True):  # not where other work may hold up the machine: bench/slow.py measures it side by side
        assert during <= max(0.5, 3 * before)


def _p99(publisher: Publisher, watchers: Iterable[Watcher], begin: float, end: float) -> float:
    """Of the seconds from sending to receiving, for what was sent between these two moments."""
    sent = publisher.ledger.publications
    took = [
        receipt.at - sent[receipt.key].sent_at
        for watcher in watchers
        for receipt in watcher.ledger.receipts
        if begin <= sent[receipt.key].sent_at < end
    ]
    return statistics.quantiles(took, n=100)[98]
