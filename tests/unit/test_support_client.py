"""The test client resumes like a careful one, and hands on what it gets without mending it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from tests.support.client import Client, ConnectionLost, Refused, make_token
from tests.support.waiting import until

pytestmark = pytest.mark.gen_test(timeout=20)

CHANNEL = "chat:lobby"


class Script:
    """What the scripted server does: it has `log`, answers honestly, and misbehaves when told to."""

    def __init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.sockets: list[Socket] = []
        self.commands: list[dict[str, Any]] = []
        self.errors: dict[str, list[dict[str, Any]]] = {}  # by command type, each used once
        self.silent: set[str] = set()  # command types that end the connection instead of being answered

    def append(self, key: str, data: Any) -> dict[str, Any]:
        offset = len(self.log) + 1
        push = {"type": "message", "channel": CHANNEL, "offset": offset, "cursor": f"e:{offset}", "key": key}
        self.log.append({**push, "user": None, "time": 0, "data": data})
        return self.log[-1]


class Socket(WebSocketHandler):
    def initialize(self, script: Script) -> None:
        self.script = script
        self.subscribed = False

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return subprotocols[0] if subprotocols else None

    def open(self, *args: str, **kwargs: str) -> None:
        self.script.sockets.append(self)

    def on_close(self) -> None:
        self.script.sockets.remove(self)

    def push(self, *pushes: dict[str, Any]) -> None:
        for push in pushes:
            binary = self.selected_subprotocol == "waterspout.msgpack"
            frame = msgpack.packb(push) if binary else json.dumps(push)
            self.write_message(frame, binary=binary)

    def on_message(self, message: str | bytes) -> None:
        command = msgpack.unpackb(message) if isinstance(message, bytes) else json.loads(message)
        self.script.commands.append(command)
        kind, number = command["type"], command.get("id")
        if kind in self.script.silent:
            self.script.silent.discard(kind)
            self.close()
        elif errors := self.script.errors.get(kind):
            self.push({"type": "error", "id": number, **errors.pop(0)})
        elif kind == "subscribe":
            after = int(command.get("after", f"e:{len(self.script.log)}").rpartition(":")[2])
            reply = {"type": "reply", "id": number, "channel": CHANNEL, "cursor": f"e:{after}"}
            self.subscribed = True
            self.push(reply, *self.script.log[after:])
        elif kind == "publish":
            message_ = self.script.append(command["key"], command["data"])
            for socket in self.script.sockets:
                if socket.subscribed:
                    socket.push(message_)
            self.push({"type": "reply", "id": number, "channel": CHANNEL, "offset": message_["offset"]})
        else:
            self.push({"type": "reply", "id": number})


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Script, str]]:
    script = Script()
    socket, port = bind_unused_port()
    server = HTTPServer(Application([("/v1/ws", Socket, {"script": script})]))
    server.add_socket(socket)
    try:
        yield script, f"ws://127.0.0.1:{port}/v1/ws"
    finally:
        server.stop()
        await server.close_all_connections()


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_replies_find_their_request_and_pushes_their_channel(codec: Any) -> None:
    async with scripted() as (_, url), Client(url, codec=codec) as client:
        stream = await client.subscribe(CHANNEL)
        replies = await asyncio.gather(*(client.publish(CHANNEL, {"n": n}, f"k{n}") for n in range(5)))
        assert [reply["offset"] for reply in replies] == [1, 2, 3, 4, 5]
        assert [push["data"]["n"] for push in await stream.messages(5)] == [0, 1, 2, 3, 4]
        assert stream.cursor == "e:5"


async def test_an_error_is_raised_to_the_request_it_answers() -> None:
    async with scripted() as (script, url), Client(url) as client:
        script.errors["subscribe"] = [{"code": "permission_denied", "reason": "no", "retry": False}]
        with pytest.raises(Refused) as refusal:
            await client.subscribe(CHANNEL)
        assert refusal.value.code == "permission_denied"
        assert CHANNEL not in client.subscriptions


async def test_it_resumes_behind_the_last_push_it_handed_on() -> None:
    async with scripted() as (script, url), Client(url) as client:
        stream = await client.subscribe(CHANNEL)
        await client.publish(CHANNEL, 1, "k1")
        await stream.message()
        client.abort()
        script.append("k2", 2)
        await client.reconnect()
        assert script.commands[-1]["after"] == "e:1"
        assert [push["data"] for push in await stream.messages(1)] == [2]


async def test_a_staying_client_comes_back_by_itself_and_publishes_again_with_the_same_key() -> None:
    async with scripted() as (script, url), Client(url, stay=True) as client:
        stream = await client.subscribe(CHANNEL)
        script.silent.add("publish")
        script.errors["publish"] = [{"code": "unavailable", "reason": "busy", "retry": True, "retry_after": 0.01}]
        reply = await client.publish_surely(CHANNEL, 1, "k1")
        assert reply["offset"] == 1
        assert [command["key"] for command in script.commands if command["type"] == "publish"] == ["k1"] * 3
        assert (await stream.message())["data"] == 1
        assert len(client.losses) == 1


async def test_a_resumption_that_is_refused_for_now_is_tried_again() -> None:
    async with scripted() as (script, url), Client(url, stay=True) as client:
        await client.subscribe(CHANNEL)
        script.errors["subscribe"] = [{"code": "unavailable", "reason": "busy", "retry": True, "retry_after": 0.01}]
        client.abort()
        await until(lambda: client.link == 2 and client.connected.is_set(), 5, "return")
        assert [command["type"] for command in script.commands].count("subscribe") == 3


async def test_it_comes_back_when_the_server_said() -> None:
    async with scripted() as (script, url), Client(url, stay=True) as client:
        await client.subscribe(CHANNEL)
        left = time.monotonic()
        script.sockets[0].push({"type": "disconnect", "code": 4000, "reason": "bye", "reconnect": True, "delay": 0.4})
        await until(lambda: client.announced is not None, 2, "announcement")
        script.sockets[0].close(4000, "bye")
        await until(lambda: client.link == 2 and client.connected.is_set(), 5, "return")
        assert 0.4 <= time.monotonic() - left < 2
        assert (client.losses[0].code, client.losses[0].disconnect is not None) == (4000, True)


async def test_it_does_not_come_back_when_the_server_said_so() -> None:
    async with scripted() as (script, url), Client(url) as client:
        script.sockets[0].push({"type": "disconnect", "code": 4501, "reason": "revoked", "reconnect": False})
        await until(lambda: client.announced is not None, 2, "announcement")
        with pytest.raises(ConnectionLost):
            await client.reconnect()


async def test_it_tries_the_next_address_when_one_is_gone() -> None:
    async with (
        scripted() as (_, first),
        scripted() as (second_script, second),
        Client([first, second], stay=True) as client,
    ):
        client.urls[0] = "ws://127.0.0.1:1/v1/ws"
        client.abort()
        await until(lambda: second_script.sockets, 5, "arrival at the second")


async def test_what_the_server_sends_twice_is_handed_on_twice() -> None:
    async with scripted() as (script, url), Client(url) as client:
        stream = await client.subscribe(CHANNEL)
        message = script.append("k1", 1)
        script.sockets[0].push(message, message)
        assert await stream.messages(2) == [message, message]


async def test_a_client_that_does_not_read_gets_everything_later() -> None:
    async with scripted() as (script, url), Client(url) as client:
        stream = await client.subscribe(CHANNEL)
        client.pause_reading()
        script.sockets[0].push(*(script.append(f"k{n}", n) for n in range(100)))
        with pytest.raises(TimeoutError):
            await stream.messages(100, within=0.1)
        behind = len(script.log) - len(stream.waiting())
        client.resume_reading()
        await until(lambda: stream.cursor == "e:100", 2, f"the {behind} others")


def test_a_token_is_a_jwt_that_others_accept() -> None:
    jwt = pytest.importorskip("jwt")
    secret = "a secret of thirty-two characters!"
    claims = jwt.decode(make_token(secret, "ann", channels={"chat:*": ["subscribe"]}), secret, algorithms=["HS256"])
    assert (claims["sub"], claims["channels"]) == ("ann", {"chat:*": ["subscribe"]})
