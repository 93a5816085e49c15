"""Whatever a Redis answers that refuses what it is asked, nothing that was sent through it is told to anybody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.crc import key_slot

from server.core.logs import traced
from tests.conformance.test_brokers import Peer, World, message, run
from tests.support.processes import Redis, RedisCluster
from tests.support.waiting import until

MARK = "the-pin-of-ann"
LPUSH = ("--rename-command", "PUBLISH", "_PUBLISH", "--rename-command", "LPUSH", "PUBLISH")
"""PUBLISH is a command that stores, and can be refused in all the ways that such a one can."""


async def acl(redis: Redis, *rules: str) -> None:
    await redis.ask("ACL SETUSER", "default", *rules)


async def out_of_memory(redis: Redis) -> None:
    await redis.ask("CONFIG SET", "maxmemory", 1)


async def wrong_type(redis: Redis) -> None:
    await redis.ask("SET", f"{PREFIX}:c:chat:a", 1)
    await redis.ask("SET", f"{PREFIX}:nodes", 1)


async def read_only(redis: Redis) -> None:
    await redis.ask("REPLICAOF", "127.0.0.1", 1)


async def nothing(redis: Redis) -> None:
    pass


PREFIX = "refused"
REFUSALS: dict[str, tuple[tuple[str, ...], Callable[[Redis], Awaitable[None]], str]] = {
    "no right to publish": ((), lambda redis: acl(redis, "-publish"), "NOPERM"),
    "no right to the channel": ((), lambda redis: acl(redis, "resetchannels"), "NOPERM"),
    "no such command": (("--rename-command", "PUBLISH", "_PUBLISH"), nothing, "it refused a command"),
    "out of memory": (LPUSH, out_of_memory, "OOM"),
    "wrong type": (LPUSH, wrong_type, "it refused a command"),
    "read only": (LPUSH, read_only, "READONLY"),
    "a password all at once": ((), lambda redis: acl(redis, "resetpass", f">{MARK}"), "WRONGPASS"),
}


def told(peer: Peer, log: pytest.LogCaptureFixture) -> str:
    """All that the broker says to the node and to the log."""
    lines = [f"{one.getMessage()} {traced(one.exc_info[1]) if one.exc_info else ''}" for one in log.records]
    return "\n".join([peer.broker.problem() or "", *lines])


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_publish_is_told_without_what_it_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The reason has Redis's word for it, and neither the message nor the channel."""
    options, refuse, word = REFUSALS[name]
    redis = Redis(tmp_path, options=options)
    world = World("redis", redis)
    world.prefix = PREFIX
    caplog.set_level(logging.INFO)

    async def test() -> None:
        async with redis, world.peer() as one:
            await one.broker.subscribe("chat:a")
            await refuse(redis)
            if "password" in name:
                await redis_cut(redis)
            reasons = set()

            def refused() -> bool:
                one.broker.publish([message({"pin": MARK, "other": [MARK]}, "chat:a", key=MARK, user=MARK)])
                reason = one.broker.problem() or ""
                reasons.add(reason)
                return word in reason

            await until(refused, 20, f"{word} among {reasons}")
            text = told(one, caplog) + "".join(reasons)
            assert MARK not in text
            assert "chat:a" not in text

    run(test)


async def redis_cut(redis: Redis) -> None:
    """Connections that are there need no password: cut them, from one that has said it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
    writer.write(f"AUTH {MARK}\r\nCLIENT KILL TYPE normal\r\nCLIENT KILL TYPE pubsub\r\n".encode())
    await writer.drain()
    await reader.readline()
    await reader.readline()
    writer.close()


def test_a_slot_that_has_moved_is_told_without_the_message(
    shared_cluster: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Sharded: MOVED answers a publish to the master of before."""
    world = World("sharded cluster", shared_cluster)
    slot = key_slot(f"{world.prefix}:c:chat:a".encode())
    caplog.set_level(logging.INFO)

    async def test() -> None:
        async with world.peer() as one:
            home = await shared_cluster.owner(slot)
            away = next(node for node in shared_cluster.masters if node is not home)
            one.broker.publish([message(MARK, "chat:a")])
            reasons: set[str] = set()
            for target in (away, home):
                await shared_cluster.move(slot, target)

                def moved() -> bool:
                    one.broker.publish([message({"pin": MARK}, "chat:a", key=MARK)])
                    reasons.add(one.broker.problem() or "")
                    return any("MOVED" in reason for reason in reasons)

                await until(moved, 20, "MOVED")
                await until(lambda: one.broker.problem() is None, 20, "end of it")
            text = told(one, caplog) + "".join(reasons)
            assert MARK not in text
            assert "chat:a" not in text

    run(test)
