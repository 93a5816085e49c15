"""Subscriptions by pattern: what is published in the channels of a namespace that match, from now on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

from server.core import config
from server.core.errors import StartError
from server.core.principals import GUEST, Principal
from server.node import Node
from tests.integration.conftest import SETTINGS
from tests.integration.test_served import Base, come, events
from tests.support.centrifugo import Wire
from tests.support.client import Client, Push, Refused, make_token
from tests.support.nodes import instances
from tests.support.processes import Mongod, Redis
from tests.support.waiting import until
from waterspout_client import Client as PythonClient
from waterspout_client import Live, Message

SECRET = str(SETTINGS["auth.secret"])
KEY = "the operator's own key"
OPEN = {"publish": "anyone", "subscribe": "anyone", "patterns": True}
OPTIONS: dict[str, Any] = {
    "auth.api_keys": {
        "ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True, "channels": {"*": ["publish"]}},
        "shop": {"sha256": hashlib.sha256(b"no admin").hexdigest(), "channels": {"*": ["publish", "subscribe"]}},
    },
    "namespaces.stock": OPEN,
    "namespaces.ticks": OPEN | {"durable": False, "conflate": "10s"},
    "namespaces.inbox": {"publish": "anyone", "subscribe": "owner", "patterns": True},
    "namespaces.vip": {"publish": "anyone", "patterns": True},
    "namespaces.plain": {"publish": "anyone", "subscribe": "anyone"},
    "centrifugo.enabled": True,
}


@pytest.fixture
def settings() -> dict[str, object]:
    return OPTIONS


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


@pytest.fixture
def rest(base_url: str, http_server: object) -> Base:
    return Base(base_url)


def token(user: str = "ann", *, ago: float = 10.0, **claims: Any) -> str:
    return make_token(SECRET, user, iat=int(time.time() - ago), **claims)


async def told(client: Client, count: int) -> list[tuple[str, Any]]:
    """(channel, data) of the next messages that came by a pattern."""
    return [(push["channel"], push["data"]) for push in await come(client, count)]


async def quiet(client: Client) -> None:
    await client.ping()
    assert not client.strays


@pytest.mark.gen_test
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_what_matches_comes(url: str, codec: Any) -> None:
    """Durable messages and ephemeral ones, with their channel and the pattern, and without a place; what does not match
    does not, nor what was published before or after. Whoever has the channel as well has it twice."""
    async with Client(url) as publisher, Client(url, codec=codec) as ann:
        await publisher.publish("stock:AAPL", "before")
        assert await ann.request("subscribe", channel="stock:A*") == {
            "type": "reply", "id": ann.session["id"] + 1, "channel": "stock:A*",
        }  # fmt: skip
        await ann.request("subscribe", channel="ticks:*")
        await publisher.publish("stock:AAPL", {"price": 1}, "k1")
        await publisher.publish("stock:MSFT", {"price": 2})
        await publisher.publish("ticks:eur", 3, tag="x")
        await publisher.publish("ticks:eur", 4, tag="x")  # conflation is the channel's, not the pattern's
        pushes = {json.dumps(push["data"]): push for push in await come(ann, 3)}
        stored = pushes['{"price": 1}']
        assert stored.pop("time")
        assert stored == {
            "type": "message", "channel": "stock:AAPL", "pattern": "stock:A*", "user": None, "data": {"price": 1},
        }  # fmt: skip
        assert (pushes["3"]["channel"], pushes["3"]["pattern"], pushes["3"]["tag"]) == ("ticks:eur", "ticks:*", "x")
        assert "4" in pushes
        own = await ann.subscribe("stock:AAPL")
        await publisher.publish("stock:AAPL", 5)
        both = await own.messages(2)
        assert {(push.get("pattern"), push.get("offset")) for push in both} == {("stock:A*", None), (None, 3)}
        await ann.publish("stock:ACME", "my own", echo=False)
        await ann.request("unsubscribe", channel="stock:A*")
        await publisher.publish("stock:ACME", 6)
        await quiet(ann)


@pytest.mark.gen_test
async def test_only_what_may_be_read(url: str, rest: Base, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules hold for each channel (`owner` too), and are asked about once for each reader and channel, and again after
    something was taken back or another token came."""
    asked: list[tuple[str | None, str]] = []
    check = node.permissions.check

    def counting(principal: Principal, action: Any, channel: str) -> Any:
        if action == "subscribe":
            asked.append((principal.user, channel))
        return check(principal, action, channel)

    monkeypatch.setattr(node.permissions, "check", counting)
    async with (
        Client(url) as publisher,
        Client(url, token=token()) as ann,
        Client(url, token=token("bob", channels={"inbox:ann": ["subscribe"]})) as bob,
    ):
        for client in (ann, bob):
            await client.request("subscribe", channel="inbox:*")
        for number in range(3):
            for channel in ("inbox:ann", "inbox:bob", "inbox:eve"):
                await publisher.publish(channel, number)
        assert sorted(await told(ann, 3)) == [("inbox:ann", 0), ("inbox:ann", 1), ("inbox:ann", 2)]
        assert len(await told(bob, 6)) == 6
        assert sorted(asked, key=str) == sorted(
            [(user, f"inbox:{name}") for user in ("ann", "bob") for name in ("ann", "bob", "eve")], key=str
        )
        assert (await rest.call("/v1/users/bob/revoke", {"channels": ["inbox:ann"]}))[0] == 200
        await publisher.publish("inbox:ann", "secret")
        assert await told(ann, 1) == [("inbox:ann", "secret")]
        await quiet(bob)
        await bob.request("refresh", token=token("bob", ago=-3, channels={"inbox:eve": ["subscribe"]}))
        await publisher.publish("inbox:eve", "now")
        assert await told(bob, 1) == [("inbox:eve", "now")]
        assert (await rest.call("/v1/users/bob/revoke", {"channels": ["inbox:*"]}))[0] == 200


