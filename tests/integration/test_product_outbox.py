"""The outbox: what a product writes in its own transactions is published, each once, in the order of the commits."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from pymongo import MongoClient
from pymongo.errors import PyMongoError

import server.outbox.outbox
from server.core import config
from server.core.config import Retention, Seconds
from server.core.cursors import BEGINNING
from server.core.principals import Principal
from server.node import Node
from tests.integration.conftest import SETTINGS as INTEGRATION
from tests.support.nodes import another
from tests.support.processes import Mongod
from tests.support.waiting import until

SETTINGS: dict[str, Any] = {
    "mongodb.outbox": True,
    "limits.message_bytes": 2000,
    "namespaces.orders": {"publish": "user", "subscribe": "anyone"},
    "namespaces.live": {"durable": False, "publish": "anyone", "subscribe": "anyone"},
}


@pytest.fixture
def database() -> str:
    """One that nobody has had: outboxes of other tests were dropped in those."""
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings() -> dict[str, object]:
    return dict(SETTINGS)


@pytest.fixture
def direct(mongod: Mongod, node: Node) -> Iterator[Any]:
    with MongoClient[Any](mongod.uri) as client:
        yield client[node.config.mongodb.database]


async def messages(node: Node, channel: str) -> list[Any]:
    page = await node.log.read(channel, BEGINNING, limit=1000)
    return list(page.messages)


async def published(node: Node, channel: str, count: int) -> list[Any]:
    """The messages of a channel, once there are so many."""
    await until(lambda: count_of(node, channel, count), 15, f"{count} messages of {channel}")
    return await messages(node, channel)


async def count_of(node: Node, channel: str, count: int) -> bool:
    return len(await messages(node, channel)) >= count


def followed(direct: Any) -> bool:
    """Whether some node has begun, and written down from where on."""
    return bool((direct["waterspout.meta"].find_one({"_id": "outbox"}) or {}).get("token"))


async def emptied(direct: Any) -> None:
    await until(lambda: direct.waterspout_outbox.count_documents({}) == 0, 15, "an empty outbox")


@pytest.mark.gen_test(timeout=30)
async def test_what_a_transaction_commits_is_published_and_what_it_aborts_is_not(node: Node, direct: Any) -> None:
    """With its order, both or neither; and the entry is gone."""
    with direct.client.start_session() as session:
        for number in range(6):
            session.start_transaction()
            direct.orders.insert_one({"_id": number}, session=session)
            direct.waterspout_outbox.insert_one({"channel": "orders:all", "data": {"n": number}}, session=session)
            if number % 2:
                session.abort_transaction()
            else:
                session.commit_transaction()
    found = await published(node, "orders:all", 3)
    assert [one.data for one in found] == [{"n": 0}, {"n": 2}, {"n": 4}]
    await until(lambda: node.outbox.published == 3)
    await emptied(direct)


@pytest.mark.gen_test(timeout=30)
async def test_the_key_is_the_id_and_the_user_is_as_given(node: Node, direct: Any) -> None:
    """Unless the entry has a key of its own; two with the same one are one message, also long afterwards."""
    identifier = ObjectId()
    rows = [
        {"_id": identifier, "channel": "orders:a", "data": 1},
        {"_id": "my own", "channel": "orders:a", "data": 2, "user": "ann"},
        {"_id": 17, "channel": "orders:a", "data": 3, "key": "k"},
        {"_id": 18, "channel": "orders:a", "data": 3, "key": "k"},
        {"_id": {"n": 1}, "channel": "orders:a", "data": None},
    ]
    direct.waterspout_outbox.insert_many(rows)
    found = await published(node, "orders:a", 4)
    await emptied(direct)
    assert [(one.key, one.user, one.data) for one in found] == [
        (str(identifier), None, 1),
        ("my own", "ann", 2),
        ("k", None, 3),
        ('{"n":1}', None, None),
    ]
    direct.waterspout_outbox.insert_one(rows[0])
    await emptied(direct)
    assert len(await messages(node, "orders:a")) == 4


@pytest.mark.gen_test(timeout=30)
async def test_values_that_json_does_not_have_appear_as_in_documents(node: Node, direct: Any) -> None:
    """MongoDB's relaxed extended JSON."""
    data = {
        "at": datetime(2026, 3, 1, tzinfo=UTC),
        "price": Decimal128("1.10"),
        "of": ObjectId("0" * 24),
        "n": Int64(7),
    }
    direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": data})
    (found,) = await published(node, "orders:a", 1)
    assert found.data == {
        "at": {"$date": "2026-03-01T00:00:00Z"},
        "price": {"$numberDecimal": "1.10"},
        "of": {"$oid": "0" * 24},
        "n": 7,
    }


