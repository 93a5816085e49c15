"""Retention on a real MongoDB: what is trimmed, what stays, and what those who ask for the rest are told."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from server.core.config import Retention, Seconds
from server.core.cursors import BEGINNING, MAX_OFFSET
from server.core.errors import Error
from server.node import Node
from tests.support.client import Client, Push
from tests.support.logs import opened
from tests.support.processes import Mongod
from tests.support.waiting import until

CHANNEL = "chat:a"
WINDOW = 0.05
KEEP_3 = Retention(size=3, ttl=Seconds(0))


@pytest.fixture
def settings() -> dict[str, object]:
    return {"mongodb.dedupe_window": WINDOW}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


async def append(node: Node, *data: Any, key: str = "") -> None:
    for one in data:
        await node.log.append(CHANNEL, None, key or f"key {one}", one, 10)


async def stored(node: Node) -> list[int]:
    """The offsets of the messages that MongoDB holds, hidden or not."""
    found = node.database.own("messages").find({"_id.c": CHANNEL}, {"_id": 1}).sort("_id", 1)
    return [row["_id"]["o"] async for row in found]


async def floor(node: Node) -> int:
    return await node.log.floor(CHANNEL)


async def old_enough(node: Node, offset: int) -> None:
    """Wait until the message at `offset` and all before it are out of the dedupe window."""

    async def is_old() -> bool:
        return await node.log.trimmer.last_older_than(CHANNEL, 0, MAX_OFFSET - 1, WINDOW) >= offset

    await until(is_old, 10, "message older than the dedupe window")


async def filled(node: Node, count: int) -> None:
    """Messages 1…count, old enough to be trimmed."""
    await append(node, *range(1, count + 1))
    await old_enough(node, count)


def cursor(node: Node, offset: int) -> str:
    return f"{node.log.epoch}:{offset}"


def told(push: Push) -> tuple[int, int]:
    """The two ends of a gap, which has to be one."""
    assert (push["type"], push["channel"], push.get("reason")) == ("gap", CHANNEL, None), push
    return push["from"], push["to"]


@pytest.mark.gen_test
async def test_trimming_by_size(node: Node) -> None:
    """The newest `size` messages stay, the floor is just below them."""
    await filled(node, 10)
    assert await node.log.trimmer.trim(CHANNEL, KEEP_3) == 7
    assert await stored(node) == [8, 9, 10]
    assert await floor(node) == 7
    assert await node.log.trimmer.trim(CHANNEL, KEEP_3) == 7  # nothing more to do


@pytest.mark.gen_test
async def test_trimming_by_age(node: Node) -> None:
    """What is older than `ttl` goes, what is younger stays."""
    await filled(node, 4)
    await node.database.own("messages").update_many(
        {"_id.c": CHANNEL, "_id.o": {"$lte": 3}}, {"$inc": {"t": -3_600_000}}
    )
    assert await node.log.trimmer.trim(CHANNEL, Retention(size=0, ttl=Seconds(1800))) == 3
    assert await stored(node) == [4]


@pytest.mark.gen_test
async def test_no_limits_trim_nothing(node: Node) -> None:
    """Size 0 and ttl 0 keep everything."""
    await filled(node, 5)
    assert await node.log.trimmer.trim(CHANNEL, Retention(size=0, ttl=Seconds(0))) == 0
    assert await stored(node) == [1, 2, 3, 4, 5]


@pytest.mark.gen_test
async def test_the_stricter_limit_wins(node: Node) -> None:
    """Of size and ttl, whichever takes more decides."""
    await filled(node, 6)
    await node.database.own("messages").update_many(
        {"_id.c": CHANNEL, "_id.o": {"$lte": 4}}, {"$inc": {"t": -3_600_000}}
    )
    assert await node.log.trimmer.trim(CHANNEL, Retention(size=5, ttl=Seconds(1800))) == 4
    assert await node.log.trimmer.trim(CHANNEL, Retention(size=1, ttl=Seconds(1800))) == 5
    assert await stored(node) == [6]


@pytest.mark.gen_test
async def test_an_empty_channel(node: Node) -> None:
    """Trimming a channel that nobody has published to does nothing and creates nothing."""
    assert await node.log.trimmer.trim(CHANNEL, KEEP_3) == 0
    assert await node.database.own("channels").find_one({"_id": CHANNEL}) is None


class WithLongWindow:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"mongodb.dedupe_window": 600}


class TestWithinTheDedupeWindow(WithLongWindow):
    @pytest.mark.gen_test
    async def test_young_messages_stay(self, node: Node) -> None:
        """Whatever size and ttl say: a retry of a young message must find the first one."""
        await append(node, *range(1, 11))
        assert await node.log.trimmer.trim(CHANNEL, Retention(size=1, ttl=Seconds(0.001))) == 0
        assert await stored(node) == list(range(1, 11))
        receipt = await node.log.append(CHANNEL, None, "key 1", 1, 10)
        assert (receipt.position.offset, receipt.duplicate) == (1, True)

    @pytest.mark.gen_test
    async def test_what_is_cleared_is_emptied(self, node: Node) -> None:
        """When it is answered nothing is stored of what the messages have said; a retry finds them none the less."""
        said: list[Any] = ["secret", {"text": "secret"}, {"$secret": 1}]
        for number, data in enumerate(said):
            await node.log.append(CHANNEL, "ann", f"key {number}", data, 10)
        await node.log.clear(CHANNEL)
        rows = [repr(row) async for row in node.database.own("messages").find({"_id.c": CHANNEL})]
        assert len(rows) == 3
        assert not [row for row in rows if "secret" in row]
        receipt = await node.log.append(CHANNEL, "ann", "key 1", said[1], 10)
        assert (receipt.position.offset, receipt.duplicate) == (2, True)
        assert (await node.log.append(CHANNEL, "ann", "key 3", "new", 10)).position.offset == 4

    @pytest.mark.gen_test
    async def test_only_what_is_older_goes(self, node: Node) -> None:
        """The first young message is the end of the trimming, even if older ones stand behind it (skewed clocks)."""
        await append(node, *range(1, 9))
        await node.database.own("messages").update_many(
            {"_id.c": CHANNEL, "_id.o": {"$in": [1, 2, 3, 5, 6]}}, {"$inc": {"t": -3_600_000}}
        )
        assert await node.log.trimmer.trim(CHANNEL, KEEP_3) == 3
        assert await stored(node) == [4, 5, 6, 7, 8]


@pytest.mark.gen_test
async def test_the_floor_is_raised_before_anything_is_deleted(node: Node, mongod: Mongod) -> None:
    """If the deletion fails, the floor is up already: a reader is told of a gap, and never finds a silent hole."""
    await filled(node, 10)
    await mongod.fail_command({"failCommands": ["delete"], "errorCode": 8000, "appName": "waterspout"})
    try:
        with pytest.raises(Error, match="MongoDB"):
            await node.log.trimmer.trim(CHANNEL, KEEP_3)
    finally:
        await mongod.disarm()
    assert await stored(node) == list(range(1, 11))
    assert await floor(node) == 7
    page = await node.log.read(CHANNEL, BEGINNING)
    assert page.gap == (1, 7)
    assert [message.offset for message in page.messages] == [8, 9, 10]
    assert await node.log.trimmer.trim(CHANNEL, KEEP_3) == 7
    assert await stored(node) == [8, 9, 10]


@pytest.mark.gen_test
async def test_a_trim_that_stopped_before_deleting_is_finished(node: Node) -> None:
    """Another node raised the floor and died: the next trim deletes what it left, though the floor stays."""
    await filled(node, 10)
    await node.database.own("channels").update_one({"_id": CHANNEL}, {"$set": {"floor": 7}}, upsert=True)
    assert await node.log.trimmer.trim(CHANNEL, Retention(size=8, ttl=Seconds(0))) == 7
    assert await stored(node) == [8, 9, 10]


@pytest.mark.gen_test
async def test_two_trimmers_at_once(node: Node) -> None:
    """Several nodes may trim the same channel with different ideas; the floor never sinks."""
    await filled(node, 20)
    keeps = [Retention(size=size, ttl=Seconds(0)) for size in (3, 9, 5, 3)]
    await asyncio.gather(*(node.log.trimmer.trim(CHANNEL, keep) for keep in keeps))
    assert await floor(node) == 17
    assert await stored(node) == [18, 19, 20]


@pytest.mark.gen_test
async def test_the_last_message_is_hidden_and_offsets_go_on(node: Node, mongod: Mongod) -> None:
    """When everything is too old the last message stays in the collection, unseen and emptied, and the next one is
    numbered on."""
    await filled(node, 5)
    assert await node.log.trimmer.trim(CHANNEL, Retention(size=0, ttl=Seconds(WINDOW))) == 5
    assert await stored(node) == [5]
    assert "d" not in (await node.database.own("messages").find_one({"_id.c": CHANNEL}) or {}), "what it has said"
    assert (await node.log.read_back(CHANNEL, MAX_OFFSET, 10)) == ([], 5)
    page = await node.log.read(CHANNEL, BEGINNING)
    assert (page.messages, page.gap) == ([], (1, 5))
    async with opened(mongod.uri, node.config.mongodb, node="another") as log:  # the head is read from MongoDB
        await log.append(CHANNEL, None, "key 6", 6, 10)
    assert await stored(node) == [5, 6]
    await old_enough(node, 6)
    assert await node.log.trimmer.trim(CHANNEL, Retention(size=1, ttl=Seconds(0))) == 5
    assert await stored(node) == [6]  # the hidden one is gone at last


@pytest.mark.gen_test
async def test_who_has_not_heard_of_what_is_gone_numbers_on_behind_it(node: Node, mongod: Mongod) -> None:
    """A node that nobody can tell of the others' messages does not take the number of one that was trimmed since."""
    await append(node, 1)
    async with opened(mongod.uri, node.config.mongodb, node="another") as log:
        for number in range(2, 6):
            await log.append(CHANNEL, None, f"key {number}", number, 10)
        await old_enough(node, 5)
        assert await log.trimmer.trim(CHANNEL, Retention(size=1, ttl=Seconds(0))) == 4
    await append(node, 6)
    assert await stored(node) == [5, 6]


