"""A message, and its bytes on the wire: encoded once and framed once per encoding, whoever gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec import UNSET

from server.core.cursors import NO_TALLY, Position
from server.wire.codec import Codec
from server.wire.pushes import EphemeralPush, MentioningPush, MessagePush, Push

Images = tuple[dict[str, Any] | None, dict[str, Any] | None]
"""Of a document's change, never on the wire: the document before it; and after it, if the message does not have it."""


class Message:
    """One entry of a channel. An ephemeral one has offset 0 and neither epoch nor key.

    `time` is in milliseconds since 1970, UTC. `skip` names the session the message is not sent to ("echo": false).
    `tag` is what a conflating channel keeps the newest of; of a stored message, which has none of those, the thread in
    which it was published as well.
    `facts` is what views have found out about the document that has changed: for those of one turn, None after it.
    """

    __slots__ = (
        "channel", "epoch", "offset", "key", "user", "time", "data", "tag", "skip", "images", "facts", "_frames",
    )  # fmt: skip

    hidden = False
    """Whether there is nothing to be told of it, only the offset is taken (see amendments.py)."""
    tally = NO_TALLY
    """Of the entries up to this one, where messages have been amended (see amendments.py)."""
    mentions: Sequence[str] = ()
    """Members of the channel, or `*`."""

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
        images: Images | None = None,
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
        self.images = images
        self.facts: Any
        self._frames: dict[Codec, bytes] = {}

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)

    def having(self, channel: str, data: Any, tag: str | None) -> Message:
        """The same message, as a view of its channel shows it."""
        return Message(channel, self.epoch, self.offset, self.key, self.user, self.time, data, tag)

    def push(self) -> Push:
        if not self.offset:
            return EphemeralPush(self.channel, self.user, self.time, self.data, UNSET if self.tag is None else self.tag)
        cursor = f"{self.epoch}:{self.offset}"
        push = MessagePush(self.channel, self.offset, cursor, self.key, self.user, self.time, self.data)
        if self.tag is not None:
            push.thread = self.tag
        return push

    def frame(self, codec: Codec) -> bytes:
        """The framed push. It is made at the first call: subscribers, replays and caches share the same bytes."""
        framed = self._frames.get(codec)
        if framed is None:
            framed = self._frames[codec] = codec.frame_message(self)
        return framed

    def __repr__(self) -> str:
        return f"<message {self.channel} {self.epoch}:{self.offset}>"


class MentioningMessage(Message):
    """One that mentions members of its channel."""

    __slots__ = ("mentions",)

    def push(self) -> MentioningPush:
        cursor = f"{self.epoch}:{self.offset}"
        push = MentioningPush(
            self.channel, self.offset, cursor, self.key, self.user, self.time, self.data, mentions=self.mentions
        )
        if self.tag is not None:
            push.thread = self.tag
        return push


def mentioning(message: Message, mentions: Sequence[str]) -> MentioningMessage:
    """The same, with whom it mentions."""
    made = MentioningMessage(
        message.channel, message.epoch, message.offset, message.key, message.user, message.time, message.data,
        message.tag, message.skip,
    )  # fmt: skip
    made.mentions = mentions
    return made


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


class Change(NamedTuple):
    """A change of a document on its way into the log. `token` sorts as the changes do; `at` is its cluster time."""

    token: str
    at: Any
    key: str
    time: int
    data: dict[str, Any] | None
    """None: the history of the collection is lost up to here, and its channel starts over."""
    images: Images = (None, None)
    size: int = 0


class Tail(NamedTuple):
    """How far the changes of a collection are in the log."""

    position: Position
    token: str
    base: object = None
    """Of the log: the state of the database to which it belongs."""
