"""The example that the pages and the README show."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from server.core import config
from server.node import Node
from server.tools.seed import COLLECTIONS, Example
from tests.support.client import Client
from tests.support.commands import called, refused
from tests.support.documents import watch
from tests.support.processes import ROOT, Mongod, Server
from tests.support.waiting import until

DEMO = COLLECTIONS


@pytest.fixture
def settings() -> dict[str, object]:
    return {f"collections.{name}": {"read": "anyone"} for name in DEMO}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


class Hasty(random.Random):
    """With a tenth of the pauses."""

    def uniform(self, a: float, b: float) -> float:
        return super().uniform(a, b) / 10


@pytest.mark.gen_test(timeout=30)
async def test_orders_flow_and_prices_move(node: Node, url: str) -> None:
    """Filling it twice leaves the same documents, and what the simulation does reaches whoever watches."""
    example = Example(node.database, frozenset(DEMO), Hasty(7))
    assert await example.fill() == await example.fill()
    assert await node.database["products"].count_documents({}) == 17
    async with Client([url]) as client:
        orders, _ = await watch(client, "docs:orders", where={"status": {"$ne": "shipped"}})
        prices, _ = await watch(client, "docs:instruments")
        assert orders.documents
        moving = asyncio.create_task(example.simulate())
        try:
            await until(lambda: orders.changes and prices.changes, 15)
            # The oldest go on faster than new ones come: the way of an order can be watched from its begin to its end.
            newest = {"created": {"$gt": max(one["created"] for one in orders.documents.values())}}
            for status in ("placed", "shipped"):
                query = {**newest, "status": status}
                await until(lambda query=query: node.database["orders"].find_one(query), 20, status)
        finally:
            moving.cancel()


def test_the_demonstrations_collections_are_declared() -> None:
    assert set(DEMO) <= set(config.load(ROOT / "config.yaml", {}, []).collections)


@pytest.mark.gen_test(timeout=60)
async def test_the_command_finds_the_servers_own_mongodb(tmp_path: Path) -> None:
    """Beside a server with an embedded MongoDB, on the same data directory."""
    async with Server(tmp_path) as server:
        command = [*server.command(), "seed"]
        child = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(child.communicate(), 30)
        assert child.returncode == 0
        assert b"products: 17 documents" in out
        listed = await server.get("/v1/documents/products?limit=1&count=1")
        assert listed.body["count"] == 17


@pytest.mark.gen_test(timeout=60)
async def test_collections_that_are_not_declared_are_named(tmp_path: Path, mongod: Mongod) -> None:
    """Some of them: the others are filled. None of them: nothing can be done, and one line says what to do."""
    file = tmp_path / "my.yaml"
    file.write_text("collections:\n  products: {read: anyone}\n")
    flags = ("--config", str(file), "--mongodb-uri", mongod.uri, "--set", "mongodb.database=test_seed", "seed")
    code, text = await called(*flags)
    assert code == 1
    assert "products: 17 documents" in text
    assert "not declared, so left out: stock, orders, instruments, trades" in text
    assert "config.yaml" in text
    file.write_text("collections: {}\n")
    said = await refused(*flags)
    assert "none of the collections products, stock, orders, instruments, trades is declared" in said
