"""Which node does the work of consumers: each group of channels is one node's at a time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo import MongoClient

import server.consumers.leases
from server.consumers.leases import GROUPS
from server.node import Node
from tests.integration.test_consumers import publish
from tests.support.nodes import another
from tests.support.processes import Mongod
from tests.support.receiver import SECRET, Receiver
from tests.support.waiting import until


@pytest.fixture
def looks() -> float:
    """Seconds between a node's looks at the leases: after its first one, none, unless a test says otherwise."""
    return 1000.0


@pytest.fixture
def settings(receiver: Receiver, looks: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr(server.consumers.leases, "LOOK_EVERY", looks)
    mailer = {"url": receiver.url, "secret": SECRET, "channels": ["chat:*"], "retries": {"first": "20ms", "most": "1s"}}
    return {"consumers": {"mailer": mailer}}


@pytest.mark.parametrize("looks", [0.05])
@pytest.mark.gen_test
async def test_nodes_share_the_work(node: Node, mongod: Mongod) -> None:
    """Each has its share, also when one comes, and all of it is somebody's again at once when one goes."""
    assert node.consumers.leases.held == GROUPS
    async with another(node, mongod) as second:
        await until(lambda: second.consumers.leases.held == node.consumers.leases.held == GROUPS // 2)
        async with another(node, mongod) as third:

            def shares() -> list[set[int]]:
                return [
                    {group for group in range(GROUPS) if one.consumers.leases.fence(group)}
                    for one in (node, second, third)
                ]

            await until(lambda: sorted(map(len, shares())) == [20, 22, 22])
            assert set.union(*shares()) == set(range(GROUPS))
    await until(lambda: node.consumers.leases.held == GROUPS)


@pytest.mark.gen_test
async def test_who_has_lost_a_channel_moves_nothing_back(node: Node, receiver: Receiver, mongod: Mongod) -> None:
    """A node that was paused for longer than its lease, with a delivery under way, wakes up when another one has gone
    on: its cursor is refused, and the other one's stays."""
    release = asyncio.Event()
    first = True

    async def rule(request: dict[str, Any]) -> int:
        nonlocal first
        if first:
            first = False
            await release.wait()
        return 204

    receiver.rule = rule
    await publish(node, "chat:a", 1)
    await until(lambda: receiver.requests)
    await asyncio.to_thread(_take_lease_away, mongod.uri, node)
    async with another(node, mongod) as second:
        await publish(second, "chat:a", 2)
        await receiver.until_taken("chat:a", 2)
        await until(lambda: second.consumers.cursors.idle)
        release.set()
        await until(lambda: receiver.duplicates["chat:a"] == 1)
        await until(lambda: node.consumers.cursors.idle)
        (stored,) = (await second.consumers.cursors.load([("mailer", "chat:a")])).values()
        assert stored.position.offset == 2
    assert receiver.faults == []


def _take_lease_away(uri: str, node: Node) -> None:
    """As if the node had not been heard of for as long as its lease lasts: another one may take what it has."""
    with MongoClient[Any](uri) as client:
        meta = client[node.config.mongodb.database]["waterspout.meta"]
        meta.update_one({"_id": "consumers"}, {"$set": {f"members.{node.id}": datetime(2000, 1, 1, tzinfo=UTC)}})
