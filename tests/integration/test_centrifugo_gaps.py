"""Clients of Centrifugo's protocol when messages are gone; and what a delivery to many of them costs."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from server.brokers.base import Directive
from server.centrifugo.session import CentrifugoSession
from server.core.cursors import Position
from server.core.errors import Error
from server.core.principals import GUEST, Principal
from server.node import Node
from tests.support.centrifugo import OPEN, Wire, token
from tests.support.client import Client
from tests.support.waiting import until

LONG = "a secret of at least thirty-two bytes"


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "centrifugo.enabled": True,
        "auth.api_keys": {"shop": {"sha256": "0" * 64}},
        "namespaces.short": {"history": {"size": 2}, "presence": True, **OPEN},
        "namespaces.members": {"publish": "anyone"},
        "mongodb.dedupe_window": 0,
        "limits.cost_per_second": 1,
        "limits.cost_burst": 1500,
        "limits.requests_per_second": 0.1,
        "limits.requests_burst": 500,
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url


async def publish(node: Node, channel: str, *data: Any) -> None:
    for datum in data:
        future = node.publisher.publish(GUEST, channel, datum)
        assert future is not None
        await future


@pytest.fixture
def without_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its library is not installed."""
    monkeypatch.setitem(sys.modules, "server.centrifugo.protobuf", None)


@pytest.mark.gen_test
async def test_protobuf_is_optional(without_protobuf: None, url: str) -> None:
    """Without its library those who speak it are told so, and JSON is as ever."""
    async with Wire(url) as wire:
        await wire.connect()
    with pytest.raises(HTTPClientError) as refused:
        await Wire(url, "/connection/websocket?format=protobuf").__aenter__()
    assert refused.value.code == 501


@pytest.mark.gen_test
async def test_strict_by_default(url: str) -> None:
    """Without `centrifugo.namespace` and `tokens_without_exp`: 102 for names without a colon, 3500 for such tokens."""
    async with Wire(url) as wire:
        await wire.connect(token=token(LONG, sub="ann", exp=60))
        assert (await wire.ask(subscribe={"channel": "news"}))["error"]["code"] == 102
    async with Wire(url) as wire:
        await wire.send({"id": 1, "connect": {"token": token(LONG, sub="ann")}})
        assert await wire.closed() == 3500


@pytest.mark.gen_test
async def test_what_was_trimmed_cannot_be_recovered(url: str, node: Node) -> None:
    """From the head, and it is said; with `flag` 2 as an error."""
    async with Wire(url) as wire:
        await wire.connect()
        epoch = (await wire.subscribe("short:a"))["epoch"]
        await wire.ask(unsubscribe={"channel": "short:a"})
        await publish(node, "short:a", 1, 2, 3, 4, 5)
        await node.log.trimmer.step()
        reply = await wire.ask(subscribe={"channel": "short:a", "recover": True, "epoch": epoch, "flag": 2})
        assert reply["error"]["code"] == 112
        subscribed = await wire.subscribe("short:a", recover=True, epoch=epoch, offset=1)
        assert subscribed == {
            "recoverable": True, "positioned": True, "epoch": epoch, "offset": 5, "was_recovering": True
        }  # fmt: skip
        await publish(node, "short:a", 6)
        assert [pub["data"] for pub in await wire.pubs(1)] == [6]


@pytest.mark.gen_test
async def test_a_gap_in_the_middle_ends_the_subscription(url: str, node: Node) -> None:
    """With the code that makes a client subscribe anew, which is then told that it cannot be recovered. A native client
    in the same channel is told what is missing, as ever."""
    async with Wire(url) as wire, Client([url.replace("http", "ws") + "/v1/ws"]) as native:
        await wire.connect()
        epoch = (await wire.subscribe("chat:a", join_leave=True))["epoch"]
        subscription = await native.subscribe("chat:a")
        await publish(node, "chat:a", 1)
        await wire.pubs(1)
        await subscription.message()
        node.streams.compare({"chat:a": Position("another", 0)})
        push = await wire.push()
        assert push["channel"] == "chat:a"
        assert push["unsubscribe"]["code"] == 2500
        assert (await subscription.next())["type"] == "gap"
        await wire.ask(unsubscribe={"channel": "chat:a"})
        subscribed = await wire.subscribe("chat:a", recover=True, epoch=epoch, offset=1)
        assert subscribed["was_recovering"] is True
        assert "recovered" not in subscribed


