"""My rooms and markers: how far each member has read, and what each sees of it, exactly."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

import waterspout_client
from server.core.errors import Error
from server.core.principals import Principal
from server.rooms.members import checked
from server.wire.codec import JSON
from tests.integration.conftest import SETTINGS
from tests.support.client import Client, Push, Refused, make_token
from tests.support.nodes import Instance, instances
from tests.support.processes import Mongod
from tests.support.waiting import until

SECRET = str(SETTINGS["auth.secret"])
KEY = "the operator's own key"
OPTIONS: dict[str, Any] = {
    **SETTINGS,
    "auth.api_keys": {
        "ops": {
            "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True, "channels": {"room:*": ["publish"]},
        },
    },
    "namespaces.room": {
        "members": True, "join": "anyone", "subscribe": "member", "publish": "member", "amend": ["own", "server"],
    },
    "namespaces.dm": {"direct": True, "receipts": True, "amend": "own", "reactions": True, "threads": True},
    "limits.members_per_channel": 0,
    "limits.memberships_per_user": 0,
    "limits.requests_per_second": 0,
}  # fmt: skip


def token(user: str, **claims: Any) -> str:
    return make_token(SECRET, user, iat=int(time.time() - 10), **claims)


class Rooms:
    """What a client that follows the protocol's words knows of its rooms."""

    def __init__(self) -> None:
        self.user = ""
        self.rows: dict[str, dict[str, Any]] = {}
        self.loaded = False
        self.pushes: list[Push] = []

    async def follow(self, client: Client, **options: Any) -> Rooms:
        self.user = client.session.get("user") or ""
        client.on_stray = self.take
        await client.subscribe("$rooms", on_push=self.take, **options)
        return self

    def take(self, push: Push) -> None:
        self.pushes.append(push)
        kind = push["type"]
        if kind == "rooms":
            if push.get("start"):
                self.rows = {}
            for row in push["rooms"]:
                self._put(row)
            self.loaded = not push["more"]
        elif kind == "room":
            if push["role"] is None:
                self.rows.pop(push["channel"], None)
            else:
                self._put(push)
        elif kind == "activity" and push["channel"] in self.rows:
            row = self.rows[push["channel"]]
            row |= {name: push[name] for name in ("head", "count", "newest")}
            row["seen"] += sum(1 for offset in push.get("deleted", ()) if offset > offset_of(row["read"]))
            mentioned, by = push.get("mentioned", {}), push.get("by", {})
            mine = {*mentioned.get(self.user, ()), *mentioned.get("*", ())} - {*by.get(self.user, ())}
            row["mentions"] += sum(1 for offset in mine if offset > offset_of(row["read"]))
        elif kind == "read" and push["channel"] in self.rows and "seen" in push:
            self.rows[push["channel"]] |= {"read": push["cursor"], "seen": push["seen"], "mentions": push["mentions"]}

    def _put(self, row: dict[str, Any]) -> None:
        self.rows[row["channel"]] = {**row, "seen": row["count"] - row["unread"]}

    def unread(self) -> dict[str, int]:
        return {channel: max(0, row["count"] - row["seen"]) for channel, row in self.rows.items()}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Of each room what is unread, and how much of that mentions the user."""
        return {channel: (count, self.rows[channel]["mentions"]) for channel, count in self.unread().items()}


def offset_of(cursor: str) -> int:
    return int(cursor.rpartition(":")[2])


@asynccontextmanager
async def one(mongod: Mongod, **options: Any) -> AsyncIterator[tuple[Instance, AsyncExitStack]]:
    async with AsyncExitStack() as stack, instances(1, mongod.uri, OPTIONS | options) as (instance,):
        yield instance, stack


async def rooms_of(instance: Instance, user: str, **query: Any) -> list[dict[str, Any]]:
    query = {"limit": 100} | query
    status, body = await instance.call("GET", f"/v1/rooms?{urlencode(query)}", token=token(user))
    assert status == 200, body
    rooms: list[dict[str, Any]] = body["rooms"]
    return rooms


async def unread(instance: Instance, user: str) -> dict[str, int]:
    return {row["channel"]: row["unread"] for row in await rooms_of(instance, user)}


@pytest.mark.gen_test
async def test_markers_and_unread(mongod: Mongod) -> None:
    """New members start at the head; others' messages are unread, one's own are not; markers move on, and back only if
    that is said; edits, and what is erased, do not count."""
    async with one(mongod) as (instance, stack):
        ann, bob = await instance.user(stack, token("ann")), await instance.user(stack, token("bob"))
        await ann.request("join", channel="room:a")
        for n in range(3):
            await ann.publish("room:a", n)
        await bob.request("join", channel="room:a")
        assert await unread(instance, "bob") == {"room:a": 0}
        receipts = [await ann.publish("room:a", n, key=f"k{n}") for n in range(4)]
        (row,) = await rooms_of(instance, "bob")
        assert row == {
            "channel": "room:a", "role": "member", "read": row["read"], "head": receipts[-1]["cursor"], "count": 7,
            "unread": 4, "mentions": 0, "newest": receipts[-1]["cursor"], "time": row["time"],
        }  # fmt: skip
        assert offset_of(row["read"]) == 3
        assert await unread(instance, "ann") == {"room:a": 0}
        reply = await bob.request("read", channel="room:a", cursor=receipts[1]["cursor"])
        assert (reply["channel"], reply["cursor"]) == ("room:a", receipts[1]["cursor"])
        assert await unread(instance, "bob") == {"room:a": 2}
        reply = await bob.request("read", channel="room:a", cursor=receipts[0]["cursor"])
        assert reply["cursor"] == receipts[1]["cursor"]
        await ann.request("amend", channel="room:a", of=7, op="delete")
        assert await unread(instance, "bob") == {"room:a": 1}
        await ann.request("amend", channel="room:a", of=6, op="edit", data="x")
        assert await unread(instance, "bob") == {"room:a": 1}
        reply = await bob.request("read", channel="room:a", cursor=receipts[0]["cursor"], set=True)
        assert reply["cursor"] == receipts[0]["cursor"]
        assert await unread(instance, "bob") == {"room:a": 2}
        status, body = await instance.call(
            "POST", "/v1/channels/room:a/read", {"cursor": receipts[3]["cursor"][:-1] + "999"}, token("bob")
        )
        assert (status, offset_of(body["cursor"])) == (200, 9)
        assert await unread(instance, "bob") == {"room:a": 0}
        for command, fields in (("read", {"cursor": "0"}), ("join", {})):
            with pytest.raises(Exception, match="permission_denied"):
                await (await instance.user(stack, None)).request(command, channel="room:a", **fields)
        cid = await instance.user(stack, token("cid"))
        with pytest.raises(Exception, match="permission_denied"):
            await cid.request("read", channel="room:a", cursor="0")


@pytest.mark.gen_test
async def test_mentions(mongod: Mongod) -> None:
    """Whoever is mentioned, by name or by `*`, counts that apart until it is read or erased, but not what is one's own;
    messages show whom they mention, over every door. What mentions too many, or nobody that could be, is refused."""
    async with one(mongod, **{"namespaces.plain": {"publish": "user", "subscribe": "user"}}) as (instance, stack):
        ann, bob = await instance.user(stack, token("ann")), await instance.user(stack, token("bob"), codec="msgpack")
        for client in (ann, bob):
            await client.request("join", channel="room:a")
        mine, theirs = await Rooms().follow(ann), await Rooms().follow(bob)
        received = await (await instance.user(stack, token("bob"), codec="msgpack")).subscribe("room:a")
        first = await ann.publish("room:a", "@bob", key="k", mentions=["bob", "bob", "zoe"])
        assert (await received.message())["mentions"] == ["bob", "zoe"]
        path = "/v1/channels/room:a/messages"
        status, _ = await instance.call("POST", path, {"data": "@all", "mentions": ["*"]}, token("ann"))
        assert status == 201
        message = {"channel": "room:a", "data": "@ann", "mentions": ["ann", "*"]}
        _, body = await instance.call("POST", "/v1/publish", {"messages": [message]}, token("bob"))
        assert body["results"][0]["offset"] == 3
        await ann.publish("room:a", "plain")
        # (One's own publish is read, up to there.)
        await until(lambda: mine.counts()["room:a"] == (0, 0) and theirs.counts()["room:a"] == (1, 0), 3)
        await bob.request("read", channel="room:a", cursor="0", set=True)
        await until(lambda: theirs.counts()["room:a"] == (4, 2), 3, "what was set back")
        assert [row["mentions"] for row in await rooms_of(instance, "bob")] == [2]
        await bob.request("read", channel="room:a", cursor=first["cursor"])
        await until(lambda: theirs.counts()["room:a"] == (3, 1), 3, "what was read")
        await ann.request("amend", channel="room:a", of=2, op="edit", data="@every")
        assert [row["mentions"] for row in await rooms_of(instance, "bob")] == [1]
        _, page = await instance.call("GET", path, token=token("bob"))
        assert [message.get("mentions") for message in page["messages"]] == [["bob", "zoe"], ["*"], ["ann", "*"], None]
        await ann.request("amend", channel="room:a", of=2, op="delete")
        await until(lambda: theirs.counts()["room:a"] == (2, 0), 3, "what was erased")
        _, gone = await instance.call("GET", f"{path}/2", token=token("bob"))
        assert "mentions" not in gone
        activity = [push for push in theirs.pushes if push["type"] == "activity"]
        assert all(name != "zoe" for push in activity for name in push.get("mentioned", ()))
        for channel, mentions, told in (
            ("plain:a", ["bob"], "mentions: plain:a has no members"),
            ("room:a", ["x"] * 51, "50"),
            ("room:a", [""], "mentions"),
        ):
            with pytest.raises(Refused, match=f"bad_request.*{told}"):
                await ann.publish(channel, 1, mentions=mentions)
        await ann.publish("plain:a", 1, mentions=[])


@pytest.mark.gen_test
async def test_rooms_that_are_muted_and_pinned(mongod: Mongod) -> None:
    """What a user wants of a room is in its row, for all sessions of that user and for nobody else; it says so itself,
    as a member, and nobody else for it. It stays through changes of the role, and goes with the membership."""
    async with one(mongod) as (instance, stack):
        ann, bob = await instance.user(stack, token("ann")), await instance.user(stack, token("bob"))
        for client in (ann, bob):
            await client.request("join", channel="room:a")
        mine = await Rooms().follow(ann)
        await until(lambda: "room:a" in mine.rows, 3)
        reply = await ann.request("member", channel="room:a", mute=True)
        told = {"channel": "room:a", "user": "ann", "role": "member", "mute": True, "pin": False}
        assert {name: reply[name] for name in told} == told
        await until(lambda: mine.rows["room:a"].get("mute") is True, 3, "the row")
        path = "/v1/channels/room:a/members/ann"
        status, body = await instance.call("PATCH", path, {"pin": True}, token("ann"))
        assert (status, body) == (200, told | {"pin": True})
        await until(lambda: mine.rows["room:a"].get("pin") is True, 3, "the row")
        await bob.publish("room:a", 1)
        (row,) = await rooms_of(instance, "ann")
        assert (row["mute"], row["pin"], row["unread"]) == (True, True, 1)
        (row,) = await rooms_of(instance, "bob")
        assert "mute" not in row
        assert (await instance.call("PUT", path, {"role": "moderator"}, KEY))[0] == 200
        status, body = await instance.call("PATCH", path, {"mute": False}, token("ann"))
        assert body == told | {"role": "moderator", "mute": False, "pin": True}
        for bearer, body, expected in (
            (token("bob"), {"mute": True}, 403), (KEY, {"mute": True}, 403), (token("ann"), {}, 400),
            (token("ann"), {"mute": "yes"}, 400), (None, {"mute": True}, 403),
        ):  # fmt: skip
            assert (await instance.call("PATCH", path, body, bearer))[0] == expected, body
        with pytest.raises(Refused, match=r"bad_request.*role"):
            await ann.request("member", channel="room:a", user="ann", role="member", mute=True)
        await ann.request("leave", channel="room:a")
        with pytest.raises(Refused, match="permission_denied"):
            await ann.request("member", channel="room:a", mute=True)
        await ann.request("join", channel="room:a")
        (row,) = await rooms_of(instance, "ann")
        assert "pin" not in row


@pytest.mark.gen_test
async def test_pages_of_rooms_go_on_where_one_was_left(mongod: Mongod) -> None:
    """Behind a room that is none any more come those that were behind it."""
    async with one(mongod) as (instance, stack):
        ann = await instance.user(stack, token("ann"))
        for name in ("room:c", "room:b", "room:a"):
            await ann.request("join", channel=name)
            await ann.publish(name, 1)
        await ann.request("join", channel="room:never")
        assert [row["channel"] for row in await rooms_of(instance, "ann")] == [
            "room:a",
            "room:b",
            "room:c",
            "room:never",
        ]
        await ann.request("leave", channel="room:b")
        assert [row["channel"] for row in await rooms_of(instance, "ann", after="room:b")] == ["room:c", "room:never"]
        assert [row["channel"] for row in await rooms_of(instance, "ann", after="room:no")] == []
        assert (await instance.call("GET", "/v1/rooms?after=x", token=token("ann")))[0] == 400


@pytest.mark.gen_test
async def test_direct_channels(mongod: Mongod) -> None:
    """Of two users, whom its name says, in one way only: nobody else may read or publish there, and both are members
    from the first message on, which is unread for the other one. Who leaves comes back with the next."""
    async with one(mongod, **{"mongodb.outbox": True}) as (instance, stack):
        ann, bob, cid = [await instance.user(stack, token(user)) for user in ("ann", "bob", "cid")]
        theirs = await Rooms().follow(bob)
        await until(lambda: theirs.loaded, 3)
        await (await instance.user(stack, token("bob"))).subscribe("dm:ann,bob")
        assert await rooms_of(instance, "ann") == []
        receipt = await ann.publish("dm:ann,bob", "hello", mentions=["bob"])
        await until(lambda: theirs.counts() == {"dm:ann,bob": (1, 1)}, 3, "the new room")
        assert await unread(instance, "ann") == {"dm:ann,bob": 0}
        _, page = await instance.call("GET", "/v1/channels/dm:ann,bob/members", token=token("bob"))
        assert [(row["user"], row["role"], offset_of(row["read"])) for row in page["members"]] == [
            ("ann", "member", 1), ("bob", "member", 0),
        ]  # fmt: skip
        for name, told in (
            ("dm:bob,ann", "dm:ann,bob"), ("dm:ann", "two users"), ("dm:ann,ann", "two users"), ("dm:a,b,c", "two"),
            ("dm:ann,b%6fb", "dm:ann,bob"), ("dm:ann,%ff", "two users"),
        ):  # fmt: skip
            with pytest.raises(Refused, match=f"bad_request.*{told}"):
                await ann.publish(name, 1)
        for command, fields in (
            ("publish", {"data": 1}), ("subscribe", {}), ("history", {}), ("members", {}), ("join", {}),
            ("read", {"cursor": "0"}), ("amend", {"of": 1, "op": "delete"}),
        ):  # fmt: skip
            with pytest.raises(Refused, match="permission_denied"):
                await cid.request(command, channel="dm:ann,bob", **fields)
        for bearer, user in ((KEY, "cid"), (token("ann"), "cid"), (token("ann"), "bob")):
            status, problem = await instance.call(
                "PUT", f"/v1/channels/dm:ann,bob/members/{user}", {"role": "owner"}, bearer
            )
            assert (status, "direct" in problem["reason"]) == (400, True)
        await bob.request("leave", channel="dm:ann,bob")
        await until(lambda: not theirs.rows, 3, "the room that was left")
        assert (await bob.request("history", channel="dm:ann,bob"))["messages"][0]["data"] == "hello"
        entry = {"channel": "dm:ann,bob", "data": "from the shop"}
        await instance.node.outbox.entries.insert_one(entry)
        await until(lambda: theirs.counts() == {"dm:ann,bob": (1, 0)}, 5, "the room that came back")
        assert receipt["offset"] == 1
        awkward = waterspout_client.direct_name("dm", "a,b", "ä %")
        assert awkward == "dm:a%2Cb,ä%20%25"
        await (await instance.user(stack, token("a,b"))).publish(awkward, 1)


@pytest.mark.gen_test
async def test_blocks(mongod: Mongod) -> None:
    """Who is blocked by a user may not publish in their direct channels, nor edit or react to what is there, on any
    node and by any door; the other way it goes on, and again when the block is taken back."""
    async with AsyncExitStack() as stack, instances(2, mongod.uri, OPTIONS) as (first, second):
        ann, bob = await first.user(stack, token("ann")), await second.user(stack, token("bob"))
        await bob.publish("dm:ann,bob", 1)
        await bob.publish("$thread:1:dm:ann,bob", 1)
        await bob.request("react", channel="dm:ann,bob", of=1, kind="x", on=True)
        reply = await ann.request("block", user="bob")
        assert (reply["user"], reply["blocked"]) == ("bob", True)
        assert (await ann.request("blocks"))["blocked"] == ["bob"]

        path = "/v1/channels/dm:ann,bob/messages"

        async def refused() -> bool:
            status, _ = await second.call("POST", path, {"data": 1}, token("bob"))
            return status == 403

        await until(refused, 3, "the block")
        with pytest.raises(Refused, match="permission_denied"):
            await bob.publish("dm:ann,bob", 2)
        assert (await first.call("POST", path, {"data": 1}, token("bob")))[0] == 403
        with pytest.raises(Refused, match="permission_denied"):
            await bob.request("amend", channel="dm:ann,bob", of=1, op="edit", data="worse")
        for channel in ("dm:ann,bob", "$thread:1:dm:ann,bob"):
            with pytest.raises(Refused, match="permission_denied"):
                await bob.request("react", channel=channel, of=1, kind="worse", on=True)
        await bob.request("react", channel="dm:ann,bob", of=1, kind="x", on=False)
        await ann.request("react", channel="dm:ann,bob", of=1, kind="x", on=True)
        await bob.request("amend", channel="dm:ann,bob", of=1, op="delete")
        await ann.publish("dm:ann,bob", 3)
        assert (await first.call("DELETE", "/v1/blocks/bob", token=token("ann")))[0] == 204
        assert (await first.call("POST", path, {"data": 4}, token("bob")))[0] == 201
        assert (await first.call("PUT", "/v1/blocks/cid", {}, token("ann")))[1] == {"user": "cid", "blocked": True}
        assert (await second.call("GET", "/v1/blocks", token=token("ann")))[1] == {"blocked": ["cid"]}
        for bearer in (None, KEY):
            assert (await first.call("GET", "/v1/blocks", token=bearer))[0] == 403


@pytest.mark.gen_test
async def test_no_more_blocks_than_a_user_may_have(mongod: Mongod) -> None:
    """Not even of many that are asked for at once, on two nodes; whoever is blocked already stays so."""
    async with AsyncExitStack() as stack, instances(2, mongod.uri, OPTIONS) as (first, second):
        rows = first.node.database.own("blocks")
        await rows.insert_many([{"_id": {"u": "ann", "b": f"no {number}"}, "t": 1} for number in range(999)])
        clients = [await one.user(stack, token("ann")) for one in (first, second) * 4]
        asked = [client.request("block", user=f"new {number}") for number, client in enumerate(clients)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [one for one in answers if isinstance(one, Refused) and one.code == "limit_exceeded"]
        blocked = (await clients[0].request("blocks"))["blocked"]
        assert (len(refused), len(blocked)) in ((7, 1000), (8, 999))
        with contextlib.suppress(Refused):
            await clients[0].request("block", user="last")
        assert (await clients[0].request("block", user="no 1"))["blocked"]
        assert len((await clients[1].request("blocks"))["blocked"]) == 1000


@pytest.mark.gen_test
async def test_receipts(mongod: Mongod) -> None:
    """Where the namespace says so, whoever is subscribed is told how far each has read, the last of what came at once;
    without a cursor, which a client could take for its own. Elsewhere nobody is told."""
    async with one(mongod) as (first, stack):
        ann, bob = await first.user(stack, token("ann")), await first.user(stack, token("bob"))
        receipts = [await ann.publish("dm:ann,bob", n) for n in range(3)]
        pushes: list[Push] = []
        await ann.subscribe("dm:ann,bob", on_push=pushes.append)
        for receipt in receipts:
            await bob.request("read", channel="dm:ann,bob", cursor=receipt["cursor"])
        last = {"type": "read", "channel": "dm:ann,bob", "user": "bob", "offset": 3}
        await until(lambda: last in pushes, 3, "the receipt")
        assert all("cursor" not in push for push in pushes)
        async with waterspout_client.Client(first.base, token=token("ann")) as client:
            async with client.subscribe("dm:ann,bob") as events:
                await bob.request("read", channel="dm:ann,bob", cursor="0", set=True)
                while not isinstance(event := await anext(events), waterspout_client.Receipt):
                    pass
                assert (event.user, event.offset) == ("bob", 0)
            members = await client.room("dm:ann,bob").members()
            assert [(one.user, offset_of(one.read or "")) for one in members] == [("ann", 3), ("bob", 0)]
            await client.block("cid")
            assert await client.blocked() == ["cid"]


@pytest.mark.gen_test
async def test_a_retry_moves_the_marker_as_well(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the message and the marker something fails: the publisher is not told that all is well, and the same
    publish again makes up for it."""
    async with one(mongod) as (instance, stack):
        ann = await instance.user(stack, token("ann"))
        await ann.request("join", channel="room:a")
        amendments = instance.node.log.counts.amendments

        async def fail(channel: str, offset: int) -> int | None:
            raise OSError

        monkeypatch.setattr(instance.node.log.counts, "amendments", fail)
        with pytest.raises(Exception, match="internal"):
            await ann.publish("room:a", 1, key="k")
        assert await unread(instance, "ann") == {"room:a": 1}
        monkeypatch.setattr(instance.node.log.counts, "amendments", amendments)
        assert (await ann.publish("room:a", 1, key="k"))["duplicate"]
        assert await unread(instance, "ann") == {"room:a": 0}


