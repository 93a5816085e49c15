"""Threads: channels about one message each, with the rights and the options of the channel that it is in."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import server.log.replies
from server.core import config
from server.core.errors import Error, StartError
from server.core.principals import Principal
from tests.integration.conftest import SETTINGS
from tests.support.centrifugo import Wire
from tests.support.client import Client, Refused, make_token
from tests.support.events import EventSource
from tests.support.nodes import Instance, instances
from tests.support.processes import Mongod, Redis
from tests.support.refusals import ended, refusal
from tests.support.waiting import until

SECRET = str(SETTINGS["auth.secret"])
KEY = "the operator's own key"
WINDOW = 0.05
ROOM, THREAD = "room:a:tea", "$thread:1:room:a:tea"
OPTIONS: dict[str, Any] = {
    **SETTINGS,
    "auth.api_keys": {
        "ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True},
        "shop": {"sha256": hashlib.sha256(b"no admin").hexdigest(), "channels": {"room:*": ["publish"]}},
    },
    "namespaces.room": {
        "members": True,
        "presence": True,
        "threads": True,
        "subscribe": ["member", "admin"],
        "publish": "member",
        "amend": ["own", "member:moderator"],
        "history": {"size": 5},
        "rate": {"per_user": 1000, "burst": 1000},
    },
    "namespaces.open": {"publish": "user", "subscribe": "anyone", "threads": True, "patterns": True, "amend": "own"},
    "mongodb.dedupe_window": WINDOW,
    "centrifugo.enabled": True,
}


def token(user: str, **claims: Any) -> str:
    return make_token(SECRET, user, iat=int(time.time() - 10), **claims)


@asynccontextmanager
async def several(mongod: Mongod, number: int = 1, redis: str | None = None) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack, instances(number, mongod.uri, OPTIONS, redis=redis) as made:
        yield stack, *made


async def put(instance: Instance, user: str, role: str = "member", channel: str = ROOM) -> None:
    status, _ = await instance.call("PUT", f"/v1/channels/{channel}/members/{user}", {"role": role}, KEY)
    assert status == 200


async def acquainted(first: Instance, second: Instance) -> None:
    """Both nodes know of the other one that it amends as well."""

    def amends() -> bool:
        try:
            for one, other in ((first, second), (second, first)):
                one.node.peers.check_amending()
                assert one.node.directory.knows(other.node.id)
        except (Error, AssertionError):
            return False
        return True

    await until(amends, 5, "nodes that know each other")


async def shown(client: Client, channel: str) -> list[Any]:
    return [message["data"] for message in (await client.request("history", channel=channel))["messages"]]


@pytest.mark.gen_test
async def test_who_is_a_stranger_to_the_room_is_one_to_its_threads(mongod: Mongod) -> None:
    """At every door: as long as one is no member of the parent, and as soon as one is none any more, or has lost the
    right to it in any other way."""
    async with several(mongod) as (stack, instance):
        await put(instance, "bob", "moderator")
        ann, bob = await instance.user(stack, token("ann")), await instance.user(stack, token("bob"))
        await bob.publish(ROOM, "root")
        await bob.publish(THREAD, "reply")
        path = f"/v1/channels/{THREAD}/"
        doors: list[tuple[str, str, Any]] = [
            ("GET", path + "messages", None),
            ("GET", path + "messages?after=0", None),
            ("GET", path + "messages?wait=1", None),
            ("GET", path + "messages/1", None),
            ("PATCH", path + "messages/1", {"data": 2}),
            ("DELETE", path + "messages/1", None),
            ("GET", f"/v1/poll?channel={THREAD}&wait=1", None),
            ("POST", path + "messages", {"data": 1}),
            ("POST", path + "messages", {"data": 1, "broadcast": True}),
            ("POST", f"/v1/channels/$thread:9:{ROOM}/messages", {"data": 1}),
            ("GET", path + "events", None),
            ("GET", path + "presence", None),
            ("POST", "/v1/tickets", {"channels": [THREAD]}),
        ]
        commands: list[tuple[str, dict[str, Any]]] = [
            ("subscribe", {}), ("subscribe", {"after": "0"}), ("subscribe", {"last": 1}), ("history", {}),
            ("publish", {"data": 1}), ("publish", {"data": 1, "broadcast": True}), ("presence", {}),
            ("amend", {"of": 1, "op": "delete"}),
        ]  # fmt: skip

        async def all_refused() -> None:
            for method, address, body in doors:
                status, problem = await instance.call(method, address, body, token("ann"))
                assert (status, problem["code"]) == (403, "permission_denied"), (method, address)
            for command, fields in commands:
                assert await refusal(ann, command, channel=THREAD, **fields) == "permission_denied", command
            _, results = await instance.call(
                "POST", "/v1/publish", {"messages": [{"channel": THREAD, "data": 1}]}, token("ann")
            )
            assert results["results"][0]["error"]["code"] == "permission_denied"

        await all_refused()
        for bearer, status in [(token("ann", channels={"room:a:*": ["subscribe"]}), 200), ("no admin", 403),
                               (token("ann", channels={"room:b:*": ["subscribe"]}), 403), (KEY, 200)]:  # fmt: skip
            assert (await instance.call("GET", path + "messages", token=bearer))[0] == status
        async with Wire(instance.base) as stranger, Wire(instance.base) as member:
            for wire, user, code in ((stranger, "ann", 103), (member, "bob", None)):
                await wire.connect(token=token(user))
                assert (await wire.ask(subscribe={"channel": THREAD})).get("error", {}).get("code") == code
        await put(instance, "ann")
        subscription = await ann.subscribe(THREAD)
        assert (await ann.publish(THREAD, "mine"))["offset"] == 2
        _, present = await instance.call("GET", path + "presence", token=token("ann"))
        assert "ann" in {one["user"] for one in present["users"]}
        assert await refusal(ann, "amend", channel=THREAD, of=1, op="delete") == "permission_denied"
        await bob.request("amend", channel=THREAD, of=2, op="delete")
        assert await shown(ann, THREAD) == ["reply", None]
        await ends_everywhere(instance, "ann")
        await ended(subscription)
        await all_refused()
        for channels in (["room:*"], [ROOM], ["*"]):
            who = "cid" + channels[0]
            await put(instance, who)
            subscription = await (await instance.user(stack, token(who))).subscribe(THREAD)
            status, _ = await instance.call("POST", f"/v1/users/{who}/revoke", {"channels": channels}, KEY)
            assert status in (200, 204)
            await ended(subscription)
            assert (await instance.call("GET", path + "messages", token=token(who)))[0] == 403


async def ends_everywhere(instance: Instance, user: str) -> None:
    """What listens to the thread is ended with the membership of its parent, whatever it came by."""
    auth = {"Authorization": f"Bearer {token(user)}"}
    clients = instance.node.admission.clients
    async with (
        EventSource(f"{instance.base}/v1/channels/{THREAD}/events", auth) as events,
        EventSource(f"{instance.base}/v1/events?channel={THREAD}&channel=open:a", auth) as joined,
        EventSource(f"{instance.base}/v1/channels/$rooms/events?threads=true", auth) as rooms,
        Wire(instance.base) as wire,
    ):
        await wire.connect(token=token(user))
        await wire.subscribe(THREAD)
        (first,) = await rooms.events(1)
        assert {row["channel"] for row in first.data["rooms"]} == {ROOM, THREAD}
        before = len(clients)
        _, page = await instance.call("GET", f"/v1/channels/{THREAD}/messages", token=token(user))
        poll = f"/v1/channels/{THREAD}/messages?after={page['head']}&wait=10"
        waiting = asyncio.create_task(instance.call("GET", poll, token=token(user)))
        await until(lambda: len(clients) > before, 5, "a poll that waits")
        assert (await instance.call("DELETE", f"/v1/channels/{ROOM}/members/{user}", token=KEY))[0] == 204
        assert [(await one.next()).data["code"] for one in (events, joined)] == ["permission_denied"] * 2
        assert (await waiting)[0] == 403
        assert "unsubscribe" in await wire.push()
        gone: set[str] = set()
        while gone != {ROOM, THREAD}:  # among what is told late of what was done before
            (event,) = await rooms.events(1)
            if event.data.get("role", "") is None:
                gone.add(event.data["channel"])


@pytest.mark.gen_test
async def test_a_thread_is_about_a_message_that_is_there(mongod: Mongod) -> None:
    """Of no message, of an amendment and of what is erased, cleared or trimmed there is no thread to publish in,
    through whichever node; what had been answered can still be read when the message is erased. Threads have none
    themselves, no members, and are no pattern's."""
    async with several(mongod, 2) as (stack, first, second):
        for user in ("ann", "bob"):
            await put(first, user)
        ann, bob = await first.user(stack, token("ann")), await second.user(stack, token("bob"))
        assert await refusal(bob, "publish", channel=THREAD, data=1) == "not_found"
        await ann.publish(ROOM, "root")
        await ann.request("amend", channel=ROOM, of=1, op="pin")
        assert await refusal(bob, "publish", channel=f"$thread:2:{ROOM}", data=1) == "not_found"
        for n in range(3):
            await bob.publish(THREAD, n)
        await ann.publish(THREAD, 3)
        await ann.request("amend", channel=ROOM, of=1, op="delete")
        assert await refusal(ann, "publish", channel=THREAD, data=4) == "not_found"

        async def closed() -> bool:
            try:
                await bob.publish(THREAD, "late")
            except Refused as refused:
                return refused.code == "not_found"
            return False

        await until(closed, 2, "the end of the thread on the other node")
        assert (await shown(bob, THREAD))[:4] == [0, 1, 2, 3]

        await ann.publish("open:a", "root")
        await ann.publish("$thread:1:open:a", 1)
        await first.node.history.remove(Principal("ops", server=True, admin=True), "open:a")
        assert await refusal(ann, "publish", channel="$thread:1:open:a", data=2) == "not_found"

        for command, fields in [
            ("publish", {"channel": f"$thread:1:{THREAD}", "data": 1}),
            ("publish", {"channel": "$thread:1:feed:a", "data": 1}),
            ("publish", {"channel": "$thread:01:room:a:tea", "data": 1}),
            ("subscribe", {"channel": "$thread:1:open:*"}),
            ("subscribe", {"channel": "$thread:*:open:*"}),
            ("join", {"channel": "$thread:1:open:a"}),
            ("read", {"channel": "$thread:1:open:a", "cursor": "0"}),
            ("members", {"channel": "$thread:1:open:a"}),
            ("publish", {"channel": ROOM, "data": 1, "broadcast": True}),
            ("publish", {"channel": THREAD, "data": 1, "broadcast": True, "at": time.time() + 10}),
        ]:
            assert await refusal(ann, command, **fields) == "bad_request", (command, fields)