@pytest.mark.gen_test
async def test_a_retry_of_the_hidden_message(node: Node) -> None:
    """The hidden message is still there for its key: a late retry isn't stored a second time."""
    await filled(node, 5)
    await node.log.trimmer.trim(CHANNEL, Retention(size=0, ttl=Seconds(WINDOW)))
    receipt = await node.log.append(CHANNEL, None, "key 5", 5, 10)
    assert (receipt.position.offset, receipt.duplicate) == (5, True)


@pytest.mark.gen_test
async def test_the_nodes_own_trimmer(node: Node) -> None:
    """The node trims what it has written by its namespace's retention, and after a start every channel."""
    node.config.namespaces["chat"].history = KEEP_3
    await filled(node, 10)
    await node.log.trimmer.step()
    assert await stored(node) == [8, 9, 10]
    await append(node, *range(11, 15))
    await old_enough(node, 14)
    await node.log.trimmer.step()
    assert await stored(node) == [12, 13, 14]


@pytest.mark.gen_test
@pytest.mark.parametrize("keep", [KEEP_3, Retention(size=0, ttl=Seconds(4 * WINDOW))], ids=["size", "ttl"])
async def test_a_quiet_channel_is_trimmed_when_it_is_old_enough(node: Node, keep: Retention) -> None:
    """What the dedupe window or the ttl has spared goes once it is older, without new traffic on its channel."""
    node.config.namespaces["chat"].history = keep
    node.config.mongodb.dedupe_window = Seconds(4 * WINDOW)
    await node.log.trimmer.step()  # the round through every channel after a start
    await append(node, *range(1, 11))
    await node.log.trimmer.step()

    async def trimmed() -> bool:
        await node.log.trimmer.step()
        return await floor(node) >= 7

    await until(trimmed, 10, "trimming")


