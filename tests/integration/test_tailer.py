"""The tailer: who tails, each change once whatever happens, and snapshots that join the changes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect

from server.core.cursors import BEGINNING, parse_cursor
from server.core.errors import StartError
from server.core.principals import GUEST
from server.documents.store import Documents
from server.documents.tailer import Tailer
from server.mongo.leases import LEASE
from server.node import Node
from server.wire.messages import Change, Tail
from tests.integration.test_revocations import instances
from tests.support.client import Client
from tests.support.documents import Copy, watch
from tests.support.nodes import another
from tests.support.processes import Mongod, Redis
from tests.support.waiting import until


@pytest.fixture
def settings() -> dict[str, object]:
    return {"collections.orders": {"read": "anyone", "write": "anyone"}, "mongodb.dedupe_window": 0}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


@pytest.fixture
def direct(mongod: Mongod, node: Node) -> Any:
    with MongoClient[Any](mongod.uri) as client:
        yield client[node.config.mongodb.database]


async def logged(node: Node) -> list[Any]:
    """(op, id, n) of everything in the log."""
    found: list[Any] = []
    cursor = "0"
    while True:
        page = await node.history.page(GUEST, "docs:orders", after=cursor, before=None, limit=500)
        found += [(one.data["op"], one.data["id"], (one.data["document"] or {}).get("n")) for one in page["messages"]]
        cursor = page["cursor"]
        if not page["more"]:
            return found


@pytest.mark.gen_test(timeout=60)
async def test_another_node_takes_over(node: Node, mongod: Mongod, direct: Any) -> None:
    """At once from one that leaves; within the lease from one that is dead. Nothing is missed or doubled."""
    async with another(node, mongod) as second:
        await until(lambda: node.tailer.holds and not second.tailer.holds)
        direct.orders.insert_one({"_id": "1", "n": 1})
        await node.tailer.close()
        direct.orders.insert_one({"_id": "2", "n": 2})
        await until(lambda: second.tailer.holds, 5)
        direct.orders.insert_one({"_id": "3", "n": 3})
        await second.tailer.close()
        # As if it were dead: the lease stays.
        until_then = {"$add": ["$$NOW", LEASE]}
        direct["waterspout.meta"].update_one({"_id": "tailer"}, [{"$set": {"holder": second.id, "until": until_then}}])
        await node.tailer.open()
        direct.orders.insert_one({"_id": "4", "n": 4})
        await until(lambda: node.tailer.holds, LEASE / 1000 + 5)

        async def all_there() -> bool:
            return len(await logged(node)) >= 4

        await until(all_there)
        assert await logged(node) == [("put", str(n), n) for n in range(1, 5)]


@pytest.mark.gen_test(timeout=60)
async def test_other_collections_are_declared(node: Node, mongod: Mongod, direct: Any) -> None:
    """The checkpoint stands at a change of a collection that is not declared any more, where a stream of others cannot
    resume: it goes on there all the same, even if it fails at first. Nobody has been told anything of a new
    collection, so it has lost nothing."""
    direct.orders.insert_one({"_id": "1", "n": 1})
    await until(lambda: node.tailer.changes == 1)
    at_a_change = (await node.log.changes.tail("docs:orders")).token
    await node.tailer.close()
    direct["waterspout.meta"].update_one({"_id": "tailer"}, {"$set": {"token": at_a_change}})
    declared = {"tasks": node.config.collections["orders"]}
    documents = Documents(node.database, declared, node.config.mongodb, 0)
    await documents.open()
    other = Tailer(node.database_apart, declared, node.log.changes, node="o", prepare=documents.prepare)
    stumble = {"failCommands": ["aggregate"], "closeConnection": True, "namespace": f"{direct.name}.$cmd.aggregate"}
    before = await mongod.fail_command(stumble, {"times": 1})
    await other.open()
    try:
        await other.position("tasks")
        assert await mongod.disarm() == before + 1
        direct.tasks.insert_one({"_id": "t", "n": 1})
        direct.tasks.update_one({"_id": "t"}, {"$set": {"n": 2}})
        await until(lambda: other.changes == 2)
        page = await node.log.read("docs:tasks", BEGINNING, 10)
        assert [message.data["document"]["n"] for message in page.messages] == [1, 2]
        assert (page.gap, page.messages[0].offset) == (None, 1)
    finally:
        await other.close()


@pytest.mark.gen_test(timeout=60)
async def test_a_new_collection_that_only_a_waiting_node_serves_starts_over(
    node: Node, mongod: Mongod, direct: Any
) -> None:
    """It has had subscribers before the node that serves it tails: they must learn that changes are missing."""
    declared = dict.fromkeys(("orders", "tasks"), node.config.collections["orders"])
    documents = Documents(node.database, declared, node.config.mongodb, 0)
    await documents.open()
    await until(lambda: node.tailer.holds)
    other = Tailer(node.database_apart, declared, node.log.changes, node="o", prepare=documents.prepare)
    await other.open()
    try:
        await until(lambda: "tasks" in direct["waterspout.meta"].find_one({"_id": "tailer"})["known"])
        direct.tasks.insert_one({"_id": "missed"})
        await node.tailer.position()
        await node.tailer.close()
        await until(lambda: other.holds, 10)
        await other.position("tasks")
        direct.tasks.insert_one({"_id": "told"})
        await until(lambda: other.changes == 1)
        page = await node.log.read("docs:tasks", BEGINNING, 10)
        assert [message.data["id"] for message in page.messages] == ["told"]
        assert page.gap is not None
    finally:
        await other.close()


@pytest.mark.gen_test(timeout=60)
async def test_what_the_checkpoint_does_not_stand_for_starts_over(
    url: str, node: Node, mongod: Mongod, direct: Any
) -> None:
    """An instance that has not declared the collection tailed for a while: a gap says that changes are missing."""
    async with Client([url]) as client:
        direct.orders.insert_one({"_id": "1", "n": 1})
        copy, _ = await watch(client, "docs:orders")
        direct.orders.insert_one({"_id": "2", "n": 2})
        await until(lambda: "2" in copy.documents)
        plain = await client.subscribe("docs:orders/9", after="0")
        await node.tailer.close()
        other = Tailer(node.database_apart, {"others": node.config.collections["orders"]}, node.log.changes, node="o",
                       prepare=node.document_store.prepare)  # fmt: skip
        await other.open()
        await until(lambda: other.holds)
        direct.orders.insert_one({"_id": "3", "n": 3})
        await other.position("others")
        assert direct["waterspout.meta"].find_one({"_id": "tailer"})["names"] == ["others"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(node.tailer.position("orders"), 0.2)
        await other.close()
        await node.tailer.open()
        await until(lambda: "3" in copy.documents, 20)
        gap = await plain.next()
        while gap["type"] == "progress":
            gap = await plain.next()
        assert (gap["type"], gap["reason"]) == ("gap", "epoch")
        direct.orders.insert_one({"_id": "4", "n": 4})
        await until(lambda: "4" in copy.documents)


@pytest.mark.gen_test(timeout=60)
async def test_two_tailers_at_once_store_each_change_once(
    node: Node, mongod: Mongod, direct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both hold the lease, which knows them by one name, and sometimes an append's outcome is not told to them."""
    async with another(node, mongod) as second, AsyncExitStack() as stack:
        await until(lambda: node.tailer.holds)
        append = second.log.changes.append
        lost = 0

        async def forgetful(channel: str, tail: Tail, changes: list[Change]) -> Tail:
            nonlocal lost
            result = await append(channel, tail, changes)
            lost += 1
            if lost % 3 == 0:
                raise AutoReconnect("the answer was lost")
            return result

        monkeypatch.setattr(second.log.changes, "append", forgetful)
        await second.tailer.close()
        twin = Tailer(second.database_apart, node.config.collections, second.log.changes, node=node.id,
                      prepare=second.document_store.prepare)  # fmt: skip
        await twin.open()
        stack.push_async_callback(twin.close)
        await until(lambda: twin.holds)
        for n in range(300):
            direct.orders.replace_one({"_id": str(n % 7)}, {"n": n}, upsert=True)
            if n % 50 == 0:
                await asyncio.sleep(0.3)

        async def all_there() -> bool:
            return len(await logged(node)) >= 300

        await until(all_there, 30)
        await until(lambda: node.tailer.changes and twin.changes, 10, "both at work")
        assert await logged(node) == [("put", str(n % 7), n) for n in range(300)]


