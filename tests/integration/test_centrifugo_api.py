"""Centrifugo's server API: literal requests of back ends, and its Python library as it is on PyPI."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import cent
import pytest
import requests
from cent.exceptions import CentApiResponseError, CentUnauthorizedError

from tests.support.centrifugo import Wire
from tests.support.centrifugo import token as signed
from tests.support.client import Client, make_token
from tests.support.methods import METHODS
from tests.support.processes import UNLIMITED, Mongod, Process, Redis, Server
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
KEY, OPERATOR = "the back end's key", "the operator's key"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, mongod: Mongod) -> Iterator[list[Server]]:
    """Two instances: what is asked of one is done on both."""
    rights = {"*": ["publish", "subscribe"]}
    settings = UNLIMITED | {
        "mongodb.database": f"test_{uuid.uuid4().hex[:12]}",
        "centrifugo": {"enabled": True, "namespace": "cf"},
        "auth.secret": SECRET,
        "auth.api_keys": {
            "shop": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "channels": {"cf:*": rights["*"]}},
            "ops": {"sha256": hashlib.sha256(OPERATOR.encode()).hexdigest(), "admin": True, "channels": rights},
        },
        "namespaces.cf": {"publish": "user", "subscribe": "user", "presence": True, "ephemeral": True},
        "namespaces.hidden": {},
        "calls": METHODS,
        "namespaces.live": {"durable": False, "publish": "server", "subscribe": "user"},
    }
    directory = tmp_path_factory.mktemp("api")

    async def start() -> list[Process]:
        redis = await Redis(directory).start()
        made = [Server(directory, mongod.uri, redis.url, settings, name=f"server{number}") for number in (1, 2)]
        return [*[await server.start() for server in made], redis]

    running = asyncio.run(start())
    yield [one for one in running if isinstance(one, Server)]
    for one in running:
        asyncio.run(one.__aexit__(None, None, None))


@pytest.fixture
def server(servers: list[Server]) -> Server:
    return servers[0]


@pytest.fixture
def channel() -> str:
    """One that no other test writes to."""
    return f"room-{uuid.uuid4().hex[:8]}"


def ask(server: Server, method: str, params: Any, key: str = OPERATOR) -> requests.Response:
    return requests.post(f"{server.base}/api/{method}", json=params, headers={"X-API-Key": key}, timeout=30)


def result(server: Server, method: str, params: Any, key: str = OPERATOR) -> Any:
    response = ask(server, method, params, key)
    assert response.status_code == 200, response.text
    assert "error" not in response.json(), response.text
    return response.json()["result"]


def error(server: Server, method: str, params: Any, key: str = OPERATOR) -> int:
    response = ask(server, method, params, key)
    assert response.status_code == 200, response.text
    assert set(response.json()) == {"error"}, response.text
    assert response.json()["error"]["message"]
    code: int = response.json()["error"]["code"]
    return code


# --- the request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "nobody's"},
        {"Authorization": "apikey nobody's"},
        {"Authorization": "apikey"},
        {"Authorization": f"Bearer {KEY}"},
        {"X-API-Key": make_token(SECRET, "ann")},
    ],
)
def test_without_an_api_key_it_is_401(server: Server, headers: dict[str, str]) -> None:
    """No key, a wrong one, another scheme, a user's token: nothing is done, and the status says why."""
    response = requests.post(f"{server.base}/api/info", json={}, headers=headers, timeout=30)
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")


