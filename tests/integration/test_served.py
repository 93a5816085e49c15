"""Subscriptions that the server makes: because a token says so, or a back end wants it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

from server.core.errors import Error
from server.core.tasks import Keeper
from server.node import Node
from tests.integration.conftest import SETTINGS
from tests.support.centrifugo import Wire
from tests.support.client import Client, Push, Refused, make_token
from tests.support.nodes import instances
from tests.support.processes import Mongod, Redis
from tests.support.waiting import until

SECRET = str(SETTINGS["auth.secret"])
KEY = "the operator's own key"
OPTIONS: dict[str, Any] = {
    "auth.api_keys": {
        "ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True},
        "shop": {"sha256": hashlib.sha256(b"no admin").hexdigest(), "channels": {"news:*": ["publish", "subscribe"]}},
    },
    "namespaces.news": {"history": {"size": 5}},
    "namespaces.ticks": {"durable": False},
    "namespaces.club": {"presence": True, "publish": "anyone"},
    "limits.channels_per_connection": 4,
    "centrifugo.enabled": True,
}


@pytest.fixture
def settings() -> dict[str, object]:
    return OPTIONS


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


def token(user: str = "ann", *, ago: float = 10.0, **claims: Any) -> str:
    return make_token(SECRET, user, iat=int(time.time() - ago), **claims)


class Base:
    """A server's REST API."""

    def __init__(self, base: str) -> None:
        self.base = base

    async def call(self, path: str, body: Any, bearer: str | None = KEY) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        response = await AsyncHTTPClient().fetch(
            self.base + path, method="POST", headers=headers, body=json.dumps(body), raise_error=False
        )
        return response.code, json.loads(response.body)

    async def publish(self, channel: str, *data: Any) -> None:
        for one in data:
            status, answer = await self.call(f"/v1/channels/{channel}/messages", {"data": one}, "no admin")
            assert status in (201, 202), answer

    async def subscribe(self, user: str, channel: str, **fields: Any) -> tuple[int, Any]:
        return await self.call(f"/v1/users/{user}/subscribe", {"channel": channel, **fields})

    async def unsubscribe(self, user: str, channel: str, **fields: Any) -> tuple[int, Any]:
        return await self.call(f"/v1/users/{user}/unsubscribe", {"channel": channel, **fields})


@pytest.fixture
def rest(base_url: str, http_server: object) -> Base:
    return Base(base_url)


async def come(client: Client, count: int = 1) -> list[Push]:
    """The next pushes of channels that the client has not asked for."""
    await until(lambda: len(client.strays) >= count, 5, f"{count} pushes; there are {client.strays}")
    taken, client.strays[:count] = client.strays[:count], []
    return taken


async def nothing_more(client: Client) -> None:
    await client.ping()
    assert not client.strays


# --- by a token -------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_token_subscribes(url: str, rest: Base) -> None:
    """Behind the reply to `connect` a push tells of each channel, without a right or a command; messages follow as
    ever, and the right to read them as well."""
    async with Client(url, token=token(subscribe=["news:all", "$user:ann", "ticks:1"])) as ann:
        told = {push["channel"]: push for push in await come(ann, 3)}
        assert {push["type"] for push in told.values()} == {"subscribed"}
        assert told["ticks:1"] == {"type": "subscribed", "channel": "ticks:1"}
        assert told["news:all"]["cursor"] == told["news:all"]["head"]
        assert told["news:all"]["recovered"] is True
        assert "grant" not in told["news:all"]
        await rest.publish("news:all", {"n": 1})
        (message,) = await come(ann)
        assert (message["type"], message["channel"], message["data"]) == ("message", "news:all", {"n": 1})
        assert (await ann.history("news:all"))["messages"][0]["data"] == {"n": 1}
        status, _ = await rest.call("/v1/channels/$user:ann/messages", {"data": "for ann"}, "no admin")
        assert status == 201
        assert [push["data"] for push in await come(ann)] == ["for ann"]


