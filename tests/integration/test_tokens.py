"""Tokens through a real server: refresh and expiry on a WebSocket, and keys that are published at a URL."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

from server.access import keys
from server.core.errors import Error
from server.core.principals import GUEST
from server.node import Node
from server.sessions import client as clients
from tests.integration.conftest import SETTINGS
from tests.support.client import Client, Refused, make_token
from tests.support.refusals import refusal
from tests.support.waiting import until

SECRET = str(SETTINGS["auth.secret"])
VIP = {"vip:*": ["subscribe", "publish"]}


@pytest.fixture
def settings() -> dict[str, object]:
    return {"namespaces.vip": {}, "auth.guests": False}


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


# --- refresh and expiry -----------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_refresh_replaces_rights_and_end(url: str) -> None:
    """The reply tells the new end; rights that are new count at once, subscriptions of lost ones end, others go on."""
    async with Client(url, token=make_token(SECRET, "ann", 60)) as ann:
        assert abs(ann.session["expires"] - time.time() - 60) < 5
        chat = await ann.subscribe("chat:a")
        assert await refusal(ann, "subscribe", channel="vip:a") == "permission_denied"
        reply = await ann.request("refresh", token=make_token(SECRET, "ann", 3600, channels=VIP))
        assert reply["user"] == "ann"
        assert abs(reply["expires"] - time.time() - 3600) < 5
        vip = await ann.subscribe("vip:a")
        await ann.publish("vip:a", 1)
        assert (await vip.message())["data"] == 1
        await ann.request("refresh", token=make_token(SECRET, "ann"))
        ended = await vip.next()
        assert (ended["type"], ended["channel"], ended["code"]) == ("unsubscribed", "vip:a", "permission_denied")
        assert "ann may not subscribe" in ended["reason"]
        assert await refusal(ann, "publish", channel="vip:a", data=2) == "permission_denied"
        assert await refusal(ann, "unsubscribe", channel="vip:a") == "bad_request"
        await ann.publish("chat:a", "still here")
        assert (await chat.message())["data"] == "still here"


@pytest.mark.gen_test
async def test_a_refresh_that_is_refused_changes_nothing(url: str) -> None:
    """Another user's token, a bad and an expired one: an error, and the old token goes on."""
    async with Client(url, token=make_token(SECRET, "ann", channels=VIP)) as ann:
        vip = await ann.subscribe("vip:a")
        for token, code in (
            (make_token(SECRET, "bob"), "permission_denied"),
            (make_token("x" * 40, "ann"), "unauthenticated"),
            (make_token(SECRET, "ann", -60), "token_expired"),
            ("", "unauthenticated"),
        ):
            assert await refusal(ann, "refresh", token=token) == code
        assert await refusal(ann, "refresh") == "bad_request"
        assert await refusal(ann, "refresh", token=7) == "bad_request"
        await ann.publish("vip:a", 1)
        assert (await vip.message())["data"] == 1


@pytest.mark.gen_test
@pytest.mark.parametrize("settings", [{"auth.guests": True}])
async def test_a_guest_becomes_nobody_by_a_refresh(url: str, settings: object) -> None:
    """Who somebody is, only `connect` settles; a guest has no end."""
    async with Client(url) as guest:
        assert guest.session["expires"] is None
        assert await refusal(guest, "refresh", token=make_token(SECRET, "ann")) == "permission_denied"


@pytest.mark.gen_test
@pytest.mark.parametrize("soon", [True, False], ids=["without a task", "by a task"])
async def test_a_subscription_under_way_does_not_outlive_its_right(
    url: str, node: Node, monkeypatch: pytest.MonkeyPatch, soon: bool
) -> None:
    """A subscribe that was begun with a right ends if a refresh takes the right away meanwhile."""
    begun, gate = asyncio.Event(), asyncio.Event()
    open_soon = node.streams.open_soon

    async def later(asked: Any) -> Any:
        begun.set()
        await gate.wait()
        return await asked

    def slow(*arguments: Any) -> Any:
        return asyncio.ensure_future(later(open_soon(*arguments)))

    monkeypatch.setattr(node.streams, "open_soon", slow)
    if not soon:
        monkeypatch.setattr(node.subscriptions, "subscribe_soon", lambda *_: False)
    async with Client(url, token=make_token(SECRET, "ann", channels=VIP)) as ann:
        under_way = asyncio.ensure_future(ann.subscribe("vip:new"))
        await begun.wait()
        await ann.request("refresh", token=make_token(SECRET, "ann"))
        gate.set()
        vip = await under_way
        assert (await vip.next())["type"] == "unsubscribed"


