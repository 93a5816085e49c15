"""static/waterspout.js in Node against a real server: what a user of the client relies on."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import SECRET, SHOP, WORKER
from tests.browser.node_client import Client, ClientError, client, post, room, scenario, stored
from tests.support.client import make_token
from tests.support.processes import ROOT, Server
from tests.support.proxy import Proxy
from tests.support.waiting import until


@scenario
async def test_publish_and_receive(node: list[str], server: Server) -> None:
    """A subscription starts with the newest messages, is live then, and includes one's own."""
    channel = room()
    for number in range(5):
        await post(server, channel, number)
    async with client(node, server.ws) as ann:
        reply = await ann.do("subscribe", name=channel, options={"last": 3})
        assert reply["recovered"] is True
        receipt = await ann.do("publish", name=channel, data={"text": "hello"})
        assert (receipt["offset"], receipt["duplicate"]) == (6, False)
        await post(server, channel, "from a back end")
        assert await ann.received(5) == [2, 3, 4, {"text": "hello"}, "from a back end"]
        assert ann.told("live")[0]["count"] == 3
        assert ann.told("live")[0]["resumed"] is False
        page = await ann.do("history", name=channel, options={"before": ann.told("message")[0]["cursor"], "limit": 2})
        assert [message["data"] for message in page["messages"]] == [0, 1]
        assert page["more"] is False
        assert ann.states() == ["open"] or ann.states() == ["connecting", "open"]
        assert ann.noise == []


@scenario
async def test_resume_after_kill(node: list[str], server: Server) -> None:
    """kill -9 and restart: what others and the client itself published meanwhile arrives once, in order, no hole."""
    channel = room()
    async with client(node, server.ws) as ann:
        await ann.do("subscribe", name=channel)
        await asyncio.gather(*(ann.do("publish", name=channel, data=f"before {number}") for number in range(20)))
        await ann.received(20)
        # Some of these reach the server before it dies, some do not; either way each is stored once.
        burst = [ann.start("publish", name=channel, data=f"burst {number}") for number in range(50)]
        await asyncio.sleep(0.01)
        await server.kill()
        await ann.state("waiting")
        queued = [ann.start("publish", name=channel, data=f"away {number}") for number in range(5)]
        await server.start()
        for number in range(5):
            await post(server, channel, f"other {number}")
        async with asyncio.timeout(20):
            receipts = await asyncio.gather(*burst, *queued)
        everything = await ann.received(80)
        assert ann.offsets() == list(range(1, 81))
        assert everything == await stored(server, channel)
        own = [data for data in everything if not data.startswith("other")]
        counts = {"before": 20, "burst": 50, "away": 5}
        assert own == [f"{kind} {number}" for kind, count in counts.items() for number in range(count)]
        assert [receipt["offset"] for receipt in receipts] == [
            offset for offset, data in enumerate(everything, 1) if data.startswith(("burst", "away"))
        ]
        assert len(ann.told("resumed")) == 1
        assert ann.told("gap") == []


@scenario
async def test_lost_acknowledgement(node: list[str], server: Server) -> None:
    """An acknowledgement that the network swallowed: the retry carries the same key, and nothing is stored twice."""
    channel = room()
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        async with client(node, f"ws://127.0.0.1:{proxy.port}/v1/ws") as ann:
            await ann.do("subscribe", name=channel)
            proxy.black_hole("down")
            publish = ann.start("publish", name=channel, data="once")

            async def arrived() -> bool:
                return await stored(server, channel) == ["once"]

            await until(arrived, 10, "the publish")
            assert not publish.done()
            await proxy.heal()
            async with asyncio.timeout(10):
                receipt = await publish
            assert (receipt["offset"], receipt["duplicate"]) == (1, True)
            assert await ann.received(1) == ["once"]
            assert await stored(server, channel) == ["once"]
    finally:
        await proxy.stop()


