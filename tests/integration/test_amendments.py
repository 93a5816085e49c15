"""Editing, erasing and pinning, at every door: who may, what others see of it, and what is left in the database."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pymongo import MongoClient

from server.core.config import Retention, Seconds
from server.node import Node
from tests.support.client import Client, Push, Refused, make_token
from tests.support.plain_http import plain
from tests.support.processes import Mongod
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
ROOM, FREE, LOUNGE = "room:tea", "free:tea", "lounge:tea"


@pytest.fixture
def settings() -> dict[str, object]:
    key = {"sha256": hashlib.sha256(b"the key").hexdigest()}
    return {
        "mongodb.dedupe_window": 0.05,
        "auth.api_keys.ops": key,
        "auth.api_keys.other": {"sha256": hashlib.sha256(b"another key").hexdigest()},
        "namespaces.room": {"publish": "anyone", "subscribe": "anyone", "amend": "own|claim:moderator"},
        "namespaces.free": {"publish": "anyone", "subscribe": "anyone"},
        "namespaces.lounge": {"publish": "anyone", "subscribe": "user", "amend": ["own"]},
    }


ANN, BOB = make_token(SECRET, "ann"), make_token(SECRET, "bob")
MOD = make_token(SECRET, "mod", moderator=True)


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


async def edit(client: Client, of: int, data: Any, channel: str = ROOM, **fields: Any) -> Push:
    return await client.request("amend", channel=channel, of=of, op="edit", data=data, **fields)


async def delete(client: Client, of: int, channel: str = ROOM, **fields: Any) -> Push:
    return await client.request("amend", channel=channel, of=of, op="delete", **fields)


async def pin(client: Client, of: int, channel: str = ROOM, **fields: Any) -> Push:
    return await client.request("amend", channel=channel, of=of, op="pin", **fields)


def shown(message: Push) -> dict[str, Any]:
    """What of a message amendments may change."""
    names = ("offset", "data", "version", "edited", "deleted", "pinned")
    return {name: message[name] for name in names if name in message}


@pytest.mark.gen_test
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_an_edit_is_pushed_and_stands_in_the_history(url: str, codec: Any) -> None:
    """The push has a type of its own, its own offset and the new data; the message says that it was edited."""
    async with Client(url, token=ANN, codec=codec) as ann, Client(url, codec=codec) as guest:
        seen = await guest.subscribe(ROOM)
        await ann.publish(ROOM, {"text": "helo"})
        reply = await edit(ann, 1, {"text": "hello"}, key="e1")
        assert reply | {"cursor": "…", "id": 0} == {
            "type": "reply", "id": 0, "channel": ROOM, "offset": 2, "cursor": "…", "key": "e1", "duplicate": False
        }  # fmt: skip
        assert (await seen.message())["data"] == {"text": "helo"}
        push = await seen.next()
        assert push | {"time": 0} == {
            "type": "amend", "channel": ROOM, "offset": 2, "cursor": reply["cursor"], "of": 1, "op": "edit",
            "key": "e1", "user": "ann", "time": 0, "version": 2, "data": {"text": "hello"},
        }  # fmt: skip
        page = await guest.history(ROOM)
        assert [shown(one) for one in page["messages"]] == [
            {"offset": 1, "data": {"text": "hello"}, "version": 2, "edited": True}
        ]
        assert page["cursor"] == page["head"] == reply["cursor"]
        assert (await edit(ann, 1, {"text": "hello"}, key="e1"))["duplicate"]
        with pytest.raises(Refused, match="conflict"):
            await ann.publish(ROOM, 1, key="e1")


@pytest.mark.gen_test
async def test_what_is_erased_is_nowhere_any_more(node: Node, mongod: Mongod, url: str) -> None:
    """Not in any read, not in the database, not in what edits have left; that it was there stays."""
    async with Client(url, token=ANN) as ann, Client(url, token=BOB) as bob:
        seen = await bob.subscribe(ROOM)
        await ann.publish(ROOM, "secret one", key="k1")
        await edit(ann, 1, "secret two")
        await bob.history(ROOM, after="0")
        await bob.history(ROOM, after="0")  # which keeps the page for others
        reply = await delete(ann, 1)
        pushes = [await seen.next() for _ in range(3)]
        assert [push["type"] for push in pushes] == ["message", "amend", "amend"]
        assert "data" not in pushes[2]
        assert (pushes[2]["op"], pushes[2]["user"], pushes[2]["version"]) == ("delete", "ann", 3)
        gone = {"offset": 1, "data": None, "version": 3, "deleted": {"user": "ann", "time": pushes[2]["time"]}}
        for bounds in ({}, {"after": "0"}, {"before": reply["cursor"]}):
            page = await bob.history(ROOM, **bounds)
            assert [shown(one) for one in page["messages"]] == [gone], bounds
            assert "secret" not in json.dumps(page)
        again = await bob_again(url, "0", 2)
        assert shown(again[0]) == gone
        assert [push["op"] for push in again[1:]] == ["delete"]
        with MongoClient[Any](mongod.uri) as client:
            for row in client[node.config.mongodb.database][f"{node.config.mongodb.prefix}messages"].find():
                assert "secret" not in repr(row), row
        assert (await ann.publish(ROOM, "secret one", key="k1"))["duplicate"]
        with pytest.raises(Refused, match="not_found"):
            await edit(ann, 1, "again")


async def bob_again(url: str, after: str, count: int) -> list[Push]:
    """What a client gets that resumes there: so many pushes besides `progress`."""
    async with Client(url, token=BOB) as bob:
        subscription = await bob.subscribe(ROOM, after=after)
        pushes = []
        while len(pushes) < count:
            push = await subscription.next()
            if push["type"] != "progress":
                pushes.append(push)
        assert not [push for push in subscription.waiting() if push["type"] != "progress"]
        return pushes


@pytest.mark.gen_test
async def test_a_retry_of_an_erasure_is_answered(url: str) -> None:
    """Its answer may have been lost; without its key it is another one, and there is nothing to erase any more."""
    async with Client(url, token=ANN) as ann:
        await ann.publish(ROOM, "a")
        first = await delete(ann, 1, key="d1")
        again = await delete(ann, 1, key="d1")
        assert (again["offset"], again["cursor"], again["duplicate"]) == (first["offset"], first["cursor"], True)
        with pytest.raises(Refused, match="not_found"):
            await delete(ann, 1)


@pytest.mark.gen_test
async def test_who_may(url: str) -> None:
    """One's own, as a user; everything, with the claim; nothing as a guest, and nowhere without the option."""
    async with AsyncExitStack() as stack:
        tokens = (ANN, BOB, MOD, None, "the key", "another key")
        clients = [await stack.enter_async_context(Client(url, token=token)) for token in tokens]
        ann, bob, mod, guest, ops, other = clients
        for channel in (ROOM, FREE, LOUNGE):
            await ann.publish(channel, "ann's")
            await guest.publish(channel, "a guest's")
            await ops.publish(channel, "the shop's")
        denied = [(bob, 1), (guest, 1), (guest, 2), (ops, 1), (ann, 2), (ann, 3), (bob, 3)]
        for client, offset in denied:
            for act in (edit(client, offset, "x"), delete(client, offset), pin(client, offset)):
                with pytest.raises(Refused, match="permission_denied"):
                    await act
        with pytest.raises(Refused, match="permission_denied"):
            await edit(ann, 1, "x", FREE)
        with pytest.raises(Refused, match="permission_denied"):
            await edit(mod, 1, "x", LOUNGE)
        await edit(mod, 2, "moderated")
        await edit(ann, 1, "x", LOUNGE)
        await edit(other, 3, "the shop's, again")
        # Whoever is called as a key is has published nothing of what the key has.
        async with Client(url, token=make_token(SECRET, "ops")) as named:
            with pytest.raises(Refused, match="permission_denied"):
                await edit(named, 3, "stolen")
        granted = make_token(SECRET, "gil", channels={"lounge:*": ["amend"]})
        async with Client(url, token=granted) as gil:
            await edit(gil, 2, "by right", LOUNGE)