@pytest.mark.gen_test
async def test_a_reply_that_is_published_in_the_parent_as_well(mongod: Mongod, tmp_path: Path) -> None:
    """Once in each, however often it is tried; the copy says which thread it is of, and what becomes of the one becomes
    of the other."""
    async with Redis(tmp_path) as redis, several(mongod, 2, redis=redis.url) as (stack, first, second):
        for user in ("ann", "bob"):
            await put(first, user)
        ann, bob = await first.user(stack, token("ann")), await second.user(stack, token("bob"))
        await acquainted(first, second)
        await ann.publish(ROOM, "root")
        room, thread = await bob.subscribe(ROOM), await bob.subscribe(THREAD)
        for _ in range(2):
            receipt = await ann.publish(THREAD, "both", key="k", broadcast=True)
            assert (receipt["channel"], receipt["offset"]) == (THREAD, 1)
        assert receipt["duplicate"] is True
        copy, reply = await room.message(), await thread.message()
        assert (copy["offset"], copy["data"], copy["user"], copy["thread"]) == (2, "both", "ann", THREAD)
        assert (reply["data"], "thread" in reply) == ("both", False)
        _, page = await second.call("GET", f"/v1/channels/{ROOM}/messages?after=0", token=token("bob"))
        assert [message.get("thread") for message in page["messages"]] == [None, THREAD]
        _, page = await second.call("GET", f"/v1/channels/{ROOM}/messages/2", token=token("bob"))
        assert (page["data"], page["thread"]) == ("both", THREAD)
        # One answers in the thread, not to the copy of what was answered there.
        assert await refusal(bob, "publish", channel=f"$thread:2:{ROOM}", data=1) == "bad_request"

        await ann.request("amend", channel=ROOM, of=2, op="edit", data="other words")
        assert await shown(bob, THREAD) == ["other words"]
        await ann.request("amend", channel=THREAD, of=1, op="delete", key="d")
        assert await shown(bob, ROOM) == ["root", None]
        assert await shown(bob, THREAD) == [None]

        # Also what streams in, whichever of the two is written to.
        written = await ann.publish(THREAD, "It", key="s", broadcast=True)
        copy = await room.next()
        while copy["type"] != "message":
            copy = await room.next()
        for part, (channel, of) in enumerate(((THREAD, written["offset"]), (ROOM, copy["offset"])) * 2, 1):
            fields = {"channel": channel, "of": of, "op": "append", "data": f" {part}", "part": part, "done": part == 4}
            await ann.request("amend", **fields)
            assert (await ann.request("amend", **fields))["duplicate"] is True
        assert (await shown(bob, ROOM))[-1] == (await shown(bob, THREAD))[-1] == "It 1 2 3 4"
        for channel, of in ((THREAD, written["offset"]), (ROOM, copy["offset"])):
            _, found = await second.call("GET", f"/v1/channels/{channel}/messages/{of}", token=token("bob"))
            assert found["data"] == "It 1 2 3 4"
        await ann.request("amend", channel=ROOM, of=copy["offset"], op="delete")

        # Whoever dies between the two is made up for.
        await ann.publish(THREAD, "half", key="h")
        await ann.publish(THREAD, "half", key="h", broadcast=True)
        assert await shown(bob, ROOM) == ["root", None, None, "half"]
        assert await shown(bob, THREAD) == [None, None, "half"]
        status, _ = await first.call(
            "POST", f"/v1/channels/{THREAD}/messages", {"data": 1, "key": "r", "broadcast": True}, token("ann")
        )
        assert status == 201
        assert (await shown(bob, ROOM))[-1] == (await shown(bob, THREAD))[-1] == 1


