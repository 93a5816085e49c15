"""Followers of threads: who follows by what, what they see of it, and when it goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import waterspout_client
from server.core import config
from server.core.errors import Error
from server.core.principals import Principal
from server.rooms.rows import MemberRows
from tests.integration.test_rooms import KEY, OPTIONS, Rooms, mongod_writes, offset_of, rooms_of, token
from tests.support.client import Client
from tests.support.nodes import Instance, instances
from tests.support.processes import Mongod
from tests.support.refusals import refusal
from tests.support.waiting import until

ROOM, THREAD = "room:a", "$thread:1:room:a"
SETTINGS: dict[str, Any] = {
    **OPTIONS,
    "namespaces.room": OPTIONS["namespaces.room"] | {"threads": True, "receipts": True},
    "namespaces.open": {
        "members": True, "join": "anyone", "subscribe": "user", "publish": "user", "amend": "own", "threads": True,
    },
    "namespaces.plain": {"subscribe": "user", "publish": "user", "amend": "own", "threads": True},
    "mongodb.dedupe_window": 0.05,
}  # fmt: skip


@asynccontextmanager
async def one(mongod: Mongod, *users: str, **options: Any) -> AsyncIterator[tuple[Any, ...]]:
    """An instance, and clients of these users, who are members of the room."""
    async with AsyncExitStack() as stack, instances(1, mongod.uri, SETTINGS | options) as (instance,):
        clients = [await instance.user(stack, token(user)) for user in users]
        for client in clients:
            await client.request("join", channel=ROOM)
        yield instance, *clients


async def listed(instance: Instance, user: str, **query: Any) -> list[dict[str, Any]]:
    return await rooms_of(instance, user, threads="true", **query)


async def followed(instance: Instance, user: str) -> dict[str, tuple[int, int]]:
    """By thread what is unread of it, and what of that mentions the user."""
    rows = await listed(instance, user)
    return {row["channel"]: (row["unread"], row["mentions"]) for row in rows if "thread" in row}


async def followers(client: Client, thread: str = THREAD) -> list[str]:
    return [one["user"] for one in (await client.request("members", channel=thread))["members"]]


@pytest.mark.gen_test
async def test_who_follows_a_thread(mongod: Mongod) -> None:
    """Who answers, with the first reply who has written the message, and what members are mentioned by name: each with
    what is unread of it, exactly; the others' lists, and what is unread of the room, stay as they are."""
    async with one(mongod, "ann", "bob", "cid", "dot") as (instance, ann, bob, cid, dot):
        await ann.publish(ROOM, "root")
        await bob.publish(THREAD, "first", mentions=["*", "zoe"])
        assert await followers(ann) == ["ann", "bob"]
        assert [await followed(instance, user) for user in ("ann", "bob", "cid")] == [
            {THREAD: (1, 1)},
            {THREAD: (0, 0)},
            {},
        ]
        await bob.publish(THREAD, "second", mentions=["cid", "bob"])
        assert await followed(instance, "cid") == {THREAD: (1, 1)}
        assert await followed(instance, "ann") == {THREAD: (2, 1)}
        await cid.publish(THREAD, "third")
        assert await followed(instance, "cid") == {THREAD: (0, 0)}
        assert await followed(instance, "bob") == {THREAD: (1, 0)}
        await bob.request("amend", channel=THREAD, of=2, op="delete")
        assert await followed(instance, "ann") == {THREAD: (2, 1)}
        head = (await ann.request("history", channel=THREAD))["head"]
        assert (await ann.request("read", channel=THREAD, cursor=head))["cursor"] == head
        assert await followed(instance, "ann") == {THREAD: (0, 0)}
        await ann.request("read", channel=THREAD, cursor=head.replace(":4", ":1"), set=True)
        assert await followed(instance, "ann") == {THREAD: (1, 0)}
        (room, thread) = sorted(await listed(instance, "ann"), key=lambda row: row["channel"], reverse=True)
        assert thread["thread"] == {"channel": ROOM, "of": 1}
        assert (thread["role"], thread["count"], offset_of(thread["newest"])) == ("member", 3, 3)
        assert ("thread" in room, room["unread"], room["count"]) == (False, 0, 1)
        status, body = await instance.call("GET", "/v1/rooms", token=token("ann"))
        assert (status, [row["channel"] for row in body["rooms"]]) == (200, [ROOM])
        await ann.request("leave", channel=THREAD)
        await bob.publish(THREAD, "fifth")
        assert await followed(instance, "ann") == {}  # it was the first reply that told who has written the message
        await bob.publish(THREAD, "sixth", mentions=["ann"])
        assert await followed(instance, "ann") == {THREAD: (1, 1)}
        # To read is not to follow; and who does not is no follower to be told.
        assert await refusal(dot, "read", channel=THREAD, cursor="0") == "permission_denied"
        assert await refusal(dot, "member", channel=THREAD, mute=True) == "permission_denied"
        assert await followed(instance, "dot") == {}
        await ann.request("member", channel=THREAD, mute=True, pin=True)
        assert [row.get("mute") for row in await listed(instance, "ann")] == [True, None]


