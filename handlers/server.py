"""The HTTP server under the doors: who is accepted, and how long a connection may take for what. Parsing is Tornado's.

A connection stands in one line at a time, in the order in which it came there: it waits for a request, sends the
headers of one, sends its body, or takes our answer. Once a second those are cut that have stood in theirs for too long.
That needs no timer for each request, and says which idle connection goes first when there is no room for another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Final, Protocol

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

from handlers.headers import Headers
from server.access.admission import Visit
from server.core.addresses import address_key
from server.core.errors import Error
from server.core.tasks import Keeper

logger = logging.getLogger(__name__)

HEADER_SECONDS: Final = 20.0
"""From the first byte of a request, of a new connection from its beginning, until its headers are there."""
REFUSED_SECONDS: Final = 3.0
"""The same for a connection that has no seat, and can only be told so."""
LOOKED_AT: Final = 1000
"""Of the idle so many, for one that may go."""
REFUSED_AT_ONCE: Final = 1000
"""Beyond so many they are closed without a word."""
BODY_SECONDS: Final = 20.0
IDLE_SECONDS: Final = 90.0
"""Between two requests. Longer than a proxy keeps its connections (75 s in deploy/nginx.conf): who sends the requests
must be the first to close, or one of them meets a closing connection and is lost."""
STALLED_SECONDS: Final = 60.0
"""For who takes nothing more of an answer."""
LOOK_EVERY: Final = 1.0

HEADER_BYTES: Final = 65536
"""Beyond this the connection is cut; the handlers answer 431 from 16 KiB on."""
BODY_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 14
"""At a time, into a buffer that is made for it: few requests have more."""
KNOWN: Final = 512
KNOWN_BYTES: Final = 2048
KNOWN_LINES: Final = 50
"""Of headers that clients have sent, those of so many kinds of requests are kept as they were read, of so much each: a
line without a value takes sixty times its bytes."""
ACCEPTED_AT_ONCE: Final = 128
SPARE_DESCRIPTORS: Final = 64
"""Left for MongoDB, Redis, hooks and files: clients are not accepted into them."""
PAUSE: Final = 0.5
"""Seconds without accepting when there are no descriptors left."""


class Stream(IOStream):
    """Tells its connection what comes and what goes. It never waits for more to send (Nagle), which Tornado would say
    anew with each request."""

    connection: Connection
    _empty = False
    """The last read took all that had come."""
    _waits = False
    """The next read would find nothing: it waits until the kernel says that something has come."""

    def set_nodelay(self, value: bool) -> None:
        pass

    def reading(self) -> bool:
        """Also between requests and their parts, until READ_BYTES have come ahead of time: else Tornado has the loop
        stop listening with each request, and listen again a moment later."""
        return super().reading() or getattr(self, "_read_buffer_size", READ_BYTES) < READ_BYTES

    def wait_for_request(self) -> None:
        """The next read is of another request."""
        self._waits = self._empty

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        if self._waits:
            self._waits = False
            return None
        try:
            size = super().read_from_fd(buf)
            self._empty = size is not None and size < len(buf)
        finally:
            del buf  # as IOStream does: a view that an exception holds on to keeps the buffer from growing
        connection = self.connection
        if size and connection.line is connection.lines.idle:
            connection.stand_in(connection.lines.headers)
        elif connection.line is connection.lines.answer:
            self._waits = self._empty
        return size

    def send(self, data: bytes) -> Awaitable[None] | None:
        """As `write`, without a future or a copy if the kernel takes it at once, as it nearly always does: None."""
        sent = 0
        if not (self.writing() or self.closed()):
            with suppress(OSError):  # which `write` meets as well, and knows what to do
                sent = self.write_to_fd(memoryview(data))
        return None if sent == len(data) else self.write(memoryview(data)[sent:])

    def write_to_fd(self, data: memoryview) -> int:
        try:
            size = super().write_to_fd(data)
        finally:
            del data
        if size and self.connection.line is self.connection.lines.answer:
            self.connection.stand_in(self.connection.lines.answer)
        return size


Line = dict["Connection", float]
"""Connection → since when it stands there, the longest first."""


class Lines:
    def __init__(self) -> None:
        self.headers: Line = {}
        self.refused: Line = {}
        """As `headers`, for those that are too many."""
        self.body: Line = {}
        self.answer: Line = {}
        self.idle: Line = {}


class Connection:
    """One TCP connection that speaks HTTP; handlers find it as the `context` of a request's connection."""

    __slots__ = ("stream", "remote_ip", "protocol", "refusal", "visit", "lines", "line", "_now")

    def __init__(self, stream: Stream, address: str, lines: Lines, now: Callable[[], float]) -> None:
        self.stream = stream
        self.remote_ip = address
        self.protocol = "http"
        self.refusal: Error | None = None
        """It has no seat: it may ask once, is answered with this, and is closed."""
        self.visit: Visit | None = None
        self.lines = lines
        self.line: Line = lines.headers
        self._now = now
        self.line[self] = now()

    def stand_in(self, line: Line) -> None:
        del self.line[self]
        self.line = line
        line[self] = self._now()

    def __str__(self) -> str:
        return self.remote_ip  # in Tornado's log