@pytest.mark.gen_test
async def test_what_is_refused(url: str) -> None:
    """With the reason, and nothing stored."""
    async with Client(url, token=ANN) as ann:
        await ann.publish(ROOM, "a")
        refused = [
            ({"of": 0, "op": "edit", "data": 1}, "of"),
            ({"of": 1, "op": "edit"}, "data"),
            ({"of": 1, "op": "append", "data": 1}, "data"),
            ({"of": 1, "op": "append"}, "data"),
            ({"of": 1, "op": "append", "data": "a", "part": -1}, "part"),
            ({"of": 1, "op": "edit", "data": "a", "part": 1}, "part"),
            ({"of": 1, "op": "other", "data": 1}, "op"),
            ({"of": 1, "op": "pin", "data": 1}, "data"),
            ({"of": "1", "op": "delete"}, "of"),
        ]
        for fields, named in refused:
            with pytest.raises(Refused, match=f"bad_request: {named}"):
                await ann.request("amend", channel=ROOM, **fields)
        with pytest.raises(Refused, match="too_large"):
            await edit(ann, 1, "x" * 70_000)
        for of in (2, 2**63 - 1):
            with pytest.raises(Refused, match="not_found"):
                await edit(ann, of, "x")
        with pytest.raises(Refused, match="bad_request"):
            await edit(ann, 1, "x", "live:a")
        with pytest.raises(Refused, match="permission_denied"):
            await edit(ann, 1, "x", "docs:orders")
        assert (await ann.history(ROOM))["head"].endswith(":1")
        await edit(ann, 1, "b")
        with pytest.raises(Refused, match="not_found"):
            await edit(ann, 2, "an amendment is no message")


