"""Rights that are taken back: everywhere within a second, for good, and without trusting Redis."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

import server.access.revocations
from server.core import config
from server.core.clock import Clock
from server.node import Node
from tests.integration.conftest import SETTINGS
from tests.support.client import Client, Refused, make_token
from tests.support.nodes import served
from tests.support.processes import Mongod, Redis
from tests.support.proxy import Proxy
from tests.support.waiting import until

SECRET = str(SETTINGS["auth.secret"])
KEY = "the operator's own key"
OPTIONS = {
    "auth.api_keys": {
        "ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True, "channels": {"*": ["publish"]}},
        "shop": {"sha256": hashlib.sha256(b"no admin").hexdigest()},
    },
    "namespaces.live": {"durable": False, "publish": "anyone", "subscribe": "user"},
    "namespaces.feed": {"publish": "user", "subscribe": "user"},
}


@pytest.fixture
def settings() -> dict[str, object]:
    return OPTIONS


def token(user: str, *, ago: float = 10.0, **claims: Any) -> str:
    return make_token(SECRET, user, iat=int(time.time() - ago), **claims)


class Instance:
    def __init__(self, node: Node, base: str) -> None:
        self.node = node
        self.base = base
        self.ws = base.replace("http", "ws") + "/v1/ws"

    async def call(self, path: str, body: Any = None, bearer: str | None = KEY) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        response = await AsyncHTTPClient().fetch(
            self.base + path, method="GET" if body is None else "POST", headers=headers, raise_error=False,
            body=None if body is None else json.dumps(body), allow_nonstandard_methods=True, request_timeout=15,
        )  # fmt: skip
        return response.code, json.loads(response.body)

    async def user(self, stack: AsyncExitStack, bearer: str, *channels: str) -> Client:
        client = Client(self.ws, token=bearer)
        stack.push_async_callback(client.close)
        await client.connect()
        for channel in channels:
            await client.subscribe(channel)
        return client


@asynccontextmanager
async def instances(
    *mongodb_uris: str,
    redis: str | None = None,
    database: str | None = None,
    clocks: Sequence[Clock] = (),
    **options: Any,
) -> AsyncIterator[list[Instance]]:
    """Whole nodes on one database, one for each address of MongoDB, with these clocks."""
    database = database or f"test_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:
        made = []
        for uri, clock in zip_longest(mongodb_uris, clocks):
            given = SETTINGS | OPTIONS | {"mongodb.database": database, "redis.url": redis} | options
            node = Node(config.load(None, {}, given.items()), uri, clock=clock)
            made.append(Instance(node, await stack.enter_async_context(served(node))))
        yield made


@pytest.fixture
def one(node: Node, base_url: str, http_server: object) -> Instance:
    return Instance(node, base_url)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Doubt after a fifth of the time, so that nobody has to wait for it."""
    monkeypatch.setattr(server.access.revocations, "POLL_EVERY", 0.1)
    monkeypatch.setattr(server.access.revocations, "ANSWER_WITHIN", 0.4)
    monkeypatch.setattr(server.access.revocations, "CONFIRM_WITHIN", 0.6)
    return


async def closed(client: Client) -> int | None:
    await until(lambda: client.losses, 5, "a close")
    return client.losses[0].code


# --- one node ---------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_all_tokens_until_now(one: Instance) -> None:
    """A connected user is closed with 4501 and told not to come back; the token is refused at every door from then on,
    and one that is issued later is not. Others are not touched."""
    async with AsyncExitStack() as stack:
        old = token("ann")
        ann = await one.user(stack, old, "feed:x", "live:x")
        bob = await one.user(stack, token("bob"), "feed:x")
        assert await one.call("/v1/users/ann/revoke", {}) == (200, {"user": "ann"})
        assert await closed(ann) == 4501
        disconnect = ann.losses[0].disconnect
        assert disconnect is not None
        assert disconnect["reconnect"] is False
        status, problem = await one.call("/v1/channels/feed:x/messages", bearer=old)
        assert (status, problem["code"]) == (401, "unauthenticated")
        status, _ = await one.call("/v1/channels/feed:x/messages", {"data": 1}, bearer=old)
        assert status == 401
        for bearer in (True, False):
            with pytest.raises(Exception, match=r"401|unauthenticated"):
                await Client(one.ws, token=old, bearer=bearer).connect()
        assert (await one.call("/v1/channels/feed:x/messages", bearer=make_token(SECRET, "ann")))[0] == 401  # no iat
        new = token("ann", ago=-2)  # clocks may differ
        again = await one.user(stack, new, "feed:x")
        await again.publish("feed:x", "new")
        assert (await bob.subscriptions["feed:x"].message())["data"] == "new"
        assert not bob.losses


