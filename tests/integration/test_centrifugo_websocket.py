"""Clients of Centrifugo's protocol over WebSocket, in JSON: literal frames through a real server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.centrifugo import Wire, one_server, token
from tests.support.client import Client
from tests.support.processes import Mongod
from tests.support.server import Server
from tests.support.waiting import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mongod: Mongod) -> Iterator[Server]:
    yield from one_server(tmp_path_factory.mktemp("centrifugo_ws"), mongod)


@pytest.fixture
def name() -> str:
    """A channel of the test's own."""
    return f"n{uuid.uuid4().hex[:8]}"


def error_of(reply: dict[str, Any]) -> int:
    return int(reply["error"]["code"])


# --- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_guest_connects(server: Server) -> None:
    """Without a token, where guests are let in: an id, a version, and how often to expect a ping."""
    async with Wire(server) as wire:
        await wire.send('{"connect":{"name":"js"},"id":1}')
        reply = await wire.next()
    assert reply["id"] == 1
    assert reply["connect"].pop("client")
    assert reply["connect"].pop("version")
    assert reply == {"id": 1, "connect": {"ping": 25, "pong": True}}


@pytest.mark.gen_test
async def test_a_token_says_who_it_is_and_for_how_long(server: Server) -> None:
    """`expires` and `ttl` of a token that ends; neither for one that does not."""
    async with Wire(server) as wire:
        connected = await wire.connect(token=token(sub="ann", exp=60))
        assert connected["expires"] is True
        assert 58 <= connected["ttl"] <= 60
    for claims in ({}, {"sub": ""}, {"sub": "ann"}):
        async with Wire(server) as wire:
            assert "expires" not in await wire.connect(token=token(**claims))


@pytest.mark.gen_test
async def test_bad_tokens(server: Server) -> None:
    """Forged, or for one channel only: 3500, do not come back. Expired: error 109, bring another one."""
    for bad in ("nonsense", token("another secret", sub="ann"), token(sub="ann", channel="news")):
        async with Wire(server) as wire:
            await wire.send({"id": 1, "connect": {"token": bad}})
            assert await wire.closed() == 3500
    async with Wire(server) as wire:
        assert error_of(await wire.ask(connect={"token": token(sub="ann", exp=-60)})) == 109
        await wire.send({"id": 2, "subscribe": {"channel": "news"}})
        assert await wire.closed() == 3501


@pytest.mark.gen_test
async def test_a_subscription_token_is_no_login_at_the_native_doors(server: Server) -> None:
    """Whoever may subscribe to one channel must not be taken for a user."""
    subscription = token(sub="ann", channel="news", exp=60)
    assert (await server.get("/v1/channels/cf:news/messages", token=subscription)).status == 401
    assert (await server.get("/v1/channels/cf:news/messages", token=token(sub="ann", exp=60))).status == 200
    for claims in ({"sub": "ann"}, {"sub": "", "exp": 60}, {"sub": "ann", "exp": 60, "channels": ["news"]}):
        assert (await server.get("/v1/channels/cf:news/messages", token=token(**claims))).status == 401


@pytest.mark.gen_test
async def test_out_of_order_and_malformed(server: Server) -> None:
    """Who does not begin with connect, connects twice, or sends what is no command, is closed with 3501."""
    subscribe = '{"id":1,"subscribe":{"channel":"news"}}'
    connect = '{"id":1,"connect":{}}'
    for frames in (
        [subscribe], ["{}"], ["nonsense"], ["[]"], ['{"id":1}'], ['{"id":1,"connect":{"token":7}}'], [b"\x00\x01"],
        [connect, '{"id":2,"connect":{}}'], [connect, '{"subscribe":{"channel":"news"}}'], [connect, '{"id":"x"}'],
        [connect + '\n{"id":2,"subscribe":{"channel":[]}}'],
        [connect, "{}\n" * 3000], ['{"id":1,"connect":'], [connect, '{"id":4294967296}'],
    ):  # fmt: skip
        async with Wire(server) as wire:
            for frame in frames:
                await wire.send(frame)
            assert await wire.closed() == 3501, frames


