"""What the server makes of declared collections that are there already, and with which rights in MongoDB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from server.core import config
from server.core.errors import StartError
from server.node import Node
from tests.support.mongod import ROOT_USER, Mongod

COLLECTIONS = {"items": {"read": "anyone", "write": "anyone", "indexes": ["n"], "unique": ["serial"]}}


@asynccontextmanager
async def node(uri: str, database: str) -> AsyncIterator[Node]:
    options = config.load(None, {}, {"mongodb.database": database, "collections": COLLECTIONS}.items())
    one = Node(options, uri)
    try:
        await one.start()
        yield one
    finally:
        await one.close()


@pytest.mark.gen_test(timeout=30)
async def test_a_collation_of_the_collection_is_refused_at_start(mongod: Mongod) -> None:
    """By it a list would show what live views do not; who mends it gets started."""
    with MongoClient[Any](mongod.uri) as client:
        database = client["test_collation"]
        database.create_collection("items", collation={"locale": "en", "strength": 2})
        with pytest.raises(StartError, match=r"collections\.items: it has a collation \(en\)"):
            async with node(mongod.uri, database.name):
                pass
        database.drop_collection("items")
        async with node(mongod.uri, database.name):
            pass
        client.drop_database(database.name)


@pytest.mark.gen_test(timeout=120)
async def test_a_user_who_may_only_read_and_write_is_enough(tmp_path: Path) -> None:
    """On a new database with two nodes at once, and where a collection is there already: without the images of changes
    it is written and watched as well, and readiness says what an administrator has to do."""
    async with Mongod(tmp_path, auth=True) as mongod:
        with MongoClient[Any](mongod.uri_of(ROOT_USER)) as client:
            for number in range(3):
                uri = await mongod.add_user(f"u{number}", f"new{number}", "readWrite")

                async def start(uri: str = uri, name: str = f"new{number}") -> None:
                    async with node(uri, name):
                        pass

                await asyncio.gather(start(), start())
            uri = await mongod.add_user("u", "old", "readWrite")
            client["old"]["items"].insert_one({"_id": "before"})
            async with node(uri, "old") as started:
                await started.tailer.position("items")
                status, reasons = await started.readiness()
                assert status == "degraded"
                assert any("collections.items" in one and "collMod" in one for one in reasons)
                client["old"].command("collMod", "items", changeStreamPreAndPostImages={"enabled": True})
                await started.document_store.check()
                assert await started.readiness() == ("ready", [])


@pytest.mark.gen_test(timeout=60)
async def test_indexes_that_were_dropped_come_back(mongod: Mongod) -> None:
    """Also the collection itself, and the server's own index for creations."""
    with MongoClient[Any](mongod.uri) as client:
        database = client["test_indexes"]
        async with node(mongod.uri, database.name) as started:
            before = database.items.index_information()
            database.items.drop_indexes()
            database.drop_collection("waterspout.creations")
            await started.document_store.check()
            assert database.items.index_information() == before
            assert "t_1" in database["waterspout.creations"].index_information()
        client.drop_database(database.name)
