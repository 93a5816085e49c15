"""What the server sends of its own accord, and what it answers an error with. docs/protocol.md tells it to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from msgspec import UNSET, Struct, UnsetType

from server.core.errors import Disconnect, Error

Fields = dict[str, Any]
"""What a reply, or an answer over REST, has besides what every one has; or a stored document."""


class Push(Struct, tag_field="type", gc=False):
    """Fields that are UNSET are left out."""


class MessagePush(Push, tag="message"):
    """One message of a durable channel."""

    channel: str
    offset: int
    cursor: str
    key: str
    user: str | None
    time: int
    data: Any
    thread: str | UnsetType = UNSET
    """The one in which it was published as well."""


class MentioningPush(MessagePush, tag="message"):
    """One that mentions members of its channel."""

    mentions: Sequence[str] = ()


class EphemeralPush(Push, tag="message"):
    """One message of an ephemeral channel: neither offset nor cursor, and nothing to ask for again."""

    channel: str
    user: str | None
    time: int
    data: Any
    tag: str | UnsetType = UNSET


class MatchPush(Push, tag="message"):
    """A message that a subscription by pattern brings: of its channel, to whoever has the pattern."""

    channel: str
    pattern: str
    user: str | None
    time: int
    data: Any
    tag: str | UnsetType = UNSET


class GapPush(Push, tag="gap", rename={"first": "from", "last": "to"}):
    """Messages that are gone: `first` to `last`, both inclusive; None: another history altogether (`reason`)."""

    channel: str
    first: int | None
    last: int | None
    cursor: str
    """The position behind it."""
    reason: str | UnsetType = UNSET

    @classmethod
    def trimmed(cls, channel: str, epoch: str, first: int, last: int) -> Self:
        """These are no longer retained."""
        return cls(channel, first, last, f"{epoch}:{last}")

    @classmethod
    def reset(cls, channel: str, epoch: str, offset: int = 0) -> Self:
        """The history of `epoch` has taken the place of the one that was known, and begins behind `offset`."""
        return cls(channel, None, None, f"{epoch}:{offset}", "epoch")


class ProgressPush(Push, tag="progress"):
    """There was much that the view does not show: the position behind it."""

    channel: str
    cursor: str


class SnapshotPush(Push, tag="snapshot"):
    """A page of the documents as they are. With `start` the client drops what it has."""

    channel: str
    documents: list[Fields]
    more: bool
    start: bool | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    """Of the last page: where to go on from."""


class DroppedPush(Push, tag="dropped"):
    """So many ephemeral messages were too much for this client."""

    channel: str
    count: int


class SubscribedPush(Push, tag="subscribed"):
    """The server has subscribed the client: what a reply to `subscribe` says."""

    channel: str
    cursor: str | UnsetType | None = UNSET
    head: str | UnsetType = UNSET
    recovered: bool | UnsetType = UNSET
    grant: str | UnsetType = UNSET
    """With which the client may subscribe by itself on another connection, where its own rights do not reach."""


class UnsubscribedPush(Push, tag="unsubscribed"):
    channel: str
    code: str
    reason: str


class JoinPush(Push, tag="join"):
    channel: str
    user: str
    info: Any = UNSET


class LeavePush(Push, tag="leave"):
    channel: str
    user: str
    info: Any = UNSET


class ClientJoinPush(Push, tag="client_join"):
    """One client has come, where they are told of one by one: never over the native protocol."""

    channel: str
    client: str
    user: str | None
    info: Any
    channel_info: Any


class ClientLeavePush(Push, tag="client_leave"):
    channel: str
    client: str
    user: str | None
    info: Any
    channel_info: Any


class OccupancyPush(Push, tag="occupancy"):
    """How many there are, where they are too many to be named."""

    channel: str
    count: int
    guests: int


class ErrorPush(Push, tag="error"):
    """Answers a command; `id` is the command's, where it has one that can be read."""

    id: int | UnsetType
    code: str
    reason: str
    retry: bool
    retry_after: float | UnsetType = UNSET
    """Seconds."""
    rev: str | UnsetType = UNSET
    details: Any = UNSET

    @classmethod
    def of(cls, identifier: int | None, error: Error) -> Self:
        return cls(
            UNSET if identifier is None else identifier,
            error.code,
            error.reason,
            error.retry,
            UNSET if error.retry_after is None else round(error.retry_after, 3),
            UNSET if error.rev is None else error.rev,
            UNSET if error.details is None else error.details,
        )


class DisconnectPush(Push, tag="disconnect"):
    """The last one: the close frame follows."""

    code: int
    reason: str
    reconnect: bool
    delay: float
    """Seconds to wait before coming back."""

    @classmethod
    def of(cls, reason: Disconnect, delay: float) -> Self:
        return cls(reason.code, reason.reason, reason.reconnect, round(delay, 3))
