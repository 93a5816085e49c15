"""A client of event streams (SSE) that shows everything, reads only when it is asked to, and can have small buffers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from tests.support.sockets import abort, connect


class Event(NamedTuple):
    type: str
    data: Any
    id: str | None
    """Of this very event; None if it carries none."""


class EventSource:
    """`async with EventSource(url) as events`: `status` and `headers`, then `next()`. `last_id` is where to resume."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        buffer: int | None = None,
        read: bool = True,
    ) -> None:
        """`body`: it is a POST, of JSON. `read`: False for what answers late, if at all."""
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), parts.port
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._sent = {"Host": parts.netloc, "Accept": "text/event-stream", **(headers or {})}
        self._body = b"" if body is None else json.dumps(body).encode()
        if body is not None:
            self._sent |= {"Content-Type": "application/json", "Content-Length": str(len(self._body))}
        self._buffer = buffer
        self._read = read
        self.status = 0
        self.headers: dict[str, str] = {}
        self.last_id: str | None = None
        self.retry: int | None = None
        self.comments = 0

    async def __aenter__(self) -> Self:
        limit = 65536 if self._buffer else 1 << 20
        self._reader, self._writer = await connect(self._host, self._port, buffer=self._buffer, limit=limit)
        method = "POST" if self._body else "GET"
        lines = [f"{method} {self._path} HTTP/1.1", *(f"{name}: {value}" for name, value in self._sent.items())]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + self._body)
        if self._read:
            await self.answered()
        return self

    async def answered(self) -> None:
        """Read the head of the answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        self.status = int(head[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await abort(self._writer)

    async def problem(self) -> Any:
        """The body of an answer that is no stream."""
        return json.loads(await self._reader.readexactly(int(self.headers["content-length"])))

    async def opened(self) -> Self:
        """Read what opens the stream."""
        async with asyncio.timeout(10):
            assert await self._block() is None
        return self

    async def next(self, within: float = 10.0) -> Event:
        """The next event; EOFError at the end of the stream."""
        async with asyncio.timeout(within):
            while True:
                event = await self._block()
                if event is not None:
                    return event

    async def events(self, count: int, within: float = 20.0) -> list[Event]:
        async with asyncio.timeout(within):
            return [await self.next(within) for _ in range(count)]

    async def _block(self) -> Event | None:
        """What an empty line ends, by the rules of the HTML standard, section 9.2.6."""
        kind, data, place = "message", [], None
        while line := await self._line():
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not name:
                self.comments += 1
            elif name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                self.last_id = place = value
            elif name == "retry":
                self.retry = int(value)
        return Event(kind, json.loads("\n".join(data)), place) if data else None

    async def _line(self) -> str:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line.decode().rstrip("\n")
