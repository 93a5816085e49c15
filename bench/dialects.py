"""What the clients of the benchmark say: one small class for each protocol the servers speak.

A dialect knows texts, not frames or sockets. Channels are numbers here; each dialect names them its own way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar, Protocol


class Dialect(Protocol):
    path: str
    first = 0x81
    """The first byte of a frame of RFC 6455: text."""
    charset = "utf-8"
    batched: ClassVar[bool] = False
    """Whether a frame may hold several messages."""

    def messages(self, text: str) -> Sequence[str]:
        """The messages of a frame."""
        return (text,)

    def deliveries(self, payload: bytes) -> int:
        """How many deliveries a frame of a batched dialect consists of; 0 if there is anything else in it."""
        return 0

    def opening(self, channels: Sequence[int]) -> list[tuple[str, str]]:
        """What a new client sends to be subscribed to `channels`, each text with what its answer must contain. An empty
        text is not sent: the server speaks first."""

    def publish(self, channel: int, data: str) -> str: ...

    def delivered(self, text: str) -> str | None:
        """The data of a delivery; None if the text is something else."""

    def heartbeat(self, text: str) -> str | None:
        """The answer due to a heartbeat that is not a WebSocket ping."""

    def acknowledges(self, text: str) -> bool:
        """Whether it is the answer to a publish, which servers give whose clients cannot do without."""
        return False


class Acknowledging(Dialect, Protocol):
    """A dialect in which publishes are acknowledged one by one."""

    def acknowledged_publish(self, number: int, channel: int, data: str, key: str = "") -> str: ...

    def acknowledgement(self, text: str) -> tuple[int, int | None] | None:
        """The number of the publish that is acknowledged, and the offset if it is told; None if it is none."""


class Plain(Dialect):
    """`sub:<channel>` answered by `ok`; `pub:<channel>:<data>` arrives as the bare data."""

    path = "/ws"

    def opening(self, channels: Sequence[int]) -> list[tuple[str, str]]:
        return [(f"sub:{channel}", "ok") for channel in channels]

    def publish(self, channel: int, data: str) -> str:
        return f"pub:{channel}:{data}"

    def delivered(self, text: str) -> str | None:
        return text

    def heartbeat(self, text: str) -> str | None:
        return None


class SocketIO(Dialect):
    """Engine.IO 4 over WebSocket alone: the server opens with `0{…}`, `40` connects, `42[…]` is an event."""

    path = "/socket.io/?EIO=4&transport=websocket"

    def opening(self, channels: Sequence[int]) -> list[tuple[str, str]]:
        return [("", '0{"sid"'), ("40", "40{"), *((f'420["sub","{channel}"]', '430["ok"]') for channel in channels)]

    def publish(self, channel: int, data: str) -> str:
        return f'42["pub","{channel}","{data}"]'

    def delivered(self, text: str) -> str | None:
        return str(json.loads(text[2:])[1]) if text.startswith('42["msg",') else None

    def heartbeat(self, text: str) -> str | None:
        return "3" if text == "2" else None


class Waterspout(Acknowledging):
    """The product's own JSON, in one namespace."""

    path = "/v1/ws"

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def channel(self, number: int) -> str:
        return f"{self.namespace}:{number}"

    def opening(self, channels: Sequence[int]) -> list[tuple[str, str]]:
        return [
            (f'{{"type":"subscribe","id":1,"channel":"{self.channel(channel)}"}}', '"reply"') for channel in channels
        ]

    def publish(self, channel: int, data: str) -> str:
        """Without an id there is no reply, as with all the others."""
        return f'{{"type":"publish","channel":"{self.channel(channel)}","data":"{data}"}}'

    def acknowledged_publish(self, number: int, channel: int, data: str, key: str = "") -> str:
        retry = f'"key":"{key}",' if key else ""
        return f'{{"type":"publish","id":{number},"channel":"{self.channel(channel)}",{retry}"data":"{data}"}}'

    def acknowledgement(self, text: str) -> tuple[int, int | None] | None:
        reply = json.loads(text)
        return None if reply["type"] != "reply" or reply.get("duplicate") else (reply["id"], reply.get("offset"))

    def resuming(self, channel: int, cursor: str) -> list[tuple[str, str]]:
        """What a client says that comes back with a cursor."""
        subscribe = f'{{"type":"subscribe","id":1,"channel":"{self.channel(channel)}","after":"{cursor}"}}'
        return [(subscribe, '"recovered":true')]

    def delivered(self, text: str) -> str | None:
        message = json.loads(text)
        return str(message["data"]) if message["type"] == "message" else None

    def heartbeat(self, text: str) -> str | None:
        return None
