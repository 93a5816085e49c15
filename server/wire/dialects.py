"""What a session speaks: bytes of the client to commands, and replies, errors, pings and farewells to bytes.

A second WebSocket subprotocol is one more of these, in DIALECTS. Its pushes are framed by its `codec`, which is also
what the hub encodes a message once for: whoever has the same codec shares the bytes. Ping, pong and close frames are
RFC 6455's. Event streams and polls are clients of their own (server/sessions/listener.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from server.core.errors import Disconnect, Error, bad_request
from server.wire.codec import JSON, MSGPACK, Codec, id_of
from server.wire.commands import Command, parse_command
from server.wire.frames import BINARY, PING_FRAME, TEXT, close_frame
from server.wire.pushes import DisconnectPush, ErrorPush


class Unreadable(NamedTuple):
    """In the place of a command that breaks a rule; the `id` is there if one can be read all the same."""

    id: int | None
    error: Error


class Dialect(Protocol):
    """One object for all sessions that speak it, or one for each, where it has something to remember."""

    codec: Codec
    """Frames pushes."""
    ping: bytes
    """A sign of life that the client has to answer with anything."""

    def commands(self, opcode: int, payload: bytes) -> Iterable[Command | Unreadable]:
        """What one message of the client asks for, in order."""

    def identify(self, opcode: int, payload: bytes) -> int | None:
        """The id of what is refused unread, if there is one."""

    def reply(self, command: Command, fields: Mapping[str, Any]) -> bytes:
        """`command` was carried out. It has an id."""

    def error(self, identifier: int | None, error: Error) -> bytes: ...

    def farewell(self, reason: Disconnect, delay: float) -> bytes:
        """The last bytes: why, and in how many seconds the client may come back, if it may; the close frame."""


class Native:
    """docs/protocol.md, in one of its encodings: one object a message."""

    __slots__ = ("codec",)

    ping = PING_FRAME

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def commands(self, opcode: int, payload: bytes) -> tuple[Command | Unreadable]:
        codec = self.codec
        try:
            if opcode != codec.opcode:
                kinds = {TEXT: "text", BINARY: "binary"}
                raise bad_request(f"{codec.name} uses {kinds[codec.opcode]} frames")
            return (parse_command(codec.decode(payload)),)
        except Error as error:
            return (Unreadable(id_of(opcode, payload), error),)

    def identify(self, opcode: int, payload: bytes) -> int | None:
        return id_of(opcode, payload)

    def reply(self, command: Command, fields: Mapping[str, Any]) -> bytes:
        return self.codec.frame({"type": "reply", "id": command.id, **fields})

    def error(self, identifier: int | None, error: Error) -> bytes:
        return self.codec.frame(ErrorPush.of(identifier, error))

    def farewell(self, reason: Disconnect, delay: float) -> bytes:
        """RFC 6455's own codes need no push: whoever breaks its rules may not understand one."""
        said = self.codec.frame(DisconnectPush.of(reason, delay)) if reason.code >= 4000 else b""
        return said + close_frame(reason.code, reason.reason)


DIALECTS: Final[Mapping[str, Dialect]] = {codec.name: Native(codec) for codec in (JSON, MSGPACK)}
"""By subprotocol."""
NATIVE: Final = DIALECTS[JSON.name]
"""Where none is asked for, or none that is known."""
