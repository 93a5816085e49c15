"""Centrifugo's protocol as a dialect over WebSocket, in JSON: one object or several a frame, each on a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from server.centrifugo.codes import error_fields
from server.centrifugo.names import Names
from server.centrifugo.replies import Shape, close_of, message_shape, push_shape, reply_shape
from server.centrifugo.requests import MalformedCommand, WireCommand, json_commands, understand
from server.core.errors import Disconnect, Error, bad_request
from server.wire.codec import JSON, Codec, Pushed, id_of
from server.wire.commands import Command
from server.wire.dialects import Unreadable
from server.wire.frames import TEXT, close_frame, frame
from server.wire.messages import Message, Notice
from server.wire.pushes import Push

PING: Final = b"{}"
"""Both ways."""


class JsonCodec(Codec):
    __slots__ = ("_names",)

    def __init__(self, names: Names) -> None:
        super().__init__("centrifugo.json", JSON.media_type, TEXT, JSON.encode, JSON.decode)
        self._names = names

    def frame(self, push: Push) -> bytes:
        """Nothing, where there is no word for it."""
        shape = push_shape(push, self._names)
        return b"" if shape is None else self.write({"push": shape})

    def frame_message(self, message: Pushed) -> bytes:
        if not isinstance(message, Message) or isinstance(message, Notice):
            return self.frame(message.push())
        return self.write({"push": message_shape(message, self._names)})

    def write(self, shape: Shape) -> bytes:
        return frame(TEXT, self.encode(shape))


class JsonDialect:
    """One for all sessions of a node."""

    __slots__ = ("codec", "ping", "_names", "_write")

    def __init__(self, names: Names) -> None:
        codec = JsonCodec(names)
        self.codec: Codec = codec
        self._write = codec.write
        self.ping = frame(TEXT, PING)
        self._names = names

    def commands(self, opcode: int, payload: bytes) -> list[Command | Unreadable]:
        """Nothing of a frame that is not well-formed is carried out."""
        try:
            wired = json_commands(payload) if opcode == TEXT else []
        except (ValueError, RecursionError):
            wired = []
        return understood(wired, self._names)

    def identify(self, opcode: int, payload: bytes) -> int | None:
        return id_of(opcode, payload.strip().partition(b"\n")[0])

    def reply(self, command: Command, fields: Mapping[str, Any]) -> bytes:
        kind: str = command.kind  # type: ignore[attr-defined]
        assert command.id is not None
        return self._write(reply_shape(command.id, kind, fields))

    def error(self, identifier: int | None, error: Error) -> bytes:
        """Without an id nobody would know what it is about."""
        return b"" if identifier is None else self._write({"id": identifier, "error": error_fields(error)})

    def farewell(self, reason: Disconnect, delay: float) -> bytes:
        """These clients choose their own delay."""
        return close_frame(close_of(reason), reason.reason)


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
