"""The WebSocket door: Tornado does the handshake, then a `WebSocket` takes the connection over (sockets.py).

Against Tornado's own WebSocketHandler it reads many frames at a time, answers what a client does wrong with the close
code RFC 6455 asks for, and lets prebuilt frames be written as they are.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Final

from tornado.websocket import WebSocketProtocol13

from handlers.base import BaseHandler
from handlers.request import Request
from handlers.site import Site
from handlers.sockets import Socket, adopt
from server.access.admission import ConnectionSeats
from server.core.config import MAX_STORED
from server.core.errors import SHUTDOWN, Disconnect, Error, bad_request
from server.core.principals import Principal
from server.node import Node
from server.sessions.session import Session
from server.wire.dialects import DIALECTS, NATIVE
from server.wire.frames import BINARY, CLOSE, PING, TEXT, Parser, close_frame

try:
    from tornado.speedups import websocket_mask as unmask
except ImportError:  # where Tornado could not compile it
    from server.wire.frames import unmask

logger = logging.getLogger(__name__)

LOT: Final = 64
"""Frames of one connection, counting each 256 bytes of payload as one more, before it is somebody else's turn. While
nobody waits, another lot follows at once: what comes in one turn of the loop goes out in one write to each client."""
BEGUN: Final = 3
"""Added to the load for each command that continues as a task (`Session.begun`, read and set back in `_work`)."""


OpenSession = Callable[["WebSocket"], Session]


class WebSocketHandler(BaseHandler):
    """GET /v1/ws"""

    def __init__(self, site: Site, request: Request, path: tuple[str, ...] = ()) -> None:
        super().__init__(site, request, path)
        self._key = ""
        self._proven: Principal | None = None
        """Who has proved already who they are; the others do so in their first command."""

    async def admit(self, method: str) -> None:
        self._check_method(method)
        self._check_headers()
        if method == "OPTIONS":
            return
        self._key = self._handshake_key()
        self.check_origin()
        if self.bearer_token() is not None:
            self._proven = self.principal = await self.authenticate()
            self.node.admission.count_request(self.principal, self.client_address())

    async def get(self) -> None:
        with self.entering(self._proven) as seats:
            await self._upgrade(seats)

    async def _upgrade(self, seats: ConnectionSeats) -> None:
        origin = self.request.headers.get("Origin")
        chosen, open_session = self.choose(seats, origin and sys.intern(origin))
        greeting = _accept(self._key, chosen)
        await adopt(self.detach(), WebSocket(self.node, seats, open_session, greeting))

    def offered(self) -> list[str]:
        """The subprotocols that the client speaks, the best first."""
        return [name.strip() for name in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]

    def choose(self, seats: ConnectionSeats, origin: str | None) -> tuple[str | None, OpenSession]:
        """The subprotocol, if one of those is understood, and what makes the session when there is a connection."""
        chosen = next((name for name in self.offered() if name in DIALECTS), None)
        dialect = DIALECTS[chosen] if chosen else NATIVE
        return chosen, lambda socket: Session(self.node, socket, dialect, self._proven, seats, origin)

    def _handshake_key(self) -> str:
        """RFC 6455, section 4.2.1."""
        headers = self.request.headers
        if headers.get("Upgrade", "").lower() != "websocket" or self.request.method != "GET":
            raise Error("bad_request", "Upgrade: this is a WebSocket endpoint", status=426)
        if "upgrade" not in (token.strip().lower() for token in headers.get("Connection", "").split(",")):
            raise bad_request("Connection: expected Upgrade")
        if headers.get("Sec-WebSocket-Version") != "13":
            self.set_header("Sec-WebSocket-Version", "13")
            raise Error("bad_request", "Sec-WebSocket-Version: expected 13", status=426)
        key: str = headers.get("Sec-WebSocket-Key", "")
        try:
            if len(base64.b64decode(key, validate=True)) != 16:
                raise ValueError
        except (ValueError, binascii.Error):
            raise bad_request("Sec-WebSocket-Key: expected 16 bytes in base64") from None
        return key


def _accept(key: str, subprotocol: str | None) -> bytes:
    """The 101 of RFC 6455, section 4.2.2. (Through Tornado's writer it costs a third of the handshake.)"""
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {WebSocketProtocol13.compute_accept_value(key)}\r\n"
        f"{chosen}\r\n"
    ).encode()