@pytest.mark.gen_test
async def test_what_was_too_young_is_trimmed_by_the_hourly_round(node: Node) -> None:
    """Messages that were spared because of the dedupe window go later, without new traffic on their channel."""
    node.config.namespaces["chat"].history = KEEP_3
    node.log.trimmer.round_every = 0.0
    node.config.mongodb.dedupe_window = Seconds(600)
    await append(node, *range(1, 11))
    await node.log.trimmer.step()
    assert await stored(node) == list(range(1, 11))
    node.config.mongodb.dedupe_window = Seconds(WINDOW)
    await old_enough(node, 10)
    await node.log.trimmer.step()
    assert await stored(node) == [8, 9, 10]


@pytest.mark.gen_test
async def test_a_failed_trim_is_done_again(node: Node, mongod: Mongod) -> None:
    """A channel whose trimming failed is trimmed in the next round, though nobody has published to it since."""
    node.config.namespaces["chat"].history = KEEP_3
    await node.log.trimmer.step()
    await filled(node, 10)
    await mongod.fail_command({"failCommands": ["update", "delete"], "errorCode": 8000, "appName": "waterspout"})
    try:
        with pytest.raises(Error):
            await node.log.trimmer.step()
    finally:
        await mongod.disarm()
    await node.log.trimmer.step()
    assert await stored(node) == [8, 9, 10]


