"""Two nodes that write to the same channels at once take turns: nothing is lost, and little is tried in vain."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from server.core.config import MongoDB
from server.core.cursors import BEGINNING
from server.log.log import Log
from server.mongo.client import connect
from server.wire.messages import Message
from tests.support.processes import Mongod

CHANNELS = [f"chat:{number}" for number in range(20)]
EACH = 60


def pair(uri: str) -> dict[str, Log]:
    """Two logs on one database; each hears of the other what announcements and publications would tell it."""
    options = MongoDB(database=f"test_{uuid.uuid4().hex[:12]}")
    logs: dict[str, Log] = {}

    def make(node: str, other: str) -> Log:
        def committed(messages: list[Message]) -> None:
            logs[other].learn(messages[-1].channel, messages[-1].position, node)

        return Log(
            connect(options, uri),
            options,
            node=node,
            on_commit=committed,
            on_head=lambda channel, position: logs[other].learn(channel, position, node),
            on_contention=lambda channel: logs[other].contend(channel, node),
        )

    logs |= {"a": make("a", "b"), "b": make("b", "a")}
    return logs


@pytest.mark.gen_test(timeout=60)
async def test_nodes_that_share_channels_take_turns(mongod: Mongod) -> None:
    logs = pair(mongod.uri)
    for log in logs.values():
        await log.open()

    async def write(node: str, channel: str) -> None:
        for number in range(0, EACH, 5):
            await asyncio.gather(
                *(logs[node].append(channel, node, f"{node}{number + step}", number + step, 8) for step in range(5))
            )

    await asyncio.gather(*(write(node, channel) for node in logs for channel in CHANNELS))
    for channel in CHANNELS:
        messages = (await logs["a"].read(channel, BEGINNING)).messages
        assert [message.offset for message in messages] == list(range(1, 2 * EACH + 1))
        for node in logs:
            assert [message.data for message in messages if message.user == node] == list(range(EACH))
    # Without turns about every fifth message was refused once.
    assert sum(log.conflicts for log in logs.values()) < 2 * EACH * len(CHANNELS) / 10
    for log in logs.values():
        await log.close()
        log._database.client.close()
