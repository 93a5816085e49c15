"""Members of channels: who may read and write by being one, and who makes and ends that."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

from server.core import config
from server.core.errors import StartError
from server.core.principals import Principal
from tests.integration.conftest import SETTINGS
from tests.support.client import make_token
from tests.support.nodes import Instance, instances
from tests.support.processes import Mongod, Redis
from tests.support.refusals import ended, refusal
from tests.support.waiting import until

SECRET = str(SETTINGS["auth.secret"])
KEY = "the operator's own key"
OPTIONS: dict[str, Any] = {
    **SETTINGS,
    "auth.api_keys": {
        "ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True},
        "shop": {"sha256": hashlib.sha256(b"no admin").hexdigest()},
    },
    "namespaces.room": {
        "members": True,
        "presence": True,
        "subscribe": ["member", "admin"],
        "publish": ["member:member", "member:writer", "server"],
    },
    "namespaces.hall": {"members": True, "join": "anyone", "subscribe": "member", "publish": "member:moderator"},
    "namespaces.open": {"members": True, "join": "anyone", "subscribe": "anyone", "publish": "member"},
    "limits.members_per_channel": 6,
    "limits.memberships_per_user": 4,
}


def token(user: str, **claims: Any) -> str:
    return make_token(SECRET, user, iat=int(time.time() - 10), **claims)


@asynccontextmanager
async def one(mongod: Mongod, **options: Any) -> AsyncIterator[tuple[Instance, AsyncExitStack]]:
    async with AsyncExitStack() as stack, instances(1, mongod.uri, OPTIONS | options) as (instance,):
        yield instance, stack


async def put(instance: Instance, channel: str, user: str, role: str, bearer: str = KEY) -> int:
    status, body = await instance.call("PUT", f"/v1/channels/{channel}/members/{user}", {"role": role}, bearer)
    if status == 200:
        assert body == {"channel": channel, "user": user, "role": role}
    return status


@pytest.mark.gen_test
async def test_a_stranger_is_refused_at_every_door(mongod: Mongod) -> None:
    """Who is no member may neither read, write, see who is there nor who is a member; as soon as he is one he may, and
    as soon as he is none any more he may not."""
    async with one(mongod) as (instance, stack):
        assert await put(instance, "room:tea", "bob", "member") == 200
        ann, bob = await instance.user(stack, token("ann")), await instance.user(stack, token("bob"), "room:tea")
        await bob.publish("room:tea", 1)
        path = "/v1/channels/room:tea/"
        doors: list[tuple[str, str, Any]] = [
            ("GET", path + "messages", None),
            ("GET", path + "messages?wait=1", None),
            ("GET", "/v1/poll?channel=room:tea&wait=1", None),
            ("POST", path + "messages", {"data": 1}),
            ("GET", path + "events", None),
            ("GET", path + "presence", None),
            ("GET", path + "members", None),
            ("POST", "/v1/tickets", {"channels": ["room:tea"]}),
            ("PUT", path + "members/ann", {"role": "member"}),
            ("PUT", path + "members/bob", {"role": "owner"}),
            ("DELETE", path + "members/bob", None),
        ]
        commands: list[tuple[str, dict[str, Any]]] = [
            ("subscribe", {}), ("history", {}), ("publish", {"data": 1}), ("presence", {}), ("members", {}),
            ("join", {}), ("member", {"user": "ann", "role": "member"}), ("member", {"user": "bob", "role": None}),
        ]  # fmt: skip

        async def all_refused() -> None:
            for method, address, body in doors:
                status, problem = await instance.call(method, address, body, token("ann"))
                assert (status, problem["code"]) == (403, "permission_denied"), (method, address)
            for command, fields in commands:
                assert await refusal(ann, command, channel="room:tea", **fields) == "permission_denied", command
            status, results = await instance.call(
                "POST", "/v1/publish", {"messages": [{"channel": "room:tea", "data": 1}]}, token("ann")
            )
            assert results["results"][0]["error"]["code"] == "permission_denied"
            status, results = await instance.call(
                "POST", path + "members", {"members": [{"user": "ann", "role": "member"}]}, token("ann")
            )
            assert results["results"][0]["error"]["code"] == "permission_denied"

        await all_refused()
        assert await put(instance, "room:tea", "ann", "member") == 200
        subscription = await ann.subscribe("room:tea")
        receipt = await ann.publish("room:tea", 2)
        assert receipt["offset"] == 2
        _status, page = await instance.call("GET", path + "messages", token=token("ann"))
        assert [message["data"] for message in page["messages"]] == [1, 2]
        assert (await instance.call("DELETE", path + "members/ann", token=KEY))[0] == 204
        await ended(subscription)
        await bob.publish("room:tea", 3)
        await all_refused()


@pytest.mark.gen_test
async def test_who_may_make_whom_what(mongod: Mongod) -> None:
    """Back ends with admin and owners may everything, moderators deal with plain members; everybody may leave, and join
    where anyone may. A right that a role gives is there while the role is."""
    async with one(mongod) as (instance, stack):
        assert await put(instance, "room:a", "own", "owner") == 200
        assert await put(instance, "room:a", "mod", "moderator", token("own")) == 200
        assert await put(instance, "room:a", "ann", "member", token("mod")) == 200
        assert await put(instance, "room:a", "ann", "member", token("mod")) == 200  # as before
        for user, role, bearer in [
            ("ann", "moderator", token("mod")),
            ("ann", "writer", token("mod")),
            ("own", "member", token("mod")),
            ("mod", "owner", token("mod")),
            ("bob", "member", token("ann")),
            ("ann", "moderator", token("ann")),
            ("ann", "moderator", "no admin"),
        ]:
            assert await put(instance, "room:a", user, role, bearer) == 403, (user, role)
        assert await put(instance, "room:a", "ann", "no role", KEY) == 400
        assert await put(instance, "feed:a", "ann", "member", KEY) == 400
        assert await put(instance, "nowhere:a", "ann", "member", KEY) == 404
        ann = await instance.user(stack, token("ann"))
        await ann.publish("room:a", 1)
        assert await put(instance, "room:a", "ann", "reader", token("own")) == 200
        subscription = await ann.subscribe("room:a")
        assert await refusal(ann, "publish", channel="room:a", data=2) == "permission_denied"
        gone = await ann.request("member", channel="room:a", user="ann", role=None)
        assert (gone["channel"], gone["user"], gone["role"]) == ("room:a", "ann", None)
        await ended(subscription)
        assert (await ann.request("leave", channel="room:a"))["role"] is None  # twice is fine

        status, body = await instance.call("POST", "/v1/channels/hall:x/join", {}, token("ann"))
        assert (status, body) == (200, {"channel": "hall:x", "user": "ann", "role": "member"})
        assert (await instance.call("POST", "/v1/channels/room:x/join", {}, token("ann")))[0] == 403
        joined = await ann.request("join", channel="hall:b")
        assert (joined["channel"], joined["user"], joined["role"]) == ("hall:b", "ann", "member")
        await ann.subscribe("hall:b")
        assert await refusal(ann, "publish", channel="hall:b", data=1) == "permission_denied"
        assert await put(instance, "hall:b", "ann", "owner") == 200  # which is above a moderator
        await ann.publish("hall:b", 1)
        assert (await ann.request("join", channel="hall:b"))["role"] == "owner"  # and stays so
        guest = await instance.user(stack, None)
        assert await refusal(guest, "join", channel="hall:b") == "permission_denied"
        assert await put(instance, "hall:b", "cid", "member", token("cid")) == 200
        status, page = await instance.call("GET", "/v1/channels/hall:b/members?limit=1", token=token("cid"))
        assert [(row["user"], row["role"]) for row in page["members"]] == [("ann", "owner")]
        assert (status, page["more"]) == (200, True)
        assert abs(page["members"][0]["joined"] / 1000 - time.time()) < 60
        status, page = await instance.call("GET", "/v1/channels/hall:b/members?after=ann", token=KEY)
        assert ([row["user"] for row in page["members"]], page["more"]) == (["cid"], False)
        assert (await ann.request("members", channel="hall:b"))["members"][1]["user"] == "cid"


@pytest.mark.gen_test
async def test_who_is_revoked_meanwhile_does_not_join(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right is asked for again before anything is written: between what is read for it and that, it may go."""
    async with one(mongod) as (instance, _):
        count = instance.node.log.counts.of
        ops = Principal("ops", server=True, admin=True)

        async def slowly(channel: str) -> Any:
            await instance.node.moderation.revoke(ops, "ann", channels=["hall:*"])
            return await count(channel)

        monkeypatch.setattr(instance.node.log.counts, "of", slowly)
        assert await put(instance, "hall:a", "ann", "member", token("ann")) == 403
        monkeypatch.undo()
        _, page = await instance.call("GET", "/v1/channels/hall:a/members", token=KEY)
        assert page["members"] == []