# --- subscribing and publishing ---------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_publish_and_subscribe(server: Server, name: str) -> None:
    """A publication comes with its offset and time, and says which client of which user it is from."""
    async with Wire(server) as ann, Wire(server) as bob:
        client = (await ann.connect(token=token(sub="ann")))["client"]
        await bob.connect()
        subscribed = await bob.subscribe(name)
        epoch = subscribed.pop("epoch")
        assert subscribed == {"recoverable": True, "positioned": True}
        assert await ann.ask(publish={"channel": name, "data": {"n": 1, "ü": [None, 1.5]}}) == {"id": 2, "publish": {}}
        push = await bob.push()
        assert push["pub"].pop("time") > 1_600_000_000_000
        assert push == {
            "channel": name,
            "pub": {"data": {"n": 1, "ü": [None, 1.5]}, "info": {"user": "ann", "client": client}, "offset": 1},
        }
        assert await bob.ask(unsubscribe={"channel": name}) == {"id": 3, "unsubscribe": {}}
        assert await bob.ask(unsubscribe={"channel": name}) == {"id": 4, "unsubscribe": {}}
        again = await bob.subscribe(name)
        assert again == {"recoverable": True, "positioned": True, "epoch": epoch, "offset": 1}


@pytest.mark.gen_test
async def test_many_commands_in_one_frame(server: Server, name: str) -> None:
    """Each on a line, carried out in order; what is sent behind connect waits for it."""
    async with Wire(server) as wire:
        await wire.send(
            {"id": 1, "connect": {}},
            {"id": 2, "subscribe": {"channel": name}},
            {"id": 3, "publish": {"channel": name, "data": 1}},
            {"send": {"data": "nobody listens"}},
            {"id": 4, "history": {"channel": name, "limit": -1}},
        )
        frames = [await wire.next() for _ in range(5)]
    replies = [frame["id"] for frame in frames if "id" in frame]
    assert sorted(replies) == [1, 2, 3, 4]
    assert [frame["push"]["pub"]["data"] for frame in frames if "push" in frame] == [1]


@pytest.mark.gen_test
async def test_native_clients_are_in_the_same_channels(server: Server, name: str) -> None:
    """What one says the other hears, both ways, under both names of the channel."""
    async with Client([server.ws]) as native, Wire(server) as wire:
        subscription = await native.subscribe(f"cf:{name}")
        await wire.connect()
        await wire.subscribe(name)
        await wire.ask(publish={"channel": name, "data": "from there"})
        await native.publish(f"cf:{name}", "from here")
        assert [m["data"] for m in await subscription.messages(2)] == ["from there", "from here"]
        first, second = await wire.pubs(2)
        assert (first["data"], second["data"]) == ("from there", "from here")
        assert "info" not in second


@pytest.mark.gen_test
async def test_ephemeral_channels_have_no_offset(server: Server, name: str) -> None:
    """Nothing to recover from, and no history; but who it was."""
    async with Wire(server) as wire:
        client = (await wire.connect(token=token(sub="ann")))["client"]
        assert await wire.subscribe(f"live:{name}") == {}
        await wire.ask(publish={"channel": f"live:{name}", "data": 1})
        push = await wire.push()
        assert push["pub"].pop("time")
        assert push["pub"] == {"data": 1, "info": {"user": "ann", "client": client}}
        assert error_of(await wire.ask(history={"channel": f"live:{name}", "limit": 1})) == 108
        await wire.ask(unsubscribe={"channel": f"live:{name}"})
        for position in ({}, {"epoch": "abc", "offset": 3}):
            assert await wire.subscribe(f"live:{name}", recover=True, **position) == {"was_recovering": True}
            await wire.ask(unsubscribe={"channel": f"live:{name}"})