@pytest.mark.gen_test
async def test_over_rest(base_url: str, http_server: object) -> None:
    """The same objects: PATCH, DELETE and GET of one message."""
    path = f"{base_url}/v1/channels/{ROOM}/messages"
    async with plain(headers={"Authorization": f"Bearer {ANN}"}) as http:
        assert (await http.post(path, json={"data": "a"})).status_code == 201
        edited = await http.patch(f"{path}/1", json={"data": "b"}, headers={"Idempotency-Key": "e1"})
        assert edited.status_code == 200, edited.text
        assert {**edited.json(), "cursor": 0} == {
            "channel": ROOM, "offset": 2, "cursor": 0, "key": "e1", "duplicate": False
        }  # fmt: skip
        assert (await http.patch(f"{path}/1", json={"pin": True})).json()["offset"] == 3
        one = (await http.get(f"{path}/1")).json()
        assert shown(one) == {"offset": 1, "data": "b", "version": 2, "edited": True, "pinned": True}
        page = (await http.get(path, params={"after": "0"})).json()
        assert page["messages"] == [one]
        assert [(amend["op"], amend["of"], amend["data"]) for amend in page["amends"]] == [
            ("edit", 1, "b"),
            ("pin", 1, True),
        ]
        assert (await http.get(path, params={"after": edited.json()["cursor"]})).json()["amends"][0]["op"] == "pin"
        assert "amends" not in (await http.get(path)).json()
        for body in (
            {},
            {"data": 1, "pin": True},
            {"pin": 1},
            {"delete": True},
            {"append": 1},
            {"pin": True, "part": 1},
        ):
            assert (await http.patch(f"{path}/1", json=body)).status_code == 400, body
        for offset in ("0", "-1", "x", "1.5", "9" * 20, "٣"):
            assert (await http.get(f"{path}/{offset}")).status_code == 400, offset
        assert (await http.get(f"{path}/7")).json()["code"] == "not_found"
        assert (await http.get(f"{path}/2")).status_code == 404
        erased = await http.delete(f"{path}/1")
        assert erased.json()["offset"] == 4
        assert shown((await http.get(f"{path}/1")).json())["data"] is None
        assert (await http.delete(f"{path}/1")).status_code == 404
    async with plain() as guest:
        assert (await guest.delete(f"{path}/1")).status_code == 403


@pytest.mark.gen_test
async def test_over_event_streams_and_polls(base_url: str, http_server: object, url: str) -> None:
    """An event of its own with its cursor; in a page what became of older messages stands beside the messages."""
    path = f"{base_url}/v1/channels/{ROOM}"
    async with Client(url, token=ANN) as ann, plain(timeout=20) as http:
        cursor = (await ann.publish(ROOM, "a"))["cursor"]
        polls = [
            asyncio.create_task(http.get(f"{path}/messages", params={"after": cursor, "wait": 10})),
            asyncio.create_task(http.get(f"{base_url}/v1/poll", params={"channel": ROOM, "after": cursor, "wait": 10})),
        ]
        async with http.stream("GET", f"{path}/events", params={"after": cursor}) as events:
            lines = events.aiter_lines()
            while await anext(lines):
                pass
            reply = await edit(ann, 1, "b")
            assert await anext(lines) == "event: amend"
            assert await anext(lines) == f"id: {reply['cursor']}"
            assert json.loads((await anext(lines)).removeprefix("data: "))["data"] == "b"
        for poll in polls:
            page = (await poll).json()
            assert (page["messages"], page["cursor"].endswith("2")) == ([], True)
            assert [amend["data"] for amend in page["amends"]] == ["b"]
        waiting = asyncio.create_task(
            http.get(f"{path}/messages", params={"after": reply["cursor"], "wait": 10}, headers={"Accept": "*/*"})
        )
        await asyncio.sleep(0)
        await ann.publish(ROOM, "c")
        assert [one["data"] for one in (await waiting).json()["messages"]] == ["c"]