@pytest.mark.gen_test
async def test_what_a_member_has_scheduled(mongod: Mongod) -> None:
    """It is published when it is due, though nobody remembers that they are a member; and not, if they are none. It is
    read by who has written it, unless something before it is not."""
    async with one(mongod, **{"mongodb.outbox": True}) as (instance, _):
        assert await put(instance, "room:a", "cid", "member") == 200
        await instance.call("POST", "/v1/channels/room:a/messages", {"data": "first"}, KEY)
        for user in ("ann", "bob", "cid"):
            assert await put(instance, "room:a", user, "member") == 200
            principal = instance.node.identities.authenticate(token(user))
            await instance.node.scheduler.publish(principal, "room:a", user, time.time() + 2.0, None)
            instance.node.memberships.forget(user, "room:a")
        assert (await instance.call("DELETE", "/v1/channels/room:a/members/bob", token=KEY))[0] == 204

        async def published() -> list[Any]:
            _, page = await instance.call("GET", "/v1/channels/room:a/messages", token=KEY)
            return [message["data"] for message in page["messages"]]

        async def unread(user: str) -> int:
            return (await instance.call("GET", "/v1/rooms", token=token(user)))[1]["rooms"][0]["unread"]

        async def all_published() -> bool:
            return len(await published()) == 3 and await unread("ann") == 1

        await until(all_published, 10, "the messages")
        assert await published() == ["first", "ann", "cid"]
        assert (await unread("ann"), await unread("cid")) == (1, 3)


