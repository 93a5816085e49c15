"""The WebSocket door: Tornado does the handshake, then a `Socket` takes the connection over.

After the 101 nothing of HTTP is needed any more, so the socket is taken out of Tornado's stream (`detach`, which
exists for this) and given to a plain asyncio protocol. Against Tornado's own WebSocketHandler that leaves no coroutine,
stream or request behind per client, reads many frames at a time, answers what a client does wrong with the close code
RFC 6455 asks for, and lets prebuilt frames be written as they are. docs/life-of-a-message.md has the figures.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import fcntl
import logging
import socket
import sys
import termios
from typing import cast

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream
from tornado.websocket import WebSocketProtocol13

from handlers.base import BaseHandler
from server.codec import CODECS, JSON, Codec
from server.errors import Disconnect, Error, bad_request
from server.frames import CLOSE, PING, PONG, Parser, close_frame
from server.node import Node
from server.principals import Principal
from server.session import Session

logger = logging.getLogger(__name__)

CLOSE_WITHIN = 5.0
"""Seconds a client has to answer a close frame before the connection is cut."""
MAX_FRAME = 32 << 20
"""Where message_bytes is 0 (no limit)."""


class WebSocketHandler(BaseHandler):
    """GET /v1/ws"""

    async def prepare(self) -> None:
        pass  # only `get` may say no to an upgrade

    async def get(self) -> None:
        key = self._handshake_key()
        if not self.origin_allowed():
            raise Error("permission_denied", "Origin: not allowed; list it under origins")
        principal = None if self.bearer_token() is None else await self.authenticate()
        self._check_limits(principal)
        offered = [name.strip() for name in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        chosen = next((name for name in offered if name in CODECS), None)
        codec = CODECS[chosen] if chosen else JSON
        origin = self.request.headers.get("Origin")
        protocol = Socket(self.node, codec, principal, self.client_address(), origin, _accept(key, chosen))
        await adopt(self.detach(), protocol)

    def _handshake_key(self) -> str:
        """RFC 6455, section 4.2.1."""
        headers = self.request.headers
        if headers.get("Upgrade", "").lower() != "websocket":
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

    def _check_limits(self, principal: Principal | None) -> None:
        if self.node.leaving:
            raise Error("unavailable", "the server is leaving", retry_after=1.0)
        self.node.admit(principal, self.client_address())


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


async def adopt(stream: IOStream, protocol: Socket) -> None:
    """Take the connection out of Tornado's stream and give it to `protocol`, with whatever the client sent already."""
    stream.set_close_callback(None)
    if stream.closed():
        return  # gone while the key of its token was fetched
    while True:
        reading = asyncio.ensure_future(stream.read_bytes(65536, partial=True))
        if not reading.done():
            break
        if reading.exception() is not None:
            return  # gone already
        protocol.early += reading.result()
    reading.add_done_callback(lambda future: future.cancelled() or future.exception())
    connection: socket.socket = stream.socket
    IOLoop.current().remove_handler(connection.fileno())
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
    except OSError:
        connection.close()


class Socket(asyncio.Protocol):
    """One client's TCP connection: bytes to frames, frames to the session, and the session's bytes out."""

    __slots__ = ("_parser", "_session", "_transport", "_closing", "_node", "_address", "_opening", "early")

    def __init__(
        self, node: Node, codec: Codec, principal: Principal | None, address: str, origin: str | None, greeting: bytes
    ) -> None:
        limit = node.config.limits.message_bytes
        self._parser = Parser(2 * limit if limit else MAX_FRAME)
        self._closing: asyncio.TimerHandle | None = None
        self._node = node
        self._address = address
        self._session: Session
        self._transport: asyncio.Transport
        # The session wants the transport's own `write`; it is made when that exists.
        self._opening = (codec, principal, origin and sys.intern(origin), greeting)
        self.early = b""
        """What came before the connection was ours."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, the same methods
        codec, principal, origin, greeting = self._opening
        del self._opening
        transport.write(greeting)
        addresses = self._node.addresses
        addresses[self._address] = addresses.get(self._address, 0) + 1
        self._session = Session(self._node, self, codec, principal, self._address, origin)
        early, self.early = self.early, b""
        if early:
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        self._node.bytes_in += len(data)
        if self._closing is not None:
            self._await_close(data)
            return
        session = self._session
        try:
            for opcode, payload in self._parser.feed(data):
                if opcode == PING:
                    session.pong(payload)
                elif opcode == PONG:
                    session.heard()
                elif opcode == CLOSE:
                    self._answer_close(payload)
                    return
                else:
                    session.receive(opcode, payload)
                if self._closing is not None:
                    return
        except Disconnect as reason:
            session.disconnect(reason)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._closing is not None:
            self._closing.cancel()
        left = self._node.addresses[self._address] - 1
        if left:
            self._node.addresses[self._address] = left
        else:
            del self._node.addresses[self._address]
        self._session.closed()

    def pause_writing(self) -> None:
        self._session.pause()

    def resume_writing(self) -> None:
        self._session.resume()

    # the session's side

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def buffered(self) -> int:
        """What the transport holds and what the kernel has not been told is there: of a slow reader's progress the
        transport sees nothing while the kernel's megabytes drain."""
        unread = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self._transport.get_write_buffer_size() + int.from_bytes(unread, sys.byteorder)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, farewell: bytes) -> None:
        """The close frame goes out behind what is buffered; then the client has a moment to answer it. (Closing the
        socket at once would reset it under a client that is sending, and the frame might never be read.)"""
        if self._closing is not None or self._transport.is_closing():
            return
        self._closing = asyncio.get_running_loop().call_later(CLOSE_WITHIN, self._transport.abort)
        self._transport.write(farewell)
        self._transport.resume_reading()

    def abort(self) -> None:
        self._transport.abort()

    def _answer_close(self, payload: bytes) -> None:
        self._session.closed()
        code = int.from_bytes(payload[:2], "big") if payload else 1000
        self._transport.write(close_frame(code))
        self._transport.close()

    def _await_close(self, data: bytes) -> None:
        """We have sent a close frame: only the client's matters now."""
        try:
            for opcode, _ in self._parser.feed(data):
                if opcode == CLOSE:
                    self._transport.close()
                    return
        except Disconnect:
            self._transport.close()
