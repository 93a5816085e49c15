"""The Python client (clients/python) against real servers: what it promises its user, whatever happens in between."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import waterspout_client.client
import waterspout_client.link
from server.core.config import Retention, Seconds
from server.core.errors import Disconnect
from server.core.principals import Principal
from server.node import Node
from tests.support.client import make_token
from tests.support.processes import LOOPBACK, ROOT, UNLIMITED, Mongod, Server, free_port
from tests.support.waiting import until
from waterspout_client import (
    Client,
    Dropped,
    Event,
    FileCursors,
    Gap,
    Join,
    Leave,
    Live,
    Message,
    StateChange,
    Subscription,
    Unsubscribed,
    User,
    WaterspoutError,
)

pytestmark = pytest.mark.gen_test(timeout=60)

LOBBY = "chat:lobby"
SECRET = "a secret of at least thirty-two bytes"
ROOM = {"presence": True, "publish": "anyone", "subscribe": "anyone"}
QUICK = {"min_delay": 0.05, "max_delay": 0.2}


@pytest.fixture
def settings() -> dict[str, object]:
    return {"mongodb.dedupe_window": 0.05, "namespaces.vip": {}, "namespaces.room": ROOM}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url


SERVED = make_token(SECRET, "ann", subscribe={"vip:a": {"last": 1}, "vip:b": None, "live:c": None})


@asynccontextmanager
async def a_server(directory: Path, mongod: Mongod, port: int | None = None) -> AsyncIterator[Server]:
    database = {"mongodb.database": f"test_{uuid.uuid4().hex[:12]}"}
    async with Server(directory, mongod.uri, settings=UNLIMITED | database, port=port) as server:
        yield server


async def messages(events: Subscription, count: int) -> list[Message]:
    """The next `count` events, Live ones aside, which have to be messages."""
    found: list[Message] = []
    while len(found) < count:
        event = await anext(events)
        if not isinstance(event, Live):
            assert isinstance(event, Message), event
            found.append(event)
    return found


async def until_live(events: Subscription) -> list[Event]:
    """What comes before everything has been caught up with."""
    found: list[Event] = []
    while not isinstance(event := await anext(events), Live):
        found.append(event)
    return found


class Lives:
    """How often the client has got through, and what it was told when it had not."""

    def __init__(self) -> None:
        self.changes: list[StateChange] = []

    def __call__(self, change: StateChange) -> None:
        self.changes.append(change)

    def count(self, state: str) -> int:
        return sum(change.state == state for change in self.changes)


# --- channels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_publish_subscribe_and_history(url: str, encoding: Any) -> None:
    """A message comes to the subscribers and into the history as it was published, in both encodings."""
    data = {"n": 1, "ü": [None, 1.5, "\u2028"]}
    async with Client(url, encoding=encoding) as client:
        async with client.subscribe(LOBBY) as events:
            receipt = await client.publish(LOBBY, data, key="a1")
            [message] = await messages(events, 1)
        assert (receipt.offset, receipt.key, receipt.duplicate) == (1, "a1", False)
        assert (message.data, message.offset, message.cursor, message.user) == (data, 1, receipt.cursor, None)
        assert (await client.publish(LOBBY, data, key="a1")).duplicate
        page = await client.history(LOBBY, after="0")
        assert page.messages == [message]
        assert (page.cursor, page.more, page.gap) == (receipt.cursor, False, None)


async def test_publishes_are_stored_in_the_order_of_the_calls(url: str) -> None:
    """Without waiting for any of them, and as they were when they were handed over."""
    async with Client(url) as client:
        data: dict[str, int] = {}
        receipts = []
        for n in range(200):
            data["n"] = n
            receipts.append(client.publish(LOBBY, data))
        offsets = [receipt.offset for receipt in await asyncio.gather(*receipts)]
        assert offsets == list(range(1, 201))
        page = await client.history(LOBBY, after="0", limit=1000)
        assert [message.data["n"] for message in page.messages] == list(range(200))


async def test_the_newest_and_then_the_live_ones(url: str) -> None:
    """`last` and `after` begin in the past; `Live` stands where it ends."""
    async with Client(url) as client:
        receipts = [await client.publish("chat:a/b", n) for n in range(5)]
        async with client.subscribe("chat:a/b", last=2) as events:
            assert [event.data for event in await until_live(events) if isinstance(event, Message)] == [3, 4]
            await client.publish("chat:a/b", 5)
            assert [message.data for message in await messages(events, 1)] == [5]
        async with client.subscribe("chat:a/b", after=receipts[1].cursor) as events:
            assert [message.data for message in await messages(events, 4)] == [2, 3, 4, 5]
            assert events.cursor == receipts[-1].cursor  # the loop has not finished with the last one
        assert (await client.history("chat:a/b")).cursor == events.cursor


async def test_a_gap_is_told(url: str, node: Node) -> None:
    """What is no longer retained, or belongs to another history, comes as an event with its ends."""
    async with Client(url) as client:
        for n in range(1, 11):
            last = await client.publish(LOBBY, n)
        keep = Retention(size=3, ttl=Seconds(0))

        async def trimmed() -> bool:  # once they are out of the dedupe window
            return await node.log.trimmer.trim(LOBBY, keep) == 7

        await until(trimmed)
        async with client.subscribe(LOBBY, after="0") as events:
            gap, *rest = await until_live(events)
        assert isinstance(gap, Gap)
        assert (gap.first, gap.last, gap.reason) == (1, 7, None)
        assert [event.data for event in rest if isinstance(event, Message)] == [8, 9, 10]
        async with client.subscribe(LOBBY, after="another:7") as events:
            gap, *rest = await until_live(events)
        assert isinstance(gap, Gap)
        assert (gap.first, gap.last, gap.reason) == (None, None, "epoch")
        assert len([event for event in rest if isinstance(event, Message)]) == 3
        page = await client.history(LOBBY, after="0")
        assert page.gap is not None
        assert (page.gap.first, page.gap.last, page.cursor) == (1, 7, last.cursor)


async def test_a_slow_loop_misses_nothing_and_holds_up_nobody(url: str) -> None:
    """More than may wait is left on the server, which is asked to go on when there is room; meanwhile the connection
    serves the others."""
    async with Client(url, max_pending=10) as client, client.subscribe(LOBBY) as slow:
        for n in range(100):
            await client.publish(LOBBY, n)
        assert slow.behind <= 10
        assert [message.data for message in await messages(slow, 100)] == list(range(100))
        await client.publish(LOBBY, 100)
        assert [message.data for message in await messages(slow, 1)] == [100]


async def test_a_slow_loop_is_told_what_an_ephemeral_channel_lost(url: str) -> None:
    async with Client(url, max_pending=10) as client, client.subscribe("live:a") as slow:
        for n in range(100):
            assert (await client.publish("live:a", n)).offset is None
        await until(lambda: slow.behind == 100, what="loss")
        dropped = await anext(slow)
        rest = await messages(slow, 10)
        assert dropped == Dropped("live:a", 90)
        assert [message.data for message in rest] == list(range(90, 100))


async def test_a_channel_is_subscribed_to_once_at_a_time(url: str) -> None:
    async with Client(url) as client:
        async with client.subscribe(LOBBY):
            with pytest.raises(WaterspoutError, match="conflict"):
                await client.subscribe(LOBBY).__aenter__()
        async with client.subscribe(LOBBY) as events:
            await client.publish(LOBBY, "again")
            assert (await messages(events, 1))[0].data == "again"


async def test_who_is_there_and_who_comes_and_goes(url: str) -> None:
    async with (
        Client(url, token=make_token(SECRET, "ann", info={"name": "Ann"})) as ann,
        Client(url, token=make_token(SECRET, "bob")) as bob,
        ann.subscribe("room:a") as events,
    ):
        await until_live(events)
        async with bob.subscribe("room:a"):
            assert await anext(events) == Join("room:a", "bob")
            present = await bob.presence("room:a")
            assert present.users == [User("ann", 1, {"name": "Ann"}), User("bob", 1)]
            assert present.count == 2
            code, output, _ = await CommandLine(url).run("presence", "room:a")
            assert (code, output.splitlines()) == (0, ["ann", "bob", "2 here"])
        assert await anext(events) == Leave("room:a", "bob")


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_what_the_server_will_never_take_is_an_error(
    url: str, encoding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed, to the one who asked, and everything else goes on; even what would end the connection if it were sent, and
    what the server could not decode so far as to say whose it was."""
    monkeypatch.setattr(waterspout_client.link, "UNANSWERED", 1.0)
    lives = Lives()
    async with Client(url, encoding=encoding, on_state=lives) as client:
        with pytest.raises(WaterspoutError) as refused:
            await client.publish("feed:news", 1)
        assert (refused.value.code, refused.value.retry) == ("permission_denied", False)
        with pytest.raises(WaterspoutError, match="unknown_channel"):
            async with client.subscribe("nowhere:1"):
                pass
        data: Any
        for data in ("x" * 70_000, "x" * 200_000, "😀" * 40_000):
            with pytest.raises(WaterspoutError, match="too_large"):
                await client.publish(LOBBY, data)
        deep: Any = 0
        for _ in range(33):
            deep = [deep]
        for data in (2**64, deep):
            with pytest.raises(WaterspoutError, match="bad_request"):
                await client.publish(LOBBY, data)
        for other in (float("nan"), "\ud800", b"bytes"):
            with pytest.raises((ValueError, TypeError)):
                client.publish(LOBBY, other)
        assert (await client.publish(LOBBY, "fine")).offset == 1
        assert lives.count("open") == 1


