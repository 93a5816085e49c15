"""What a client may cost: every limit is answered with an error that names it and says when to come back."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

import handlers.server
import handlers.sockets
import server.sessions.session
from handlers import make_app, serving
from handlers.server import HTTPServer
from server.node import Node
from tests.support.client import Client, Refused, make_token
from tests.support.waiting import until

SECRET = "a secret of at least thirty-two bytes"
ANN, BOB = make_token(SECRET, "ann"), make_token(SECRET, "bob")
KEY = "the key of the shop"


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "auth.api_keys": {"shop": {"sha256": hashlib.sha256(KEY.encode()).hexdigest()}},
        "limits.connections_per_user": 3,
        "limits.channels_per_connection": 2,
        "namespaces.slow": {"publish": "anyone", "subscribe": "anyone", "rate": 0.5},
        "namespaces.bursts": {"publish": "anyone", "subscribe": "anyone", "rate": {"per_user": 0.1, "burst": 3}},
    }


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


async def rest(base: str, path: str, body: Any = None, bearer: str | None = None) -> Any:
    return await AsyncHTTPClient().fetch(
        base + path, method="GET" if body is None else "POST", body=None if body is None else json.dumps(body),
        raise_error=False, headers={"Authorization": f"Bearer {bearer}"} if bearer else {},
    )  # fmt: skip


@pytest.mark.gen_test
@pytest.mark.parametrize("bearer", [True, False], ids=["in the header", "in connect"])
async def test_connections_per_user(url: str, node: Node, bearer: bool) -> None:
    """One more than allowed is refused by name; guests, others and API keys are not counted; who leaves makes room."""
    async with AsyncExitStack() as stack:
        anns = [await stack.enter_async_context(Client(url, token=ANN, bearer=bearer)) for _ in range(3)]
        extra = Client(url, token=ANN, bearer=bearer)
        if bearer:
            with pytest.raises(HTTPClientError) as answered:
                await extra.connect()
            assert answered.value.code == 429
            assert answered.value.response is not None
            problem = json.loads(answered.value.response.body)
            assert "Retry-After" in answered.value.response.headers
        else:
            with pytest.raises(Refused) as refused:
                await extra.connect()
            problem = refused.value.error
            await until(lambda: extra.losses, 5, "the close")
            assert extra.losses[0].code == 4500
        assert problem["code"] == "limit_exceeded"
        assert problem["reason"].startswith("connections_per_user")
        assert problem["retry_after"]
        await stack.enter_async_context(Client(url, token=BOB))
        for token in (None, KEY):
            for _ in range(5):
                await stack.enter_async_context(Client(url, token=token))
        await anns[0].close()
        await until(lambda: len(node.admission.users["ann"]) == 2, 5, "room")
        await stack.enter_async_context(Client(url, token=ANN, bearer=bearer))
        await extra.close()
    await until(lambda: not node.admission.users, 5, "nobody")


@pytest.mark.gen_test
async def test_a_connect_that_repeats_the_header_counts_once(url: str, node: Node) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            client = Client(url, greet=False, bearer=True, token=ANN)
            await stack.enter_async_context(client)
            assert (await client.request("connect", token=ANN))["user"] == "ann"
        assert len(node.admission.users["ann"]) == 3
        other = Client(url, greet=False, bearer=True, token=BOB)
        await stack.enter_async_context(other)
        with pytest.raises(Refused, match="connections_per_user"):
            await other.request("connect", token=ANN)


@pytest.mark.gen_test
@pytest.mark.parametrize("limit", ["connections", "connections_per_ip"])
async def test_connections_in_all_and_per_address(url: str, node: Node, limit: str) -> None:
    seats = {"connections": node.admission.connections, "connections_per_ip": node.admission.addresses}[limit]
    seats.limit = 2
    async with Client(url), Client(url):
        with pytest.raises(HTTPClientError) as answered:
            await Client(url).connect()
        assert answered.value.code == 429
        assert answered.value.response is not None
        problem = json.loads(answered.value.response.body)
        assert problem["reason"] == f"{limit} is 2"
        assert problem["retry_after"]


@pytest.mark.gen_test
async def test_channels_per_connection(url: str) -> None:
    async with Client(url) as client:
        for name in "ab":
            await client.subscribe(f"chat:{name}")
        with pytest.raises(Refused, match="limit_exceeded: channels_per_connection is 2"):
            await client.subscribe("chat:c")
        await client.unsubscribe("chat:a")
        await client.subscribe("chat:c")


@pytest.mark.gen_test
async def test_the_rate_of_a_namespace(url: str, base_url: str) -> None:
    """Each user has its own; REST counts with WebSocket; back ends are not counted; guests share their address's."""
    async with Client(url, token=ANN) as ann, Client(url, token=BOB) as bob, Client(url, token=KEY) as shop:
        await ann.publish("slow:x", 1)
        with pytest.raises(Refused, match=r"rate_limited: rate of the namespace: .*slow:x") as refused:
            await ann.publish("slow:x", 2)
        assert 1.0 < refused.value.retry_after <= 2.0
        response = await rest(base_url, "/v1/channels/slow:y/messages", {"data": 3}, ANN)
        assert response.code == 429
        assert json.loads(response.body)["code"] == "rate_limited"
        assert int(response.headers["Retry-After"]) >= 1
        await ann.publish("chat:x", "elsewhere")
        await bob.publish("slow:x", 1)
        for n in range(10):
            await shop.publish("slow:x", n)
        for n in range(3):
            await ann.publish("bursts:x", n)
        with pytest.raises(Refused, match="rate_limited"):
            await ann.publish("bursts:x", 3)
        async with Client(url) as guest, Client(url) as other:
            await guest.publish("slow:x", 1)
            with pytest.raises(Refused, match="rate_limited"):
                await other.publish("slow:x", 1)


