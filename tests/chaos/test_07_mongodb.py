"""Cases 7 and 8: MongoDB changes its primary, loses one, loses its majority, or answers with errors."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

import pytest

from tests.chaos.world import RATE, World, span
from tests.support.load import Publisher, Resident
from tests.support.processes import ReplicaSet
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=span(120, 600))


class Load(NamedTuple):
    first: Publisher
    second: Publisher
    resident: Resident
    bystanders: Publisher


async def _load(world: World) -> Load:
    """Two servers, subscribers and a publisher on each, and bystanders; nothing is started yet."""
    redis = await world.redis()
    one, two = await world.start_servers([redis.url] * 2)
    await world.watch(span(5, 50), one)
    await world.watch(span(5, 50), two)
    return Load(
        await world.publisher(one, rate=RATE),
        await world.publisher(two, rate=RATE),
        await world.resident(one),
        await world.bystanders(one, two),
    )


@pytest.mark.parametrize("fault", ["stepped down", "killed"])
async def test_7_a_lost_primary_stalls_publishes_and_loses_none(
    replicated_world: World, replica_set: ReplicaSet, fault: str
) -> None:
    """Elections in the middle of the load: an insert may have been stored, rolled back or never have arrived."""
    async with replicated_world as world:
        first, second, resident, bystanders = await _load(world)
        async with first, second, resident, bystanders:
            await first.until_acknowledged(RATE // 2)
            world.remember_memory()
            for _ in range(span(2, 6) if fault == "stepped down" else span(1, 3)):
                if fault == "stepped down":
                    await replica_set.step_down()
                else:
                    dead = await replica_set.kill_primary()
                await replica_set.primary()
                await asyncio.gather(
                    *(one.until_acknowledged(RATE * span(1, 20) // 2, within=60) for one in (first, second))
                )
                if fault == "killed":
                    await replica_set.restart(dead)
                    await replica_set.all_in_step()
        verdict = await world.verdict(f"7 primary {fault}")
    assert verdict.ok, str(verdict)


async def test_7_without_a_majority_nothing_is_acknowledged(replicated_world: World, replica_set: ReplicaSet) -> None:
    """Two of three members are gone: publishes are left unanswered or told that the outcome is unknown, readiness says
    `down`; when the members are back everything goes on, and what was acknowledged is there."""
    async with replicated_world as world:
        world.settings["mongodb.publish_timeout"] = f"{span(3, 10)}s"
        first, second, resident, bystanders = await _load(world)
        async with first, second, resident, bystanders:
            await first.until_acknowledged(RATE // 2)
            world.remember_memory()
            primary = await replica_set.primary()
            others = [member for member in replica_set.members if member is not primary]
            for member in others:
                await member.kill()
            lost_at = time.monotonic()
            for server in world.servers:
                await server.wait_status("down", 30)
                assert (await server.get("/readyz")).status == 503
            told = time.monotonic() - lost_at
            # The deadline of a publish passes at least once. Not of each publisher: whose node does not have its turn
            # at the hot channel when the majority goes may never have tried, and is told a definite no.
            await until(
                lambda: any(one.doubtful for ledger in world.ledgers for one in ledger.publications.values()),
                30,
                "an unknown outcome",
            )
            back_at = time.monotonic()
            for member in others:
                await replica_set.restart(member)
            await asyncio.gather(*(one.until_acknowledged(RATE, within=60) for one in (first, second)))
            ready = max([await server.wait_status("ready", 30) for server in world.servers])
        # What the dying members had still confirmed may arrive a moment after their death.
        wrongly = [
            one
            for ledger in world.ledgers
            for one in ledger.publications.values()
            if one.outcome == "acknowledged" and one.settled_at and lost_at + 1 < one.settled_at < back_at
        ]
        verdict = await world.verdict("7 majority lost", f"down after {told:.1f} s, ready {ready:.1f} s after the load")
    assert verdict.ok, str(verdict)
    assert not wrongly


FAULTS: dict[str, dict[str, Any]] = {
    "connection closed": {"closeConnection": True},
    "write concern error 91": {"writeConcernError": {"code": 91, "errmsg": "Replication is being shut down"}},
    "write concern error 64": {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_8_an_insert_that_fails_is_neither_stored_twice_nor_denied(
    replicated_world: World, replica_set: ReplicaSet, fault: str
) -> None:
    """With a write concern error the insert *is* stored, and with a closed connection nobody knows."""
    async with replicated_world as world:
        first, second, resident, bystanders = await _load(world)
        async with first, second, resident, bystanders:
            await first.until_acknowledged(RATE // 2)
            world.remember_memory()
            for _ in range(span(3, 30)):
                await replica_set.fail_command({"failCommands": ["insert"], **FAULTS[fault]}, {"times": 3})
                await asyncio.gather(*(one.until_acknowledged(RATE // 2, within=30) for one in (first, second)))
            await replica_set.clear_fail_points()
        verdict = await world.verdict(f"8 {fault} on insert")
    assert verdict.ok, str(verdict)