def test_the_key_and_the_method_have_two_places_each(server: Server, channel: str) -> None:
    """X-API-Key or Authorization; the method in the path or beside its parameters."""
    body = {"method": "publish", "params": {"channel": channel, "data": 1}}
    one = requests.post(f"{server.base}/api", json=body, headers={"Authorization": f"apikey {KEY}"}, timeout=30)
    two = requests.post(f"{server.base}/api", json={"method": "info"}, headers={"X-API-Key": OPERATOR}, timeout=30)
    assert one.json()["result"]["offset"] == 1
    assert two.json()["result"]["nodes"]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("publish", {"channel": "x"}, 107),
        ("publish", {"data": 1}, 107),
        ("publish", {"channel": "", "data": 1}, 107),
        ("publish", {"channel": 7, "data": 1}, 107),
        ("publish", {"channel": "a b", "data": 1}, 102),
        ("publish", {"channel": "nowhere:x", "data": 1}, 102),
        ("publish", {"channel": "x", "data": "y" * 70000}, 107),
        ("publish", {"channel": "x", "b64data": "?"}, 107),
        ("publish", {"channel": "x", "b64data": base64.b64encode(b"\xff").decode()}, 107),
        ("publish", {"channel": "x", "data": 1, "tags": {"a": "b"}}, 107),
        ("publish", {"channel": "x", "data": 1, "version": 3}, 107),
        ("publish", {"channel": "x", "data": 1, "idempotency_key": "k" * 256}, 107),
        ("broadcast", {"channels": [], "data": 1}, 107),
        ("broadcast", {"channels": "x", "data": 1}, 107),
        ("history", {"channel": "x", "limit": -2}, 107),
        ("history", {"channel": "live:x"}, 107),
        ("history_remove", {"channel": "nowhere:x"}, 102),
        ("history_remove", {"channel": "live:x"}, 107),
        ("subscribe", {"channel": "x"}, 107),
        ("subscribe", {"channel": "nowhere:x", "user": "ann"}, 102),
        ("subscribe", {"channel": "x", "user": "ann", "expire_at": 1}, 107),
        ("subscribe", {"channel": "x", "user": "ann", "recover_since": {"offset": 1, "epoch": "e"}}, 107),
        ("subscribe", {"channel": "x", "user": "ann", "b64info": "?"}, 107),
        ("refresh", {"user": ""}, 107),
        ("refresh", {"user": "ann", "expire_at": -1}, 107),
        ("unsubscribe", {"channel": "x"}, 107),
        ("disconnect", {}, 107),
        ("disconnect", {"user": "ann", "disconnect": {"code": 1}}, 107),
        ("presence", {"channel": "live:x"}, 108),
        ("presence_stats", {"channel": "nowhere:x"}, 102),
        ("rpc", {"method": "sum"}, 108),
        ("rpc", {"method": ""}, 107),
        ("rpc", {"method": "refuse"}, 409),
        ("publish", [], 107),
        ("batch", {"commands": 1}, 107),
        ("map_publish", {}, 104),
        ("constructor", {}, 104),
    ],
)
def test_what_cannot_be_done_has_a_number(server: Server, method: str, params: Any, code: int) -> None:
    """200 with Centrifugo's own codes; the message names the field or the limit."""
    assert error(server, method, params) == code


def test_what_is_no_json_is_a_bad_request(server: Server) -> None:
    """Answered like any other mistake of somebody with a key."""
    sent = requests.post(f"{server.base}/api/publish", data=b"{", headers={"X-API-Key": KEY}, timeout=30)
    assert (sent.status_code, sent.json()["error"]["code"]) == (200, 107)


def test_rights(server: Server, channel: str) -> None:
    """Publishing and reading take the rights of the channel, what concerns users or all channels takes `admin`."""
    assert result(server, "publish", {"channel": channel, "data": 1}, KEY)["offset"] == 1
    assert error(server, "publish", {"channel": "hidden:x", "data": 1}, KEY) == 103
    assert error(server, "history", {"channel": "hidden:x"}, KEY) == 103
    for method, params in {
        "subscribe": {"channel": channel, "user": "ann"},
        "unsubscribe": {"channel": channel, "user": "ann"},
        "refresh": {"user": "ann"},
        "disconnect": {"user": "ann"},
        "history_remove": {"channel": channel},
        "info": {},
        "channels": {},
    }.items():
        assert error(server, method, params, KEY) == 103, method


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_retry_is_stored_once(server: Server, channel: str) -> None:
    """`idempotency_key` is the key of the message: the retry gets the place of the first, other data a conflict."""
    sent = {"channel": channel, "data": {"n": 1}, "idempotency_key": "order-1"}
    first = result(server, "publish", sent)
    assert result(server, "publish", sent) == first
    assert error(server, "publish", sent | {"data": 2}) == 105
    found = result(server, "history", {"channel": channel, "limit": -1})
    assert [(one["offset"], one["data"]) for one in found["publications"]] == [(1, {"n": 1})]
    assert (found["offset"], found["epoch"]) == (first["offset"], first["epoch"])


def test_broadcast_answers_for_each_channel(server: Server, channel: str) -> None:
    """In the order of the channels, with an error where one is refused."""
    sent = {"channels": [channel, "nowhere:x", channel], "data": "hello"}
    one, two, three = result(server, "broadcast", sent)["responses"]
    assert one["result"]["offset"] == 1
    assert two["error"]["code"] == 102
    assert three["result"]["offset"] == 2


