"""WebSocket through a real server: commands, replies, errors, close codes, resume."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from typing import Any

import pytest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from server.core.config import MAX_STORED
from server.core.cursors import BEGINNING
from server.node import Node
from tests.support.client import Client, Refused


@pytest.fixture
def url(base_url: str, http_server: object) -> str:
    return base_url.replace("http", "ws") + "/v1/ws"


async def raw(url: str, *frames: str | bytes) -> list[dict[str, Any]]:
    """The answers to frames sent as they are, one each."""
    connection: WebSocketClientConnection = await websocket_connect(url)
    answers = []
    for frame in frames:
        await connection.write_message(frame, binary=isinstance(frame, bytes))
        answer = await connection.read_message()
        assert answer is not None, connection.close_code
        answers.append(json.loads(answer))
    connection.close()
    assert await connection.read_message() is None
    return answers


@pytest.mark.gen_test
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_publish_and_subscribe(url: str, codec: Any) -> None:
    """A subscriber gets what is published, in order, with offset, cursor and key; in both encodings."""
    async with Client([url], codec=codec) as client:
        subscription = await client.subscribe("chat:a")
        for n in range(3):
            reply = await client.publish("chat:a", {"n": n, "ü": [None, 1.5]}, key=f"key-{n}")
            assert reply["duplicate"] is False
        messages = await subscription.messages(3)
    assert [m["offset"] for m in messages] == [1, 2, 3]
    assert [m["key"] for m in messages] == ["key-0", "key-1", "key-2"]
    assert messages[2]["data"] == {"n": 2, "ü": [None, 1.5]}
    assert messages[2]["user"] is None


@pytest.mark.gen_test
async def test_resume_is_one_stream(url: str) -> None:
    """What was missed comes first, oldest first, then the live messages; the reply says from where."""
    async with Client([url]) as client:
        for n in range(1, 6):
            reply = await client.publish("chat:a", n)
        cursor = reply["cursor"].split(":")[0] + ":2"
        subscription = await client.subscribe("chat:a", after=cursor)
        assert subscription.reply["recovered"] is True
        assert subscription.reply["cursor"] == cursor
        assert subscription.reply["head"] == reply["cursor"]
        await client.publish("chat:a", 6)
        assert [m["data"] for m in await subscription.messages(4)] == [3, 4, 5, 6]
        await client.unsubscribe("chat:a")
        last = await client.subscribe("chat:a", last=2)
        assert [m["data"] for m in await last.messages(2)] == [5, 6]


@pytest.mark.gen_test(timeout=60)
async def test_joining_in_the_middle_of_a_burst(url: str) -> None:
    """Whoever subscribes with a cursor while messages pour in gets each exactly once, in order."""
    total = 3000
    async with Client([url]) as publisher:
        burst = [asyncio.ensure_future(publisher.publish("chat:burst", n)) for n in range(total)]
        clients = [Client([url]) for _ in range(20)]
        subscriptions = []
        for client in clients:
            await client.connect()
            subscriptions.append(await client.subscribe("chat:burst", after="0"))
        await asyncio.gather(*burst)
        for subscription in subscriptions:
            messages = await subscription.messages(total, within=30)
            assert [m["offset"] for m in messages] == list(range(1, total + 1))
        for client in clients:
            await client.close()


@pytest.mark.gen_test
async def test_pipelined_commands_keep_a_channels_order(url: str) -> None:
    """Publishes, a history and an unsubscribe sent at once are carried out in that order."""
    connection = await websocket_connect(url)
    commands = [
        {"type": "subscribe", "id": 1, "channel": "chat:p"},
        *({"type": "publish", "id": 10 + n, "channel": "chat:p", "data": n} for n in range(5)),
        {"type": "history", "id": 2, "channel": "chat:p"},
        {"type": "unsubscribe", "id": 3, "channel": "chat:p"},
        {"type": "publish", "id": 20, "channel": "chat:p", "data": "unseen"},
    ]
    for command in commands:
        connection.write_message(json.dumps(command))
    pushes = []
    while not pushes or pushes[-1].get("id") != 20:
        pushes.append(json.loads(await connection.read_message() or "null"))
    history = next(push for push in pushes if push.get("id") == 2)
    assert [m["data"] for m in history["messages"]] == [0, 1, 2, 3, 4]
    goodbye = next(index for index, push in enumerate(pushes) if push.get("id") == 3)
    seen = [push["data"] for push in pushes[:goodbye] if push["type"] == "message"]
    assert seen == [0, 1, 2, 3, 4]
    assert pushes[goodbye]["cursor"].endswith(":5")
    assert all(push["type"] != "message" for push in pushes[goodbye:])
    connection.close()


BAD = [
    ("{", "bad_request"),
    ("[]", "bad_request"),
    ("7", "bad_request"),
    ("{}", "bad_request"),
    ('{"type": 5, "id": 1}', "bad_request"),
    ('{"type": "reply", "id": 1}', "bad_request"),
    ('{"type": "publish", "id": 1}', "bad_request"),
    ('{"type": "publish", "id": 1, "channel": 5, "data": 1}', "bad_request"),
    ('{"type": "publish", "id": 1, "channel": "nocolon", "data": 1}', "bad_request"),
    ('{"type": "publish", "id": 1, "channel": "chat:a b", "data": 1}', "bad_request"),
    ('{"type": "publish", "id": 1, "channel": "nope:x", "data": 1}', "unknown_channel"),
    ('{"type": "publish", "id": 1, "channel": "$sys:x", "data": 1}', "unknown_channel"),
    ('{"type": "publish", "id": 1, "channel": "feed:x", "data": 1}', "permission_denied"),
    ('{"type": "subscribe", "id": 1, "channel": "feed:x"}', "permission_denied"),
    ('{"type": "history", "id": 1, "channel": "feed:x"}', "permission_denied"),
    ('{"type": "subscribe", "id": 1, "channel": "chat:x", "after": "nonsense"}', "bad_request"),
    ('{"type": "subscribe", "id": 1, "channel": "chat:x", "last": -1}', "bad_request"),
    ('{"type": "subscribe", "id": 1, "channel": "live:x", "after": "0"}', "bad_request"),
    ('{"type": "history", "id": 1, "channel": "chat:x", "limit": 1001}', "bad_request"),
    ('{"type": "unsubscribe", "id": 1, "channel": "chat:x"}', "bad_request"),
    (f'{{"type": "publish", "id": 1, "channel": "chat:x", "data": "{"x" * 65536}"}}', "too_large"),
    ('{"type": "publish", "id": 1, "channel": "chat:x", "data": 9223372036854775808}', "bad_request"),
    ('{"type": "publish", "id": 1, "channel": "chat:x", "data": "\\ud83d"}', "bad_request"),
    (f'{{"data": {"[" * 40}{"]" * 40}, "type": "publish", "id": 1, "channel": "chat:x"}}', "bad_request"),
    (b"\x80", "bad_request"),
]


@pytest.mark.parametrize(("frame", "code"), BAD, ids=lambda value: str(value)[:60])
@pytest.mark.gen_test
async def test_bad_input_gets_an_error_and_keeps_the_connection(url: str, frame: str, code: str) -> None:
    """A typed error, with the id where it could be read; the next command works."""
    error, pong = await raw(url, frame, '{"type": "ping", "id": 2}')
    assert (error["type"], error["code"]) == ("error", code)
    if '"id": 1' in str(frame):
        assert error["id"] == 1
    else:
        assert "id" not in error
    assert pong == {"type": "reply", "id": 2}


@pytest.mark.gen_test
async def test_what_was_acknowledged_before_is_not_from_now_on(
    node: Node, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever subscribes after a publish was acknowledged stands behind it, though the broker has not brought it."""
    async with Client(url) as client, Client(url) as other:
        mine = await client.subscribe("chat:x")
        monkeypatch.setattr(node.broker, "publish", lambda messages: None)
        receipt = await client.publish("chat:x", "before")
        subscription = await other.subscribe("chat:x")
        assert subscription.reply["cursor"] == subscription.reply["head"] == receipt["cursor"]
        monkeypatch.undo()
        await client.publish("chat:x", "after")
        assert (await subscription.message())["data"] == "after"
        assert [message["data"] for message in await mine.messages(2)] == ["before", "after"]


