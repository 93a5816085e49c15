"""Two nodes that write to the same channels at once take turns: nothing is lost, and little is tried in vain."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from server.core.cursors import BEGINNING
from server.log.log import Log
from server.wire.messages import Message
from tests.support.logs import fresh, opened
from tests.support.processes import Mongod

CHANNELS = [f"chat:{number}" for number in range(20)]
EACH = 60


@pytest.mark.gen_test(timeout=60)
async def test_nodes_that_share_channels_take_turns(mongod: Mongod) -> None:
    """Each hears of the other what announcements and publications would tell it."""
    options = fresh()
    logs: dict[str, Log] = {}
    async with AsyncExitStack() as stack:
        for node, other in (("a", "b"), ("b", "a")):

            def committed(messages: list[Message], node: str = node, other: str = other) -> None:
                logs[other].learn(messages[-1].channel, messages[-1].position, node, messages[-1].tally)

            logs[node] = await stack.enter_async_context(
                opened(
                    mongod.uri,
                    options,
                    node=node,
                    on_commit=committed,
                    on_head=lambda channel, head, tally, node=node, other=other: logs[other].learn(
                        channel, head, node, tally
                    ),
                    on_contention=lambda channel, node=node, other=other: logs[other].contend(channel, node),
                )
            )

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