@scenario
async def test_dead_network(node: list[str], server: Server) -> None:
    """A network that dies without a word is noticed by asking, and what it swallowed is read again."""
    channel = room()
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        async with client(node, f"ws://127.0.0.1:{proxy.port}/v1/ws", ping=0.5, patience=0.5) as ann:
            await ann.do("subscribe", name=channel)
            await asyncio.sleep(1.5)
            assert ann.states()[-1] == "open"  # silent, and alive
            before = len(ann.told("state"))  # a slow start may have taken more than one attempt
            proxy.black_hole()
            for number in range(3):
                await post(server, channel, number)
            await ann.state("waiting", 3)
            waiting = next(event for event in ann.told("state")[before:] if event["state"] == "waiting")
            assert waiting["reason"] == "the server has gone silent"
            await proxy.heal()
            assert await ann.received(3) == [0, 1, 2]
    finally:
        await proxy.stop()


@scenario
async def test_polite_restart(node: list[str], server: Server) -> None:
    """A server that leaves says when to come back, and is taken at its word."""
    channel = room()
    async with client(node, server.ws) as ann:
        await ann.do("subscribe", name=channel)
        await ann.state("open")
        await server.terminate()
        waiting = next(event for event in ann.told("state") if event["state"] == "waiting")
        assert waiting["code"] == 4000
        assert waiting["delay"] > 0
        await server.start()
        await post(server, channel, "back")
        assert await ann.received(1) == ["back"]
        assert ann.offsets() == [1]


@scenario
async def test_rate_limit_is_waited_out(node: list[str], server: Server) -> None:
    """More than the server takes at once: refused for now, tried again, all stored once."""
    channel = room()
    async with client(node, server.ws, window=1) as ann:
        await ann.do("subscribe", name=channel)
        publishes = [ann.start("publish", name=channel, data=number) for number in range(150)]
        async with asyncio.timeout(30):
            await asyncio.gather(*publishes)
        assert await ann.received(150) == list(range(150))  # in order, too: with a window of one nothing can overtake


@scenario
async def test_another_epoch(node: list[str], server: Server) -> None:
    """A cursor of a history that is no more: the gap is told, everything retained follows, the cursor is good again."""
    channel = room()
    for number in range(3):
        await post(server, channel, number)
    async with client(node, server.ws) as ann:
        reply = await ann.do("subscribe", name=channel, options={"after": "elsewhere:7"})
        assert reply["recovered"] is False
        assert await ann.received(3) == [0, 1, 2]
        (gap,) = ann.told("gap")
        assert (gap["from"], gap["to"], gap["reason"]) == (None, None, "epoch")
        assert ann.events.index(gap) < ann.events.index(ann.told("message")[0])
        await server.kill()
        await server.start()
        await post(server, channel, 3)
        assert await ann.received(4) == [0, 1, 2, 3]
        assert len(ann.told("gap")) == 1


@pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
def test_gap_moves_the_cursor(node: list[str], running: Server, transport: str) -> None:
    """A gap with nothing behind it is told once, not at every resumption."""

    async def run() -> None:
        channel = room()
        async with client(node, running.ws, transports=[transport]) as ann:
            await ann.do("subscribe", name=channel, options={"after": "elsewhere:7"})
            await until(lambda: ann.told("gap"), 5, "the gap")
            await running.kill()
            await running.start()
            await post(running, channel, "first")
            assert await ann.received(1) == ["first"]
            assert len(ann.told("gap")) == 1

    asyncio.run(run())


@scenario
async def test_unsubscribe_keeps_the_cursor(node: list[str], server: Server) -> None:
    """Coming back to a channel continues where one left it, even if one is back before one was gone."""
    channel = room()
    async with client(node, server.ws) as ann:
        await ann.do("subscribe", name=channel)
        await post(server, channel, 1)
        await ann.received(1)
        await ann.do("unsubscribe", name=channel)
        await post(server, channel, 2)
        await asyncio.sleep(0.2)
        assert ann.messages() == [1]
        await ann.do("subscribe", name=channel)
        assert await ann.received(2) == [1, 2]
        leaving = ann.start("unsubscribe", name=channel)
        await ann.do("subscribe", name=channel)
        await leaving
        await post(server, channel, 3)
        assert await ann.received(3) == [1, 2, 3]