@pytest.mark.gen_test
async def test_many_at_once_and_never_too_many(mongod: Mongod) -> None:
    """Each of a batch is made or refused by itself; the limits hold however many come at the same moment."""
    async with one(mongod) as (instance, _):
        path = "/v1/channels/open:a/members"
        wanted = [{"user": "ann", "role": "owner"}, {"user": "bob"}, {"user": ""}, {"role": "x"}, {"user": "cid"}]
        status, body = await instance.call("POST", path, {"members": wanted}, KEY)
        assert status == 200
        assert body["results"][0] == {"channel": "open:a", "user": "ann", "role": "owner"}
        assert [one.get("role") or one["error"]["code"] for one in body["results"]] == [
            "owner", "member", "bad_request", "bad_request", "member",
        ]  # fmt: skip
        changed = [{"user": "bob", "role": None}, {"user": "ann", "role": "moderator"}, {"user": "cid"}]
        _, body = await instance.call("POST", path, {"members": changed}, token("ann"))
        assert [one["role"] for one in body["results"]] == [None, "moderator", "member"]
        _, body = await instance.call("POST", path, {"members": [{"user": "dot"}, {"user": "cid", "role": "owner"}]},
                                      token("ann"))  # fmt: skip
        assert [one.get("role") or one["error"]["code"] for one in body["results"]] == ["member", "permission_denied"]
        _, page = await instance.call("GET", path, token=KEY)
        assert {row["user"]: row["role"] for row in page["members"]} == {
            "ann": "moderator", "cid": "member", "dot": "member",
        }  # fmt: skip
        answers = await asyncio.gather(*(put(instance, "open:a", f"u{n}", "member", token(f"u{n}")) for n in range(8)))
        assert sorted(answers) == [200] * 3 + [429] * 5
        _, page = await instance.call("GET", path, token=KEY)
        assert len(page["members"]) == 6
        answers = await asyncio.gather(*(put(instance, f"open:{n}", "eve", "member", token("eve")) for n in range(8)))
        assert sorted(answers) == [200] * 4 + [429] * 4
        status, problem = await instance.call("POST", path, {"members": [{"user": f"v{n}"} for n in range(5)]}, KEY)
        assert problem["results"][0]["error"]["code"] == "limit_exceeded"


