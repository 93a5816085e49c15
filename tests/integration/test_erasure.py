"""Erasing a person: nothing that they have written or are is left in any collection, whoever has begun it."""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import server.erasure.erasure
from server.core.clock import Clock
from server.core.errors import Error
from server.core.principals import Principal
from server.erasure.jobs import Job, Jobs
from server.node import Node
from tests.support.client import Client, ConnectionLost, Refused, make_token
from tests.support.commands import called
from tests.support.methods import METHODS
from tests.support.nodes import Instance, instances
from tests.support.plain_http import plain
from tests.support.processes import Mongod, Redis
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
KEY = {"Authorization": "Bearer the key"}
MARK = "zebra"
OPS = Principal(user="ops", server=True, admin=True)

pytestmark = pytest.mark.gen_test(timeout=60)


@pytest.fixture
def settings() -> dict[str, object]:
    room = {"publish": "anyone", "subscribe": "anyone", "amend": "own|claim:moderator"}
    return {
        "mongodb.dedupe_window": 60,
        "mongodb.outbox": True,
        "auth.accounts": True,
        "auth.secret": SECRET,
        "server.url": "https://rt.example.com",
        "auth.api_keys.ops": {"sha256": hashlib.sha256(b"the key").hexdigest(), "admin": True},
        "auth.api_keys.shop": {"sha256": hashlib.sha256(b"another key").hexdigest(), "channels": {"*": ["publish"]}},
        "namespaces.room": room | {"members": True, "join": "anyone", "reactions": True},
        "namespaces.plain": {"publish": "anyone", "subscribe": "anyone", "presence": True},
        "calls": METHODS,
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


def token(user: str, **claims: Any) -> str:
    return make_token(SECRET, user, **claims)


async def everything(node: Node) -> dict[str, list[str]]:
    """What there is, by collection."""
    names = await node.database.list_collection_names()
    return {name: [repr(row) async for row in node.database[name].find()] for name in names}


async def lived(node: Node, url: str, stack: AsyncExitStack) -> Client:
    """What somebody leaves behind everywhere; the client of a bystander who looks on."""
    ann = await stack.enter_async_context(Client(url, token=token("ann", moderator=True)))
    bob = await stack.enter_async_context(Client(url, token=token("bob")))
    for channel in ("room:tea", "plain:tea"):
        await bob.publish(channel, "of bob")
        await ann.publish(channel, {"text": f"{MARK} one"}, key=f"k {channel}")
        await bob.publish(channel, "of bob as well")
        await ann.publish(channel, f"{MARK} two")
    amend: dict[str, Any] = {"channel": "room:tea"}
    await ann.request("amend", **amend, of=2, op="edit", data=f"{MARK} edited")
    await ann.request("amend", **amend, of=1, op="append", data=f"{MARK} appended")
    await ann.request("amend", **amend, of=3, op="edit", data=f"{MARK} moderated")
    await bob.request("amend", **amend, of=3, op="edit", data="of bob, once more")
    await ann.request("join", channel="room:tea")
    await bob.request("join", channel="room:tea")
    for client in (ann, bob):
        await client.request("react", channel="room:tea", of=3, kind="tea", on=True)
    await ann.subscribe("plain:tea")
    await ann.request("publish", channel="room:tea", data=f"{MARK} later", at=time.time() + 86400)
    dead = {"reason": "a test", "message": {"user": "ann", "data": f"{MARK} dead"}}
    await node.log.append("dead:jobs", None, "d1", dead, 20)
    await ann.request("call", method="echo", data=f"{MARK} call", key="c1")
    await node.log.append("$user:ann", "shop", "n1", f"{MARK} notice", 20)
    assert node.accounts is not None
    await node.accounts.administration.create(OPS, "ann", email=f"{MARK}@example.com")
    for channel in ("room:tea", "plain:tea"):  # into what is kept in memory
        for _ in range(2):
            assert MARK in repr(await bob.history(channel, after="0"))
    return bob


async def test_nothing_of_a_person_is_left(node: Node, url: str, base_url: str) -> None:
    """Not in any read nor in any collection; what is others' stays, and who has looked on sees it go."""
    async with AsyncExitStack() as stack:
        bob = await lived(node, url, stack)
        seen = await bob.subscribe("room:tea")
        http = await stack.enter_async_context(plain(base_url=base_url, headers=KEY, timeout=40))
        answer = await http.delete("/v1/users/ann/data")
        assert answer.status_code == 200, answer.text
        erased = answer.json()
        assert erased["done"] is True
        assert erased["erased"]["messages"] == 5
        assert erased["erased"]["reactions"] == erased["erased"]["memberships"] == 1
        for channel in ("room:tea", "plain:tea"):
            for bounds in ({}, {"after": "0"}):
                page = await bob.history(channel, **bounds)
                assert MARK not in repr(page)
                assert [one["data"] for one in page["messages"]][2] in ("of bob, once more", "of bob as well")
        deleted = {(await seen.next())["of"] for _ in range(3)}
        assert deleted == {1, 2, 4}
        (reaction,) = (await bob.history("room:tea"))["messages"][2]["reactions"]
        assert (reaction["n"], reaction["u"]) == (1, ["bob"])
        rows = await everything(node)
        left = {name: [row for row in found if MARK in row] for name, found in rows.items()}
        assert not any(left.values()), left
        for name in ("members", "reactions", "seen", "calls", "accounts"):
            assert not [row for row in rows.get(f"{node.config.mongodb.prefix}{name}", ()) if "'ann'" in row]
        assert not [row for row in rows.get("waterspout_outbox", ()) if "ann" in row]
        with pytest.raises(Refused, match="unauthenticated"):
            await Client(url, token=token("ann", iat=1)).connect()
        # A retry of what was erased is no new message.
        async with Client(url, token=token("ann", iat=int(time.time()))) as again:
            assert (await again.publish("plain:tea", {"text": f"{MARK} one"}, key="k plain:tea"))["duplicate"]
        assert (await http.delete("/v1/users/ann/data")).json()["erased"]["messages"] == 0


async def test_what_a_back_end_has_published_for_a_person(node: Node, url: str) -> None:
    """From the outbox, in the person's name: it is theirs as what they have published themselves, wherever it is; and
    what is on its way into a message that is emptied in place is emptied as well."""
    for channel in ("room:tea", "plain:tea"):
        await node.database["waterspout_outbox"].insert_one({"channel": channel, "data": MARK, "user": "ann"})

    async def published() -> bool:
        heads = await node.log.heads(["room:tea", "plain:tea"])
        return all(head.offset == 1 for head in heads.values())

    await until(published, 10, "the messages")
    await node.log.append("room:tea", "bob", "b1", "of bob", 8)
    rows = node.database.own("messages")
    await rows.update_one({"_id.c": "room:tea", "_id.o": 2}, {"$set": {"d": MARK}})
    late = {"e": "x", "u": "bob", "k": "late", "t": 1 << 50, "z": 2, "op": "edit", "p": 1, "d": MARK}
    await rows.insert_one({"_id": {"c": "room:tea", "o": 3}, **late})
    assert await node.log.amendments.erase_in_place("room:tea", [2]) == 1
    assert (await node.erasure.erase(OPS, "ann"))["erased"]["messages"] == 2
    rows = await everything(node)
    left = {name: [row for row in found if MARK in row] for name, found in rows.items()}
    assert not any(left.values()), left


async def test_what_a_dead_node_has_begun_is_carried_on(node: Node, url: str) -> None:
    """From the last step that is known, and by one node alone."""
    async with AsyncExitStack() as stack:
        await lived(node, url, stack)
        times = [time.time]
        jobs = Jobs(node.database, "dead", Clock(lambda: times[-1]()))
        await node.erasure.jobs.begin("ann", "ops")
        job = await jobs.take()
        assert isinstance(job, Job)
        stage = [name for name, _ in node.erasure.stages].index("messages")
        assert await jobs.keep(job._replace(stage=stage, after="plain:tea", erased={"messages": 2}))
        await node.erasure.step()
        assert await node.erasure.jobs.get("ann") == job._replace(
            stage=stage, after="plain:tea", erased={"messages": 2}
        )
        times.append(lambda: time.time() - 20)
        assert await jobs.keep(job._replace(stage=stage, after="plain:tea", erased={"messages": 2}))

        async def is_done() -> bool:
            await node.erasure.step()
            job = await node.erasure.jobs.get("ann")
            return job is not None and job.done

        await until(is_done, 20, "the end")
        done = await node.erasure.jobs.get("ann")
        assert done is not None
        assert done.erased["messages"] == 5
        assert not await jobs.keep(job), "the dead node's"
        rows = (await everything(node))[f"{node.config.mongodb.prefix}messages"]
        assert not [row for row in rows if MARK in row and "plain:tea" not in row]


async def test_on_all_nodes(
    mongod: Mongod, tmp_path: Path, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is erased through one node none shows any more, though both had it in memory: not in histories, to who
    resumes, in a search; and of the name only what is documented is left."""
    monkeypatch.setattr(server.erasure.erasure, "SETTLE_SECONDS", 0.0)
    for name in ("room", "plain"):
        settings[f"namespaces.{name}.search"] = True
    settings["consumers.jobs"] = {"events": ["connected", "disconnected"]}
    channels = ("room:tea", "plain:tea", "$thread:2:room:tea")
    settings["namespaces.room.threads"] = True
    async with (
        AsyncExitStack() as stack,
        Redis(tmp_path) as redis,
        instances(2, mongod.uri, settings, redis=redis.url) as (one, two),
    ):
        await until(lambda: all(a.node.directory.knows(b.node.id) for a, b in ((one, two), (two, one))), 5, "a beat")
        ann, bob = await one.user(stack, token("ann")), await two.user(stack, token("bob"))
        for user in ("ann", "bob"):
            await one.call("PUT", f"/v1/channels/room:tea/members/{user}", {"role": "owner"}, "the key")
        await ann.request("member", channel="room:tea", user="bob", role="moderator")
        for channel in channels:
            await bob.publish(channel, "of bob")
            await ann.publish(channel, f"{MARK} of ann")
        start = dict.fromkeys(channels, f"{one.node.log.epoch}:1")
        live = {channel: await bob.subscribe(channel, after=cursor) for channel, cursor in start.items()}
        for subscription in live.values():
            assert MARK in (await subscription.next())["data"]

        async def shown(instance: Instance) -> list[Any]:
            read = [f"/v1/channels/{channel}/messages{which}" for channel in channels for which in ("", "?after=0")]
            pages = [(await instance.call("GET", path, token=token("bob")))[1] for path in read]
            found = await instance.call(
                "GET", f"/v1/search?q={MARK}&channel=room:tea&channel=plain:tea", token=token("bob")
            )
            resumed = Client(instance.ws, token=token("cid"))
            async with resumed:
                for channel, cursor in start.items():
                    pages.append(await (await resumed.subscribe(channel, after=cursor)).next())
            return [*pages, found[1]]

        for instance in (one, two):
            assert all(MARK in repr(page) for page in await shown(instance))
        status, erased = await one.call("DELETE", "/v1/users/ann/data", token="the key")
        assert (status, erased["done"], erased["erased"]["messages"]) == (200, True, 3)
        for instance in (two, one):
            assert not [page for page in await shown(instance) if MARK in repr(page)]
        for channel in ("room:tea", "$thread:2:room:tea"):
            while (await live[channel].next()).get("op") != "delete":
                pass
        left = await everything(one.node)
        named = {name.removeprefix("waterspout.") for name, rows in left.items() if any("'ann'" in row for row in rows)}
        assert named == {"messages", "revocations", "erasures"}
        rows = one.node.database.own("messages")
        theirs = [row async for row in rows.find() if "'ann'" in repr(row)]
        assert all(row["u"] == "ann" for row in theirs)
        assert not [row for row in theirs if "ann" in repr({**row, "u": None, "k": None})]


async def test_messages_for_later_in_a_database_of_their_own(mongod: Mongod, settings: dict[str, object]) -> None:
    """Are erased there."""
    async with instances(1, mongod.uri, settings | {"mongodb.outbox": "outbox_apart"}) as (instance,):
        entries = instance.node.outbox.entries
        await entries.insert_one({"channel": "plain:tea", "data": MARK, "user": "ann", "at": time.time() + 86400})
        assert (await instance.node.erasure.erase(OPS, "ann"))["erased"]["scheduled"] == 1
        assert await entries.count_documents({}) == 0


async def test_who_may_and_whom(base_url: str, http_server: object, node: Node) -> None:
    """API keys that are `admin`; not the messages of a back end."""
    async with plain(base_url=base_url) as http:
        for headers, status in (
            ({}, 403),
            ({"Authorization": f"Bearer {token('ann')}"}, 403),
            (KEY | {"Authorization": "Bearer another key"}, 403),
        ):
            assert (await http.delete("/v1/users/ann/data", headers=headers)).status_code == status
        refused = await http.delete("/v1/users/shop/data", headers=KEY)
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
        assert (await http.delete(f"/v1/users/{'a' * 256}/data", headers=KEY)).status_code == 400
    with pytest.raises(Error, match="permission_denied"):
        await node.erasure.erase(Principal(user="ann"), "ann")
    assert not (await everything(node)).get(f"{node.config.mongodb.prefix}erasures")


async def test_the_command_line(node: Node, url: str, mongod: Mongod, base_url: str) -> None:
    """`run.py erase` has it done by the servers, and says what it was."""
    async with Client(url, token=token("ann")) as ann:
        await ann.publish("plain:tea", MARK)
        flags = ["--mongodb-uri", mongod.uri, "--set", f"mongodb.database={node.config.mongodb.database}"]
        code, said = await called("erase", "--user", "ann", *flags)
        assert (code, re.findall(r"erased: (.*)", said)) == (0, ["1 messages"]), said

        async def gone() -> bool:
            try:
                await ann.request("ping")
            except (Refused, ConnectionLost):
                return True
            return False

        await until(gone, 10, "the end of the session")