class Request(HTTPMessageDelegate):
    """One request, on its way to whom it is for: the connection stands in another line at each step."""

    __slots__ = ("_delegate", "_connection")

    def __init__(self, delegate: HTTPMessageDelegate, connection: Connection) -> None:
        self._delegate = delegate
        self._connection = connection

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._connection.stand_in(self._connection.lines.body)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._connection.stand_in(self._connection.lines.answer)
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


Parsed = tuple[HTTPHeaders, Headers]


def parse(block: bytes) -> Parsed:
    """The lines of a request behind the first. HTTPInputError if they are not as they should be."""
    headers = HTTPHeaders.parse(block.decode("latin1"))
    return headers, Headers(headers)


class RequestConnection(HTTP1Connection):
    """Tornado's parser of one request. A client sends the same headers with each of its requests, so what was made of
    them is `known` for the next one."""

    headers: Headers | None = None
    """None: of a Tornado that takes them apart in another way."""

    def __init__(
        self, stream: Stream, parameters: HTTP1ConnectionParameters, context: Connection,
        known: Callable[[bytes], Parsed],
    ) -> None:  # fmt: skip
        super().__init__(stream, False, parameters, context)
        self._known = known

    def _parse_headers(self, data: bytes) -> tuple[str, HTTPHeaders]:
        line, _, block = data.lstrip(b"\r\n").partition(b"\n")
        few = len(block) <= KNOWN_BYTES and block.count(b"\n") <= KNOWN_LINES
        headers, self.headers = self._known(block) if few else parse(block)
        return line.rstrip(b"\r").decode("latin1"), headers


class Doors(Protocol):
    """What is served."""

    def visit(self, peer: str) -> Visit | None:
        """A seat for a connection of this address, where they are counted; or `limit_exceeded`."""

    def exchange(self, connection: RequestConnection) -> HTTPMessageDelegate:
        """What answers the next request."""


