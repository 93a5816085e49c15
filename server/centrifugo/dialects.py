"""Centrifugo's protocol as dialects: in each encoding, over WebSocket, in a stream of HTTP or as server-sent events.

Over WebSocket a connection ends with a close frame; in a stream a push says why. One who only listens gets pushes as
they are, without the reply around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from server.centrifugo.codes import error_fields
from server.centrifugo.encodings import Encoding
from server.centrifugo.names import Names
from server.centrifugo.publishers import Publishers
from server.centrifugo.replies import Shape, close_of, push_shape
from server.centrifugo.requests import MalformedCommand, WireCommand, understand
from server.core.errors import Disconnect, Error, bad_request
from server.wire.amendments import Amendment, AmendPush
from server.wire.codec import JSON, Codec, Pushed
from server.wire.commands import Command
from server.wire.dialects import Unreadable
from server.wire.frames import close_frame, frame
from server.wire.messages import Message, Notice
from server.wire.pushes import MessagePush, Push

_PUSHED: Final = (Notice, Amendment)
"""What goes among the messages of a channel and is none."""
Wrap = Callable[[bytes], bytes]
"""An encoded reply as it travels."""


class PushCodec(Codec):
    """Frames pushes in an encoding and a wrapping: what the hub encodes a message once for."""

    __slots__ = ("_names", "_publication", "_encoding", "_wrap", "_bare")

    def __init__(self, names: Names, publishers: Publishers, encoding: Encoding, wrap: Wrap, bare: bool) -> None:
        super().__init__(f"centrifugo.{encoding.name}", encoding.media_type, encoding.opcode, JSON.encode, JSON.decode)
        self._names = names
        self._publication = publishers.publication
        self._encoding = encoding
        self._wrap = wrap
        self._bare = bare

    def frame(self, push: Push) -> bytes:
        """Nothing, where there is no word for it."""
        if isinstance(push, MessagePush | AmendPush):
            return self.push({"channel": self._names.theirs(push.channel), "pub": self._publication(push)})
        shape = push_shape(push, self._names)
        return b"" if shape is None else self.push(shape)

    def frame_message(self, message: Pushed) -> bytes:
        if not isinstance(message, Message) or isinstance(message, _PUSHED):
            return self.frame(message.push())
        shape = {"channel": self._names.theirs(message.channel), "pub": self._publication(message)}
        return self._wrap(self._encoding.encode(shape if self._bare else {"push": shape}))

    def push(self, shape: Shape) -> bytes:
        return self.write(shape if self._bare else {"push": shape})

    def write(self, shape: Shape) -> bytes:
        return self._wrap(self._encoding.encode(shape))


class CentrifugoDialect:
    """One for all sessions of a node that have the same encoding and transport. `bare`: for who only listens."""

    __slots__ = ("codec", "encoding", "ping", "_names", "_codec", "_wrap", "_farewell", "_bare")

    def __init__(
        self, names: Names, publishers: Publishers, encoding: Encoding, wrap: Wrap, *, closing: bool = False,
        bare: bool = False,
    ) -> None:  # fmt: skip
        """`closing`: what closes is a close frame of WebSocket."""
        self._codec = PushCodec(names, publishers, encoding, wrap, bare)
        self.codec: Codec = self._codec
        self.encoding = encoding
        self._wrap = wrap
        self.ping = wrap(encoding.ping)
        self._names = names
        self._bare = bare
        self._farewell = close_frame if closing else self._say

    def commands(self, opcode: int, payload: bytes) -> list[Command | Unreadable]:
        """Nothing of a frame that is not well-formed is carried out."""
        try:
            wired = self.encoding.commands(payload) if opcode == self.encoding.opcode else []
        except (ValueError, RecursionError):
            wired = []
        return understood(wired, self._names)

    def identify(self, opcode: int, payload: bytes) -> int | None:
        return self.encoding.first_id(payload)

    def reply(self, command: Command, fields: Mapping[str, Any]) -> bytes:
        kind: str = command.kind  # type: ignore[attr-defined]
        assert command.id is not None
        if kind == "publish":  # where a message is in the log has no place in the answer to its publisher
            return self._wrap(self.encoding.published(command.id))
        return self._codec.write({"id": command.id, kind: fields})

    def error(self, identifier: int | None, error: Error) -> bytes:
        """Without an id nobody would know what it is about; who only listens has asked for nothing by itself."""
        if identifier is None or self._bare:
            return b""
        return self._codec.write({"id": identifier, "error": error_fields(error)})

    def push(self, shape: Shape) -> bytes:
        return self._codec.push(shape)

    def farewell(self, reason: Disconnect, delay: float) -> bytes:
        """These clients choose their own delay."""
        return self._farewell(close_of(reason), reason.reason)

    def _say(self, code: int, reason: str) -> bytes:
        return self.push({"disconnect": {"code": code, "reason": reason}})


def websocket(names: Names, publishers: Publishers, encoding: Encoding) -> CentrifugoDialect:
    return CentrifugoDialect(names, publishers, encoding, partial(frame, encoding.opcode), closing=True)


def stream(names: Names, publishers: Publishers, encoding: Encoding, *, bare: bool = False) -> CentrifugoDialect:
    """One reply behind the other."""
    return CentrifugoDialect(names, publishers, encoding, lambda data: data + encoding.line_end, bare=bare)


def events(names: Names, publishers: Publishers, encoding: Encoding, *, bare: bool = False) -> CentrifugoDialect:
    """Each an event, whose data is all that there is of it."""
    return CentrifugoDialect(names, publishers, encoding, lambda data: b"data: " + data + b"\n\n", bare=bare)


def understood(wired: list[WireCommand], names: Names) -> list[Command | Unreadable]:
    """An Unreadable without an id at the first that is no command, and nothing behind it; one in all for none."""
    commands: list[Command | Unreadable] = []
    for wire in wired:
        try:
            commands.append(understand(wire, names))
        except Error as error:
            commands.append(Unreadable(wire.id, error))
        except MalformedCommand as error:
            commands.append(Unreadable(None, bad_request(str(error))))
            return commands
    return commands or [Unreadable(None, bad_request("not a command"))]