@pytest.mark.gen_test
async def test_who_may_write_in_the_thread_alone_publishes_nothing_in_the_parent(mongod: Mongod) -> None:
    """And, as that is refused, nothing in the thread either."""
    async with several(mongod) as (stack, instance):
        await put(instance, "bob")
        bob = await instance.user(stack, token("bob"))
        await bob.publish(ROOM, "root")
        cid = await instance.user(stack, token("cid", channels={THREAD: ["publish", "subscribe"]}))
        assert await refusal(cid, "publish", channel=THREAD, data="both", broadcast=True) == "permission_denied"
        assert await shown(cid, THREAD) == []
        await cid.publish(THREAD, "here")
        assert await shown(cid, THREAD) == ["here"]
        assert await shown(bob, ROOM) == ["root"]


@pytest.mark.gen_test
async def test_a_reply_whose_copy_is_not_stored_is_no_reply_that_was_refused(mongod: Mongod) -> None:
    """The copy is counted as the reply is, and who hears that it has no room tries again with the same key."""
    options = OPTIONS | {
        "namespaces.open": {"publish": "anyone", "subscribe": "anyone", "threads": True},
        "quotas": {"enforced": True, "guest": {"messages": 3}},
    }
    async with AsyncExitStack() as stack, instances(1, mongod.uri, options) as (instance,):
        ann, guest = await instance.user(stack, token("ann")), await instance.user(stack, None)
        await ann.publish("open:a", "root")
        thread = "$thread:1:open:a"
        fields = {"channel": thread, "broadcast": True}
        await guest.request("publish", **fields, data=1, key="one")
        assert await refusal(guest, "publish", **fields, data=2, key="two") == "outcome_unknown"
        assert await refusal(guest, "publish", **fields, data=3, key="three") == "limit_exceeded"
        assert await shown(ann, thread) == [1, 2]
        assert await shown(ann, "open:a") == ["root", 1]