@pytest.mark.gen_test
async def test_errors(server: Server, name: str) -> None:
    """Each mistake has its code, and the connection stays."""
    async with Wire(server) as wire:
        await wire.connect()
        await wire.subscribe(name)
        for command, code in (
            ({"subscribe": {"channel": name}}, 105),
            ({"subscribe": {"channel": "nothing:declared"}}, 102),
            ({"subscribe": {"channel": f"cf:{name}"}}, 102),
            ({"subscribe": {"channel": "No Such:name"}}, 102),
            ({"subscribe": {}}, 107),
            ({"subscribe": {"channel": "closed:a"}}, 103),
            ({"publish": {"channel": "closed:a", "data": 1}}, 103),
            ({"publish": {"channel": name}}, 107),
            ({"publish": {"channel": name, "data": "x" * 70_000}}, 107),
            ({"publish": {"channel": name, "data": 1, "type": 1}}, 108),
            ({"presence": {"channel": "quiet:a"}}, 108),
            ({"history": {"channel": "closed:a"}}, 103),
            ({"rpc": {"method": "any", "data": {}}}, 108),
            ({"rpc": {"data": {}}}, 107),
            ({"rpc": {"method": "refuse"}}, 409),
            ({"sub_refresh": {"channel": "other", "token": token(channel="other")}}, 103),
        ):
            reply = await wire.ask(**command)
            assert error_of(reply) == code, (command, reply)
        assert (await wire.ask(rpc={"method": "refuse"}))["error"]["message"] == "sold out"
        for data in ({"n": [1]}, None):
            reply = await wire.ask(rpc={"method": "echo", "data": data})
            assert reply == {"id": reply["id"], "rpc": {"data": data}}
        await wire.send('{"id":99,"publish":{"channel":"news","data":{"a":1,"a":2}}}')
        assert error_of(await wire.reply(99)) == 107
        assert await wire.ask(ping={}) == {"id": wire.asked, "ping": {}}


# --- recovering -------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=20)
async def test_what_was_missed_follows(server: Server, name: str) -> None:
    """However much it is: as ordinary pushes behind the reply, oldest first, without a hole before the live ones."""
    async with Wire(server) as wire, Wire(server) as publisher:
        await wire.connect()
        await publisher.connect()
        epoch = (await wire.subscribe(name))["epoch"]
        await wire.ask(unsubscribe={"channel": name})
        await publisher.send(*({"id": 100 + n, "publish": {"channel": name, "data": n}} for n in range(1500)))
        await publisher.reply(1599)
        subscribed = await wire.subscribe(name, recover=True, epoch=epoch, offset=3)
        assert subscribed == {
            "recoverable": True, "positioned": True, "epoch": epoch, "offset": 3, "was_recovering": True,
            "recovered": True,
        }  # fmt: skip
        assert [pub["offset"] for pub in await wire.pubs(1497)] == list(range(4, 1501))


@pytest.mark.gen_test
async def test_recovery_from_the_beginning(server: Server, name: str) -> None:
    """An offset of 0 is left out by clients: it is the beginning of our epoch's channel; without one, of any."""
    async with Wire(server) as wire:
        await wire.connect()
        epoch = (await wire.subscribe(name))["epoch"]
        await wire.ask(unsubscribe={"channel": name})
        await wire.ask(publish={"channel": name, "data": 1})
        await wire.ask(publish={"channel": name, "data": 2})
        for position, wanted in (({"epoch": epoch}, [1, 2]), ({}, [1, 2]), ({"offset": 1}, [2]), ({"offset": 2}, [])):
            assert (await wire.subscribe(name, recover=True, flag=2, **position))["recovered"] is True
            assert [pub["data"] for pub in await wire.pubs(len(wanted))] == wanted
            await wire.ask(unsubscribe={"channel": name})


