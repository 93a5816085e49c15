"""A message, and its bytes on the wire: encoded once and framed once per encoding, whoever gets it."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import UNSET

from server.channels import Position
from server.codec import Codec
from server.protocol import EphemeralPush, MessagePush, Push


class Message:
    """One entry of a channel. An ephemeral one has offset 0 and neither epoch nor key.

    `time` is in milliseconds since 1970, UTC. `skip` names the session the message is not sent to ("echo": false).
    """

    __slots__ = ("channel", "epoch", "offset", "key", "user", "time", "data", "tag", "skip", "_frames")

    def __init__(
        self,
        channel: str,
        epoch: str,
        offset: int,
        key: str,
        user: str | None,
        time: int,
        data: Any,
        tag: str | None = None,
        skip: str | None = None,
    ) -> None:
        self.channel = channel
        self.epoch = epoch
        self.offset = offset
        self.key = key
        self.user = user
        self.time = time
        self.data = data
        self.tag = tag
        self.skip = skip
        self._frames: dict[Codec, bytes] = {}

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)

    def push(self) -> MessagePush | EphemeralPush | Push:
        if not self.offset:
            return EphemeralPush(self.channel, self.user, self.time, self.data, UNSET if self.tag is None else self.tag)
        cursor = f"{self.epoch}:{self.offset}"
        return MessagePush(self.channel, self.offset, cursor, self.key, self.user, self.time, self.data)

    def frame(self, codec: Codec) -> bytes:
        """The framed push. It is made at the first call: subscribers, replays and caches share the same bytes."""
        framed = self._frames.get(codec)
        if framed is None:
            framed = self._frames[codec] = codec.frame(self.push())
        return framed

    def __repr__(self) -> str:
        return f"<message {self.channel} {self.epoch}:{self.offset}>"


class Notice(Message):
    """A push that is no message and takes an ephemeral one's way: who cannot take it now never gets it."""

    __slots__ = ("_push",)

    def __init__(self, channel: str, push: Push, skip: str | None = None) -> None:
        super().__init__(channel, "", 0, "", None, 0, None, None, skip)
        self._push = push

    def push(self) -> Push:
        return self._push


class Page(NamedTuple):
    """Messages in order without holes. `gap`: offsets (both inclusive) asked for that are no longer retained."""

    messages: list[Message]
    gap: tuple[int, int] | None