@pytest.mark.gen_test
async def test_following_is_for_members_of_the_parent(mongod: Mongod) -> None:
    """By each of the doors, and gives no right: who leaves the parent follows nothing there any more, at once, and does
    not when it comes back."""
    async with one(mongod, "ann", "bob") as (instance, ann, bob), AsyncExitStack() as stack:
        cid = await instance.user(stack, token("cid"))
        await ann.publish(ROOM, "root")
        assert (await bob.request("join", channel=THREAD))["role"] == "member"
        assert await followed(instance, "bob") == {THREAD: (0, 0)}
        assert [await refusal(cid, what, channel=THREAD) for what in ("join", "members")] == ["permission_denied"] * 2
        assert await refusal(bob, "join", channel="$thread:7:room:a") == "not_found"
        assert await refusal(bob, "member", channel=THREAD, user="ann", role="member") == "permission_denied"
        assert await refusal(bob, "member", channel=THREAD, user="bob", role="owner") == "bad_request"
        assert await refusal(bob, "join", channel="$thread:1:plain:a") == "bad_request"
        path = f"/v1/channels/{THREAD}/members"
        for method, user, bearer, expected in (
            ("PUT", "ann", KEY, 200), ("PUT", "cid", KEY, 403), ("PUT", "ann", token("bob"), 403),
            ("PUT", "cid", token("cid"), 403), ("DELETE", "ann", token("bob"), 403), ("DELETE", "ann", KEY, 204),
            ("PUT", "ann", token("ann"), 200), ("DELETE", "ann", token("ann"), 204),
        ):  # fmt: skip
            assert (await instance.call(method, f"{path}/{user}", {}, bearer))[0] == expected, (method, user)
        items = [{"user": "ann"}, {"user": "cid"}, {"user": "bob", "role": None}]
        _, body = await instance.call("POST", path, {"members": items}, KEY)
        assert [one.get("role", "?") for one in body["results"]] == ["member", "?", None]
        assert (await instance.call("POST", f"/v1/channels/{THREAD}/join", {}, token("bob")))[0] == 200
        _, body = await instance.call("GET", f"{path}?limit=1", token=token("bob"))
        assert ([one["user"] for one in body["members"]], body["more"]) == (["ann"], True)
        assert body["members"][0]["read"].endswith(":0")
        _, body = await instance.call("GET", f"{path}?after=ann", token=token("bob"))
        assert ([one["user"] for one in body["members"]], body["more"]) == (["bob"], False)
        # A reader that is no member writes, and does not follow.
        await cid.publish("open:a", "root")
        await ann.request("join", channel="open:a")
        await cid.publish("$thread:1:open:a", "reply", mentions=["ann", "bob"])
        assert await refusal(cid, "join", channel="$thread:1:open:a") == "permission_denied"
        assert (await followed(instance, "cid"), await followed(instance, "bob")) == ({}, {THREAD: (0, 0)})
        assert (await followed(instance, "ann"))["$thread:1:open:a"] == (1, 1)
        await bob.request("leave", channel=ROOM)
        assert await listed(instance, "bob") == []
        assert await followers(ann) == ["ann"]
        await bob.request("join", channel=ROOM)
        assert await followed(instance, "bob") == {}
        # A row that was written too late to go with the membership is not shown either, and counts nowhere.
        await instance.node.database.own("members").insert_one(
            {"_id": {"u": "cid", "c": THREAD}, "role": "member", "o": 0, "e": "e", "m": 0, "n": 0, "t": 0}
        )
        assert await listed(instance, "cid") == []
        assert await followers(ann) == ["ann"]
        _, body = await instance.call("GET", f"{path}?limit=1", token=token("ann"))
        assert body["more"] is False


