"""Cold channels: what is asked for at the same time is read together, and no reply is too large."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from server.core.cursors import MAX_OFFSET, Position
from server.log.endings import Ending, Near
from server.log.log import Log
from server.log.lookups import Lookups
from server.log.ranges import PAGE, Offsets
from server.node import Node
from server.wire.codec import JSON
from tests.support.client import Client
from tests.support.logs import fresh, opened
from tests.support.processes import Mongod
from tests.support.profiled import seen
from tests.support.waiting import until

MIB = 1 << 20
HISTORY = 10


@pytest.fixture
def settings() -> dict[str, object]:
    return {"limits.channels_per_connection": 0, "limits.messages_per_second": 0}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


async def filled(node: Node, mongod: Mongod, count: int) -> list[str]:
    """Channels with HISTORY messages each, which this node has not written to."""
    channels = [f"chat:{number}" for number in range(count)]
    async with opened(mongod.uri, node.config.mongodb, node="another") as log:
        for number in range(HISTORY):
            await asyncio.gather(*(log.append(channel, None, f"key {number}", number, 10) for channel in channels))
    return channels


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("kind", ["live", "last", "resume"])
async def test_what_is_asked_at_once_takes_few_commands(node: Node, mongod: Mongod, url: str, kind: str) -> None:
    """Not one or more for each channel: 200 distinct channels that nobody has open."""
    channels = await filled(node, mongod, 200)
    async with Client(url) as client:
        with seen(mongod.uri, node.config.mongodb.database, "messages", "channels") as commands:
            cursor = f"{node.log.epoch}:5"
            options = {"live": {}, "last": {"last": HISTORY}, "resume": {"after": cursor}}[kind]
            expected = {"live": [], "last": list(range(HISTORY)), "resume": list(range(5, HISTORY))}[kind]
            subscriptions = await asyncio.gather(*(client.subscribe(channel, **options) for channel in channels))
            for subscription in subscriptions:
                messages = await subscription.messages(len(expected))
                assert [one["data"] for one in messages] == expected
        assert 0 < len(commands) <= 40, commands
        assert not [command for command in commands if command.name == "getMore"]


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("kind", ["last", "resume"])
async def test_the_first_messages_are_read_once(node: Node, mongod: Mongod, url: str, kind: str) -> None:
    """One command finds the newest offset, one the messages next to it that the subscription begins with, and the
    floor."""
    (channel,) = await filled(node, mongod, 1)
    async with Client(url) as client:
        with seen(mongod.uri, node.config.mongodb.database, "messages", "channels") as commands:
            options = {"last": {"last": 5}, "resume": {"after": f"{node.log.epoch}:5"}}[kind]
            subscription = await client.subscribe(channel, **options)
            assert [one["data"] for one in await subscription.messages(5)] == list(range(5, HISTORY))
        assert len(commands) == 2, commands


@pytest.mark.gen_test(timeout=60)
async def test_histories_that_are_asked_for_at_once_take_few_commands(node: Node, mongod: Mongod) -> None:
    """Of 200 channels, by as many clients: each reads one page at a time."""
    channels = await filled(node, mongod, 200)
    guest = node.identities.authenticate(None)
    with seen(mongod.uri, node.config.mongodb.database, "messages", "channels") as commands:
        asked = (node.history.page(guest, channel, after=None, before=None, limit=HISTORY) for channel in channels)
        pages = await asyncio.gather(*asked)
        assert all([one.data for one in page["messages"]] == list(range(HISTORY)) for page in pages)
    assert 0 < len(commands) <= 40, commands


@pytest.mark.gen_test(timeout=60)
async def test_a_channel_that_is_open_takes_none(node: Node, mongod: Mongod, url: str) -> None:
    """Where somebody listens already the position is known here."""
    async with Client(url) as first, Client(url) as second:
        await first.publish("chat:a", 1)
        await first.subscribe("chat:a")
        with seen(mongod.uri, node.config.mongodb.database, "messages", "channels") as commands:
            subscription = await second.subscribe("chat:a")
            await second.unsubscribe("chat:a")
            await second.subscribe("chat:a", after=subscription.cursor)
        assert commands == []


async def _offsets(log: Log, ending: Ending) -> list[int] | None:
    """Of what is told of the messages, which is what the messages themselves would say."""
    if ending.lines is None:
        return None
    pushes = ending.pushes()
    if pushes:
        before = Position(ending.head.position.epoch, ending.first - 1)
        page = await log.read(ending.channel, before, ending.last, len(pushes))
        assert pushes == [message.push() for message in page.messages]
    return [push.offset for push in pushes]


@pytest.mark.gen_test(timeout=60)
async def test_the_end_of_a_channel_is_its_head_and_what_is_near_it(mongod: Mongod) -> None:
    """Of many channels by two commands, each with its own bounds: all that was wanted, or where something stands in the
    way the head alone."""
    options = fresh()
    async with opened(mongod.uri, options) as log:
        sizes = {"chat:short": [1] * 3, "chat:long": [1] * 40, "chat:large": [1, 1, 100_000, 1, 1]}
        for channel, of_one in {**sizes, "chat:trimmed": [1] * 5}.items():
            await asyncio.gather(
                *(log.append(channel, None, str(n), "x" * size, size) for n, size in enumerate(of_one))
            )
        await log.clear("chat:trimmed")
        for number in range(2):
            await log.append("chat:trimmed", None, f"{number} more", number, 1)
        wanted: dict[tuple[str, Near], list[int] | None] = {
            ("chat:none", Near(10)): [],
            ("chat:short", Near(10)): [1, 2, 3],
            ("chat:long", Near(10)): [*range(31, 41)],
            ("chat:long", Near(10, 0)): None,  # the same channel, in another way
            ("chat:large", Near(2)): [4, 5],
            ("chat:trimmed", Near(5)): [6, 7],
        }
        further: dict[tuple[str, Near], list[int] | None] = {
            ("chat:none", Near(10, 0)): [],
            ("chat:short", Near(10, 3)): [],
            ("chat:long", Near(10, 20)): [*range(21, 31)],
            ("chat:large", Near(10)): None,
            ("chat:trimmed", Near(5, 2)): None,  # behind a gap
        }
        heads = {"chat:none": 0, "chat:short": 3, "chat:long": 40, "chat:large": 5, "chat:trimmed": 7}
        for some in (wanted, further):
            with seen(mongod.uri, options.database, "messages") as commands:
                endings = await asyncio.gather(*(log.ending(channel, near) for channel, near in some))
            assert [one.head.position for one in endings] == [Position(log.epoch, heads[one]) for one, _ in some]
            assert len(commands) == 2, commands
            assert [await _offsets(log, one) for one in endings] == list(some.values())
        assert (await log.ending("chat:trimmed", None)).head.floor == 5


@pytest.mark.gen_test(timeout=60)
async def test_no_name_and_no_cursor_spoils_the_ends_of_others(mongod: Mongod) -> None:
    """Names that MongoDB would take for fields, and the highest cursor there is, are asked for with other channels."""
    options = fresh()
    async with opened(mongod.uri, options) as log:
        names = ["$user:ann", "$user:ann..b.", "$user:$b", "$thread:1:chat:a", "chat:a"]
        for channel in names:
            await asyncio.gather(*(log.append(channel, None, str(n), n, 1) for n in range(5)))
    async with opened(mongod.uri, options) as log:
        wanted = [*((channel, Near(number)) for number, channel in enumerate(names, 1)), ("chat:none", Near(9))]
        beyond = ("chat:b", Near(9, MAX_OFFSET))
        *endings, last = await asyncio.gather(*(log.ending(channel, near) for channel, near in (*wanted, beyond)))
        found = [await _offsets(log, end) for end in endings]
        assert found == [*([*range(6 - number, 6)] for number in range(1, 6)), []]
        assert await _offsets(log, last) == []


@pytest.mark.gen_test(timeout=60)
async def test_whatever_a_message_is_like_it_is_told_as_it_was_published(mongod: Mongod) -> None:
    """Data that MongoDB has as it is, data that it has as text, and what else there may be of a message."""
    options = fresh()
    plain: list[Any] = [None, 0, -1.5, True, "", "zwei\nZeilen\r\u2028\0", [], {}, [[1, [None]]], {"a": {"b": [2**62]}}]
    as_text: list[Any] = [{"$ref": "x", "$id": 1}, {"a.b": None}, [{"$set": {"$$ROOT": "$k"}}], {"\0": 1}]
    async with opened(mongod.uri, options) as log:
        for number, data in enumerate([*plain, *as_text]):
            user = None if number % 3 else f"user {number}"
            mentions = ("ann", "*") if number % 4 == 1 else ()
            await log.append("chat:a", user, f"key {number}", data, 100, mentions=mentions)
    async with opened(mongod.uri, options) as log:
        ending = await log.ending("chat:a", Near(20))
        assert [push.data for push in ending.pushes()] == [*plain, *as_text]
        assert await _offsets(log, ending) == [*range(1, len(plain) + len(as_text) + 1)]
        pushes = ending.pushes()
        assert JSON.frames(pushes) == b"".join(JSON.frame(push) for push in pushes)


@pytest.mark.gen_test(timeout=60)
async def test_pages_end_at_about_4_mib_however_large_the_messages_are(mongod: Mongod) -> None:
    """Forwards, backwards, and many short ranges at once: everything comes, and no reply is larger."""
    options = fresh()
    sizes = [300_000 if number % 3 else 100 for number in range(60)]
    async with opened(mongod.uri, options) as log:
        await asyncio.gather(*(log.append("chat:a", None, str(n), "x" * size, size) for n, size in enumerate(sizes)))
        many = [f"chat:{number}" for number in range(12)]
        await asyncio.gather(*(log.append(one, None, str(n), "x" * 200_000, 200_000) for one in many for n in range(4)))
        end = Position(log.epoch, len(sizes))
        with seen(mongod.uri, options.database, "messages") as commands:
            after, pages = Position(log.epoch, 0), 0
            while after != end:
                page = await log.read("chat:a", after)
                assert sum(len(message.data) for message in page.messages) <= 4 * MIB
                assert [len(message.data) for message in page.messages] == sizes[after.offset :][: len(page.messages)]
                after = page.messages[-1].position
                pages += 1
            assert pages > 2
            for before, limit in ((MAX_OFFSET, PAGE), (len(sizes) + 1, 40)):
                messages, floor = await log.read_back("chat:a", before, limit)
                assert (messages[-1].offset, floor) == (len(sizes), 0)
                assert 1 * MIB < sum(len(message.data) for message in messages) <= 4 * MIB
            found = await asyncio.gather(*(log.read(channel, Position(log.epoch, 0), 4) for channel in many))
            assert [[len(message.data) for message in page.messages] for page in found] == [[200_000] * 4] * len(many)
        assert max(command.reply for command in commands) <= 4 * MIB


@pytest.mark.gen_test(timeout=60)
async def test_a_message_that_is_larger_than_a_page_comes_alone(mongod: Mongod) -> None:
    """A page has one message at least, so readers go on."""
    data = "x" * 6_000_000
    async with opened(mongod.uri, fresh()) as log:
        for number in range(3):
            await log.append("chat:a", None, str(number), data, len(data))
        for number in range(3):
            page = await log.read("chat:a", Position(log.epoch, number), 3)
            assert [message.offset for message in page.messages] == [number + 1]
        messages, _ = await log.read_back("chat:a", 4, 3)
        assert [message.offset for message in messages] == [3]


def between_heads_and_messages(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[object]]) -> None:
    """Of the next channel that is opened."""
    lines = Lookups.lines

    async def held(self: Lookups, wanted: Mapping[str, Offsets]) -> Any:
        monkeypatch.setattr(Lookups, "lines", lines)
        await happens()
        return await lines(self, wanted)

    monkeypatch.setattr(Lookups, "lines", held)


@pytest.mark.gen_test(timeout=60)
async def test_a_head_is_never_of_another_history_than_its_epoch(
    mongod: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is restored in the moment in which its channels are opened."""
    options = fresh()
    async with opened(mongod.uri, options) as log:
        for number in range(8):
            await log.append("chat:a", None, str(number), number, 1)
        old = log.epoch

        async def restored() -> None:
            async with AsyncMongoClient[dict[str, Any]](mongod.uri) as client:
                await client.drop_database(options.database)
            await until(lambda: log.epoch != old, 5, "the new history")
            await log.append("chat:a", None, "new", "new", 1)

        between_heads_and_messages(monkeypatch, restored)
        ending = await log.ending("chat:a", Near(5))
        assert ending.head.position == Position(log.epoch, 1)


@pytest.mark.gen_test(timeout=60)
async def test_what_has_gone_without_a_trace_is_a_gap(
    node: Node, mongod: Mongod, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread ends with all that the log has of it, just when somebody opens it: nobody reads it for ever."""
    await filled(node, mongod, 1)

    async def ended() -> None:
        await node.database.own("messages").delete_many({"_id.c": "chat:0"})

    async with Client(url) as client:
        between_heads_and_messages(monkeypatch, ended)
        subscription = await client.subscribe("chat:0", last=5)
        gap = await subscription.next()
        assert (gap["type"], gap["from"], gap["to"]) == ("gap", HISTORY - 4, HISTORY)
        assert (await client.unsubscribe("chat:0"))["cursor"] == f"{node.log.epoch}:{HISTORY}"