@scenario
async def test_errors_reach_the_caller(node: list[str], server: Server) -> None:
    """What trying again does not change rejects the promise, and the connection stays."""
    async with client(node, server.ws) as ann:
        with pytest.raises(ClientError, match="unknown_channel"):
            await ann.do("publish", name="nowhere:1", data=1)
        with pytest.raises(ClientError, match="permission_denied"):
            await ann.do("publish", name="feed:news", data=1)
        with pytest.raises(ClientError, match="unknown_channel"):
            await ann.do("subscribe", name="nowhere:1")
        assert [event["code"] for event in ann.told("ended")] == ["unknown_channel"]
        channel = room()
        with pytest.raises(ClientError, match="too_large"):
            await ann.do("publish", name=channel, data="x" * 70_000)
        await ann.do("publish", name=channel, data="fine", options={"key": "k"})
        with pytest.raises(ClientError, match="conflict"):
            await ann.do("publish", name=channel, data="other", options={"key": "k"})
        assert "waiting" not in ann.states()
        # A frame this size would end the connection (1009), for ever if it were sent again.
        for data in ("x" * 200_000, "ü" * 100_000):  # the server alone counts bytes
            with pytest.raises(ClientError, match="too_large"):
                await ann.do("publish", name=channel, data=data)
        await ann.do("publish", name=channel, data="still here")
        assert await stored(server, channel) == ["fine", "still here"]


@pytest.mark.parametrize("transport", ["sse", "poll"])
def test_over_plain_http(node: list[str], running: Server, transport: str) -> None:
    """Event stream or long polls, with a kill -9 in the middle: all messages once and in order, on several channels."""

    async def run() -> None:
        first, second = room(), room()
        await post(running, first, "before")
        async with client(node, running.ws, transports=[transport]) as ann:
            await ann.do("subscribe", name=first, options={"last": 5})
            await ann.do("subscribe", name=second)
            assert await ann.do("transport") == transport
            publishes = [ann.start("publish", name=first, data=number) for number in range(10)]
            async with asyncio.timeout(20):
                await asyncio.gather(*publishes)
            await post(running, second, "else\u2028where")  # which ends a line for JavaScript, not for a stream
            await ann.received(12)
            await running.kill()
            queued = [ann.start("publish", name=first, data=f"away {number}") for number in range(3)]
            await ann.state("waiting")
            await running.start()
            await post(running, second, "back")
            async with asyncio.timeout(20):
                receipts = await asyncio.gather(*queued)
            await ann.received(16)
            assert [receipt["offset"] for receipt in receipts] == [12, 13, 14]
            of = {
                name: [one["data"] for one in ann.told("message") if one["channel"] == name] for name in (first, second)
            }
            assert of == {first: await stored(running, first), second: ["else\u2028where", "back"]}
            assert ann.told("gap") == []
            with pytest.raises(ClientError, match="unknown_channel"):
                await ann.do("subscribe", name="nowhere:1")
            assert (await ann.do("history", name=first, options={"limit": 2}))["messages"][-1]["data"] == "away 2"
            await ann.do("unsubscribe", name=second)
            await post(running, second, "unheard")
            await ann.do("publish", name=first, data="last")
            assert (await ann.received(17))[-1] == "last"

    asyncio.run(run())