@pytest.mark.gen_test
async def test_a_ban_that_ends_by_itself_ends_here_too(url: str, rest: Base) -> None:
    """What was refused because of it is not remembered: once it is over the channel comes by the pattern again, without
    anybody saying so."""
    async with Client(url) as publisher, Client(url, token=token()) as ann:
        await ann.request("subscribe", channel="inbox:*")
        await publisher.publish("inbox:ann", "before")
        assert await told(ann, 1) == [("inbox:ann", "before")]
        assert (await rest.call("/v1/users/ann/ban", {"channels": ["inbox:ann"], "seconds": 0.5}))[0] == 200

        async def comes() -> bool:
            await publisher.publish("inbox:ann", "after")
            return bool(ann.strays)

        await comes()
        await until(comes, 5, "what is published after the ban", every=0.1)


@pytest.mark.gen_test
async def test_revoking_the_pattern_ends_it(url: str, rest: Base) -> None:
    """A revocation of all of it ends the subscription; so does a new token without a right there, and a back end."""
    rights = {"vip:*": ["subscribe"]}
    async with Client(url) as publisher:
        for end in ("revoke", "refresh", "unsubscribe"):
            async with Client(url, token=token(end, channels=rights)) as ann:
                await ann.request("subscribe", channel="vip:*")
                await publisher.publish("vip:a", 1)
                assert await told(ann, 1) == [("vip:a", 1)]
                if end == "revoke":
                    await rest.call(f"/v1/users/{end}/revoke", {"channels": ["vip:*"]})
                elif end == "refresh":
                    await ann.request("refresh", token=token(end))
                else:
                    await rest.unsubscribe(end, "vip:*")
                (push,) = await come(ann, 1)
                assert (push["type"], push["channel"]) == ("unsubscribed", "vip:*")
                await publisher.publish("vip:a", 2)
                await quiet(ann)


