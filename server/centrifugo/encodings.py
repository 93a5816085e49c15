"""The bytes of commands, replies and pushes: JSON or, where `protobuf` is installed, Protobuf.

A payload (`data`, `conn_info`, `chan_info`) is JSON in either: inside the object there, as bytes of its own here.
"""

from __future__ import annotations

from typing import Final, Protocol

from server.centrifugo.replies import Shape
from server.centrifugo.requests import WireCommand, json_commands
from server.wire.codec import JSON, id_of
from server.wire.frames import TEXT

PROTOBUF_TYPE: Final = "application/octet-stream"


class Encoding(Protocol):
    name: str
    media_type: str
    opcode: int
    """Of WebSocket."""
    ping: bytes
    """A reply without anything, which is answered by a command without anything."""
    line_end: bytes
    """Behind each, where they stand in a stream."""

    def encode(self, shape: Shape) -> bytes:
        """A reply; of several one stands behind the other, with a `line_end` between them."""

    def published(self, identifier: int) -> bytes:
        """The reply to a publish."""

    def commands(self, payload: bytes) -> list[WireCommand]:
        """ValueError or RecursionError for what is none, and for more than MAX_COMMANDS."""

    def first_id(self, payload: bytes) -> int | None:
        """Of what is not looked at any further."""


class Json:
    name = "json"
    media_type = JSON.media_type
    opcode = TEXT
    ping = b"{}"
    line_end = b"\n"

    def encode(self, shape: Shape) -> bytes:
        return JSON.encode(shape)

    def published(self, identifier: int) -> bytes:
        return JSON.encode({"id": identifier, "publish": {}})

    def commands(self, payload: bytes) -> list[WireCommand]:
        return json_commands(payload)

    def first_id(self, payload: bytes) -> int | None:
        return id_of(TEXT, payload.strip().partition(b"\n")[0])


def protobuf() -> Encoding | None:
    """None where its library is not installed."""
    try:
        from server.centrifugo.protobuf import Protobuf
    except ModuleNotFoundError:
        return None
    return Protobuf()