async def test_a_bad_token_closes_the_client_for_good(url: str) -> None:
    """And whoever waits is told, now and later."""
    async with Client(url, token="no token") as client:
        receipt = client.publish(LOBBY, 1)
        with pytest.raises(WaterspoutError, match="closed"):
            async with client.subscribe(LOBBY):
                pass
        with pytest.raises(WaterspoutError, match="closed"):
            await receipt
        with pytest.raises(WaterspoutError, match="closed"):
            client.publish(LOBBY, 2)
        assert client.state == "closed"


async def test_a_queue_is_bounded_and_can_be_left(url: str) -> None:
    nowhere = f"http://{LOOPBACK}:{free_port()}"
    async with Client(nowhere, max_queue=2) as client:
        first, second = client.publish(LOBBY, 1), client.publish(LOBBY, 2)
        with pytest.raises(WaterspoutError, match="limit_exceeded"):
            await client.publish(LOBBY, 3)
        first.cancel()
    with pytest.raises(WaterspoutError, match="closed"):
        await second


# --- losses -----------------------------------------------------------------------------------------------------------


async def test_a_killed_server_leaves_no_hole_and_no_duplicate(tmp_path: Path, mongod: Mongod) -> None:
    """`kill -9` in the middle of a burst, and again: each publish is stored once, each message comes once."""
    count = 0
    async with a_server(tmp_path, mongod) as server, Client(server.base, max_queue=100_000, **QUICK) as client:
        receipts: list[asyncio.Future[Any]] = []

        async def burst() -> None:
            nonlocal count
            while True:
                receipts.append(client.publish(LOBBY, count))
                count += 1
                await asyncio.sleep(0.002)

        async with client.subscribe(LOBBY) as events:
            publishing = asyncio.create_task(burst())
            seen = await messages(events, 50)
            for _ in range(2):
                await server.kill()
                await server.start()
                seen += await messages(events, 50)
            publishing.cancel()
            stored = await asyncio.gather(*receipts)
            seen += await messages(events, count - len(seen))
        assert [message.offset for message in seen] == list(range(1, count + 1))
        assert sorted(message.data for message in seen) == list(range(count))
        assert {(message.key, message.offset) for message in seen} == {(one.key, one.offset) for one in stored}


