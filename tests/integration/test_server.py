"""The HTTP server under the doors: idle connections, slow ones, and no descriptors left."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest
from tornado.httputil import HTTPHeaders

import handlers.server
from handlers.ops import Health
from handlers.server import HTTPServer
from server.access import admission
from server.node import Node
from tests.support.client import Client
from tests.support.processes import LOOPBACK, ROOT, UNLIMITED, Mongod, Server
from tests.support.waiting import until

GET = b"GET /v1/channels/chat:a/messages HTTP/1.1\r\nHost: localhost\r\n\r\n"
READY = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b'POST /v1/channels/chat:a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"data":1}'


class Raw:
    """A connection that speaks as it likes."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Raw:
        self.reader, self.writer = await asyncio.open_connection(LOOPBACK, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, request: bytes) -> int:
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"(?i)content-length: (\d+)", head) or [b"0"]
        await self.reader.readexactly(int(length))
        return int(head.split()[1])

    async def body(self) -> bytes:
        """Of the next answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"(?i)content-length: (\d+)", head) or [b"0"]
        return await self.reader.readexactly(int(length))

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything slow is cut at once; what is only idle is not."""
    monkeypatch.setattr(handlers.server, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(handlers.server, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(handlers.server, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(handlers.server, "IDLE_SECONDS", 3600.0)


class TestIdle:
    @pytest.mark.gen_test
    async def test_it_outlives_the_time_for_headers(self, hurry: None, http_server: object, http_port: int) -> None:
        """A connection that has had an answer waits for its next request far longer than headers may take: others that
        came after it and say nothing are cut meanwhile."""
        async with Raw(http_port) as kept, Raw(http_port) as mute, Raw(http_port) as partial:
            assert await kept.ask(POST) == 201
            assert await partial.ask(GET) == 200
            partial.writer.write(GET[:20])
            assert await mute.closed()
            assert await partial.closed()
            for _ in range(3):
                async with Raw(http_port) as mute:
                    assert await mute.closed()
                assert await kept.ask(POST) == 201

    @pytest.mark.gen_test
    async def test_it_ends_too(
        self, hurry: None, http_server: object, http_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handlers.server, "IDLE_SECONDS", 0.2)
        async with Raw(http_port) as kept:
            assert await kept.ask(GET) == 200
            assert await kept.closed()

    @pytest.mark.gen_test
    async def test_half_a_body(self, hurry: None, http_server: object, http_port: int) -> None:
        """The body has its time too, in a connection's first request and in a later one."""
        async with Raw(http_port) as first, Raw(http_port) as later:
            assert await later.ask(POST) == 201
            for one in (first, later):
                one.writer.write(POST[:-3])
                assert await one.closed()

    def test_a_proxy_closes_first(self) -> None:
        """What deploy/nginx.conf keeps its connections for is less than we do, and longer than a long poll."""
        site = (ROOT / "deploy" / "nginx.conf").read_text()
        (kept,) = re.findall(r"upstream[^}]*keepalive_timeout (\d+)s;", site)
        assert float(kept) + 10 < handlers.server.IDLE_SECONDS


@pytest.mark.gen_test
async def test_who_does_not_take_the_answer_is_cut(
    node: Node, hurry: None, http_server: HTTPServer, http_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that nobody reads is not kept for ever; one that is waited for is."""
    monkeypatch.setattr(handlers.server, "STALLED_SECONDS", 0.3)
    for _ in range(100):
        node.publisher.publish(node.identities.authenticate(None), "chat:big", "x" * 60_000)
    head = b"GET /v1/channels/chat:big/messages?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with Raw(http_port) as poll:
        waiting = asyncio.ensure_future(poll.ask(GET.replace(b"messages", b"messages?wait=60")))
        _, writer = await asyncio.open_connection(LOOPBACK, http_port, limit=1024)
        writer.write(head * 3)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: http_server.busy, 10, "an answer under way")
        await until(lambda: not http_server.busy, 10, "it is cut")
        writer.close()
        await node.publisher.publish(node.identities.authenticate(None), "chat:a", 1)
        assert await waiting == 200


@pytest.mark.gen_test
async def test_requests_that_come_ahead_of_their_turn_are_held_back(
    mongod: Mongod, http_server: HTTPServer, http_port: int
) -> None:
    """While one is being answered some of what follows is taken in, the rest waits with the client: that is not cut,
    however much it is, and everything is answered in order."""
    body = b'{"data":"' + b"x" * 60_000 + b'"}'
    request = POST[: POST.index(b"Content-Length")] + b"Content-Length: %d\r\n\r\n" % len(body) + body
    slow = {"failCommands": ["insert"], "blockConnection": True, "blockTimeMS": 300, "appName": "waterspout"}
    await mongod.fail_command(slow, {"times": 1})
    async with Raw(http_port) as client:
        client.writer.write(request * 200)
        for number in range(1, 201):
            assert json.loads(await client.body())["offset"] == number
        assert await client.ask(GET) == 200


@pytest.mark.gen_test
async def test_headers_that_come_again_are_not_read_again(
    http_server: HTTPServer, http_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends them, up to 2 KiB; all others are read, and those that are bad refused each time."""
    read: list[str] = []
    parse = HTTPHeaders.parse

    def counting(headers: str) -> HTTPHeaders:
        read.append(headers)
        return parse(headers)

    monkeypatch.setattr(HTTPHeaders, "parse", counting)
    async with Raw(http_port) as one, Raw(http_port) as other:
        for client in (one, other, one):
            assert await client.ask(POST) == 201
            assert await client.ask(POST.replace(b"chat:a", b"chat:b")) == 201
        assert len(read) == 1
        assert await one.ask(POST.replace(b"Host", b"Accept: text/html\r\nHost")) == 406
        assert await one.ask(POST) == 201
        assert len(read) == 2
        long = POST.replace(b"Host", b"X-Long: " + b"x" * 2048 + b"\r\nHost")
        assert [await one.ask(long), await one.ask(long)] == [201, 201]
        assert len(read) == 4
    for _ in range(2):
        async with Raw(http_port) as client:
            assert await client.ask(POST.replace(b"Host", b"B ad: x\r\nHost")) == 400
    assert len(read) == 6


@pytest.mark.gen_test
async def test_who_leaves_answers_first(http_server: HTTPServer, http_port: int) -> None:
    """After `stop` idle connections are closed and a request that is being sent is still answered."""
    async with Raw(http_port) as idle, Raw(http_port) as busy:
        assert await idle.ask(GET) == 200
        busy.writer.write(POST[:-3])
        await until(lambda: http_server.busy, 5, "half a request")
        http_server.stop()
        assert await idle.closed()
        assert await busy.ask(POST[-3:]) == 201
        assert await busy.closed()
    assert not http_server.busy


class TestSeats:
    """Connections of plain HTTP count too."""

    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"limits.connections_per_ip": 3, "server.trusted_proxies": ["127.0.0.2"]}

    @pytest.fixture(autouse=True)
    def none_beside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admission, "BESIDE", 0)

    @pytest.mark.gen_test
    async def test_who_is_one_too_many_is_told(self, node: Node, http_server: object, http_port: int) -> None:
        """Those who are at a request stay. The next one gets an answer, whatever it asks, and is closed; probes are
        answered all the same."""
        for path, status in (("/v1/channels/chat:a/messages", 429), ("/", 429), ("/v1/ws", 429), ("/readyz", 200)):
            async with Raw(http_port) as one, Raw(http_port) as two, Raw(http_port) as three:
                for busy in (one, two, three):
                    busy.writer.write(POST[:-3])
                await until(lambda: node.admission.visits.total == 3, 5, "three")
                async with Raw(http_port) as late:
                    assert await late.ask(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) == status
                    assert await late.closed()
                assert await one.ask(POST[-3:]) == 201
            await until(lambda: not node.admission.visits.total, 5, "nobody")

    @pytest.mark.gen_test
    async def test_the_idle_make_room(self, node: Node, http_server: object, http_port: int) -> None:
        """A connection that is only kept for later goes when another one of its address comes: the oldest first."""
        async with Raw(http_port) as one, Raw(http_port) as two, Raw(http_port) as three:
            for idle in (one, two, three):
                assert await idle.ask(GET) == 200
            assert await one.ask(GET) == 200
            async with Raw(http_port) as late:
                assert await late.ask(POST) == 201
                assert await two.closed()
                assert await one.ask(GET) == 200
                assert await three.ask(GET) == 200
            assert not node.incidents.refusals

    @pytest.mark.gen_test
    async def test_a_websocket_keeps_the_seat(self, node: Node, http_server: object, http_port: int) -> None:
        """A connection that becomes one has its seat already; with all taken there is none for a request."""
        upgrade = (
            b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        async with Raw(http_port) as one, Raw(http_port) as two, Raw(http_port) as three:
            for opened in (one, two, three):
                assert await opened.ask(upgrade) == 101
            await until(lambda: not node.admission.visits.total, 5, "no more HTTP")
            assert node.admission.connections.total == 3
            async with Raw(http_port) as late:
                assert await late.ask(GET) == 429
        await until(lambda: not node.admission.connections.total, 5, "nobody")
        async with Raw(http_port) as again:
            assert await again.ask(GET) == 200

    @pytest.mark.gen_test
    async def test_who_says_nothing_is_soon_gone(
        self, node: Node, http_server: object, http_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Hundreds that connect and are silent: as many as may are kept for as long as headers may take, the others are
        closed much sooner."""
        monkeypatch.setattr(handlers.server, "LOOK_EVERY", 0.05)
        monkeypatch.setattr(handlers.server, "REFUSED_SECONDS", 0.2)
        await until(lambda: True, 1, "the next look")
        crowd = [await asyncio.open_connection(LOOPBACK, http_port) for _ in range(50)]
        reads = [asyncio.ensure_future(reader.read()) for reader, _ in crowd]
        await until(lambda: sum(read.done() for read in reads) == 47, 10, "all but three are closed")
        assert node.admission.visits.total == 3
        for read in reads:
            read.cancel()
        for _, writer in crowd:
            writer.close()

    @pytest.mark.gen_test
    async def test_a_proxy_is_not_one_client(self, node: Node, http_server: object, http_port: int) -> None:
        """It brings many: its connections count among all, not for its address."""
        visits = [node.admission.visit("127.0.0.2", proxied=True) for _ in range(10)]
        assert node.admission.visits.total == 10
        assert not node.admission.visits_by_address.total
        for visit in visits:
            visit.leave()


class Confined(Server):
    """With 200 descriptors."""

    def command(self) -> list[str]:
        return ["prlimit", "--nofile=200:200", *super().command()]


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not installed")
def test_no_descriptors_left(mongod: Mongod, tmp_path: Path) -> None:
    """Whoever comes then waits in the kernel's queue and is served as soon as somebody leaves. Who is connected is
    served all the while, with the database; who only keeps a connection for later has to go. `/readyz` says why."""

    async def play() -> None:
        settings = {**UNLIMITED, "limits.connections": 0, "mongodb.database": "descriptors"}
        server = Confined(tmp_path, mongodb_uri=mongod.uri, settings=settings)
        async with server, Client([server.ws]) as ann, Raw(server.port) as idle:
            assert await idle.ask(POST) == 201
            async with Raw(server.port) as probe:
                probe.writer.write(READY[:-2])
                crowd = [await asyncio.open_connection(LOOPBACK, server.port) for _ in range(250)]
                await until(lambda: "no file descriptors" in server.log.read_text(), 10, "the limit")
                assert await idle.closed()
                probe.writer.write(READY[-2:])
                answer = json.loads(await probe.body())
                assert answer["status"] == "degraded"
                assert answer["reasons"][0].startswith("no file descriptors are left for clients")
            async with Raw(server.port) as late:
                asked = asyncio.ensure_future(late.ask(POST))
                for n in range(20):
                    await ann.publish("chat:a", n)
                assert not asked.done()
                assert server.open_files() < 200
                for _, writer in crowd:
                    writer.close()
                assert await asyncio.wait_for(asked, 15) == 201
        text = server.log.read_text()
        assert "Traceback" not in text
        assert text.count("no file descriptors") < 5

    asyncio.run(play())


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("version", "option", "kept"),
    [
        ("1.1", "close, x", False), ("1.1", "Close", False), ("1.1", "x , close", False), ("1.1", "close-by", True),
        ("1.0", "keep-alive", True), ("1.0", "x", False),
    ],
)  # fmt: skip
async def test_a_connection_is_kept_as_its_options_say(
    http_server: object, http_port: int, version: str, option: str, kept: bool
) -> None:
    """`Connection` is a list of options: with `close` among them the connection ends with the answer, and says so."""
    request = GET.replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    request = request.replace(b"\r\n\r\n", f"\r\nConnection: {option}\r\n\r\n".encode())
    async with Raw(http_port) as connection:
        connection.writer.write(request)
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert (b"Connection: close" in head) is not kept
        (length,) = re.findall(rb"Content-Length: (\d+)", head)
        await connection.reader.readexactly(int(length))
        if kept:
            assert await connection.ask(GET) == 200
        else:
            assert await connection.closed()


@pytest.mark.gen_test
async def test_an_answer_that_cannot_be_written_ends_the_connection(
    http_server: HTTPServer, http_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in how an answer is written leaves nobody waiting for it, is logged, and holds up no shutdown."""

    async def get(self: Health) -> None:
        self.set_header("X-Odd", "\N{SNOWMAN}")

    monkeypatch.setattr(Health, "get", get)
    async with Raw(http_port) as connection:
        connection.writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await connection.closed()
    assert not http_server.busy
    assert "GET /healthz failed" in caplog.text