@pytest.mark.gen_test
async def test_a_foreign_position_cannot_be_recovered(server: Server, name: str) -> None:
    """Of another epoch, or of none: from now on, and it is said; as an error if that is asked for."""
    async with Wire(server) as wire:
        await wire.connect()
        await wire.ask(publish={"channel": name, "data": 1})
        for position in ({"epoch": "zzz", "offset": 1}, {"epoch": "_"}, {"epoch": "", "offset": 7}):
            subscribed = await wire.subscribe(name, recover=True, **position)
            assert subscribed["was_recovering"] is True
            assert "recovered" not in subscribed
            assert subscribed["offset"] == 1
            await wire.ask(unsubscribe={"channel": name})
            reply = await wire.ask(subscribe={"channel": name, "recover": True, "flag": 2, **position})
            assert error_of(reply) == 112
        await wire.subscribe(name)
        await wire.ask(publish={"channel": name, "data": 2})
        assert [pub["data"] for pub in await wire.pubs(1)] == [2]


# --- subscription tokens and server-side subscriptions ----------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_subscription_token_gives_the_right_to_its_channel(server: Server) -> None:
    """Subscribing, history and presence, to its user, in its channel; not publishing, and nothing elsewhere."""
    good = token(sub="ann", channel="closed:a", exp=60)
    async with Wire(server) as wire:
        await wire.connect(token=token(sub="ann"))
        assert error_of(await wire.ask(history={"channel": "closed:a"})) == 103
        for bad in (
            "nonsense", token(sub="bob", channel="closed:a"), token(sub="ann", channel="closed:b"), token(sub="ann"),
            token("another", sub="ann", channel="closed:a"), token(sub="ann", channel="closed:a", client="x"),
        ):  # fmt: skip
            assert error_of(await wire.ask(subscribe={"channel": "closed:a", "token": bad})) in (103, 107), bad
        expired = token(sub="ann", channel="closed:a", exp=-60)
        assert error_of(await wire.ask(subscribe={"channel": "closed:a", "token": expired})) == 109
        subscribed = await wire.subscribe("closed:a", token=good)
        assert subscribed["expires"] is True
        assert 58 <= subscribed["ttl"] <= 60
        assert "history" in await wire.ask(history={"channel": "closed:a"})
        assert "presence" in await wire.ask(presence={"channel": "closed:a"})
        assert error_of(await wire.ask(publish={"channel": "closed:a", "data": 1})) == 103
        assert error_of(await wire.ask(history={"channel": "closed:b"})) == 103
        later = token(sub="ann", channel="closed:a", exp=600)
        refreshed = (await wire.ask(sub_refresh={"channel": "closed:a", "token": later}))["sub_refresh"]
        assert 598 <= refreshed["ttl"] <= 600


@pytest.mark.gen_test
async def test_an_anonymous_subscription_token(server: Server) -> None:
    """`sub` is left out of both tokens."""
    async with Wire(server) as wire:
        await wire.connect(token=token())
        assert "expires" not in await wire.subscribe("closed:x", token=token(channel="closed:x"))


@pytest.mark.gen_test(timeout=30)
async def test_a_subscription_ends_with_its_token(server: Server) -> None:
    """With the code that makes a client ask for another token; the grace of a connection's token is its own."""
    async with Wire(server) as wire:
        await wire.connect(token=token(sub="ann"))
        await wire.subscribe("closed:e", token=token(sub="ann", channel="closed:e", exp=-5))
        assert "history" in await wire.ask(history={"channel": "closed:e"})
        push = await wire.push(within=15)
        assert push["channel"] == "closed:e"
        assert push["unsubscribe"]["code"] == 2501
        assert error_of(await wire.ask(history={"channel": "closed:e"})) == 103