def test_what_is_not_stored_has_no_position(server: Server, channel: str) -> None:
    """Ephemeral channels, and `skip_history` where the namespace allows it."""
    assert result(server, "publish", {"channel": "live:x", "data": 1}) == {}
    assert result(server, "publish", {"channel": channel, "data": 1, "skip_history": True}) == {}
    assert error(server, "publish", {"channel": "hidden:x", "data": 1, "skip_history": True}) == 107
    assert result(server, "history", {"channel": channel})["offset"] == 0


def test_json_in_base64(server: Server, channel: str) -> None:
    """`b64data` is the same data in another dress."""
    result(server, "publish", {"channel": channel, "b64data": base64.b64encode(b'{"a": [1]}').decode()})
    found = result(server, "history", {"channel": channel, "limit": 1})
    assert found["publications"][0]["data"] == {"a": [1]}


def test_a_batch_answers_each_command(server: Server, channel: str) -> None:
    """One after another, or at once if they are said to be independent; one that is refused stops no other."""
    commands = [
        {"publish": {"channel": channel, "data": 1}},
        {"publish": {"channel": "nowhere:x", "data": 1}},
        {"history": {"channel": channel, "limit": 1}},
        {"two": {}, "methods": {}},
        {"batch": {"commands": []}},
    ]
    response = ask(server, "batch", {"commands": commands}).json()
    assert response["replies"] == response["result"]["replies"]
    one, two, three, four, five = response["replies"]
    assert one["publish"]["offset"] == 1
    assert three["history"]["publications"][0]["data"] == 1
    assert [reply["error"]["code"] for reply in (two, four, five)] == [102, 107, 104]
    many = [{"publish": {"channel": channel, "data": n}} for n in range(20)]
    replies = ask(server, "batch", {"commands": many, "parallel": True}).json()["replies"]
    assert sorted(reply["publish"]["offset"] for reply in replies) == list(range(2, 22))


# --- history ----------------------------------------------------------------------------------------------------------


def test_history_goes_both_ways(server: Server, channel: str) -> None:
    """From a position, from either end, and for the position alone."""
    for n in range(1, 8):
        position = result(server, "publish", {"channel": channel, "data": n})

    def offsets(**params: Any) -> list[int]:
        found = result(server, "history", {"channel": channel, **params})
        assert (found["offset"], found["epoch"]) == (7, position["epoch"])
        assert all(one["data"] == one["offset"] for one in found["publications"])
        return [one["offset"] for one in found["publications"]]

    since = {"offset": 3, "epoch": position["epoch"]}
    assert offsets() == []
    assert offsets(limit=2) == [1, 2]
    assert offsets(limit=-1) == [1, 2, 3, 4, 5, 6, 7]
    assert offsets(limit=3, reverse=True) == [7, 6, 5]
    assert offsets(limit=2, since=since) == [4, 5]
    assert offsets(limit=-1, since=since | {"epoch": ""}) == [4, 5, 6, 7]
    assert offsets(limit=5, since=since, reverse=True) == [2, 1]
    assert offsets(limit=5, since={"offset": 7, "epoch": position["epoch"]}) == []
    for foreign in ("another", "_", "Not:One"):
        assert error(server, "history", {"channel": channel, "limit": 1, "since": since | {"epoch": foreign}}) == 112
        assert error(server, "history", {"channel": channel, "since": since | {"epoch": foreign}}) == 112


def test_a_removed_history_is_gone_and_its_offsets_go_on(server: Server, channel: str) -> None:
    """What was there is shown to nobody any more, what comes has the next offset, and a retry is still stored once."""
    sent = {"channel": channel, "data": "first", "idempotency_key": "k"}
    result(server, "publish", sent)
    result(server, "publish", {"channel": channel, "data": "second"})
    assert result(server, "history_remove", {"channel": channel}) == {}
    empty = result(server, "history", {"channel": channel, "limit": -1})
    assert (empty["publications"], empty["offset"]) == ([], 2)
    assert result(server, "publish", sent)["offset"] == 1
    assert result(server, "publish", {"channel": channel, "data": "third"})["offset"] == 3
    found = result(server, "history", {"channel": channel, "limit": -1})["publications"]
    assert [(one["offset"], one["data"]) for one in found] == [(3, "third")]
    own = requests.get(
        f"{server.base}/v1/channels/cf:{channel}/messages?after=0",
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=30,
    ).json()
    assert own["gap"] == {"from": 1, "to": 2}