async def test_what_is_published_before_there_is_a_server_waits_for_it(tmp_path: Path, mongod: Mongod) -> None:
    """So does a subscription; the order stays."""
    port = free_port()
    async with Client(f"http://{LOOPBACK}:{port}", **QUICK) as client:
        receipts = [client.publish(LOBBY, n) for n in range(50)]
        subscribing = asyncio.create_task(client.subscribe(LOBBY, after="0").__aenter__())
        async with a_server(tmp_path, mongod, port):
            events = await subscribing
            assert [receipt.offset for receipt in await asyncio.gather(*receipts)] == list(range(1, 51))
            assert [message.data for message in await messages(events, 50)] == list(range(50))


async def test_the_server_says_when_to_come_back(url: str, node: Node) -> None:
    """Its delay is kept exactly, and every subscription goes on."""
    lives = Lives()
    async with Client(url, on_state=lives) as client, client.subscribe(LOBBY) as events:
        await client.publish(LOBBY, 1)
        for session in list(node.admission.clients):
            session.disconnect(Disconnect(4000, "leaving"), 0.123)
        await until(lambda: lives.count("open") == 2, what="second connection")
        await client.publish(LOBBY, 2)
        assert [message.data for message in await messages(events, 2)] == [1, 2]
        [waiting] = [change for change in lives.changes if change.state == "waiting"]
        assert (waiting.code, waiting.reason, waiting.delay) == (4000, "leaving", 0.123)