@pytest.mark.gen_test
async def test_one_token(one: Instance) -> None:
    async with AsyncExitStack() as stack:
        stolen, own = token("ann", jti="stolen"), token("ann", jti="own")
        thief = await one.user(stack, stolen)
        ann = await one.user(stack, own)
        principal = one.node.identities.authenticate(stolen)
        assert principal.token == "stolen"
        assert (await one.call("/v1/users/ann/revoke", {"token": "stolen"}))[0] == 200
        assert await closed(thief) == 4501
        assert not ann.losses
        assert (await one.call("/v1/channels/feed:x/messages", bearer=stolen))[0] == 401
        assert (await one.call("/v1/channels/feed:x/messages", bearer=own))[0] == 200
        assert (await one.call("/v1/channels/feed:x/messages", bearer=token("bob", jti="stolen")))[0] == 200


@pytest.mark.gen_test
async def test_rights_in_channels(one: Instance) -> None:
    """Subscriptions end with a push that says why; the rest of the connection stays. A rule or a token's own rights:
    both are gone, at every door, until a new token is issued."""
    async with AsyncExitStack() as stack:
        bearer = token("ann", channels={"feed:*": ["publish", "subscribe"]})
        ann = await one.user(stack, bearer, "feed:secret-1", "feed:open")
        subscription = ann.subscriptions["feed:secret-1"]
        assert (await one.call("/v1/users/ann/revoke", {"channels": ["feed:secret-*"]}))[0] == 200
        push = await subscription.next()
        assert push["type"] == "unsubscribed"
        assert push["code"] == "permission_denied"
        assert push["reason"]
        await one.call("/v1/channels/feed:secret-1/messages", {"data": "unseen"})
        await ann.publish("feed:open", "seen")
        assert (await ann.subscriptions["feed:open"].message())["data"] == "seen"
        assert not subscription.waiting()
        for attempt in (ann.subscribe("feed:secret-2"), ann.publish("feed:secret-1", 1), ann.history("feed:secret-1")):
            with pytest.raises(Refused, match="permission_denied"):
                await attempt
        assert (await one.call("/v1/channels/feed:secret-1/messages", bearer=bearer))[0] == 403
        assert (await one.call("/v1/channels/feed:secret-1/messages", bearer=token("ann", ago=-2)))[0] == 200


@pytest.mark.gen_test
async def test_unsubscribe_and_disconnect_happen_once(one: Instance) -> None:
    async with AsyncExitStack() as stack:
        ann = await one.user(stack, token("ann"), "feed:x", "feed:y")
        subscription = ann.subscriptions["feed:x"]
        answer = await one.call("/v1/channels/feed:x/unsubscribe", {"user": "ann", "reason": "for now"})
        assert answer == (200, {"channel": "feed:x", "user": "ann"})
        assert await subscription.next() == {
            "type": "unsubscribed", "channel": "feed:x", "code": "unsubscribed", "reason": "for now",
        }  # fmt: skip
        await ann.subscribe("feed:x")
        assert "feed:y" in ann.subscriptions
        assert (await one.call("/v1/users/ann/disconnect", {"reason": "update", "reconnect": True}))[0] == 200
        assert await closed(ann) == 4005
        assert ann.losses[0].disconnect is not None
        assert ann.losses[0].disconnect["reason"] == "update"
        again = await one.user(stack, token("ann"))
        assert (await one.call("/v1/users/ann/disconnect", {}))[0] == 200
        assert await closed(again) == 4502
        assert one.node.admission.users == {}


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("path", "body", "bearer", "status"),
    [
        ("/v1/users/ann/revoke", {}, "no admin", 403),
        ("/v1/users/ann/disconnect", {}, None, 403),
        ("/v1/channels/feed:x/unsubscribe", {"user": "ann"}, "no admin", 403),
        ("/v1/users/ann/revoke", {}, "nonsense", 401),
        ("/v1/users/ann/revoke", {"token": 1}, KEY, 400),
        ("/v1/users/ann/revoke", {"token": "x", "channels": ["feed:*"]}, KEY, 400),
        ("/v1/users/ann/revoke", {"channels": ["feed*"]}, KEY, 400),
        ("/v1/users/ann/revoke", {"channels": "feed:*"}, KEY, 400),
        ("/v1/users/ann/revoke", [], KEY, 400),
        ("/v1/users/ann/disconnect", {"reason": "x" * 101}, KEY, 400),
        ("/v1/channels/feed:x/unsubscribe", {}, KEY, 400),
        ("/v1/channels/attic:x/unsubscribe", {"user": "ann"}, KEY, 404),
        ("/v1/channels/feed/unsubscribe", {"user": "ann"}, KEY, 400),
    ],
)
async def test_refusals(one: Instance, path: str, body: Any, bearer: str | None, status: int) -> None:
    """Only an API key with `admin` may; what is not understood is refused by name and revokes nothing."""
    answer = await one.call(path, body, bearer)
    assert answer[0] == status
    if bearer in (None, "no admin"):
        token_answer = await one.call(path, body, token("ann", channels={"*": ["publish", "subscribe"]}))
        assert token_answer[0] == status
    assert await one.node.database.own("revocations").count_documents({}) == 0