# --- users ------------------------------------------------------------------------------------------------------------


def user(name: str) -> str:
    return make_token(SECRET, name)


@pytest.mark.gen_test
async def test_a_user_is_unsubscribed_and_disconnected(server: Server, channel: str) -> None:
    """Natively connected ones too: all sessions, or the one that is named, or all but those that are spared."""
    name = uuid.uuid4().hex
    async with Client(server.ws, token=user(name)) as one, Client(server.ws, token=user(name)) as two:
        subscribed = [await client.subscribe(f"cf:{channel}") for client in (one, two)]
        loop = asyncio.get_running_loop()

        async def call(method: str, **params: Any) -> Any:
            return await loop.run_in_executor(None, result, server, method, params)

        await call("unsubscribe", channel=channel, user=name, client=one.session["session"])
        await until(lambda: subscribed[0].ended, 5, "end of the one subscription")
        assert subscribed[1].ended is None
        await call("unsubscribe", channel=channel, user=name)
        await until(lambda: subscribed[1].ended, 5, "end of the other subscription")
        await call(
            "disconnect", user=name, whitelist=[two.session["session"]], disconnect={"code": 4501, "reason": "x"}
        )
        await until(lambda: one.losses, 5, "end of the one session")
        assert one.losses[0].disconnect is not None
        assert (one.losses[0].disconnect["reconnect"], one.losses[0].disconnect["reason"]) == (False, "x")
        assert not two.losses
        await call("disconnect", user=name, client=two.session["session"], disconnect={"code": 4001})
        await until(lambda: two.losses, 5, "end of the other session")
        assert two.losses[0].disconnect is not None
        assert two.losses[0].disconnect["reconnect"]


@pytest.mark.gen_test
async def test_a_user_is_subscribed_wherever_it_is_connected(servers: list[Server], channel: str) -> None:
    """Its sessions of their protocol, on every instance: they are told, with `data`, and get what is published. It
    takes no right of the user's own."""
    name = uuid.uuid4().hex
    loop = asyncio.get_running_loop()

    async def call(method: str, **params: Any) -> Any:
        return await loop.run_in_executor(None, result, servers[0], method, params)

    async with Wire(servers[0]) as here, Wire(servers[1]) as there:
        for wire in (here, there):
            await wire.connect(token=user(name))
        await call("subscribe", channel="hidden:x", user=name, data={"because": 1})
        for wire in (here, there):
            push = await wire.push()
            assert (push["channel"], push["subscribe"]["data"]) == ("hidden:x", {"because": 1})
        await call("publish", channel="hidden:x", data="to whom it concerns")
        for wire in (here, there):
            assert [one["data"] for one in await wire.pubs(1)] == ["to whom it concerns"]
        await call("subscribe", channel=channel, user=name, client="another")
        await call("unsubscribe", channel="hidden:x", user=name)
        for wire in (here, there):
            assert "unsubscribe" in await wire.push()


@pytest.mark.gen_test
async def test_how_long_a_user_may_stay(servers: list[Server]) -> None:
    """Until another time, for ever, or not any longer."""
    name = uuid.uuid4().hex
    loop = asyncio.get_running_loop()

    async def call(**params: Any) -> Any:
        return await loop.run_in_executor(None, result, servers[0], "refresh", {"user": name, **params})

    async with Wire(servers[1]) as wire:
        await wire.connect(token=signed(SECRET, sub=name, exp=60))
        await call(expire_at=int(time.time()) + 3600)
        refreshed = (await wire.push())["refresh"]
        assert refreshed["expires"]
        assert 3500 < refreshed["ttl"] <= 3600
        await call()
        assert "expires" not in (await wire.push())["refresh"]
        await call(expired=True)
        assert await wire.closed() == 3005


@pytest.mark.gen_test
async def test_the_code_of_a_disconnect_is_the_back_ends_to_choose(servers: list[Server]) -> None:
    """3503 where it names none."""
    name = uuid.uuid4().hex
    loop = asyncio.get_running_loop()
    for params, code in (({}, 3503), ({"disconnect": {"code": 4567, "reason": "moved"}}, 4567)):
        async with Wire(servers[1]) as wire:
            await wire.connect(token=user(name))
            await loop.run_in_executor(None, result, servers[0], "disconnect", {"user": name, **params})
            assert await wire.closed() == code