@pytest.mark.gen_test
async def test_what_waits_for_the_client_is_dropped_with_the_right(url: str, node: Node) -> None:
    """Frames of the channel that are still queued when the right goes are never sent; the rest is."""
    async with Client(url, token=make_token(SECRET, "ann", channels=VIP)) as ann:
        await ann.subscribe("vip:a")
        chat = await ann.subscribe("chat:a")
        (session,) = node.admission.clients
        session.pause()  # type: ignore[attr-defined]
        principal = node.authenticator.authenticate(make_token(SECRET, "bob", channels=VIP))
        for channel in ("vip:a", "chat:a", "vip:a"):
            publishing = node.publisher.publish(principal, channel, 1)
            assert publishing is not None
            await publishing
        await until(lambda: session.queued >= 3 * 100, what="queued frames")  # type: ignore[attr-defined]
        vip = ann.subscriptions["vip:a"]
        refresh = asyncio.ensure_future(ann.request("refresh", token=make_token(SECRET, "ann")))
        await until(lambda: "vip:a" not in session.subscriptions, what="unsubscribing")  # type: ignore[attr-defined]
        session.resume()  # type: ignore[attr-defined]
        await refresh
        assert (await chat.message())["data"] == 1
        assert [push["type"] for push in [await vip.next(), *vip.waiting()]] == ["unsubscribed"]


