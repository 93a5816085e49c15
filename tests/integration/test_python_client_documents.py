"""The Python client's documents on a real server: read, written, and watched through losses."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from server.core.errors import SHUTDOWN, Disconnect
from server.node import Node
from tests.integration.test_python_client import QUICK, SECRET, CommandLine
from tests.support.client import make_token
from tests.support.processes import UNLIMITED, Mongod, Server
from tests.support.waiting import until
from waterspout_client import Change, Client, Live, Message, Replaced, Watch, WaterspoutError

pytestmark = pytest.mark.gen_test(timeout=60)


@pytest.fixture
def settings() -> dict[str, object]:
    return {"collections.orders": {"read": "anyone", "write": "user"}}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url


def ann(url: str, **options: Any) -> Client:
    return Client(url, token=make_token(SECRET, "ann"), **options)


async def test_documents_are_written_and_read(url: str) -> None:
    """With revisions that keep two writers apart; what is refused says what the revision is."""
    async with ann(url) as client:
        orders = client.collection("orders")
        one = await orders.put("17", {"status": "open", "total": 12})
        two = await orders.patch("17", {"total": 14, "status": None}, if_rev=one["_rev"])
        assert two == {"_id": "17", "_rev": two["_rev"], "total": 14}
        for refused in (orders.patch("17", {}, if_rev=one["_rev"]), orders.put("17", {}, if_absent=True)):
            with pytest.raises(WaterspoutError, match="conflict") as conflict:
                await refused
            assert conflict.value.rev == two["_rev"]
        assert await orders.get("17") == two
        await orders.put("18", {"total": 20})
        found = await orders.find({"total": {"$gt": 0}}, sort="-total", limit=1)
        assert [document["_id"] for document in found.documents] == ["18"]
        found = await orders.find({"total": {"$gt": 0}}, sort="-total", limit=1, page=found.page)
        assert found.documents == [two]
        await orders.delete("18", if_rev="*")
        with pytest.raises(WaterspoutError, match="not_found"):
            await orders.get("18")


async def test_a_watch_follows_what_matches(url: str) -> None:
    async with ann(url) as client:
        orders = client.collection("orders")
        await orders.put("1", {"status": "open"})
        await orders.put("2", {"status": "closed"})
        async with orders.watch({"status": "open"}) as watch:
            assert isinstance(await anext(watch), Replaced)
            assert set(watch.documents) == {"1"}
            await orders.patch("2", {"status": "open"})
            change = await anext(watch)
            assert isinstance(change, Change)
            assert (change.op, change.id, set(watch.documents)) == ("put", "2", {"1", "2"})
            await orders.patch("1", {"status": "closed"})
            change = await anext(watch)
            assert isinstance(change, Change)
            assert (change.op, change.id, set(watch.documents)) == ("delete", "1", {"2"})


async def test_a_collection_is_watched_several_times(url: str, node: Node) -> None:
    """By one client, with different `where`, each of them a copy of its own; through a loss as well."""
    async with ann(url) as writer, ann(url, **QUICK) as client:
        orders, written = client.collection("orders"), writer.collection("orders")
        await written.put("1", {"status": "open"})
        await written.put("2", {"status": "shut"})

        async def changed(watch: Watch) -> set[str]:
            assert isinstance(await anext(watch), Change)
            return set(watch.documents)

        async with (
            orders.watch() as everything,
            orders.watch({"status": "open"}) as opened,
            orders.watch({"status": "shut"}) as shut,
        ):
            for watch, ids in ((everything, {"1", "2"}), (opened, {"1"}), (shut, {"2"})):
                assert isinstance(await anext(watch), Replaced)
                assert set(watch.documents) == ids
            await written.patch("1", {"status": "shut"})
            assert [await changed(watch) for watch in (everything, opened, shut)] == [{"1", "2"}, set(), {"1", "2"}]
            (session,) = (one for one in node.admission.clients if one.id == client.session["session"])
            session.disconnect(Disconnect(SHUTDOWN, "the server is leaving"), 0.05)
            await written.patch("2", {"status": "open"})
            assert [await changed(watch) for watch in (everything, opened, shut)] == [{"1", "2"}, {"2"}, {"1"}]


async def test_what_is_filtered_is_live_without_its_head(url: str) -> None:
    async with ann(url) as client:
        orders = client.collection("orders")
        await orders.put("1", {"status": "open"})
        await orders.put("2", {"status": "shut"})

        async def told() -> bool:
            return len((await client.history("docs:orders")).messages) == 2

        await until(told, what="changes in the log")
        for channel, where in (("docs:orders", {"status": "open"}), ("docs:orders/1", None)):
            async with client.subscribe(channel, after="0", where=where) as events:
                kinds = {type(await anext(events)) for _ in range(2)}
                assert kinds == {Live, Message}


async def test_a_copy_equals_the_collection_after_a_killed_server(tmp_path: Path, mongod: Mongod) -> None:
    """Writes go on while the snapshot is taken, while the server is dead, and afterwards."""
    settings = UNLIMITED | {
        "mongodb.database": f"test_{uuid.uuid4().hex[:12]}",
        "auth.secret": SECRET,
        "collections.orders": {"read": "anyone", "write": "user"},
    }
    async with Server(tmp_path, mongod.uri, settings=settings) as server, ann(server.base, **QUICK) as client:
        orders = client.collection("orders")

        async def write() -> None:
            for n in range(150):
                try:
                    if random.random() < 0.2:
                        await orders.delete(str(random.randrange(20)))
                    else:
                        await orders.put(str(random.randrange(20)), {"n": n, "open": random.random() < 0.5})
                except WaterspoutError as error:
                    if error.code not in ("not_found", "disconnected"):
                        raise

        async def follow(watch: Watch) -> None:
            async for _ in watch:
                pass

        async with ann(server.base, **QUICK) as other, other.collection("orders").watch({"open": True}) as watch:
            following = asyncio.create_task(follow(watch))
            writing = asyncio.create_task(write())
            await until(lambda: len(watch.documents) > 3, what="copy")
            await server.kill()
            await server.start()
            await writing
            found = {document["_id"]: document for document in (await orders.find({"open": True})).documents}
            await until(lambda: watch.documents == found, what="copy that equals the collection")
            following.cancel()


async def test_watch_from_a_shell(url: str) -> None:
    async with ann(url) as client:
        orders = client.collection("orders")
        await orders.put("1", {"status": "open"})
        process = await CommandLine(url).start("watch", "orders", "--where", '{"status": "open"}')
        assert process.stdout is not None
        try:
            async with asyncio.timeout(20):
                assert await process.stdout.readline() == b'= 1  {"status": "open"}\n'
                await orders.patch("1", {"total": 2})
                line = (await process.stdout.readline()).decode()
                assert line.startswith("+ 1  ")
                assert json.loads(line.removeprefix("+ 1  ")) == {"status": "open", "total": 2}
                await orders.delete("1")
                assert await process.stdout.readline() == b"- 1\n"
                process.send_signal(2)
                await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 130
