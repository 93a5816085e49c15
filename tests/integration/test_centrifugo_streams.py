"""Clients of Centrifugo's protocol without WebSocket: HTTP streams and server-sent events, and who only listens."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.centrifugo import one_server, token
from tests.support.processes import Mongod, Redis
from tests.support.protobuf import decode, delimited, encode
from tests.support.server import Server

OPERATOR = "the operator's key"
BINARY = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    one = Redis(tmp_path_factory.mktemp("redis"))
    asyncio.run(one.start())
    yield one
    asyncio.run(one.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mongod: Mongod, redis: Redis) -> Iterator[Server]:
    operator = {"sha256": hashlib.sha256(OPERATOR.encode()).hexdigest(), "admin": True}
    settings = {"mongodb.database": "centrifugo_streams", "auth.api_keys": {"operator": operator}}
    yield from one_server(tmp_path_factory.mktemp("centrifugo_a"), mongod, redis.url, **settings)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, mongod: Mongod, redis: Redis, server: Server) -> Iterator[Server]:
    """A second node of the same Waterspout."""
    settings = {"mongodb.database": "centrifugo_streams"}
    yield from one_server(tmp_path_factory.mktemp("centrifugo_b"), mongod, redis.url, **settings)


@pytest.fixture
def name() -> str:
    return f"n{uuid.uuid4().hex[:8]}"


class Stream:
    """What comes in an endless response, and how it began."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.status = 0
        self.headers: dict[str, str] = {}

    async def begin(self) -> None:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:])}

    async def next(self) -> dict[str, Any]:
        """The next object: on a line of its own, or an event's data."""
        async with asyncio.timeout(5):
            while True:
                line = await self._reader.readline()
                if not line:
                    raise ConnectionError("the stream has ended")
                if text := line.strip().removeprefix(b"data: "):
                    return dict(json.loads(text))

    async def message(self) -> bytes:
        """The next one of Protobuf, shorter than 128 bytes or not."""
        async with asyncio.timeout(5):
            size = shift = 0
            while True:
                (byte,) = await self._reader.readexactly(1)
                size, shift = size | (byte & 0x7F) << shift, shift + 7
                if byte < 0x80:
                    return await self._reader.readexactly(size)

    async def push(self) -> dict[str, Any]:
        while True:
            frame = await self.next()
            if "push" in frame:
                return dict(frame["push"])

    async def ended(self) -> None:
        async with asyncio.timeout(5):
            assert not (await self._reader.read()).strip()


