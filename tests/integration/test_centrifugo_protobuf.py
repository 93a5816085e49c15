"""Clients of Centrifugo's protocol in Protobuf: field numbers by hand, through a real server. And garbage."""

from __future__ import annotations

import asyncio
import json
import os
import random
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from tests.support.centrifugo import Wire, one_server, token
from tests.support.processes import Mongod
from tests.support.protobuf import Fields, decode, delimited, encode, split, varint
from tests.support.server import Server

ID, ERROR, PUSH = 1, 2, 4
CONNECT, SUBSCRIBE, UNSUBSCRIBE, PUBLISH, PRESENCE, STATS, HISTORY, PING, SEND, RPC, REFRESH, SUB_REFRESH = range(4, 16)
RESULT = {kind: kind + 1 for kind in range(4, 12)} | {RPC: 13, REFRESH: 14, SUB_REFRESH: 15}
"""Of a command's field → of its reply's."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mongod: Mongod) -> Iterator[Server]:
    yield from one_server(tmp_path_factory.mktemp("centrifugo_pb"), mongod)


@pytest.fixture
def name() -> str:
    return f"n{uuid.uuid4().hex[:8]}"


class Binary:
    """A connection, and the replies and pushes that have come."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.connection = connection
        self.pushes: deque[dict[int, Any]] = deque()
        self._frames: deque[bytes] = deque()
        self._id = 0

    async def next(self) -> dict[int, Any]:
        while not self._frames:
            message = await self.connection.read_message()
            if message is None:
                raise ConnectionError(f"closed: {self.connection.close_code}")
            assert isinstance(message, bytes)
            self._frames.extend(split(message))
        return decode(self._frames.popleft())

    async def ask(self, kind: int, **fields: Any) -> dict[int, Any]:
        """Fields as `_1=…`: the result, or `{ERROR: code}`."""
        self._id += 1
        command: Fields = {ID: self._id, kind: {int(number[1:]): value for number, value in fields.items()}}
        await self.connection.write_message(delimited(command), binary=True)
        while True:
            reply = await self.next()
            if PUSH in reply:
                self.pushes.append(decode(reply[PUSH]))
            elif reply.get(ID) == self._id:
                if ERROR in reply:
                    return {ERROR: decode(reply[ERROR])[1]}
                return decode(reply[RESULT[kind]])

    async def push(self) -> dict[int, Any]:
        while not self.pushes:
            reply = await self.next()
            if PUSH in reply:
                self.pushes.append(decode(reply[PUSH]))
        return self.pushes.popleft()

    async def send(self, data: bytes | str) -> None:
        with suppress(WebSocketClosedError):
            await self.connection.write_message(data, binary=isinstance(data, bytes))

    async def closed(self) -> int | None:
        """The close code, ours if it is not the server that closes."""
        async with asyncio.timeout(5):
            while await self.connection.read_message() is not None:
                pass
        self.connection.close()
        return self.connection.close_code

    async def close(self) -> None:
        self.connection.close()
        await self.closed()


