"""Publishes that have no answer yet: how many there may be, what each is answered, and when at the latest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from msgspec import Struct

from server.core.clock import Clock
from server.core.cursors import NO_TALLY, Position
from server.core.errors import Error
from server.core.histogram import Histogram
from server.core.names import thread_of
from server.log import rows
from server.log.rows import Row
from server.log.words import words_of
from server.wire.amendments import AmendedMessage, Op, amended_message, amendment
from server.wire.messages import Message, mentioning

QUEUE_MESSAGES: Final = 20_000
QUEUE_BYTES: Final = 64 << 20
_EXPIRE_EVERY: Final = 0.1


class Receipt(Struct, frozen=True, gc=False):
    """The answer to a publish: where the message is. `duplicate`: an earlier publish with the same key put it there."""

    position: Position
    key: str
    duplicate: bool

    def fields(self) -> dict[str, Any]:
        """As a reply tells it."""
        return {
            "offset": self.position.offset,
            "cursor": str(self.position),
            "key": self.key,
            "duplicate": self.duplicate,
        }


def key_taken() -> Error:
    return Error("conflict", "key: another message of this channel has it already")


class PendingPublish:
    """A publish on its way into the log: an `entry` of its queues. It is answered when `future` is done: then it is
    out of every queue, and must not be written any more."""

    __slots__ = ("user", "key", "data", "skip", "size", "time", "deadline", "future", "attempts", "in_doubt", "tally")

    amends = False
    """Whether it is no message of its own, but about another one."""

    def __init__(
        self, user: str | None, key: str, data: Any, skip: str | None, size: int, time: int, deadline: float,
        future: asyncio.Future[Receipt],
    ) -> None:  # fmt: skip
        self.user = user
        self.key = key
        self.data = data
        self.skip = skip
        self.size = size
        self.time = time
        self.deadline = deadline
        self.future = future
        # The offsets it may have been stored at: what is found there with our key is ours, not a duplicate.
        self.attempts: list[int] = []
        self.in_doubt = False
        self.tally = NO_TALLY
        """As it was numbered last."""

    def row(self, channel: str, epoch: str, offset: int) -> Row:
        """As it is stored. Raises Error if it cannot be any more."""
        return rows.row(channel, epoch, offset, self.user, self.key, self.time, self.data)

    def message(self, channel: str, epoch: str, offset: int) -> Message:
        """As it goes to subscribers."""
        message = Message(channel, epoch, offset, self.key, self.user, self.time, self.data, skip=self.skip)
        return amended_message(message, self.tally) if self.tally.amendments else message

    def is_own(self, stored: Row) -> bool:
        """Whether what is stored under its key, at an offset that it was sent for, is this very entry."""
        return bool(stored["t"] == self.time)

    def matches(self, stored: Row) -> bool:
        """Whether what is stored under its key is the same."""
        return rows.is_same(stored, self.data)


class PendingMarkedPublish(PendingPublish):
    """One of which more is stored than who says what. `by_server`: a back end's, where messages can be amended: theirs
    is not whoever's has the same name. `searched`: it is found by its words."""

    __slots__ = ("by_server", "mentions", "searched", "root")

    by_server: bool
    mentions: Sequence[str]
    searched: bool
    root: int
    """Of what was published in the thread about a message as well: that message's offset."""

    def row(self, channel: str, epoch: str, offset: int) -> Row:
        row = super().row(channel, epoch, offset)
        if self.by_server:
            row["s"] = 1
        if self.mentions:
            row["mentions"] = list(self.mentions)
        if self.searched:
            row["ws"] = words_of(self.data)
        if self.root:
            row["th"] = self.root
        return row

    def message(self, channel: str, epoch: str, offset: int) -> Message:
        message = super().message(channel, epoch, offset)
        if self.root:
            message.tag = thread_of(channel, self.root)
        if not self.mentions:
            return message
        if isinstance(message, AmendedMessage):
            message.mentions = self.mentions
            return message
        return mentioning(message, self.mentions)


class PendingAmendment(PendingPublish):
    """An amendment of the message `of` of the history `epoch`, on its way into the log."""

    __slots__ = ("of", "op", "epoch")

    amends = True
    of: int
    op: Op
    epoch: str

    def row(self, channel: str, epoch: str, offset: int) -> Row:
        if epoch != self.epoch:
            raise Error("not_found", "the channel has another history now")
        return rows.amendment_row(channel, epoch, offset, self.user, self.key, self.time, self.of, self.op, self.data)

    def message(self, channel: str, epoch: str, offset: int) -> Message:
        message = Message(channel, epoch, offset, self.key, self.user, self.time, self.data)
        return amendment(message, self.of, self.op, self.tally)

    def matches(self, stored: Row) -> bool:
        if (stored.get("z"), stored.get("op")) != (self.of, self.op):
            return False
        if self.op == "pin":
            return bool(stored["pin"] == self.data)
        return "p" not in stored or self.op != "edit" or rows.same(rows.data_of(stored), self.data)


