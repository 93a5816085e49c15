"""examples/shop: an order is placed in a transaction, told of by the outbox, and packed by a consumer."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from server.core import config
from server.mongo.client import connect
from server.tools.seed import Example
from tests.support.processes import ROOT, Mongod, Server
from tests.support.waiting import until

SHOP = ROOT / "examples" / "shop"
Database = Any


@asynccontextmanager
async def opened(
    tmp_path: Path, mongod: Mongod, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Server, Database]]:
    """The shop's server, and its database with what there is to sell."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("SHOP_MONGODB", mongod.uri)
    monkeypatch.setenv("SHOP_DATABASE", name)
    flags = ("--config", str(SHOP / "shop.yaml"))
    server = Server(tmp_path, mongod.uri, settings={"mongodb.database": name}, arguments=flags)
    options = config.load(SHOP / "shop.yaml", {}, [("mongodb.database", name)])
    database = connect(options.mongodb, mongod.uri)
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongod.uri)
    try:
        async with server:
            await Example(database, frozenset(("products", "stock")), random.Random(7)).fill()
            yield server, client[name]
    finally:
        database.client.close()
        await client.close()


async def place(server: Server, *lines: tuple[str, int], key: str | None = None) -> Any:
    data = {"lines": [{"product": product, "quantity": quantity} for product, quantity in lines]}
    return await server.post("/v1/call/shop.place", {"data": data, "key": key})


@pytest.mark.gen_test(timeout=60)
async def test_an_order_is_placed_and_packed(tmp_path: Path, mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock, order and message together; once, however often it is asked for with one key."""
    async with opened(tmp_path, mongod, monkeypatch) as (server, shop):
        await shop["stock"].update_one({"_id": "kettle"}, {"$set": {"left": 3}})
        answers = await asyncio.gather(*(place(server, ("kettle", 2), ("mug", 1), key="k") for _ in range(3)))
        assert {answer.status for answer in answers} == {200}
        order = answers[0].body["data"]
        assert [answer.body["data"] for answer in answers] == [order] * 3
        assert (order["status"], order["customer"]) == ("placed", "a guest")
        assert (await shop["stock"].find_one({"_id": "kettle"}))["left"] == 1
        await until(lambda: shop["orders"].find_one({"_id": order["_id"], "status": "packed"}), 20, "it is packed")
        assert await shop["orders"].count_documents({}) == 1
        await until(lambda: _is_empty(shop["waterspout_outbox"]), what="the entry is gone")


@pytest.mark.gen_test(timeout=60)
async def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, mongod: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an order of which one product is sold out the other is not taken either; and nobody is told of it."""
    async with opened(tmp_path, mongod, monkeypatch) as (server, shop):
        await shop["stock"].update_one({"_id": "kettle"}, {"$set": {"left": 1}})
        before = await shop["stock"].find().sort("_id").to_list()
        refused = await place(server, ("candle", 1), ("kettle", 2))
        assert (refused.status, refused.body["code"], refused.body["reason"]) == (409, "refused", "sold out")
        assert refused.body["details"] == {"product": "kettle"}
        for lines in ((), (("kettle", 0),), (("no such product", 1),)):
            assert (await place(server, *lines)).body["code"] == "refused"
        for data in (None, [1], {"lines": [1]}, {"lines": [{"product": {"$ne": 1}, "quantity": 1}]}):
            assert (await server.post("/v1/call/shop.place", {"data": data})).body["code"] == "refused"
        assert await shop["stock"].find().sort("_id").to_list() == before
        assert await shop["orders"].count_documents({}) == 0
        assert await _is_empty(shop["waterspout_outbox"])


@pytest.mark.gen_test(timeout=60)
async def test_customers_by_the_simulation(tmp_path: Path, mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run.py seed --simulate` orders by the call; what is sold out is delivered anew."""
    async with opened(tmp_path, mongod, monkeypatch) as (server, shop):
        options = config.load(SHOP / "shop.yaml", {}, [("mongodb.database", shop.name)])
        database = connect(options.mongodb, mongod.uri)
        declared = frozenset(("products", "stock", "orders"))
        example = Example(database, declared, random.Random(7), f"{server.base}/v1/call/shop.place")
        await shop["stock"].update_many({}, {"$set": {"left": 0}})
        simulating = asyncio.create_task(example.simulate())
        try:
            await until(lambda: shop["orders"].find_one({"status": "packed"}), 30, "an order that is packed")
            await until(lambda: shop["orders"].find_one({"status": "shipped"}), 30, "an order that is on its way")
        finally:
            simulating.cancel()
            database.client.close()


def test_it_is_short() -> None:
    """An example is read from top to bottom."""
    assert len((SHOP / "shop.py").read_text().splitlines()) <= 150


async def _is_empty(collection: Any) -> bool:
    return await collection.count_documents({}) == 0