@pytest.mark.gen_test(timeout=30)
async def test_what_cannot_be_published_is_among_the_dead_and_nothing_stops(
    node: Node, direct: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason and the entry, which no log has."""
    secret = "only for administrators"
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"data": secret}, "bad_request", "channel"),
        ({"channel": "orders:a"}, "bad_request", "data"),
        ({"channel": "not a name", "data": secret}, "bad_request", "channel"),
        ({"channel": "nowhere:a", "data": secret}, "unknown_channel", "namespace"),
        ({"channel": "docs:orders", "data": secret}, "unknown_channel", "collection"),
        ({"channel": "$sys:nodes", "data": secret}, "permission_denied", "$sys:nodes"),
        ({"channel": "dead:outbox", "data": secret}, "permission_denied", "dead:outbox"),
        ({"channel": "orders:a", "data": secret, "user": 7}, "bad_request", "user"),
        ({"channel": "orders:a", "data": secret, "user": "", "key": "1+1"}, "bad_request", "user"),
        ({"channel": "orders:a", "data": secret, "key": ""}, "bad_request", "key"),
        ({"channel": "orders:a", "data": secret, "at": "tomorrow"}, "bad_request", "at"),
        ({"channel": "orders:a", "data": secret, "at": 1772323200000}, "bad_request", "at"),
        ({"channel": "orders:a", "data": secret * 100}, "too_large", "message_bytes"),
        ({"channel": "orders:a", "data": {"deep": secret}, "key": "first"}, "conflict", "key"),
    ]
    with caplog.at_level(logging.DEBUG, "server"):
        direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": "the first", "key": "first"})
        direct.waterspout_outbox.insert_many([{"_id": str(n), **row} for n, (row, _, _) in enumerate(wrong)])
        direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": "the last"})
        await emptied(direct)
    assert [one.data for one in await messages(node, "orders:a")] == ["the first", "the last"]
    dead = {one.data["id"]: one.data for one in await messages(node, "dead:outbox")}
    assert len(dead) == len(wrong) == node.outbox.dead
    for number, (row, code, named) in enumerate(wrong):
        told = dead[str(number)]
        assert (told["code"], named in told["reason"], told["entry"]) == (code, True, {"_id": str(number), **row}), told
    assert secret not in caplog.text
    await until(lambda: node.outbox.published == 2)


@pytest.mark.gen_test(timeout=30)
async def test_an_id_may_die_more_than_once(node: Node, direct: Any) -> None:
    """Each time it says something else, which administrators see; what follows is published."""
    for wrong in (1, 2, 2):
        direct.waterspout_outbox.insert_one({"_id": "again", "channel": wrong, "data": 0})
        await emptied(direct)
    direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": "the last"})
    await published(node, "orders:a", 1)
    assert [one.data["entry"]["channel"] for one in await messages(node, "dead:outbox")] == [1, 2]


@pytest.mark.gen_test(timeout=30)
async def test_fields_that_have_the_names_of_our_own_stop_nothing(node: Node, direct: Any) -> None:
    """A product may write `by` beside its data; without data it is among the dead."""
    for number, by in enumerate(("ann", {"user": "ann"}, None)):
        direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": number, "by": by, "text": number})
        direct.waterspout_outbox.insert_one({"channel": "orders:a", "by": by, "text": "1"})
    await emptied(direct)
    assert [one.data for one in await messages(node, "orders:a")] == [0, 1, 2]
    assert node.outbox.dead == 3


@pytest.mark.gen_test(timeout=60)
async def test_times_that_are_none_stop_nothing_where_they_were_written_while_nobody_looked(
    node: Node, direct: Any
) -> None:
    """They are among the dead, and what is due behind them is published."""
    await until(lambda: followed(direct))
    await node.outbox.close()
    wrong: list[Any] = [Decimal128("1"), [1], [1e9], float("nan"), float("-inf"), {"$date": 1}]
    direct.waterspout_outbox.insert_many([{"channel": "orders:a", "data": "wrong", "at": at} for at in wrong])
    direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": "due", "at": 1})
    await node.outbox.open()
    await emptied(direct)
    assert [one.data for one in await messages(node, "orders:a")] == ["due"]
    assert node.outbox.dead == len(wrong)


@pytest.mark.gen_test(timeout=30)
async def test_operators_see_how_it_is(node: Node, direct: Any) -> None:
    """In what the publishing node says of itself each second: what waits, how far it is behind, what has failed."""
    direct.waterspout_outbox.insert_many([{"channel": "orders:a", "data": 1}, {"data": 2}])
    direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": 3, "at": datetime.now(UTC) + timedelta(days=1)})
    operator = Principal("operator", server=True, admin=True)
    expected = {"waiting": 1, "lag": 0.0, "published": 1, "dead": 1}
    await until(lambda: node.directory.nodes(operator)["nodes"][0].get("outbox") == expected)


@pytest.mark.gen_test(timeout=30)
async def test_ephemeral_channels_get_it_too(node: Node, direct: Any) -> None:
    """Whoever listens at that moment; nothing is stored, nothing is among the dead."""
    direct.waterspout_outbox.insert_one({"channel": "live:a", "data": 1})
    await emptied(direct)
    await until(lambda: node.outbox.published == 1)
    assert node.outbox.dead == 0
    assert await messages(node, "live:a") == []


@pytest.mark.gen_test(timeout=60)
async def test_another_node_takes_over_in_the_order_of_the_commits(node: Node, mongod: Mongod, direct: Any) -> None:
    """Also what was written while nobody looked: not by ids, but as it was committed."""
    await until(lambda: followed(direct))
    async with another(node, mongod) as second:
        direct.waterspout_outbox.insert_one({"_id": "9", "channel": "orders:a", "data": 1})
        await published(node, "orders:a", 1)
        await second.outbox.close()
        await node.outbox.close()
        with direct.client.start_session() as early, direct.client.start_session() as late:
            early.start_transaction()
            direct.waterspout_outbox.insert_one({"_id": "8", "channel": "orders:a", "data": 3}, session=early)
            late.start_transaction()
            direct.waterspout_outbox.insert_one({"_id": "1", "channel": "orders:a", "data": 2}, session=late)
            late.commit_transaction()
            early.commit_transaction()
        direct.waterspout_outbox.insert_one({"_id": "0", "channel": "orders:a", "data": 4})
        await second.outbox.open()
        found = await published(second, "orders:a", 4)
        assert [one.data for one in found] == [1, 2, 3, 4]
        await emptied(direct)


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("lost", ["oplog", "checkpoint"])
async def test_what_no_stream_shows_any_more_comes_as_it_was_inserted(node: Node, direct: Any, lost: str) -> None:
    """The oplog has lost it, or somebody has dropped the checkpoint."""
    meta = direct["waterspout.meta"]
    await until(lambda: followed(direct))
    await node.outbox.close()
    direct.waterspout_outbox.insert_many([{"_id": str(9 - n), "channel": "orders:a", "data": n} for n in range(9)])
    if lost == "oplog":  # the token of a time that it does not reach back to
        token = meta.find_one({"_id": "outbox"})["token"]
        meta.update_one({"_id": "outbox"}, {"$set": {"token": token[:2] + "00000001" + token[10:]}})
    else:
        meta.delete_one({"_id": "outbox"})
    await node.outbox.open()
    found = await published(node, "orders:a", 9)
    assert [one.data for one in found] == [*range(9)]
    await emptied(direct)


@pytest.mark.gen_test(timeout=60)
async def test_a_message_whose_entry_is_still_there_is_not_stored_twice_however_late(node: Node, direct: Any) -> None:
    """A node dies between storing and deleting, and nobody goes on until the message would long be trimmed: it is kept
    until the entry is gone."""
    await node.outbox.close()
    node.outbox.published = 0
    entry = {"_id": "e", "channel": "orders:a", "data": 1}
    direct.waterspout_outbox.insert_one(entry)
    await node.log.append("orders:a", None, "e", 1, 1)
    for number in range(5):
        await node.log.append("orders:a", None, f"later {number}", number, 1)
    old = {"$inc": {"t": -3_600_000}}
    direct["waterspout.messages"].update_many({"_id.c": "orders:a"}, old)
    direct["waterspout.meta"].update_one({"_id": "outbox"}, {"$set": {"marked": "the dead"}})
    retained = Retention(size=0, ttl=Seconds(60))
    assert await node.outbox.held() is None  # nobody holds the lease, so nothing is trimmed anywhere
    await node.log.trimmer.step()
    assert direct["waterspout.messages"].count_documents({"k": "e"}) == 1
    await node.outbox.open()
    await emptied(direct)
    assert direct["waterspout.messages"].count_documents({"k": "e"}) == 1
    assert len(await messages(node, "orders:a")) == 6
    assert await node.outbox.held() == frozenset()
    await node.log.trimmer.trim("orders:a", retained)
    assert direct["waterspout.messages"].count_documents({"k": "e"}) == 0


@pytest.mark.gen_test(timeout=30)
async def test_later_is_exact_to_about_a_second(node: Node, direct: Any) -> None:
    """By a date or by seconds; what was due while nobody looked comes at once, in the order of the times."""
    now = datetime.now(UTC)
    direct.waterspout_outbox.insert_many([
        {"channel": "orders:a", "data": 3, "at": (now + timedelta(seconds=2)).timestamp()},
        {"channel": "orders:a", "data": 2, "at": now + timedelta(seconds=1)},
        {"channel": "orders:a", "data": 1, "at": now - timedelta(seconds=60)},
        {"channel": "orders:a", "data": 4, "at": now + timedelta(days=300)},
    ])  # fmt: skip
    found = await published(node, "orders:a", 3)
    assert [one.data for one in found] == [1, 2, 3]
    for one, due in zip(found[1:], (1, 2), strict=True):
        assert 0 <= one.time / 1000 - (now.timestamp() + due) < 1
    await until(lambda: direct.waterspout_outbox.count_documents({}) == 1)
    direct.waterspout_outbox.update_one({"data": 4}, {"$set": {"at": now}})
    assert [one.data for one in await published(node, "orders:a", 4)] == [1, 2, 3, 4]


@pytest.mark.gen_test(timeout=60)
async def test_what_is_committed_does_not_wait_for_all_that_is_due(
    node: Node, direct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much somebody has scheduled for one moment."""
    monkeypatch.setattr(server.outbox.outbox, "SLICE", 5)
    await until(lambda: followed(direct))
    soon = datetime.now(UTC) + timedelta(seconds=1)
    later = [{"channel": "orders:a", "data": "later", "at": soon} for _ in range(400)]
    direct.waterspout_outbox.insert_many(later)
    await published(node, "orders:a", 1)
    direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": "now"})
    found = await published(node, "orders:a", len(later) + 1)
    assert "now" in [one.data for one in found[:-1]]


@pytest.mark.gen_test(timeout=60)
async def test_two_that_both_believe_they_are_alone_publish_each_once(node: Node, mongod: Mongod, direct: Any) -> None:
    """As after a pause that the lease did not survive: the lease is for economy."""
    async with another(node, mongod) as second:
        await until(lambda: node.outbox.holds)
        stop = asyncio.Event()

        async def quarrel() -> None:
            while not stop.is_set():
                direct["waterspout.meta"].update_one({"_id": "outbox"}, {"$unset": {"until": 1}})
                await asyncio.sleep(0.02)

        quarrelling = asyncio.ensure_future(quarrel())
        for number in range(300):
            direct.waterspout_outbox.insert_one({"channel": f"orders:{number % 3}", "data": number})
            if number % 10 == 0:
                await asyncio.sleep(0.02)
        for channel in range(3):
            found = await published(second, f"orders:{channel}", 100)
            assert [one.data for one in found] == [*range(channel, 300, 3)]
        stop.set()
        await quarrelling
        await emptied(direct)
        assert len(await messages(second, "dead:outbox")) == 0


@pytest.mark.gen_test(timeout=30)
async def test_a_drop_of_the_collection_or_the_database_does_not_end_it(
    node: Node, mongod: Mongod, direct: Any
) -> None:
    """It goes on with what is inserted afterwards."""
    direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": 1})
    await published(node, "orders:a", 1)
    direct.waterspout_outbox.drop()
    direct.waterspout_outbox.insert_one({"channel": "orders:a", "data": 2})
    await published(node, "orders:a", 2)
    direct.client.drop_database(direct.name)
    direct.waterspout_outbox.insert_one({"channel": "orders:b", "data": 3})
    await until(lambda: direct.waterspout_outbox.count_documents({}) == 0, 15)

    async def there() -> bool:
        try:
            return [one.data for one in await messages(node, "orders:b")] == [3]
        except PyMongoError:
            return False

    await until(there, 10)


@pytest.mark.gen_test(timeout=30)
@pytest.mark.parametrize("outbox", [None, "another database"])
async def test_where_it_is_and_when_it_begins(node: Node, mongod: Mongod, outbox: str | None) -> None:
    """By itself, once there is such a collection; or in another database of the same cluster, from the start."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    there = name if outbox is None else f"{name}_product"
    values = {"mongodb.database": name, "mongodb.outbox": outbox and there, "namespaces.orders": {}}
    second = Node(config.load(None, {}, (INTEGRATION | values).items()), mongod.uri)
    await second.start()
    try:
        assert second.outbox.on == (outbox is not None)
        with MongoClient[Any](mongod.uri) as client:
            client[there].waterspout_outbox.insert_one({"channel": "orders:a", "data": 1})
            assert [one.data for one in await published(second, "orders:a", 1)] == [1]
            await emptied(client[there])
    finally:
        await second.close()
