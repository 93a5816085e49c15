"""One channel of one consumer, as the node has it that delivers it."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import Final, Literal

from server.consumers.batches import EPOCH_GAP, Batch, compose
from server.consumers.cursors import Failure
from server.consumers.events import Wanted
from server.consumers.leases import group_of
from server.core.cursors import Position
from server.core.errors import Error
from server.core.names import is_thread
from server.log.log import Log
from server.wire.messages import Message
from server.wire.rest import Gap

Place = Literal["idle", "ready", "running", "waiting"]

PAGE: Final = 100
"""Messages that are read together at least. Not many more than a batch: while MongoDB's driver takes a page apart,
nothing else of this process runs, and while MongoDB makes one, others' reads and writes wait for the core."""


class Channel:
    """Its cursor (`cursors.Moving`), what was read behind it, and where it stands in the schedule (schedule.py)."""

    __slots__ = (
        "consumer", "channel", "group", "position", "failure", "stored", "settings", "fence", "dirty",
        "head", "buffer", "read", "gap", "batch", "oldest", "place", "stale", "_wanted",
    )  # fmt: skip

    def __init__(
        self, consumer: str, channel: str, position: Position, head: Position, fence: int, wanted: Wanted
    ) -> None:
        self.consumer = consumer
        self._wanted = wanted
        self.channel = channel
        self.group = group_of(channel)
        self.position = position
        self.failure: Failure | None = None
        self.stored: Position | None = None
        self.settings = 0
        self.fence = fence
        self.dirty = False
        self.head = head
        """How far the channel reaches, as far as is known."""
        self.buffer: deque[Message] = deque()
        self.read = position
        """Up to where it was read."""
        self.gap: Gap | None = None
        """In front of what is in the buffer."""
        self.batch: Batch | None = None
        """What is delivered next: the same one until it is."""
        self.oldest = 0
        """The time of the first message that is not delivered; 0: it is not known."""
        self.place: Place = "idle"
        self.stale = False
        """Somebody else has moved the cursor, or it is another node's now: to be dropped as soon as nothing runs."""

    @property
    def lags(self) -> bool:
        return bool(self.batch or self.gap or self.buffer) or is_behind(self.position, self.head)

    def far_behind(self, most: int) -> bool:
        """By more than a batch of so many messages."""
        return self.head.offset - self.position.offset > most

    async def next(self, log: Log, most: int, reading: asyncio.Lock) -> Batch | None:
        """What is to be delivered next, with at most so many messages; None: nothing, for now. `unavailable` if it
        cannot be read at the moment. `reading`: held while a large page is read."""
        if self.batch is None and self.lags:
            if not self.buffer and self.gap is None:
                if self.far_behind(most):
                    async with reading:
                        await self._fill(log, most)
                else:
                    await self._fill(log, most)
            if self.buffer or self.gap is not None:
                messages = list(islice(self.buffer, most))
                batch = compose(self.consumer, self.channel, messages, self.gap, self.read, most)
                # What is behind the last of them, and is not to be told, is done with it.
                whole = batch.messages == len(self.buffer)
                self.batch = batch._replace(position=self.read) if whole else batch
                if messages:
                    self.oldest = messages[0].time
        return self.batch

    async def _fill(self, log: Log, most: int) -> None:
        if self.read.epoch != self.head.epoch:
            # Whoever has told of the head may be wrong, or late. The log is not.
            self.head = (await log.head(self.channel)).position
            if self.head.epoch != self.read.epoch:
                self.gap, self.read = EPOCH_GAP, Position(self.head.epoch, 0)
        page = await log.read(self.channel, self.read, limit=max(most, PAGE))
        if page.gap is not None:
            self.gap = self.gap or {"from": page.gap[0], "to": page.gap[1]}
            self.read = Position(self.read.epoch, page.gap[1])
        if page.messages:
            self.buffer.extend(filter(self._wanted.wants, page.messages))
            self.read = page.messages[-1].position
        elif self.gap is None:
            told, self.head = self.head, (await log.head(self.channel)).position
            if is_behind(self.read, self.head):
                raise Error("unavailable", "messages that are there could not be read yet")
            if is_thread(self.channel) and not self.head.offset and is_behind(self.read, told):
                # It has ended with the message that it was about, and nothing of it is left.
                self.gap, self.read = {"from": self.read.offset + 1, "to": told.offset}, told
        if not self.buffer and self.gap is None:
            self.position = self.read  # nothing of it is to be told

    def advance(self, batch: Batch) -> None:
        """What is in the batch is delivered, or as good as that."""
        self.batch = self.gap = self.failure = None
        for _ in range(batch.messages):
            self.buffer.popleft()
        self.position = batch.position
        if self.buffer:
            self.oldest = self.buffer[0].time


def is_behind(position: Position, head: Position) -> bool:
    return position.epoch != head.epoch or position.offset < head.offset