@scenario
async def test_blocked_websockets(node: list[str], server: Server) -> None:
    """No WebSocket twice, though the server answers otherwise: an event stream it is. A server that is only away does
    not lead there."""
    channel = room()
    async with client(node, server.ws, blocked=True) as ann:
        await ann.do("subscribe", name=channel)
        assert await ann.do("transport") == "sse"
        await ann.do("publish", name=channel, data=1)
        assert await ann.received(1) == [1]
    async with client(node, server.ws) as bob:
        await bob.state("open")
        await server.kill()
        await until(lambda: bob.states().count("waiting") >= 5, 20, "attempts")
        await server.start()
        await bob.state("open")
        assert await bob.do("transport") == "websocket"


@scenario
async def test_messagepack(node: list[str], server: Server) -> None:
    """The same in MessagePack, by the library of the client's user."""
    channel = room()
    data = {
        "text": "ü\n",
        "numbers": [0, -1, 300, 70_000, 2**40, -(2**40), 1.5],
        "nothing": None,
        "true": [True, False],
    }
    async with client(node, server.ws, packed=True) as ann:
        await ann.do("subscribe", name=channel)
        assert (await ann.do("publish", name=channel, data=data))["offset"] == 1
        assert await ann.received(1) == [data]
        assert await stored(server, channel) == [data]


@scenario
async def test_live_documents(node: list[str], server: Server) -> None:
    """A copy is the collection: through the client's own writes, others', a kill -9, with and without a WebSocket."""
    mine = {"owner": secrets.token_hex(4)}

    async def same(*clients: Client) -> bool:
        answer = await server.get(f"/v1/documents/orders?where={json.dumps(mine)}".replace(" ", ""), token=SHOP)
        wanted = sorted(answer.body["documents"], key=lambda one: one["_id"])
        copies = [await one.do("copy", name="orders") for one in clients]
        return all(sorted(copy, key=lambda one: one["_id"]) == wanted for copy in copies)

    async with (
        client(node, server.ws, token=SHOP) as ann,
        client(node, server.ws, token=SHOP, transports=["sse"]) as bob,
    ):
        made = await ann.do("collection", name="orders", call="create", args=[{**mine, "total": 1}])
        for one in (ann, bob):
            await one.do("watch", name="orders", where=mine)
            await until(lambda one=one: one.told("reset"), 10, "the copy")  # type: ignore[misc]
        changed = await ann.do("collection", name="orders", call="patch", args=[made["_id"], {"total": 2}])
        with pytest.raises(ClientError, match="conflict"):
            await bob.do("collection", name="orders", call="put", args=[made["_id"], mine, {"rev": made["_rev"]}])
        await bob.do("collection", name="orders", call="put", args=["b" + mine["owner"], mine])
        await ann.do("collection", name="orders", call="delete", args=[made["_id"], {"rev": changed["_rev"]}])
        await until(lambda: same(ann, bob), 10, "the same")
        await server.kill()
        await server.start()
        for number in range(5):
            await server.request(
                "PUT", f"/v1/documents/orders/{mine['owner']}-{number}", {**mine, "total": number}, token=SHOP
            )
        await until(lambda: same(ann, bob), 20, "the same again")
        assert len(await ann.do("copy", name="orders")) == 6
        assert len(ann.told("reset")) == 1, "it went on where it was"
        found = await bob.do(
            "collection", name="orders", call="find", args=[{"where": mine, "sort": "-total", "limit": 2}]
        )
        assert [one["total"] for one in found["documents"]] == [4, 3]
        assert (await bob.do("collection", name="orders", call="get", args=["b" + mine["owner"]]))["owner"] == mine[
            "owner"
        ]
        await ann.do("unwatch", name="orders")


@pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
def test_several_copies_of_one_collection(node: list[str], running: Server, transport: str) -> None:
    """Each with its own `where`, through a kill -9; closing one leaves the others alone, and its place can be taken."""

    async def run() -> None:
        owner = secrets.token_hex(4)
        ids = {name: f"{owner}-{name}" for name in "abc"}
        mine = {"owner": owner}

        async def put(name: str, status: str) -> None:
            path = f"/v1/documents/orders/{ids[name]}"
            answer = await running.request("PUT", path, {**mine, "status": status}, token=SHOP)
            assert answer.status in (200, 201), answer

        async with client(node, running.ws, token=SHOP, transports=[transport]) as ann:

            async def watch(copy: str, **where: Any) -> None:
                await ann.do("watch", **{"name": "orders", "as": copy, "where": {**mine, **where}})
                await until(lambda: ann.do("ready", name=copy), 10, f"the copy {copy}")

            async def hold(**wanted: str) -> None:
                """Each copy has just the documents that are wanted."""

                async def same() -> bool:
                    now = {copy: {one["_id"] for one in await ann.do("copy", name=copy)} for copy in wanted}
                    return now == {copy: {ids[name] for name in names} for copy, names in wanted.items()}

                await until(same, 20, str(wanted))

            await put("a", "open")
            await put("b", "shut")
            await watch("all")
            await watch("open", status="open")
            await watch("shut", status="shut")
            await hold(all="ab", open="a", shut="b")
            await put("c", "open")
            await put("a", "shut")
            await hold(all="abc", open="c", shut="ab")
            await running.kill()
            await running.start()
            await put("c", "shut")
            await put("b", "open")
            await hold(all="abc", open="b", shut="ac")
            await ann.do("unwatch", name="open")
            await put("a", "open")
            await hold(all="abc", open="b", shut="c")
            await watch("other", status={"$ne": "shut"})
            await put("b", "shut")
            await hold(all="abc", open="b", shut="bc", other="a")
            assert ann.told("ended") == []
            assert len(ann.told("reset")) == 4, "all went on where they were"

    asyncio.run(run())


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_members(node: list[str], running: Server, transport: str) -> None:
    """Who is here, kept up to date by joins and leaves."""

    async def run() -> None:
        channel = room()
        async with client(node, running.ws, token=make_token(SECRET, "ann"), transports=[transport]) as ann:
            await ann.do("subscribe", name=channel)

            async def are(*users: str) -> bool:
                return (await ann.do("members", name=channel))["users"] == list(users)

            await until(lambda: are("ann"), 5, "oneself")
            async with client(node, running.ws, token=make_token(SECRET, "bob")) as bob:
                await bob.do("subscribe", name=channel)
                await until(lambda: are("ann", "bob"), 5, "the other")
                await bob.do("unsubscribe", name=channel)
                await until(lambda: are("ann"), 5, "alone again")

    asyncio.run(run())


