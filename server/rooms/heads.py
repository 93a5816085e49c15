"""How far the rooms reach that somebody here watches: it follows the heads that every node announces once a second, and
tells each step to all who watch, in the same bytes for everybody.

A step is taken in one go: what has been told of a channel is always what `at` says. So a row that was read for the same
head as that can be told at that moment, and nothing of the step before or behind it is missing or counted twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from msgspec import UNSET

from server.core.cursors import Position, Tally
from server.core.errors import Error
from server.core.tasks import Keeper
from server.log.counts import Count, Counts
from server.log.mentions import EVERYBODY, Mention, Mentions
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

    @property
    def user(self) -> str: ...

    def active(self, channel: str, frame: bytes, mentioned: Mapping[str, Sequence[int]], erased: bool) -> None:
        """Something has come in a room: a frame of `codec`. `mentioned`: who, or `*`, and in which messages; `erased`:
        whether anything was."""

    def restarted(self, channel: str) -> None:
        """The room has another history now."""


class Heads:
    def __init__(self, keeper: Keeper, counts: Counts, mentions: Mentions) -> None:
        self._keeper = keeper
        self._counts = counts
        self._mentions = mentions
        self._watchers: dict[str, set[Watcher]] = {}
        self._at: dict[str, Count] = {}
        """What the watchers have been told of each channel; nothing of those that nobody watches."""
        self._news: dict[str, tuple[Position, Tally]] = {}
        self._looked: dict[str, int] = {}
        """Up to which offset they have been told who is mentioned. A node says so of what it has stored itself, so it
        may have to be told when the watchers know already that there is something."""
        self._mentioned: set[str] = set()
        """Channels in which somebody may be mentioned behind that."""
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
                self._looked.pop(channel, None)
                self._mentioned.discard(channel)

    # --- what is new --------------------------------------------------------------------------------------------------

    def note(self, channel: str, head: Position, tally: Tally, mentions: bool) -> None:
        """Somebody announces that the channel reaches `head`. `mentions`: and may mention somebody in what is new."""
        if channel not in self._watchers:
            return
        at = self._at.get(channel)
        known = at is not None and at.head.epoch == head.epoch and at.head.offset >= head.offset
        if mentions:  # perhaps in what is told already, because another node was quicker to say so
            self._mentioned.add(channel)
        elif known:
            return
        news = self._news.get(channel)
        if not known and (news is None or news[0].epoch != head.epoch or news[0].offset < head.offset):
            self._news[channel] = head, tally
        if not self._due:
            self._due = True
            self._later(GATHER)

    def _later(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, lambda: self._keeper.spawn("rooms", self._tell_news()))

    async def _tell_news(self) -> None:
        self._due = False
        news, self._news = self._news, {}
        steps = {channel: at for channel in self._mentioned if (at := self._at.get(channel)) is not None}
        unsure: list[str] = []
        for channel, (head, tally) in news.items():
            at = self._at.get(channel)
            if at is None or at.head.epoch != head.epoch:
                unsure.append(channel)
                continue
            newest = tally.newest if tally.amendments else head.offset
            steps[channel] = at._replace(head=head, amendments=tally.amendments, newest=newest)
        try:
            await self.step(steps, told=True)
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

    async def step(self, counts: Mapping[str, Count], told: bool = False) -> None:
        """The rooms are as far as that, or farther: tell who watches. `told`: who has said so has also said where
        somebody may be mentioned."""
        async with self._stepping:
            steps: dict[str, tuple[Count | None, Count]] = {}
            for channel, count in counts.items():
                at = self._at.get(channel)
                if channel not in self._watchers:
                    continue
                if at is None or _differs(at, count):
                    steps[channel] = at, count
                elif channel in self._mentioned:
                    steps[channel] = at, at
            new = {
                channel: (self._looked[channel], count.head.offset)
                for channel, (at, count) in steps.items()
                if at is not None and at.head.epoch == count.head.epoch
            }
            amended = {
                channel: (at.head.offset, count.head.offset)
                for channel, (at, count) in steps.items()
                if at is not None and at.head.epoch == count.head.epoch and at.amendments < count.amendments
            }
            deleted = await self._counts.erased_by(amended)
            noted = self._mentioned & new.keys()
            self._mentioned -= noted
            looked = noted if told else new.keys()
            try:
                mentions = await self._mentions.between(
                    {channel: new[channel] for channel in looked},
                    [channel for channel in looked if steps[channel][1].amendments],
                )
            except Error:
                self._mentioned |= noted & self._watchers.keys()
                raise
            for channel, (at, count) in steps.items():
                watchers = self._watchers.get(channel)
                if not watchers:
                    continue
                self._at[channel] = count
                if channel in looked or channel not in new:
                    self._looked[channel] = count.head.offset
                else:
                    self._looked.setdefault(channel, new[channel][0])
                if at is None:
                    continue
                if at.head.epoch != count.head.epoch:
                    for watcher in tuple(watchers):
                        watcher.restarted(channel)
                    continue
                if at is not count or channel in mentions:
                    self._tell(watchers, channel, count, deleted.get(channel, []), mentions.get(channel, []))

    def _tell(
        self, watchers: set[Watcher], channel: str, count: Count, deleted: list[int], mentions: Sequence[Mention]
    ) -> None:
        push = ActivityPush(channel, str(count.head), count.messages, count.newest_cursor)
        if deleted:
            push.deleted = sorted(set(deleted))
        mentioned: dict[str, list[int]] = {}
        if mentions:
            mentions = [one for one in mentions if one.offset not in deleted]
            mentioned, by = _mentioned(mentions, {watcher.user for watcher in watchers})
            push.mentioned = mentioned or UNSET
            push.by = by or UNSET
        frames: dict[Codec, bytes] = {}
        for watcher in tuple(watchers):
            codec = watcher.codec
            if codec not in frames:
                frames[codec] = codec.frame(push)
            watcher.active(channel, frames[codec], mentioned, bool(deleted))


def _mentioned(mentions: Sequence[Mention], users: set[str]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Who of those that watch is mentioned where; and who of them has written what mentions everybody."""
    mentioned: dict[str, list[int]] = {}
    by: dict[str, list[int]] = {}
    for offset, writer, names in mentions:
        for name in {*names} & {*users, EVERYBODY} - {writer}:
            mentioned.setdefault(name, []).append(offset)
        if EVERYBODY in names and writer in users:
            by.setdefault(writer, []).append(offset)
    return mentioned, by


def _differs(at: Count, count: Count) -> bool:
    """Whether that is a step forward, or into another history."""
    return at.head.epoch != count.head.epoch or at.head.offset < count.head.offset