@pytest.mark.gen_test
async def test_a_token_says_where_to_begin(url: str, rest: Base) -> None:
    """With the last so many messages, behind a cursor, or (null) from now on."""
    await rest.publish("news:a", 1, 2, 3)
    starts = {"news:a": {"last": 2}, "news:b": None, "news:c": {"after": "0"}}
    await rest.publish("news:c", "c")
    async with Client(url, token=token(subscribe=starts)) as ann:
        pushes = await come(ann, 6)
        assert sorted(push["channel"] for push in pushes if push["type"] == "subscribed") == [
            "news:a",
            "news:b",
            "news:c",
        ]
        assert [push["data"] for push in pushes if push["type"] == "message" and push["channel"] == "news:a"] == [2, 3]
        assert [push["data"] for push in pushes if push["type"] == "message" and push["channel"] == "news:c"] == ["c"]


@pytest.mark.gen_test
async def test_the_client_goes_on_where_it_was(url: str, rest: Base) -> None:
    """`connect` with cursors: what was missed comes, with a gap before it if it is gone; and of what the token does not
    name (any more), the client is told so."""
    claims = {"subscribe": ["news:a", "news:b"]}
    async with Client(url, token=token(**claims)) as ann:
        cursors = {push["channel"]: push["cursor"] for push in await come(ann, 2)}
    await rest.publish("news:a", 1, 2)
    await rest.publish("news:b", 3)
    cursors["news:b"] = "another:7"
    async with Client(url, greet=False) as ann:
        await ann.request("connect", token=token(**claims), after=cursors | {"news:gone": "0"})
        pushes = await come(ann, 1 + 3 + 3)
        assert [push["type"] for push in pushes if push["channel"] == "news:gone"] == ["unsubscribed"]
        subscribed, *messages = [push for push in pushes if push["channel"] == "news:a"]
        assert (subscribed["recovered"], subscribed["cursor"]) == (True, cursors["news:a"])
        assert [message["data"] for message in messages] == [1, 2]
        subscribed, gap, *messages = [push for push in pushes if push["channel"] == "news:b"]
        assert (subscribed["recovered"], gap["type"]) == (False, "gap")
        assert [message["data"] for message in messages] == [3]
        await nothing_more(ann)


@pytest.mark.gen_test
async def test_a_client_takes_over(url: str, rest: Base) -> None:
    """Its own `subscribe` is answered as any other and begins where it says; a refused one changes nothing. And it may
    leave."""
    async with Client(url, token=token(subscribe=["news:a"])) as ann:
        await come(ann)
        await rest.publish("news:a", 1, 2)
        await come(ann, 2)
        with pytest.raises(Refused, match="not a cursor"):
            await ann.request("subscribe", channel="news:a", after="!")
        assert [push["type"] for push in await come(ann)] == ["subscribed"]
        await rest.publish("news:a", 3)
        assert [push["data"] for push in await come(ann)] == [3]
        mine = await ann.subscribe("news:a", after="0")
        assert [message["data"] for message in await mine.messages(3)] == [1, 2, 3]
        with pytest.raises(Refused, match="conflict"):
            await ann.request("subscribe", channel="news:a")
        await ann.unsubscribe("news:a")
        await rest.publish("news:a", 4)
        await nothing_more(ann)


@pytest.mark.gen_test
async def test_a_new_token_brings_and_takes(url: str, node: Node) -> None:
    """A refresh subscribes to what only the new token names, and ends what it does not name any more; what the client
    has left it does not bring back."""
    async with Client(url, token=token(subscribe=["news:a", "news:b"])) as ann:
        await come(ann, 2)
        await ann.unsubscribe("news:b")
        await ann.request("refresh", token=token(subscribe=["news:b", "news:c"]))
        pushes = await come(ann, 2)
        assert sorted((push["type"], push["channel"]) for push in pushes) == [
            ("subscribed", "news:c"),
            ("unsubscribed", "news:a"),
        ]
        await nothing_more(ann)


@pytest.mark.gen_test
async def test_a_list_is_bounded(url: str, node: Node) -> None:
    """More channels than a connection may have, in the token or as cursors: refused by the limit's name, and no seat is
    left behind."""
    for command in (
        {"token": token(subscribe=[f"news:{n}" for n in range(5)])},
        {"token": token(), "after": {f"news:{n}": "0" for n in range(5)}},
    ):
        async with Client(url, greet=False) as ann:
            with pytest.raises(Refused, match="subscribe: 5 channels; channels_per_connection is 4") as caught:
                await ann.request("connect", **command)
            assert caught.value.code == "limit_exceeded"
            await until(lambda: ann.losses, 5, "the end")
            assert ann.losses[0].code == 4500
    assert node.admission.channel_seats.total == 0