@pytest.mark.gen_test
async def test_threads_in_my_rooms_live(mongod: Mongod) -> None:
    """Who asks for threads sees them begin, go on, be read and end, also with the parent; who does not, sees what there
    was before there were any."""
    async with one(mongod, "ann", "bob") as (instance, ann, bob), AsyncExitStack() as stack:
        await ann.publish(ROOM, "root")
        old = await Rooms().follow(await instance.user(stack, token("ann")))
        assert await refusal(ann, "subscribe", channel=ROOM, threads=True) == "bad_request"
        mine = await Rooms().follow(ann, threads=True)
        await until(lambda: mine.loaded and old.loaded, 3, "the rooms")
        await bob.publish(THREAD, "first")
        await until(lambda: mine.counts() == {ROOM: (0, 0), THREAD: (1, 0)}, 3, "the thread")
        assert mine.rows[THREAD]["thread"] == {"channel": ROOM, "of": 1}
        await bob.publish(THREAD, "second", mentions=["ann"])
        await until(lambda: mine.counts()[THREAD] == (2, 1), 3, "activity")
        await bob.request("amend", channel=THREAD, of=1, op="delete")
        await until(lambda: mine.counts()[THREAD] == (1, 1), 3, "the erased one")
        again = await instance.user(stack, token("ann"))
        await again.request("read", channel=THREAD, cursor=mine.rows[THREAD]["head"])
        await until(lambda: mine.counts()[THREAD] == (0, 0), 3, "what was read elsewhere")
        await again.request("leave", channel=THREAD)
        await until(lambda: THREAD not in mine.rows, 3, "the thread that is not followed any more")
        await again.request("join", channel=THREAD)
        await until(lambda: mine.counts().get(THREAD) == (0, 0), 3, "the thread once more")
        await instance.call("DELETE", f"/v1/channels/{ROOM}/members/ann", token=KEY)
        await until(lambda: mine.rows == {} == old.rows, 3, "the end of the room, and of what was followed there")
        assert not [push for push in old.pushes if THREAD in str(push)]
        await ann.unsubscribe("$rooms")
        assert (await instance.call("GET", "/v1/rooms?threads=maybe", token=token("ann")))[0] == 400


@pytest.mark.gen_test
async def test_what_is_followed_ends_with_its_message(mongod: Mongod) -> None:
    """When that is erased or trimmed, nobody follows the thread any more, or can; a user's rows go with the user."""
    async with one(mongod, "ann", "bob") as (instance, ann, bob):
        rows = instance.node.database.own("members")
        mine = await Rooms().follow(bob, threads=True)
        threads = [f"$thread:{(await ann.publish(ROOM, n))['offset']}:{ROOM}" for n in range(4)]
        for thread in threads[:3]:
            await bob.publish(thread, "reply")
        await bob.request("join", channel=threads[3])  # which nobody has answered
        await until(lambda: {*threads} <= mine.rows.keys(), 3, "the threads")
        await ann.request("amend", channel=ROOM, of=1, op="delete")
        await until(lambda: threads[0] not in mine.rows, 3, "the end of the first")
        assert threads[0] not in await followed(instance, "bob")
        assert await refusal(bob, "join", channel=threads[0]) == "not_found"
        assert [one["data"] for one in (await bob.request("history", channel=threads[0]))["messages"]] == ["reply"]

        async def trimmed() -> bool:
            await instance.node.log.trimmer.trim(ROOM, config.Retention(size=2))
            return await rows.count_documents({"_id.c": {"$in": threads[:2]}}) == 0

        await until(trimmed, 10, "the end of the second")
        await until(lambda: mine.rows.keys() == {ROOM, *threads[2:]}, 3, "what is left")
        await instance.node.history.remove(Principal("ops", server=True, admin=True), ROOM)
        assert await rows.count_documents({"_id.c": {"$in": threads}}) == 0
        assert await instance.node.database.own("threads").count_documents({"_id.o": 4}) == 0
        offset = (await ann.publish(ROOM, "more"))["offset"]
        last = f"$thread:{offset}:{ROOM}"
        await bob.publish(last, "reply")
        assert (await instance.call("DELETE", "/v1/users/bob/data", token=KEY))[0] == 200
        assert await rows.count_documents({"_id.u": "bob"}) == 0
        assert await followers(ann, last) == ["ann"]


