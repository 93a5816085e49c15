"""Many WebSocket clients on one epoll: non-blocking sockets, RFC 6455 by hand, and next to no work per message.

The load generator shares a two-core machine with the server it measures, so it must cost less than the server does. It
reads everything a socket has into one big buffer and walks from frame to frame by their lengths. A server that is fast
sends many frames of one size at a time; such a run is checked with a few strided slices instead of frame by frame
(about 20 ns a message), and is still exact: every header of the run is compared, so a frame that does not fit ends it.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from os import urandom

from bench.dialects import Dialect

BUFFER = 256 * 1024
# The longest run looked at in one go: a stretch of unequal frames costs a look at so many headers for each frame.
RUN = 64
# Clients in the middle of their handshake. Below the smallest listen backlog among the servers (100): beyond it the
# kernel drops connections and retries after a second, and the benchmark would measure that second.
OPENING = 64
STALL = 20.0
# Empty looks at the sockets before sleeping, some 0.1 ms. A sleeping reader has to be woken by the server's `send`, on
# the server's account: up to a fifth of it with one message in flight. Clients on another machine would not cost that.
SPINS = 200

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A


class BenchError(Exception):
    """The server did something a run cannot be counted after."""


def frame(payload: bytes, first: int = TEXT) -> bytes:
    """A client's frame, masked as RFC 6455 demands."""
    length = len(payload)
    if length < 126:
        header = bytes((first, 0x80 | length))
    elif length < 65536:
        header = bytes((first, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        header = bytes((first, 0x80 | 127)) + length.to_bytes(8, "big")
    mask = urandom(4)
    key = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
    return header + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")


class Client:
    """One connection. `count` is how many deliveries it has had since someone last set it to 0."""

    __slots__ = ("count", "group", "outbox", "record", "rest", "sock", "steps", "timed", "upgraded")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.group = -1  # of subscribers to the same channels
        self.count = 0
        self.rest = b""  # the beginning of a frame whose end has not come yet
        self.outbox = b""
        self.record: list[bytes] | None = None  # every byte read, for those few whose messages are read afterwards
        self.steps: deque[tuple[str, str]] = deque()
        self.timed = False
        self.upgraded = False


class Clients:
    """The connections to one server. Frames of `sizes` are deliveries and only counted, and so is what
    `tally` counts in a frame; `on_text` gets the others."""

    def __init__(self, port: int, dialect: Dialect) -> None:
        self.port = port
        self.dialect = dialect
        self._first = dialect.first
        self.sizes = range(0)
        self.tally: Callable[[bytes], int] | None = None
        self.on_text: Callable[[Client, str, int], None] = self.unexpected
        self.spins = SPINS
        self.waited = 0.0  # CPU seconds spent on empty looks
        self.all: list[Client] = []
        self._by_fd: dict[int, Client] = {}
        self._epoll = select.epoll()
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)

    def close(self) -> None:
        for client in self.all.copy():
            self.drop(client)
        self._epoll.close()

    def framed(self, text: str) -> bytes:
        """As the dialect sends it."""
        return frame(text.encode(self.dialect.charset), self._first)

    def count(self, sizes: range) -> None:
        """Only count deliveries from now on. `sizes` are those of a frame with one; where there may be more in it, each
        frame is looked into instead."""
        if self.dialect.batched:
            self.tally = self.dialect.deliveries
        else:
            self.sizes = sizes

    def drop(self, client: Client) -> None:
        # A reset instead of a goodbye: ten thousand sockets in TIME_WAIT would be in the way of the next run.
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.sock.close()
        self.all.remove(client)

    def open(self, subscriptions: Iterable[Sequence[int]]) -> list[Client]:
        """Clients with these subscriptions each, returned when the server has confirmed all of them."""
        waiting = iter(subscriptions)
        opened: list[Client] = []
        opening: set[Client] = set()
        more = True
        while more or opening:
            while more and len(opening) < OPENING:
                try:
                    client = self.dial(self.dialect.opening(next(waiting)))
                except StopIteration:
                    more = False
                    break
                opened.append(client)
                opening.add(client)
            for client in self.ready():
                self.receive(client)
                if client.upgraded and not client.steps:
                    opening.discard(client)
        return opened

    def dial(self, steps: Iterable[tuple[str, str]]) -> Client:
        """One more client, on its way: `steps` are taken (as of `Dialect.opening`) as its answers come in."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=STALL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(
            f"GET {self.dialect.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d2F0ZXJzcG91dCBiZW5jaA==\r\n\r\n".encode()
        )
        sock.setblocking(False)
        client = Client(sock)
        client.steps.extend(steps)
        self.all.append(client)
        self._by_fd[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return client

    def mute(self, client: Client) -> None:
        """Do not look at this client any more: it reads nothing, until `unmute`."""
        self._epoll.unregister(client.sock.fileno())

    def unmute(self, client: Client) -> None:
        self._epoll.register(client.sock.fileno(), select.EPOLLIN)

    def ready(self, within: float | None = None) -> list[Client]:
        """The clients with something to read; none after `within` seconds of silence. Without that limit silence is an
        error: the server has stalled."""
        poll = self._epoll.poll
        if not (events := poll(0, 256)):
            before = time.process_time()
            for _ in range(self.spins):
                if events := poll(0, 256):
                    break
            self.waited += time.process_time() - before
            events = events or poll(STALL if within is None else within, 256)
        if not events and within is None:
            raise BenchError(f"nothing came for {STALL:.0f} s")
        by_fd = self._by_fd
        readable = []
        for fd, event in events:
            client = by_fd[fd]
            if event & select.EPOLLOUT:
                self.send(client, b"")
            if event & ~select.EPOLLOUT:
                readable.append(client)
        return readable

    def send(self, client: Client, data: bytes) -> None:
        """Send frames; what the socket does not take now goes out when it does."""
        data = client.outbox + data
        try:
            sent = client.sock.send(data)
        except BlockingIOError:
            sent = 0
        had, client.outbox = client.outbox, data[sent:]
        if bool(had) != bool(client.outbox):
            self._epoll.modify(
                client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT if client.outbox else select.EPOLLIN
            )

    def receive(self, client: Client) -> int:
        """Read what the client's socket has; the number of deliveries in it."""
        buffer, rest = self._buffer, client.rest
        kept = len(rest)
        try:
            if kept:
                buffer[:kept] = rest
                end = client.sock.recv_into(self._view[kept:])
            else:
                end = client.sock.recv_into(buffer)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise BenchError(f"the server broke a connection: {error}") from error
        if not end:
            raise BenchError("the server closed a connection")
        end += kept
        if client.record is not None:
            client.record.append(bytes(self._view[kept:end]))
        at = 0
        if not client.upgraded:
            at = self._upgrade(client, bytes(self._view[:end]))
        sizes, expected = self.sizes, self._first
        deliveries = 0
        while end - at >= 2:
            first, short = buffer[at], buffer[at + 1]
            if short < 126:
                header = 2
                size = 2 + short
            elif short == 126:
                if end - at < 4:
                    break
                header = 4
                size = 4 + (buffer[at + 2] << 8 | buffer[at + 3])
            else:
                if end - at < 10:
                    break
                header = 10
                size = 10 + int.from_bytes(buffer[at + 2 : at + 10], "big")
                if size > BUFFER:
                    raise BenchError(f"a frame of {size} bytes")
            if end - at < size:
                break
            if first == expected and size in sizes:
                run = min((end - at) // size, RUN)
                if run > 1:
                    stop = at + run * size
                    # The same first bytes at every stride of `size` make each of them a frame of that size.
                    for i in range(at, at + header):
                        if buffer[i:stop:size].count(buffer[i]) != run:
                            run = 1
                            break
                deliveries += run
                at += run * size
                continue
            deliveries += self._other(client, first, bytes(self._view[at + header : at + size]), size)
            at += size
        client.rest = bytes(self._view[at:end]) if at < end else b""
        return deliveries

    def _upgrade(self, client: Client, response: bytes) -> int:
        """How many bytes of the buffer were the server's HTTP response."""
        head, blank, _ = response.partition(b"\r\n\r\n")
        if not blank:
            return 0
        if not head.startswith(b"HTTP/1.1 101"):
            raise BenchError(f"upgrade refused: {head.splitlines()[0].decode()}")
        client.upgraded = True
        if client.steps and client.steps[0][0]:
            self.send(client, self.framed(client.steps[0][0]))
        return len(head) + 4

    def _other(self, client: Client, first: int, payload: bytes, size: int) -> int:
        """A frame that is not a delivery by its size; the number of deliveries in it."""
        if first == PING:
            self.send(client, frame(payload, PONG))
        elif first == CLOSE:
            raise BenchError(f"the server closed a connection: {payload[2:].decode()} ({payload[:2].hex()})")
        elif first == self._first:
            if self.tally and (deliveries := self.tally(payload)):
                return deliveries
            texts = self.dialect.messages(payload.decode(self.dialect.charset))
            return sum(self._text(client, text, size) for text in texts)
        elif first != PONG:
            raise BenchError(f"a frame that starts with {first:#x}")
        return 0

    def _text(self, client: Client, text: str, size: int) -> int:
        """One message; whether it is a delivery, which it can be here where others share its frame."""
        if self.tally and (deliveries := self.tally(text.encode(self.dialect.charset))):
            return deliveries
        if answer := self.dialect.heartbeat(text):
            self.send(client, self.framed(answer))
        elif client.steps:
            self._step(client, text)
        elif not self.dialect.acknowledges(text):
            self.on_text(client, text, size)
        return 0

    def _step(self, client: Client, text: str) -> None:
        if client.steps[0][1] not in text:
            raise BenchError(f"{client.steps[0]} was answered by {text[:300]}")
        client.steps.popleft()
        if client.steps:
            self.send(client, self.framed(client.steps[0][0]))

    def unexpected(self, client: Client, text: str, size: int) -> None:
        raise BenchError(f"unexpected: {text[:300]}")

    def quiet(self, seconds: float) -> None:
        """Answer heartbeats for a while; a delivery in it is one too many."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for client in self.ready(left):
                if self.receive(client):
                    raise BenchError("more deliveries than messages")