class WebSocket(Socket):
    """One client's TCP connection: bytes to frames, frames to the session, and the session's bytes out."""

    __slots__ = ("_parser", "_session", "_opening", "_loop_share", "_frames", "_waiting", "_wanted")

    def __init__(self, node: Node, seats: ConnectionSeats, open_session: OpenSession, greeting: bytes) -> None:
        super().__init__(node, seats)
        self._parser = Parser(2 * (node.config.limits.message_bytes or MAX_STORED), unmask)
        self._session: Session
        self._loop_share = node.loop_share
        self._frames: Iterator[tuple[int, bytes]] | None = None
        """What has come and is not worked on yet; while there is any, nothing more is read."""
        self._waiting = False
        """For a turn of the loop."""
        self._wanted = True
        """Whether the session takes commands."""
        # The session wants the transport's own `write`; it is made when that exists.
        self._opening = (open_session, greeting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        open_session, greeting = self._opening
        del self._opening
        self._transport.write(greeting)
        self._session = self.client = open_session(self)
        if self._node.lifecycle.leaving:  # since the request came
            self._session.disconnect(Disconnect(SHUTDOWN, "the server is leaving"))
        early, self.early = self.early, b""
        if early:
            self.data_received(early)

    def connection_lost(self, error: Exception | None) -> None:
        self._frames = None
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._node.admission.bytes_in += len(data)
        self._session.heard()
        if self._frames is not None:  # more than was asked for, from a transport that could not stop at once
            self.early += data
            return
        self._frames = self._parser.feed(data)
        if self._loop_share.now():
            self._work()
        else:
            self._wait()

    def _wait(self) -> None:
        """Go on in another turn of the loop, and when the session wants to."""
        super().pause_reading()
        if not self._waiting and (self._wanted or self._closing is not None):
            self._waiting = True
            self._loop_share.later(self._go_on)

    def _go_on(self) -> None:
        self._waiting = False
        self._work()

    def _work(self) -> None:
        """Hand on what has come, up to a LOT of it."""
        load = 0
        session = self._session
        try:
            for opcode, payload in self._frames or ():
                if opcode in (TEXT, BINARY) and self._closing is None:
                    session.receive(opcode, payload)
                else:
                    self._hand_on(opcode, payload)
                load += 1 + (len(payload) >> 8)
                if session.begun:
                    load += BEGUN * session.begun
                    self._loop_share.expect(session.begun + (len(payload) >> 8))
                    session.begun = 0
                if load >= LOT and self._loop_share.goes_on():
                    load = 0
                if load >= LOT or not (self._wanted or self._closing is not None):
                    self._wait()
                    return
        except Disconnect as reason:
            if self._closing is None:
                self._session.disconnect(reason)
            else:
                self._transport.close()
        self._frames = None
        if self.early:
            data, self.early = self.early, b""
            self._frames = self._parser.feed(data)
            self._wait()
        elif self._wanted or self._closing is not None:
            super().resume_reading()

    def _hand_on(self, opcode: int, payload: bytes) -> None:
        if self._closing is not None:
            if opcode == CLOSE:  # of a client that has got ours only that matters
                self._transport.close()
        elif opcode == PING:
            self._session.pong(payload)
        elif opcode == CLOSE:
            self._answer_close(payload)
        else:
            self._session.count_frame()

    def pause_reading(self) -> None:
        self._wanted = False
        super().pause_reading()

    def resume_reading(self) -> None:
        self._wanted = True
        if self._frames is None:
            super().resume_reading()
        else:
            self._wait()

    def _hang_up(self) -> None:
        """The close frame is out; the client has a moment to answer it. (Closing the socket at once would reset it
        under a client that is sending, and the frame might never be read.)"""
        self.resume_reading()

    def _answer_close(self, payload: bytes) -> None:
        self._session.closed()
        code = int.from_bytes(payload[:2], "big") if payload else 1000
        self._transport.write(close_frame(code))
        self._bound_closing()
        self._transport.close()