def test_what_is_wrong_in_the_configuration() -> None:
    """There are threads of stored messages only."""
    with pytest.raises(StartError, match=r"x\.threads"):
        config.load(None, {}, {"namespaces.x": {"threads": True, "durable": False}}.items())


# --- what there is of them --------------------------------------------------------------------------------------------


async def replies(client: Client, channel: str, of: int = 1) -> Any:
    page = await client.request("history", channel=channel)
    return next(message.get("replies") for message in page["messages"] if message["offset"] == of)


@pytest.mark.gen_test
async def test_a_message_says_how_it_was_answered(mongod: Mongod, tmp_path: Path) -> None:
    """How often, when last and by whom, in the end exactly, however many answer at a time and through whichever node:
    told by a few amendments, shown with the message, and gone with it. What is erased, and what is a retry, does not
    count; and nothing of it moves a room on."""
    async with Redis(tmp_path) as redis, several(mongod, 2, redis=redis.url) as (stack, first, second):
        for user in ("ann", "bob", "cid"):
            await put(first, user)
        ann, bob, cid = [await one.user(stack, token(user)) for one, user in
                         ((first, "ann"), (second, "bob"), (second, "cid"))]  # fmt: skip
        await acquainted(first, second)
        await ann.publish(ROOM, "root")
        room = await ann.subscribe(ROOM)
        who = [ann, bob] * 8
        receipts = await asyncio.gather(*(client.publish(THREAD, n, key=f"k{n}") for n, client in enumerate(who)))
        assert {receipt["offset"] for receipt in receipts} == set(range(1, 17))
        last = await cid.publish(THREAD, "last", key="last")
        assert (await cid.publish(THREAD, "last", key="last"))["duplicate"] is True

        async def told(count: int) -> list[Any]:
            pushes = []
            while not pushes or pushes[-1]["replies"]["count"] != count:
                pushes.append(await room.next())
            return pushes

        pushes = await told(17)
        assert len(pushes) <= 6
        assert all((push["type"], push["op"], push["of"]) == ("amend", "replies", 1) for push in pushes)
        assert all(isinstance(push["at"], int) for push in pushes)
        now = {"count": 17, "newest": last["cursor"], "users": pushes[-1]["replies"]["users"]}
        assert pushes[-1]["replies"] == now
        assert (now["users"][0], set(now["users"])) == ("cid", {"ann", "bob", "cid"})
        for client in (ann, bob):
            assert await replies(client, ROOM) == now
        status, message = await second.call("GET", f"/v1/channels/{ROOM}/messages/1", token=token("bob"))
        assert (status, message["replies"]) == (200, now)

        await cid.request("amend", channel=THREAD, of=17, op="delete")
        assert (await told(16))[-1]["replies"]["users"][0] in ("ann", "bob")
        _, rooms = await first.call("GET", "/v1/rooms", token=token("bob"))
        assert [(row["channel"], row["count"], row["unread"]) for row in rooms["rooms"]] == [(ROOM, 1, 1)]
        await ann.request("amend", channel=ROOM, of=1, op="delete")
        assert await replies(bob, ROOM) is None