class PendingAppend(PendingAmendment):
    """Some of what is appended to a message (appends.py). Its key is its place in the chain of them, so whatever else
    has it is another one: of two nodes that write there at the same moment, `nonce` tells which of them it was."""

    __slots__ = ("by", "parts", "keys", "done", "nonce")

    by: str | None
    parts: list[int] | None
    """The first and the last, if they have numbers."""
    keys: list[str]
    done: bool
    nonce: str

    def row(self, channel: str, epoch: str, offset: int) -> Row:
        row = super().row(channel, epoch, offset) | {"by": self.by, "nonce": self.nonce}
        if self.parts is not None:
            row["n"] = self.parts
        if self.keys:
            row["ks"] = self.keys
        return row | {"fin": 1} if self.done else row

    def message(self, channel: str, epoch: str, offset: int) -> Message:
        message = Message(channel, epoch, offset, self.key, self.by, self.time, self.data)
        made = amendment(message, self.of, self.op, self.tally)
        made.part = None if self.parts is None else self.parts[1]
        made.done = self.done
        return made

    def is_own(self, stored: Row) -> bool:
        return stored.get("nonce") == self.nonce

    def matches(self, stored: Row) -> bool:
        return False


E = TypeVar("E", bound=PendingPublish)


class Pending:
    """The publishes that wait in all shards. `timeout`: seconds until each of them is answered."""

    def __init__(self, timeout: float, clock: Clock) -> None:
        self._timeout = timeout
        self._clock = clock
        self._entries: deque[PendingPublish] = deque()
        self.messages = 0
        self.bytes = 0
        self.seconds = Histogram(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

    def add(
        self, user: str | None, key: str, data: Any, size: int, skip: str | None,
        kind: type[E] = PendingPublish,  # type: ignore[assignment]
        *, patient: bool = False,
    ) -> E:  # fmt: skip
        """A new entry, or `unavailable` if there are too many. `size`: bytes of the encoded data. `patient`: without a
        deadline; whoever asks cancels the future, if need be."""
        if self.messages >= QUEUE_MESSAGES or self.bytes + size > QUEUE_BYTES:
            raise Error("unavailable", "too many messages are waiting to be stored", retry_after=1.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Receipt] = loop.create_future()
        entry = kind(user, key, data, skip, size, self._clock.now_ms(), loop.time() + self._timeout, future)
        self.messages += 1
        self.bytes += size
        if not patient:
            self._entries.append(entry)
        return entry

    def settle(self, entry: PendingPublish, receipt: Receipt) -> None:
        """It is stored."""
        self.drop(entry)
        self.seconds.observe(asyncio.get_running_loop().time() - entry.deadline + self._timeout)
        if not entry.future.done():
            entry.future.set_result(receipt)

    def fail(self, entry: PendingPublish, error: Error) -> None:
        """It will not be stored, or nobody knows: `error` says which."""
        self.drop(entry)
        if not entry.future.done():
            entry.future.set_exception(error)
            entry.future.exception()  # the asker may be gone; that is not worth a warning

    def drop(self, entry: PendingPublish) -> None:
        """It does not wait any more. Twice is fine."""
        if entry.size >= 0:
            self.messages -= 1
            self.bytes -= entry.size
            entry.size = -1

    async def expire(self) -> None:
        """For ever: answer what has come to its deadline."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_EXPIRE_EVERY)
            now = loop.time()
            while self._entries and (self._entries[0].future.done() or self._entries[0].deadline <= now):
                self._refuse(self._entries.popleft())

    async def drain(self) -> None:
        """Wait until everything is answered (its deadline, at the latest)."""
        while self._entries:
            entry = self._entries[0]
            await asyncio.wait((entry.future,))
            if self._entries and self._entries[0] is entry:
                self._entries.popleft()

    def close(self) -> None:
        """Nothing is written any more: answer whatever still waits."""
        while self._entries:
            self._refuse(self._entries.popleft())

    def _refuse(self, entry: PendingPublish) -> None:
        if entry.future.done():
            self.drop(entry)  # whoever asked has given up
        elif entry.attempts or entry.in_doubt:
            text = "the message may or may not be stored: retry with the same key"
            self.fail(entry, Error("outcome_unknown", text))
        else:
            self.fail(entry, Error("unavailable", "the message could not be stored in time", retry_after=1.0))
