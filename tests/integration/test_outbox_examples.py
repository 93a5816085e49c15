"""The example of docs/outbox.md, as a product's back end would run it."""

from __future__ import annotations

import pytest
from pymongo import MongoClient

from server.core.cursors import BEGINNING
from server.node import Node
from tests.support.processes import ROOT, Mongod
from tests.support.reader import blocks
from tests.support.waiting import until


@pytest.fixture
def settings() -> dict[str, object]:
    return {"mongodb.outbox": True, "namespaces.orders": {"subscribe": "anyone"}}


@pytest.mark.gen_test(timeout=30)
async def test_the_example_in_python(node: Node, mongod: Mongod) -> None:
    """Word by word, but for where MongoDB is."""
    (block,) = blocks(ROOT / "docs" / "outbox.md", "python product")
    name = node.config.mongodb.database
    text = block.text.replace("mongodb://127.0.0.1:27017/?replicaSet=rs", mongod.uri).replace(
        '"waterspout"', repr(name)
    )
    names: dict[str, MongoClient[object]] = {}
    exec(text, names)  # the documentation's
    with names["client"] as client:

        async def there() -> bool:
            page = await node.log.read("orders:17", BEGINNING)
            return [one.data for one in page.messages] == [{"item": "cup", "status": "new"}]

        await until(there)
        assert client[name]["orders"].count_documents({"_id": 17}) == 1