@pytest.mark.gen_test
async def test_what_there_is(server: Server, channel: str) -> None:
    """Who is in a channel; the channels that somebody is subscribed to, by their names there; and the nodes."""
    async with Client(server.ws, token=user("eve")) as eve:
        for name in (f"cf:{channel}", f"live:{channel}"):
            await eve.subscribe(name)
        loop = asyncio.get_running_loop()
        there = await loop.run_in_executor(None, result, server, "presence", {"channel": channel})
        client = eve.session["session"]
        assert there == {"presence": {client: {"user": "eve", "client": client}}}
        stats = await loop.run_in_executor(None, result, server, "presence_stats", {"channel": channel})
        assert stats == {"num_clients": 1, "num_users": 1}
        found = await loop.run_in_executor(None, result, server, "channels", {"pattern": f"*{channel}"})
        assert found == {"channels": {channel: {"num_clients": 1}, f"live:{channel}": {"num_clients": 1}}}
        one = await loop.run_in_executor(None, result, server, "channels", {"pattern": f"live:{channel[:-1]}*"})
        assert list(one["channels"]) == [f"live:{channel}"]
        hard = "*-" * 20 + "!"  # for who tries all the ways to find so many parts
        await eve.subscribe(f"live:{'-' * 60}")
        assert await loop.run_in_executor(None, result, server, "channels", {"pattern": hard}) == {"channels": {}}

        async def nodes() -> list[dict[str, Any]]:
            found = (await loop.run_in_executor(None, result, server, "info", {}))["nodes"]
            return found if len(found) == 2 and any(node["num_users"] for node in found) else []

        for node in await until(nodes, 10, "both nodes, and the user on one"):
            assert {"uid", "name", "version", "num_clients", "num_subs", "num_channels", "uptime"} <= node.keys()


# --- the library ------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(server: Server) -> cent.Client:
    return cent.Client(f"{server.base}/api", OPERATOR)


def test_the_python_library_publishes_and_reads(library: cent.Client, channel: str) -> None:
    """`cent`, unmodified."""
    published = library.publish(cent.PublishRequest(channel=channel, data={"n": 1}, idempotency_key="a"))
    assert published.offset == 1
    both = library.broadcast(cent.BroadcastRequest(channels=[channel, "live:a"], data={"n": 2}))
    assert [one.result and one.result.offset for one in both.responses] == [2, 0]
    history = library.history(cent.HistoryRequest(channel=channel, limit=10, reverse=True))
    assert [one.data for one in history.publications] == [{"n": 2}, {"n": 1}]
    assert (history.offset, history.epoch) == (2, published.epoch)
    library.history_remove(cent.HistoryRemoveRequest(channel=channel))
    assert not library.history(cent.HistoryRequest(channel=channel, limit=10)).publications


def test_the_python_library_looks_around_and_ends_things(library: cent.Client, channel: str) -> None:
    """Nodes, channels, users."""
    assert library.info(cent.InfoRequest()).nodes[0].uptime >= 0
    assert library.channels(cent.ChannelsRequest(pattern=channel)).channels == {}
    assert library.presence(cent.PresenceRequest(channel=channel)).presence == {}
    assert library.presence_stats(cent.PresenceStatsRequest(channel=channel)).num_clients == 0
    library.subscribe(cent.SubscribeRequest(channel=channel, user="nobody", data={"a": 1}))
    library.refresh(cent.RefreshRequest(user="nobody", expired=True))
    library.unsubscribe(cent.UnsubscribeRequest(channel=channel, user="nobody"))
    library.disconnect(cent.DisconnectRequest(user="nobody", disconnect=cent.Disconnect(code=4500, reason="bye")))


def test_the_python_library_sends_batches(library: cent.Client, channel: str) -> None:
    """Of different methods."""
    commands = [
        cent.PublishRequest(channel=channel, data=1),
        cent.HistoryRequest(channel=channel, limit=1),
        cent.InfoRequest(),
    ]
    published, history, info = library.batch(cent.BatchRequest(requests=commands)).replies
    assert (published.offset, history.publications[0].data) == (1, 1)
    assert info.nodes


def test_the_python_library_understands_refusals(server: Server, library: cent.Client) -> None:
    """Errors as errors, a bad key as such."""
    with pytest.raises(CentApiResponseError) as caught:
        library.publish(cent.PublishRequest(channel="nowhere:x", data=1))
    assert caught.value.code == 102
    with pytest.raises(CentUnauthorizedError):
        cent.Client(f"{server.base}/api", "nobody's").info(cent.InfoRequest())