async def test_a_token_is_asked_for_at_each_connection(url: str, node: Node) -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        return make_token(SECRET, f"ann-{asked}")

    lives = Lives()
    async with Client(url, token=token, on_state=lives) as client:
        assert (await client.ready())["user"] == "ann-1"
        for session in list(node.admission.clients):
            session.disconnect(Disconnect(4002, "the token has expired"), 0.0)
        await until(lambda: lives.count("open") == 2, what="second connection")
        assert (await client.ready())["user"] == "ann-2"


async def test_a_token_is_renewed_on_the_open_connection(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rights count from then on: a subscription that it has no right to ends, and says why."""
    monkeypatch.setattr(waterspout_client.client, "REFRESH_PAUSE", 0.01)
    monkeypatch.setattr(waterspout_client.client, "REFRESH_AT", 0.0)
    rights = itertools.chain(({"channels": {"vip:*": ["subscribe"]}},), itertools.repeat({}))
    lives = Lives()

    def token() -> str:
        return make_token(SECRET, "ann", **next(rights))

    async with Client(url, token=token, on_state=lives) as client, client.subscribe("vip:a") as events:
        await until_live(events)
        with pytest.raises(Unsubscribed, match="permission_denied"):
            await anext(events)
        assert lives.count("open") == 1


async def test_a_program_goes_on_where_its_last_run_stopped(url: str, tmp_path: Path) -> None:
    """The cursor in the file stands behind what the loop has finished with: what it failed at comes again, and what
    came while the program was not there comes too."""
    file = tmp_path / "cursors.json"

    async def run_until(failing: int) -> None:
        async with Client(url, cursors=FileCursors(file)) as client, client.subscribe(LOBBY) as events:
            async for event in events:
                if isinstance(event, Message):
                    if event.data == failing:
                        raise ZeroDivisionError
                    runs.append(event.data)

    runs: list[int] = []
    async with Client(url) as other:
        first = asyncio.create_task(run_until(failing=3))
        await until(file.exists, what="the cursor it begins with")
        for n in range(5):
            await other.publish(LOBBY, n)
        with pytest.raises(ZeroDivisionError):
            await first
        assert runs == [0, 1, 2]
        await other.publish(LOBBY, 5)
        with pytest.raises(ZeroDivisionError):
            await run_until(failing=5)
        assert runs == [0, 1, 2, 3, 4]


# --- the command line -------------------------------------------------------------------------------------------------


class CommandLine:
    def __init__(self, url: str) -> None:
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python"), "WATERSPOUT_URL": url}

    async def start(
        self, *arguments: str, stdout: int = subprocess.PIPE, **environment: str
    ) -> asyncio.subprocess.Process:
        # What is started in the background by a shell ignores Ctrl-C, and so would its children.
        return await asyncio.create_subprocess_exec(
            *("env", "--default-signal=INT", sys.executable, "-m", "waterspout_client", *arguments),
            env=self.environment | environment,
            stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *arguments: str, lines: str = "", **environment: str) -> tuple[int | None, str, str]:
        """The exit code, and what it has written; `lines` are piped into it."""
        process = await self.start(*arguments, **environment)
        async with asyncio.timeout(30):
            output, errors = await process.communicate(lines.encode())
        return process.returncode, output.decode(), errors.decode()


async def test_publish_and_history_from_a_shell(url: str) -> None:
    shell = CommandLine(url)
    assert await shell.run("publish", LOBBY, '{"text": "hi"}', "--key", "k1") == (0, "#1\n", "")
    assert await shell.run("publish", LOBBY, '{"text": "hi"}', "--key", "k1") == (0, "#1  stored before\n", "")
    code, output, _ = await shell.run("publish", LOBBY, '"\\u001b[31m red \\u009b"', "--json")
    assert (code, json.loads(output)["offset"]) == (0, 2)
    code, output, _ = await shell.run("history", LOBBY)
    first, second = output.splitlines()
    assert first.endswith('#1  -  {"text": "hi"}')
    assert second.endswith('#2  -  "\\u001b[31m red \\x9b"')  # nothing that a terminal would obey
    code, output, _ = await shell.run("history", LOBBY, "--after", "0", "--limit", "1", "--json")
    message = json.loads(output)
    assert (message["type"], message["offset"], message["data"]) == ("message", 1, {"text": "hi"})


async def test_tail_from_a_shell(url: str) -> None:
    async with Client(url) as client:
        await asyncio.gather(*(client.publish(LOBBY, n) for n in range(3)))
        process = await CommandLine(url).start("tail", LOBBY, "--last", "2", "--json")
        assert process.stdout is not None
        try:
            async with asyncio.timeout(20):
                lines = [json.loads(await process.stdout.readline()) for _ in range(3)]
                assert [(line["type"], line.get("data")) for line in lines] == [
                    ("message", 1), ("message", 2), ("live", None),
                ]  # fmt: skip
                await client.publish(LOBBY, "live")
                assert json.loads(await process.stdout.readline())["data"] == "live"
                process.send_signal(2)
                _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert (process.returncode, errors) == (130, b"")


async def test_lines_are_published_from_a_shell(url: str) -> None:
    """Each is stored before the next is read; the first that cannot be is the end."""
    shell = CommandLine(url)
    assert await shell.run("publish", LOBBY, "-", lines='1\n\n{"n": 2}') == (0, "#1\n#2\n", "")
    code, output, errors = await shell.run("publish", LOBBY, "-", lines="3\nfour\n5\n")
    assert (code, output) == (1, "#3\n")
    assert errors.splitlines()[-1].endswith("a text has quotes: '\"four\"'")
    code, output, _ = await shell.run("history", LOBBY, "--json")
    assert [json.loads(line)["data"] for line in output.splitlines()] == [1, {"n": 2}, 3]


async def test_a_tail_into_a_pipe_ends_when_nobody_reads(url: str) -> None:
    """At once: the next message may never come."""
    reading, writing = os.pipe()
    process = await CommandLine(url).start("tail", LOBBY, stdout=writing)
    os.close(writing)
    try:
        async with asyncio.timeout(20):
            with await asyncio.to_thread(os.fdopen, reading) as pipe:
                assert await asyncio.to_thread(pipe.readline) == "── live ──\n"
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["publish", "feed:news", "1"], 1, "permission_denied: "),
        (["tail", "nowhere:1"], 1, "unknown_channel: "),
        (["publish", LOBBY, "{no JSON"], 2, "not JSON"),
        (["publish", LOBBY, "it's text"], 2, "a text has quotes: '\"it'\"'\"'s text\"'"),
        (["history", LOBBY, "--url", "ftp://x"], 1, "url: "),
        (["publish", LOBBY, "1", "--token", "no token"], 1, "closed: "),
    ],
    ids=["not allowed", "no such channel", "not JSON", "a text", "not an address", "bad token"],
)
async def test_a_refusal_in_a_shell(url: str, arguments: list[str], code: int, said: str) -> None:
    """One line to stderr, and an exit code."""
    done, output, errors = await CommandLine(url).run(*arguments)
    assert (done, output) == (code, "")
    assert said in errors.splitlines()[-1]
    assert "Traceback" not in errors


async def test_no_server_in_a_shell() -> None:
    shell = CommandLine(f"http://{LOOPBACK}:{free_port()}")
    code, output, errors = await shell.run("publish", LOBBY, "1", "--timeout", "0.5")
    assert (code, output) == (1, "")
    assert "within 0.5 s: [Errno 111]" in errors.splitlines()[-1]


# --- what the server subscribes to ------------------------------------------------------------------------------------


def session_of(node: Node, user: str) -> Any:
    (session,) = node.admission.users[user]
    return session


async def test_the_server_subscribes(url: str, node: Node) -> None:
    """What the token names comes as subscriptions, which go on where they were after a loss; a program's own takes the
    place of one that nobody has entered, and misses nothing."""
    publisher = Principal(user="shop", server=True, channels={"vip:*": ["publish"]})

    async def publish(channel: str, data: Any) -> None:
        stored = node.publisher.publish(publisher, channel, data)
        assert stored is not None
        await stored

    await publish("vip:a", "before")
    async with Client(url, token=SERVED, **QUICK) as client:
        served = client.served()
        async with asyncio.timeout(20):
            given = {one.channel: one for one in [await anext(served) for _ in range(3)]}
        assert sorted(given) == ["live:c", "vip:a", "vip:b"]
        await publish("vip:b", 1)
        async with given["vip:a"] as a, client.subscribe("vip:b") as b, given["live:c"] as c:
            assert [event.data for event in await messages(a, 1)] == ["before"]
            assert [event.data for event in await messages(b, 1)] == [1]
            with pytest.raises(WaterspoutError, match="conflict"):
                async with client.subscribe("vip:a"):
                    pass
            session_of(node, "ann").disconnect(Disconnect(4000, "test"), 0.05)
            await until(lambda: client.state != "open", 10, "a loss")
            await publish("vip:a", 2)
            await publish("vip:b", 3)
            assert [event.data for event in await messages(a, 1)] == [2]
            assert [event.data for event in await messages(b, 1)] == [3]
            await client.publish("live:c", 4)
            assert [event.data for event in await messages(c, 1)] == [4]
    with pytest.raises(WaterspoutError, match="closed"):
        await anext(served)


async def test_a_back_end_subscribes(url: str, node: Node) -> None:
    """What a back end has wanted comes back after a loss as well, without a right of the user's, until it is taken
    back. Nobody's loop holds up more than the bound."""
    ops = Principal(user="ops", server=True, admin=True, channels={"vip:*": ["publish"]})
    async with Client(url, token=make_token(SECRET, "ann"), max_pending=2, **QUICK) as client:
        await client.ready()
        node.directives.subscribe(ops, "ann", "vip:a")
        served = client.served()
        async with asyncio.timeout(20):
            subscription = await anext(served)
        for number in range(5):
            stored = node.publisher.publish(ops, "vip:a", number)
            assert stored is not None
            await stored
        await until(lambda: "vip:a" not in session_of(node, "ann").subscriptions, 10, "a client that is full")
        assert subscription.behind <= 2
        async with subscription as a:
            assert [event.data for event in await messages(a, 5)] == [0, 1, 2, 3, 4]
            session_of(node, "ann").disconnect(Disconnect(4000, "test"), 0.05)
            await until(lambda: client.state != "open", 10, "a loss")
            stored = node.publisher.publish(ops, "vip:a", "missed")
            assert stored is not None
            await stored
            assert [event.data for event in await messages(a, 1)] == ["missed"]
            await node.moderation.unsubscribe(ops, "vip:a", "ann", "enough")
            with pytest.raises(Unsubscribed, match="enough"):
                await messages(a, 1)
