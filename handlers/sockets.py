"""Connections taken out of Tornado's hands: what WebSockets, event streams and long polls that wait have in common.

Once a client only listens, nothing of HTTP is needed any more, so the socket is taken out of Tornado's stream
(`detach`, which exists for this) and given to a plain asyncio protocol. No coroutine, stream, request or handler stays
behind per client, the transport says when it is full and when it has room again, and prebuilt bytes are written as
they are. docs/life-of-a-message.md has the figures.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import cast

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, StreamClosedError

from handlers.problems import problem_body, problem_headers
from server.access.admission import ConnectionSeats
from server.core.errors import Error
from server.node import Node
from server.sessions.client import ConnectedClient
from server.sessions.listener import Listener
from server.sessions.outbox import STALLED_AFTER

CLOSE_WITHIN = 5.0
"""Seconds a client has to take our last words before the connection is cut."""
UNACKNOWLEDGED = 20
"""Seconds for which a client's machine may leave unacknowledged what it was sent. Who only listens says nothing, so
without this limit one that has vanished is there for the quarter of an hour for which the kernel tries."""
PROBE_AFTER, PROBE_EVERY, PROBES = 30, 10, 2
"""Seconds without a byte either way before the kernel asks whether the other end is there; then so often, at most."""
_OPTIONS = tuple(
    (getattr(socket, f"TCP_{name}"), value)
    for name, value in (
        ("KEEPIDLE", PROBE_AFTER), ("KEEPINTVL", PROBE_EVERY), ("KEEPCNT", PROBES),
        ("USER_TIMEOUT", 1000 * UNACKNOWLEDGED),
    )
    if hasattr(socket, f"TCP_{name}")  # not everywhere
)  # fmt: skip


async def adopt(stream: IOStream, protocol: Socket) -> bool:
    """Take the connection out of Tornado's stream and give it to `protocol`, with whatever the client sent already.
    False if it is gone already."""
    stream.set_close_callback(None)
    if stream.closed():
        return False
    # Nearly always there is nothing, and whoever asks Tornado for more has it listen to the connection first.
    if getattr(stream, "_read_buffer_size", 1):
        try:
            protocol.early = _taken(stream)
        except StreamClosedError:
            return False
    connection: socket.socket = stream.socket
    IOLoop.current().remove_handler(connection.fileno())
    try:
        _notice_absence(connection)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
    except OSError:
        connection.close()
        return False
    return True


def _taken(stream: IOStream) -> bytes:
    """What has come already."""
    taken = b""
    while True:
        reading = asyncio.ensure_future(stream.read_bytes(65536, partial=True))
        if not reading.done():
            reading.add_done_callback(lambda future: future.cancelled() or future.exception())
            return taken
        taken += reading.result()


def _notice_absence(connection: socket.socket) -> None:
    """Have the kernel end the connection when the other end is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _OPTIONS:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Socket(asyncio.Protocol):
    """One client's TCP connection, and the client, whose outbox writes to it."""

    __slots__ = ("_transport", "client", "_closing", "_node", "_seats", "early")

    def __init__(self, node: Node, seats: ConnectionSeats) -> None:
        self.client: ConnectedClient
        self._transport: asyncio.Transport
        self._closing: asyncio.TimerHandle | None = None
        self._node = node
        self._seats = seats
        self.early = b""
        """What came before the connection was ours."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, the same methods
        self._seats.connected = True

    def eof_received(self) -> bool:
        self._bound_closing()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._seats.leave()
        self.client.closed()

    def pause_writing(self) -> None:
        self.client.pause()

    def resume_writing(self) -> None:
        self.client.resume()

    # the client's side

    @property
    def write(self) -> Callable[[bytes], None]:
        """The transport's own: a frame of Python less for each delivery."""
        return self._transport.write

    def buffered(self) -> int:
        """What the transport holds and what the kernel has not been told is there: of a slow reader's progress the
        transport sees nothing while the kernel's megabytes drain."""
        unread = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self._transport.get_write_buffer_size() + int.from_bytes(unread, sys.byteorder)

    def pause_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, farewell: bytes) -> None:
        """The last bytes go out behind what is buffered, and the client has a moment to take them."""
        ending = self._closing is not None or self._transport.is_closing()
        self._bound_closing()
        if not ending:
            self._transport.write(farewell)
            self._hang_up()

    def _bound_closing(self) -> None:
        """What is buffered may still go out; who does not take it is cut off."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(CLOSE_WITHIN, self._transport.abort)

    def _hang_up(self) -> None:
        self._transport.close()


def response_head(status: int, headers: Mapping[str, str], others: bytes) -> bytes:
    """Of a response that ends with its connection; `others`: header lines that are written already."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join(lines).encode() + b"\r\n" + others + b"Connection: close\r\n\r\n"


ENDLESS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""A proxy that buffers would hold back what comes."""


class ResponseSocket(Socket):
    """A response, by hand. The client is there before the connection is ours, and may have ended by then; what the
    client says now is not heard."""

    __slots__ = ("_headers", "connected")

    client: Listener

    def __init__(self, node: Node, seats: ConnectionSeats, headers: bytes) -> None:
        super().__init__(node, seats)
        self._headers = headers
        """Header lines besides those of the content."""
        self.connected = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connected = True
        self.early = b""
        if self.client.ended:
            self._transport.abort()
        else:
            self.begin()

    def begin(self) -> None:
        self.client.begin()

    def close(self, farewell: bytes) -> None:
        if self.connected:
            super().close(farewell)

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        return response_head(status, headers, self._headers)


class EventSocket(ResponseSocket):
    """An endless response (SSE), without a length: it ends with the connection."""

    __slots__ = ()

    def begin(self) -> None:
        self._transport.write(self._head(200, {"Content-Type": "text/event-stream"} | ENDLESS))
        super().begin()


class PollSocket(ResponseSocket):
    """One answer, later."""

    __slots__ = ()

    def answer(self, media_type: str, body: bytes) -> None:
        self._respond(200, {"Content-Type": media_type, "Cache-Control": "no-store"}, body)

    def refuse(self, error: Error) -> None:
        self._respond(error.status, problem_headers(error), problem_body(error))

    def _respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        if not self.connected:
            return
        self._transport.write(self._head(status, {**headers, "Content-Length": str(len(body))}) + body)
        self._transport.close()
        self._watch(-1)

    def _watch(self, before: int) -> None:
        """The connection is cut when nothing more of the answer is taken, and not while a slow client takes it."""
        left = self.buffered() if self._transport.get_write_buffer_size() else 0
        if left == before:
            self._transport.abort()
        elif left:
            self._closing = asyncio.get_running_loop().call_later(STALLED_AFTER, self._watch, left)