@pytest.mark.gen_test
async def test_what_is_refused(url: str, base_url: str) -> None:
    """Patterns where there are none, without any right there, or with a place; and all else than subscribing."""
    async with Client(url) as guest, Wire(base_url) as wire:
        for fields, reason in (
            ({"channel": "plain:*"}, "plain does not say patterns: true"),
            ({"channel": "docs:*"}, "docs does not say patterns: true"),
            ({"channel": "$user:*"}, r"\$user does not say patterns: true"),
            ({"channel": "nowhere:*"}, "no namespace is declared"),
            ({"channel": "*"}, "a name is namespace:rest"),
            ({"channel": "*:a"}, "a name is namespace:rest"),
            ({"channel": "vip:*"}, "a guest may not subscribe"),
            ({"channel": "inbox:*"}, "a guest may not subscribe"),
            ({"channel": "stock:*", "after": "0"}, "after: .* is a pattern"),
            ({"channel": "stock:*", "last": 1}, "last: .* is a pattern"),
            ({"channel": "stock:*", "where": {"a": 1}}, "where: .* is a pattern"),
        ):
            with pytest.raises(Refused, match=reason):
                await guest.request("subscribe", **fields)
        for command in (guest.publish("stock:*", 1), guest.history("stock:*"), guest.presence("stock:*")):
            with pytest.raises(Refused, match="is ephemeral, as all patterns are"):
                await command
        await guest.request("subscribe", channel="stock:*")
        with pytest.raises(Refused, match="conflict"):
            await guest.request("subscribe", channel="stock:*")
        await wire.connect()
        assert "error" in await wire.ask(subscribe={"channel": "stock:*"})
    for path in ("/v1/channels/stock:*/messages", "/v1/channels/stock:*/messages?wait=1"):
        response = await AsyncHTTPClient().fetch(base_url + path, raise_error=False)
        assert "is ephemeral" in json.loads(response.body)["reason"]


@pytest.mark.gen_test
async def test_in_an_event_stream(rest: Base) -> None:
    """Events without ids, alone or among other channels."""
    for path in ("/v1/channels/stock:*/events", "/v1/events?channel=stock:*&channel=plain:a"):
        listening = asyncio.ensure_future(events(rest.base, path, "no admin", 2))

        async def heard() -> bool:
            await rest.publish("stock:a", 1)
            return listening.done()  # noqa: B023

        await until(heard, 10, "an event")
        pushes: list[Push] = [json.loads(event) for event in await listening]
        push = next(push for push in pushes if push["type"] == "message")  # perhaps behind what came too early
        assert (push["channel"], push["pattern"], push["data"]) == ("stock:a", "stock:*", 1)


@pytest.mark.gen_test
async def test_the_server_subscribes_by_pattern(url: str, rest: Base) -> None:
    """A token's claim and a back end may name a pattern: that is the right to all that matches."""
    async with Client(url) as publisher, Client(url, token=token(subscribe=["vip:a*"])) as ann:
        assert await come(ann, 1) == [{"type": "subscribed", "channel": "vip:a*"}]
        assert (await rest.subscribe("ann", "inbox:b*"))[0] == 200
        (push,) = await come(ann, 1)
        assert (push["channel"], len(push["grant"]) > 20) == ("inbox:b*", True)
        await publisher.publish("vip:b", 0)
        await publisher.publish("vip:ab", 1)
        await publisher.publish("inbox:bob", 2)
        assert sorted(await told(ann, 2)) == [("inbox:bob", 2), ("vip:ab", 1)]
        assert (await rest.subscribe("ann", "stock:*", last=1))[1]["code"] == "bad_request"
        assert (await rest.subscribe("ann", "plain:*"))[1]["code"] == "bad_request"


@pytest.mark.gen_test
async def test_costs(url: str, node: Node) -> None:
    """A message is encoded once for each pattern and encoding, however many listen; nobody who is only in a channel
    pays for it, and when the last one has left the broker brings nothing more."""
    followed: list[str] = []
    follow, unfollow = node.broker.follow, node.broker.unfollow

    async def following(namespace: str) -> None:
        followed.append(namespace)
        await follow(namespace)

    async def unfollowing(namespace: str) -> None:
        followed.remove(namespace)
        await unfollow(namespace)

    node.broker.follow, node.broker.unfollow = following, unfollowing  # type: ignore[method-assign]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(url)) for _ in range(8)]
        for client in clients:
            await client.request("subscribe", channel="stock:*")
        assert set(followed) == {"stock"}
        assert node.patterns.count == node.admission.channel_seats.total == 8
        before = node.hub.encodes
        await clients[0].publish("stock:a", 1)
        for client in clients:
            assert await told(client, 1) == [("stock:a", 1)]
        assert node.hub.encodes == before + 1
    await until(lambda: node.patterns.count == 0, 5, "nobody")
    followed[:] = ["stock"]
    assert node.admission.channel_seats.total == 0
    before = node.hub.encodes
    publishing = node.publisher.publish(GUEST, "stock:a", 2)
    assert publishing is not None
    await publishing
    assert node.hub.encodes == before