@pytest.mark.gen_test
async def test_expiry_closes_unless_refreshed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a new token the connection ends with 4002, which means: come back with a new one."""
    monkeypatch.setattr(clients, "EXPIRY_GRACE", 0.0)
    async with (
        Client(url, token=make_token(SECRET, "ann", 1.0)) as late,
        Client(url, token=make_token(SECRET, "ann", 1.0)) as prompt,
    ):
        await prompt.request("refresh", token=make_token(SECRET, "ann"))
        loss = await until(lambda: late.losses and late.losses[0], what="the end")
        assert loss.code == 4002
        assert loss.disconnect is not None
        assert (loss.disconnect["code"], loss.disconnect["reconnect"]) == (4002, True)
        assert await prompt.ping()
        assert not prompt.losses


@pytest.mark.gen_test
async def test_a_bad_token_at_the_door(url: str, http_client: AsyncHTTPClient, base_url: str) -> None:
    """An expired token is `token_expired` on each door, an upgrade with a bad one is 401."""
    expired = make_token(SECRET, "ann", -60)
    with pytest.raises(Refused) as caught:
        await Client(url, token=expired).connect()
    assert caught.value.code == "token_expired"
    subscription = make_token(SECRET, "ann", channel="chat:vip")
    async with Client(url, token=make_token(SECRET, "ann")) as client:
        assert await refusal(client, "refresh", token=subscription) == "unauthenticated"
    for token, code in (
        (expired, "token_expired"),
        ("x.y.z", "unauthenticated"),
        ("x" * 9000, "unauthenticated"),
        (subscription, "unauthenticated"),
    ):
        headers = {"Authorization": f"Bearer {token}"}
        for path in ("/v1/channels/chat:a/messages", "/v1/ws"):
            upgrade = {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
            }
            response = await http_client.fetch(base_url + path, headers=headers | upgrade, raise_error=False)
            assert (response.code, json.loads(response.body)["code"]) == (401, code)


class TestWithARate:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"limits.requests_per_second": 5, "limits.requests_burst": 5}

    @pytest.mark.gen_test
    async def test_no_signature_is_looked_at_for_who_has_no_request_left(self, node: Node) -> None:
        """Where guests of an address have used up their requests, unknown tokens and tickets of it have to wait; tokens
        that were verified before, and other addresses, need not."""
        known, other = make_token(SECRET, "ann"), make_token(SECRET, "bob")
        ann = node.identities.authenticate(known, "192.0.2.1")
        ticket, _ = await node.subscriptions.ticket(ann, ["feed:a"])
        assert node.identities.authenticate(other, "192.0.2.2").user == "bob"
        with suppress(Error):
            for _ in range(100):
                node.admission.count_request(GUEST, "192.0.2.1")
        for _ in range(3):
            for bad in ("a.b.c", make_token("another secret of 32 bytes and more", "ann"), make_token(SECRET, "eve")):
                with pytest.raises(Error, match="rate_limited: requests_per_second is 5"):
                    node.identities.authenticate(bad, "192.0.2.1")
            with pytest.raises(Error, match="rate_limited"):
                node.identities.redeem(ticket, ["feed:a"], "192.0.2.1")
        assert node.identities.authenticate(known, "192.0.2.1").user == "ann"
        assert node.identities.authenticate(make_token(SECRET, "eve"), "192.0.2.3").user == "eve"
        assert node.identities.redeem(ticket, ["feed:a"], "192.0.2.3").user == "ann"


class TestConnectingWithARate:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"limits.requests_per_second": 0.1, "limits.requests_burst": 5}

    @pytest.mark.gen_test
    async def test_tokens_that_prove_nothing_count_over_websocket_as_well(self, url: str) -> None:
        """Whoever guesses over new connections is told to wait, as over REST; a token that is good before that is
        good."""
        async with Client(url, token=make_token(SECRET, "ann")) as ann:
            codes = []
            for n in range(10):
                with pytest.raises(Refused) as caught:
                    await Client(url, token=make_token("another secret of 32 bytes and more", f"u{n}")).connect()
                codes.append(caught.value.code)
            assert codes == ["unauthenticated"] * 5 + ["rate_limited"] * 5
            assert await refusal(ann, "refresh", token="x.y.z") == "rate_limited"
            await ann.ping()


# --- keys at a URL ----------------------------------------------------------------------------------------------------


class Publisher:
    """A small HTTP server, in threads of its own, that publishes keys; `gate` holds its answers back."""

    def __init__(self) -> None:
        self.private = {name: rsa.generate_private_key(65537, 2048) for name in ("a", "b")}
        self.published = ["a"]
        self.status = 200
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.asked += 1
                publisher.gate.wait(20)
                self.send_response(publisher.status if self.path == "/keys" else 200)
                if publisher.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(json.dumps(publisher.keys()).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        threading.Thread(target=self.server.serve_forever, args=(0.05,)).start()

    def keys(self) -> dict[str, Any]:
        to_jwk = jwt.algorithms.RSAAlgorithm.to_jwk
        return {
            "keys": [{**to_jwk(self.private[name].public_key(), as_dict=True), "kid": name} for name in self.published]
        }

    def token(self, name: str, kid: str | None = None, **claims: Any) -> str:
        claims = {"sub": "ann", "exp": int(time.time()) + 600, **claims}
        return jwt.encode(claims, self.private[name], "RS256", headers={"kid": kid or name})

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    one = Publisher()
    yield one
    one.close()


class TestKeysOfAURL:
    @pytest.fixture
    def settings(self, publisher: Publisher) -> dict[str, object]:
        return {
            "namespaces.vip": {},
            "auth.guests": False,
            "auth.secret": None,
            "auth.algorithms": ["RS256"],
            "auth.jwks_url": publisher.url,
        }

    @pytest.fixture
    def status(self, http_client: AsyncHTTPClient, base_url: str) -> Any:
        async def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            url = f"{base_url}/v1/channels/chat:a/messages"
            return int((await http_client.fetch(url, headers=headers, raise_error=False)).code)

        return status

    @pytest.mark.gen_test
    async def test_keys_are_fetched_once_and_rotated(
        self, publisher: Publisher, status: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Many tokens are one fetch; an unknown key id is looked for, at most once in a while; a key that is taken out
        is good no more."""
        old = publisher.token("a")
        assert await asyncio.gather(*(status(old) for _ in range(10))) == [200] * 10
        assert publisher.asked == 1
        publisher.published = ["b"]
        assert await status(publisher.token("b")) == 401
        assert await status(publisher.token("a", kid="../../b")) == 401
        assert publisher.asked == 1
        monkeypatch.setattr(keys, "REFETCH_AFTER", 0.0)
        assert await status(publisher.token("b")) == 200
        assert publisher.asked == 2
        assert await status(publisher.token("b")) == 200
        assert publisher.asked == 2
        assert await status(old) == 401
        assert await status(publisher.token("b", kid="a")) == 401
        assert await status(publisher.token("a", kid="b")) == 401

    @pytest.mark.gen_test
    @pytest.mark.parametrize("trouble", [500, 302, 200])
    async def test_while_the_url_is_away_the_old_keys_are_used(
        self, publisher: Publisher, status: Any, monkeypatch: pytest.MonkeyPatch, trouble: int
    ) -> None:
        """Errors, redirects, and a stopped server: what is known goes on, what is unknown is refused."""
        assert await status(publisher.token("a")) == 200
        monkeypatch.setattr(keys, "REFETCH_AFTER", 0.0)
        monkeypatch.setattr(keys, "REFRESH_EVERY", 0.0)
        publisher.published = ["b"]
        publisher.status = trouble
        if trouble == 200:
            publisher.server.server_close()
        assert await status(publisher.token("b")) == 401
        assert await status(publisher.token("a")) == 200

    @pytest.mark.gen_test
    async def test_no_key_was_ever_fetched(self, publisher: Publisher, status: Any, url: str) -> None:
        """Nobody can say then that a token is bad: `unavailable`, and a WebSocket is told to come back."""
        publisher.status = 500
        assert await status(publisher.token("a")) == 503
        connection = await websocket_connect(url)
        await connection.write_message(json.dumps({"type": "connect", "id": 1, "token": publisher.token("a")}))
        error = json.loads(await connection.read_message() or "null")
        assert (error["code"], error["retry"], error["id"]) == ("unavailable", True, 1)
        disconnect = json.loads(await connection.read_message() or "null")
        assert (disconnect["code"], disconnect["reconnect"]) == (4004, True)
        assert await connection.read_message() is None
        connection.close()

    @pytest.mark.gen_test
    async def test_commands_wait_for_the_key_in_their_order(
        self, publisher: Publisher, status: Any, url: str, node: Node, base_url: str, http_client: AsyncHTTPClient
    ) -> None:
        """What is pipelined behind a connect whose key has to be fetched is carried out after it; meanwhile the server
        serves others."""
        publisher.gate.clear()
        connection = await websocket_connect(url)
        token = publisher.token("a", channels=VIP)
        commands: list[dict[str, Any]] = [
            {"type": "connect", "id": 1, "token": token},
            {"type": "subscribe", "id": 2, "channel": "vip:a"},
            {"type": "publish", "id": 3, "channel": "vip:a", "data": 7},
            {"type": "nonsense", "id": 4},
            {"type": "refresh", "id": 5, "token": token},
        ]
        for command in commands:
            await connection.write_message(json.dumps(command))
        gone = await websocket_connect(url)  # leaves while it waits
        await gone.write_message(json.dumps(commands[0]))
        await until(lambda: publisher.asked, what="the fetch")
        gone.close()
        early = json.loads(await connection.read_message() or "null")  # nothing to do with who the client is
        assert (early["type"], early["id"]) == ("error", 4)
        assert (await http_client.fetch(f"{base_url}/readyz")).code == 200
        publisher.gate.set()
        pushes = [early]
        while len(pushes) < 6:
            pushes.append(json.loads(await connection.read_message() or "null"))
        replies = {push["id"]: push["type"] for push in pushes if "id" in push}
        assert replies == {1: "reply", 2: "reply", 3: "reply", 4: "error", 5: "reply"}
        assert [push["data"] for push in pushes if push["type"] == "message"] == [7]
        assert publisher.asked == 1
        connection.close()
        assert await connection.read_message() is None

    @pytest.mark.gen_test
    async def test_an_upgrade_waits_for_the_key(
        self, publisher: Publisher, url: str, http_port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A token in the upgrade request is as good as one in `connect`; leaving while it waits is fine."""
        publisher.gate.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", http_port)
        writer.write(
            b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            b"Authorization: Bearer " + publisher.token("a").encode() + b"\r\n\r\n"
        )
        await until(lambda: publisher.asked, what="the fetch")
        writer.transport.abort()
        publisher.gate.set()
        async with Client(url, token=publisher.token("a"), bearer=True) as ann:
            assert ann.session["user"] == "ann"
        with pytest.raises(Exception, match="401"):
            await Client(url, token=publisher.token("b"), bearer=True).connect()
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