@pytest.mark.gen_test
async def test_who_resumes_gets_messages_as_they_are(url: str) -> None:
    """And of the amendments the last one of a kind for each; the cursor comes to the head all the same."""
    async with Client(url, token=ANN) as ann:
        middle = (await ann.publish(ROOM, "a"))["cursor"]
        await ann.publish(ROOM, "b")
        for number in range(5):
            await edit(ann, 1, f"a{number}")
            await edit(ann, 2, f"b{number}")
        await pin(ann, 1)
        last = await pin(ann, 1, data=False)
        every = await bob_again(url, "0", 5)
        assert [shown(push)["data"] for push in every[:2]] == ["a4", "b4"]
        assert [(push["of"], push["op"], push["data"]) for push in every[2:]] == [
            (1, "edit", "a4"), (2, "edit", "b4"), (1, "pin", False),
        ]  # fmt: skip
        assert every[-1]["cursor"] == last["cursor"]
        rest = await bob_again(url, middle, 4)
        assert [(push["type"], push["data"]) for push in rest] == [
            ("message", "b4"), ("amend", "a4"), ("amend", "b4"), ("amend", False),
        ]  # fmt: skip
        await delete(ann, 1)
        erased = await bob_again(url, middle, 3)
        assert [(push["type"], push.get("op"), push.get("data")) for push in erased] == [
            ("message", None, "b4"), ("amend", "edit", "b4"), ("amend", "delete", None),
        ]  # fmt: skip


@pytest.mark.gen_test
async def test_last_counts_messages(url: str) -> None:
    """So does the retention by size: neither edits nor pins take the place of what was said."""
    async with Client(url, token=ANN) as ann:
        for number in range(5):
            await ann.publish(ROOM, number)
        for _ in range(10):
            await pin(ann, 1)
        subscription = await ann.subscribe(ROOM, last=2)
        assert [(await subscription.message())["data"] for _ in range(2)] == [3, 4]
        page = await ann.history(ROOM, limit=3)
        assert ([one["data"] for one in page["messages"]], page["more"]) == ([2, 3, 4], True)
        page = await ann.history(ROOM, before=page["messages"][0]["cursor"], limit=3)
        assert ([one["data"] for one in page["messages"]], page["more"]) == ([0, 1], False)


@pytest.mark.gen_test
async def test_retention_counts_messages(node: Node, url: str) -> None:
    """Ten pins of the oldest message do not push it out; and with a message its amendments go."""
    trim, keep_3 = node.log.trimmer.trim, Retention(size=3, ttl=Seconds(0))
    async with Client(url, token=ANN) as ann:
        for number in range(3):
            await ann.publish(ROOM, number)
        for number in range(6):
            await edit(ann, 1, f"edited {number}")
        assert await trim(ROOM, keep_3) == 0
        await ann.publish(ROOM, 3)

        async def trimmed() -> bool:
            return await trim(ROOM, keep_3) == 1

        await until(trimmed, 10, "the oldest message trimmed")
        page = await ann.history(ROOM, after="0")
        assert [one["data"] for one in page["messages"]] == [1, 2, 3]
        assert page["amends"] == []
        assert page["gap"] == {"from": 1, "to": 1}
        with pytest.raises(Refused, match="not_found"):
            await edit(ann, 1, "too late")
        row = await node.database.own("messages").find_one({"_id.o": 10})
        assert row is not None
        assert row["m"] == 6


@pytest.mark.gen_test
async def test_off_costs_nothing(node: Node, url: str) -> None:
    """Where nothing may be amended a message is stored as it always was."""
    async with Client(url, token="the key") as ops:
        await ops.publish(FREE, 1)
        await ops.publish(ROOM, 1)
    rows = {row["_id"]["c"]: set(row) async for row in node.database.own("messages").find()}
    assert rows == {FREE: {"_id", "e", "u", "k", "t", "d"}, ROOM: {"_id", "e", "u", "k", "t", "d", "s"}}
    assert [row async for row in node.database.own("channels").find()] == []
