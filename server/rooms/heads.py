"""How far the rooms reach that somebody here watches: it follows the heads that every node announces once a second, and
tells each step to all who watch, in the same bytes for everybody.

A step is taken in one go: what has been told of a channel is always what `at` says. So a row that was read for the same
head as that can be told at that moment, and nothing of the step before or behind it is missing or counted twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Protocol

from server.core.cursors import Position, Tally
from server.core.errors import Error
from server.core.tasks import Keeper
from server.log.counts import Count, Counts
from server.wire.codec import Codec
from server.wire.rooms import ActivityPush

logger = logging.getLogger(__name__)

GATHER: Final = 0.1
"""Seconds in which what several nodes announce is told together."""
AGAIN_AFTER: Final = 1.0


class Watcher(Protocol):
    """Whoever sees rooms."""

    @property
    def codec(self) -> Codec: ...

    def active(self, channel: str, frame: bytes) -> None:
        """Something has come in a room: a frame of `codec`."""

    def restarted(self, channel: str) -> None:
        """The room has another history now."""


class Heads:
    def __init__(self, keeper: Keeper, counts: Counts) -> None:
        self._keeper = keeper
        self._counts = counts
        self._watchers: dict[str, set[Watcher]] = {}
        self._at: dict[str, Count] = {}
        """What the watchers have been told of each channel; nothing of those that nobody watches."""
        self._news: dict[str, tuple[Position, Tally]] = {}
        self._stepping = asyncio.Lock()
        self._due = False

    # --- who watches --------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> list[str]:
        return list(self._watchers)

    def at(self, channel: str) -> Count | None:
        """What has been told of a channel that is watched."""
        return self._at.get(channel)

    def watch(self, channel: str, watcher: Watcher) -> None:
        """Twice is fine."""
        self._watchers.setdefault(channel, set()).add(watcher)

    def leave(self, channel: str, watcher: Watcher) -> None:
        """Twice is fine."""
        watchers = self._watchers.get(channel)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[channel]
                self._at.pop(channel, None)

    # --- what is new --------------------------------------------------------------------------------------------------

    def note(self, channel: str, head: Position, tally: Tally) -> None:
        """Somebody announces that the channel reaches `head`."""
        if channel not in self._watchers:
            return
        at = self._at.get(channel)
        if at is not None and at.head.epoch == head.epoch and at.head.offset >= head.offset:
            return
        known = self._news.get(channel)
        if known is None or known[0].epoch != head.epoch or known[0].offset < head.offset:
            self._news[channel] = head, tally
        if not self._due:
            self._due = True
            self._later(GATHER)

    def _later(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, lambda: self._keeper.spawn("rooms", self._tell_news()))

    async def _tell_news(self) -> None:
        self._due = False
        news, self._news = self._news, {}
        steps: dict[str, Count] = {}
        unsure: list[str] = []
        for channel, (head, tally) in news.items():
            at = self._at.get(channel)
            if at is None or at.head.epoch != head.epoch:
                unsure.append(channel)
                continue
            newest = tally.newest if tally.amendments else head.offset
            steps[channel] = at._replace(head=head, amendments=tally.amendments, newest=newest)
        try:
            await self.step(steps)
            if unsure:  # another history, perhaps: the log knows
                await self.look(unsure)
        except Error as error:
            logger.warning("rooms: %s", error.reason)
            for channel, (head, tally) in news.items():
                self._news.setdefault(channel, (head, tally))
            if not self._due:
                self._due = True
                self._later(AGAIN_AFTER)

    async def look(self, channels: list[str] | None = None) -> None:
        """Read how far the rooms that are watched reach, or these of them: nobody may have been told."""
        await self.step(await self._counts.of_all(self.watched if channels is None else channels))

    async def step(self, counts: Mapping[str, Count]) -> None:
        """The rooms are as far as that, or farther: tell who watches."""
        async with self._stepping:
            steps = {
                channel: (at, count)
                for channel, count in counts.items()
                if channel in self._watchers and ((at := self._at.get(channel)) is None or _differs(at, count))
            }
            amended = {
                channel: (at.head.offset, count.head.offset)
                for channel, (at, count) in steps.items()
                if at is not None and at.head.epoch == count.head.epoch and at.amendments < count.amendments
            }
            deleted = await self._counts.erased_by(amended)
            for channel, (at, count) in steps.items():
                watchers = self._watchers.get(channel)
                if not watchers:
                    continue
                self._at[channel] = count
                if at is None:
                    continue
                if at.head.epoch != count.head.epoch:
                    for watcher in tuple(watchers):
                        watcher.restarted(channel)
                    continue
                self._tell(watchers, channel, count, deleted.get(channel, []))

    def _tell(self, watchers: set[Watcher], channel: str, count: Count, deleted: list[int]) -> None:
        push = ActivityPush(channel, str(count.head), count.messages, count.newest_cursor)
        if deleted:
            push.deleted = sorted(set(deleted))
        frames: dict[Codec, bytes] = {}
        for watcher in tuple(watchers):
            codec = watcher.codec
            if codec not in frames:
                frames[codec] = codec.frame(push)
            watcher.active(channel, frames[codec])


def _differs(at: Count, count: Count) -> bool:
    """Whether that is a step forward, or into another history."""
    return at.head.epoch != count.head.epoch or at.head.offset < count.head.offset