async def binary(server: Server, path: str = "", subprotocols: list[str] | None = None) -> Binary:
    url = server.base.replace("http", "ws", 1) + "/connection/websocket" + path
    return Binary(await websocket_connect(url, subprotocols=subprotocols))


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["?format=protobuf", "?cf_protocol=protobuf", ""])
async def test_every_command(server: Server, name: str, path: str) -> None:
    """Chosen by the query or the subprotocol; the numbers are the public ones."""
    client = await binary(server, path, None if path else ["centrifuge-protobuf"])
    assert client.connection.selected_subprotocol == (None if path else "centrifuge-protobuf")
    connected = await client.ask(CONNECT, _1=token(sub="ann", exp=60, info={"a": 1}), _4="go", _7=3)
    assert connected[3] == 1
    assert 58 <= connected[4] <= 60
    assert (connected[7], connected[8]) == (25, 1)
    subscribed = await client.ask(SUBSCRIBE, _1=name, _11=1, _14=3, _12="fossil")
    assert (subscribed[3], subscribed[10]) == (1, 1)
    assert (await client.push())[5]  # its own join
    assert await client.ask(PUBLISH, _1=name, _2=b'{"n":1,"text":"\xc3\xbc"}') == {}
    push = await client.push()
    assert push[2] == name.encode()
    publication = decode(push[4])
    assert publication[4] == b'{"n":1,"text":"\xc3\xbc"}'
    assert publication[6] == 1
    assert publication[9] > 1_600_000_000_000
    assert decode(publication[5]) == {1: b"ann", 2: connected[1]}
    history = await client.ask(HISTORY, _1=name, _7=10, _8={1: 0, 2: subscribed[6]})
    assert decode(history[1])[4] == publication[4]
    assert (history[2], history[3]) == (subscribed[6], 1)
    assert history == await client.ask(HISTORY, _1=name, _7=1, _9=1)
    present = decode((await client.ask(PRESENCE, _1=name))[1])
    assert (present[1], decode(present[2])) == (connected[1], {1: b"ann", 2: connected[1], 3: b'{"a":1}'})
    assert await client.ask(STATS, _1=name) == {1: 1, 2: 1}
    assert (await client.ask(REFRESH, _1=token(sub="ann", exp=600)))[4] > 500
    assert await client.ask(UNSUBSCRIBE, _1=name) == {}
    assert await client.ask(RPC, _1=b"{}", _2="method") == {ERROR: 108}
    assert await client.ask(RPC, _1=b'{"n":1}', _2="echo") == {1: b'{"n":1}'}
    assert await client.ask(RPC, _2="echo") == {1: b"null"}
    assert await client.ask(RPC, _2="refuse") == {ERROR: 409}
    assert await client.ask(PUBLISH, _1=name, _2=b"\x00 not JSON") == {ERROR: 107}
    assert await client.ask(SUBSCRIBE, _1="closed:a") == {ERROR: 103}
    again = await client.ask(SUBSCRIBE, _1=name, _3=1, _6=subscribed[6])
    assert (again[8], again[12]) == (1, 1)
    assert decode((await client.push())[4])[6] == 1
    later = token(sub="ann", channel="closed:b", exp=60)
    assert (await client.ask(SUBSCRIBE, _1="closed:b", _2=later))[1] == 1
    assert (await client.ask(SUB_REFRESH, _1="closed:b", _2=later))[1] == 1
    await client.close()


@pytest.mark.gen_test
async def test_both_encodings_in_one_channel(server: Server, name: str) -> None:
    """One says it in JSON, the other hears it in Protobuf, and the other way round; several in one frame."""
    client = await binary(server, "?format=protobuf")
    async with Wire(server) as wire:
        await wire.connect()
        await wire.subscribe(name)
        await client.ask(CONNECT)
        await client.ask(SUBSCRIBE, _1=name)
        await wire.ask(publish={"channel": name, "data": {"n": 1}})
        commands = [{ID: 90 + n, PUBLISH: {1: name, 2: b"%d" % n}} for n in range(2, 5)]
        await client.connection.write_message(delimited(*commands, {}), binary=True)
        assert [pub["data"] for pub in await wire.pubs(4)] == [{"n": 1}, 2, 3, 4]
        assert [decode((await client.push())[4])[4] for _ in range(4)] == [b'{"n":1}', b"2", b"3", b"4"]
    await client.close()


