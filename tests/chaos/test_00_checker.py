"""Whether all this can fail: a broker that is broken on purpose, with and without the node's repair behind it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.testing import bind_unused_port

from handlers import make_app
from handlers.server import HTTPServer
from server.brokers.memory import MemoryBroker
from server.core import config
from server.node import Node
from server.wire.messages import Message
from tests.chaos.report import Report
from tests.chaos.world import PATIENCE
from tests.support.client import Client
from tests.support.ledger import SubscriberLedger, Verdict, check, read_log
from tests.support.load import Publisher
from tests.support.processes import ROOT, UNLIMITED, Mongod
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=60)

CHANNEL = "chat:checked"


class BrokenBroker(MemoryBroker):
    """Mistreats every third publication, until its fault is mended."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self._numbers = itertools.count(1)
        self._held: list[Message] | None = None

    def publish(self, messages: list[Message]) -> None:
        bad = next(self._numbers) % 3 == 0
        if (bad and self.fault == "drops") or self.fault == "loses everything":
            return
        if bad and self.fault == "reorders" and self._held is None:
            self._held = messages
            return
        super().publish(messages)
        if bad and self.fault == "doubles":
            super().publish(messages)
        if self._held is not None:
            super().publish(self._held)
            self._held = None

    def mend(self) -> None:
        """What is held back goes out now, so that nothing comes behind what is published next."""
        self.fault = "none"
        held, self._held = self._held, None
        if held is not None:
            super().publish(held)


class CredulousNode(Node):
    """Hands on what its broker brings, without looking at the offsets, and never compares it with the log."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.streams.receive = lambda messages, node: self.hub.deliver(messages)  # type: ignore[method-assign]
        self.streams.note_head = lambda channel, head: False  # type: ignore[method-assign]
        self.streams.compare = lambda heads: None  # type: ignore[method-assign]


@asynccontextmanager
async def serving(node: Node) -> AsyncIterator[str]:
    """The whole server but for its process; yields the WebSocket's address."""
    listener, port = bind_unused_port()
    server = HTTPServer(make_app(node), [listener])
    try:
        await node.start()
        yield f"ws://127.0.0.1:{port}/v1/ws"
    finally:
        server.stop()
        await node.close()
        await until(lambda: not node.admission.connections.total, 10, "goodbye of the clients")


async def _run(make_node: type[Node], fault: str, case: str, mongod: Mongod, report: Report) -> Verdict:
    database = "checker_" + "".join(filter(str.isalpha, case))
    settings = {**UNLIMITED, "mongodb.database": database}
    options = config.load(ROOT / "config.yaml", {}, settings.items())
    broker = BrokenBroker(fault)
    async with (
        serving(make_node(options, mongod.uri, broker)) as url,
        Client(url, name="ann") as ann,
        Client(url, name="bob") as bob,
    ):
        subscriber = SubscriberLedger("bob", CHANNEL)
        await bob.subscribe(CHANNEL, on_push=subscriber.take)
        publisher = Publisher(ann, CHANNEL, rate=300)
        async with publisher:
            await publisher.until_acknowledged(300)
        broker.mend()  # the last message arrives in any case: nobody waits for one that never comes
        publisher.ledger.sent("last", CHANNEL, None)
        publisher.ledger.acknowledged("last", (await ann.publish(CHANNEL, None, "last"))["offset"])
        await until(lambda: subscriber.last >= publisher.ledger.highest(CHANNEL), 30, "the last message")
        verdict = check(case, [publisher.ledger], [subscriber], await read_log(mongod.uri, database))
    report.add(verdict)
    return verdict


@pytest.mark.parametrize(
    ("fault", "found"), [("drops", "missed"), ("doubles", "duplicates"), ("reorders", "out_of_order")]
)
async def test_the_checker_sees_a_broken_broker(mongod: Mongod, report: Report, fault: str, found: str) -> None:
    """Nothing repairs here, and the checker has to fail."""
    verdict = await _run(CredulousNode, fault, f"0 broker {fault}, unrepaired: must fail", mongod, report)
    assert getattr(verdict, found) > 0
    assert not verdict.ok


@pytest.mark.parametrize("fault", ["drops", "doubles", "reorders"])
async def test_a_node_makes_good_for_a_broken_broker(mongod: Mongod, report: Report, fault: str) -> None:
    """The same broker behind the node as it is: nobody notices."""
    verdict = await _run(Node, fault, f"0 broker {fault}, repaired", mongod, report)
    assert verdict.ok, str(verdict)


async def test_a_node_finds_a_tail_that_its_broker_lost(mongod: Mongod) -> None:
    """Nothing comes behind the lost message that would show the hole, and the subscribers are the publisher's own
    neighbours: the node itself has to notice that it has not heard what it has committed."""
    options = config.load(ROOT / "config.yaml", {}, {"mongodb.database": "checker_tail"}.items())
    broker = BrokenBroker("none")
    async with serving(Node(options, mongod.uri, broker)) as url, Client(url) as ann, Client(url) as bob:
        stream = await bob.subscribe(CHANNEL)
        await ann.publish(CHANNEL, "heard")
        broker.fault = "loses everything"
        await ann.publish(CHANNEL, "lost on the way")
        assert [push["data"] for push in await stream.messages(2, within=PATIENCE)] == ["heard", "lost on the way"]