class TestPerUser:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"limits.user_messages_per_second": 0.2, "limits.user_burst": 4}

    @pytest.mark.gen_test
    async def test_over_all_connections(self, url: str, base_url: str) -> None:
        """Publishes and history reads of a user count together, wherever they come in."""
        async with Client(url, token=ANN) as one, Client(url, token=ANN) as two, Client(url, token=BOB) as bob:
            await one.publish("chat:x", 1)
            await two.publish("live:x", 2)
            await two.history("chat:x")
            assert (await rest(base_url, "/v1/channels/chat:x/messages", bearer=ANN)).code == 200
            for attempt in (one.publish("chat:x", 5), two.history("chat:x")):
                with pytest.raises(Refused, match=r"rate_limited: user_messages_per_second is 0\.2") as refused:
                    await attempt
                assert 0 < refused.value.retry_after <= 5
            assert (await rest(base_url, "/v1/channels/chat:x/messages", {"data": 1}, ANN)).code == 429
            await bob.publish("chat:x", 1)


class TestRequests:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        key = {"shop": {"sha256": hashlib.sha256(KEY.encode()).hexdigest()}}
        return {"limits.requests_per_second": 0.2, "limits.requests_burst": 3, "auth.api_keys": key}

    @pytest.mark.gen_test
    @pytest.mark.parametrize("bearer", [None, ANN], ids=["an address", "a user"])
    async def test_rest(self, base_url: str, http_server: object, bearer: str | None) -> None:
        path = "/v1/channels/chat:x/messages"
        assert (await rest(base_url, path, bearer=BOB)).code == 200  # known from now on, whoever floods his address
        assert [(await rest(base_url, path, bearer=bearer)).code for _ in range(5)] == [200] * 3 + [429] * 2
        response = await rest(base_url, path, bearer=bearer)
        assert json.loads(response.body)["reason"] == "requests_per_second is 0.2"
        assert int(response.headers["Retry-After"]) >= 1
        assert (await rest(base_url, path, bearer=BOB)).code == 200
        assert {(await rest(base_url, path, bearer=KEY)).code for _ in range(10)} == {200}
        assert (await rest(base_url, "/healthz")).code == 200


# --- case 17: connections that do nothing -----------------------------------------------------------------------------


class TestIdle:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"auth.guests": False, "limits.connections": 0}

    @pytest.fixture
    def port(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
        """The real server's settings, in a hurry."""
        for name in ("HEADER_SECONDS", "BODY_SECONDS", "LOOK_EVERY"):
            monkeypatch.setattr(handlers.server, name, 0.5)
        monkeypatch.setattr(server.sessions.session, "CONNECT_WITHIN", 0.5)
        monkeypatch.setattr(handlers.sockets, "CLOSE_WITHIN", 0.5)
        sockets = serving.listen("127.0.0.1", 0, "--port")
        web = HTTPServer(make_app(node), sockets)
        yield sockets[0].getsockname()[1]
        web.stop()

    @pytest.mark.gen_test(timeout=30)
    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
            b"POST /v1/channels/chat:x/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        ],
        ids=["nothing", "half a header", "half a body"],
    )
    async def test_slow_requests_are_cut(self, port: int, sent: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()

    @pytest.mark.gen_test(timeout=60)
    async def test_idle_sockets_hurt_nobody(self, port: int, node: Node) -> None:
        """Hundreds that say nothing at all, and hundreds that open a WebSocket and never say who they are: all are
        closed in time, and meanwhile a user is served as ever."""
        upgrade = (
            b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )

        async def idle(greeting: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(greeting)
            answer = await reader.read()
            writer.close()
            return answer

        token = make_token(str(node.config.auth.secret), "ann", channels={"chat:*": ["publish", "subscribe"]})
        async with Client(f"ws://127.0.0.1:{port}/v1/ws", token=token) as ann, asyncio.timeout(40):
            mute = [asyncio.ensure_future(idle(b"")) for _ in range(200)]
            nameless = [asyncio.ensure_future(idle(upgrade)) for _ in range(200)]
            subscription = await ann.subscribe("chat:x")
            for n in range(50):
                await ann.publish("chat:x", n)
            assert [m["data"] for m in await subscription.messages(50)] == list(range(50))
            assert set(await asyncio.gather(*mute)) == {b""}
            farewells = await asyncio.gather(*nameless)
            assert all(b"101 Switching" in farewell and b'"code":4500' in farewell for farewell in farewells)
            await until(lambda: len(node.admission.clients) == 1, 5, "ann alone")
            await ann.ping()
            assert not ann.losses