@pytest.mark.gen_test
async def test_the_server_subscribes_to_what_the_token_names(server: Server, name: str) -> None:
    """A list under `channels`, or a map under `subs`; they come with the answer to connect, and recover with it."""
    async with Wire(server) as wire:
        connected = await wire.connect(token=token(sub="ann", channels=[f"closed:{name}"], subs={name: {}}))
        assert set(connected["subs"]) == {f"closed:{name}", name}
        epoch = connected["subs"][name]["epoch"]
        await wire.ask(publish={"channel": name, "data": 1})
        assert (await wire.pubs(1))[0]["data"] == 1
        assert error_of(await wire.ask(subscribe={"channel": name})) == 105
    async with Wire(server) as wire:
        subs = {name: {"recover": True, "epoch": epoch}, "closed:elsewhere": {}}
        connected = await wire.connect(token=token(sub="ann", channels=[name]), subs=subs)
        assert set(connected["subs"]) == {name}
        assert connected["subs"][name]["recovered"] is True
        assert (await wire.pubs(1))[0]["data"] == 1
    async with Wire(server) as wire:
        assert error_of(await wire.ask(connect={"token": token(sub="ann", channels=["nothing:declared"])})) == 102
        assert await wire.closed() == 3501


@pytest.mark.gen_test
async def test_connect_asks_for_no_more_than_a_connection_may_have(server: Server, name: str) -> None:
    """A channel more than `channels_per_connection` is one too many; what it has no right to, it goes without."""
    async with Wire(server) as wire:
        subs: dict[str, Any] = {f"{name}-{number}": {} for number in range(129)}
        assert error_of(await wire.ask(connect={"subs": subs})) == 106
        assert await wire.closed() == 3504
    async with Wire(server) as wire:
        subs = {f"closed:{number}": {} for number in range(126)} | {"No Such:name": {}, name: {}}
        assert set((await wire.connect(subs=subs))["subs"]) == {name}


@pytest.mark.gen_test
async def test_what_stood_before_a_malformed_command_is_done(server: Server, name: str) -> None:
    """Also if it has to wait, as everything does behind a connect with subscriptions."""
    async with Wire(server) as wire:
        await wire.send(
            {"id": 1, "connect": {"subs": {name: {}}}}, {"id": 2, "publish": {"channel": name, "data": 1}}, {"id": 3}
        )
        assert await wire.closed() == 3501
    async with Wire(server) as wire:
        await wire.connect()

        async def stored() -> int:
            return len((await wire.ask(history={"channel": name, "limit": 9}))["history"]["publications"])

        await until(stored, 10, "the message")  # it was on its way into the log when the connection ended
        assert await stored() == 1


@pytest.mark.gen_test
async def test_refresh(server: Server) -> None:
    """Another token of the same user; one of somebody else closes with 3500."""
    async with Wire(server) as wire:
        client = (await wire.connect(token=token(sub="ann", exp=30)))["client"]
        refreshed = (await wire.ask(refresh={"token": token(sub="ann", exp=600)}))["refresh"]
        assert refreshed.pop("version")
        assert 598 <= refreshed.pop("ttl") <= 600
        assert refreshed == {"client": client, "expires": True}
        assert error_of(await wire.ask(refresh={"token": token(sub="ann", exp=-60)})) == 109
        await wire.send({"id": 9, "refresh": {"token": token(sub="bob", exp=60)}})
        assert await wire.closed() == 3500