@pytest.mark.gen_test
async def test_a_gap_in_a_subscription_of_the_servers_ends_the_connection(url: str, node: Node) -> None:
    """Since no client makes it anew by itself."""
    async with Wire(url) as wire:
        await wire.connect(token=token(LONG, sub="ann", exp=60, channels=["chat:a"]))
        await publish(node, "chat:a", 1)
        await wire.pubs(1)
        node.streams.compare({"chat:a": Position("another", 0)})
        assert await wire.closed() == 3010


@pytest.mark.gen_test(timeout=30)
async def test_one_encoding_for_all(url: str, node: Node) -> None:
    """A hundred subscribers: a message is encoded once and sent to each once, and natives cost what they cost alone."""
    wires = [Wire(url) for _ in range(100)]
    for wire in wires:
        await wire.__aenter__()
        await wire.connect()
        await wire.subscribe("chat:b")
    encodes, sends = node.hub.encodes, node.hub.sends
    await publish(node, "chat:b", 1)
    for wire in wires:
        await wire.pubs(1)
    assert (node.hub.encodes - encodes, node.hub.sends - sends) == (1, 100)
    for wire in wires:
        await wire.__aexit__(None, None, None)
    await until(lambda: not node.admission.clients, 5, "everybody gone")


@pytest.mark.gen_test
async def test_moderation_reaches_them(url: str, node: Node) -> None:
    """Disconnected for good is 3503; an unsubscription of the server's does not invite to come back."""
    operator = Principal(user="operator", server=True, admin=True)
    async with Wire(url) as wire:
        await wire.connect(token=token(LONG, sub="ann", exp=60))
        await wire.subscribe("chat:a")
        await node.moderation.unsubscribe(operator, "chat:a", "ann", "bye")
        push = await wire.push()
        assert push == {"channel": "chat:a", "unsubscribe": {"code": 2000, "reason": "bye"}}
        await node.moderation.disconnect(operator, "ann", "go away", reconnect=False)
        assert await wire.closed() == 3503
    async with Wire(url) as wire:
        await wire.connect(token=token(LONG, sub="bob", exp=60))
        await node.moderation.revoke(operator, "bob")
        assert await wire.closed() == 3500


@pytest.mark.gen_test
async def test_what_a_back_end_gives_a_client(url: str, node: Node) -> None:
    """A subscription, with the right to it, and a later end: the client is told of either by a push."""
    async with Wire(url) as wire:
        await wire.connect(token=token(LONG, sub="ann", exp=60))
        (session,) = (client for client in node.admission.clients if isinstance(client, CentrifugoSession))
        session.obey(Directive("subscribe", "ann", channel="members:a", data={"hello": 1}))
        push = await wire.push()
        assert push["subscribe"].pop("epoch")
        assert push == {
            "channel": "members:a",
            "subscribe": {"recoverable": True, "positioned": True, "data": {"hello": 1}},
        }
        await publish(node, "members:a", 1)
        assert [pub["data"] for pub in await wire.pubs(1)] == [1]
        session.obey(Directive("subscribe", "ann", channel="members:a"))  # again: nothing
        session.prolong(node.clock.time() + 600)
        push = await wire.push()
        assert 598 <= push["refresh"].pop("ttl") <= 600
        assert push == {"refresh": {"expires": True}}