@pytest.mark.gen_test
async def test_taking_away_reaches_every_node_without_redis(mongod: Mongod) -> None:
    """Two nodes that only meet in MongoDB: what is given at one is there at the other at once, and what is taken at one
    ends at the other within a second: subscriptions over WebSocket and event streams, and what was remembered."""
    async with AsyncExitStack() as stack, instances(2, mongod.uri, OPTIONS) as (first, second):
        ann = await second.user(stack, token("ann"))
        assert await refusal(ann, "subscribe", channel="room:a") == "permission_denied"
        for n in range(3):
            assert await put(first, "room:a", "ann", "member") == 200
            subscription = await ann.subscribe("room:a")
            await ann.publish("room:a", n)
            stream = AsyncHTTPClient(force_instance=True).fetch(
                f"{second.base}/v1/channels/room:a/events", headers={"Authorization": f"Bearer {token('ann')}"},
                request_timeout=5,
            )  # fmt: skip
            listening = second.node.admission.users["ann"]
            await until(lambda here=listening: len(here) == 2, 2, "the event stream")
            began = time.monotonic()
            assert (await first.call("DELETE", "/v1/channels/room:a/members/ann", token=KEY))[0] == 204
            await ended(subscription)
            assert "permission_denied" in (await stream).body.decode()
            assert time.monotonic() - began < 1.5
            assert await refusal(ann, "publish", channel="room:a", data=9) == "permission_denied"