@pytest.mark.gen_test
async def test_a_server_of_the_same_name_is_not_meant(one: Instance) -> None:
    """API keys are taken back in the configuration; the user called like one is somebody else."""
    async with AsyncExitStack() as stack:
        shop = await one.user(stack, "no admin", "feed:x")
        assert (await one.call("/v1/users/shop/revoke", {}))[0] == 200
        assert (await one.call("/v1/users/shop/disconnect", {}))[0] == 200
        await shop.publish("feed:x", "still here")
        assert (await shop.subscriptions["feed:x"].message())["data"] == "still here"


@pytest.mark.gen_test
async def test_what_waits_for_a_slow_client_is_dropped(one: Instance) -> None:
    """Frames in the outbox of a client that does not read are not sent after the revocation."""
    async with AsyncExitStack() as stack:
        ann = await one.user(stack, token("ann"), "feed:x")
        received: list[Any] = []
        ann.subscriptions["feed:x"].on_push = received.append
        (session,) = one.node.admission.users["ann"]
        ann.pause_reading()
        for n in range(400):
            await one.call("/v1/channels/feed:x/messages", {"data": {"n": n, "filler": "x" * 30000}})
            if session.queued:
                break
        assert session.queued
        await one.call("/v1/users/ann/revoke", {"channels": ["feed:*"]})
        assert session.queued < 1000  # the push that says so
        ann.resume_reading()
        await until(lambda: received and received[-1]["type"] == "unsubscribed", 10, "the end")
        assert [push["data"]["n"] for push in received[:-1]] == list(range(len(received) - 1))
        assert len(received) - 1 < n + 1


@pytest.mark.gen_test
@pytest.mark.parametrize("soon", [True, False], ids=["without a task", "by a task"])
async def test_a_subscription_under_way_does_not_slip_through(
    one: Instance, monkeypatch: pytest.MonkeyPatch, soon: bool
) -> None:
    """The right was there when it was asked for, and is gone before the first message."""
    async with AsyncExitStack() as stack:
        ann = await one.user(stack, token("ann"))
        open_soon, reached, go_on = one.node.streams.open_soon, asyncio.Event(), asyncio.Event()

        async def later(asked: Any) -> Any:
            reached.set()
            await go_on.wait()
            return await asked

        def slowly(*arguments: Any) -> Any:
            return asyncio.ensure_future(later(open_soon(*arguments)))

        monkeypatch.setattr(one.node.streams, "open_soon", slowly)
        if not soon:
            monkeypatch.setattr(one.node.subscriptions, "subscribe_soon", lambda *_: False)
        subscribing = asyncio.ensure_future(ann.subscribe("feed:x"))
        await reached.wait()
        await one.call("/v1/users/ann/revoke", {"channels": ["feed:x"]})
        go_on.set()
        with pytest.raises(Refused, match="permission_denied"):
            await subscribing
        assert one.node.hub.count("feed:x") == 0