@pytest.mark.gen_test(timeout=30)
async def test_history_is_as_long_as_it_was_asked_for(url: str, node: Node) -> None:
    """Up to 1000 messages, more than one page of the log; fewer if they are large."""
    async with Wire(url) as wire:
        await wire.connect()
        await asyncio.gather(*filter(None, (node.publisher.publish(GUEST, "chat:h", n) for n in range(1100))))
        for reverse, wanted in ((False, range(1, 1001)), (True, range(1100, 100, -1))):
            for limit in (-1, 1000, 600):
                reply = await wire.ask(history={"channel": "chat:h", "limit": limit, "reverse": reverse})
                offsets = [pub["offset"] for pub in reply["history"]["publications"]]
                assert offsets == list(wanted)[: 1000 if limit < 0 else limit]
                assert reply["history"]["offset"] == 1100
        await asyncio.gather(*filter(None, (node.publisher.publish(GUEST, "chat:l", "x" * 60000) for n in range(160))))
        reply = await wire.ask(history={"channel": "chat:l", "limit": -1})
        assert 4 << 20 <= 60000 * len(reply["history"]["publications"]) <= 8 << 20


@pytest.mark.gen_test
async def test_a_recovery_without_an_epoch_reads_no_more_than_another(url: str, node: Node) -> None:
    """The present epoch is that of the channel as it is open here, and not one that is looked up before."""
    async with Wire(url) as wire, Wire(url) as other:
        await wire.connect()
        await other.connect()
        await other.subscribe("chat:e")
        await publish(node, "chat:e", 1, 2)
        await other.pubs(2)
        reads = node.log.reads
        assert (await wire.subscribe("chat:e", recover=True, offset=2))["recovered"] is True
        assert node.log.reads == reads


@pytest.mark.gen_test
async def test_who_hears_of_others_is_no_subscription_more(url: str, node: Node) -> None:
    """In the figures, where each subscription counts once."""
    async with Wire(url) as wire:
        await wire.connect()
        await wire.subscribe("short:w", join_leave=True)
        assert node.hub.subscriptions() == 1


@pytest.mark.gen_test
async def test_nobody_publishes_in_a_clients_name(url: str, node: Node) -> None:
    """A key is its publisher's to choose: none takes the place of what a client publishes next, and none makes it seem
    to be from a client."""
    async with Wire(url) as wire:
        client = (await wire.connect())["client"]
        await wire.subscribe("chat:k")
        for key in (f"{client}-1", f"{client}-1.{'0' * 24}"):
            await node.publisher.publish(GUEST, "chat:k", "evil", key)  # type: ignore[misc]
        await wire.ask(publish={"channel": "chat:k", "data": "good"})
        pubs = await wire.pubs(3)
        assert [(pub["data"], pub.get("info")) for pub in pubs] == [
            ("evil", None), ("evil", None), ("good", {"user": "", "client": client}),
        ]  # fmt: skip
        page = await node.history.page(GUEST, "chat:k", after=None, before=None, limit=1)
        await node.publisher.publish(GUEST, "chat:j", "evil", page["messages"][0].key)  # type: ignore[misc]
        (pub,) = (await wire.ask(history={"channel": "chat:j", "limit": 1}))["history"]["publications"]
        assert "info" not in pub


@pytest.mark.gen_test
async def test_the_names_of_back_ends_are_not_told(url: str, node: Node) -> None:
    """A message of an API key has no `info`; one of a user has."""
    async with Wire(url) as wire:
        await wire.connect()
        await wire.subscribe("chat:n")
        for principal in (Principal(user="shop", server=True, channels={"*": ["publish"]}), Principal(user="ann")):
            await node.publisher.publish(principal, "chat:n", 1)  # type: ignore[misc]
        assert [pub.get("info") for pub in await wire.pubs(2)] == [None, {"user": "ann", "client": ""}]