# --- history and presence ---------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_history(server: Server, name: str) -> None:
    """Position only, forwards and backwards, since a position."""
    async with Wire(server) as wire:
        await wire.connect()
        for n in range(1, 6):
            await wire.ask(publish={"channel": name, "data": n})

        async def history(**fields: Any) -> tuple[list[Any], int]:
            page = (await wire.ask(history={"channel": name, **fields}))["history"]
            return [pub["data"] for pub in page["publications"]], page["offset"]

        epoch = (await wire.ask(history={"channel": name}))["history"]["epoch"]
        assert await history() == ([], 5)
        assert await history(limit=0, since={"offset": 2, "epoch": epoch}) == ([], 5)
        assert await history(limit=-1) == ([1, 2, 3, 4, 5], 5)
        assert await history(limit=2) == ([1, 2], 5)
        assert await history(limit=2, reverse=True) == ([5, 4], 5)
        assert await history(limit=2, since={"offset": 2, "epoch": epoch}) == ([3, 4], 5)
        assert await history(limit=2, since={"offset": 2}) == ([3, 4], 5)
        assert await history(limit=-1, since={"offset": 4, "epoch": epoch}, reverse=True) == ([3, 2, 1], 5)
        for epoch in ("zzz", "_"):
            for more in ({}, {"limit": 1}, {"limit": 1, "reverse": True}):
                command = {"channel": name, "since": {"offset": 1, "epoch": epoch}, **more}
                assert error_of(await wire.ask(history=command)) == 112, command


@pytest.mark.gen_test
async def test_presence_is_by_client(server: Server, name: str) -> None:
    """Two connections of one user are two clients; so is a native one."""
    async with Wire(server) as one, Wire(server) as two, Client([server.ws]) as native:
        first = (await one.connect(token=token(sub="ann", info={"color": "red"})))["client"]
        second = (await two.connect(token=token(sub="ann")))["client"]
        await one.subscribe(name)
        await two.subscribe(name)
        await native.subscribe(f"cf:{name}")
        third = native.session["session"]
        assert (await one.ask(presence={"channel": name}))["presence"] == {
            "presence": {
                first: {"user": "ann", "client": first, "conn_info": {"color": "red"}},
                second: {"user": "ann", "client": second},
                third: {"user": "", "client": third},
            }
        }
        stats = (await one.ask(presence_stats={"channel": name}))["presence_stats"]
        assert stats == {"num_clients": 3, "num_users": 2}
        await two.ask(unsubscribe={"channel": name})
        assert (await one.ask(presence_stats={"channel": name}))["presence_stats"]["num_clients"] == 2


@pytest.mark.gen_test
async def test_joins_and_leaves_are_by_client(server: Server, name: str) -> None:
    """For who asks for them."""
    async with Wire(server) as wire, Wire(server) as silent:
        own = (await wire.connect(token=token(sub="ann")))["client"]
        await silent.connect()
        await wire.subscribe(name, join_leave=True)
        await silent.subscribe(name)
        async with Wire(server) as other:
            client = (await other.connect(token=token(sub="ann", info=1)))["client"]
            await other.subscribe(name)
            join = await wire.until(lambda push: push.get("join", {}).get("info", {}).get("client") == client)
            assert join == {"channel": name, "join": {"info": {"user": "ann", "client": client, "conn_info": 1}}}
        leave = await wire.until(lambda push: "leave" in push)
        assert leave["leave"]["info"]["client"] == client != own
        await silent.ask(publish={"channel": name, "data": 1})
        assert "pub" in await silent.push()


# --- rights that end, and pings ---------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_pings_are_empty(server: Server) -> None:
    """Nobody has to say anything to a pong; an answer to no ping is fine as well."""
    async with Wire(server) as wire:
        await wire.connect()
        await wire.send("{}")
        await wire.send("{}\n{}")
        assert "ping" in await wire.ask(ping={})


@pytest.mark.gen_test
async def test_together_with_others(server: Server, name: str) -> None:
    """A hundred subscribers get every message of ten publishers, each channel's in its order."""
    wires = [Wire(server) for _ in range(20)]
    for wire in wires:
        await wire.__aenter__()
        await wire.connect()
        await wire.subscribe(name)
    await asyncio.gather(
        *(
            wire.send(*({"id": 100 + n, "publish": {"channel": name, "data": n}} for n in range(20)))
            for wire in wires[:10]
        )
    )
    for wire in wires:
        assert [pub["offset"] for pub in await wire.pubs(200)] == list(range(1, 201))
        await wire.__aexit__(None, None, None)
