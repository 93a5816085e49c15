"""Where a consumer begins in a channel: written down with the channel's first message for it, so that what retention
takes after that is a gap."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from itertools import islice
from typing import Final

from server.consumers.states import States
from server.consumers.work import Works
from server.core.cursors import Position
from server.core.errors import Error
from server.core.tasks import Keeper
from server.log.survey import Survey

logger = logging.getLogger(__name__)

TOGETHER: Final = 100
KNOWN: Final = 20_000
"""Channels of which it is remembered that there is a cursor; and that may wait for one."""
AGAIN: Final = 1.0


async def beginning(survey: Survey, channel: str, head: Position, since: int) -> Position:
    """Where a consumer begins in a channel in which it has no cursor; `since`: see `Status`. `unavailable` without
    MongoDB."""
    offset = await survey.before(channel, since) if since and head.offset > 1 else 0
    return head if offset is None else Position(head.epoch, offset)


async def beginnings(survey: Survey, heads: Mapping[str, Position], since: int) -> dict[str, Position]:
    """The same of many, some at a time."""
    found: dict[str, Position] = {}
    channels = iter(heads.items())
    while some := list(islice(channels, TOGETHER)):
        places = await asyncio.gather(*(beginning(survey, channel, head, since) for channel, head in some))
        found.update((channel, place) for (channel, _), place in zip(some, places, strict=True))
    return found


class Beginnings:
    """Of one consumer whose workers fetch: where a channel's messages are pushed, its cursor is read anyhow."""

    def __init__(self, name: str, works: Works, survey: Survey, states: States, keeper: Keeper) -> None:
        self._name = name
        self._works = works
        self._survey = survey
        self._states = states
        self._keeper = keeper
        self._known: set[str] = set()
        self._wanted: dict[str, Position] = {}
        self._writing: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return not self._wanted

    def note(self, channel: str, head: Position) -> None:
        """The channel reaches `head`: see to it that there is a cursor. One node does it for each channel."""
        if channel not in self._known and len(self._wanted) < KNOWN:
            self._wanted[channel] = head
            if self._writing is None or self._writing.done():
                self._writing = self._keeper.spawn(f"consumer {self._name}", self._write())

    def forget(self) -> None:
        self._known.clear()

    async def find(self, channel: str, head: Position) -> Position:
        """Where it is, of a channel without a cursor. `unavailable` without MongoDB."""
        return await beginning(self._survey, channel, head, self._states[self._name].since)

    async def _write(self) -> None:
        while self._wanted:
            some = dict(islice(self._wanted.items(), TOGETHER))
            try:
                there = await self._works.load(some)
                new = {channel: head for channel, head in some.items() if channel not in there}
                if new:
                    since = self._states[self._name].since
                    await self._works.begin(await beginnings(self._survey, new, since))
            except Error as error:
                logger.warning("consumer %s: %s", self._name, error.reason)
                await asyncio.sleep(AGAIN)
                continue
            for channel in some:
                del self._wanted[channel]
            if len(self._known) > KNOWN:
                self._known.clear()
            self._known.update(some)