@pytest.mark.gen_test
async def test_commands_of_a_session_are_its_own_requests(url: str, node: Node) -> None:
    """They come though its address has used up what guests may ask for; a guess of a session's secret counts as a
    guest's."""
    host = url.partition("//")[2]
    reader, writer = await asyncio.open_connection(*host.split(":"))
    try:
        head = f"POST /connection/http_stream HTTP/1.1\r\nHost: {host}\r\nContent-Length: 21\r\n\r\n"
        writer.write(head.encode() + b'{"id":1,"connect":{}}')
        await reader.readuntil(b"\r\n\r\n")
        connected = json.loads(await reader.readline())["connect"]
        with suppress(Error):
            for _ in range(10_000):
                node.admission.count_request(GUEST, "127.0.0.1")
        body = {"session": connected["session"], "node": connected["node"], "data": '{"id":2,"ping":{}}'}
        http = AsyncHTTPClient()
        for wrong, status in (({}, 204), ({"session": "guessed"}, 429), ({"node": "n00000000"}, 429)):
            request = HTTPRequest(url + "/emulation", "POST", body=json.dumps(body | wrong))
            assert (await http.fetch(request, raise_error=False)).code == status
        assert json.loads(await reader.readline())["id"] == 2
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.gen_test
async def test_each_subscription_of_connect_has_its_price(url: str, node: Node) -> None:
    """That of a subscription, and of a refusal where there is no right to it."""
    async with Wire(url) as wire:
        assert "subs" not in await wire.connect(subs={f"members:{number}": {} for number in range(128)})
        assert (await wire.ask(ping={}))["error"]["code"] == 111


@pytest.mark.gen_test
async def test_nothing_is_subscribed_for_who_has_gone(url: str, node: Node) -> None:
    """What `connect` still asks for when its client goes is neither begun nor left behind."""
    async with Wire(url) as wire:
        await wire.send({"id": 1, "connect": {"subs": {f"chat:gone-{number}": {} for number in range(128)}}})
    await until(lambda: not node.admission.clients, 5, "the end of the session")
    await until(lambda: not node.admission.channel_seats.total, 5, "the end of its subscriptions")
    assert node.hub.subscriptions() == 0


# --- rights of one channel --------------------------------------------------------------------------------------------

OPERATOR = Principal(user="operator", server=True, admin=True)


async def refused(wire: Wire, channel: str, **fields: Any) -> int:
    """The code of the error with which a subscription is refused."""
    return int((await wire.ask(subscribe={"channel": channel, **fields}))["error"]["code"])


@pytest.mark.gen_test
async def test_a_right_that_a_back_end_gives_ends_with_its_subscription(url: str, node: Node) -> None:
    """Whoever ends it: a back end or the client."""
    async with Wire(url) as wire:
        await wire.connect(token=token(LONG, sub="ann", exp=60))
        (session,) = (client for client in node.admission.clients if isinstance(client, CentrifugoSession))
        for by_client in (True, False):
            session.obey(Directive("subscribe", "ann", channel="members:a"))
            assert "subscribe" in await wire.push()
            if by_client:
                await wire.ask(unsubscribe={"channel": "members:a"})
            else:
                await node.moderation.unsubscribe(OPERATOR, "members:a", "ann", "")
                assert "unsubscribe" in await wire.push()
            assert await refused(wire, "members:a") == 103


@pytest.mark.gen_test
async def test_a_new_login_does_not_bring_back_a_revoked_right(url: str, node: Node) -> None:
    """A subscription token from before the revocation stays worth nothing."""
    old = token(LONG, sub="ann", channel="members:a", exp=60, iat=int(time.time()) - 60)
    new = int(time.time()) + 5
    async with Wire(url) as wire:
        await wire.connect(token=token(LONG, sub="ann", exp=60, iat=int(time.time()) - 60))
        await wire.subscribe("members:a", token=old)
        await node.moderation.revoke(OPERATOR, "ann", channels=["members:a"])
        assert "unsubscribe" in await wire.push()
        assert await refused(wire, "members:a", token=old) == 103
    async with Wire(url) as wire:
        await wire.connect(token=token(LONG, sub="ann", exp=60, iat=new))
        for bad in (old, token(LONG, sub="ann", channel="members:a", exp=60)):
            assert await refused(wire, "members:a", token=bad) == 103
        await wire.subscribe("members:a", token=token(LONG, sub="ann", channel="members:a", exp=60, iat=new))