# --- bans -------------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_ban_holds_for_every_token(one: Instance) -> None:
    """Who is banned is closed with 4502 and the reason, and refused at every door with a new token as well, until it is
    lifted; the newest ban is the one that counts. Who has said what, and when, can be looked up."""
    async with AsyncExitStack() as stack:
        ann = await one.user(stack, token("ann"), "feed:x")
        bob = await one.user(stack, token("bob"), "feed:x")
        before = int(time.time() * 1000) - 2000
        for bad in ({"seconds": 0}, {"channels": ["feed"]}, {"reason": "x" * 101}, {"seconds": "1"}):
            assert (await one.call("/v1/users/ann/ban", bad))[0] == 400
        for path, body in (("/v1/users/ann/ban", {}), ("/v1/users/ann/unban", {}), ("/v1/bans", None)):
            assert (await one.call(path, body, "no admin"))[0] == 403
        assert (await one.call("/v1/users/ann/unban", {}))[0] == 404
        assert (await one.call("/v1/users/ann/ban", {"reason": "spam"}))[0] == 200
        assert await closed(ann) == 4502
        assert ann.losses[0].disconnect is not None
        assert ann.losses[0].disconnect["reason"] == "banned: spam"

        new = token("ann", ago=-2)
        status, problem = await one.call("/v1/channels/feed:x/messages", {"data": 1}, new)
        assert (status, problem["code"], problem["reason"]) == (403, "permission_denied", "ann is banned: spam")
        with pytest.raises(Exception, match=r"403|permission_denied"):
            await Client(one.ws, token=new).connect()
        assert (await one.call("/v1/users/ann/ban", {"seconds": 3600}))[0] == 200
        status, page = await one.call("/v1/bans?limit=1")
        (row,) = page["bans"]
        assert (row["user"], row["channel"], row["by"], row["reason"]) == ("ann", None, "ops", "")
        assert row["until"] - row["since"] == pytest.approx(3_600_000, abs=1)
        assert page["next"] is None

        assert await one.call("/v1/users/ann/unban", {}) == (200, {"user": "ann", "bans": []})
        again = await one.user(stack, new, "feed:x")
        await again.publish("feed:x", "back")
        assert (await bob.subscriptions["feed:x"].message())["data"] == "back"
        status, said = await one.call("/v1/users/ann/bans")
        assert (said["bans"], [one["what"] for one in said["log"]]) == ([], ["unban", "ban", "ban"])
        assert all(one["by"] == "ops" and one["time"] > before for one in said["log"])


@pytest.mark.gen_test
async def test_a_ban_from_channels(one: Instance) -> None:
    """The connection stays; subscriptions there end and nothing is allowed there, by a later token either, until it is
    lifted."""
    async with AsyncExitStack() as stack:
        ann = await one.user(stack, token("ann"), "feed:tea", "feed:open")
        subscription = ann.subscriptions["feed:tea"]
        body = {"channels": ["feed:tea", "feed:milk"], "seconds": 60, "reason": "off topic"}
        status, answer = await one.call("/v1/users/ann/ban", body)
        assert (status, [row["channel"] for row in answer["bans"]]) == (200, ["feed:milk", "feed:tea"])
        push = await subscription.next()
        assert (push["type"], push["code"], push["reason"]) == (
            "unsubscribed", "permission_denied", "banned: off topic",
        )  # fmt: skip
        for attempt in (ann.subscribe("feed:tea"), ann.publish("feed:milk", 1), ann.history("feed:tea")):
            with pytest.raises(Refused, match=r"permission_denied.*banned until .*: off topic"):
                await attempt
        new = token("ann", ago=-2)
        assert (await one.call("/v1/channels/feed:tea/messages", bearer=new))[0] == 403
        assert (await one.call("/v1/channels/feed:open/messages", bearer=new))[0] == 200
        status, answer = await one.call("/v1/users/ann/unban", {"channels": ["feed:tea"]})
        assert [row["channel"] for row in answer["bans"]] == ["feed:milk"]
        await ann.subscribe("feed:tea")
        assert not ann.losses