@pytest.mark.gen_test(timeout=60)
async def test_without_a_limit_there_is_mongodbs(node: Node, url: str) -> None:
    """What no document of MongoDB can hold is `too_large`; what just fits is stored and read again."""
    node.config.limits.message_bytes = node.config.limits.queue_bytes = 0
    async with Client(url) as client:
        await client.publish("chat:x", "x" * (MAX_STORED - 2))
        for size in (MAX_STORED - 1, MAX_STORED + (2 << 20)):
            with pytest.raises(Refused) as refused:
                await client.publish("chat:x", "x" * size)
            assert refused.value.code == "too_large"
    (message,) = (await node.log.read("chat:x", BEGINNING, 1)).messages
    assert len(message.data) == MAX_STORED - 2


@pytest.mark.gen_test
async def test_connect_only_comes_first(url: str) -> None:
    """It is answered when it is the first command, and refused later."""
    first, second = await raw(url, '{"type": "connect", "id": 1}', '{"type": "connect", "id": 2}')
    assert (first["type"], first["user"], first["ping"]) == ("reply", None, 25)
    assert second["code"] == "bad_request"
    subscribed, late = await raw(
        url, '{"type": "subscribe", "id": 1, "channel": "chat:x"}', '{"type": "connect", "id": 2}'
    )
    assert subscribed["type"] == "reply"
    assert late["code"] == "bad_request"


