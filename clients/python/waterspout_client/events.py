"""What comes from channels, as it is handed to the loop that reads a subscription, and what commands are answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Push: TypeAlias = dict[str, Any]
"""One object from the wire."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """Who has erased a message, and when (milliseconds since 1970)."""

    user: str | None
    time: int


@dataclass(frozen=True, slots=True)
class Reaction:
    """How often a message was reacted to in this way, and by whom: by the first of them, where they are many."""

    kind: str
    count: int
    users: tuple[str, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Reaction:
        return cls(row["k"], row["n"], tuple(row["u"]))


@dataclass(frozen=True, slots=True)
class Replies:
    """What there is in the thread about a message."""

    count: int
    newest: str | None
    """The cursor of the newest, in the thread."""
    users: tuple[str, ...]
    """Who has answered last, in front."""

    @classmethod
    def of(cls, told: Mapping[str, Any] | None) -> Replies | None:
        return cls(told["count"], told["newest"], tuple(told["users"])) if told and told["count"] else None


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Those of ephemeral channels have neither offset, cursor nor key."""

    channel: str
    data: Any
    """Whatever was published: check it."""
    user: str | None
    """None for guests."""
    time: int
    """Milliseconds since 1970, UTC, by the server's clock."""
    offset: int | None = None
    """1, 2, 3… without holes."""
    cursor: str | None = None
    """The position just behind this message."""
    key: str | None = None
    """The publisher's idempotency key."""
    tag: str | None = None
    pattern: str | None = None
    """The one that was subscribed to, if it was one."""
    version: int = 0
    """Where messages can be amended: the offset of the amendment that has made it what it is."""
    edited: bool = False
    deleted: Deleted | None = None
    """It was erased: then `data` is None."""
    pinned: bool = False
    mentions: tuple[str, ...] = ()
    """Members of the channel, or `*`."""
    reactions: tuple[Reaction, ...] = ()
    replies: Replies | None = None
    thread: str | None = None
    """The one that it was published in as well."""

    @classmethod
    def of(cls, push: Mapping[str, Any]) -> Message:
        get = push.get
        gone = get("deleted")
        return cls(
            push["channel"], get("data"), get("user"), get("time", 0),
            get("offset"), get("cursor"), get("key"), get("tag"), get("pattern"), get("version", 0),
            get("edited") is True, None if gone is None else Deleted(gone.get("user"), gone.get("time", 0)),
            get("pinned") is True, tuple(get("mentions", ())), tuple(map(Reaction.of, get("reactions", ()))),
            Replies.of(get("replies")), get("thread"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Amend:
    """Something has become of the message `of`: of an edit `data` is the new data, of an append what comes behind it,
    of a pin whether it is one."""

    channel: str
    of: int
    op: str
    """`edit`, `append`, `delete`, `pin`, `reactions` or `replies`. More may come: ignore what you do not know."""
    data: Any
    user: str | None
    time: int
    offset: int
    cursor: str
    version: int
    """Of the message with this: one that has a newer one already is left alone."""
    key: str | None = None
    part: int | None = None
    """Of an append: the number of the last part in it."""
    done: bool = False
    """Of an append: it was said to be the last."""
    edited: bool = True
    """False: it was appended to, and this is the whole message."""
    reactions: tuple[Reaction, ...] = ()
    """All there are now. Of two counts the one with the higher `at` is right."""
    at: int = 0
    replies: Replies | None = None

    @classmethod
    def from_push(cls, push: Mapping[str, Any]) -> Amend:
        get = push.get
        return cls(
            push["channel"], push["of"], push["op"], get("data"), get("user"), get("time", 0), push["offset"],
            push["cursor"], get("version", push["offset"]), get("key"), get("part"), get("done") is True,
            get("edited") is not False, tuple(map(Reaction.of, get("reactions", ()))), get("at", 0),
            Replies.of(get("replies")),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gap:
    """These messages are gone for good, both ends inclusive. Both None: the cursor belonged to another history
    (`reason` "epoch"), and everything that is retained follows."""

    channel: str
    first: int | None
    last: int | None
    reason: str | None = None
    cursor: str | None = None

    @classmethod
    def of(cls, push: Mapping[str, Any], channel: str) -> Gap:
        return cls(channel, push.get("from"), push.get("to"), push.get("reason"), push.get("cursor"))


@dataclass(frozen=True, slots=True)
class Dropped:
    """So many messages (or joins and leaves) of an ephemeral channel came too fast, for the connection or for the loop
    that reads them."""

    channel: str
    count: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A member has read up to the message at `offset`, where the namespace has receipts."""

    channel: str
    user: str
    offset: int


@dataclass(frozen=True, slots=True)
class Live:
    """Caught up: all that was there when the subscription began, or came back, has been handed on. (A `where` or one
    document is only a view of a log, and live at once.)"""

    channel: str
    resumed: bool
    """Not the first time: the connection was lost in between, or the loop that reads was slower than the channel. Of an
    ephemeral channel messages may be missing then, of any channel joins and leaves."""


@dataclass(frozen=True, slots=True)
class Join:
    channel: str
    user: str | None
    info: Any = None


@dataclass(frozen=True, slots=True)
class Leave:
    channel: str
    user: str | None
    info: Any = None


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How many are there, instead of joins and leaves where there are very many."""

    channel: str
    count: int
    guests: int = 0


Event: TypeAlias = Message | Amend | Gap | Dropped | Live | Join | Leave | Occupancy | Receipt
"""More kinds may come: ignore what you do not know."""


@dataclass(frozen=True, slots=True)
class Published:
    """The message is stored (an ephemeral one: passed on; it has none of these but the channel)."""

    channel: str
    offset: int | None = None
    cursor: str | None = None
    key: str | None = None
    duplicate: bool = False
    """An earlier attempt, or somebody else with the same key, had stored it."""
    scheduled: str | None = None
    """It is published later: for `Client.cancel`."""
    at: float | None = None

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Published:
        get = reply.get
        known = get("offset"), get("cursor"), get("key"), get("duplicate") is True, get("scheduled"), get("at")
        return cls(reply["channel"], *known)


@dataclass(frozen=True, slots=True)
class Reacted:
    """How it is now. Counts with this `at`, or a higher one, have it."""

    channel: str
    of: int
    kind: str
    on: bool
    at: int

    @classmethod
    def of_reply(cls, reply: Mapping[str, Any]) -> Reacted:
        return cls(reply["channel"], reply["of"], reply["kind"], reply["on"], reply["at"])


@dataclass(frozen=True, slots=True)
class Results:
    """Messages that were found, newest first."""

    messages: list[Message]
    cursor: str | None
    """To go on with, as `after`."""
    more: bool

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Results:
        return cls([Message.of(push) for push in reply["messages"]], reply["cursor"], reply["more"])


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the past, oldest first."""

    messages: list[Message]
    cursor: str
    """To go on with, as `after` or `before`."""
    head: str | None
    more: bool
    """Whether there is more the way of reading."""
    gap: Gap | None
    amends: list[Amend] = field(default_factory=list)
    """With `after`: what became of older messages."""
    mine: dict[int, list[str]] | None = None
    """Where there are reactions: one's own, by the offset of the message."""

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Page:
        gap = reply.get("gap")
        return cls(
            [Message.of(push) for push in reply["messages"]], reply["cursor"], reply.get("head"), reply["more"],
            Gap.of(gap, reply["channel"]) if gap else None, [Amend.from_push(push) for push in reply.get("amends", [])],
            {int(offset): kinds for offset, kinds in reply["mine"].items()} if "mine" in reply else None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class User:
    user: str | None
    sessions: int
    info: Any = None


@dataclass(frozen=True, slots=True)
class Presence:
    users: list[User]
    count: int
    """Of users; where there are very many, the list is left empty."""
    guests: int = 0

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Presence:
        users = [User(one.get("user"), one.get("sessions", 1), one.get("info")) for one in reply.get("users", [])]
        return cls(users, reply.get("count", len(users)), reply.get("guests", 0))
