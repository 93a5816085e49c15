"""Somebody drops or restores the database under running nodes: keys stay unique, and all hear of the new epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from bson import Timestamp
from pymongo import MongoClient

from server.core.config import MongoDB
from server.core.cursors import Position
from server.core.errors import Error, StartError
from server.log.log import Conflict
from server.node import Node
from server.wire.messages import Change
from tests.support.client import Client
from tests.support.logs import fresh, opened
from tests.support.processes import Mongod
from tests.support.waiting import until

CHANNEL = "chat:a"


@pytest.fixture
def options() -> MongoDB:
    return fresh()


@pytest.fixture
def direct(mongod: Mongod) -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        yield client


def dump(direct: MongoClient[dict[str, Any]], name: str) -> dict[str, list[dict[str, Any]]]:
    """The documents of a database, as mongodump has them."""
    return {one: list(direct[name][one].find()) for one in direct[name].list_collection_names()}


def restore(direct: MongoClient[dict[str, Any]], name: str, documents: dict[str, list[dict[str, Any]]]) -> None:
    """As `mongorestore --drop` does it, without the indexes."""
    for one, rows in documents.items():
        direct[name][one].drop()
        direct[name][one].insert_many(rows)


@pytest.mark.gen_test(timeout=60)
async def test_a_key_is_stored_once_after_the_database_was_dropped(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """At the first publish, by whichever node: the index is there again before anything is stored, and all nodes have
    the same new epoch, in which offsets begin with 1."""
    told: list[str] = []
    async with AsyncExitStack() as stack:
        logs = [
            await stack.enter_async_context(
                opened(mongod.uri, options, node=node, on_epoch=lambda node=node: told.append(node))
            )
            for node in ("a", "b")
        ]
        for log in logs:
            await log.append(CHANNEL, None, f"before {id(log)}", 1, 10)
        old = logs[0].epoch
        direct.drop_database(options.database)
        receipts = await asyncio.gather(*(log.append(CHANNEL, None, "key", 1, 10) for log in logs for _ in range(5)))
        await until(lambda: all(log.epoch != old for log in logs))
        assert {receipt.position for receipt in receipts} == {Position(logs[0].epoch, 1)}
        assert [receipt.duplicate for receipt in receipts].count(False) == 1
        assert logs[0].epoch == logs[1].epoch
        assert sorted(told) == ["a", "b"]
        assert all(log.problem() is None for log in logs)


@pytest.mark.gen_test(timeout=60)
async def test_a_node_that_only_reads_notices_that_the_database_was_dropped(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """Without a publish, within a look."""
    async with opened(mongod.uri, options) as log:
        await log.append(CHANNEL, None, "key", 1, 10)
        old = (await log.head(CHANNEL)).position
        assert len((await log.read(CHANNEL, Position(old.epoch, 0), 1)).messages) == 1
        direct.drop_database(options.database)
        await until(lambda: log.epoch != old.epoch)
        assert (await log.head(CHANNEL)).position == Position(log.epoch, 0)
        assert (await log.read(CHANNEL, Position(old.epoch, 0), 1)).messages == []
        assert {"key", "head"} <= direct[options.database]["waterspout.messages"].index_information().keys()


@pytest.mark.gen_test(timeout=60)
async def test_older_data_restored_under_a_running_node_have_a_new_epoch(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """Offsets that were lost are given out again, but not in the epoch in which clients know them. A floor that the
    backup does not have is made: no reader waits for what the backup has not got."""
    async with opened(mongod.uri, options) as log:
        await asyncio.gather(*(log.append(CHANNEL, None, str(number), number, 10) for number in range(1, 6)))
        backup = dump(direct, options.database)
        backup["waterspout.messages"] = [row for row in backup["waterspout.messages"] if row["_id"]["o"] > 2]
        await asyncio.gather(*(log.append(CHANNEL, None, str(number), number, 10) for number in range(6, 9)))
        old = log.epoch
        restore(direct, options.database, backup)
        receipt = await log.append(CHANNEL, None, "new", "new", 10)
        assert log.epoch != old
        assert receipt.position == Position(log.epoch, 6)
        page = await log.read(CHANNEL, Position(log.epoch, 0))
        assert page.gap == (1, 2)
        assert [message.data for message in page.messages] == [3, 4, 5, "new"]
        again = await log.append(CHANNEL, None, "4", 4, 10)
        assert (again.position, again.duplicate) == (Position(log.epoch, 4), True)


@pytest.mark.gen_test(timeout=60)
async def test_a_channel_with_amendments_goes_on_after_its_messages_were_lost(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """What is stored of a channel may be of another moment than its messages: it can be published to nevertheless, as
    can all others, and its messages are counted right."""
    rows = direct[options.database]["waterspout.messages"]
    async with opened(mongod.uri, options, amends=True) as log:
        await asyncio.gather(*(log.append(CHANNEL, None, str(number), number, 10) for number in range(1, 4)))
        original = await log.amendments.original(CHANNEL, 1)
        assert original is not None
        await log.amendments.append(original, "edit", 7, user=None, key="e", size=1)
        await log.append(CHANNEL, None, "5", 5, 10)
        old = log.epoch
        backup = dump(direct, options.database)
        backup["waterspout.messages"] = [row for row in backup["waterspout.messages"] if row["_id"]["o"] == 5]
        restore(direct, options.database, backup)
        await until(lambda: log.epoch != old)
        count = await log.counts.of(CHANNEL)
        assert (count.floor, count.amended_floor, count.messages) == (4, 1, 4)
        old = log.epoch
        rows.drop()
        await until(lambda: log.epoch != old)
        receipts = await asyncio.gather(*(log.append(name, None, "new", 1, 10) for name in (CHANNEL, "chat:b")))
        assert [receipt.position.offset for receipt in receipts] == [1, 1]
        count = await log.counts.of(CHANNEL)
        assert (count.floor, count.amended_floor, count.messages) == (0, 0, 1)


@pytest.mark.gen_test(timeout=60)
async def test_an_older_state_in_the_same_collections_is_noticed(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """As when the files of MongoDB were replaced by a copy: only the count of looks tells."""
    async with opened(mongod.uri, options) as log:
        await log.append(CHANNEL, None, "1", 1, 10)
        meta = direct[options.database]["waterspout.meta"]
        await until(lambda: meta.find_one({"_id": "epoch"})["n"] > 1)
        old = log.epoch
        direct[options.database]["waterspout.messages"].delete_many({})
        meta.update_one({"_id": "epoch"}, {"$set": {"n": 0}})
        await until(lambda: log.epoch != old)
        assert (await log.append(CHANNEL, None, "2", 2, 10)).position == Position(log.epoch, 1)


@pytest.mark.gen_test(timeout=60)
async def test_a_restore_while_no_node_runs_is_noticed_at_the_start(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """Nobody has to change the epoch by hand. Without a restore it stays as it was."""
    async with opened(mongod.uri, options) as log:
        await log.append(CHANNEL, None, "1", 1, 10)
        old = log.epoch
    async with opened(mongod.uri, options) as log:
        assert log.epoch == old
    restore(direct, options.database, dump(direct, options.database))
    async with opened(mongod.uri, options) as log:
        assert log.epoch != old
        assert (await log.head(CHANNEL)).position == Position(log.epoch, 1)


@pytest.mark.gen_test(timeout=60)
async def test_the_epoch_of_an_older_version_stays(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """A database that says nothing of its collection yet is taken as it is."""
    direct[options.database]["waterspout.meta"].insert_one({"_id": "epoch", "epoch": "older"})
    async with opened(mongod.uri, options) as log:
        assert (await log.append(CHANNEL, None, "1", 1, 10)).position == Position("older", 1)


@pytest.mark.gen_test(timeout=30)
async def test_an_epoch_that_nobody_has_looked_at_is_taken_over(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """Also if it says of which collection it is but lacks the count of looks, as after a repair by hand."""
    async with opened(mongod.uri, options) as log:
        await log.append(CHANNEL, None, "1", 1, 10)
        epoch = log.epoch
    direct[options.database]["waterspout.meta"].update_one({"_id": "epoch"}, {"$unset": {"n": 1}})
    async with opened(mongod.uri, options) as log:
        assert log.epoch == epoch
        assert (await log.append(CHANNEL, None, "2", 2, 10)).position == Position(epoch, 2)


@pytest.mark.gen_test(timeout=60)
async def test_what_was_never_sent_is_answered_as_not_stored(
    mongod: Mongod, direct: MongoClient[dict[str, Any]]
) -> None:
    """Where the database was dropped and the log cannot stand on what is there instead, a publish is `unavailable`: no
    outcome is unknown. When that is mended, publishes go on."""
    options = fresh(publish_timeout=2.0)
    async with opened(mongod.uri, options) as log:
        await log.append(CHANNEL, None, "1", 1, 10)
        direct.drop_database(options.database)
        direct[options.database]["waterspout.messages"].create_index("d", name="key")
        await until(lambda: log.problem() is not None)
        with pytest.raises(Error, match="unavailable: the message could not be stored in time"):
            await log.append(CHANNEL, None, "2", 2, 10)
        assert "an index of waterspout.messages cannot be made" in (log.problem() or "")
        direct[options.database]["waterspout.messages"].drop_index("key")
        assert (await log.append(CHANNEL, None, "3", 3, 10)).position.offset == 1


@pytest.mark.gen_test(timeout=60)
async def test_keys_that_were_stored_twice_do_not_keep_a_node_from_starting(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """All of them were acknowledged, so all stay; the first keeps its key."""
    rows = [{"_id": {"c": CHANNEL, "o": n}, "e": "e", "u": None, "k": "twin", "t": 1, "d": n} for n in (1, 2, 3)]
    direct[options.database]["waterspout.messages"].insert_many(rows)
    async with opened(mongod.uri, options) as log:
        again = await log.append(CHANNEL, None, "twin", 1, 10)
        assert (again.position.offset, again.duplicate) == (1, True)
        page = await log.read(CHANNEL, Position(log.epoch, 0))
        assert [message.data for message in page.messages] == [1, 2, 3]
        assert len({message.key for message in page.messages}) == 3


@pytest.mark.gen_test(timeout=60)
async def test_an_index_that_cannot_be_made_is_said_in_one_line(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """Waiting does not help: the start ends, and says what to do."""
    direct[options.database]["waterspout.messages"].create_index("u", name="key")
    with pytest.raises(StartError, match=r'db\["waterspout.messages"\]\.dropIndex'):
        async with opened(mongod.uri, options):
            pass


@pytest.mark.gen_test(timeout=60)
async def test_changes_are_not_appended_to_another_history(
    mongod: Mongod, options: MongoDB, direct: MongoClient[dict[str, Any]]
) -> None:
    """A tail of the database as it was before the drop is none: whoever has it has to look again."""
    change = Change("8200000001", Timestamp(1, 0), "key", 1, {"n": 1})
    async with opened(mongod.uri, options) as log:
        tail = await log.changes.append("docs:a", await log.changes.tail("docs:a"), [change])
        direct.drop_database(options.database)
        later = change._replace(token="8200000002", key="later")
        for attempt in (log.changes.append("docs:a", tail, [later]), log.changes.start_over("docs:a", tail, later)):
            with pytest.raises(Conflict):
                await attempt
        assert (await log.changes.append("docs:a", await log.changes.tail("docs:a"), [later])).position.offset == 1


@pytest.mark.gen_test(timeout=60)
async def test_subscribers_are_told_of_the_new_epoch(
    node: Node, base_url: str, http_server: object, direct: MongoClient[dict[str, Any]]
) -> None:
    """Live ones get a gap, then all that comes; nobody has to reconnect."""
    async with Client(base_url.replace("http", "ws") + "/v1/ws") as client:
        subscription = await client.subscribe(CHANNEL)
        await client.publish(CHANNEL, 1)
        assert (await subscription.message())["offset"] == 1
        direct.drop_database(node.config.mongodb.database)
        gap = await subscription.next(10)
        assert (gap["type"], gap["reason"]) == ("gap", "epoch")
        await client.publish(CHANNEL, 2)
        message = await subscription.message()
        assert (message["offset"], message["data"]) == (1, 2)