@pytest.mark.gen_test
async def test_while_rights_are_in_doubt(url: str, node: Node) -> None:
    """While revocations cannot be confirmed nothing that needs a right comes, and how much that was is told."""
    rights = {"vip:*": ["subscribe"]}
    async with Client(url) as publisher, Client(url, token=token(channels=rights)) as ann:
        await ann.request("subscribe", channel="vip:*")
        node.moderation.confirm(False)
        await publisher.publish("vip:a", 1)
        await quiet(ann)
        node.moderation.confirm(True)
        (push,) = await come(ann, 1)
        assert (push["type"], push["channel"], push["count"]) == ("dropped", "vip:*", 1)
        await publisher.publish("vip:a", 2)
        assert await told(ann, 1) == [("vip:a", 2)]


@pytest.mark.gen_test
async def test_with_the_python_client(base_url: str, http_server: object) -> None:
    """A pattern is subscribed to like a channel; the messages say which channel they are of."""
    async with PythonClient(base_url) as client, client.subscribe("stock:*") as stream:
        await client.publish("stock:a", 1)
        received = [event async for event in _two(stream)]
        (message,) = [event for event in received if isinstance(event, Message)]
        assert (message.channel, message.pattern, message.data, message.cursor) == ("stock:a", "stock:*", 1, None)
        assert [event for event in received if isinstance(event, Live)]


async def _two(stream: Any) -> AsyncIterator[Any]:
    for _ in range(2):
        yield await anext(stream)


# --- several nodes ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def nodes(mongod: Mongod, redis: str) -> AsyncIterator[list[str]]:
    async with instances(2, mongod.uri, SETTINGS | OPTIONS | {"redis.prefix": "a*[b"}, redis=redis) as made:
        yield [one.ws for one in made]


@pytest.mark.gen_test(timeout=60)
async def test_on_every_node(mongod: Mongod, tmp_path: Path) -> None:
    """What is published on another node comes through Redis, in channels that nobody here is subscribed to; and again
    after Redis was away, when a subscription is refused meanwhile as `unavailable`."""
    async with (
        Redis(tmp_path) as redis,
        nodes(mongod, redis.url) as [one, two],
        Client(one) as publisher,
        Client(two) as ann,
        Client(two) as bob,
    ):
        await ann.request("subscribe", channel="stock:*")
        await publisher.publish("stock:a", 1)
        await ann.publish("stock:b", 2)
        assert sorted(await told(ann, 2)) == [("stock:a", 1), ("stock:b", 2)]
        await redis.kill()
        with pytest.raises(Refused, match="unavailable: patterns: Redis does not bring them"):
            await bob.request("subscribe", channel="ticks:*", timeout=20)
        await redis.start()

        async def again() -> bool:
            await publisher.publish("stock:c", 3)
            return bool(ann.strays)

        await until(again, 20, "a message")
        await bob.request("subscribe", channel="ticks:*")
        await publisher.publish("ticks:a", 4)
        assert await told(bob, 1) == [("ticks:a", 4)]


def test_what_patterns_do_not_go_with() -> None:
    """Members, whose rights change, a hook that is asked about each subscription, and Redis's sharded pub/sub."""
    with pytest.raises(StartError, match=r"namespaces\.a\.patterns: not with members"):
        config.load(None, {}, {"namespaces.a": OPEN | {"members": True}}.items())
    hooks = {"hooks": {"x": {"function": "os.path:join"}}, "namespaces.a": OPEN | {"hook": "x"}}
    with pytest.raises(StartError, match=r"namespaces\.a\.patterns: its hook x is asked about each channel"):
        config.load(None, {}, hooks.items())
    sharded = {"redis.sharded": True, "redis.url": "redis+cluster://127.0.0.1:1", "namespaces.a": OPEN}
    with pytest.raises(StartError, match=r"namespaces\.a\.patterns: not with redis\.sharded"):
        config.load(None, {}, sharded.items())