@pytest.mark.gen_test
async def test_malformed_messages_are_3501(server: Server) -> None:
    """Lengths that are cut short or too long, fields of another type, text that is no UTF-8, text frames."""
    good = delimited({ID: 1, CONNECT: {}})
    for bad in (
        b"", b"\x80", b"\xff" * 5, b"\xff" * 10 + b"\x01", good[:-1], good + b"\x05", varint(3) + b"\x08\x01",
        delimited({ID: "text"}), delimited({ID: 1, CONNECT: 5}), delimited({ID: 1, CONNECT: {1: b"\xff\xfe"}}),
        delimited({ID: 1, 99: {}}), good + delimited({ID: 2}), b"\x00", "{}", b'{"id":1,"connect":{}}',
        delimited({ID: 1, SUBSCRIBE: {1: "news"}}), good + good, varint(1 << 40) + b"x",
        good + delimited({ID: 2, SUBSCRIBE: {1: "a:b", 7: 1 << 63}}),
    ):  # fmt: skip
        client = await binary(server, "?format=protobuf")
        await client.send(bad)
        assert await client.closed() == 3501, bad


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("encoding", ["json", "protobuf"])
async def test_garbage_ends_in_codes_of_theirs(server: Server, encoding: str) -> None:
    """Whatever comes: replies, errors and close codes of the protocol, and a server that goes on."""
    seed = int(os.environ.get("WATERSPOUT_SEED", random.randrange(1 << 32)))
    chance = random.Random(seed)
    for _ in range(150):
        client = await binary(server, "?format=protobuf" if encoding == "protobuf" else "")
        data = _json(chance) if encoding == "json" else _protobuf(chance)
        if chance.random() < 0.3:
            place = chance.randrange(len(data) + 1)
            data = data[:place] + chance.randbytes(chance.randrange(4)) + data[place + chance.randrange(3) :]
        text = encoding == "json" and chance.random() < 0.95
        await client.send(data.decode(errors="replace") if text else data)
        await client.send("{}" if encoding == "json" else b"\x00")
        client.connection.close()
        code = await client.closed()
        assert code in (None, 1000, 1005, 3500, 3501), (seed, code, data)
    assert (await server.get("/readyz")).status == 200
    assert "failed" not in server.log_tail(1000), seed


def _json(chance: random.Random) -> bytes:
    words: list[Any] = [None, 0, -1, 1 << 70, 1.5, "", "news", "cf:news", "a:b", [], {}, True, "x" * 300, {"a": [1]}]

    def value(depth: int) -> Any:
        if depth and chance.random() < 0.3:
            return {chance.choice(("channel", "data", "token", "since", "limit")): value(depth - 1) for _ in range(2)}
        return chance.choice(words)

    def command() -> Any:
        kinds = ("connect", "subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history", "ping")
        kind = chance.choice((*kinds, "send", "rpc", "refresh", "sub_refresh", "unknown"))
        fields = {
            name: value(2)
            for name in ("channel", "token", "data", "recover", "offset", "epoch", "limit", "since", "reverse", "subs")
            if chance.random() < 0.3
        }
        return {"id": chance.choice([1, 2, 3, 0, -1, "1", None]), kind: fields if chance.random() < 0.9 else value(1)}

    lines = [{"id": 9, "connect": {}}] if chance.random() < 0.7 else []
    return "\n".join(json.dumps(line) for line in [*lines, *(command() for _ in range(chance.randrange(4)))]).encode()


def _protobuf(chance: random.Random) -> bytes:
    words = [0, 1, (1 << 64) - 1, "", "news", "a:b", b"\xff", b"{}", {}, {1: "news"}, {1: 7, 2: "x"}, "x" * 300]
    commands: list[Fields] = [{ID: 9, CONNECT: {}}] if chance.random() < 0.7 else []
    for _ in range(chance.randrange(4)):
        fields = {chance.randrange(1, 16): chance.choice(words) for _ in range(chance.randrange(4))}
        commands.append({ID: chance.choice([1, 2, 0, "x"]), chance.randrange(4, 17): fields})
    assert encode({}) == b""
    return delimited(*commands)


@pytest.mark.gen_test
async def test_a_frame_that_is_too_large(server: Server) -> None:
    """1009, as over every WebSocket here; centrifuge's clients know it."""
    async with Wire(server) as wire:
        await wire.connect()
        await wire.send(json.dumps({"id": 2, "publish": {"channel": "news", "data": "x" * 200_000}}))
        assert await wire.closed() == 1009


@pytest.mark.gen_test
async def test_it_is_no_page(server: Server) -> None:
    """A plain request is told that this is a WebSocket endpoint; so is one of a foreign page that it may not."""
    assert (await server.get("/connection/websocket")).status == 426
    wire = Wire(server)
    wire.headers["Origin"] = "https://elsewhere.example"
    with pytest.raises(HTTPClientError) as refused:
        await wire.__aenter__()
    assert refused.value.code == 403