@asynccontextmanager
async def stream(
    server: Server, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = {"Host": f"127.0.0.1:{server.port}", **(headers or {})}
    if body is not None:
        head["Content-Length"] = str(len(body))
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", *(f"{key}: {head[key]}" for key in head)]
    writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
    one = Stream(reader)
    await one.begin()
    try:
        yield one
    finally:
        writer.close()


def opening(transport: str, *commands: Mapping[str, Any]) -> tuple[str, bytes | None]:
    """The path, and the body if there is one."""
    text = "\n".join(json.dumps(command) for command in commands)
    if transport == "sse":
        return f"/connection/sse?cf_connect={quote(text)}", None
    return "/connection/http_stream", text.encode()


async def emulate(server: Server, connected: Mapping[str, Any], *commands: Mapping[str, Any]) -> int:
    data = "\n".join(json.dumps(command) for command in commands)
    body = {"session": connected["session"], "node": connected["node"], "data": data}
    return (await server.post("/emulation", body)).status


@pytest.mark.gen_test
@pytest.mark.parametrize("transport", ["http_stream", "sse"])
async def test_commands_by_requests_of_their_own(server: Server, name: str, transport: str) -> None:
    """The response begins with the answer to connect, which says how to send more."""
    async with stream(server, *opening(transport, {"id": 1, "connect": {"token": token(sub="ann")}})) as one:
        assert one.status == 200
        assert one.headers["content-type"] == ("text/event-stream" if transport == "sse" else "application/json")
        assert one.headers["x-accel-buffering"] == "no"
        connected = (await one.next())["connect"]
        assert (connected["ping"], connected["pong"]) == (25, True)
        assert connected["session"] != connected["client"]
        assert await emulate(server, connected, {"id": 2, "subscribe": {"channel": name}}) == 204
        assert (await one.next())["id"] == 2
        publish = {"id": 3, "publish": {"channel": name, "data": {"line": "a\nb"}}}
        assert await emulate(server, connected, publish, {}) == 204
        frames = [await one.next(), await one.next()]
        assert {"id": 3, "publish": {}} in frames
        pushed = next(frame["push"]["pub"] for frame in frames if "push" in frame)
        assert pushed["data"] == {"line": "a\nb"}
        assert pushed["info"] == {"user": "ann", "client": connected["client"]}
        assert await emulate(server, connected, {"id": 4, "connect": {}}) == 204
        assert await one.next() == {
            "push": {"disconnect": {"code": 3501, "reason": "connect: only as the first command"}}
        }
        await one.ended()
    assert await emulate(server, connected, {"id": 5, "ping": {}}) == 404


@pytest.mark.gen_test
async def test_commands_to_another_node(server: Server, other: Server, name: str) -> None:
    """They find their session through the broker; a node that nobody knows is 404, and so is what was never a session's
    secret. They may be as long as a frame of a WebSocket."""
    async with stream(server, *opening("http_stream", {"id": 1, "connect": {}})) as one:
        connected = (await one.next())["connect"]
        while await emulate(other, connected, {"id": 2, "subscribe": {"channel": name}}) == 404:
            await asyncio.sleep(0.05)  # the nodes have just started: they hear of each other within a second
        assert (await one.next())["id"] == 2
        assert (await other.post(f"/v1/channels/cf:{name}/messages", {"data": 7})).status == 201
        assert (await one.push())["pub"]["data"] == 7
        assert await emulate(other, connected | {"node": "n00000000"}, {}) == 404
        for wrong in ("guessed", connected["session"][1:], connected["session"].partition(".")[0]):
            assert await emulate(other, connected | {"session": wrong}, {}) == 404  # before anybody is asked
        assert await emulate(other, connected, {"id": 3, "ping": {}}, {"send": {"data": "x" * 131072}}) == 413


@pytest.mark.gen_test
async def test_an_http_stream_of_protobuf(server: Server, name: str) -> None:
    """By the content type, of the request and of what follows."""
    async with stream(server, "/connection/http_stream", delimited({1: 1, 4: {}}), BINARY) as one:
        assert one.headers["content-type"] == "application/octet-stream"
        connected = decode(decode(await one.message())[5])
        session, node = connected[9].decode(), connected[10].decode()
        commands = delimited({1: 2, 5: {1: name}}, {1: 3, 7: {1: name, 2: b'{"a":1}'}})
        body = encode({1: node, 2: session, 3: commands})
        assert (await server.request("POST", "/emulation", body, headers=BINARY)).status == 204
        replies = [decode(await one.message()) for _ in range(3)]
        pushed = next(decode(decode(reply[4])[4]) for reply in replies if 4 in reply)
        assert pushed[4] == b'{"a":1}'


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/connection/uni_http_stream", "/connection/uni_sse", "/connection/uni_sse?"])
async def test_who_only_listens(server: Server, name: str, path: str) -> None:
    """Gets pushes as they are, of what its token names and of what it asks for and may; recovers; and sends nothing."""
    claims = token(sub="ann", channels=[f"closed:{name}"])
    request = {"token": claims, "subs": {name: {}, "closed:elsewhere": {}}}

    def opened(request: Mapping[str, Any]) -> tuple[str, bytes | None]:
        if path.endswith("?"):
            return f"{path}cf_connect={quote(json.dumps(request))}", None
        return path, json.dumps(request).encode()

    async with stream(server, *opened(request)) as one:
        connected = (await one.next())["connect"]
        assert set(connected["subs"]) == {f"closed:{name}", name}
        assert connected["ping"] == 25
        assert "pong" not in connected
        await server.post(f"/v1/channels/cf:{name}/messages", {"data": 1})
        push = await one.next()
        assert (push["channel"], push["pub"]["data"], push["pub"]["offset"]) == (name, 1, 1)
    position = {"recover": True, "epoch": connected["subs"][name]["epoch"]}
    async with stream(server, *opened({"token": claims, "subs": {name: position}})) as one:
        assert (await one.next())["connect"]["subs"][name]["recovered"] is True
        assert (await one.next())["pub"]["data"] == 1
    for bad, code in (
        ({"token": "nonsense"}, 3500), ({"token": token(sub="a", exp=-60)}, 3005), ({"token": 7}, 3501),
        ({"token": token(sub="ann", channels=["nothing:declared"])}, 3501),
    ):  # fmt: skip
        async with stream(server, *opened(bad)) as one:
            assert (await one.next())["disconnect"]["code"] == code
            await one.ended()


@pytest.mark.gen_test
async def test_a_back_end_subscribes_a_listener_twice(server: Server, name: str) -> None:
    """What cannot be done of it is nothing that the listener has asked for, and so no end of its connection."""
    who = token(sub=name)
    async with stream(server, "/connection/uni_http_stream", json.dumps({"token": who}).encode()) as one:
        assert "connect" in await one.next()
        wish = {"subscribe": {"user": name, "channel": name}}
        nothing = {"subscribe": {"user": name, "channel": f"docs:{name}"}}
        key = {"X-API-Key": OPERATOR}
        assert (await server.post("/api/batch", {"commands": [wish, wish, nothing]}, headers=key)).status == 200
        assert (await one.next())["channel"] == name
        await server.post(f"/v1/channels/cf:{name}/messages", {"data": 1})
        assert (await one.next())["pub"]["data"] == 1


@pytest.mark.gen_test
async def test_who_sends_faster_than_it_reads_is_told(server: Server, name: str) -> None:
    """Commands that come in requests of their own are never thrown away in silence: the connection ends with 3008."""
    async with stream(server, *opening("http_stream", {"id": 1, "connect": {}})) as one:
        connected = (await one.next())["connect"]
        reads = [{"id": number, "history": {"channel": name, "limit": 1}} for number in range(2, 1800)]
        assert await emulate(server, connected, *reads) == 204
        assert await emulate(server, connected, {"id": 2000, "ping": {}}) == 204
        while "push" not in (frame := await one.next()):
            pass
        assert frame["push"]["disconnect"]["code"] == 3008
        await one.ended()


@pytest.mark.gen_test
async def test_requests_that_are_none(server: Server) -> None:
    """Malformed ones end in a push or a status, never in a 500; a foreign page may not ask."""
    for body in (b"", b"nonsense", b"{}", b'{"id":1,"subscribe":{"channel":"a:b"}}', b"\x00"):
        async with stream(server, "/connection/http_stream", body) as one:
            assert (await one.next())["push"]["disconnect"]["code"] == 3501
            await one.ended()
    many = json.dumps({"id": 1, "connect": {"subs": {f"closed:{number}": {} for number in range(50_000)}}}).encode()
    async with stream(server, "/connection/http_stream", many) as one:
        assert one.status == 413
    assert (await server.get("/connection/sse")).status == 400
    assert (await server.get("/connection/http_stream")).status == 405
    for bad in ({}, {"session": "a"}, {"session": 1, "node": "b", "data": ""}, b"nonsense", b"\xff"):
        assert (await server.post("/emulation", bad)).status == 400, bad
    assert (await server.request("POST", "/emulation", b"\x0a\xff", headers=BINARY)).status == 400
    foreign = {"Origin": "https://elsewhere.example"}
    assert (await server.post("/emulation", {"session": "a", "node": "b"}, headers=foreign)).status == 403
    async with stream(server, *opening("sse", {"id": 1, "connect": {}}), foreign) as one:
        assert one.status == 403


@pytest.mark.gen_test
async def test_no_token_in_the_log(server: Server) -> None:
    """Of a URL only its path is written down."""
    secret = token(sub="somebody-who-is-secret")
    async with stream(server, *opening("sse", {"id": 1, "connect": {"token": secret}})) as one:
        await one.next()
    assert secret.split(".")[1] not in server.log.read_text()