@pytest.mark.gen_test(timeout=60)
async def test_a_snapshot_of_ten_thousand_joins_the_changes(url: str, direct: Any) -> None:
    """Many pages, writes at full speed from before the snapshot until after it, a reader that pauses in its middle."""
    direct.orders.insert_many([{"_id": f"{n:05}", "n": 0, "text": "x" * 200} for n in range(10_000)])
    stop = False

    def write() -> None:
        n = 0
        while not stop:
            n += 1
            direct.orders.update_one({"_id": f"{n * 7919 % 10_000:05}"}, {"$set": {"n": n}})
            direct.orders.delete_one({"_id": f"{n * 104729 % 10_000:05}"})
            direct.orders.insert_one({"_id": f"new-{n:05}", "n": n})

    async with Client([url]) as client:
        writing = asyncio.create_task(asyncio.to_thread(write))
        try:
            copy = Copy()
            await client.subscribe("docs:orders", on_push=copy.take, snapshot=True)
            await until(lambda: copy.pushes)
            client.pause_reading()
            await asyncio.sleep(0.5)
            client.resume_reading()
            await asyncio.wait_for(copy.whole.wait(), 20)
        finally:
            stop = True
            await writing
        pages = [push for push in copy.pushes if push["type"] == "snapshot"]
        assert len(pages) > 10
        assert [page.get("start", False) for page in pages] == [True] + [False] * (len(pages) - 1)
        direct.orders.insert_one({"_id": "end"})
        await until(lambda: "end" in copy.documents, 20)
        stored = {one["_id"]: one["n"] for one in direct.orders.find({"_id": {"$ne": "end"}})}
        assert {name: one["n"] for name, one in copy.documents.items() if name != "end"} == stored
        assert copy.errors == []
        assert copy.changes