@pytest.mark.gen_test
async def test_a_publisher_may_be_left_out(url: str) -> None:
    """With echo false everybody else gets the message."""
    async with Client([url]) as one, Client([url]) as other:
        mine, theirs = await one.subscribe("live:x"), await other.subscribe("live:x")
        await one.publish("live:x", "not for me", echo=False)
        await one.publish("live:x", "for all")
        assert (await mine.message())["data"] == "for all"
        assert [m["data"] for m in await theirs.messages(2)] == ["not for me", "for all"]


@pytest.mark.gen_test
@pytest.mark.parametrize("settings", [{"auth.guests": False}])
async def test_without_guests_everybody_says_who_they_are(url: str, settings: object) -> None:
    """A first command that is no good connect gets its error, then close 4500; so does a bad token."""
    for frame in ('{"type": "ping", "id": 1}', "{", '{"type": "connect", "id": 1, "token": "x"}'):
        connection = await websocket_connect(url)
        await connection.write_message(frame)
        assert json.loads(await connection.read_message() or "null")["type"] == "error"
        disconnect = json.loads(await connection.read_message() or "null")
        assert (disconnect["type"], disconnect["code"], disconnect["reconnect"]) == ("disconnect", 4500, False)
        assert await connection.read_message() is None
        assert connection.close_code == 4500
        connection.close()


async def handshake(port: int, **headers: str) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
    """The HTTP status an upgrade is answered with, and the connection behind its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = {
        "Host": f"localhost:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
    } | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"GET /v1/ws HTTP/1.1\r\n{head}\r\n".encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    return int(answer.split()[1]), reader, writer


async def upgrade(port: int, **headers: str) -> int:
    status, _, writer = await handshake(port, **headers)
    writer.close()
    await writer.wait_closed()
    return status


@pytest.mark.gen_test
@pytest.mark.parametrize("settings", [{"origins": ["https://app.example.com"]}])
async def test_only_listed_origins_may_upgrade(http_server: object, http_port: int, settings: object) -> None:
    """The server's own origin and the listed ones, to the letter."""
    assert await upgrade(http_port) == 101
    assert await upgrade(http_port, Origin=f"http://localhost:{http_port}") == 101
    assert await upgrade(http_port, Origin="https://app.example.com") == 101
    for foreign in ("https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"):
        assert await upgrade(http_port, Origin=foreign) == 403
    assert await upgrade(http_port, Authorization="Bearer nonsense") == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upgrade": "h2c"}, 426),
        ({"Connection": "keep-alive"}, 400),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Key": "short"}, 400),
    ],
)
@pytest.mark.gen_test
async def test_a_broken_handshake_is_refused(
    http_server: object, http_port: int, headers: dict[str, str], status: int
) -> None:
    """With the status RFC 6455 asks for."""
    assert await upgrade(http_port, **headers) == status


async def bytes_after_upgrade(port: int, payload: bytes) -> bytes:
    """What the server sends when it gets `payload` right behind the upgrade, until it closes."""
    status, reader, writer = await handshake(port)
    assert status == 101
    writer.write(payload)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


BROKEN = [
    (b"\x81\x02{}", 1002),  # not masked
    (b"\xc1\x80\0\0\0\0", 1002),  # reserved bit
    (b"\x83\x80\0\0\0\0", 1002),  # unknown opcode
    (b"\x80\x80\0\0\0\0", 1002),  # nothing to continue
    (b"\x09\x80\0\0\0\0", 1002),  # fragmented ping
    (b"\x81\x81\0\0\0\0\xff", 1007),  # not UTF-8
    (b"\x81\xff" + (200_000).to_bytes(8, "big") + b"\0\0\0\0", 1009),  # over twice message_bytes
    (b"\x88\x82\0\0\0\0\x03\xe8", 1000),  # a polite close is answered
]


@pytest.mark.parametrize(("payload", "code"), BROKEN)
@pytest.mark.gen_test
async def test_broken_frames_close_with_their_code(
    http_server: object, http_port: int, payload: bytes, code: int
) -> None:
    """RFC 6455's close codes, in a close frame."""
    answer = await bytes_after_upgrade(http_port, payload)
    assert answer[0] == 0x88
    assert int.from_bytes(answer[2:4], "big") == code


@pytest.mark.gen_test
async def test_nothing_is_left_behind(url: str, node: Node) -> None:
    """When clients have gone, the node holds neither sessions nor subscriptions of theirs."""
    clients = [Client([url]) for _ in range(20)]
    for client in clients:
        await client.connect()
        await client.subscribe("chat:x")
    assert node.hub.count("chat:x") == 20
    for index, client in enumerate(clients):
        if index % 2:
            client.abort()
        else:
            await client.close()
    while node.admission.clients or node.admission.connections.total:
        await asyncio.sleep(0.01)
    assert node.hub.count("chat:x") == 0
