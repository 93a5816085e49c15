"""The Python client where a real server is too well-behaved: the test plays the server, line by line."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

import waterspout_client.client
from waterspout_client import (
    Change,
    Client,
    FileCursors,
    Gap,
    Join,
    Leave,
    Limited,
    Live,
    Message,
    Replaced,
    Unsubscribed,
    User,
    WaterspoutError,
)
from waterspout_client.outbox import Outbox

pytestmark = pytest.mark.gen_test(timeout=20)

LOBBY, ORDERS = "chat:lobby", "docs:orders"


class Peer:
    """The server's end of one connection, played by the test."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket

    async def expect(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next command, which has to be of this kind and have these fields."""
        async with asyncio.timeout(5):
            command: dict[str, Any] = json.loads(await self._socket.recv())
        assert command["type"] == kind, command
        assert {name: command.get(name) for name in fields} == fields
        return command

    async def push(self, *pushes: dict[str, Any]) -> None:
        for push in pushes:
            await self._socket.send(json.dumps(push))

    async def reply(self, command: dict[str, Any], **fields: Any) -> None:
        await self.push({"type": "reply", "id": command["id"], **fields})

    async def refuse(self, command: dict[str, Any], code: str, **fields: Any) -> None:
        await self.push({"type": "error", "id": command["id"], "code": code, "reason": "no", **fields})

    async def joined(self, cursor: str, head: str, **fields: Any) -> dict[str, Any]:
        """Answer the `subscribe` that comes next."""
        command = await self.expect("subscribe", **fields)
        await self.reply(command, channel=command["channel"], cursor=cursor, head=head, recovered=True)
        return command

    async def end(self, code: int = 1011) -> None:
        await self._socket.close(code)


class Stage:
    def __init__(self) -> None:
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()
        self.url = ""

    async def handle(self, socket: ServerConnection) -> None:
        self.peers.put_nowait(Peer(socket))
        await socket.wait_closed()

    async def peer(self, **session: Any) -> Peer:
        """The client's next connection, greeted."""
        async with asyncio.timeout(5):
            peer = await self.peers.get()
        await peer.reply(await peer.expect("connect"), user=None, **session)
        return peer


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    one = Stage()
    async with serve(one.handle, "127.0.0.1", 0, subprotocols=[Subprotocol("waterspout.json")]) as server:
        one.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield one


def client(one: Stage, **options: Any) -> Client:
    return Client(one.url, min_delay=0.01, max_delay=0.05, **options)


def message(offset: int, channel: str = LOBBY, data: Any = None) -> dict[str, Any]:
    push = {"type": "message", "channel": channel, "offset": offset, "cursor": f"e:{offset}", "key": f"k{offset}"}
    return {**push, "user": None, "time": 0, "data": data}


async def next_of(events: Any, kind: type) -> Any:
    async with asyncio.timeout(5):
        event = await anext(events)
    assert isinstance(event, kind), event
    return event


# --- publishing -------------------------------------------------------------------------------------------------------


async def test_every_attempt_has_the_same_key() -> None:
    """After a loss, and after a refusal that asks to try again, during which those behind wait too."""
    async with stage() as server, client(server) as ann:
        receipts = [ann.publish(LOBBY, n) for n in range(2)]
        peer = await server.peer()
        first, second = await peer.expect("publish", data=0), await peer.expect("publish", data=1)
        await peer.end()
        peer = await server.peer()
        for key in (first["key"], second["key"]):
            await peer.refuse(await peer.expect("publish", key=key), "rate_limited", retry=True, retry_after=0.01)
        for n, key in enumerate((first["key"], second["key"])):
            await peer.reply(
                await peer.expect("publish", key=key, data=n), channel=LOBBY, offset=n + 1, duplicate=n == 0
            )
        assert [(one.offset, one.duplicate) for one in await asyncio.gather(*receipts)] == [(1, True), (2, False)]


async def test_what_was_published_on_an_open_connection_outlives_it_too() -> None:
    async with stage() as server, client(server) as ann:
        peer = await server.peer()
        await ann.ready()
        for n in range(2):  # in a channel that is new, and in one that had nothing to do any more
            receipt = ann.publish(LOBBY, n)
            first = await peer.expect("publish", data=n)
            await peer.end()
            peer = await server.peer()
            await peer.reply(await peer.expect("publish", key=first["key"]), channel=LOBBY, offset=n)
            assert (await receipt).offset == n


async def test_no_more_than_the_window_is_under_way() -> None:
    async with stage() as server, client(server, window=1) as ann:
        receipts = [ann.publish(LOBBY, n) for n in range(3)]
        peer = await server.peer()
        for n in range(3):
            command = await peer.expect("publish", data=n)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await peer.expect("publish")
            await peer.reply(command, channel=LOBBY, offset=n + 1)
        await asyncio.gather(*receipts)


async def test_who_no_longer_waits_is_not_sent_for() -> None:
    async with stage() as server, client(server) as ann:
        first, second = ann.publish(LOBBY, 1), ann.publish(LOBBY, 2)
        first.cancel()
        peer = await server.peer()
        await peer.reply(await peer.expect("publish", data=2), channel=LOBBY, offset=1)
        assert (await second).offset == 1


async def test_who_no_longer_waits_takes_no_place_in_the_queue() -> None:
    async with stage() as server, client(server, max_queue=2) as ann:
        for n in range(2):
            ann.publish(LOBBY, n).cancel()
        third = ann.publish(LOBBY, 2)
        peer = await server.peer()
        await peer.reply(await peer.expect("publish", data=2), channel=LOBBY, offset=1)
        assert (await third).offset == 1


async def test_channels_that_were_published_in_are_forgotten() -> None:
    """A program may publish in a channel for each of its users."""
    async with stage() as server, client(server) as ann:
        ann.publish("chat:left", 1).cancel()
        receipts = [ann.publish(f"chat:{n}", n) for n in range(3)]
        peer = await server.peer()
        for n in range(3):
            await peer.reply(await peer.expect("publish", data=n), channel=f"chat:{n}", offset=1)
        await asyncio.gather(*receipts)
        gc.collect()
        # By their type: asking a weak proxy for its class asks what it stands for, which may be gone.
        assert not [one for one in gc.get_objects() if type(one) is Outbox]


async def test_whoever_waits_is_told_even_if_leaving_is_cancelled() -> None:
    async with stage() as server:
        ann = await client(server).__aenter__()
        peer = await server.peer()
        receipt, asking = ann.publish(LOBBY, 1), asyncio.create_task(ann.presence(LOBBY))
        await peer.expect("publish")
        await peer.expect("presence")
        leaving = asyncio.create_task(ann.close())
        await asyncio.sleep(0)
        leaving.cancel()
        async with asyncio.timeout(5):
            for waiting in (receipt, asking):
                with pytest.raises(WaterspoutError, match="closed"):
                    await waiting


async def test_data_that_is_nested_too_deeply_is_refused_like_any_other_that_is_not_json() -> None:
    class Deep(list[Any]):
        def __repr__(self) -> str:  # pytest's own fails at it
            return "deep"

    deep: list[Any] = []
    for _ in range(100_000):
        deep = Deep([deep])
    async with stage() as server, client(server) as ann:
        with pytest.raises(ValueError, match="deep"):
            ann.publish(LOBBY, deep)


# --- channels ---------------------------------------------------------------------------------------------------------


async def test_it_resumes_behind_what_has_come() -> None:
    """Read or not; what stands in the same packet as the reply counts."""
    async with stage() as server, client(server) as ann:
        events = ann.subscribe(LOBBY, last=5)
        entering = asyncio.create_task(events.__aenter__())
        peer = await server.peer()
        command = await peer.expect("subscribe", last=5)
        assert "after" not in command
        await peer.reply(command, cursor="e:0", head="e:2", recovered=True)
        await peer.push(message(1), message(2))
        await entering
        await peer.end()
        peer = await server.peer()
        assert "last" not in await peer.joined("e:2", "e:2", after="e:2")
        assert [(await next_of(events, Message)).offset for _ in range(2)] == [1, 2]
        assert (await next_of(events, Live)).resumed is False
        assert (await next_of(events, Live)).resumed is True
        assert events.cursor == "e:2"


async def test_a_gap_that_was_announced_and_did_not_come_is_asked_for_again() -> None:
    async with stage() as server, client(server) as ann:
        events = ann.subscribe(LOBBY, after="e:3")
        entering = asyncio.create_task(events.__aenter__())
        peer = await server.peer()
        await peer.reply(await peer.expect("subscribe", after="e:3"), cursor="e:9", head="e:9", recovered=False)
        await entering
        await peer.end()
        peer = await server.peer()
        await peer.reply(await peer.expect("subscribe", after="e:3"), cursor="e:9", head="e:9", recovered=False)
        await peer.push({"type": "gap", "channel": LOBBY, "from": 4, "to": 9, "cursor": "e:9"})
        gap = await next_of(events, Gap)
        assert (gap.first, gap.last) == (4, 9)
        await next_of(events, Live)
        assert events.cursor == "e:9"


async def test_progress_moves_the_cursor_and_what_is_unknown_does_not_matter() -> None:
    async with stage() as server, client(server) as ann:
        events = ann.subscribe(LOBBY)
        entering = asyncio.create_task(events.__aenter__())
        peer = await server.peer(new_field=1)
        await peer.joined("e:0", "e:0")
        await entering
        await next_of(events, Live)
        await peer.push(
            {"type": "news", "channel": LOBBY}, {"type": "news"},
            {"type": "progress", "channel": LOBBY, "cursor": "e:7"},
            {"type": "join", "channel": LOBBY, "user": "bob", "info": {"team": 1}},
            {"type": "leave", "channel": LOBBY, "user": "bob"},
        )  # fmt: skip
        assert (await next_of(events, Join)).info == {"team": 1}
        assert (await next_of(events, Leave)).user == "bob"
        assert events.cursor == "e:7"


async def test_an_end_by_the_server_is_an_error_behind_what_came_before() -> None:
    async with stage() as server, client(server) as ann:
        events = ann.subscribe(LOBBY)
        entering = asyncio.create_task(events.__aenter__())
        peer = await server.peer()
        await peer.joined("e:0", "e:0")
        gone = {"type": "unsubscribed", "channel": LOBBY, "code": "permission_denied", "reason": "revoked"}
        await peer.push(message(1), gone, message(2))
        await entering
        await next_of(events, Live)
        await next_of(events, Message)
        with pytest.raises(Unsubscribed, match="permission_denied: revoked"):
            await anext(events)
        await peer.end()
        await server.peer()  # and it is not subscribed to again


async def test_a_right_that_is_gone_after_a_loss_ends_the_subscription_as_well() -> None:
    async with stage() as server, client(server) as ann:
        events = ann.subscribe(LOBBY)
        entering = asyncio.create_task(events.__aenter__())
        peer = await server.peer()
        await peer.joined("e:0", "e:0")
        await entering
        await next_of(events, Live)
        await peer.end()
        peer = await server.peer()
        await peer.refuse(await peer.expect("subscribe"), "permission_denied")
        with pytest.raises(Unsubscribed, match="permission_denied: no"):
            await anext(events)


async def test_the_end_of_a_former_subscription_is_not_that_of_the_next() -> None:
    """Both may be on their way at once; the reply to `subscribe` tells them apart."""
    async with stage() as server, client(server) as ann:
        events = ann.subscribe(LOBBY)
        entering = asyncio.create_task(events.__aenter__())
        peer = await server.peer()
        await peer.joined("e:0", "e:0")
        await entering
        await events.__aexit__(None, None, None)
        events = ann.subscribe(LOBBY)
        entering = asyncio.create_task(events.__aenter__())
        await peer.push({"type": "unsubscribed", "channel": LOBBY, "code": "unsubscribed", "reason": "by the server"})
        await peer.expect("unsubscribe")
        await peer.joined("e:1", "e:1")
        await entering
        await next_of(events, Live)


async def test_a_cursor_that_cannot_be_kept_does_not_keep_the_subscription() -> None:
    class Full:
        def load(self, channel: str) -> str | None:
            return None

        def save(self, channel: str, cursor: str) -> None:
            if cursor == "e:1":
                raise OSError("no space left")

    async with stage() as server, client(server, cursors=Full()) as ann:
        events = ann.subscribe(LOBBY)
        entering = asyncio.create_task(events.__aenter__())
        peer = await server.peer()
        await peer.joined("e:0", "e:1")
        await peer.push(message(1))
        await entering
        await next_of(events, Message)
        with pytest.raises(OSError, match="no space left"):
            await events.__aexit__(None, None, None)
        await peer.expect("unsubscribe")


async def test_presence() -> None:
    async with stage() as server, client(server) as ann:
        asking = asyncio.create_task(ann.presence(LOBBY))
        peer = await server.peer()
        await peer.expect("presence", channel=LOBBY)
        await peer.end()  # a question is asked again
        peer = await server.peer()
        users = [{"user": "ann", "sessions": 2, "info": {"team": 1}}, {"user": None, "sessions": 1}]
        await peer.reply(await peer.expect("presence", channel=LOBBY), users=users, count=2)
        assert (await asking).users == [User("ann", 2, {"team": 1}), User(None, 1)]


async def test_a_token_is_renewed_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the open connection, and again if the server refused the new one."""
    monkeypatch.setattr(waterspout_client.client, "REFRESH_PAUSE", 0.01)
    tokens = iter(("first", "second", "third"))
    async with stage() as server, client(server, token=lambda: next(tokens)):
        peer = await server.peer(expires=time.time() + 0.02)
        await peer.refuse(await peer.expect("refresh", token="second"), "unavailable", retry=True)
        await peer.reply(await peer.expect("refresh", token="third"), expires=time.time() + 3600)


async def test_a_token_is_waited_for_before_the_connection() -> None:
    """The server gives it a few seconds only, and who says nothing until then is sent away for good."""
    asked, given = asyncio.Event(), asyncio.Event()

    async def token() -> str:
        asked.set()
        await given.wait()
        return "late"

    async with stage() as server:
        sockets = server.peers
        async with client(server, token=token):
            await asked.wait()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await sockets.get()
            given.set()
            peer = await sockets.get()
            await peer.expect("connect", token="late")


async def test_a_failing_callback_ends_nothing() -> None:
    changes: list[str] = []

    def on_state(change: Any) -> None:
        changes.append(change.state)
        raise ZeroDivisionError

    async with stage() as server, client(server, on_state=on_state) as ann:
        await (await server.peer()).end()
        await server.peer()
        await ann.ready()
    assert changes == ["connecting", "open", "waiting", "connecting", "open", "closed"]


async def test_close_codes_say_whether_to_come_back() -> None:
    async with stage() as server, client(server) as ann:
        for code in (4001, 4003, 1012):
            await (await server.peer()).end(code)
        peer = await server.peer()
        waiting = ann.publish(LOBBY, 1)
        await peer.end(4501)
        with pytest.raises(WaterspoutError, match="closed"):
            await waiting
        assert ann.state == "closed"


# --- documents --------------------------------------------------------------------------------------------------------


def change(offset: int, op: str, id: str, document: Any = None, **fields: Any) -> dict[str, Any]:
    return message(offset, ORDERS, {"op": op, "id": id, "rev": f"r{offset}", "document": document, **fields})


def snapshot(*ids: str, cursor: str | None = None, **fields: Any) -> dict[str, Any]:
    documents = [{"_id": id, "_rev": "r", "n": 0} for id in ids]
    last = {"more": False, "cursor": cursor} if cursor else {"more": True}
    return {"type": "snapshot", "channel": ORDERS, "documents": documents, **last, **fields}


async def test_a_watch_keeps_a_copy() -> None:
    """Of the snapshot and every change, through a loss in the middle of the snapshot, one behind it, and a fresh
    snapshot in place of changes that are gone."""
    async with stage() as server, client(server) as ann:
        watch = ann.collection("orders").watch({"status": "open"})
        entering = asyncio.create_task(watch.__aenter__())
        peer = await server.peer()
        await peer.joined("e:3", "e:3", channel=ORDERS, snapshot=True, where={"status": "open"})
        await peer.push(snapshot("a"))
        await entering
        await peer.end()

        peer = await server.peer()
        assert "after" not in await peer.joined("e:5", "e:5", snapshot=True)
        await peer.push(snapshot("x"), snapshot("a", "b", start=True), snapshot("c", cursor="e:5"))
        await next_of(watch, Replaced)
        assert set(watch.documents) == {"a", "b", "c"}
        await peer.push(change(6, "put", "a", {"_id": "a", "_rev": "r6", "n": 1}), change(7, "delete", "b"))
        put, deleted = await next_of(watch, Change), await next_of(watch, Change)
        assert (put.op, put.id, deleted.op, deleted.id) == ("put", "a", "delete", "b")
        assert watch.documents == {"a": {"_id": "a", "_rev": "r6", "n": 1}, "c": {"_id": "c", "_rev": "r", "n": 0}}
        await peer.end()

        peer = await server.peer()
        await peer.joined("e:7", "e:8", after="e:7", snapshot=True, where={"status": "open"})
        await peer.push(change(8, "put", "d", truncated=True))
        assert (await next_of(watch, Change)).truncated
        assert watch.documents["d"] == {"_id": "d", "_rev": "r8"}
        await peer.end()

        peer = await server.peer()
        await peer.joined("f:1", "f:1", after="e:8")
        await peer.push(snapshot("z", start=True, cursor="f:1"))
        await next_of(watch, Replaced)
        assert set(watch.documents) == {"z"}


async def test_a_copy_is_not_gone_on_with_behind_a_gap() -> None:
    """A fresh snapshot follows the gap; if it is lost on its way, it is asked for again."""
    async with stage() as server, client(server) as ann:
        watch = ann.collection("orders").watch()
        entering = asyncio.create_task(watch.__aenter__())
        peer = await server.peer()
        await peer.joined("e:3", "e:3", snapshot=True)
        await entering
        await peer.push(snapshot("a", start=True, cursor="e:3"))
        await next_of(watch, Replaced)
        await peer.push({"type": "gap", "channel": ORDERS, "from": 4, "to": 9, "cursor": "e:9"})
        await next_of(watch, Gap)
        await peer.end()
        peer = await server.peer()
        assert "after" not in await peer.joined("e:9", "e:9", snapshot=True)


async def test_a_collection_is_watched_several_times_under_the_first_free_label() -> None:
    async with stage() as server, client(server) as ann:
        orders = ann.collection("orders")
        peer = await server.peer()

        async def begin(channel: str) -> Any:
            watch = orders.watch()
            entering = asyncio.create_task(watch.__aenter__())
            await peer.joined("e:1", "e:1", channel=channel, snapshot=True)
            return await entering

        _, second, third = [await begin(channel) for channel in (ORDERS, f"{ORDERS}#2", f"{ORDERS}#3")]
        await second.__aexit__(None, None, None)
        await peer.expect("unsubscribe", channel=f"{ORDERS}#2")
        await begin(f"{ORDERS}#2")
        await peer.push({**snapshot("c", start=True, cursor="e:1"), "channel": f"{ORDERS}#3"})
        await next_of(third, Replaced)
        assert set(third.documents) == {"c"}


async def test_commands_of_documents() -> None:
    """Questions are asked again after a loss; writes are not, as somebody else may have written meanwhile."""
    document = {"_id": "a", "_rev": "r1", "n": 1}
    async with stage() as server, client(server) as ann:
        orders = ann.collection("orders")
        peer = await server.peer()

        async def answered(asking: Any, kind: str, reply: dict[str, Any], **fields: Any) -> Any:
            task = asyncio.ensure_future(asking)
            await peer.reply(await peer.expect(kind, collection="orders", **fields), **reply)
            return await task

        one = {"document": document}
        assert await answered(orders.get("a"), "get", one, document_id="a") == document
        written = await answered(orders.put("a", document), "put", one, document_id="a", document={"n": 1})
        assert written == document
        await answered(orders.patch("a", {"n": None}, if_rev="r1"), "patch", one, document={"n": None}, if_rev="r1")
        await answered(orders.delete("a", if_rev="r1"), "delete", {}, document_id="a", if_rev="r1")
        found = await answered(
            orders.find({"n": {"$gt": 0}}, sort="-n", limit=1), "find", {"documents": [document], "page": "p2"},
            where={"n": {"$gt": 0}}, sort="-n", limit=1,
        )  # fmt: skip
        assert (found.documents, found.page) == ([document], "p2")

        writing = asyncio.ensure_future(orders.put("a", {"n": 2}))
        await peer.expect("put")
        await peer.end()
        with pytest.raises(WaterspoutError, match="disconnected"):
            await writing
        peer = await server.peer()
        with pytest.raises((TimeoutError, ConnectionClosed)):
            async with asyncio.timeout(0.02):
                await peer.expect("put")


# --- what hurts only the call it belongs to ---------------------------------------------------------------------------

HALF = "chat:\ud83d"


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_half_a_surrogate_pair_is_refused_where_it_stands(encoding: str) -> None:
    """No name, key, cursor or data that cannot be encoded ends the connection, or keeps anything else from being
    sent."""
    sent: list[Any] = []

    async def serving(socket: ServerConnection) -> None:
        async for frame in socket:
            command = msgpack.unpackb(frame) if isinstance(frame, bytes) else json.loads(frame)
            sent.append(command["type"])
            reply = {"type": "reply", "id": command["id"], "channel": LOBBY, "key": "k", "offset": 1}
            await socket.send(msgpack.packb(reply) if isinstance(frame, bytes) else json.dumps(reply))

    protocol = Subprotocol(f"waterspout.{encoding}")
    async with serve(serving, "127.0.0.1", 0, subprotocols=[protocol]) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with Client(url, encoding=encoding) as ann:  # type: ignore[arg-type]
            await ann.ready()
            for call in (
                lambda: ann.publish(HALF, 1),
                lambda: ann.publish(LOBBY, 1, key="\ud83d"),
                lambda: ann.history(HALF),
                lambda: ann.history(LOBBY, after="\ud83d"),
                lambda: ann.presence(HALF),
                lambda: ann.collection("\ud83d").find(),
                lambda: ann.collection("orders").get("\ud83d"),
                lambda: ann.collection("orders").put("x", {"\ud83d": 1}),
                lambda: ann.collection("orders").delete("\ud83d"),
                lambda: ann.subscribe(HALF).__aenter__(),
                lambda: ann.collection("orders").watch({"name": "\ud83d"}).__aenter__(),
            ):
                with pytest.raises(WaterspoutError, match="bad_request"):
                    await call()
            with pytest.raises(ValueError, match="surrogates"):
                ann.publish(LOBBY, {"text": "\ud83d"})
            assert (await ann.publish(LOBBY, 1)).offset == 1
            assert (ann.state, sent) == ("open", ["connect", "publish"])


async def test_what_the_rate_limit_refuses_is_sent_again_in_order_and_that_is_told() -> None:
    """One each time that the server says; what came later waits behind it; writes of documents do not wait."""
    told: list[Limited] = []
    async with stage() as server, client(server, on_limited=told.append) as ann:
        peer = await server.peer()
        asking = [asyncio.create_task(ann.presence(f"chat:{number}")) for number in range(3)]
        commands = [await peer.expect("presence", channel=f"chat:{number}") for number in range(3)]
        await peer.reply(commands[0], users=[])
        await peer.refuse(commands[2], "rate_limited", retry=True, retry_after=0.05)
        await peer.refuse(commands[1], "rate_limited", retry=True, retry_after=0.05)
        while not told:
            await asyncio.sleep(0)
        later = asyncio.create_task(ann.history(LOBBY))
        writing = asyncio.create_task(ann.collection("orders").put("x", {}))
        await peer.reply(await peer.expect("put"), document={"_id": "x"})
        await writing
        for number in (1, 2):
            await peer.reply(await peer.expect("presence", channel=f"chat:{number}"), users=[])
        await peer.reply(await peer.expect("history"), messages=[], cursor="0", more=False)
        await asyncio.gather(*asking, later)
        assert [(one.waiting, one.reason) for one in told] == [(1, "no"), (0, "")]


async def test_what_was_left_while_it_waited_for_the_rate_limit_is_not_subscribed_to() -> None:
    async with stage() as server, client(server) as ann:
        peer = await server.peer()
        entering = asyncio.create_task(ann.subscribe(LOBBY).__aenter__())
        command = await peer.expect("subscribe")
        entering.cancel()
        await asyncio.wait([entering])
        left = await peer.expect("unsubscribe")
        await peer.refuse(command, "rate_limited", retry=True, retry_after=0.01)
        await peer.reply(left)
        await asyncio.sleep(0.05)
        asking = asyncio.create_task(ann.presence(LOBBY))
        await peer.reply(await peer.expect("presence"), users=[])
        await asking


@pytest.mark.parametrize("kept", ["rubbish", "", 7, OSError("no such disk")])
async def test_a_kept_cursor_that_is_none_means_from_now_on(kept: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Neither what cannot be read nor what the server does not take keeps the channel from being read; it is logged."""

    class Damaged:
        def load(self, channel: str) -> str | None:
            if isinstance(kept, Exception):
                raise kept
            return kept  # type: ignore[no-any-return]

        def save(self, channel: str, cursor: str) -> None: ...

    async with stage() as server, client(server, cursors=Damaged()) as ann:
        entering = asyncio.create_task(ann.subscribe(LOBBY, last=5).__aenter__())
        peer = await server.peer()
        if kept == "rubbish":
            await peer.refuse(await peer.expect("subscribe", after="rubbish"), "bad_request")
        await peer.joined("e:1", "e:1", after=None, last=5)
        events = await entering
        await events.__aexit__(None, None, None)
        assert "from now on" in caplog.text
        given = asyncio.create_task(ann.subscribe("chat:other", after="mine").__aenter__())
        await peer.expect("unsubscribe")
        await peer.refuse(await peer.expect("subscribe", after="mine"), "bad_request")
        with pytest.raises(WaterspoutError, match="bad_request"):
            await given


@pytest.mark.parametrize("content", ["", "[]", "not JSON"])
def test_a_file_that_holds_no_cursors_is_said_so(tmp_path: Path, content: str) -> None:
    """At once, with its name: a program that is to go on must not begin anew without a word."""
    path = tmp_path / "cursors.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"cursors\.json: not a file of cursors"):
        FileCursors(path)


# --- the table of what is said and answered (tests/shared/wire.json) --------------------------------------------------

SCRIPTS = json.loads((Path(__file__).parent.parent / "shared" / "wire.json").read_text())["scripts"]


def filled(value: Any) -> Any:
    """With values of the kind that the table's placeholders stand for."""
    if isinstance(value, str):
        return "e:1" if value == "…" or value.startswith("$") else value
    if isinstance(value, dict):
        return {key: filled(item) for key, item in value.items()}
    return [filled(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script["name"])
async def test_a_script(script: dict[str, Any]) -> None:
    """The client sends a command as the table has it, and understands the answer that the server is held to."""
    asked: dict[int, tuple[dict[str, Any], asyncio.Task[Any]]] = {}
    async with stage() as server, client(server) as ann:
        peer = await server.peer()
        for step in script["steps"]:
            ((kind, value),) = step.items()
            if kind == "client" and isinstance(value.get("type"), str) and type(value.get("id")) is int:
                fields = filled({name: one for name, one in value.items() if name not in ("type", "id")})
                asking = asyncio.create_task(ann.request(value["type"], again=False, **fields))
                asked[value["id"]] = (await peer.expect(value["type"], **fields), asking)
            for answer in [value] if kind == "server" else value if kind == "any_order" else []:
                if answer["type"] not in ("reply", "error"):
                    await peer.push(filled(answer))  # nobody has subscribed: it does not matter
                elif answer.get("id") in asked:
                    command, asking = asked.pop(answer["id"])
                    wanted = filled({**answer, "id": command["id"]})
                    await peer.push(wanted)
                    if answer["type"] == "reply":
                        assert await asking == wanted
                        continue
                    with pytest.raises(WaterspoutError) as caught:
                        await asking
                    error = caught.value
                    assert (error.code, error.reason, error.retry) == (
                        wanted["code"],
                        wanted["reason"],
                        wanted["retry"],
                    )
        assert not asked
        assert ann.state == "open"