@pytest.mark.gen_test(timeout=60)
async def test_a_snapshot_replaces_a_gap(url: str, node: Node, direct: Any) -> None:
    """A cursor that is no longer retained: with `snapshot` a fresh one and no gap, without it the gap."""
    async with Client([url]) as client:
        copy, subscription = await watch(client, "docs:orders")
        old = subscription.cursor
        await client.unsubscribe("docs:orders")
        for n in range(10):
            direct.orders.insert_one({"_id": str(n), "n": n})

        async def all_there() -> bool:
            return len(await logged(node)) == 10

        await until(all_there)
        node.config.collections["orders"].history.size = 3
        await asyncio.sleep(0.01)  # the dedupe window of 0 ends
        assert await node.log.trimmer.trim("docs:orders", node.config.collections["orders"].history) == 7

        async def gone() -> bool:
            return (await node.log.read("docs:orders", parse_cursor(old))).gap is not None

        await until(gone)  # what was read a moment ago would still do
        copy, subscription = await watch(client, "docs:orders", after=old)
        assert subscription.reply["recovered"] is False
        assert [push["type"] for push in copy.pushes] == ["snapshot"]
        assert len(copy.documents) == 10
        await client.unsubscribe("docs:orders")
        plain = await client.subscribe("docs:orders", after=old)
        gap = await plain.next()
        assert (gap["type"], gap["from"], gap["to"]) == ("gap", 1, 7)
        # When nothing of it can be read any more, the last change is emptied, and what comes goes on behind it.
        while gap.get("offset") != 10:
            gap = await plain.next()
        await node.log.clear("docs:orders")
        (last,) = [row async for row in node.database.own("messages").find({"_id.c": "docs:orders"})]
        assert {"d", "j"}.isdisjoint(last)
        assert set(last["x"]) == {"k", "t"}
        direct.orders.insert_one({"_id": "new", "n": 10})
        push = await plain.next()
        assert (push["offset"], push["data"]["id"]) == (11, "new")


