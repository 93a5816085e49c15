"""A client of Centrifugo's protocol that says literally what a test says, and keeps what comes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.support.methods import METHODS
from tests.support.processes import Mongod
from tests.support.server import UNLIMITED, Server

SECRET = "secret"
OPEN = {"publish": "anyone", "subscribe": "anyone"}
SETTINGS: dict[str, Any] = {
    **UNLIMITED,
    "limits.cost_per_second": 0,
    "auth.secret": SECRET,
    "auth.allow_short_secret": True,
    "centrifugo": {"enabled": True, "namespace": "cf", "tokens_without_exp": True, "sse": True},
    "namespaces.cf": {"presence": True, **OPEN},
    "namespaces.room": {"presence": True, **OPEN},
    "namespaces.quiet": OPEN,
    "namespaces.live": {"durable": False, **OPEN},
    "namespaces.closed": {"presence": True},
    "calls": METHODS,
    "namespaces.member": {"publish": "user", "subscribe": "user"},
}


def one_server(directory: Path, mongod: Mongod, redis_url: str | None = None, **settings: Any) -> Iterator[Server]:
    """For the fixture of a file."""
    settings = {**SETTINGS, "mongodb.database": directory.name.replace("-", "_"), **settings}
    server = Server(directory, mongod.uri, redis_url, settings)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.__aexit__(None, None, None))


def token(secret: str = SECRET, **claims: Any) -> str:
    """A JWT of just these claims; `exp` in seconds from now."""
    if "exp" in claims:
        claims["exp"] = int(time.time() + claims["exp"])
    parts = [json.dumps(part, separators=(",", ":")).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.digest(secret.encode(), signed, hashlib.sha256)
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


class Wire:
    """`async with Wire(server) as wire: await wire.ask(connect={})`"""

    def __init__(self, server: Server | str, path: str = "/connection/websocket") -> None:
        base = server if isinstance(server, str) else server.base
        self.url = base.replace("http", "ws", 1) + path
        self.headers: dict[str, str] = {}
        self.pushes: deque[dict[str, Any]] = deque()
        self._connection: WebSocketClientConnection
        self._id = 0
        self._frames: deque[dict[str, Any]] = deque()

    async def __aenter__(self) -> Self:
        self._connection = await websocket_connect(HTTPRequest(self.url, headers=self.headers))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._connection.close_code is not None
        self._connection.close()
        if not ended:
            await self._read_to_the_end()

    async def send(self, *frames: Any) -> None:
        """In one message: bytes and text as they are, objects as lines of JSON."""
        if len(frames) == 1 and isinstance(frames[0], bytes | str):
            await self._connection.write_message(frames[0], binary=isinstance(frames[0], bytes))
        else:
            await self._connection.write_message("\n".join(json.dumps(frame) for frame in frames))

    async def next(self, within: float = 5.0) -> dict[str, Any]:
        """The next reply or push."""
        while not self._frames:
            async with asyncio.timeout(within):
                message = await self._connection.read_message()
            if message is None:
                raise ConnectionError(f"closed: {self._connection.close_code} {self._connection.close_reason}")
            self._frames.extend(json.loads(line) for line in str(message).split("\n"))
        return self._frames.popleft()

    @property
    def asked(self) -> int:
        """The id of the last command."""
        return self._id

    async def ask(self, **command: Any) -> dict[str, Any]:
        """The reply to a command; the pushes before it are kept."""
        self._id += 1
        await self.send({"id": self._id, **command})
        return await self.reply(self._id)

    async def reply(self, identifier: int) -> dict[str, Any]:
        while True:
            frame = await self.next()
            if "push" in frame:
                self.pushes.append(frame["push"])
            elif frame.get("id") == identifier:
                return frame

    async def connect(self, **fields: Any) -> dict[str, Any]:
        """What `connect` is answered with."""
        reply = await self.ask(connect=fields)
        return dict(reply["connect"])

    async def subscribe(self, channel: str, **fields: Any) -> dict[str, Any]:
        reply = await self.ask(subscribe={"channel": channel, **fields})
        assert "error" not in reply, reply
        return dict(reply["subscribe"])

    async def push(self, within: float = 5.0) -> dict[str, Any]:
        """The next push."""
        if self.pushes:
            return self.pushes.popleft()
        while True:
            frame = await self.next(within)
            if "push" in frame:
                return dict(frame["push"])

    async def pubs(self, count: int) -> list[dict[str, Any]]:
        """The next `count` pushes, all of them publications."""
        pushes = [await self.push() for _ in range(count)]
        assert all("pub" in push for push in pushes), pushes
        return [push["pub"] for push in pushes]

    async def closed(self, within: float = 5.0) -> int | None:
        """The close code, when whatever comes before it has been read."""
        async with asyncio.timeout(within):
            await self._read_to_the_end()
        return self._connection.close_code

    async def _read_to_the_end(self) -> None:
        while await self._connection.read_message() is not None:
            pass

    async def until(self, found: Callable[[dict[str, Any]], bool], within: float = 5.0) -> dict[str, Any]:
        """The first push for which that is so; those before it are thrown away."""
        async with asyncio.timeout(within):
            while True:
                push = await self.push(within)
                if found(push):
                    return push