@pytest.mark.gen_test
async def test_replies_that_a_node_has_not_counted_are_counted_by_another(
    mongod: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node dies behind the reply: the message is marked, and whoever looks makes up for it. The same of a reply that
    was erased."""
    async with several(mongod, 2) as (stack, first, second):
        ann = await first.user(stack, token("ann"))
        await ann.publish("open:a", "root")
        log = first.node.log.replies
        assert log is not None

        async def dies(*_: Any) -> None:
            raise Error("unavailable", "dead")

        monkeypatch.setattr(log, "count", dies)
        await ann.publish("$thread:1:open:a", 1)
        await ann.publish("$thread:1:open:a", 2)
        other = second.node.log.replies
        assert other is not None

        async def counted(count: int) -> bool:
            await other.summaries.finish(0.0)
            found = await replies(ann, "open:a")
            return found is not None and found["count"] == count

        await until(lambda: counted(2), 5, "both replies")
        await ann.request("amend", channel="$thread:1:open:a", of=1, op="delete")
        await until(lambda: counted(1), 5, "one reply")
        assert (await replies(ann, "open:a"))["newest"] == f"{first.node.log.epoch}:2"


@pytest.mark.gen_test
async def test_many_threads_go_with_their_messages(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are looked at together, and though none of them may be deleted yet: when their channel is cleared,
    none can be read, and nothing that they say is stored."""
    monkeypatch.setattr(server.log.replies, "ENDED_TOGETHER", 2)
    monkeypatch.setitem(OPTIONS, "mongodb.dedupe_window", 60)
    async with several(mongod) as (stack, instance):
        ann = await instance.user(stack, token("ann"))
        offsets = [(await ann.publish("open:a", n))["offset"] for n in range(5)]
        for offset in offsets:
            await ann.publish(f"$thread:{offset}:open:a", "reply")
        await instance.node.history.remove(Principal("ops", server=True, admin=True), "open:a")
        assert [await shown(ann, f"$thread:{offset}:open:a") for offset in offsets] == [[]] * 5
        said = {"$or": [{"d": {"$exists": True}}, {"j": {"$exists": True}}], "z": None}
        assert await instance.node.database.own("messages").count_documents(said) == 0


@pytest.mark.gen_test
async def test_a_thread_is_trimmed_with_its_message(mongod: Mongod) -> None:
    """When that is no longer retained, or all is cleared, nothing of the thread can be read, and later nothing of it is
    left; the threads of messages that stay do so."""
    async with several(mongod) as (stack, instance):
        await put(instance, "ann")
        ann, log = await instance.user(stack, token("ann")), instance.node.log
        for n in range(2):
            offset = (await ann.publish(ROOM, n))["offset"]
            await ann.publish(second := f"$thread:{offset}:{ROOM}", "reply")
        for n in range(4):
            await ann.publish(ROOM, n)
        rows = instance.node.database.own("messages")

        async def trimmed() -> bool:
            await log.trimmer.trim(ROOM, config.Retention(size=5))
            return await rows.find_one({"_id.c": THREAD}) is None and await log.floor(ROOM) > 0

        await until(trimmed, 10, "the end of the first thread")
        assert await shown(ann, THREAD) == []
        assert await refusal(ann, "publish", channel=THREAD, data="late") == "not_found"
        assert await shown(ann, second) == ["reply"]
        assert await instance.node.database.own("threads").count_documents({}) == 1
        await instance.node.history.remove(Principal("ops", server=True, admin=True), ROOM)
        assert await shown(ann, second) == []