@pytest.mark.gen_test(timeout=60)
async def test_a_replay_that_shows_nothing_moves_on(url: str, direct: Any) -> None:
    direct.orders.insert_many([{"_id": str(n), "a": 0} for n in range(2500)])
    direct.orders.insert_one({"_id": "end", "a": 1})
    async with Client([url]) as client:
        await watch(client, "docs:orders/end")
        subscription = await client.subscribe("docs:orders", after="0", where={"a": 1})
        pushes = [await subscription.next() for _ in range(3)]
        assert [push["type"] for push in pushes] == ["progress", "progress", "message"]
        assert [push["cursor"].split(":")[1] for push in pushes] == ["1000", "2000", "2501"]
        await client.unsubscribe("docs:orders")
        conflated = await client.subscribe("docs:orders", where={"a": 2}, conflate=0.05)
        for n in range(20):
            direct.orders.update_one({"_id": "1"}, {"$set": {"a": 2, "n": n}})
        seen: list[int] = []
        while not seen or seen[-1] != 19:
            seen.append((await conflated.message())["data"]["document"]["n"])
        assert len(seen) < 20
        assert seen == sorted(seen)


@pytest.mark.gen_test(timeout=30)
async def test_what_mongodb_cannot_have_is_said_at_start(node: Node) -> None:
    await node.database.command({"create": "view", "viewOn": "orders", "pipeline": []})
    declared = {"view": node.config.collections["orders"]}
    with pytest.raises(StartError, match=r"collections\.view"):
        await Documents(node.database, declared, node.config.mongodb, 0).open()


@pytest.mark.gen_test(timeout=60)
async def test_a_database_dropped_under_running_nodes_begins_anew(mongod: Mongod, tmp_path: Path) -> None:
    """Watchers get a new snapshot, later changes come, the indexes are there again, and new watchers are served;
    whichever of the two nodes it is that tails then."""
    orders = {"read": "anyone", "write": "anyone"}
    options = {"collections.orders": orders, "mongodb.dedupe_window": 0}
    async with (
        Redis(tmp_path) as redis,
        instances(mongod.uri, mongod.uri, redis=redis.url, **options) as (one, _),
        Client([one.ws]) as client,
        Client([one.ws]) as late,
        AsyncExitStack() as stack,
    ):
        direct = stack.enter_context(MongoClient[Any](mongod.uri))[one.node.config.mongodb.database]
        direct.orders.insert_one({"_id": "1", "n": 1})
        copy, _ = await watch(client, "docs:orders")
        assert set(copy.documents) == {"1"}
        before = direct["waterspout.creations"].index_information()
        direct.client.drop_database(direct.name)
        await until(lambda: not copy.documents and copy.whole.is_set(), 30)
        direct.orders.insert_one({"_id": "2", "n": 2})
        await until(lambda: set(copy.documents) == {"2"}, 30)
        await one.node.document_store.check()
        assert direct["waterspout.creations"].index_information() == before
        other, _ = await watch(late, "docs:orders")
        assert set(other.documents) == {"2"}
        direct.orders.insert_one({"_id": "3", "n": 3})
        await until(lambda: set(copy.documents) == set(other.documents) == {"2", "3"}, 20)
        assert copy.errors == []


@pytest.mark.gen_test(timeout=60)
async def test_a_checkpoint_that_is_gone_is_written_anew(url: str, node: Node, direct: Any) -> None:
    """Nobody knows what has changed meanwhile, so those who watch start over."""
    async with Client([url]) as client:
        direct.orders.insert_one({"_id": "1", "n": 1})
        copy, _ = await watch(client, "docs:orders")
        direct["waterspout.meta"].delete_one({"_id": "tailer"})
        direct.orders.insert_one({"_id": "2", "n": 2})
        await until(lambda: copy.snapshots == 2 and set(copy.documents) == {"1", "2"}, 30)
        direct.orders.insert_one({"_id": "3", "n": 3})
        await until(lambda: "3" in copy.documents, 20)