@pytest.mark.gen_test
async def test_what_is_untold_is_told_by_who_tries_again(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the row and the revocation something fails: the same request again ends the subscription all the same."""
    async with AsyncExitStack() as stack, instances(2, mongod.uri, OPTIONS) as (first, second):
        assert await put(first, "room:a", "ann", "member") == 200
        ann = await second.user(stack, token("ann"))
        subscription = await ann.subscribe("room:a")
        add = first.node.revocations.add

        async def fail(revocation: object) -> None:
            raise OSError

        monkeypatch.setattr(first.node.revocations, "add", fail)
        assert (await first.call("DELETE", "/v1/channels/room:a/members/ann", token=KEY))[0] == 500
        monkeypatch.setattr(first.node.revocations, "add", add)
        assert (await first.call("DELETE", "/v1/channels/room:a/members/ann", token=KEY))[0] == 204
        await ended(subscription)
        # And if nobody does, what is remembered is read anew some time.
        assert await put(first, "room:a", "ann", "member") == 200
        subscription = await ann.subscribe("room:a")
        monkeypatch.setattr(first.node.revocations, "add", fail)
        assert (await first.call("DELETE", "/v1/channels/room:a/members/ann", token=KEY))[0] == 500
        monkeypatch.setattr("server.access.memberships.RENEW_EVERY", 0.0)
        await second.node.memberships.renew()
        await ended(subscription)


@pytest.mark.gen_test
async def test_many_are_taken_away_together(mongod: Mongod, tmp_path: Path) -> None:
    """Five hundred members lose a room in a few commands, and each of them at once: no revocation waits for another's
    number."""
    options = OPTIONS | {"limits.members_per_channel": 0}
    async with (
        AsyncExitStack() as stack,
        Redis(tmp_path) as redis,
        instances(2, mongod.uri, options, redis=redis.url) as (first, second),
    ):
        users = [f"u{n}" for n in range(500)]
        path = "/v1/channels/room:a/members"
        _, body = await first.call("POST", path, {"members": [{"user": user} for user in users]}, KEY)
        assert all(one.get("role") == "member" for one in body["results"])
        subscription = await (await second.user(stack, token("u7"))).subscribe("room:a")
        _, body = await first.call("POST", path, {"members": [{"user": user, "role": None} for user in users]}, KEY)
        assert all("error" not in one for one in body["results"])
        await ended(subscription)
        assert second.node.revocations.newest <= 500
        _, page = await second.call("GET", path, token=KEY)
        assert page["members"] == []


def test_what_is_wrong_in_the_configuration() -> None:
    """A rule of members where there are none, and what cannot have any, is one line at the start."""
    for wrong in (
        {"namespaces.x": {"subscribe": "member"}},
        {"namespaces.x": {"members": True, "publish": "member:No"}},
        {"namespaces.x": {"members": True, "durable": False}},
        {"namespaces.x": {"join": "anyone"}},
        {"namespaces.x": {"direct": True, "join": "anyone"}},
        {"namespaces.x": {"receipts": True}},
        {"collections.x": {"read": "member"}},
    ):
        with pytest.raises(StartError, match="x"):
            config.load(None, {}, wrong.items())


@pytest.mark.gen_test
async def test_a_channel_says_what_one_may_do_there(mongod: Mongod) -> None:
    """To each what holds for them, by rules and memberships; of a channel that nobody has used as of any other; and
    what an operator has made somebody a moment ago counts."""
    settings = {"auth.guests": True, "namespaces.hall.amend": ["own", "member:moderator"]}
    async with one(mongod, **settings) as (instance, _):

        async def asked(channel: str, bearer: str | None) -> Any:
            status, body = await instance.call("GET", f"/v1/channels/{channel}", None, bearer)
            assert status == 200, body
            assert body["channel"] == channel
            return body["role"], body["may"], body["has"]

        has = ["durable", "members"]
        assert await asked("hall:new", None) == (None, [], has)
        assert await asked("hall:new", token("ann")) == (None, ["join"], has)
        assert await put(instance, "hall:new", "ann", "member") == 200
        assert await asked("hall:new", token("ann")) == ("member", ["subscribe", "amend_own"], has)
        assert await put(instance, "hall:new", "ann", "moderator") == 200
        assert await asked("hall:new", token("ann")) == (
            "moderator", ["subscribe", "publish", "amend_own", "amend"], has,
        )  # fmt: skip
        assert await asked("room:new", token("ann")) == (None, [], ["durable", "presence", "members"])
        assert await asked("room:new", KEY) == (None, ["subscribe", "publish"], ["durable", "presence", "members"])
        assert await asked("nowhere:a", KEY) == (None, [], [])
        assert (await instance.call("GET", "/v1/channels/hall:%20", None, KEY))[0] == 400


@pytest.mark.gen_test
async def test_a_member_amends_nothing_of_others(mongod: Mongod) -> None:
    """Where moderators may, and only members read: the answer comes, and is no."""
    settings = {"namespaces.hall": {**OPTIONS["namespaces.hall"], "publish": "member", "amend": "own|member:moderator"}}
    async with one(mongod, **settings) as (instance, _):
        for user, role in (("ann", "member"), ("bob", "moderator")):
            assert await put(instance, "hall:a", user, role) == 200
        said = await instance.call("POST", "/v1/channels/hall:a/messages", {"data": "mine"}, token("bob"))
        assert said[0] == 201
        for bearer, status in ((token("ann"), 403), (token("cid"), 403), (token("bob"), 200)):
            message = "/v1/channels/hall:a/messages/1"
            assert (await instance.call("PATCH", message, {"data": "changed"}, bearer))[0] == status