class HTTPServer:
    """Serves `doors` on sockets that listen. It needs a running loop, or the one that will run."""

    def __init__(self, doors: Doors, listeners: Iterable[socket.socket]) -> None:
        self._doors = doors
        self._lines = Lines()
        self._keeper = Keeper()
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        """Those that speak HTTP, until it has ended with them."""
        self._known = lru_cache(KNOWN)(parse)
        self._loop: asyncio.AbstractEventLoop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]
        self._parameters = HTTP1ConnectionParameters(max_header_size=HEADER_BYTES, max_body_size=BODY_BYTES)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._highest = sys.maxsize if most == resource.RLIM_INFINITY else most - SPARE_DESCRIPTORS
        self._listeners = list(listeners)
        self._full = False
        self._paused: asyncio.TimerHandle | None = None
        self._stopped = False
        if self._listeners:
            self._accept_again()
        self._looking = self._loop.call_later(LOOK_EVERY, self._look)

    def problem(self) -> str | None:
        """Why nobody new is served at the moment; None: everybody is."""
        if not self._full:
            return None
        return "no file descriptors are left for clients: new ones have to wait (ulimit -n, LimitNOFILE)"

    # --- accepting ----------------------------------------------------------------------------------------------------

    def _accept_again(self) -> None:
        self._paused = None
        if not self._has_room():
            self._pause()
            return
        self._full = False
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _has_room(self) -> bool:
        """Whether descriptors are left for clients. The kernel gives the lowest one that is free."""
        try:
            descriptor = os.dup(self._listeners[0].fileno())
        except OSError:
            return False
        os.close(descriptor)
        return descriptor < self._highest

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._pause()
                return
            self._serve(accepted, address[0] if isinstance(address, tuple) else "")
            if accepted.fileno() >= self._highest:
                self._pause()
                return

    def _pause(self) -> None:
        """No more descriptors. Who waits in the kernel's queue goes on waiting, instead of waking the loop in vain
        until somebody leaves; and the idle leave now."""
        if not self._full:
            self._full = True
            logger.warning("%s", self.problem())
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        for connection in list(self._lines.idle)[:SPARE_DESCRIPTORS]:
            connection.stream.close()
        self._paused = self._loop.call_later(PAUSE, self._accept_again)

    def _serve(self, accepted: socket.socket, address: str) -> None:
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # gone already
            accepted.close()
            return
        stream = Stream(accepted, max_buffer_size=BODY_BYTES + HEADER_BYTES, read_chunk_size=READ_BYTES)
        connection = stream.connection = Connection(stream, address, self._lines, self._loop.time)
        try:
            connection.visit = self._seat(address)
        except Error as error:
            connection.refusal = error
            if len(self._lines.refused) >= REFUSED_AT_ONCE:
                connection.stand_in({})
                stream.close()
                return
            connection.stand_in(self._lines.refused)
        self._connections[connection] = self._keeper.spawn("connection", self._answer(connection))

    def _seat(self, address: str) -> Visit | None:
        """An idle connection goes if there is none: of the address, or the one that has been idle for the longest."""
        try:
            return self._doors.visit(address)
        except Error as error:
            key = address_key(address) if error.limit == "connections_per_ip" else None
            idle = islice(self._lines.idle, LOOKED_AT)
            leaving = next((one for one in idle if key is None or (one.visit and one.visit.key == key)), None)
            if leaving is None or leaving.visit is None:
                raise
            leaving.visit.leave()
            leaving.stand_in({})
            leaving.stream.close()
            return self._doors.visit(address)

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _answer(self, connection: Connection) -> None:
        """One request after the other, until it is over or has left HTTP."""
        stream = connection.stream
        try:
            while True:
                if connection.line is self._lines.answer:
                    connection.stand_in(self._lines.idle)
                    stream.wait_for_request()
                    if self._stopped or connection.refusal is not None:
                        stream.close()
                one = RequestConnection(stream, self._parameters, connection, self._known)
                if not await one.read_response(Request(self._doors.exchange(one), connection)):
                    return
                await asyncio.sleep(0)  # others have a turn, however many requests have come at once
        except (StreamClosedError, UnsatisfiableReadError):
            pass
        except Exception:
            stream.close()
            raise
        finally:
            del self._connections[connection], connection.line[connection], connection.stream
            connection.line = {}
            if connection.visit is not None:
                connection.visit.leave()

    # --- in time ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if not self._stopped or self._connections:
            self._looking = self._loop.call_later(LOOK_EVERY, self._look)
        lines, now = self._lines, self._loop.time()
        for line, seconds in (
            (lines.headers, HEADER_SECONDS), (lines.refused, REFUSED_SECONDS), (lines.body, BODY_SECONDS),
            (lines.idle, IDLE_SECONDS), (lines.answer, STALLED_SECONDS),
        ):  # fmt: skip
            for connection, since in list(line.items()):
                if now - since < seconds:
                    break
                if line is not lines.answer or connection.stream.writing():
                    connection.stream.close()
                else:
                    connection.stand_in(line)  # it is we who take long

    # --- leaving ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """No new connections, and no new requests: who waits for one is closed, who is at one gets the answer. Twice
        is fine."""
        if self._stopped:
            return
        self._stopped = True
        if self._paused is not None:
            self._paused.cancel()
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        for connection in (*self._lines.idle, *self._lines.headers, *self._lines.refused):
            connection.stream.close()

    @property
    def busy(self) -> bool:
        """Whether a request is being taken in or answered."""
        return bool(self._lines.body or self._lines.answer)

    async def close_all_connections(self) -> None:
        for connection in list(self._connections):
            connection.stream.close()
        while self._connections:
            await asyncio.wait(self._connections.values())
        self._looking.cancel()