@pytest.mark.gen_test
async def test_the_newest_threads_of_many(mongod: Mongod) -> None:
    """Who follows more than `limits.threads_per_user` follows those no more that it has followed for the longest time;
    threads and rooms have pages in common, the newest first; and threads are no memberships to be counted."""
    limits = {"limits.threads_per_user": 3, "limits.memberships_per_user": 2}
    async with one(mongod, "ann", "bob", **limits) as (instance, ann, bob):
        threads = []
        for n in range(5):
            threads.append(f"$thread:{(await ann.publish(ROOM, n))['offset']}:{ROOM}")
            await bob.publish(threads[-1], "reply", mentions=["ann"])
        expected = [threads[4], ROOM, threads[3], threads[2]]
        assert [row["channel"] for row in await listed(instance, "ann")] == expected
        first = await listed(instance, "ann", limit=2)
        rest = await listed(instance, "ann", limit=2, after=first[-1]["channel"])
        assert [row["channel"] for row in first + rest] == expected
        await bob.request("join", channel="room:b")
        assert await refusal(bob, "join", channel="room:c") == "limit_exceeded"


@pytest.mark.gen_test
async def test_mentions_push_out_nothing_that_is_chosen(mongod: Mongod) -> None:
    """Who is mentioned in ever more threads follows those no more that it was mentioned in before, and has not read;
    what it has answered, read, asked for or pinned stays, also the thread that it was mentioned in last."""
    async with one(mongod, "ann", "bob", **{"limits.threads_per_user": 5}) as (instance, ann, bob):
        threads = [f"$thread:{(await bob.publish(ROOM, n))['offset']}:{ROOM}" for n in range(9)]
        for thread in threads[:2]:
            head = await bob.publish(thread, "reply", mentions=["ann"])
        await ann.request("read", channel=threads[1], cursor=head["cursor"])
        await ann.request("join", channel=threads[2])
        await ann.publish(threads[3], "reply")
        await ann.request("member", channel=threads[0], pin=True)
        for thread in threads[4:8]:
            await bob.publish(thread, "reply", mentions=["ann"])
        assert sorted(await followed(instance, "ann")) == [*threads[:4], threads[7]]
        await ann.request("join", channel=threads[8])
        assert sorted(await followed(instance, "ann")) == [*threads[:4], threads[8]]


