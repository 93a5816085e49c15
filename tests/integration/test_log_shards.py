"""Messages of many channels share commits while they are few, and go in several beyond that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pymongo import MongoClient

from server.core.cursors import Position
from server.log.shards import SHARED
from tests.support.logs import fresh, opened
from tests.support.processes import Mongod
from tests.support.waiting import until

SLOW: dict[str, Any] = {
    "failCommands": ["insert"],
    "blockConnection": True,
    "blockTimeMS": 500,
    "appName": "waterspout",
}


@pytest.mark.gen_test(timeout=30)
async def test_what_comes_during_a_commit_goes_with_the_next_one(mongod: Mongod) -> None:
    """Thirty channels that are published to while another one is stored cost one commit, whatever their names."""
    async with opened(mongod.uri, fresh(shards=4)) as log:
        channels = [f"chat:{number}" for number in range(30)]
        await asyncio.gather(*(log.append(channel, None, "first", 0, 1) for channel in channels))
        await mongod.fail_command(SLOW, {"times": 1})
        inserts = log.inserts
        alone = log.append("chat:0", None, "alone", 0, 1)
        await until(lambda: log.inserts > inserts)
        others = [log.append(channel, None, "second", 0, 1) for channel in channels[1:]]
        assert (await alone).position.offset == 2
        assert {receipt.position.offset for receipt in await asyncio.gather(*others)} == {2}
        assert log.inserts == inserts + 2


@pytest.mark.gen_test(timeout=30)
async def test_more_than_one_shard_is_to_have_do_not_wait_for_its_commit(mongod: Mongod) -> None:
    """Beyond SHARED messages under way other channels are stored beside them; a channel's own messages are not, as
    they keep their order."""
    async with opened(mongod.uri, fresh(shards=2)) as log:
        channels = [f"chat:{number}" for number in range(SHARED + 1)]
        await asyncio.gather(*(log.append(channel, None, "first", 0, 1) for channel in channels))
        await mongod.fail_command(SLOW, {"times": 1})
        inserts = log.inserts
        slow = [log.append(channel, None, "second", 0, 1) for channel in channels[:SHARED]]
        await until(lambda: log.inserts > inserts)
        behind = log.append(channels[0], None, "third", 0, 1)
        beside = log.append(channels[SHARED], None, "second", 0, 1)
        assert (await beside).position.offset == 2
        assert not any(receipt.done() for receipt in (*slow, behind))
        assert (await behind).position.offset == 3
        assert all(receipt.done() for receipt in slow)


@pytest.mark.gen_test(timeout=30)
async def test_no_head_of_a_dropped_database_goes_to_another_shard(mongod: Mongod) -> None:
    """Whichever shard has stored a channel's messages before the drop, and whichever stores the next: it is the first
    one of the new history."""
    options = fresh(shards=2)
    async with opened(mongod.uri, options) as log:
        channels = [f"chat:{number}" for number in range(2 * SHARED)]
        await asyncio.gather(*(log.append(channel, None, "before", 0, 1) for channel in channels))
        old = log.epoch
        with MongoClient[dict[str, Any]](mongod.uri) as direct:
            direct.drop_database(options.database)
        await until(lambda: log.epoch != old)
        for channel in channels:
            assert (await log.append(channel, None, "after", 0, 1)).position == Position(log.epoch, 1)
