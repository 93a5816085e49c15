"""By which names the server may be called, and whose pages may ask."""

from __future__ import annotations

import asyncio

import pytest
from tornado.testing import bind_unused_port

from handlers import make_metrics_app
from handlers.origins import Hosts, Origin, parse_origin
from handlers.server import HTTPServer
from server.core import config
from server.core.errors import StartError
from server.node import Node

EVERY_DOOR = (
    "GET /v1/channels/chat:a/messages",
    "GET /v1/channels/chat:a/events",
    "GET /v1/poll?channel=chat:a&wait=60",
    "POST /v1/publish",
    "OPTIONS /v1/publish",
    "GET /v1/ws",
    "GET /",
    "GET /chat/",
    "GET /static/waterspout.js",
    "GET /openapi.json",
    "GET /readyz",
    "GET /nothing",
)
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: d2F0ZXJzcG91dCBiZW5jaA==\r\n"
)


async def ask(port: int, request: str, *headers: str) -> tuple[int, bytes]:
    """The status of an answer and its head: what the headers are is this test's matter alone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    more = UPGRADE if "/v1/ws" in request else "Content-Length: 0\r\n" if request.startswith("POST") else ""
    lines = "".join(f"{line}\r\n" for line in (f"{request} HTTP/1.1", *headers))
    writer.write(f"{lines}{more}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), head


class TestHosts:
    @pytest.mark.gen_test
    async def test_a_rebound_name_finds_every_door_shut(self, node: Node, http_server: object, http_port: int) -> None:
        """DNS rebinding: a page whose own name points to this machine gets nothing, whatever it asks for."""
        for request in EVERY_DOOR:
            for host in (f"evil.example:{http_port}", "evil.example", "127.0.0.1.evil.example", "localhost.evil.net"):
                status, head = await ask(http_port, request, f"Host: {host}", f"Origin: http://{host}")
                assert status == 421, (request, host)
                assert b"access-control" not in head.lower()
        assert not node.admission.clients

    @pytest.mark.gen_test
    async def test_the_machines_own_names_are_answered(self, node: Node, http_server: object, http_port: int) -> None:
        """Addresses cannot be rebound, and `localhost` is always this machine."""
        for host in ("127.0.0.1", "localhost", "LocalHost.", "chat.localhost", "[::1]", "192.168.1.7", "127.0.0.2"):
            for name in (host, f"{host}:{http_port}"):
                origin = f"http://{name}"
                assert (await ask(http_port, "GET /v1/ws", f"Host: {name}", f"Origin: {origin}"))[0] == 101, name
                assert (await ask(http_port, "GET /readyz", f"Host: {name}"))[0] == 200, name

    @pytest.mark.gen_test
    @pytest.mark.parametrize("settings", [{"server.hosts": ["rt.example.com", "Other.example."]}])
    async def test_listed_names_are_answered(self, http_server: object, http_port: int, settings: object) -> None:
        """Behind a proxy, which passes the name on that its clients use."""
        for host, status in (
            ("rt.example.com", 200), ("RT.example.com:443", 200), ("other.example", 200), ("127.0.0.1", 200),
            ("www.rt.example.com", 421), ("example.com", 421),
        ):  # fmt: skip
            assert (await ask(http_port, "GET /readyz", f"Host: {host}"))[0] == status, host

    @pytest.mark.gen_test
    async def test_the_port_of_metrics(self, node: Node) -> None:
        """It asks for no key, so that being on this machine is the proof."""
        sockets, port = bind_unused_port()
        server = HTTPServer(make_metrics_app(node), [sockets])
        assert (await ask(port, "GET /metrics", "Host: evil.example"))[0] == 421
        assert (await ask(port, "GET /metrics", f"Host: 127.0.0.1:{port}"))[0] == 200
        server.stop()
        await server.close_all_connections()

    @pytest.mark.parametrize(
        ("listening", "listed", "lets_in", "name", "known"),
        [
            ("127.0.0.1", [], True, "rt.lan", False),
            ("127.0.0.1", [], False, "rt.lan", True),  # without a token nobody gets anything
            ("0.0.0.0", [], True, "rt.lan", True),  # in the local network by whatever name it has there
            ("0.0.0.0", ["rt.lan"], True, "rt.lan", True),
            ("0.0.0.0", ["rt.lan"], True, "evil.example", False),
            ("0.0.0.0", ["rt.lan"], False, "evil.example", False),
            ("localhost", [], True, "evil.example", False),
            ("::1", [], True, "evil.example", False),
            ("rt.lan", ["www.lan"], True, "rt.lan", True),
            ("127.0.0.1", [], True, "", False),
            ("127.0.0.1", [], True, "0x7f.1", False),
        ],
    )
    def test_where_names_are_checked(
        self, listening: str, listed: list[str], lets_in: bool, name: str, known: bool
    ) -> None:
        """On loopback where somebody without a token is let in, and wherever names are listed."""
        assert Hosts(listening, listed, lets_in=lets_in).knows(name) is known

    @pytest.mark.parametrize("name", ["https://rt.example.com", "rt.example.com:443", "", "*.example.com", "a..b"])
    def test_a_list_that_would_never_match_is_refused(self, name: str) -> None:
        with pytest.raises(StartError, match=r"server\.hosts"):
            config.load(None, {}, [("server.hosts", [name])])


class TestOrigins:
    @pytest.mark.parametrize(
        ("text", "origin"),
        [
            ("https://rt.example.com", ("https", "rt.example.com", 443)),
            ("HTTP://RT.example.com:80", ("http", "rt.example.com", 80)),
            ("http://[::1]:8888", ("http", "::1", 8888)),
            ("null", None),
            ("", None),
            ("ftp://rt.example.com", None),
            ("file://", None),
            ("chrome-extension://abc", None),
            ("https://rt.example.com/", None),
            ("https://rt.example.com?x", None),
            ("https://ann@rt.example.com", None),
            ("https://rt.example.com:", None),
            ("https://rt.example.com:99999", None),
            ("https://rt.example.com:x", None),
            ("https://[", None),
            ("//rt.example.com", None),
            ("https://a, https://b", None),
        ],
    )
    def test_parsing(self, text: str, origin: tuple[str, str, int] | None) -> None:
        """A scheme, a host and a port, or nothing."""
        assert parse_origin(text) == (origin and Origin(*origin))

    @pytest.mark.gen_test
    @pytest.mark.parametrize("settings", [{"auth.guests": False}])
    async def test_without_a_proxy_that_is_known(self, http_server: object, http_port: int, settings: object) -> None:
        """Our own port is plain HTTP. Of another one, that of a proxy nobody has told us of, either scheme is right, as
        long as the port is the one that it stands for."""
        own = f"localhost:{http_port}"
        for host, origin, status in (
            (own, f"http://{own}", 101), (own, f"https://{own}", 403), (own, "http://localhost", 403),
            (own, f"HTTP://LOCALHOST:{http_port}", 101), (own, f"ftp://{own}", 403), (own, "null", 403), (own, "", 403),
            ("localhost:443", "https://localhost", 101), ("localhost", "https://localhost:443", 101),
            ("localhost:80", "http://localhost", 101), ("localhost:443", "http://localhost", 403),
            ("localhost:8443", "https://localhost:8443", 101), ("localhost:8443", "https://localhost", 403),
            ("localhost", "https://localhost.evil.net", 403), ("localhost", "https://evil@localhost", 403),
            (own, f"http://localhost:{http_port}/", 403),
        ):  # fmt: skip
            assert (await ask(http_port, "GET /v1/ws", f"Host: {host}", f"Origin: {origin}"))[0] == status, (
                host,
                origin,
            )

    @pytest.mark.gen_test
    @pytest.mark.parametrize("settings", [{"auth.guests": False, "server.trusted_proxies": ["127.0.0.1"]}])
    async def test_behind_a_trusted_proxy(self, http_server: object, http_port: int, settings: object) -> None:
        """Its last word on the scheme counts; where it has none, either is right."""
        for proto, origin, status in (
            ("https", "https://rt.example.com", 101), ("https", "http://rt.example.com", 403),
            ("http", "http://rt.example.com", 101), ("http", "https://rt.example.com", 403),
            ("http, https", "https://rt.example.com", 101), ("https, http", "https://rt.example.com", 403),
            (None, "https://rt.example.com", 101), (None, "http://rt.example.com", 101),
            ("https", "https://rt.example.com:8443", 403),
        ):  # fmt: skip
            headers = [f"X-Forwarded-Proto: {proto}"] if proto else []
            answer = await ask(http_port, "GET /v1/ws", "Host: rt.example.com", f"Origin: {origin}", *headers)
            assert answer[0] == status, (proto, origin)

    @pytest.mark.gen_test
    @pytest.mark.parametrize("settings", [{"origins": ["https://App.example:443", "capacitor://localhost"]}])
    async def test_listed_ones(self, http_server: object, http_port: int, settings: object) -> None:
        """Compared in the same way; an origin that no browser's page of the web has is taken to the letter."""
        for origin, status in (
            ("https://app.example", 101), ("capacitor://localhost", 101), ("http://app.example", 403),
            ("https://app.example:444", 403), ("capacitor://evil", 403),
        ):  # fmt: skip
            host = f"Host: localhost:{http_port}"
            assert (await ask(http_port, "GET /v1/ws", host, f"Origin: {origin}"))[0] == status, origin
            _, head = await ask(http_port, "OPTIONS /v1/publish", host, f"Origin: {origin}")
            assert (b"Access-Control-Allow-Origin" in head) is (status == 101), origin
