"""What the log answers is true: nothing is denied and stored, nothing waits for ever, whatever MongoDB does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bson import Timestamp

from server.core.config import Seconds
from server.core.cursors import BEGINNING, Position
from server.core.errors import Error
from server.wire.messages import Change, Message
from tests.support.logs import fresh, opened, stored
from tests.support.processes import Mongod
from tests.support.waiting import until

APP = {"appName": "waterspout", "blockConnection": True}


@pytest.mark.gen_test(timeout=60)
async def test_more_new_channels_than_idle_ones_are_remembered_do_not_disturb_those_under_way(mongod: Mongod) -> None:
    """A channel whose batch is under way is not forgotten, though 10,000 others come after it: its shard goes on."""
    async with opened(mongod.uri, fresh(shards=1)) as log:
        await log.append("chat:7", None, "key", 0, 1)
        await mongod.fail_command({"failCommands": ["insert"], "blockTimeMS": 500, **APP}, {"times": 1})
        inserts = log.inserts
        # The one of chat:7 is refused, as the key is stored; it and those behind it are tried again.
        receipts = [log.append(f"chat:{number}", None, "key", 0, 1) for number in range(100)]
        await until(lambda: log.inserts > inserts)
        receipts += [log.append(f"chat:{number}", None, "key", 0, 1) for number in range(100, 11_000)]
        done = await asyncio.wait_for(asyncio.gather(*receipts), 50)
        assert {receipt.position.offset for receipt in done} == {1}
        assert [number for number, receipt in enumerate(done) if receipt.duplicate] == [7]
        assert (await asyncio.wait_for(log.append("chat:7", None, "later", 0, 1), 5)).position.offset == 2


@pytest.mark.gen_test(timeout=30)
async def test_what_was_answered_not_stored_is_never_stored(mongod: Mongod) -> None:
    """A publish whose deadline passes while its batch waits for the channel's head is out of the queue."""
    options = fresh(shards=1, publish_timeout=Seconds(1))
    async with opened(mongod.uri, options) as log:
        slow = {"failCommands": ["aggregate"], "blockTimeMS": 700, **APP}
        await mongod.fail_command(slow, {"times": 2})  # each in time for the driver, both too long for the publish
        try:
            reads = log.reads
            before = log.append("chat:b", None, "before", "before", 10)
            await until(lambda: log.reads > reads)
            with pytest.raises(Error) as refused:
                await log.append("chat:a", None, "ghost", "ghost", 10)
            await before
        finally:
            await mongod.disarm()
        assert refused.value.code == "unavailable"
        assert (await log.append("chat:a", None, "next", "next", 10)).position.offset == 1
    assert stored(mongod.uri, options, "chat:a") == [(1, "next")]


@pytest.mark.gen_test(timeout=30)
async def test_a_publish_that_nobody_waits_for_any_more_is_not_counted_as_waiting(mongod: Mongod) -> None:
    """Askers that give up do not fill the queue for good."""
    async with opened(mongod.uri, fresh(shards=1)) as log:
        await mongod.fail_command({"failCommands": ["insert"], "blockTimeMS": 300, **APP}, {"times": 1})
        first = log.append("chat:a", None, "1", 1, 10)
        await asyncio.sleep(0)
        given_up = [log.append("chat:a", None, f"given up {number}", 1, 10) for number in range(100)]
        for future in given_up:
            future.cancel()
        await first
        await log.append("chat:a", None, "2", 2, 10)
        assert (log.queued, log.queued_bytes) == (0, 0)


@pytest.mark.gen_test(timeout=30)
async def test_a_failure_above_the_log_does_not_stop_a_shard(mongod: Mongod, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever hears of commits may raise: what is stored is acknowledged, the shard goes on, and the log says it."""

    def broken(messages: list[Message]) -> None:
        raise RuntimeError("broken")

    async with opened(mongod.uri, fresh(shards=1), on_commit=broken) as log:
        for number in range(1, 4):
            receipt = await asyncio.wait_for(log.append("chat:a", None, str(number), number, 10), 5)
            assert receipt.position.offset == number
        assert log.problem() is None
    assert "a batch failed" in caplog.text


def change(number: int, data: dict[str, Any] | None) -> Change:
    """A change with a token that sorts by `number`; without data: the history is lost up to there."""
    return Change(f"82{number:08}", Timestamp(number, 0), f"key {number}", number, data)


@pytest.mark.gen_test(timeout=30)
async def test_a_page_of_a_history_that_has_ended_is_not_shown_in_the_next_one(mongod: Mongod) -> None:
    """A page that was read a moment ago is of use only to who asks for the same epoch."""
    async with opened(mongod.uri, fresh()) as log:
        channel = "docs:orders"
        tail = await log.changes.append(
            channel, await log.changes.tail(channel), [change(1, {"n": 1}), change(2, {"n": 2})]
        )
        old = Position(tail.position.epoch, 0)
        assert [message.data for message in (await log.read(channel, old)).messages] == [{"n": 1}, {"n": 2}]
        tail = await log.changes.start_over(channel, tail, change(3, None))
        new = Position(tail.position.epoch, 0)
        assert (await log.read(channel, new)).messages == []
        await log.changes.append(channel, tail, [change(4, {"n": 4})])
        for after in (Position(new.epoch, tail.position.offset), BEGINNING):
            (message,) = (await log.read(channel, after)).messages
            assert (message.epoch, message.data) == (new.epoch, {"n": 4})