@pytest.mark.gen_test
async def test_my_rooms_live(mongod: Mongod) -> None:
    """Pages of fifty, the newest first; then what comes, who joins and leaves, what the user's other sessions have
    read, and where a ban takes the right to read and its end gives it back. Guests and API keys have none."""
    async with one(mongod) as (instance, stack):
        names = [f"room:{n:03}" for n in range(120)]
        ops = Principal("ops", server=True, admin=True)
        for name in names:
            await instance.node.rooms.members.set_role(ops, name, "ann", "member")
        for name in names[::-1]:
            await instance.call("POST", f"/v1/channels/{name}/messages", {"data": 1}, KEY)
        ann, bob = await instance.user(stack, token("ann")), await instance.user(stack, token("bob"))
        mine = await Rooms().follow(ann)
        await until(lambda: mine.loaded, 3, "all pages")
        assert [len(push["rooms"]) for push in mine.pushes] == [50, 50, 20]
        assert [push["more"] for push in mine.pushes] == [True, True, False]
        assert mine.unread() == dict.fromkeys(names, 1)
        times = [row["time"] for push in mine.pushes for row in push["rooms"]]
        assert times == sorted(times, reverse=True)
        first = await rooms_of(instance, "ann")
        assert [row["channel"] for row in first + await rooms_of(instance, "ann", after=first[-1]["channel"])] == [
            row["channel"] for push in mine.pushes for row in push["rooms"]
        ]
        await bob.request("join", channel=names[5])
        await bob.publish(names[5], 2)
        await until(lambda: mine.unread()[names[5]] == 2, 3, "activity")
        activity = next(push for push in mine.pushes if push["type"] == "activity")
        assert activity == {
            "type": "activity", "channel": names[5], "head": activity["head"], "count": 2, "newest": activity["head"],
        }  # fmt: skip
        other = await instance.user(stack, token("ann"))
        theirs = await Rooms().follow(other)
        await until(lambda: theirs.loaded, 3, "the other session's rooms")
        await other.request("read", channel=names[5], cursor=activity["head"])
        await until(lambda: mine.unread()[names[5]] == 0, 3, "what was read elsewhere")
        await other.request("read", channel=names[5], cursor="0", set=True)
        await until(lambda: mine.unread()[names[5]] == 2, 3, "what was set back elsewhere")
        await other.request("leave", channel=names[7])
        await until(lambda: names[7] not in mine.rows, 3, "the room that was left")
        await bob.publish(names[5], 3)
        await ann.request("join", channel="room:new")
        await until(lambda: mine.unread().get("room:new") == 0, 3, "the new room")
        await bob.request("amend", channel=names[5], of=2, op="delete")
        await until(lambda: mine.unread()[names[5]] == 2, 3, "the erased one")
        assert theirs.unread() == mine.unread() == await unread_everywhere(instance, "ann")
        await instance.node.moderation.ban(ops, "ann", ["room:n*"], None, "")
        await until(lambda: "room:new" not in mine.rows, 3, "the room from which ann is banned")
        await instance.node.moderation.unban(ops, "ann", [])
        await until(lambda: "room:new" in mine.rows, 3, "the room again")
        for bearer in (None, KEY):
            client = await instance.user(stack, bearer)
            with pytest.raises(Exception, match="permission_denied"):
                await client.subscribe("$rooms")
        for command in ("publish", "history", "presence"):
            with pytest.raises(Exception, match=r"permission_denied|bad_request"):
                await ann.request(command, channel="$rooms", data=1)
        assert (await instance.call("GET", "/v1/rooms"))[0] == 403


