"""Puts one channel back in order: what the broker carried comes out as 1, 2, 3… without holes or duplicates.

The broker is fast but may lose, double and reorder; the log has everything. So: the next offset is delivered, an old
one dropped, and for one beyond the next we wait a moment (reordering between nodes is normal) and then read what is
missing from the log. A tail that is lost altogether is found when somebody says how far the log reaches
(`note_head`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from server.core.cursors import MAX_OFFSET, Position
from server.core.errors import Error
from server.core.tasks import Keeper
from server.wire.messages import Message, Page

logger = logging.getLogger(__name__)

CAUSES: Final = ("hole", "announced", "sweep")
"""What shows that something is missing: a message beyond it, another's word, or a look at the log."""

NOT_STARTED: Final = Position("", -1)
"""In front of whatever a log has."""
REORDER_SECONDS: Final = 0.05
EARLY_MESSAGES: Final = 1000
"""Messages held back beyond a hole; what comes after them is read from the log instead."""
PHANTOM_READS: Final = 6
"""Reads in vain (3 s of them) before a claimed head is checked, and forgotten if the log does not have it."""


class Sequencer:
    """`read(channel, after, upto)` is the log's: nothing that it answers is of another epoch than `after`.
    `deliver(messages)` and `lost(channel, epoch, first, last)` lead to the hub; `lost` tells of offsets that are not
    retained any more, or (None, None) of another history."""

    __slots__ = (
        "channel", "position", "_read", "_confirmed_head", "_deliver", "_lost", "_early", "_target", "_repairs",
        "_keeper", "_cause", "_filling", "_waiting", "_first_read",
    )  # fmt: skip

    def __init__(
        self,
        channel: str,
        *,
        read: Callable[[str, Position, int], Awaitable[Page]],
        confirmed_head: Callable[[str], Awaitable[int]],
        deliver: Callable[[list[Message]], None],
        lost: Callable[[str, str, int | None, int | None], None],
        repairs: Counter[str],
        keeper: Keeper,
    ) -> None:
        self.channel = channel
        self.position = NOT_STARTED
        """Up to where everything has been delivered."""
        self._read = read
        self._confirmed_head = confirmed_head
        self._deliver = deliver
        self._lost = lost
        self._early: dict[int, Message] = {}
        self._target = 0
        self._repairs = repairs
        """Of the whole node, by cause."""
        self._keeper = keeper
        self._cause = "hole"
        self._filling: asyncio.Task[None] | None = None
        self._waiting: list[tuple[int, asyncio.Future[None]]] | None = None
        self._first_read = False
        """Nothing of a new history has been read yet, so nobody knows anything of it that could be lost."""

    def start(self, head: Position) -> None:
        """Deliver from behind `head` on."""
        self.position = head
        self._target = max(self._target, head.offset)
        self._deliver_early()
        self._repair()

    def offer(self, messages: list[Message]) -> None:
        """Contiguous messages of this channel, as the broker carried them."""
        epoch, last = self.position.epoch, self.position.offset
        first = messages[0].offset
        if first == last + 1 and messages[0].epoch == epoch:
            self._advance(messages)
            if self._early:
                self._deliver_early()
        elif last < 0 or (messages[0].epoch == epoch and messages[-1].offset > last):
            for message in messages:
                if message.offset > last and len(self._early) < EARLY_MESSAGES:
                    self._early[message.offset] = message
            self._target = max(self._target, messages[-1].offset)
            self._cause = "hole"
            if last >= 0:
                self._deliver_early()
                self._repair()

    def note_head(self, head: Position, cause: str = "announced", *, at_once: bool = False) -> None:
        """The log reaches `head`: whatever is missing up to there is read, after the moment that reordering takes.

        A head of another epoch is not believed here; see `restart`.
        """
        if self.position.offset >= 0 and head.epoch == self.position.epoch and head.offset > self._target:
            self._target = head.offset
            self._cause = cause
        self._repair(0.0 if at_once else REORDER_SECONDS)

    def restart(self, head: Position) -> None:
        """The channel has another history now: tell everybody, and deliver all that it retains."""
        logger.warning("%s: epoch %s became %s", self.channel, self.position.epoch, head.epoch)
        self.close()
        waiting, self._waiting = self._waiting, None
        for _, future in waiting or ():  # for an offset of a history that is gone
            if not future.done():
                future.set_result(None)
        self._lost(self.channel, head.epoch, None, None)
        self._target = head.offset
        self._first_read = True
        self.start(Position(head.epoch, 0))

    async def wait_until_delivered(self, offset: int) -> None:
        """Return once everything up to `offset` has been delivered."""
        if self.position.offset < offset:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._waiting is None:
                self._waiting = []
            self._waiting.append((offset, future))
            await future

    def close(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            self._filling = None
        self._early.clear()

    def _advance(self, messages: list[Message]) -> None:
        self._deliver(messages)
        self._move(messages[-1].offset)

    def _move(self, offset: int) -> None:
        self.position = Position(self.position.epoch, offset)
        if self._waiting:
            for wanted, future in self._waiting:
                if wanted <= offset and not future.done():
                    future.set_result(None)
            self._waiting = [waiting for waiting in self._waiting if waiting[0] > offset] or None

    def _deliver_early(self) -> None:
        if not self._early:
            return
        run: list[Message] = []
        offset = self.position.offset
        for stale in [early for early in self._early if early <= offset]:
            del self._early[stale]
        while (message := self._early.pop(offset + 1, None)) is not None:
            if message.epoch != self.position.epoch:
                continue
            run.append(message)
            offset += 1
        if run:
            self._advance(run)

    def _repair(self, delay: float = REORDER_SECONDS) -> None:
        if 0 <= self.position.offset < self._target and self._filling is None:
            self._filling = self._keeper.spawn(f"fill {self.channel}", self._fill(delay))
            self._filling.add_done_callback(self._filled)

    def _filled(self, task: asyncio.Task[None]) -> None:
        if self._filling is task:
            self._filling = None
        if not task.cancelled() and task.exception() is None:
            self._repair()  # for a hole that showed while the task was ending

    async def _fill(self, delay: float) -> None:
        """Read what is missing up to the target: one task at a time, never skipping."""
        await asyncio.sleep(delay)
        in_vain = 0
        while self.position.offset < self._target:
            before = self.position
            self._repairs[self._cause] += 1
            try:
                # Up to the first message that is here already: it need not be read again.
                page = await self._read(self.channel, before, min(self._early, default=MAX_OFFSET))
                self._take(page)
                if self.position.offset > before.offset:
                    in_vain = 0
                    continue
                in_vain += 1
                if in_vain >= PHANTOM_READS:
                    await self._check_target()
                    in_vain = 0
            except Error as error:
                in_vain = 0
                logger.warning("%s: cannot repair yet: %s", self.channel, error.reason)
            await asyncio.sleep(min(1.0, REORDER_SECONDS * 2**in_vain))

    def _take(self, page: Page) -> None:
        last = self.position.offset
        if page.gap is not None and page.gap[1] > last:
            if not self._first_read:
                self._lost(self.channel, self.position.epoch, last + 1, page.gap[1])
            self._move(page.gap[1])
        self._first_read = False
        messages = [message for message in page.messages if message.offset > self.position.offset]
        if messages and messages[0].offset == self.position.offset + 1:
            self._advance(messages)
        self._deliver_early()

    async def confirmed_head(self) -> int:
        """The newest offset that the log has; see `Reader.confirmed_head`."""
        return await self._confirmed_head(self.channel)

    async def _check_target(self) -> None:
        head = await self.confirmed_head()
        if self.position.offset < self._target and head < self._target:
            logger.warning("%s: offset %d was announced, but the log ends at %d", self.channel, self._target, head)
            self._target = head
            self._early = {offset: message for offset, message in self._early.items() if offset <= head}
