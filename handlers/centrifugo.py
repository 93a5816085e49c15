"""The doors for clients of Centrifugo's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from handlers.base import BaseHandler
from handlers.sockets import ENDLESS, Socket, adopt, response_head
from handlers.websocket import OpenSession, WebSocketHandler
from server.access.admission import ConnectionSeats
from server.centrifugo.dialects import CentrifugoDialect
from server.centrifugo.door import Centrifugo
from server.centrifugo.encodings import PROTOBUF_TYPE
from server.centrifugo.session import CentrifugoSession
from server.centrifugo.streams import EmulatedSession, ListeningSession
from server.core.config import Config
from server.core.errors import SHUTDOWN, Disconnect, bad_request
from server.core.principals import GUEST
from server.node import Node
from server.wire.codec import JSON
from server.wire.sse import EVENT_STREAM

SUBPROTOCOL: Final = "centrifuge-protobuf"


class CentrifugoWebSocket(WebSocketHandler):
    """GET /connection/websocket"""

    def bearer_token(self) -> str | None:
        """Their tokens come in the first command."""
        return None

    def choose(self, seats: ConnectionSeats, origin: str | None) -> tuple[str | None, OpenSession]:
        door = _door(self)
        chosen = SUBPROTOCOL if SUBPROTOCOL in self.offered() else None
        asked = [self.get_query_argument(name) for name in ("format", "cf_protocol")]
        dialect = door.protobuf if chosen or "protobuf" in asked else door.json
        return chosen, lambda socket: door.session(CentrifugoSession, dialect, socket, seats, origin)


Session = EmulatedSession | ListeningSession


class SessionSocket(Socket):
    """An endless response, and a session that is there as soon as it has begun."""

    __slots__ = ("_head", "_open", "_payload")

    def __init__(
        self, node: Node, seats: ConnectionSeats, head: bytes, open_session: Callable[[SessionSocket], Session],
        payload: bytes,
    ) -> None:  # fmt: skip
        super().__init__(node, seats)
        self._head = head
        self._open = open_session
        self._payload = payload

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport.write(self._head)
        session = self._open(self)
        self.client = session
        payload, self._payload, self.early = self._payload, b"", b""
        if self._node.lifecycle.leaving:  # since the request came
            session.disconnect(Disconnect(SHUTDOWN, "the server is leaving"))
        else:
            session.begin(payload)

    def pause_reading(self) -> None:
        """What is said on this connection is not listened to anyway; and its end has to be noticed."""


class _Open(BaseHandler):
    """Whoever it is says so in what comes."""

    async def admit(self, method: str) -> None:
        self._check_method(method)
        self._check_headers()
        if method != "OPTIONS":
            self.check_origin()
            self.count()

    def count(self) -> None:
        self.node.admission.count_request(GUEST, self.client_address())

    @property
    def binary(self) -> bool:
        """Whether what comes is Protobuf."""
        return self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == PROTOBUF_TYPE


class _Stream(_Open):
    session: type[Session]

    async def stream(self, dialect: CentrifugoDialect, media_type: str, payload: bytes) -> None:
        if self.request.method == "HEAD":
            self.set_header("Content-Type", media_type)
            return
        door, origin, kind = _door(self), self.request.headers.get("Origin"), self.session
        door.check_size("body", payload)
        with self.entering(None) as seats:
            head = response_head(200, {"Content-Type": media_type} | ENDLESS, self.head_of_response())

            def open_session(socket: SessionSocket) -> Session:
                return door.session(kind, dialect, socket, seats, origin)

            await adopt(self.detach(), SessionSocket(self.node, seats, head, open_session, payload))

    def query(self) -> bytes:
        """What an EventSource, which sends no body, has to say. It stands in no log: paths do, without their query."""
        said = self.get_query_argument("cf_connect")
        if not said:
            raise bad_request("cf_connect: required")
        return said.encode()


class HttpStream(_Stream):
    """POST /connection/http_stream"""

    session = EmulatedSession

    async def post(self) -> None:
        door = _door(self)
        if self.binary:
            await self.stream(door.protobuf_stream, PROTOBUF_TYPE, self.raw_body())
        else:
            await self.stream(door.json_stream, JSON.media_type, self.raw_body())


class EventSource(_Stream):
    """GET /connection/sse?cf_connect=…"""

    session = EmulatedSession

    async def get(self) -> None:
        await self.stream(_door(self).json_events, EVENT_STREAM.media_type, self.query())


class ListeningStream(_Stream):
    """POST /connection/uni_http_stream"""

    session = ListeningSession

    async def post(self) -> None:
        await self.stream(_door(self).bare_stream, JSON.media_type, self.raw_body())


class ListeningEventSource(_Stream):
    """GET /connection/uni_sse?cf_connect=…, or POST"""

    session = ListeningSession

    async def get(self) -> None:
        await self.stream(_door(self).bare_events, EVENT_STREAM.media_type, self.query())

    async def post(self) -> None:
        await self.stream(_door(self).bare_events, EVENT_STREAM.media_type, self.raw_body())


class Emulation(_Open):
    """POST /emulation: commands of who has an endless response, wherever that is."""

    def count(self) -> None:
        """As soon as it is known whether it is a session's."""

    async def post(self) -> None:
        _door(self).emulate(self.raw_body(), self.client_address(), binary=self.binary)
        self.set_status(204)


def _door(handler: BaseHandler) -> Centrifugo:
    door = handler.site.centrifugo
    assert door is not None
    return door


def routes(config: Config) -> dict[str, type[BaseHandler]]:
    """Those that the configuration opens."""
    options = config.centrifugo
    opened: dict[str, type[BaseHandler]] = {"/connection/websocket": CentrifugoWebSocket}
    if options.http_stream:
        opened |= {"/connection/http_stream": HttpStream, "/connection/uni_http_stream": ListeningStream}
    if options.sse:
        opened |= {"/connection/sse": EventSource, "/connection/uni_sse": ListeningEventSource}
    if options.http_stream or options.sse:
        opened["/emulation"] = Emulation
    return opened
