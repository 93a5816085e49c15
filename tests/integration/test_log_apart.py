"""A herd of reads does not stop the rights: what confirms them has its own way to MongoDB."""

from __future__ import annotations

import asyncio

import pytest

from server.core.principals import Principal
from server.node import Node
from tests.support.client import Client, make_token
from tests.support.processes import Mongod

SECRET = "a secret of at least thirty-two bytes"


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "auth.secret": SECRET,
        "namespaces.signals": {"durable": False, "publish": "server", "subscribe": "user"},
    }


@pytest.mark.gen_test(timeout=60)
async def test_deliveries_in_a_guarded_channel_go_on_while_reads_flood_mongodb(
    node: Node, mongod: Mongod, base_url: str, http_server: object
) -> None:
    """Twice as long as revocations may be unconfirmed every thread for MongoDB's answers is taken, and more wait."""
    server = Principal("shop", server=True)
    confirmed = True
    async with Client(base_url.replace("http", "ws") + "/v1/ws", token=make_token(SECRET, "ann")) as client:
        subscription = await client.subscribe("signals:a")
        await mongod.fail_command(
            {"failCommands": ["aggregate"], "blockConnection": True, "blockTimeMS": 600, "appName": "waterspout"}
        )
        try:
            # Each takes a thread for 0.6 s; of threads there are five for each core.
            flood = asyncio.gather(*(node.log.heads([f"chat:{number}"]) for number in range(100)))
            sent = 0
            while not flood.done():
                node.publisher.publish(server, "signals:a", sent)
                assert (await subscription.next())["data"] == sent
                sent += 1
                confirmed = confirmed and node.revocations.confirmed
                await asyncio.sleep(0.05)
            await flood
        finally:
            await mongod.disarm()
    assert confirmed
    assert sent > 10
    assert node.log.problem() is None