class Sink:
    """Somebody who reads whatever comes."""

    codec = JSON
    writable = True

    def __init__(self, name: str) -> None:
        self.id = name

    def put(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...


@pytest.mark.gen_test(timeout=60)
async def test_rooms_go_on_after_mongodb_was_away(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that was in vain is repeated, unless somebody else has told all meanwhile; and of who has gone before that
    nothing is left."""
    async with one(mongod) as (instance, stack):
        ann = await instance.user(stack, token("ann"))
        await ann.request("join", channel="room:a")
        mine, heads = instance.node.rooms.mine, instance.node.rooms.heads
        failures: list[str] = []

        def fails_once_for_each(look: Any) -> Any:
            async def failing(*args: Any) -> Any:
                if len(failures) < 2:
                    failures.append("")
                    raise Error("unavailable", "MongoDB is away", retry_after=0.2)
                return await look(*args)

            return failing

        with monkeypatch.context() as patched:
            patched.setattr(heads, "step", fails_once_for_each(heads.step))
            first, gone = Sink("first"), Sink("gone")
            view = await mine.subscribe(lambda: Principal("ann"), first)
            view.start()
            await until(lambda: len(failures) == 1)
            other = await mine.subscribe(lambda: Principal("ann"), gone)
            other.start()
            await until(lambda: len(failures) == 2)
            view.suspend(lambda: None)
            view.unsuspend()
            await until(lambda: view.begun and other.begun)  # the other one has waited longer than the first
        assert view.begun
        assert view.rooms.keys() == {"room:a"}
        with monkeypatch.context() as patched:
            failures.clear()
            patched.setattr(heads, "step", fails_once_for_each(heads.step))
            third = await mine.subscribe(lambda: Principal("ann"), Sink("third"))
            third.start()
            await until(lambda: len(failures) == 1)
            for one_of_them in (view, other, third):
                one_of_them.close()
            await until(lambda: not heads.watched)


@pytest.mark.gen_test
async def test_with_the_python_client(mongod: Mongod) -> None:
    """Joining, the list with its counts, reading and leaving, as its user sees them."""
    async with (
        one(mongod) as (instance, _),
        waterspout_client.Client(instance.base, token=token("ann")) as ann,
        waterspout_client.Client(instance.base, token=token("bob")) as bob,
    ):
        for client in (ann, bob):
            assert await client.room("room:a").join() == "member"
        assert [one.user for one in await ann.room("room:a").members()] == ["ann", "bob"]
        async with ann.rooms() as rooms:
            room = await anext(rooms)
            assert (room.channel, room.role, room.unread) == ("room:a", "member", 0)
            published = await bob.publish("room:a", 1)
            while not rooms.unread:
                room = await anext(rooms)
            assert (room.channel, room.unread, room.newest) == ("room:a", 1, published.cursor)
            assert await ann.room("room:a").mark_read(room.head) == published.cursor
            while rooms.unread:
                room = await anext(rooms)
            assert await ann.room("room:a").mark_read("0", back=True)
            while not rooms.unread:
                room = await anext(rooms)
            await ann.room("room:a").leave()
            while room.role is not None:
                room = await anext(rooms)
            assert not rooms.all


@pytest.mark.gen_test
async def test_what_many_members_cost(mongod: Mongod) -> None:
    """A message in a room of a thousand is one entry and one move of its writer's marker, and nothing for the others;
    where nobody has rooms, nothing is asked of MongoDB for them at all."""
    async with one(mongod) as (instance, stack):
        node = instance.node
        ops = Principal("ops", server=True, admin=True)
        many = [checked(f"u{n}", "member") for n in range(500)]
        await node.rooms.members.set_roles(ops, "room:a", many)
        await node.rooms.members.set_roles(ops, "room:a", [seat._replace(user="v" + seat.user) for seat in many])
        ann = await instance.user(stack, token("u1"))
        mine = await Rooms().follow(await instance.user(stack, token("u2")))
        await until(lambda: mine.loaded, 3, "the rooms")
        writes = await mongod_writes(node)
        for n in range(5):
            await ann.publish("room:a", n)
        await until(lambda: mine.unread() == {"room:a": 5}, 3, "activity")
        assert await mongod_writes(node) - writes <= 2 * 5 + 20  # the entries, the markers, and what nodes do anyway
        reads = node.log.counts.reads
        for n in range(5):
            await instance.call("POST", "/v1/channels/chat:off/messages", {"data": n})
        assert node.log.counts.reads == reads


async def mongod_writes(node: Any) -> int:
    status = await node.database.client.admin.command("serverStatus")
    document = status["metrics"]["document"]
    return int(document["inserted"] + document["updated"] + document["deleted"])


async def unread_everywhere(instance: Instance, user: str) -> dict[str, int]:
    rows = await rooms_of(instance, user)
    while len(page := await rooms_of(instance, user, after=rows[-1]["channel"])):
        rows += page
    return {row["channel"]: row["unread"] for row in rows}