@pytest.mark.gen_test
@pytest.mark.parametrize("after", [0, 2, 6])
async def test_resuming_from_below_the_floor(node: Node, url: str, after: int) -> None:
    """A subscriber is told exactly what is gone, then gets the rest, then the live messages."""
    await filled(node, 10)
    await node.log.trimmer.trim(CHANNEL, KEEP_3)
    async with Client(url) as client:
        subscription = await client.subscribe(CHANNEL, after=cursor(node, after) if after else "0")
        assert subscription.reply["recovered"] is False
        assert subscription.reply["cursor"] == cursor(node, 7)
        assert subscription.reply["head"] == cursor(node, 10)
        assert told(await subscription.next()) == (after + 1, 7)
        await client.publish(CHANNEL, 11)
        assert [push["data"] for push in await subscription.messages(4)] == [8, 9, 10, 11]
        assert not subscription.waiting()


@pytest.mark.gen_test
async def test_resuming_in_another_history(node: Node, url: str) -> None:
    """Behind the gap of another history stands what is retained: whoever resumes there has not missed anything more."""
    await filled(node, 10)
    await node.log.trimmer.trim(CHANNEL, KEEP_3)
    async with Client(url) as client:
        subscription = await client.subscribe(CHANNEL, after="another:5")
        gap = await subscription.next()
        assert (gap["type"], gap["reason"]) == ("gap", "epoch")
        assert gap["cursor"] == subscription.reply["cursor"] == cursor(node, 7)


@pytest.mark.gen_test
async def test_resuming_at_the_floor(node: Node, url: str) -> None:
    """Whoever has seen everything up to the floor has missed nothing."""
    await filled(node, 10)
    await node.log.trimmer.trim(CHANNEL, KEEP_3)
    async with Client(url) as client:
        subscription = await client.subscribe(CHANNEL, after=cursor(node, 7))
        assert subscription.reply["recovered"] is True
        assert [push["data"] for push in await subscription.messages(3)] == [8, 9, 10]


@pytest.mark.gen_test
async def test_resuming_where_nothing_is_left(node: Node, url: str) -> None:
    """If all that was missed is gone there is a gap up to the head, and the live messages follow."""
    await filled(node, 5)
    await node.log.trimmer.trim(CHANNEL, Retention(size=0, ttl=Seconds(WINDOW)))
    async with Client(url) as client:
        subscription = await client.subscribe(CHANNEL, after=cursor(node, 2))
        assert (subscription.reply["recovered"], subscription.reply["cursor"]) == (False, cursor(node, 5))
        assert told(await subscription.next()) == (3, 5)
        last = await Client(url).connect()
        newest = await last.subscribe(CHANNEL, last=3)
        assert newest.reply["recovered"] is True
        await client.publish(CHANNEL, 6)
        assert (await subscription.message())["offset"] == 6
        assert (await newest.message())["offset"] == 6
        await last.close()


@pytest.mark.gen_test
async def test_history_below_the_floor(node: Node, url: str) -> None:
    """History names the gap forwards and backwards, and its cursors lead on."""
    await filled(node, 10)
    await node.log.trimmer.trim(CHANNEL, KEEP_3)
    async with Client(url) as client:
        page = await client.history(CHANNEL, after=cursor(node, 2))
        assert page["gap"] == {"from": 3, "to": 7}
        assert [message["offset"] for message in page["messages"]] == [8, 9, 10]
        page = await client.history(CHANNEL, after="0", limit=2)
        assert page["gap"] == {"from": 1, "to": 7}
        assert [message["offset"] for message in page["messages"]] == [8, 9]
        assert page["more"] is True
        page = await client.history(CHANNEL, after=page["cursor"])
        assert (page["gap"], [message["offset"] for message in page["messages"]]) == (None, [10])
        page = await client.history(CHANNEL, before=cursor(node, 9))
        assert ([message["offset"] for message in page["messages"]], page["more"]) == ([8], False)
        page = await client.history(CHANNEL, before=cursor(node, 5))
        assert page["messages"] == []
        assert page["gap"] == {"from": 1, "to": 4}
        page = await client.history(CHANNEL)
        assert [message["offset"] for message in page["messages"]] == [8, 9, 10]