@pytest.mark.gen_test
async def test_what_cannot_be(url: str) -> None:
    """A name that is none makes the token invalid; an unknown namespace, somebody else's channel and what an ephemeral
    channel does not have are told by a push, and the connection stays."""
    async with Client(url, greet=False) as ann:
        with pytest.raises(Refused, match="subscribe: channel: a name is namespace:rest"):
            await ann.request("connect", token=token(subscribe=["no name"]))
    async with Client(
        url, token=token(subscribe={"nowhere:1": None, "$user:bob": None, "ticks:1": {"last": 1}})
    ) as ann:
        pushes = await come(ann, 3)
        assert sorted((push["type"], push["channel"], push["code"]) for push in pushes) == [
            ("unsubscribed", "$user:bob", "permission_denied"),
            ("unsubscribed", "nowhere:1", "unknown_channel"),
            ("unsubscribed", "ticks:1", "bad_request"),
        ]
        await ann.ping()


@pytest.mark.gen_test
async def test_what_is_unavailable_is_tried_again(
    url: str, node: Node, monkeypatch: pytest.MonkeyPatch, rest: Base
) -> None:
    """The server has wanted it, so it goes on trying; the client hears of it when it is there."""
    acquire, failures = node.streams.acquire, 2

    async def sometimes(*arguments: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise Error("unavailable", "MongoDB: away", retry_after=0.01)
        return await acquire(*arguments)

    monkeypatch.setattr(node.streams, "acquire", sometimes)
    async with Client(url, token=token(subscribe=["news:a"])) as ann:
        assert [push["type"] for push in await come(ann)] == ["subscribed"]
        assert failures == 0
        assert node.admission.channel_seats.total == 1
    await until(lambda: node.admission.channel_seats.total == 0, 5, "no seat taken")


# --- by a back end ----------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_back_end_subscribes_a_user(url: str, rest: Base) -> None:
    """All of the user's sessions, without a right of theirs; who has it already, and who is somebody else, hear
    nothing."""
    await rest.publish("news:a", 1, 2)
    async with (
        Client(url, token=token()) as one,
        Client(url, token=token(), codec="msgpack") as two,
        Client(url, token=token("bob")) as bob,
    ):
        assert await rest.subscribe("ann", "news:a", last=1) == (200, {"user": "ann", "channel": "news:a"})
        for client in (one, two):
            subscribed, message = await come(client, 2)
            assert (subscribed["type"], subscribed["channel"]) == ("subscribed", "news:a")
            assert (message["data"], message["cursor"]) == (2, subscribed["head"])
        assert (await rest.subscribe("ann", "news:a"))[0] == 200
        await rest.publish("news:a", 3)
        for client in (one, two):
            assert [push["data"] for push in await come(client)] == [3]
        await nothing_more(bob)
        assert await rest.unsubscribe("ann", "news:a", reason="enough") == (
            200,
            {"user": "ann", "channel": "news:a"},
        )
        for client in (one, two):
            (push,) = await come(client)
            assert (push["type"], push["code"], push["reason"]) == ("unsubscribed", "unsubscribed", "enough")
        await rest.publish("news:a", 4)
        await nothing_more(one)


@pytest.mark.gen_test
async def test_who_may_and_what_there_is(rest: Base, url: str) -> None:
    """An admin's key is needed; and a channel that there is, which the user may have, with a history if one is asked
    for."""
    for bearer in (None, token(), "no admin"):
        assert (await rest.call("/v1/users/ann/subscribe", {"channel": "news:a"}, bearer))[1][
            "code"
        ] == "permission_denied"
        assert (await rest.call("/v1/users/ann/unsubscribe", {"channel": "news:a"}, bearer))[1][
            "code"
        ] == "permission_denied"
    for channel, fields, code in (
        ("nowhere:1", {}, "unknown_channel"),
        ("no name", {}, "bad_request"),
        ("$user:bob", {}, "permission_denied"),
        ("$sys:nodes", {}, "permission_denied"),
        ("ticks:1", {"last": 1}, "bad_request"),
        ("news:a", {"last": -1}, "bad_request"),
        ("news:a", {"last": 1001}, "bad_request"),
    ):
        assert (await rest.subscribe("ann", channel, **fields))[1]["code"] == code, channel
    assert (await rest.call("/v1/users/ann/subscribe", {}))[1]["reason"] == "channel: required"
    async with Client(url, token=token()) as ann:
        assert (await rest.subscribe("ann", "$user:ann"))[0] == 200
        assert [push["channel"] for push in await come(ann)] == ["$user:ann"]


@pytest.mark.gen_test
async def test_who_connects_in_that_moment(url: str, rest: Base, node: Node) -> None:
    """Who was not there yet when the back end asked is subscribed as it connects; not if it was taken back since."""
    assert (await rest.subscribe("ann", "news:a"))[0] == 200
    assert (await rest.subscribe("ann", "news:b"))[0] == 200
    assert (await rest.unsubscribe("ann", "news:b"))[0] == 200
    async with Client(url, token=token()) as ann, Client(url, token=token("bob")) as bob:
        assert [(push["type"], push["channel"]) for push in await come(ann)] == [("subscribed", "news:a")]
        await nothing_more(ann)
        await nothing_more(bob)
    async with Wire(rest.base) as wire:
        await wire.connect(token=token())
        push = await wire.push()
        assert (push["channel"], push["subscribe"]["recoverable"]) == ("news:a", True)
    assert (await rest.subscribe("ann", "news:b"))[0] == 200  # again: what was ended before counts no more
    async with Client(url, token=token()) as ann:
        assert sorted(push["channel"] for push in await come(ann, 2)) == ["news:a", "news:b"]


@pytest.mark.gen_test
async def test_a_grant_brings_it_back(url: str, rest: Base) -> None:
    """What the push gave lets the user's client subscribe on another connection; nobody else, nowhere else, and not
    after it was taken back: by an unsubscription that it has missed, or by a revocation."""
    async with Client(url, token=token()) as ann:
        assert (await rest.subscribe("ann", "club:1"))[0] == 200
        (pushed,) = await come(ann)
    grant = pushed["grant"]
    await rest.call("/v1/channels/club:1/messages", {"data": "missed"}, None)
    async with Client(url, token=token()) as ann, Client(url, token=token("bob")) as bob:
        await until(lambda: ann.strays, 5, "what is remembered for a moment")
        ann.strays.clear()
        await ann.unsubscribe("club:1")
        with pytest.raises(Refused, match="may not subscribe"):
            await ann.request("subscribe", channel="club:1")
        for client, channel, shown in (
            (bob, "club:1", grant),
            (ann, "club:2", grant),
            (ann, "club:1", grant[:-1] + "x"),
            (ann, "club:1", "x"),
            (ann, "club:1", ""),
        ):
            with pytest.raises(Refused, match="grant: it gives no right"):
                await client.request("subscribe", channel=channel, grant=shown)
        club = await ann.subscribe("club:1", grant=grant, after=pushed["cursor"])
        messages = [push for push in [await club.next()] if push["type"] == "message"]
        assert [message["data"] for message in messages] == ["missed"]
        await ann.unsubscribe("club:1")
        assert (await rest.unsubscribe("ann", "club:1"))[0] == 200
        with pytest.raises(Refused, match="grant: it gives no right"):
            await ann.request("subscribe", channel="club:1", grant=grant)
    async with Client(url, token=token()) as ann:
        assert (await rest.subscribe("ann", "club:1"))[0] == 200
        grant = (await come(ann))[0]["grant"]
        assert (await rest.call("/v1/users/ann/revoke", {"channels": ["club:*"]}))[0] == 200
        assert [push["code"] for push in await come(ann)] == ["permission_denied"]
        with pytest.raises(Refused, match="revoked"):
            await ann.request("subscribe", channel="club:1", grant=grant)
    async with Client(url, token=token(ago=-2)) as ann:  # another login, after that
        with pytest.raises(Refused, match="revoked"):
            await ann.request("subscribe", channel="club:1", grant=grant)


@pytest.mark.gen_test
async def test_a_revocation_takes_what_the_server_gave(url: str, rest: Base) -> None:
    """Also from who logged in after it was issued only as far as it is older; a token's own end takes all."""
    async with Client(url, token=token(subscribe=["news:a"])) as ann:
        await come(ann)
        assert (await rest.call("/v1/users/ann/revoke", {"channels": ["news:*"]}))[0] == 200
        assert [(push["type"], push["code"]) for push in await come(ann)] == [("unsubscribed", "permission_denied")]
        assert (await rest.call("/v1/users/ann/revoke", {}))[0] == 200
        await until(lambda: ann.losses, 5, "the end")
        assert ann.losses[0].code == 4501


@pytest.mark.gen_test
async def test_seats_count_all_alike(url: str, rest: Base, node: Node) -> None:
    """What the server subscribes a client to takes seats of its connection: beyond them it is told by a push, or the
    client's own is refused."""
    async with Client(url, token=token(subscribe=[f"news:{n}" for n in range(3)])) as ann:
        await come(ann, 3)
        await ann.subscribe("chat:a")
        assert (await rest.subscribe("ann", "news:more"))[0] == 200
        (push,) = await come(ann)
        assert (push["type"], push["code"], push["reason"]) == (
            "unsubscribed",
            "limit_exceeded",
            "channels_per_connection is 4",
        )
        with pytest.raises(Refused, match="channels_per_connection is 4"):
            await ann.request("subscribe", channel="chat:b")
        assert node.admission.channel_seats.total == 4


@pytest.mark.gen_test
async def test_who_is_there(url: str, rest: Base) -> None:
    """Presence counts who was subscribed by the server, once, also when the client takes it over."""
    async with Client(url, token=token(subscribe=["club:a"], channels={"club:*": ["subscribe"]})) as ann:
        await come(ann)
        assert (await ann.presence("club:a"))["users"] == [{"user": "ann", "sessions": 1}]
        await ann.subscribe("club:a")
        assert (await ann.presence("club:a"))["users"] == [{"user": "ann", "sessions": 1}]


@asynccontextmanager
async def nodes(mongod: Mongod, redis: str) -> AsyncIterator[list[tuple[Node, Base]]]:
    async with instances(2, mongod.uri, SETTINGS | OPTIONS, redis=redis) as made:
        yield [(one.node, Base(one.base)) for one in made]


@pytest.mark.gen_test(timeout=60)
async def test_on_every_node(mongod: Mongod, tmp_path: Path) -> None:
    """The user's sessions elsewhere are subscribed as well, those of Centrifugo's clients too; so is who connects
    elsewhere in that moment. A node that is cut off says that others have not heard of it."""
    async with Redis(tmp_path) as redis, nodes(mongod, redis.url) as [(_, one), (other, two)]:
        ws = two.base.replace("http", "ws") + "/v1/ws"
        async with Client(ws, token=token()) as ann, Wire(two.base) as wire:
            await wire.connect(token=token())
            assert (await one.subscribe("ann", "news:a"))[0] == 200
            assert [push["type"] for push in await come(ann)] == ["subscribed"]
            assert (await wire.push())["channel"] == "news:a"
            async with Client(ws, token=token()) as later:
                assert [push["channel"] for push in await come(later)] == ["news:a"]
            await two.publish("news:a", 1)
            assert [push["data"] for push in await come(ann)] == [1]
        async with Client(ws, token=token("bob")) as bob:
            await redis.kill()
            await until(lambda: other.peers.unheard() is not None, 30, "a node that hears nobody")
            status, answer = await two.subscribe("bob", "news:b")
            assert (status, answer["code"]) == (503, "unavailable")
            assert "sessions of other nodes may not have heard of it" in answer["reason"]
            assert [push["channel"] for push in await come(bob)] == ["news:b"]  # here it is done


# --- event streams and polls ------------------------------------------------------------------------------------------


async def events(base: str, path: str, bearer: str, count: int) -> list[str]:
    """The first so many events' data, or the problem's code."""
    got: list[str] = []
    done = asyncio.Event()
    rest = b""

    def take(chunk: bytes) -> None:
        nonlocal rest
        *lines, rest = (rest + chunk).split(b"\n")
        got.extend(line[6:].decode() for line in lines if line.startswith(b"data: "))
        if len(got) >= count:
            done.set()

    client = AsyncHTTPClient(force_instance=True)
    fetching = client.fetch(
        base + path, headers={"Authorization": f"Bearer {bearer}"}, streaming_callback=take, request_timeout=20,
        raise_error=False,
    )  # fmt: skip
    enough = asyncio.ensure_future(done.wait())
    try:
        await asyncio.wait([enough, fetching], timeout=10, return_when=asyncio.FIRST_COMPLETED)
    finally:
        enough.cancel()
        client.close()
        fetching.cancel()
    return got or [json.loads(rest)["code"]]


@pytest.mark.gen_test
async def test_listening_without_naming_channels(rest: Base) -> None:
    """An event stream or a poll that names no channel is of those that the token names; without such a token it is
    refused."""
    await rest.publish("news:a", 1, 2)
    bearer = token(subscribe={"news:a": {"last": 1}, "news:b": None})
    (event,) = await events(rest.base, "/v1/events", bearer, 1)
    assert json.loads(event)["data"] == 2
    assert await events(rest.base, "/v1/events", token(), 1) == ["bad_request"]
    response = await AsyncHTTPClient().fetch(rest.base + "/v1/poll", headers={"Authorization": f"Bearer {bearer}"})
    assert sorted(message["data"] for message in json.loads(response.body)["messages"]) == [1, 2]
    response = await AsyncHTTPClient().fetch(rest.base + "/v1/poll", raise_error=False)
    assert json.loads(response.body)["reason"] == "channel: required, as the token subscribes to none"


# --- what concerns a person and no room -------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_the_channel_of_a_user(url: str, rest: Base) -> None:
    """`$user:ann` is there without a declaration, at every door: read by Ann alone, written by back ends alone, and
    durable; no right that a token or a key carries reaches it."""
    mine = "/v1/channels/$user:ann"
    everything = {"*": ["publish", "subscribe"], "$user:*": ["publish", "subscribe"]}
    async with Client(url, token=token()) as ann, Client(url, token=token("bob", channels=everything)) as bob:
        own = await ann.subscribe("$user:ann", last=5)
        for client in (ann, bob):
            with pytest.raises(Refused, match=r"may not publish in \$user:ann"):
                await client.publish("$user:ann", "forged")
        with pytest.raises(Refused, match=r"bob may not subscribe in \$user:ann"):
            await bob.subscribe("$user:ann")
        with pytest.raises(Refused, match="may not subscribe"):
            await bob.history("$user:ann")
        for bearer, status in ((token(), 403), (None, 403), ("no admin", 201), (KEY, 201)):
            assert (await rest.call(f"{mine}/messages", {"data": f"{bearer}"}, bearer))[0] == status
        assert [message["data"] for message in await own.messages(2)] == ["no admin", KEY]
        assert [message["user"] for message in (await ann.history("$user:ann"))["messages"]] == ["shop", "ops"]
    async with Client(url, token="no admin") as shop:
        await shop.publish("$user:ann", "by a WebSocket")
        with pytest.raises(Refused, match="may not subscribe"):
            await shop.subscribe("$user:ann")
    (event,) = await events(rest.base, f"{mine}/events?last=1", token(), 1)
    assert json.loads(event)["data"] == "by a WebSocket"
    assert await events(rest.base, f"{mine}/events", token("bob"), 1) == ["permission_denied"]
    for bearer, status in ((token(), 200), (token("bob"), 403)):
        address, headers = f"{rest.base}{mine}/messages?after=0&wait=1", {"Authorization": f"Bearer {bearer}"}
        response = await AsyncHTTPClient().fetch(address, headers=headers, raise_error=False)
        assert response.code == status
    async with Wire(rest.base) as wire:
        await wire.connect(token=token())
        assert "error" not in await wire.ask(subscribe={"channel": "$user:ann"})
        assert (await wire.ask(subscribe={"channel": "$user:bob"}))["error"]["code"] == 103
        assert (await wire.ask(publish={"channel": "$user:ann", "data": 1}))["error"]["code"] == 103
        assert (await rest.call(f"{mine}/messages", {"data": "hi"}, "no admin"))[0] == 201
        assert [pub["data"] for pub in await wire.pubs(1)] == ["hi"]


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_who_has_none_of_it_pays_nothing(url: str, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection of whose token names no channel, where no hook is asked and no pattern listened to, begins no task
    and asks nobody; nor does a message."""
    begun: list[str] = []
    spawn = Keeper.spawn

    def noting(keeper: Keeper, name: str, *arguments: Any, **options: Any) -> Any:
        if keeper is node.keeper:
            begun.append(name)
        return spawn(keeper, name, *arguments, **options)

    monkeypatch.setattr(Keeper, "spawn", noting)
    async with Client(url, token=token()) as ann:
        await ann.ping()
        assert begun == []
        await ann.publish("chat:a", 1)
        assert begun == []
        assert not node.directives.any
        assert node.patterns.count == 0