@pytest.mark.parametrize("cases", ["client", "http", "faults", "wire", "where", "rooms"])
def test_on_a_scripted_server(node: list[str], cases: str) -> None:
    """What a real server does not do on demand: *.test.mjs have the cases."""
    script = ROOT / f"tests/browser/{cases}.test.mjs"
    done = subprocess.run([*node, "--test", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_not_to_come_back(node: list[str], tmp_path: Path) -> None:
    """Refused for good (4500): the client stays away, and says so to whoever waits; with a good token it is let in."""

    async def run() -> None:
        secret = secrets.token_hex(32)
        async with Server(tmp_path, settings={"auth.guests": False, "auth.secret": secret}) as server:
            async with client(node, server.ws) as stranger:
                publish = stranger.start("publish", name=room(), data=1)
                closed = await stranger.state("closed")
                assert 4500 <= closed["code"] <= 4999
                with pytest.raises(ClientError, match="closed"):
                    await publish
                await asyncio.sleep(1)
                assert stranger.states()[-1] == "closed"
            async with client(node, server.ws, token=make_token(secret, "ann")) as ann:
                receipt = await ann.do("publish", name=room(), data=1)
                assert receipt["offset"] == 1

    asyncio.run(run())


@scenario
async def test_the_server_subscribes(node: list[str], server: Server) -> None:
    """What the token names is there without a command, as a channel; after a loss it goes on where it was, and what the
    client subscribes to by itself is its own. So it is over plain HTTP."""
    channel, other, ticks = room(), room(), "dash:" + secrets.token_hex(4)
    token = make_token(SECRET, "ann", subscribe=[channel, other, ticks])
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        async with (
            client(node, f"ws://127.0.0.1:{proxy.port}/v1/ws", token=token) as ann,
            client(node, server.ws, token=token, transports=["sse"]) as plain,
        ):
            own = ann.start("subscribe", name=other, options={"after": "0"})
            for one in (ann, plain):
                await until(lambda: len(one.told("live")) >= 3, 20, f"three channels; {one.events}")  # noqa: B023
            assert (await own)["recovered"] is True
            assert sorted(event["channel"] for event in ann.told("served")) == sorted((channel, ticks))
            assert sorted(event["channel"] for event in plain.told("served")) == sorted((channel, other, ticks))
            await post(server, channel, 1)
            await ann.received(1)
            lives = ann.states().count("open")
            await proxy.drop()
            await until(lambda: "waiting" in ann.states(), 20, "a loss")
            await post(server, channel, 2)
            await post(server, other, 3)
            await until(lambda: ann.states().count("open") > lives, 20, "another connection")
            assert sorted(await ann.received(3)) == [1, 2, 3]
            assert len(ann.told("resumed")) == 1
            assert sorted(await plain.received(3)) == [1, 2, 3]
            assert ann.told("ended") == ann.told("gap") == []
    finally:
        await proxy.stop()


@scenario
async def test_a_back_end_subscribes(node: list[str], server: Server) -> None:
    """What a back end has wanted comes back after a loss as well, without a right of the user's, until it is taken
    back."""
    channel = "club:" + secrets.token_hex(4)
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        async with client(node, f"ws://127.0.0.1:{proxy.port}/v1/ws", token=make_token(SECRET, "ida")) as ida:
            await ida.state("open")
            answer = await server.post("/v1/users/ida/subscribe", {"channel": channel}, token=SHOP)
            assert answer.status == 200, answer
            await until(lambda: ida.told("served"), 20, "the channel")
            await proxy.drop()
            await until(lambda: "waiting" in ida.states(), 20, "a loss")
            await server.post(f"/v1/channels/{channel}/messages", {"data": "missed"})
            assert await ida.received(1) == ["missed"]
            await server.post("/v1/users/ida/unsubscribe", {"channel": channel}, token=SHOP)
            await until(lambda: ida.told("ended"), 20, "the end")
            assert ida.told("ended")[0]["code"] == "unsubscribed"
    finally:
        await proxy.stop()


@pytest.mark.parametrize("blocked", [False, True])
def test_calls(node: list[str], running: Server, blocked: bool) -> None:
    """What the back end answers and refuses, over a WebSocket and without one; an answer that is not waited for."""

    async def run() -> None:
        async with client(node, running.ws, blocked=blocked) as ann:
            assert await ann.do("call", name="echo", data={"n": [1, "ü"]}) == {"n": [1, "ü"]}
            assert await ann.do("call", name="echo") is None
            with pytest.raises(ClientError) as refused:
                await ann.do("call", name="refuse", data=1)
            told = {"code": "refused", "reason": "sold out", "retry": False, "details": {"left": 0}}
            assert refused.value.error == told
            with pytest.raises(ClientError) as refused:
                await ann.do("call", name="nothing")
            assert refused.value.error["code"] == "not_found"
            with pytest.raises(ClientError) as late:
                await ann.do("call", name="sleep", data=30, options={"timeout": 0.05})
            assert late.value.error["code"] == "outcome_unknown"
            assert await ann.do("call", name="sleep", data=0, options={"timeout": 20}) == "awake"

    asyncio.run(run())


@pytest.mark.parametrize("blocked", [False, True])
def test_working_for_a_consumer(node: list[str], running: Server, blocked: bool) -> None:
    """A job is done when the loop asks for the next one; one that was given back comes again, and so does, at once,
    what a loop had when it was left. Over a WebSocket and without one."""

    async def run() -> None:
        channel = "work:" + secrets.token_hex(4)
        for number in range(6):
            await running.post(f"/v1/channels/{channel}/messages", {"data": number}, token=SHOP)
        async with client(node, running.ws, blocked=blocked, token=WORKER) as ann:
            got = await ann.do("consume", name="jobs", nack=5, until=2)
            assert got == [[0, 1], [1, 1], [2, 1], [3, 1], [4, 1], [5, 1], [5, 2]]
            assert await ann.do("consume", name="jobs", until=3, ack=True) == [[5, 3]]
            with pytest.raises(ClientError, match="permission_denied"):
                await ann.do("consume", name="others", until=1)
        left = await running.post("/v1/consumers/jobs/fetch", {"wait": 0}, token=SHOP)
        assert left.body == {"messages": []}

    asyncio.run(run())


@pytest.mark.parametrize("blocked", [False, True])
def test_messages_for_later(node: list[str], running: Server, blocked: bool) -> None:
    """Published when they are due, cancelled before that; over a WebSocket and without one."""

    async def run() -> None:
        channel = room()
        token = make_token(SECRET, "ann")
        async with client(node, running.ws, blocked=blocked, token=token) as ann:
            await ann.do("subscribe", name=channel)
            soon, never = time.time() + 1, time.time() + 3600
            kept = await ann.do("publish", name=channel, data="later", options={"at": soon})
            assert ("offset" in kept, kept["at"]) == (False, pytest.approx(soon, abs=0.01))
            gone = await ann.do("publish", name=channel, data="never", options={"at": never})
            await ann.do("cancel", name=gone["scheduled"])
            with pytest.raises(ClientError) as refused:
                await ann.do("cancel", name=gone["scheduled"])
            assert refused.value.error["code"] == "not_found"
            at_once = await ann.do("publish", name=channel, data="at once", options={"at": 1})
            assert at_once["offset"] == 1
            assert await ann.received(2) == ["at once", "later"]

    asyncio.run(run())


@scenario
async def test_calls_and_losses(node: list[str], server: Server) -> None:
    """With a key a call is made again after a loss; without one nobody knows, and it is said."""
    async with client(node, server.ws) as ann:
        kept = ann.start("call", name="sleep", data=1, options={"key": room()})
        lost = ann.start("call", name="sleep", data=1)
        assert await ann.do("call", name="echo", data=1) == 1  # so both are on their way
        await server.kill()
        await server.start()
        with pytest.raises(ClientError) as unknown:
            await lost
        assert unknown.value.error["code"] == "disconnected"
        async with asyncio.timeout(30):
            assert await kept == "awake"


@scenario
async def test_a_pattern(node: list[str], server: Server) -> None:
    """A pattern is subscribed to like a channel, over WebSocket and event stream, and again after a loss; the messages
    say which channel they are of."""
    base = f"stock:{secrets.token_hex(4)}"
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        async with (
            client(node, f"ws://127.0.0.1:{proxy.port}/v1/ws") as ann,
            client(node, server.ws, transports=["sse"]) as plain,
        ):
            for one in (ann, plain):
                await one.do("subscribe", name=f"{base}*")
            await until(lambda: plain.told("live"), 20, "a stream")

            async def heard() -> bool:
                await post(server, base + "a", 1)
                return bool(ann.messages() and plain.messages())

            await until(heard, 20, "a message", every=0.1)
            lives = ann.states().count("open")
            await proxy.drop()
            await until(lambda: "waiting" in ann.states(), 20, "a loss")
            await until(lambda: ann.states().count("open") > lives, 20, "another connection")
            before = len(ann.messages())
            await until(lambda: len(ann.told("subscribed")) == 2, 20, "it again")
            await post(server, base + "b", 2)
            await until(lambda: ann.messages()[before:] == [2], 20, "another")
            assert ann.told("message")[-1]["pattern"] == f"{base}*"
    finally:
        await proxy.stop()
