"""Small pages of history, where the end of the log is all there is to wait for: no tasks, several at a time for one
client, and nothing left behind, whatever comes of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from server.core.errors import Error
from server.log.ranges import LARGE
from server.node import Node
from server.sessions.session import Session
from tests.support.client import Client, ConnectionLost, Refused
from tests.support.endings import Endings, spawns, written_elsewhere
from tests.support.processes import Mongod
from tests.support.profiled import seen
from tests.support.waiting import until

CHANNELS = 20


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, object]:
    hall = {"publish": "anyone", "subscribe": "anyone", "reactions": True, "amend": "user"}
    return {"namespaces.hall": hall} | getattr(request, "param", {})


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


@pytest.fixture
def endings(node: Node, monkeypatch: pytest.MonkeyPatch) -> Endings:
    endings = Endings(node)
    monkeypatch.setattr(node.log, "ending", endings.asked)
    return endings


def session(node: Node) -> Session:
    (only,) = node.admission.clients
    assert isinstance(only, Session)
    return only


def told(page: dict[str, Any]) -> list[Any]:
    return [message["data"] for message in page["messages"]]


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("bounds", [{}, {"after": "0"}], ids=["newest", "after"])
async def test_one_client_reads_many_channels_at_once(
    node: Node, mongod: Mongod, url: str, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, Any]
) -> None:
    """As a phone does it that comes back: by few commands, and no task for any of them."""
    channels = [f"chat:{number}" for number in range(CHANNELS)]
    await written_elsewhere(node, mongod, *channels)
    async with Client(url) as client:
        await client.ping()
        spawned = spawns(monkeypatch)
        with seen(mongod.uri, node.config.mongodb.database, "messages", "channels") as commands:
            pages = await asyncio.gather(*(client.history(channel, limit=5, **bounds) for channel in channels))
        monkeypatch.undo()
    assert [told(page) for page in pages] == [[0, 1, 2]] * CHANNELS
    assert [page["channel"] for page in pages] == channels
    assert "a command" not in spawned
    assert len(spawned) < CHANNELS
    assert 0 < len(commands) <= CHANNELS / 2, commands


@pytest.mark.gen_test(timeout=60)
async def test_it_says_what_a_page_that_is_read_at_length_says(node: Node, mongod: Mongod, url: str) -> None:
    await written_elsewhere(node, mongod, "chat:a")
    guest = node.identities.authenticate(None)
    async with Client(url) as client:
        for bounds in ({}, {"after": "0"}, {"after": f"{node.log.epoch}:2"}, {"before": f"{node.log.epoch}:3"}):
            soon = await client.history("chat:a", limit=2, **bounds)
            at_length = await node.history.page(
                guest, "chat:a", limit=2, after=bounds.get("after"), before=bounds.get("before")
            )
            same = json.loads(msgspec.json.encode(at_length))
            assert {key: soon[key] for key in same} == same


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("settings", [{"limits.queue_bytes": 7 * LARGE * 3}], indirect=True)
async def test_no_more_is_read_at_once_than_may_wait(url: str, endings: Endings) -> None:
    """Beside seven small pages that fill the queue one is read, in its turn."""
    async with Client(url) as client:
        pages = [asyncio.ensure_future(client.history(f"chat:{number}", limit=3)) for number in range(CHANNELS)]
        await client.ping()
        await endings.asked_for(8)
        for left in range(CHANNELS, 0, -1):
            assert endings.waiting <= 8
            assert sum(not page.done() for page in pages) == left
            endings.answer_one()
            await until(lambda left=left: sum(not page.done() for page in pages) == left - 1, what="an answer")
        assert [told(page.result()) for page in pages] == [[]] * CHANNELS
        again = [asyncio.ensure_future(client.history(f"chat:{number}", limit=3)) for number in range(8)]
        await endings.asked_for(8)  # so all of it was given back
        endings.answer()
        await asyncio.gather(*again)


@pytest.mark.gen_test(timeout=60)
async def test_what_stands_behind_it_on_its_channel_waits_for_it(url: str, endings: Endings) -> None:
    async with Client(url) as client:
        reading = asyncio.ensure_future(client.history("chat:a", limit=5))
        again = asyncio.ensure_future(client.history("chat:a", limit=5))
        publishing = asyncio.ensure_future(client.publish("chat:a", "later"))
        await endings.asked_for()
        await client.publish("chat:b", "meanwhile")
        assert not any(one.done() for one in (reading, again, publishing))
        endings.answer()
        assert told(await reading) == []
        await endings.asked_for()
        endings.answer()
        assert told(await again) == []
        await publishing


@pytest.mark.gen_test(timeout=60)
async def test_what_was_published_before_it_is_in_it(url: str) -> None:
    async with Client(url) as client:
        publishing = asyncio.ensure_future(client.publish("chat:a", "first"))
        reading = asyncio.ensure_future(client.history("chat:a", limit=5))
        await publishing
        assert told(await reading) == ["first"]


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("settings", [{"limits.user_messages_per_second": 0.01, "limits.user_burst": 4}], indirect=True)
async def test_a_page_that_is_read_on_counts_once(node: Node, mongod: Mongod, url: str) -> None:
    """Where messages have been trimmed, or reactions are told as well, there is more to read."""
    await written_elsewhere(node, mongod, "chat:a", "hall:a")
    await node.log.clear("chat:a")
    async with Client(url) as client:
        gap = await client.history("chat:a", limit=5, after="0")
        assert gap["gap"] == {"from": 1, "to": 3}
        assert (await client.history("hall:a", limit=5))["mine"] == {}
        assert (await client.history("chat:a", limit=5))["messages"] == []
        assert told(await client.history("hall:a", limit=5)) == [0, 1, 2]
        with pytest.raises(Refused, match="rate_limited"):
            await client.history("chat:a", limit=5)
        with pytest.raises(Refused, match="rate_limited"):
            await client.history("hall:a", limit=5)


@pytest.mark.gen_test(timeout=60)
async def test_who_has_gone_meanwhile_leaves_nothing(url: str, node: Node, endings: Endings) -> None:
    client = Client(url)
    await client.connect()
    reading = asyncio.ensure_future(client.history("chat:a", limit=5))
    await endings.asked_for()
    one = session(node)
    client.abort()
    await until(lambda: not node.admission.clients, what="the end of the session")
    endings.answer()
    await until(lambda: not one.under_way, what="nothing that is left")
    with pytest.raises(ConnectionLost):
        await reading
    await client.close()


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize(
    ("error", "code"),
    [(Error("unavailable", "MongoDB is away", retry_after=1.0), "unavailable"), (ValueError("a bug"), "internal")],
    ids=["refused", "failed"],
)
async def test_an_error_is_told_and_the_next_one_begins_anew(
    url: str, endings: Endings, error: Exception, code: str
) -> None:
    async with Client(url) as client:
        reading = asyncio.ensure_future(client.history("chat:a", limit=5))
        await endings.asked_for()
        endings.answer(error)
        with pytest.raises(Refused) as refused:
            await reading
        assert refused.value.code == code
        again = asyncio.ensure_future(client.history("chat:a", limit=5))
        await endings.asked_for()
        endings.answer()
        assert told(await again) == []
        for bounds in ({"after": "nonsense"}, {"after": "0", "before": "0"}):
            with pytest.raises(Refused, match="bad_request"):
                await client.history("chat:a", limit=5, **bounds)
        with pytest.raises(Refused, match="unknown_channel"):
            await client.history("nowhere:a", limit=5)
