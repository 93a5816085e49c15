"""A TCP proxy that is the faulty network between a server and its Redis or MongoDB."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import ssl
import struct
from enum import Enum
from types import TracebackType
from typing import Literal, Self

from tests.support.processes import LOOPBACK, free_port

_BPF_RETURN = 6
_SO_ATTACH_FILTER = 26

Direction = Literal["up", "down", "both"]  # up: towards the server behind the proxy


class _State(Enum):
    OPEN = "open"
    BLACK_HOLE = "black hole"
    CUT = "cut"


class Proxy:
    """Listens on a loopback port of its own, with TLS if it is given a context, and forwards to `host:port`.

    `delay(s)`      every chunk arrives `s` seconds late (order is kept)
    `drop()`        resets (RST) the links there are; new ones are served
    `cut()`         resets them and refuses new ones, until `heal()`
    `black_hole()`  accepts, reads and swallows, without FIN or RST: what a pulled cable looks like to both ends. A link
                    that has been in the hole is never useful again (bytes are missing in it): `heal()` resets those
    `vanish()`      the same, and what the server sends is not even acknowledged any more, as by a machine that is gone.
                    The kernel of this one would acknowledge it, whatever the proxy reads, so a filter keeps it from the
                    kernel (Linux)
    """

    def __init__(self, port: int, host: str = LOOPBACK, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.target = port
        self.port = free_port()
        self.tls = tls
        self.swallowed = 0  # bytes
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._state = _State.OPEN
        self._hole: set[str] = set()
        self._delay = {"up": 0.0, "down": 0.0}

    @property
    def links(self) -> int:
        return len(self._links)

    async def start(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, LOOPBACK, self.port, backlog=1024, ssl=self.tls)
        return self

    async def stop(self) -> None:
        await self._close_listener()
        await self._reset_all()

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        for way in _ways(direction):
            self._delay[way] = seconds

    async def drop(self) -> int:
        """Reset every link; returns how many there were."""
        return await self._reset_all()

    async def cut(self) -> None:
        self._state = _State.CUT
        await self._close_listener()
        await self._reset_all()

    def black_hole(self, direction: Direction = "both") -> None:
        self._state = _State.BLACK_HOLE
        self._hole = set(_ways(direction))
        for link in self._links:
            link.spoilt = True

    def vanish(self) -> None:
        self.black_hole()
        for link in self._links:
            link.deafen()

    async def heal(self) -> None:
        """Forward faithfully again. Links out of a black hole are reset, as a router that has lost its state does."""
        was, self._state, self._hole = self._state, _State.OPEN, set()
        self._delay = {"up": 0.0, "down": 0.0}
        if was is _State.CUT:
            await self.start()
        for link in [link for link in self._links if link.spoilt]:
            await link.reset()

    def swallows(self, way: str) -> bool:
        return way in self._hole

    def late(self, way: str) -> float:
        return self._delay[way]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        link.spoilt = self._state is _State.BLACK_HOLE
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _reset_all(self) -> int:
        links = list(self._links)
        for link in links:
            await link.reset()
        return len(links)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class _Link:
    """One client's connection and the one made for it, with a pump for each way."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.spoilt = False
        self._near = (reader, writer)
        self._writers = [writer]
        self._task = asyncio.current_task()

    async def run(self) -> None:
        graceful = False
        try:
            far = await asyncio.open_connection(self.proxy.host, self.proxy.target)
            self._writers.append(far[1])
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump("up", self._near[0], far[1]))
                pumps.create_task(self._pump("down", far[0], self._near[1]))
            graceful = True  # both sides have said their FIN: what is buffered still goes out
        except* (OSError, asyncio.CancelledError):
            pass  # a broken link, or `reset`
        finally:
            for writer in self._writers:
                writer.close() if graceful else _abort(writer)

    def deafen(self) -> None:
        """Nothing that the server sends reaches this end, so that it is never acknowledged."""
        far: socket.socket = self._writers[-1].get_extra_info("socket")
        program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0), 8)  # keep 0 bytes of each
        far.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))

    async def _pump(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Chunks queue up with the time they are due, so that a delay adds latency but keeps the throughput."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)

        async def deliver() -> None:
            while True:
                due, chunk = await queue.get()
                if (early := due - loop.time()) > 0:
                    await asyncio.sleep(early)
                if self.proxy.swallows(way):
                    self.proxy.swallowed += len(chunk)
                elif not chunk:
                    if not self.spoilt and writer.can_write_eof():
                        writer.write_eof()
                    return
                else:
                    writer.write(chunk)
                    await writer.drain()

        async with asyncio.TaskGroup() as both:
            both.create_task(deliver())
            while True:
                chunk = await reader.read(65536)
                await queue.put((loop.time() + self.proxy.late(way), chunk))
                if not chunk:
                    break

    async def reset(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN: linger of zero seconds."""
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None and peer.fileno() != -1:
        try:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # gone already
    writer.transport.abort()


def _ways(direction: Direction) -> tuple[str, ...]:
    return ("up", "down") if direction == "both" else (direction,)