@pytest.mark.gen_test
async def test_history_where_nothing_is_left(node: Node, url: str) -> None:
    """An empty page after a gap has a cursor from which the next message is reached without another gap."""
    await filled(node, 5)
    await node.log.trimmer.trim(CHANNEL, Retention(size=0, ttl=Seconds(WINDOW)))
    async with Client(url) as client:
        page = await client.history(CHANNEL, after=cursor(node, 2))
        assert page["gap"] == {"from": 3, "to": 5}
        assert (page["messages"], page["cursor"], page["more"]) == ([], cursor(node, 5), False)
        await client.publish(CHANNEL, 6)
        page = await client.history(CHANNEL, after=page["cursor"])
        assert (page["gap"], [message["offset"] for message in page["messages"]]) == (None, [6])


@pytest.mark.gen_test(timeout=30)
async def test_live_subscribers_are_not_disturbed(node: Node, url: str) -> None:
    """Trimming under traffic: who keeps up sees every message once, in order, and nothing else."""
    total = 600
    async with Client(url) as publisher, Client(url) as reader:
        subscription = await reader.subscribe(CHANNEL)
        publishing = asyncio.gather(*(publisher.publish(CHANNEL, n) for n in range(1, total + 1)))
        while not publishing.done():
            await node.log.trimmer.trim(CHANNEL, KEEP_3)
        await publishing
        await old_enough(node, total)
        await node.log.trimmer.trim(CHANNEL, KEEP_3)
        pushes: list[Push] = await subscription.messages(total)
    assert [push["offset"] for push in pushes] == list(range(1, total + 1))
    assert await stored(node) == [total - 2, total - 1, total]


@pytest.mark.gen_test(timeout=30)
async def test_replay_overtaken_by_the_trimmer(node: Node, url: str) -> None:
    """What is trimmed away under a replay becomes a gap in the middle of the stream: all offsets are accounted for."""
    data = "x" * 8000
    await asyncio.gather(*(node.log.append(CHANNEL, None, f"key {n}", data, len(data)) for n in range(1, 2001)))
    await old_enough(node, 2000)
    buffered = -1

    def stuck() -> bool:
        """Nothing more went into the connection since the last look."""
        nonlocal buffered
        before, buffered = buffered, next((one.outbox.unread for one in node.admission.clients), -1)
        return buffered > 0 and buffered == before

    async with Client(url) as reader:
        reader.pause_reading()
        asking = asyncio.ensure_future(reader.subscribe(CHANNEL, after="0"))
        await until(stuck, 10, "full connection")
        await node.log.trimmer.trim(CHANNEL, KEEP_3)
        reader.resume_reading()
        subscription = await asking
        assert subscription.reply["recovered"] is True
        expected, gaps = 1, 0
        while expected <= 2000:
            push = await subscription.next(10)
            if push["type"] == "gap":
                assert push["from"] == expected
                expected, gaps = push["to"] + 1, gaps + 1
            else:
                assert push["offset"] == expected
                expected += 1
    assert gaps == 1


@pytest.mark.gen_test
async def test_what_is_cleared_is_hidden_at_once_and_goes_when_it_may(node: Node) -> None:
    """A retry finds the first one until the dedupe window is over; then only the last is left, hidden."""
    await append(node, 1, 2, 3)
    node.config.mongodb.dedupe_window = Seconds(3600)
    await node.log.clear(CHANNEL)
    assert (await floor(node), await stored(node)) == (3, [1, 2, 3])
    assert await node.log.trimmer.trim(CHANNEL, KEEP_3) == 3
    assert await stored(node) == [1, 2, 3]
    assert (await node.log.append(CHANNEL, None, "key 1", 1, 10)).duplicate
    node.config.mongodb.dedupe_window = Seconds(WINDOW)
    await old_enough(node, 3)
    assert await node.log.trimmer.trim(CHANNEL, KEEP_3) == 3
    assert await stored(node) == [3]
    assert (await node.log.append(CHANNEL, None, "key 4", 4, 10)).position.offset == 4


@pytest.mark.gen_test
async def test_clearing_is_told_although_not_all_of_it_can_be_done(node: Node) -> None:
    """When MongoDB goes away behind the raising of the floor, no page in memory is believed all the same."""

    async def away(channel: str, offset: int) -> None:
        raise Error("unavailable", "MongoDB: away")

    await append(node, 1, 2, 3)
    node.log.trimmer.on_trimmed.insert(0, away)
    began = time.monotonic()
    with pytest.raises(Error, match="away"):
        await node.log.clear(CHANNEL)
    assert (await floor(node), node.log.changed(CHANNEL) >= began) == (3, True)