@pytest.mark.gen_test(timeout=30)
async def test_bans_are_every_nodes_and_outlive_a_restart(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said to one node, done by the other. What is over is cleared away in time, and what holds never."""
    monkeypatch.setattr(server.access.revocations, "EXPIRE_EVERY", 0.2)
    monkeypatch.setattr(server.access.revocations, "BANS_KEPT", 2.0)  # the other node has to hear of it
    database = f"test_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack, instances(mongod.uri, mongod.uri, database=database) as (near, far):
        ann = await far.user(stack, token("ann"))
        for user, path, body in (
            ("eve", "ban", {}), ("eve", "unban", {}), ("bob", "ban", {"seconds": 0.001}), ("ann", "ban", {}),
            ("ann", "ban", {"reason": "again"}), ("zoe", "disconnect", {}),
        ):  # fmt: skip
            assert (await near.call(f"/v1/users/{user}/{path}", body))[0] == 200
        assert await closed(ann) == 4502
        kept = near.node.database.own("revocations")

        async def cleared() -> bool:
            return await kept.count_documents({"kind": {"$in": ["ban", "unban"]}}) == 1

        await until(cleared, 10, "what is over is gone")
    async with instances(mongod.uri, database=database) as (later,):
        _, page = await later.call("/v1/bans")
        assert [(row["user"], row["reason"]) for row in page["bans"]] == [("ann", "again")]
        assert (await later.call("/v1/channels/feed:x/messages", bearer=token("ann", ago=-2)))[0] == 403


# --- several nodes, and what may fail ---------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_ban_is_lifted_by_whichever_node(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by one that has not heard of it yet: whether there is one is asked of MongoDB."""
    monkeypatch.setattr(server.access.revocations, "POLL_EVERY", 60.0)
    async with instances(mongod.uri, mongod.uri) as (one, other):
        assert (await one.call("/v1/users/ann/ban", {}))[0] == 200
        assert await other.call("/v1/users/ann/unban", {}) == (200, {"user": "ann", "bans": []})
        assert (await one.call("/v1/users/ann/unban", {}))[0] == 404


@pytest.mark.gen_test(timeout=30)
@pytest.mark.parametrize("redis", ["there", "away"])
async def test_every_node_within_a_second(mongod: Mongod, tmp_path: Path, redis: str) -> None:
    """Revoked at one, gone at the other, with Redis or without; a right, all rights, one subscription, one session."""
    async with (
        AsyncExitStack() as stack,
        Redis(tmp_path) as broker,
        instances(mongod.uri, mongod.uri, redis=broker.url) as (near, far),
    ):
        bearers = {user: token(user) for user in ("ann", "bob", "cid", "dan", "eve")}
        users = {user: await far.user(stack, bearer, "feed:x") for user, bearer in bearers.items()}
        subscriptions = {user: client.subscriptions["feed:x"] for user, client in users.items()}
        if redis == "away":
            await broker.kill()
        began = time.monotonic()
        await near.call("/v1/users/ann/revoke", {})
        await near.call("/v1/users/bob/revoke", {"channels": ["feed:x"]})
        await near.call("/v1/channels/feed:x/unsubscribe", {"user": "cid"})
        await near.call("/v1/users/dan/disconnect", {})
        assert await closed(users["ann"]) == 4501
        assert (await subscriptions["bob"].next())["code"] == "permission_denied"
        assert (await subscriptions["cid"].next())["code"] == "unsubscribed"
        assert await closed(users["dan"]) == 4502
        assert time.monotonic() - began < 2.0  # four revocations, one after the other
        assert (await far.call("/v1/channels/feed:x/messages", bearer=bearers["ann"]))[0] == 401
        assert (await far.call("/v1/channels/feed:x/messages", bearer=bearers["bob"]))[0] == 403
        assert not users["eve"].losses
        assert users["eve"].subscriptions


@pytest.mark.gen_test
async def test_revocations_outlive_a_restart(mongod: Mongod) -> None:
    """A new node knows them before it is ready; what happens once does not happen again."""
    database = f"test_{uuid.uuid4().hex[:12]}"
    bearers = [token("ann"), token("bob"), token("cid", jti="stolen")]
    async with instances(mongod.uri, database=database) as (first,):
        await first.call("/v1/users/ann/revoke", {})
        await first.call("/v1/users/bob/revoke", {"channels": ["feed:*"]})
        await first.call("/v1/users/cid/revoke", {"token": "stolen"})
        await first.call("/v1/users/bob/disconnect", {})
    async with AsyncExitStack() as stack, instances(mongod.uri, database=database) as (second,):
        statuses = [(await second.call("/v1/channels/feed:x/messages", bearer=bearer))[0] for bearer in bearers]
        assert statuses == [401, 403, 401]
        bob = await second.user(stack, bearers[1])
        await second.call("/v1/users/nobody/disconnect", {})
        await bob.ping()


@pytest.mark.gen_test
async def test_of_each_user_the_newest_is_kept(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what revokes all tokens until then: it says what those before it say. Others stay, and so do their numbers."""
    monkeypatch.setattr(server.access.revocations, "EXPIRE_EVERY", 0.1)
    async with instances(mongod.uri) as (one,):
        old = token("ann")
        for user in ("ann", "ann", "bob", "ann"):
            assert (await one.call(f"/v1/users/{user}/revoke", {}))[0] == 200
        assert (await one.call("/v1/users/ann/revoke", {"channels": ["feed:*"]}))[0] == 200
        collection = one.node.database.own("revocations")

        async def numbers() -> list[int]:
            return [document["_id"] async for document in collection.find().sort("_id")]

        await until(lambda: _is(numbers, [3, 4, 5]), 5, "the old ones to go")
        assert (await one.call("/v1/channels/feed:x/messages", bearer=old))[0] == 401


async def _is(ask: Callable[[], Awaitable[Any]], wanted: object) -> bool:
    return await ask() == wanted


@pytest.mark.gen_test
async def test_racing_writers_all_get_a_number(mongod: Mongod) -> None:
    async with instances(mongod.uri, mongod.uri) as nodes:
        calls = [nodes[n % 2].call(f"/v1/users/u{n}/revoke", {}) for n in range(20)]
        assert {status for status, _ in await asyncio.gather(*calls)} == {200}
        documents = await nodes[0].node.database.own("revocations").find().to_list(None)
        assert sorted(document["_id"] for document in documents) == list(range(1, 21))
        for node in nodes:
            await until(lambda node=node: node.node.revocations.newest == 20, 2, "all of them")


@pytest.mark.gen_test(timeout=30)
async def test_without_confirmation_nothing_is_delivered(mongod: Mongod, tmp_path: Path, quickly: None) -> None:
    """A node that is cut off from MongoDB, while Redis brings messages on: whoever needs a right gets nothing and is
    told `unavailable`; what anybody may read goes on. Then everything continues where it was, and what was revoked
    meanwhile is over."""
    async with AsyncExitStack() as stack, Proxy(mongod.port) as proxy, Redis(tmp_path) as broker:
        cut = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        async with instances(mongod.uri, cut, redis=broker.url) as (near, far):
            ann = await far.user(stack, token("ann"), "feed:x", "live:x", "chat:x")
            bob = await far.user(stack, token("bob"), "feed:x")
            guest = Client(far.ws)
            stack.push_async_callback(guest.close)
            await guest.connect()
            await guest.subscribe("chat:x")
            await near.call("/v1/channels/feed:x/messages", {"data": 1})
            for client in (ann, bob):
                assert (await client.subscriptions["feed:x"].message())["data"] == 1
            proxy.black_hole()
            await until(lambda: not far.node.revocations.confirmed, 5, "doubt")
            for attempt in (ann.publish("feed:x", 1), ann.subscribe("live:y"), ann.history("feed:x")):
                with pytest.raises(Refused, match="unavailable") as refused:
                    await attempt
                assert refused.value.retry_after
            for channel in ("live:x", "feed:x", "chat:x"):
                await near.call(f"/v1/channels/{channel}/messages", {"data": 2})
            assert (await guest.subscriptions["chat:x"].message())["data"] == 2
            assert (await ann.subscriptions["chat:x"].message())["data"] == 2
            for user, channel in (("ann", "live:x"), ("ann", "feed:x"), ("bob", "feed:x")):
                client = {"ann": ann, "bob": bob}[user]
                assert not client.subscriptions[channel].waiting()
            await near.call("/v1/users/bob/revoke", {"channels": ["feed:*"]})
            ended = bob.subscriptions["feed:x"]
            await proxy.heal()
            await until(lambda: far.node.revocations.confirmed, 15, "confidence")
            push = await ann.subscriptions["live:x"].next()
            assert (push["type"], push["count"]) == ("dropped", 1)
            assert (await ann.subscriptions["feed:x"].message())["data"] == 2
            assert (await ended.next())["type"] == "unsubscribed"
            assert not ended.waiting()


@pytest.mark.gen_test(timeout=60)
async def test_an_expired_number_hides_nothing(mongod: Mongod, quickly: None) -> None:
    """A node that was cut off for days: the next number is gone, and one behind it matters."""
    async with instances(mongod.uri) as (one,):
        node = one.node
        collection = node.database.own("revocations")
        old = token("ann")
        node.revocations.doubt()
        await collection.insert_one({"_id": 7, "kind": "revoke", "user": "ann", "at": time.time()})
        await until(lambda: node.revocations.newest == 7, 5, "the seventh")
        assert (await one.call("/v1/channels/feed:x/messages", bearer=old))[0] == 401
        assert (await one.call("/v1/users/bob/revoke", {}))[0] == 200
        assert await collection.find_one({"_id": 8}) is not None
