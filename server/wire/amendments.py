"""Messages that can be edited, appended to, erased, pinned and reacted to, and the entries of the log that say so.

An amendment is an entry of its channel like a message: it has an offset and a cursor, and who resumes behind it has it.
It is a push of a type of its own, so that who does not know it never shows an edit as a message. The original says what
has become of it, wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple

from msgspec import UNSET, Meta, Struct, UnsetType

from server.core.cursors import NO_TALLY, Tally
from server.wire.codec import Codec
from server.wire.messages import Message
from server.wire.pushes import Fields, MessagePush, Push

Op = Literal["edit", "append", "delete", "pin", "reactions", "replies"]
CONTENT: Final = ("edit", "append", "delete")
"""Operations of which only the last one is told: they are about the same thing."""
SUMMARIES: Final[tuple[Op, ...]] = ("reactions", "replies")
"""What the server itself says of a message, from time to time: how much there is of something. On the wire the field
with it has the same name."""
TEXT: Final = "text"
"""The member that is appended to where a message is an object."""


def appended(data: Any, text: str) -> Any:
    """The data of a message with a text behind it: behind itself if it is a string, behind its member `text` if it is
    an object that has one. None: there is nothing to append to."""
    if isinstance(data, str):
        return data + text
    if isinstance(data, dict) and isinstance(data.get(TEXT), str):
        return data | {TEXT: data[TEXT] + text}
    return None


class Summary(NamedTuple):
    """What was counted. Of two the one with the higher `at` is right, in whichever order they come: it is MongoDB's
    cluster time (server/mongo/cluster_time.py), and all that was written up to then has been counted."""

    value: Any
    at: int


NO_REPLIES: Final[Mapping[str, Any]] = {"count": 0, "newest": None, "users": []}
"""What there is of replies when all are erased."""
NO_SUMMARIES: Final[Mapping[str, Summary]] = MappingProxyType({})


class Deletion(NamedTuple):
    """Who has erased a message, and when (milliseconds since 1970, UTC)."""

    offset: int
    user: str | None
    time: int

    def fields(self) -> Fields:
        return {"user": self.user, "time": self.time}


class Reaction(Struct):
    """How often a message was reacted to in this way, and by whom: by the first of them, where they are many."""

    k: Annotated[str, Meta(description="The kind, such as an emoji", examples=["👍"])]
    n: int
    u: Annotated[list[str], Meta(description="The first who have reacted so, 20 at most")]


class Replies(Struct):
    """What there is in the thread about a message."""

    count: int
    newest: str | None
    """The cursor of the newest, in the thread."""
    users: Annotated[list[str], Meta(description="Who has answered, the last one first, 20 at most")]


class AmendedMessagePush(MessagePush, tag="message"):
    """A message in a channel where messages can be amended."""

    version: int | UnsetType = UNSET
    """The offset of the amendment that has made it what it is."""
    edited: bool | UnsetType = UNSET
    deleted: Fields | UnsetType = UNSET
    """{"user", "time"}: who has erased it, and when. Then there is no data any more."""
    pinned: bool | UnsetType = UNSET
    reactions: list[Reaction] | UnsetType = UNSET
    replies: Replies | UnsetType = UNSET
    mentions: Sequence[str] | UnsetType = UNSET
    """Members of the channel, or `*`."""


class AmendPush(Push, tag="amend"):
    """Something has become of the message `of`."""

    channel: str
    offset: int
    cursor: str
    of: int
    op: str
    key: str
    user: str | None
    time: int
    version: int
    """Of the message with this: a client that has a newer one already leaves it alone."""
    data: Any = UNSET
    part: int | UnsetType = UNSET
    """Of an append: the number of the last part that is in it."""
    done: bool | UnsetType = UNSET
    """Of an append: it was said to be the last one."""
    edited: bool | UnsetType = UNSET
    """False where the whole message is told because it was appended to: nobody has edited it."""
    reactions: list[Reaction] | UnsetType = UNSET
    """All there are now."""
    replies: Replies | UnsetType = UNSET
    at: int | UnsetType = UNSET
    """Of `reactions` and the like: the one with the higher `at` is right."""


class Counted(Message):
    """An entry of a channel that has amendments."""

    __slots__ = ("tally",)

    tally: Tally


class AmendedMessage(Counted):
    """A message there, as it is now. `version`: the offset of the last edit or append that is in it, 0: none;
    `pin_version`: of the last word about whether it is pinned."""

    __slots__ = ("version", "edited", "deleted", "pinned", "pin_version", "by_server", "summaries", "mentions")

    version: int
    edited: bool
    deleted: Deletion | None
    pinned: bool
    pin_version: int
    by_server: bool
    """A back end has published it."""
    summaries: Mapping[str, Summary]
    """By operation."""

    def push(self) -> AmendedMessagePush:
        push = AmendedMessagePush(
            self.channel, self.offset, f"{self.epoch}:{self.offset}", self.key, self.user, self.time, self.data
        )
        if self.tag is not None:
            push.thread = self.tag
        if self.deleted is not None:
            push.version = self.deleted.offset
            push.deleted = self.deleted.fields()
            push.data = None
            return push
        if self.version:
            push.version = self.version
        if self.edited:
            push.edited = True
        if self.pinned:
            push.pinned = True
        for op, summary in self.summaries.items():
            if summary.value and summary.value != NO_REPLIES:
                setattr(push, op, summary.value)
        if self.mentions:
            push.mentions = self.mentions
        return push

    def amended(self, amendment: Amendment) -> AmendedMessage:
        """The message with an amendment that is not folded into it yet; itself, if it knows better already."""
        if amendment.of != self.offset:
            return self
        if amendment.op == "delete" and (self.deleted is None or amendment.offset < self.deleted.offset):
            gone = Deletion(amendment.offset, amendment.user, amendment.time)
            return self._as(data=None, deleted=gone, pinned=False, summaries=NO_SUMMARIES, mentions=())
        if self.deleted is not None:
            return self
        if amendment.op == "edit" and amendment.offset > self.version:
            return self._as(data=amendment.data, version=amendment.offset, edited=True)
        if amendment.op == "append" and amendment.offset > self.version:
            data = appended(self.data, amendment.data)
            return self._as(data=self.data if data is None else data, version=amendment.offset)
        if amendment.op == "pin" and amendment.offset > self.pin_version:
            return self._as(pinned=amendment.data, pin_version=amendment.offset)
        if amendment.op in SUMMARIES:
            new = Summary(*amendment.data)
            known = self.summaries.get(amendment.op)
            if known is None or new.at > known.at:
                return self._as(summaries={**self.summaries, amendment.op: new})
        return self

    def _as(self, **changed: Any) -> AmendedMessage:
        copy = amended_message(
            Message(self.channel, self.epoch, self.offset, self.key, self.user, self.time, self.data, self.tag)
        )
        for name in ("tally", *AmendedMessage.__slots__):
            setattr(copy, name, getattr(self, name))
        for name, value in changed.items():
            setattr(copy, name, value)
        return copy


def amended_message(message: Message, tally: Tally = NO_TALLY) -> AmendedMessage:
    """The same, where it can be amended."""
    amended = AmendedMessage(
        message.channel, message.epoch, message.offset, message.key, message.user, message.time, message.data,
        message.tag, message.skip,
    )  # fmt: skip
    amended.tally = tally
    amended.version = amended.pin_version = 0
    amended.deleted = None
    amended.edited = amended.pinned = amended.by_server = False
    amended.summaries = NO_SUMMARIES
    amended.mentions = message.mentions
    return amended


class Amendment(Counted):
    """An entry that says what becomes of the message `of`. `data`: of an edit the new data, of an append what comes
    behind it (several parts in one, of which `part` is the last; `done`: the last of all), of a pin whether it is one,
    of a summary (value, at). `pending`: it is not folded into the message yet, so it has its data itself. `hidden`:
    there is nothing to be told of it any more, only the offset is taken."""

    __slots__ = ("of", "op", "version", "pending", "hidden", "part", "done", "edited")

    of: int
    op: Op
    version: int
    pending: bool
    hidden: bool
    part: int | None
    done: bool
    edited: bool

    def push(self) -> AmendPush:
        cursor = f"{self.epoch}:{self.offset}"
        push = AmendPush(
            self.channel, self.offset, cursor, self.of, self.op, self.key, self.user, self.time, self.version
        )
        if self.op in SUMMARIES:
            value, push.at = self.data
            setattr(push, self.op, value)
        elif self.op != "delete":
            push.data = self.data
        if self.part is not None:
            push.part = self.part
        if self.done:
            push.done = True
        if self.op == "edit" and not self.edited:
            push.edited = False
        return push

    def frame(self, codec: Codec) -> bytes:
        return b"" if self.hidden else super().frame(codec)

    def hiding(self) -> Amendment:
        return self._as(None, self.version, self.op, True)

    def showing(self, message: AmendedMessage) -> Amendment:
        """What was counted last; or an edit to what the message is by now: who was away may have missed any of what was
        appended."""
        if self.op in SUMMARIES:
            summary = message.summaries.get(self.op)
            return self.hiding() if summary is None else self._as(summary, self.version, self.op, False)
        shown = self._as(message.data, message.version, "edit", False)
        shown.edited = message.edited
        return shown

    def _as(self, data: Any, version: int, op: Op, hidden: bool) -> Amendment:
        return amendment(
            Message(self.channel, self.epoch, self.offset, self.key, self.user, self.time, data),
            self.of, op, self.tally, pending=self.pending, version=version, hidden=hidden,
        )  # fmt: skip


def amendment(
    message: Message, of: int, op: Op, tally: Tally = NO_TALLY, *, pending: bool = True, version: int = 0,
    hidden: bool = False,
) -> Amendment:  # fmt: skip
    """`message`: its place in the log, who and when, and its data."""
    made = Amendment(
        message.channel, message.epoch, message.offset, message.key, message.user, message.time, message.data
    )
    made.tally = tally
    made.of = of
    made.op = op
    made.version = version or message.offset
    made.pending = pending
    made.hidden = hidden
    made.part = None
    made.done = False
    made.edited = True
    return made
