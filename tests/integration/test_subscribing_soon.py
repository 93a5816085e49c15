"""Subscribing to channels that nobody here has open, where the end of the log is all there is to wait for: no tasks,
and nothing left behind, whatever comes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.core.errors import Error
from server.node import Node
from tests.support.client import Client, ConnectionLost, Refused
from tests.support.endings import Endings, spawns, written_elsewhere
from tests.support.processes import Mongod
from tests.support.waiting import until


@pytest.fixture
def settings() -> dict[str, object]:
    return {"limits.channels_per_connection": 40}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


@pytest.fixture
def endings(node: Node, monkeypatch: pytest.MonkeyPatch) -> Endings:
    endings = Endings(node)
    monkeypatch.setattr(node.log, "ending", endings.asked)
    return endings


def left(node: Node) -> tuple[int, int]:
    """Subscriptions, made or in the making; and seats of channels."""
    return node.streams.counts()[1], node.admission.channel_seats.total


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("options", [{}, {"last": 3}, {"after": "0"}], ids=["live", "last", "resume"])
async def test_a_subscription_takes_no_task(
    node: Node, mongod: Mongod, url: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    channels = [f"chat:{number}" for number in range(40)]
    await written_elsewhere(node, mongod, *channels)
    async with Client(url) as client:
        await client.ping()
        spawned = spawns(monkeypatch)
        subscriptions = await asyncio.gather(*(client.subscribe(channel, **options) for channel in channels))
        monkeypatch.undo()
        for subscription in subscriptions if options else ():
            assert [one["data"] for one in await subscription.messages(3)] == [0, 1, 2]
    of_each = [name for name in spawned if name == "a command" or name.startswith(("catch up", "open", "fill"))]
    assert of_each == []
    assert len(spawned) < len(channels)


@pytest.mark.gen_test(timeout=60)
async def test_what_stands_behind_it_on_its_channel_waits_for_it(url: str, node: Node, endings: Endings) -> None:
    async with Client(url) as client:
        subscribing = asyncio.ensure_future(client.subscribe("chat:a"))
        publishing = asyncio.ensure_future(client.publish("chat:a", "heard"))
        unsubscribing = asyncio.ensure_future(client.unsubscribe("chat:a"))
        await endings.asked_for()
        await client.publish("chat:b", "meanwhile")
        assert not any(one.done() for one in (subscribing, publishing, unsubscribing))
        endings.answer()
        subscription = await subscribing
        assert [one["data"] for one in await subscription.messages(1)] == ["heard"]
        await publishing
        await unsubscribing
        assert left(node)[1] == 0


@pytest.mark.gen_test(timeout=60)
async def test_who_has_gone_meanwhile_leaves_nothing(url: str, node: Node, endings: Endings) -> None:
    client = Client(url)
    await client.connect()
    subscribing = asyncio.ensure_future(client.subscribe("chat:a"))
    await endings.asked_for()
    client.abort()
    await until(lambda: not node.admission.clients, what="the end of the session")
    endings.answer()
    await until(lambda: left(node) == (0, 0), what="nothing that is left")
    assert node.hub.subscriptions() == 0
    with pytest.raises(ConnectionLost):
        await subscribing
    await client.close()


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize(
    ("error", "code"),
    [(Error("unavailable", "MongoDB is away", retry_after=1.0), "unavailable"), (ValueError("a bug"), "internal")],
    ids=["refused", "failed"],
)
async def test_an_error_is_told_to_all_who_wait_and_the_next_one_begins_anew(
    url: str, node: Node, endings: Endings, error: Exception, code: str
) -> None:
    async with Client(url) as one, Client(url) as other:
        both = [asyncio.ensure_future(client.subscribe("chat:a", last=1)) for client in (one, other)]
        await endings.asked_for()
        await until(lambda: left(node) == (2, 2), what="both of them")
        endings.answer(error)
        for subscribing in both:
            with pytest.raises(Refused) as refused:
                await subscribing
            assert refused.value.code == code
        assert left(node)[1] == 0
        again = asyncio.ensure_future(one.subscribe("chat:a", last=1))
        await endings.asked_for()
        endings.answer()
        await again
        assert (await one.ping())["type"] == "reply"