@pytest.mark.gen_test
async def test_who_leaves_while_it_begins_to_follow(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves nothing behind that would be followed again when it comes back, and is not told that it follows."""
    async with one(mongod, "ann", "bob") as (instance, ann, bob):
        await ann.publish(ROOM, "root")
        add, members = MemberRows.add, instance.node.rooms.members

        async def late(rows: MemberRows, new: Any) -> Any:
            await members.set_role(Principal("ops", server=True, admin=True), ROOM, "bob", None)
            return await add(rows, new)

        with monkeypatch.context() as patched:
            patched.setattr(MemberRows, "add", late)
            assert await refusal(bob, "join", channel=THREAD) == "permission_denied"
        await bob.request("join", channel=ROOM)
        with monkeypatch.context() as patched:
            patched.setattr(MemberRows, "add", late)
            await ann.publish(THREAD, "reply", mentions=["bob"])
        await bob.request("join", channel=ROOM)
        assert await followers(ann) == ["ann"]
        assert await followed(instance, "bob") == {}


@pytest.mark.gen_test
async def test_a_retry_makes_up_for_what_was_left_undone(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reply that is stored when following cannot be written the outcome is unknown, and its retry writes it; that
    of one whose message is erased meanwhile is a duplicate, and what was never stored is refused."""
    async with one(mongod, "ann", "bob") as (instance, ann, bob):
        await ann.publish(ROOM, "root")
        followers_of = type(instance.node.rooms.followers)
        replied = followers_of.replied

        async def fail(*_: Any) -> None:
            raise Error("unavailable", "away")

        monkeypatch.setattr(instance.node.publisher, "on_reply", fail)
        assert await refusal(bob, "publish", channel=THREAD, data="reply", key="k") == "outcome_unknown"
        monkeypatch.setattr(instance.node.publisher, "on_reply", replied.__get__(instance.node.rooms.followers))
        assert (await bob.publish(THREAD, "reply", key="k"))["duplicate"] is True
        assert await followed(instance, "ann") == {THREAD: (1, 0)}
        await ann.request("amend", channel=ROOM, of=1, op="delete")
        again = await bob.publish(THREAD, "reply", key="k")
        assert (again["offset"], again["duplicate"], again["key"]) == (1, True, "k")
        assert await refusal(bob, "publish", channel=THREAD, data="another", key="k") == "conflict"
        assert await refusal(bob, "publish", channel=THREAD, data="new", key="n") == "not_found"
        assert await refusal(bob, "publish", channel=THREAD, data="new") == "not_found"
        assert await followed(instance, "ann") == {}


@pytest.mark.gen_test
async def test_what_many_followers_cost(mongod: Mongod) -> None:
    """A reply in a thread that a hundred follow writes nothing for each of them; and where there are no members,
    threads ask nothing of them."""
    async with one(mongod, "ann", "bob") as (instance, ann, bob):
        node, ops = instance.node, Principal("ops", server=True, admin=True)
        await ann.publish(ROOM, "root")
        for n in range(0, 100, 50):
            names = [f"u{i}" for i in range(n, n + 50)]
            for name in names:
                await node.rooms.members.set_role(ops, ROOM, name, "member")
            await bob.publish(THREAD, n, mentions=names)
        assert len(await followers(ann)) == 100

        async def counted() -> bool:
            (root,) = (await ann.request("history", channel=ROOM))["messages"]
            return bool(root["replies"]["count"] == 2)

        await until(counted, 5, "the count of the replies")
        writes = await mongod_writes(node)
        for n in range(5):
            await bob.publish(THREAD, n)
        # The entries, the markers, marking and counting the replies, and what nodes do anyway.
        assert await mongod_writes(node) - writes <= 2 * 5 + 30
        reads = node.log.counts.reads
        await ann.publish("plain:a", "root")
        await ann.publish("$thread:1:plain:a", "reply")
        assert node.log.counts.reads == reads


@pytest.mark.gen_test
async def test_with_the_python_client(mongod: Mongod) -> None:
    """Following, what is unread of a thread and in all of them, reading, and following no more."""
    async with (
        one(mongod, "ann", "bob") as (instance, ann, _),
        waterspout_client.Client(instance.base, token=token("bob")) as client,
        client.timeline(ROOM) as timeline,
        timeline.thread(1) as thread,
    ):
        await ann.publish(ROOM, "root")
        assert (thread.following, thread.unread) == (None, None)  # nobody has asked for the rooms
        async with client.rooms(threads=True) as rooms:
            room = await anext(rooms)
            assert (thread.following, rooms.unread) == (False, 1)
            await thread.follow()
            while not thread.following:
                room = await anext(rooms)
            published = await ann.publish(THREAD, "reply", mentions=["bob"])
            while not thread.unread:
                room = await anext(rooms)
            assert room.thread == waterspout_client.ThreadOf(ROOM, 1)
            assert (rooms.thread_unread, rooms.thread_mentions, rooms.unread, rooms.mentions) == (1, 1, 1, 0)
            assert rooms.threads() == rooms.threads(ROOM) == [rooms.all[THREAD]]
            async for messages in thread:
                if messages:
                    break
            assert await thread.mark_read() == published["cursor"]
            while thread.unread:
                await anext(rooms)
            await thread.unfollow()
            while room.role is not None:
                room = await anext(rooms)
            assert (room.channel, thread.following, thread.unread) == (THREAD, False, None)