@pytest.mark.gen_test
async def test_a_revoked_subscription_token_ends_its_subscription(url: str, node: Node) -> None:
    """By its `jti`, or together with all that were issued so long ago; the connection has a token of its own."""
    now = int(time.time())
    async with Wire(url) as wire:
        await wire.connect(token=token(LONG, sub="ann", exp=60, iat=now + 5))
        for named in ("the-token", None):
            claims: dict[str, Any] = {"sub": "ann", "channel": "members:a", "exp": 60, "iat": now - 5}
            await wire.subscribe("members:a", token=token(LONG, **claims, **({"jti": named} if named else {})))
            await node.moderation.revoke(OPERATOR, "ann", token=named)
            assert (await wire.push())["unsubscribe"]["code"] == 2000
            assert await refused(wire, "members:a") == 103


@pytest.mark.gen_test
async def test_tokens_without_a_user_are_revoked_by_name(url: str, node: Node) -> None:
    """Of a connection or of a subscription; under whatever user's name that is asked for."""
    login = token(LONG, channels={"members:a": ["subscribe"]}, exp=60, jti="anonymous-login")
    async with Wire(url) as wire, Wire(url) as guest:
        await wire.connect(token=login)
        await wire.subscribe("members:a")
        await guest.connect()
        of_channel = token(LONG, channel="members:a", exp=60, jti="anonymous-subscription")
        await guest.subscribe("members:a", token=of_channel)
        await node.moderation.revoke(OPERATOR, "nobody", token="anonymous-login")
        assert await wire.closed() == 3500
        await node.moderation.revoke(OPERATOR, "nobody", token="anonymous-subscription")
        assert "unsubscribe" in await guest.push()
        assert await refused(guest, "members:a", token=of_channel) == 103
    async with Wire(url) as wire:
        await wire.send({"id": 1, "connect": {"token": login}})
        assert await wire.closed() == 3500
    assert not node.admission.bearers


@pytest.mark.gen_test
async def test_a_refresh_counts_as_a_whole_or_not_at_all(url: str, node: Node) -> None:
    """A token that names what is no channel changes nothing; one with fewer rights ends what they were for."""

    def of(channels: Any) -> str:
        return token(LONG, sub="ann", exp=60, channels=channels)

    async with Wire(url) as wire:
        await wire.connect(token=of({"members:a": ["subscribe"]}))
        await wire.subscribe("members:a")
        assert (await wire.ask(refresh={"token": of(["no-namespace"])}))["error"]["code"] == 102
        await publish(node, "members:a", 1)
        assert [pub["data"] for pub in await wire.pubs(1)] == [1]
        assert "history" in await wire.ask(history={"channel": "members:a"})
        assert "refresh" in await wire.ask(refresh={"token": of({})})
        assert (await wire.push())["unsubscribe"]["code"] == 2000


@pytest.mark.gen_test
async def test_an_end_that_is_centuries_away(url: str, node: Node) -> None:
    """Is told as the longest that every encoding can write down, and one client's failure is no other's."""
    async with Wire(url) as wire:
        assert (await wire.connect(token=token(LONG, sub="ann", exp=10**12)))["ttl"] == 2**31 - 1
        (session,) = (client for client in node.admission.clients if isinstance(client, CentrifugoSession))
        session.prolong(1e12)
        assert (await wire.push())["refresh"]["ttl"] == 2**31 - 1
